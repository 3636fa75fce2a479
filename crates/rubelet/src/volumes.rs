//! Volumes that need nothing but directories: hostPath, and emptyDir on disk or in memory. Prepares them before a pod's
//! containers start and removes emptyDirs on proof that nothing of the pod runs. Other kinds are refused by
//! name until the volume plugins exist.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, FileType};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, Volume};
use rubelet_core::lifecycle::ContainersStopped;
use rubelet_core::quantity::Amount;

use crate::fs_pool::{FsError, FsPool};

/// A volume that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyVolume {
    /// Where it lies on the node.
    pub path: PathBuf,
    /// The agent made it, so that its SELinux label may be changed.
    pub ours: bool,
}

/// The volumes of a pod, by name.
pub type VolumePaths = BTreeMap<String, ReadyVolume>;

/// Why a pod's volumes are not ready.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// This version cannot mount that kind.
    #[error(
        "volume {volume:?} is of kind {kind}, which this version cannot mount; it mounts hostPath and emptyDir"
    )]
    Unsupported {
        /// Volume name.
        volume: String,
        /// Its kind.
        kind: &'static str,
    },
    /// A hostPath is not what its type says.
    #[error("hostPath type check failed for volume {volume:?}: {path} is not {wanted}")]
    HostPathType {
        /// Volume name.
        volume: String,
        /// Path on the node.
        path: String,
        /// What the type asks for.
        wanted: &'static str,
    },
    /// The file system did not do it.
    #[error("volume {volume:?} cannot be set up")]
    Fs {
        /// Volume name.
        volume: String,
        /// Why.
        #[source]
        source: FsError,
    },
}

/// Directory of a pod's emptyDir volumes (upstream's layout).
fn empty_dirs(pod_dir: &Path) -> PathBuf {
    pod_dir.join("volumes/kubernetes.io~empty-dir")
}

/// Makes every volume of the pod ready; idempotent.
///
/// # Errors
/// The first volume that cannot be made ready.
pub async fn set_up(fs: &FsPool, pod: &Pod, pod_dir: &Path) -> Result<VolumePaths, VolumeError> {
    let mut paths = VolumePaths::new();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    if let Some((volume, kind)) = rubelet_core::static_pod::unsupported_volumes(pod).into_iter().next() {
        return Err(VolumeError::Unsupported { volume, kind });
    }
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let group = context.and_then(|context| context.fs_group).and_then(|group| u32::try_from(group).ok());
    for volume in volumes {
        let path = set_up_one(fs, volume, pod_dir, group).await?;
        paths.insert(volume.name.clone(), ReadyVolume { path, ours: volume.host_path.is_none() });
    }
    Ok(paths)
}

async fn set_up_one(
    fs: &FsPool,
    volume: &Volume,
    pod_dir: &Path,
    group: Option<u32>,
) -> Result<PathBuf, VolumeError> {
    let name = volume.name.clone();
    let failed = |source| VolumeError::Fs { volume: volume.name.clone(), source };
    if let Some(host) = &volume.host_path {
        let (path, kind) = (PathBuf::from(&host.path), host.type_.clone().unwrap_or_default());
        let shown = path.display().to_string();
        let checked = path.clone();
        let fits = fs
            .run(format!("check hostPath {shown}"), move || check_host_path(&checked, &kind))
            .await
            .map_err(failed)?;
        return match fits {
            Ok(()) => Ok(path),
            Err(wanted) => Err(VolumeError::HostPathType { volume: name, path: shown, wanted }),
        };
    }
    let path = empty_dirs(pod_dir).join(&name);
    let made = path.clone();
    let in_memory = volume.empty_dir.as_ref().is_some_and(|dir| dir.medium.as_deref() == Some("Memory"));
    let limit = volume.empty_dir.as_ref().and_then(|dir| dir.size_limit.as_ref());
    let limit = limit.and_then(|limit| Amount::of(limit).ok()).map(Amount::value);
    fs.run(format!("create emptyDir {}", path.display()), move || {
        DirBuilder::new().recursive(true).mode(0o750).create(made.parent().unwrap_or(&made))?;
        if in_memory {
            fs::create_dir_all(&made)?;
            if rubelet_linux::mounts::is_mount_point(&made)? {
                return Ok(());
            }
            return rubelet_linux::mounts::mount_tmpfs(&made, limit, open_mode(group), group);
        }
        // Only a new directory gets owner and mode: what runs may have changed them since. It gets its name last, so
        // that an agent killed in between leaves none that is half made.
        if made.exists() {
            return Ok(());
        }
        let part = made.with_file_name(format!(".{name}.new"));
        fs::create_dir_all(&part)?;
        open_to_all(&part, group)?;
        fs::rename(&part, &made)
    })
    .await
    .map_err(failed)?;
    Ok(path)
}

/// Owner and mode of a new emptyDir: everybody's, and with fsGroup that group's, which new files inherit (upstream
/// `SetVolumeOwnership`).
fn open_to_all(dir: &Path, group: Option<u32>) -> io::Result<()> {
    if group.is_some() {
        std::os::unix::fs::chown(dir, None, group)?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(open_mode(group)))
}

/// Open to everybody, and with fsGroup handing the group down.
fn open_mode(group: Option<u32>) -> u32 {
    if group.is_some() { 0o2777 } else { 0o777 }
}

