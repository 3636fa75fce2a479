//! One container, from what Pleg remembers: for the OOM watch, which in turn corrects what Pleg reads. Asks the runtime
//! nothing.

use rubelet_core::ids::{ContainerId, PodUid};
use rubelet_core::observed::ObservedState;

use super::Pleg;
use crate::oom::OomWatch;

/// A container as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownContainer {
    /// Its pod.
    pub uid: PodUid,
    /// `namespace/name` of its pod.
    pub pod: String,
    /// Its name in the pod.
    pub name: String,
    /// Its state.
    pub state: ObservedState,
    /// Why it ended, if it did.
    pub reason: String,
}

impl Pleg {
    /// From now on lets the watch correct why containers ended. There can be one; says whether this one was taken.
    pub fn set_oom_watch(&self, watch: OomWatch) -> bool {
        self.shared.oom.set(watch).is_ok()
    }

    /// The OOM watch, where there is one.
    pub fn oom_watch(&self) -> Option<&OomWatch> {
        self.shared.oom.get()
    }

    /// A container whose status was read; `None` when it was not, or is forgotten.
    pub fn container(&self, id: &ContainerId) -> Option<KnownContainer> {
        let state = self.state();
        let (uid, container) = state.containers.get(id)?;
        let (listed, _) = state.seen.get(uid)?;
        Some(KnownContainer {
            uid: uid.clone(),
            pod: format!("{}/{}", listed.namespace, listed.name),
            name: container.name.clone(),
            state: container.state,
            reason: container.reason.clone(),
        })
    }
}
