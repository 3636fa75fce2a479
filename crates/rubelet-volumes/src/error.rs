//! Why a pod's volumes are not ready. Owns the messages; an event of each is sent by the shell.

use std::fmt;
use std::fmt::Write as _;

use rubelet_core::projection::ProjectionErrors;
use rubelet_linux::fs_pool::FsError;

/// A volume that could not be made ready.
#[derive(Debug, thiserror::Error)]
#[error("volume {volume:?} cannot be set up")]
pub struct VolumeError {
    /// Name of the volume.
    pub volume: String,
    /// What is wrong.
    #[source]
    pub problem: Problem,
}

impl VolumeError {
    /// The message of the pod's FailedMount event, in upstream's form.
    pub fn event_message(&self) -> String {
        let mut text = format!("MountVolume.SetUp failed for volume {:?} : {}", self.volume, self.problem);
        let mut source = std::error::Error::source(&self.problem);
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        text
    }
}

/// What is wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// This version cannot mount that kind.
    #[error(
        "it is of kind {0}, which this version cannot mount; it mounts hostPath, emptyDir, configMap, secret, \
         downwardAPI and projected"
    )]
    Unsupported(&'static str),
    /// Its name cannot be a directory's.
    #[error("its name is no file name: give the volume another")]
    Name,
    /// A hostPath is not what its type says.
    #[error("hostPath type check failed: {path} is not {wanted}")]
    HostPathType {
        /// Path on the node.
        path: String,
        /// What the type asks for.
        wanted: &'static str,
    },
    /// Its files cannot be made.
    #[error(transparent)]
    Projection(#[from] ProjectionErrors),
    /// The file system did not do it.
    #[error(transparent)]
    Fs(#[from] FsError),
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
