//! What is alive, from what Pleg remembers: for whoever tells what pods use. Asks the runtime nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rubelet_core::ids::{ContainerId, PodUid, SandboxId};
use rubelet_core::observed::ObservedState;

use super::Pleg;

/// A sandbox that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliveSandbox {
    /// Runtime ID.
    pub id: SandboxId,
    /// When the runtime made it, once its status was read.
    pub created_at: Option<Timestamp>,
}

/// A container that runs and whose status was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliveContainer {
    /// Runtime ID.
    pub id: ContainerId,
    /// Its name in the pod.
    pub name: String,
    /// CRI attempt number.
    pub attempt: u32,
    /// Its image, as the runtime names it.
    pub image: String,
    /// When it was started, if that is known.
    pub started_at: Option<Timestamp>,
}

/// What is alive of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlivePod {
    /// Its newest ready sandbox.
    pub sandbox: Option<AliveSandbox>,
    /// Its running containers, by name.
    pub containers: Vec<AliveContainer>,
}

impl Pleg {
    /// Every pod of which something is alive, as it was last seen by list or observation.
    pub fn alive(&self) -> BTreeMap<PodUid, AlivePod> {
        let state = self.state();
        let mut pods = BTreeMap::new();
        for (uid, (listed, _)) in &state.seen {
            let ready = listed.sandboxes.iter().filter(|(_, ready)| **ready).map(|(id, _)| {
                let created_at = state.sandboxes.get(id).map(|(_, sandbox)| sandbox.created_at);
                AliveSandbox { id: id.clone(), created_at }
            });
            let running = listed.containers.iter().filter(|(_, container)| {
                matches!(container.state, ObservedState::Running | ObservedState::Unknown)
            });
            let mut containers: Vec<AliveContainer> = running
                .filter_map(|(id, _)| {
                    let (_, known) = state.containers.get(id)?;
                    Some(AliveContainer {
                        id: id.clone(),
                        name: known.name.clone(),
                        attempt: known.attempt,
                        image: known.image.clone(),
                        started_at: known.started_at,
                    })
                })
                .collect();
            containers.sort_by(|a, b| (&a.name, b.attempt).cmp(&(&b.name, a.attempt)));
            // Of several instances that seem to run, the newest does.
            containers.dedup_by(|later, first| later.name == first.name);
            let sandbox = ready.max_by_key(|sandbox| sandbox.created_at);
            if sandbox.is_some() || !containers.is_empty() {
                pods.insert(uid.clone(), AlivePod { sandbox, containers });
            }
        }
        pods
    }
}
