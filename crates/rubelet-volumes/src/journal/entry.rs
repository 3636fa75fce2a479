//! What the journal holds of one volume. Values only.

use rubelet_core::claims::{ClaimedSource, ClaimedVolume};
use rubelet_core::volumes::{CsiVolume, NfsVolume};
use serde::{Deserialize, Serialize};

/// A volume that is or may be mounted for a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MountEntry {
    /// The pod's name for it.
    pub volume: String,
    /// What it is.
    pub source: MountSource,
    /// How far it got.
    pub state: MountState,
}

impl MountEntry {
    /// Whether it is what is mounted as that volume of the pod.
    pub(super) fn is_mounted(&self, volume: &str) -> bool {
        self.volume == volume && self.state == MountState::Mounted
    }
}

/// How far the mount of a volume got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountState {
    /// Something of it may be mounted.
    Begun,
    /// It is mounted, unless the machine was restarted since; then it is to be mounted again as it was.
    Mounted,
}

/// What a volume is that lives outside its pod's directories.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MountSource {
    /// What a claim has got.
    Claimed(ClaimedVolume),
    /// A volume of a driver that the pod's spec describes.
    Csi(CsiVolume),
    /// A directory of a server that the pod's spec names.
    Nfs(NfsVolume),
}

impl MountSource {
    /// The claimed volume.
    pub fn claimed(&self) -> Option<&ClaimedVolume> {
        match self {
            Self::Claimed(claimed) => Some(claimed),
            Self::Csi(_) | Self::Nfs(_) => None,
        }
    }

    /// The driver's volume, claimed or inline.
    pub fn csi(&self) -> Option<&CsiVolume> {
        match self {
            Self::Csi(csi) => Some(csi),
            Self::Nfs(_) => None,
            Self::Claimed(claimed) => match &claimed.source {
                ClaimedSource::Csi(csi) => Some(csi),
                _ => None,
            },
        }
    }
}
