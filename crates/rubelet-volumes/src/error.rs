//! Why a pod's volumes are not ready. Owns the messages; an event of each is sent by the shell.

use std::fmt;
use std::fmt::Write as _;

use rubelet_core::claims::ClaimError;
use rubelet_core::projection::ProjectionErrors;
use rubelet_core::volumes::SourceError;
use rubelet_linux::disk::DiskError;
use rubelet_linux::fs_pool::FsError;

use crate::csi::{CsiCause, CsiProblem};

/// A volume that could not be made ready.
#[derive(Debug, thiserror::Error)]
#[error("volume {volume:?} cannot be set up")]
pub struct VolumeError {
    /// The pod's name for the volume.
    pub volume: String,
    /// Name of the PersistentVolume behind it, once known.
    pub persistent: Option<String>,
    /// What is wrong.
    #[source]
    pub problem: Problem,
}

impl VolumeError {
    /// The message of the pod's FailedMount event, in upstream's form.
    pub fn event_message(&self) -> String {
        let step = match &self.problem {
            Problem::Claim(error) => return error.event_message(&self.volume),
            Problem::LocalPath { .. } | Problem::Source(_) => "MountVolume.NewMounter initialization failed",
            Problem::Csi(problem) => problem.step.name(),
            Problem::LocalDevice { .. } => "MountVolume.MountDevice failed",
            _ => "MountVolume.SetUp failed",
        };
        let volume = self.persistent.as_ref().unwrap_or(&self.volume);
        let mut text = format!("{step} for volume {volume:?} : {}", self.problem);
        let mut source = std::error::Error::source(&self.problem);
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        text
    }
}

impl VolumeError {
    /// The node has no room for another volume of that driver: the pod has to go elsewhere.
    pub fn is_out_of_room(&self) -> bool {
        matches!(&self.problem, Problem::Csi(problem) if matches!(problem.cause, CsiCause::Exhausted(_)))
    }

    /// The reason of that event.
    pub fn event_reason(&self) -> &'static str {
        match &self.problem {
            Problem::Csi(problem) => problem.step.reason(),
            _ => "FailedMount",
        }
    }
}

/// What is wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// This version cannot mount that kind.
    #[error(
        "it is of kind {0}, which this version cannot mount; it mounts hostPath, emptyDir, configMap, secret, \
         downwardAPI, projected, nfs, images, volumes of CSI drivers, and claims of hostPath, local, nfs and CSI volumes"
    )]
    Unsupported(&'static str),
    /// Its name cannot be a directory's.
    #[error("its name is no file name: give the volume another")]
    Name,
    /// Huge pages cannot be had as asked for.
    #[error("{0}")]
    HugePages(String),
    /// The type of a hostPath is none.
    #[error("{0} is an invalid volume type")]
    HostPathUnknownType(String),
    /// A hostPath is not what its type says.
    #[error("hostPath type check failed: {path} is not {wanted}")]
    HostPathType {
        /// Path on the node.
        path: String,
        /// What the type asks for.
        wanted: &'static str,
    },
    /// The claim or the volume it has got does not let it.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The directory of a local volume is not there.
    #[error("path {path:?} {problem}")]
    LocalPath {
        /// Path on the node.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file system of a local volume's device is not mounted.
    #[error("local: failed to mount device {device} at {target} (fstype: {fs_type})")]
    LocalDevice {
        /// The device.
        device: String,
        /// Where it is to be mounted for all pods.
        target: String,
        /// Its file system.
        fs_type: String,
        /// Why not.
        #[source]
        problem: Box<DiskError>,
    },
    /// The node's `mount` did not do it.
    #[error(transparent)]
    Mount(#[from] DiskError),
    /// The source of a driver's volume makes no sense.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The driver's volume cannot be had.
    #[error("{CSI_PLUGIN}: {0}", CSI_PLUGIN = crate::csi::CSI_PLUGIN)]
    Csi(CsiProblem),
    /// Its files cannot be made.
    #[error(transparent)]
    Projection(#[from] ProjectionErrors),
    /// The file system did not do it.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl From<CsiProblem> for Problem {
    /// Not as a source: its words are the message's.
    fn from(problem: CsiProblem) -> Self {
        Self::Csi(problem)
    }
}

/// All volumes of a pod that could not be made ready, at least one.
#[derive(Debug)]
pub struct VolumeErrors(pub Vec<VolumeError>);

impl std::error::Error for VolumeErrors {}

impl fmt::Display for VolumeErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            f.write_str(&error.event_message())?;
        }
        Ok(())
    }
}
