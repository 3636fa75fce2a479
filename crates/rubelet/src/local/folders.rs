//! Folders of this machine as volumes: made empty for a claim, removed with all that is in them.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rubelet_localapi::controllers::Folders;

use crate::fs_pool::FsPool;

/// One folder below `root` for each volume.
pub(super) struct VolumeFolders {
    root: PathBuf,
    fs: FsPool,
}

impl VolumeFolders {
    pub(super) fn new(root: PathBuf, fs: FsPool) -> Self {
        Self { root, fs }
    }

    /// The folder of a volume. Names are DNS names, which the API sees to; what is none has no folder.
    fn path(&self, name: &str) -> io::Result<PathBuf> {
        let is_name = !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
        if is_name {
            return Ok(self.root.join(name));
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a volume")))
    }
}

impl Folders for VolumeFolders {
    fn make<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<PathBuf>> {
        async move {
            let path = self.path(name)?;
            let folder = path.clone();
            let made = self.fs.run(format!("making {}", path.display()), move || {
                fs::create_dir_all(&folder)?;
                // Whoever a container runs as is to write there: only pods that have the volume see it.
                fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
                if let Some(root) = folder.parent() {
                    fs::set_permissions(root, fs::Permissions::from_mode(0o711))?;
                }
                Ok(())
            });
            made.await.map_err(io::Error::other)?;
            Ok(path)
        }
        .boxed()
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>> {
        async move {
            let path = self.path(name)?;
            let what = format!("removing {}", path.display());
            let removed = self.fs.run(what, move || match rubelet_linux::remove::remove_tree(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            });
            removed.await.map_err(io::Error::other)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_is_made_once_and_removed_with_everything_in_it() {
        let root = tempfile::tempdir().unwrap();
        let folders = VolumeFolders::new(root.path().join("volumes"), FsPool::inline());
        let path = folders.make("pvc-1").await.unwrap();
        fs::write(path.join("data"), "x").unwrap();
        assert_eq!(folders.make("pvc-1").await.unwrap(), path);
        assert_eq!(fs::read_to_string(path.join("data")).unwrap(), "x");
        folders.remove("pvc-1").await.unwrap();
        folders.remove("pvc-1").await.unwrap();
        assert!(!path.exists());
        for bad in ["", ".", "..", "../x", "a/b", "/etc"] {
            assert!(folders.make(bad).await.is_err() && folders.remove(bad).await.is_err(), "{bad}");
        }
    }
}