/// Checks a hostPath against its type (upstream `host_path.go`), creating what `…OrCreate` asks for.
fn check_host_path(path: &Path, kind: &str) -> io::Result<Result<(), &'static str>> {
    let is = |test: fn(&FileType) -> bool| match fs::metadata(path) {
        Ok(found) => Ok(test(&found.file_type())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(error),
    };
    let (fits, wanted): (bool, _) = match kind {
        "" => (true, ""),
        "DirectoryOrCreate" => {
            if !path.exists() {
                DirBuilder::new().recursive(true).mode(0o755).create(path)?;
            }
            (is(FileType::is_dir)?, "a directory")
        }
        "Directory" => (is(FileType::is_dir)?, "a directory"),
        "FileOrCreate" => {
            if !path.exists() {
                fs::File::create(path)?.set_permissions(fs::Permissions::from_mode(0o644))?;
            }
            (is(FileType::is_file)?, "a file")
        }
        "File" => (is(FileType::is_file)?, "a file"),
        "Socket" => (is(FileType::is_socket)?, "a socket"),
        "CharDevice" => (is(FileType::is_char_device)?, "a character device"),
        "BlockDevice" => (is(FileType::is_block_device)?, "a block device"),
        _ => (false, "of a known type"),
    };
    Ok(if fits { Ok(()) } else { Err(wanted) })
}

/// Removes the pod's emptyDirs; idempotent. hostPaths are never touched.
///
/// # Errors
/// When something in them cannot be removed, a mount point for one: nothing below a mount point is deleted.
pub async fn tear_down(fs: &FsPool, proof: &ContainersStopped, pod_dir: &Path) -> Result<(), FsError> {
    let dir = empty_dirs(pod_dir);
    fs.run(format!("remove the emptyDirs of pod {}", proof.uid()), move || {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if rubelet_linux::mounts::is_mount_point(&entry.path())? {
                rubelet_linux::mounts::unmount(&entry.path())?;
            }
        }
        match rubelet_linux::remove::remove_tree(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(json: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"spec": {"containers": [], "volumes": [json]}})).unwrap()
    }

    async fn check(json: serde_json::Value, expected: Result<&str, &str>) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("dir")).unwrap();
        fs::write(root.path().join("file"), "x").unwrap();
        let text = json.to_string().replace("ROOT", root.path().to_str().unwrap());
        let pod = volume(serde_json::from_str(&text).unwrap());
        let result = set_up(&FsPool::new(1), &pod, &root.path().join("pod")).await;
        let short = |text: String| text.replace(root.path().to_str().unwrap(), "ROOT");
        match (result, expected) {
            (Ok(paths), Ok(path)) => {
                assert_eq!(short(paths["v"].path.display().to_string()), path);
                assert!(path == "ROOT/nothing" || paths["v"].path.exists());
            }
            (Err(error), Err(text)) => assert_eq!(short(error.to_string()), text),
            (result, _) => panic!("{json}: {result:?}, expected {expected:?}"),
        }
    }

    #[tokio::test]
    async fn host_path_types() {
        let host = |path: &str, kind: &str| serde_json::json!({"name": "v", "hostPath": {"path": path, "type": kind}});
        check(host("ROOT/nothing", ""), Ok("ROOT/nothing")).await;
        check(host("ROOT/new/deep", "DirectoryOrCreate"), Ok("ROOT/new/deep")).await;
        check(host("ROOT/new-file", "FileOrCreate"), Ok("ROOT/new-file")).await;
        check(host("ROOT/dir", "Directory"), Ok("ROOT/dir")).await;
        check(host("ROOT/file", "File"), Ok("ROOT/file")).await;
        let not =
            |path, wanted| format!("hostPath type check failed for volume \"v\": {path} is not {wanted}");
        check(host("ROOT/file", "Directory"), Err(&not("ROOT/file", "a directory"))).await;
        check(host("ROOT/file/below", "Directory"), Err(&not("ROOT/file/below", "a directory"))).await;
        check(host("ROOT/dir", "File"), Err(&not("ROOT/dir", "a file"))).await;
        check(host("ROOT/file", "Socket"), Err(&not("ROOT/file", "a socket"))).await;
        check(host("/dev/null", "CharDevice"), Ok("/dev/null")).await;
        check(host("/dev/null", "BlockDevice"), Err(&not("/dev/null", "a block device"))).await;
    }

    #[tokio::test]
    async fn empty_dirs_are_open_to_every_user_and_keep_their_content() {
        let root = tempfile::tempdir().unwrap();
        let pod = volume(serde_json::json!({"name": "v", "emptyDir": {}}));
        let fs_pool = FsPool::new(1);
        let path = set_up(&fs_pool, &pod, root.path()).await.unwrap().remove("v").unwrap().path;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
        fs::write(path.join("kept"), "x").unwrap();
        set_up(&fs_pool, &pod, root.path()).await.unwrap();
        assert!(path.join("kept").exists());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing half made is left");
    }

    #[tokio::test]
    async fn files_in_an_empty_dir_belong_to_the_fs_group() {
        use std::os::unix::fs::MetadataExt as _;
        let root = tempfile::tempdir().unwrap();
        let own = fs::metadata(root.path()).unwrap().gid();
        let mut pod = volume(serde_json::json!({"name": "v", "emptyDir": {}}));
        pod.spec.as_mut().unwrap().security_context =
            serde_json::from_value(serde_json::json!({"fsGroup": own})).unwrap();
        let path = set_up(&FsPool::new(1), &pod, root.path()).await.unwrap().remove("v").unwrap().path;
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (0o2777, own));
    }
}
