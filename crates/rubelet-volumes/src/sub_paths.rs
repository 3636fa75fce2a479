//! Sub-paths of volumes that containers mount (`subPath`, `subPathExpr`). Owns the messages users know; opening and
//! binding safely is `rubelet_linux::sub_path`'s, removing part of [`Volumes::tear_down`]. Called before a container is
//! made.

use std::path::{Path, PathBuf};

use rubelet_core::mounts::PlannedMount;
use rubelet_linux::fs_pool::FsError;
use rubelet_linux::sub_path::{self, Place, SubPathError};

use crate::kinds::tmpfs::Tmpfs;
use crate::volumes::Volumes;

/// Why a sub-path of a volume cannot be mounted. The message is upstream's and says as little: the source tells of the
/// node's files, and is for the log alone.
#[derive(Debug, thiserror::Error)]
pub enum SubPathProblem {
    /// It is missing and cannot be made.
    #[error("failed to create subPath directory for volumeMount {volume:?} of container {container:?}")]
    Create {
        /// The pod's name for the volume.
        volume: String,
        /// Name of the container.
        container: String,
        /// What happened.
        #[source]
        source: FsError,
    },
    /// It leaves the volume, or cannot be opened or bound.
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")]
    Prepare {
        /// The pod's name for the volume.
        volume: String,
        /// Name of the container.
        container: String,
        /// What happened.
        #[source]
        source: FsError,
    },
}

impl Volumes {
    /// Binds the sub-path of a mount to its place below the pod's directory, and returns that; idempotent.
    ///
    /// # Errors
    /// [`SubPathProblem`]: nothing is bound, or what was bound before.
    pub async fn bind_sub_path(
        &self,
        pod_dir: &Path,
        container: &str,
        mount: &PlannedMount,
    ) -> Result<PathBuf, SubPathProblem> {
        let place = Place {
            pod_dir: pod_dir.to_owned(),
            volume: mount.volume.clone(),
            container: container.to_owned(),
            index: mount.index,
        };
        let (volume, path) = (mount.volume_path.clone(), mount.sub_path.clone());
        let plain = self.tmpfs == Tmpfs::PlainDirectory;
        let what = format!("bind {path:?} of volume {} for container {container}", volume.display());
        let bound = self.fs.run(what.clone(), move || {
            let bound = match plain {
                true => sub_path::open_or_create(&volume, &path).map(|_| volume.join(&path)),
                false => sub_path::bind(&volume, &path, &place),
            };
            Ok(bound)
        });
        let (volume, container) = (mount.volume.clone(), container.to_owned());
        match bound.await {
            Ok(Ok(path)) => Ok(path),
            Ok(Err(SubPathError::Create(source))) => {
                Err(SubPathProblem::Create { volume, container, source: FsError::Io { what, source } })
            }
            Ok(Err(SubPathError::Prepare(source))) => {
                Err(SubPathProblem::Prepare { volume, container, source: FsError::Io { what, source } })
            }
            Err(source) => Err(SubPathProblem::Prepare { volume, container, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rubelet_core::mounts::Propagation;
    use rubelet_linux::fs_pool::FsPool;

    use super::*;

    fn mount(volume: &Path, sub_path: &str) -> PlannedMount {
        PlannedMount {
            volume: "data".into(),
            index: 3,
            container_path: "/d".into(),
            volume_path: volume.into(),
            sub_path: sub_path.into(),
            read_only: false,
            recursive_read_only: false,
            relabel: false,
            propagation: Propagation::Private,
        }
    }

    #[tokio::test]
    async fn sub_paths_are_bound_and_problems_told_in_known_words() {
        let root = tempfile::tempdir().unwrap();
        let (volume, pod) = (root.path().join("volume"), root.path().join("pod"));
        fs::create_dir_all(volume.join("a")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("etc")).unwrap();
        std::os::unix::fs::symlink("nothing", volume.join("dangling")).unwrap();
        let volumes = Volumes::new(FsPool::new(2), None, None).with_tmpfs(Tmpfs::PlainDirectory);
        let bind = async |path: &str| volumes.bind_sub_path(&pod, "app", &mount(&volume, path)).await;
        assert_eq!(bind("a/new").await.unwrap(), volume.join("a/new"));
        assert!(volume.join("a/new").is_dir());
        assert_eq!(
            bind("etc/ssl").await.unwrap_err().to_string(),
            "failed to prepare subPath for volumeMount \"data\" of container \"app\""
        );
        assert_eq!(
            bind("dangling/x").await.unwrap_err().to_string(),
            "failed to create subPath directory for volumeMount \"data\" of container \"app\""
        );
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let volumes = Volumes::new(FsPool::new(2), None, None);
        let bound = volumes.bind_sub_path(&pod, "app", &mount(&volume, "a")).await;
        let seen = bound.as_ref().map(|path| path.join("new").is_dir());
        crate::kinds::tear_down(&pod).unwrap();
        assert!(seen.unwrap());
        assert_eq!(bound.unwrap(), pod.join("volume-subpaths/data/app/3"));
        assert!(!pod.join("volume-subpaths").exists() && volume.join("a/new").is_dir());
    }
}
