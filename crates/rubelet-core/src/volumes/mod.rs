//! Volumes that a driver or a server of their own mounts: what is known of one before anything is done, and the decisions
//! about it (is it attached, whose group gets it, has it to grow). Never asks and never mounts: `rubelet-volumes` does.

pub mod access;
pub mod attach;
pub mod claim_status;
pub mod expand;
pub mod group;
pub mod lifecycle;
pub mod limits;
mod migrated;
mod nfs;
pub mod selinux;
mod sources;
#[cfg(test)]
mod tests;
pub mod tokens;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::migrated::{is_migrated, migrated, migrated_affinity};
pub use self::nfs::{NfsVolume, nfs, nfs_of};
pub use self::sources::{SourceError, csi_of, inline_csi};

/// How a volume is given to containers (`volumeMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeMode {
    /// A tree of files.
    #[default]
    Filesystem,
    /// A block device.
    Block,
}

/// Name and namespace of a Secret that a driver is to be given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretPlace {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A volume of a CSI driver: everything that its node calls are made of, but what changes (secrets, tokens, what the
/// attach left behind). Kept in the journal of mounts, so that tearing down needs nobody's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsiVolume {
    /// Name of the driver.
    pub driver: String,
    /// The driver's name for the volume (`volumeHandle`); of an inline volume `csi-` and the hash of pod and volume.
    pub handle: String,
    /// Names its directories: the PersistentVolume, or the pod's volume for an inline one.
    pub spec_name: String,
    /// Lives and dies with its pod (`csi` in the pod's spec).
    pub inline: bool,
    /// Files or a device.
    pub mode: VolumeMode,
    /// File system asked for; empty leaves it to the driver.
    pub fs_type: String,
    /// The driver's own parameters.
    pub attributes: BTreeMap<String, String>,
    /// The source says that it is only read.
    pub read_only: bool,
    /// `accessModes` of the PersistentVolume.
    pub access_modes: Vec<String>,
    /// `mountOptions` of the PersistentVolume.
    pub mount_options: Vec<String>,
    /// For staging.
    pub stage_secret: Option<SecretPlace>,
    /// For publishing.
    pub publish_secret: Option<SecretPlace>,
    /// For expanding.
    pub expand_secret: Option<SecretPlace>,
    /// Its spec names a kind that was once built in, and a driver stands in for it.
    #[serde(default)]
    pub migrated: bool,
}

impl CsiVolume {
    /// The name by which node status and scheduler know it (upstream `GetUniqueVolumeName`).
    pub fn unique_name(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.handle)
    }
}
