//! The volumes of pods as the workers call for them. Everything is `rubelet_volumes`'s; here they are given what the
//! shell knows, which is no API server yet.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use rubelet_core::downward::DownwardFacts;
use rubelet_core::lifecycle::ContainersStopped;
use rubelet_volumes::{VolumeErrors, VolumeFacts, Volumes};

pub use rubelet_volumes::VolumePaths;

use crate::fs_pool::{FsError, FsPool};

/// Makes every volume of the pod ready; idempotent.
///
/// # Errors
/// The volumes that cannot be made ready.
pub async fn set_up(fs: &FsPool, pod: &Pod, pod_dir: &Path) -> Result<VolumePaths, VolumeErrors> {
    let facts = VolumeFacts { downward: DownwardFacts::default(), now: jiff::Timestamp::UNIX_EPOCH };
    let volumes = Volumes::new(fs.clone(), None, None);
    Ok(volumes.set_up(pod, pod_dir, &facts).await?.paths)
}

/// Removes what was made for the pod; idempotent. hostPaths are never touched.
///
/// # Errors
/// When something in them cannot be removed, a mount point for one: nothing below a mount point is deleted.
pub async fn tear_down(fs: &FsPool, proof: &ContainersStopped, pod_dir: &Path) -> Result<(), FsError> {
    Volumes::new(fs.clone(), None, None).tear_down(proof, pod_dir).await
}
