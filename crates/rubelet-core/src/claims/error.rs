//! Why a claimed volume is not mounted. Owns the texts of the events.

/// What keeps a claimed volume from its pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The claim or its volume is not there, or not ready.
    #[error("error processing PVC {claim}: {problem}")]
    Processing {
        /// Namespace and name of the claim.
        claim: String,
        /// What is wrong, in upstream's words.
        problem: String,
    },
    /// The claim of an `ephemeral` volume is somebody else's.
    #[error("PVC {claim} was not created for pod {pod} (pod is not owner)")]
    NotOwned {
        /// Namespace and name of the claim.
        claim: String,
        /// Namespace and name of the pod.
        pod: String,
    },
    /// Files are wanted of a block device, or the other way round.
    #[error("volume {volume} has volumeMode {mode}, but is specified in {field}")]
    Mode {
        /// The pod's name for the volume.
        volume: String,
        /// `Filesystem` or `Block`.
        mode: String,
        /// The container's field.
        field: &'static str,
    },
    /// This version cannot mount it.
    #[error("{problem}")]
    Unsupported {
        /// The PersistentVolume.
        volume: String,
        /// What it cannot do.
        problem: String,
    },
    /// The volume is for other nodes.
    #[error("{problem}")]
    NodeAffinity {
        /// The PersistentVolume.
        volume: String,
        /// What does not fit.
        problem: &'static str,
    },
    /// Its kind takes no mount options.
    #[error("mount options are not supported for this volume type")]
    MountOptions {
        /// The PersistentVolume.
        volume: String,
    },
    /// The volume itself says something that cannot be.
    #[error("{problem}")]
    Invalid {
        /// The PersistentVolume.
        volume: String,
        /// What.
        problem: String,
    },
}

impl ClaimError {
    /// The message of the pod's FailedMount event. `volume` is the pod's name for it.
    pub fn event_message(&self, volume: &str) -> String {
        let (step, persistent) = match self {
            Self::Processing { .. } | Self::NotOwned { .. } | Self::Mode { .. } => {
                return format!(
                    "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], failed \
                     to process volumes=[{volume}]: {self}"
                );
            }
            Self::Unsupported { volume, .. } => ("MountVolume.FindPluginBySpec failed", volume),
            Self::NodeAffinity { volume, .. } => ("MountVolume.NodeAffinity check failed", volume),
            Self::MountOptions { volume } => ("MountVolume.MountOptionSupport check failed", volume),
            Self::Invalid { volume, .. } => ("MountVolume.SetUp failed", volume),
        };
        format!("{step} for volume {persistent:?} : {self}")
    }
}
