//! The plan for one pod: what has to be done to the runtime so that it holds what was asked for. A value;
//! `compute_pod_actions` makes it, the shell's executor carries it out.

use jiff::Timestamp;

use crate::ids::{ContainerId, SandboxId};
use crate::resize::ResizePlan;

/// Which list of the pod spec a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContainerKind {
    /// `spec.ephemeralContainers`.
    Ephemeral,
    /// `spec.initContainers`, restartable ones (sidecars) included.
    Init,
    /// `spec.containers`.
    App,
}

/// Why a container is killed. Decides its event, its grace and whether hooks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KillReason {
    /// Name or image differ from what it was created with.
    DefinitionChanged,
    /// The runtime does not know its state.
    UnknownState,
    /// Liveness probe failed.
    LivenessProbe,
    /// Startup probe failed.
    StartupProbe,
    /// The sandbox it lives in is gone or no longer right.
    SandboxChanged,
    /// RestartAllContainers fired: killed without grace, then removed with its logs kept.
    RestartAll,
    /// Its new resources take effect with a new instance only (`resizePolicy`).
    Resize,
    /// Its postStart hook failed.
    PostStartHook,
    /// The pod as a whole ends.
    PodEnds,
}

/// One container to kill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KillContainer {
    /// Runtime ID.
    pub id: ContainerId,
    /// Container name.
    pub name: String,
    /// Why.
    pub reason: KillReason,
    /// What the event says besides "Stopping container …"; empty for nothing.
    pub message: String,
}

/// One container to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartContainer {
    /// List it stands in.
    pub kind: ContainerKind,
    /// Index in that list.
    pub index: usize,
    /// Container name.
    pub name: String,
    /// End of the dead instance that this start replaces: the executor moves the crash-loop back-off to its
    /// next delay right before the start (`BackoffTable::next`). `None` for a first start.
    pub restart_since: Option<Timestamp>,
}

/// What is to be done to one pod now.
///
/// Order of execution: `kill_pod`, `kill`, `remove`, `prune`, `create_sandbox`, then `start` in its order. A
/// failed step ends the sync, except that a failed start of an ephemeral container, a sidecar or an app container
/// does not keep the later ones from being tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodPlan {
    /// Kill every container and sandbox first.
    pub kill_pod: bool,
    /// Create a sandbox with this attempt number.
    pub create_sandbox: Option<u32>,
    /// The sandbox to use when none is created.
    pub sandbox: Option<SandboxId>,
    /// Containers to kill: in parallel, but one after another in this order under RestartAllContainers
    /// (apps, then init containers).
    pub kill: Vec<KillContainer>,
    /// Dead instances to remove from the runtime with their logs kept (init containers that are rerun, all of
    /// them under RestartAllContainers).
    pub remove: Vec<ContainerId>,
    /// Instances that say nothing any more, to be removed with their logs: older dead ones of init containers,
    /// of which only the last execution is kept, and those that were created and never started. Nothing depends
    /// on it; a failure is repaired by the next sync.
    pub prune: Vec<ContainerId>,
    /// Containers to start, in this order.
    pub start: Vec<StartContainer>,
    /// Containers that would be started but wait for their back-off: name and the earliest time.
    pub backing_off: Vec<BackingOff>,
    /// Every container is finished for good: the pod ends by itself.
    pub pod_done: bool,
    /// RestartAllContainers is under way: the condition AllContainersRestarting is true.
    pub restarting_all: bool,
    /// Resources that change in place: after the kills, before the starts.
    pub resize: ResizePlan,
}

/// A container that waits for its crash-loop back-off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingOff {
    /// List it stands in.
    pub kind: ContainerKind,
    /// Container name.
    pub name: String,
    /// Not before this time.
    pub until: Timestamp,
    /// Length of the current back-off.
    pub delay: std::time::Duration,
}

impl PodPlan {
    /// Whether nothing is to be done now.
    pub fn is_empty(&self) -> bool {
        !self.kill_pod
            && self.create_sandbox.is_none()
            && self.kill.is_empty()
            && self.remove.is_empty()
            && self.prune.is_empty()
            && self.start.is_empty()
            && !self.resize.in_progress()
    }
}
