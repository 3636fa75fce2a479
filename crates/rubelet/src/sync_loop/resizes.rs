//! Which resizes wait, and when they are asked again. What is decided is `rubelet_core::resize`'s; what is allocated is
//! handed to the pod's worker, which carries it out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rubelet_core::Pod;
use rubelet_core::ids::{PodKey, PodUid};
use rubelet_core::resize::{
    PendingPod, PendingResize, ResizeFacts, ResizeVerdict, compare_pending, counted_pod, judge, message,
    pending_event, pending_of, requested_changes,
};
use tokio::time::Instant;
use tracing::info;

use super::{SyncLoop, Worker};
use crate::events::EventSubject;

/// How long until resizes are asked again while sources of pods are still silent.
const FIRST_RETRY: Duration = Duration::from_secs(30);
/// How long until they are asked again when nothing calls for it.
const RETRY: Duration = Duration::from_secs(180);

/// Pods whose desired resources are not allocated.
#[derive(Default)]
pub(super) struct Resizes {
    waiting: BTreeMap<PodUid, ()>,
    /// They are to be asked at the end of this turn, and why: the label of a metric.
    due: Option<&'static str>,
    again: Option<Instant>,
}

impl Resizes {
    /// Resizes are worth another look.
    pub(super) fn hint(&mut self, trigger: &'static str) {
        if !self.waiting.is_empty() {
            self.due.get_or_insert(trigger);
        }
    }

    /// When they are asked again at the latest.
    pub(super) fn again(&self) -> Option<Instant> {
        self.again.filter(|_| !self.waiting.is_empty())
    }

    /// The time has come.
    pub(super) fn time_passed(&mut self) {
        if self.again.is_some_and(|again| again <= Instant::now()) {
            self.hint("periodic_retry");
        }
    }

    fn forget(&mut self, uid: &PodUid) {
        self.waiting.remove(uid);
    }
}

impl SyncLoop {
    /// The pod as its worker is to get it: with what is allocated. A pod that is new gets what it asks for.
    pub(super) fn hand_over(&mut self, uid: &PodUid, pod: &Arc<Pod>) -> Arc<Pod> {
        let allocations = &self.services.allocations;
        let handed = allocations.handed(uid, pod);
        if Arc::ptr_eq(&handed, pod) {
            allocations.allocate(uid, pod);
            allocations.tell_pending(uid, None);
            self.resizes.forget(uid);
        } else {
            // An agent before this one may have told of it.
            let told = self.services.table.get(uid).map(|row| row.status);
            let told = told.as_deref().or(pod.status.as_ref()).and_then(pending_of);
            if allocations.pending(uid).is_none() && told.is_some() {
                allocations.tell_pending(uid, told);
            }
            self.resizes.waiting.insert(uid.clone(), ());
        }
        handed
    }

    /// A worker's pod has a new spec: what it gets of it now. Another wish for resources is asked at the end of this turn.
    pub(super) fn changed_spec(&mut self, uid: &PodUid, before: Option<&Pod>, pod: &Arc<Pod>) -> Arc<Pod> {
        let gates = self.services.allocations.settings().gates;
        for change in before.map(|before| requested_changes(before, pod, gates)).unwrap_or_default() {
            let labels = [change.resource, change.requirement, change.operation];
            self.services.metrics.pods.resizes_requested.with(labels).inc();
        }
        let handed = self.hand_over(uid, pod);
        self.resizes.hint("pod_updated");
        handed
    }

    /// A pod is gone.
    pub(super) fn forget_allocation(&mut self, uid: &PodUid, terminated: bool) {
        self.resizes.forget(uid);
        self.resizes.hint(if terminated { "pod_terminated" } else { "pods_removed" });
    }

