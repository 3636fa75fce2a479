//! What happened, for the invariants of a test: the calls the agent made, the facts of the runtime, and the
//! calls that no sane agent makes.

use jiff::Timestamp;
use rubelet_cri::CriErrorKind;

use super::op::Op;

/// Whom a call or a fact is about. Fields that do not apply are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// UID of the pod.
    pub pod_uid: String,
    /// Name of the pod.
    pub pod_name: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the container; empty for a sandbox.
    pub container: String,
    /// Attempt of the container or the sandbox.
    pub attempt: u32,
    /// Runtime ID, or the image.
    pub id: String,
}

/// One call that acts on the world ([`Op::acts`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number among all calls, reads included.
    pub n: u64,
    /// The operation.
    pub op: Op,
    /// Whom it is about.
    pub subject: Subject,
    /// The grace a StopContainer gave, in seconds; the timeout of an ExecSync.
    pub grace: Option<i64>,
    /// The command of an ExecSync.
    pub command: Vec<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Whether the runtime carried it out, whatever the answer said.
    pub applied: bool,
    /// How it ended for the agent.
    pub outcome: Outcome,
    /// What the command of an ExecSync exited with, if it did and the agent was told.
    pub exit_code: Option<i32>,
    /// Its beginning in the one order of all calls' beginnings and ends and all facts.
    pub began_seq: u64,
    /// Its end in that order.
    pub ended_seq: Option<u64>,
}

/// How a call ended for the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did not yet.
    Open,
    /// The agent did not wait for it any more.
    GivenUp,
    /// With an answer.
    Answered,
    /// With an error.
    Failed(CriErrorKind),
}

/// Something that became true in the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// When.
    pub at: Timestamp,
    /// Of whom.
    pub subject: Subject,
    /// What.
    pub what: FactKind,
    /// Its place in the one order of all calls' beginnings and ends and all facts.
    pub seq: u64,
}

/// Kinds of facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactKind {
    /// A sandbox runs.
    SandboxReady,
    /// A sandbox no longer runs.
    SandboxStopped,
    /// A sandbox is gone.
    SandboxRemoved,
    /// A container exists.
    Created,
    /// A container runs.
    Started,
    /// A container ended.
    Exited {
        /// With this code.
        code: i32,
        /// For this cause.
        cause: ExitCause,
    },
    /// A container is gone.
    Removed,
}

/// Why a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitCause {
    /// By itself, as scripted.
    Itself,
    /// It could not be started.
    StartFailed,
    /// On the stop signal of a StopContainer.
    Terminated,
    /// SIGKILL of a StopContainer whose grace ran out.
    Killed,
    /// Its sandbox was stopped or removed by the agent.
    SandboxStopped,
    /// It was removed while running.
    Removed,
    /// The test did it.
    Injected,
}

impl ExitCause {
    /// Whether the agent did it.
    pub fn by_agent(self) -> bool {
        matches!(self, Self::Terminated | Self::Killed | Self::SandboxStopped | Self::Removed)
    }
}

/// A call that no sane agent makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misuse {
    /// When.
    pub at: Timestamp,
    /// Whom it was about.
    pub subject: Subject,
    /// What.
    pub what: MisuseKind,
}

/// Kinds of misuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MisuseKind {
    /// StartContainer on a container that had been started.
    StartedTwice,
    /// A second instance of a container runs beside the first.
    RunningTwice,
    /// A second ready sandbox of one pod.
    TwoSandboxes,
    /// CreateContainer in a sandbox that the agent itself had stopped or removed, or that never was.
    CreatedInDeadSandbox,
    /// RemoveContainer on a running container.
    RemovedRunning,
    /// RemovePodSandbox on a sandbox that had not been stopped and holds running containers.
    RemovedLiveSandbox,
}
