//! What the runtime was seen to hold of a pod. Written by Pleg only; everyone else reads snapshots.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::ids::{ContainerId, PodUid, SandboxId};
use crate::resize::ActualResources;

/// Everything the runtime holds of one pod UID at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedPod {
    /// The pod's UID, from the runtime's labels.
    pub uid: PodUid,
    /// The pod's name, from the runtime's metadata.
    pub name: String,
    /// The pod's namespace, from the runtime's metadata.
    pub namespace: String,
    /// All sandboxes, newest (highest attempt, then creation) first.
    pub sandboxes: Vec<ObservedSandbox>,
    /// All containers of all sandboxes, newest creation first.
    pub containers: Vec<ObservedContainer>,
}

/// One pod sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSandbox {
    /// Runtime ID.
    pub id: SandboxId,
    /// CRI attempt number.
    pub attempt: u32,
    /// When the runtime created it.
    pub created_at: Timestamp,
    /// CRI SANDBOX_READY.
    pub ready: bool,
    /// Pod IPs as the runtime reports them, primary first; empty for host network.
    pub ips: Vec<String>,
    /// Whether the sandbox shares the node's network namespace.
    pub host_network: bool,
    /// Annotations the sandbox was created with (`kubernetes.io/config.source` and others).
    pub annotations: BTreeMap<String, String>,
    /// Runtime handler it was created with; empty is the default one.
    pub runtime_handler: String,
}

/// State of a container as CRI knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObservedState {
    /// Created and not yet started.
    Created,
    /// Running.
    Running,
    /// Ended, with an exit code.
    Exited,
    /// The runtime does not know.
    Unknown,
}

/// One container instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedContainer {
    /// Runtime ID.
    pub id: ContainerId,
    /// Container name from the pod spec.
    pub name: String,
    /// The sandbox it lives in.
    pub sandbox_id: SandboxId,
    /// CRI attempt number; equals the restart count of this instance.
    pub attempt: u32,
    /// State.
    pub state: ObservedState,
    /// When the runtime created it.
    pub created_at: Timestamp,
    /// When it was started, if it was.
    pub started_at: Option<Timestamp>,
    /// When it ended, if it did.
    pub finished_at: Option<Timestamp>,
    /// Exit code; meaningful when `Exited`.
    pub exit_code: i32,
    /// The runtime's reason (`Completed`, `Error`, `OOMKilled`, `StartError` …).
    pub reason: String,
    /// The runtime's message.
    pub message: String,
    /// Image name it was created from (what status reports as `image`).
    pub image: String,
    /// Image reference or digest (what status reports as `imageID`).
    pub image_ref: String,
    /// Runtime's image ID, when it tells.
    pub image_id: String,
    /// What the agent wrote on the container when it created it.
    pub facts: ContainerFacts,
    /// User the first process runs as, when the runtime tells.
    pub user: Option<LinuxUser>,
    /// CPU and memory it has, when the runtime tells.
    pub resources: Option<ActualResources>,
    /// Mounts as the runtime reports them: (container path, host path, read-only, recursive read-only).
    pub mounts: Vec<ObservedMount>,
    /// Path of the log file on the node.
    pub log_path: String,
    /// Content of the termination message for an exited container, already read and truncated by the observer.
    pub termination_message: Option<String>,
}

/// A mount the runtime reports for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedMount {
    /// Path in the container.
    pub container_path: String,
    /// Path on the node.
    pub host_path: String,
    /// Mounted read-only.
    pub read_only: bool,
    /// Recursively read-only.
    pub recursive_read_only: bool,
}

/// User identity of a container's first process, from CRI `ContainerUser`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinuxUser {
    /// UID.
    pub uid: i64,
    /// Primary GID.
    pub gid: i64,
    /// Supplemental GIDs.
    pub supplemental_groups: Vec<i64>,
}

/// What the labels and annotations of a container say (upstream `kuberuntime/labels.go`): all that is
/// needed to judge or kill it without its pod spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFacts {
    /// `io.kubernetes.container.hash`, parsed from hexadecimal.
    pub hash: Option<u32>,
    /// `io.kubernetes.container.restartCount`.
    pub restart_count: u32,
    /// `io.kubernetes.container.terminationMessagePath`.
    pub termination_message_path: String,
    /// `io.kubernetes.container.terminationMessagePolicy`.
    pub termination_message_policy: String,
    /// `io.kubernetes.container.preStopHandler`: a `LifecycleHandler` as JSON.
    pub pre_stop_handler: Option<String>,
    /// `io.kubernetes.container.ports`: a list of `ContainerPort` as JSON.
    pub ports: Option<String>,
    /// `io.kubernetes.pod.deletionGracePeriod`, seconds.
    pub pod_deletion_grace_period: Option<i64>,
    /// `io.kubernetes.pod.terminationGracePeriod`, seconds.
    pub pod_termination_grace_period: Option<i64>,
}

impl ObservedPod {
    /// A pod of which the runtime holds nothing.
    pub fn absent(uid: PodUid) -> Self {
        Self { uid, name: String::new(), namespace: String::new(), sandboxes: vec![], containers: vec![] }
    }
    /// The newest instance of a container, by attempt and then by creation.
    pub fn newest_container(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().find(|c| c.name == name)
    }
    /// All instances of a container, newest first.
    pub fn instances<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ObservedContainer> + 'a {
        self.containers.iter().filter(move |c| c.name == name)
    }
    /// Whether any container may still have a process: running, or in a state the runtime does not know.
    pub fn may_run(&self) -> bool {
        self.containers.iter().any(|c| matches!(c.state, ObservedState::Running | ObservedState::Unknown))
    }
    /// Whether any sandbox is ready.
    pub fn has_ready_sandbox(&self) -> bool {
        self.sandboxes.iter().any(|s| s.ready)
    }
    /// Puts sandboxes and containers into the order the fields promise. The observer calls it once.
    pub fn sort(&mut self) {
        self.sandboxes
            .sort_by(|a, b| (b.attempt, b.created_at, &b.id).cmp(&(a.attempt, a.created_at, &a.id)));
        self.containers
            .sort_by(|a, b| (b.created_at, b.attempt, &b.id).cmp(&(a.created_at, a.attempt, &a.id)));
    }
}