    /// Asks for what waits, if there was a reason to.
    pub(super) fn retry_resizes(&mut self, complete: bool) {
        let Some(trigger) = self.resizes.due.take() else {
            if !self.resizes.waiting.is_empty() && self.resizes.again.is_none() {
                self.resizes.again = Some(Instant::now() + RETRY);
            }
            return;
        };
        // What other pods there are is not known yet.
        if !complete {
            self.resizes.again = Some(Instant::now() + FIRST_RETRY);
            return;
        }
        self.resizes.again = Some(Instant::now() + RETRY);
        let mut waiting: Vec<(PodUid, Arc<Pod>, Arc<Pod>)> = vec![];
        self.resizes.waiting.retain(|uid, ()| {
            let Some(worker) = self.workers.get(uid) else { return false };
            let (Some(desired), Some(handed)) = (&worker.pod, &worker.handed) else { return false };
            if worker.removing || desired.metadata.deletion_timestamp.is_some() {
                return false;
            }
            waiting.push((uid.clone(), desired.clone(), handed.clone()));
            true
        });
        let since = |uid: &PodUid| {
            let status = self.services.table.get(uid)?.status;
            let conditions = status.conditions.as_ref()?;
            let pending = conditions.iter().find(|c| c.type_ == rubelet_core::resize::PENDING)?;
            pending.last_transition_time.as_ref().map(|at| at.0)
        };
        let mut waiting: Vec<_> =
            waiting.into_iter().map(|(uid, desired, handed)| (since(&uid), uid, desired, handed)).collect();
        waiting.sort_by(|a, b| {
            let of = |(since, _, desired, allocated): &'_ (_, PodUid, Arc<Pod>, Arc<Pod>)| {
                (desired.clone(), allocated.clone(), *since)
            };
            let (a, b) = (of(a), of(b));
            compare_pending(
                &PendingPod { desired: &a.0, allocated: &a.1, since: a.2 },
                &PendingPod { desired: &b.0, allocated: &b.1, since: b.2 },
            )
        });
        for (_, uid, desired, handed) in waiting {
            self.try_resize(trigger, &uid, &desired, &handed);
        }
    }

    fn try_resize(&mut self, trigger: &'static str, uid: &PodUid, desired: &Arc<Pod>, handed: &Arc<Pod>) {
        let generation = desired.metadata.generation;
        let services = self.services.clone();
        let allocations = &services.allocations;
        let subject =
            EventSubject { uid: uid.clone(), name: PodKey::of(desired).to_string(), container: None };
        let before = allocations.pending(uid);
        // The node has said that it never can; only another spec is looked at again.
        if before.as_ref().is_some_and(|before| before.infeasible && before.generation == generation) {
            return;
        }
        let verdict = self.judge_resize(uid, desired, handed);
        let pending = match verdict {
            ResizeVerdict::Accepted => {
                info!(pod = subject.name, "its resize is allocated");
                allocations.allocate(uid, desired);
                allocations.tell_accepted(uid, generation);
                let text = message("Pod resize started", desired, generation, "");
                services.events.normal(&subject, "ResizeStarted", text);
                if before.is_some_and(|before| !before.infeasible) {
                    services.metrics.pods.resizes_accepted_late.with([trigger]).inc();
                }
                self.resizes.forget(uid);
                if let Some(worker) = self.workers.get_mut(uid) {
                    worker.handed = Some(desired.clone());
                    worker.mailbox.update(desired.clone());
                }
                return;
            }
            ResizeVerdict::Deferred { message } => PendingResize { infeasible: false, message, generation },
            ResizeVerdict::Infeasible { message, detail } => {
                services.metrics.pods.resizes_infeasible.with([detail]).inc();
                PendingResize { infeasible: true, message, generation }
            }
        };
        let changed = before.as_ref() != Some(&pending);
        if allocations.tell_pending(uid, Some(pending.clone())) {
            let prefix = format!("Pod resize {}", pending.reason());
            let text = message(&prefix, desired, generation, &pending.message);
            services.events.warning(&subject, pending_event(&pending), text);
        }
        if changed && let Some(worker) = self.workers.get(uid) {
            worker.mailbox.poke();
        }
    }

    fn judge_resize(&self, uid: &PodUid, desired: &Pod, handed: &Pod) -> ResizeVerdict {
        let settings = self.services.allocations.settings();
        let facts = ResizeFacts {
            gates: settings.gates,
            static_cpus: settings.static_cpus,
            static_memory: settings.static_memory,
            resources: &self.services.node.resources,
        };
        let others: Vec<_> = self
            .workers
            .iter()
            .filter(|(other, worker)| *other != uid && !worker.removing)
            .filter_map(|(other, worker)| self.counted(other, worker))
            .collect();
        judge(desired, handed, others.iter().map(|pod| &**pod), &self.admission, &facts)
    }

    /// A pod as it counts against others: with what is allocated to it or, while that is more, what it still has.
    pub(super) fn counted(&self, uid: &PodUid, worker: &Worker) -> Option<Arc<Pod>> {
        let handed = worker.handed.clone()?;
        let actuated = self.services.allocations.actuated(uid);
        let more = actuated.and_then(|actuated| counted_pod(&handed, &actuated));
        Some(more.map_or(handed, Arc::new))
    }
}
