//! What can be wrong with a volume of a driver, in the words that users of the kubelet search for.

use std::fmt;

/// The step at which it stopped, by upstream's name in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CsiStep {
    /// The driver signed up.
    Register,
    /// Nobody has attached it to this node yet.
    WaitForAttach,
    /// The same of a block device.
    WaitForAttachDevice,
    /// Staging.
    MountDevice,
    /// Publishing.
    SetUp,
    /// Growing while it is mounted.
    Expand,
    /// Growing under a pod that runs.
    ExpandInUse,
    /// Staging of a block device.
    SetUpDevice,
    /// Publishing of a block device.
    MapDevice,
    /// Unpublishing.
    TearDown,
    /// Unpublishing of a block device.
    UnmapDevice,
    /// Unstaging.
    UnmountDevice,
}

impl CsiStep {
    /// How events begin, up to `for volume`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Register => "RegisterPlugin failed",
            Self::WaitForAttach => "MountVolume.WaitForAttach failed",
            Self::WaitForAttachDevice => "MapVolume.WaitForAttach failed",
            Self::MountDevice => "MountVolume.MountDevice failed",
            Self::SetUp => "MountVolume.SetUp failed",
            Self::Expand => "MountVolume.Setup failed while expanding volume",
            Self::ExpandInUse => "NodeExpandVolume.NodeExpandVolume failed",
            Self::SetUpDevice => "MapVolume.SetUpDevice failed",
            Self::MapDevice => "MapVolume.MapPodDevice failed",
            Self::TearDown => "UnmountVolume.TearDown failed",
            Self::UnmapDevice => "UnmapVolume.UnmapPodDevice failed",
            Self::UnmountDevice => "UnmountDevice failed",
        }
    }

    /// The reason of the event.
    pub fn reason(self) -> &'static str {
        match self {
            Self::WaitForAttachDevice | Self::SetUpDevice | Self::MapDevice => "FailedMapVolume",
            Self::TearDown | Self::UnmapDevice | Self::UnmountDevice => "FailedUnmount",
            Self::ExpandInUse => "VolumeResizeFailed",
            _ => "FailedMount",
        }
    }
}

/// A volume of a driver that could not be set up or taken down, or a driver that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct CsiProblem {
    /// Where it stopped.
    pub step: CsiStep,
    /// Why.
    pub cause: CsiCause,
}

impl CsiProblem {
    pub(super) fn new(step: CsiStep, cause: CsiCause) -> Self {
        Self { step, cause }
    }
}

/// Why it stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsiCause {
    /// The driver is not there (any more).
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    NotRegistered(String),
    /// A driver that cannot be taken.
    #[error("{0}")]
    Refused(String),
    /// The API server has not told what has to be known, or says that it cannot be.
    #[error("{0}")]
    Api(String),
    /// It is not attached to this node.
    #[error("{0}")]
    NotAttached(String),
    /// The node has as many volumes of the driver as it takes: the pod has to go elsewhere
    /// (`VolumeAttachmentLimitExceeded`).
    #[error("{0}")]
    Exhausted(String),
    /// The driver does not offer what is asked for.
    #[error("{0}")]
    NotSupported(String),
    /// Another pod has it for itself.
    #[error("volume uses the ReadWriteOncePod access mode and is already in use by another pod")]
    InUse,
    /// The driver said no, or nothing.
    #[error("{text}")]
    Call {
        /// Its words, as gRPC gives them.
        text: String,
        /// It is known that nothing goes on any more.
        finished: bool,
    },
    /// The driver said that it was done, and it is not.
    #[error("{0}")]
    Untrue(String),
    /// The file system of the node did not do it.
    #[error("{0}")]
    Node(String),
    /// Its name cannot be a directory's.
    #[error("volume name {0:?} is no file name")]
    Name(String),
    /// The agent's own mistake.
    #[error("the operation was lost: a bug of the agent")]
    Lost,
}

impl CsiCause {
    /// Whether finding it out cost the driver or the node something, so that it is not found out again at once.
    pub(super) fn costs_a_call(&self) -> bool {
        matches!(self, Self::Call { .. } | Self::Untrue(_) | Self::Node(_) | Self::Lost)
    }

    /// Whether it is known that what was asked for does not go on (upstream `IsOperationFinishedError`).
    pub(super) fn is_finished(&self) -> bool {
        matches!(self, Self::Call { finished: true, .. })
    }
}

/// Volumes of a pod that could not be taken down, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsiProblems(pub Vec<(String, CsiProblem)>);

impl std::error::Error for CsiProblems {}

impl fmt::Display for CsiProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (volume, problem)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{} for volume {volume:?} : {problem}", problem.step.name())?;
        }
        Ok(())
    }
}
