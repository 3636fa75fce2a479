//! One round of removing dead containers and sandboxes of pods that have ended.

use std::collections::BTreeMap;

use futures::future::join_all;
use rubelet_core::Pod;
use rubelet_core::container_gc::{DeadPlan, EndedPod, plan};
use rubelet_core::ids::{ContainerId, PodUid};
use rubelet_core::lifecycle::PodState;
use rubelet_core::observed::ObservedContainer;
use rubelet_cri::v1;
use tracing::{info, warn};

use super::{Freed, Shared};
use crate::pod_dirs;
use crate::table::PodRow;

/// Pods that are observed at the same time.
const AT_ONCE: usize = 4;

/// What goes, and whose it is.
#[derive(Default)]
pub(super) struct Dead {
    pub(super) containers: Vec<ContainerId>,
    plan: DeadPlan,
    logs: BTreeMap<ContainerId, (std::sync::Arc<Pod>, ObservedContainer)>,
    looked_at: Vec<PodUid>,
    problems: Vec<String>,
}

/// Whether it ended for the node's sake: nothing of it is kept then, as upstream.
fn was_evicted(row: &PodRow) -> bool {
    matches!(row.status.reason.as_deref(), Some("Evicted" | "Preempting"))
}

impl Shared {
    /// What goes: all that is dead when `everything`; else what the policy says of pods that have not been looked at
    /// since they ended.
    pub(super) async fn dead(&self, everything: bool) -> Dead {
        let settings = &self.parts.settings;
        let known = self.containers.lock().await.clone();
        let listing = self.parts.pleg.listing().borrow().clone();
        let Some(listing) = listing else { return Dead::default() };
        let ended = self.parts.table.snapshot().into_iter().filter(|(uid, row)| {
            let again = everything || settings.dead.in_all.is_some() || !known.contains(uid);
            matches!(row.state, PodState::Finished { .. }) && again && listing.pods.contains_key(uid)
        });
        let ended: Vec<(PodUid, PodRow)> = ended.collect();
        let (mut dead, mut pods) = (Dead::default(), Vec::new());
        for some in ended.chunks(AT_ONCE) {
            let observed = join_all(some.iter().map(|(uid, _)| self.parts.pleg.observe(uid))).await;
            for ((uid, row), observed) in some.iter().zip(observed) {
                match observed {
                    Ok(observed) => {
                        let of_pod = observed.containers.iter();
                        let logs = of_pod.map(|c| (c.id.clone(), (row.pod.clone(), c.clone())));
                        dead.logs.extend(logs);
                        dead.looked_at.push(uid.clone());
                        pods.push(EndedPod { observed, whole: everything || was_evicted(row) });
                    }
                    Err(error) => dead.problems.push(crate::logging::chain(&error)),
                }
            }
        }
        dead.plan = plan(&pods, &settings.dead, self.parts.clock.now());
        dead.containers = dead.plan.containers.clone();
        dead
    }

    /// One round.
    pub(super) async fn free_containers(&self, everything: bool) -> Freed {
        let mut dead = self.dead(everything).await;
        let mut freed = Freed { problems: std::mem::take(&mut dead.problems), ..Freed::default() };
        for id in &dead.plan.containers {
            let request = v1::RemoveContainerRequest { container_id: id.to_string() };
            match self.parts.runtime.remove_container(request).await {
                Ok(_) => freed.containers += 1,
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    freed.problems.push(format!("container {id}: {error}"));
                    continue;
                }
            }
            if let Some((pod, container)) = dead.logs.get(id) {
                let dirs = (&*self.parts.settings.pod_logs_dir, &*self.parts.settings.container_logs_dir);
                let removed = pod_dirs::remove_container_logs(&self.parts.fs, pod, container, dirs).await;
                if let Err(error) = removed {
                    warn!("{}", crate::logging::chain(&error));
                }
            }
        }
        for id in &dead.plan.sandboxes {
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_string() };
            match self.parts.runtime.remove_pod_sandbox(request).await {
                Ok(_) => freed.sandboxes += 1,
                Err(error) if error.is_not_found() => {}
                Err(error) => freed.problems.push(format!("sandbox {id}: {error}")),
            }
        }
        if freed.containers + freed.sandboxes > 0 {
            info!(
                containers = freed.containers,
                sandboxes = freed.sandboxes,
                "removed dead containers of pods that have ended"
            );
        }
        let mut known = self.containers.lock().await;
        if freed.problems.is_empty() {
            known.extend(dead.looked_at);
        }
        known.retain(|uid| self.parts.table.get(uid).is_some());
        freed
    }
}
