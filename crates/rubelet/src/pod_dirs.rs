//! The files and directories a pod has on the node: its directory, hosts file, termination message files, log
//! directories and the legacy log symlinks. Paths are upstream's, from `rubelet_core::paths`.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rubelet_core::Pod;
use rubelet_core::ids::PodUid;
use rubelet_core::observed::ObservedContainer;
use rubelet_core::paths;

use crate::fs_pool::{FsError, FsPool};

/// Makes a pod's directory with the ones upstream puts into it, each 0750.
///
/// # Errors
/// When one cannot be made.
pub async fn make_pod_dirs(fs: &FsPool, pod_dir: &Path) -> Result<(), FsError> {
    let dir = pod_dir.to_owned();
    fs.run(format!("create pod directory {}", pod_dir.display()), move || {
        for part in ["volumes", "plugins", "containers"] {
            DirBuilder::new().recursive(true).mode(0o750).create(dir.join(part))?;
        }
        Ok(())
    })
    .await
}

/// Removes a tree of ours; not being there is fine.
///
/// # Errors
/// When something in it cannot be removed.
pub async fn remove(fs: &FsPool, dir: &Path) -> Result<(), FsError> {
    let path = dir.to_owned();
    fs.run(format!("remove {}", dir.display()), move || match rubelet_linux::remove::remove_tree(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    })
    .await
}

/// Writes the pod's hosts file (0644), replacing its content but keeping the inode that containers mount.
///
/// # Errors
/// When it cannot be written.
pub async fn write_hosts(fs: &FsPool, path: &Path, content: Vec<u8>) -> Result<(), FsError> {
    let file = path.to_owned();
    fs.run(format!("write {}", path.display()), move || {
        // Containers can write to the file: only one of the right length is worth reading.
        let same_length = fs::metadata(&file).is_ok_and(|present| present.len() == content.len() as u64);
        if same_length && fs::read(&file).is_ok_and(|present| present == content) {
            return Ok(());
        }
        fs::write(&file, content)?;
        fs::set_permissions(&file, Permissions::from_mode(0o644))
    })
    .await
}

/// Makes a new termination message file (0666) for one container instance.
///
/// # Errors
/// When it cannot be made.
pub async fn make_termination_file(fs: &FsPool, path: &Path) -> Result<(), FsError> {
    let file = path.to_owned();
    fs.run(format!("create {}", path.display()), move || {
        if let Some(dir) = file.parent() {
            DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        }
        fs::File::create(&file)?;
        // The mode is set afterwards because the umask applies to creation.
        fs::set_permissions(&file, Permissions::from_mode(0o666))
    })
    .await
}

/// Makes a container's log directory (0755).
///
/// # Errors
/// When it cannot be made.
pub async fn make_log_dir(fs: &FsPool, dir: &Path) -> Result<(), FsError> {
    let path = dir.to_owned();
    fs.run(format!("create log directory {}", dir.display()), move || {
        DirBuilder::new().recursive(true).mode(0o755).create(&path)
    })
    .await
}

/// The restart count that follows from the logs present: the highest number plus one, 0 without any. Keeps
/// counts going when the runtime has forgotten the containers (upstream `calcRestartCountByLogDir`).
///
/// # Errors
/// When the directory cannot be read.
pub async fn restart_count_from_logs(fs: &FsPool, dir: &Path) -> Result<u32, FsError> {
    let path = dir.to_owned();
    fs.run(format!("read log directory {}", dir.display()), move || {
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries?,
        };
        let numbers = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.split('.').next()?.parse::<u32>().ok().filter(|_| name.contains(".log"))
        });
        Ok(numbers.max().map_or(0, |highest| highest.saturating_add(1)))
    })
    .await
}

/// Puts the legacy symlink to a container's log in place, replacing an older one of that name.
///
/// # Errors
/// When it cannot be made.
pub async fn link_log(fs: &FsPool, link: &Path, log: &Path) -> Result<(), FsError> {
    let (link, log) = (link.to_owned(), log.to_owned());
    fs.run(format!("link {} to {}", link.display(), log.display()), move || {
        if let Some(dir) = link.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        }
        match std::os::unix::fs::symlink(&log, &link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&link)?;
                std::os::unix::fs::symlink(&log, &link)
            }
            done => done,
        }
    })
    .await
}

/// Removes a container's logs and the symlink to them.
///
/// # Errors
/// When one cannot be removed; files that are not there are fine.
pub async fn remove_logs(fs: &FsPool, log: &Path, link: &Path) -> Result<(), FsError> {
    let (log, link) = (log.to_owned(), link.to_owned());
    fs.run(format!("remove log {}", log.display()), move || {
        let mut files: Vec<PathBuf> = vec![log.clone(), link];
        if let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) {
            let rotated = format!("{name}.");
            files.extend(
                fs::read_dir(dir)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .filter(|entry| entry.file_name().to_str().is_some_and(|n| n.starts_with(&rotated)))
                    .map(|entry| entry.path()),
            );
        }
        for file in files {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    })
    .await
}

/// Removes the log and the legacy symlink of one container instance, as [`remove_logs`]. The runtime says where the log
/// is; one that lies elsewhere than in `pod_logs` is not ours to remove.
///
/// # Errors
/// As [`remove_logs`].
pub async fn remove_container_logs(
    fs: &FsPool,
    pod: &Pod,
    container: &ObservedContainer,
    (pod_logs, container_logs): (&Path, &Path),
) -> Result<(), FsError> {
    let log = Path::new(&container.log_path);
    let Ok(link) = paths::legacy_log_link(pod, &container.name, container.id.as_str()) else { return Ok(()) };
    if !log.starts_with(pod_logs) || log.components().any(|part| part.as_os_str() == "..") {
        return Ok(());
    }
    remove_logs(fs, log, &container_logs.join(link)).await
}

/// Removes symlinks in `dir` whose log is gone (upstream: dangling links in `/var/log/containers`).
///
/// # Errors
/// When the directory cannot be read.
pub async fn remove_dangling_links(fs: &FsPool, dir: &Path) -> Result<(), FsError> {
    let path = dir.to_owned();
    fs.run(format!("clean {}", dir.display()), move || {
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries.flatten() {
            let link = entry.path();
            if link.is_symlink() && matches!(link.try_exists(), Ok(false)) {
                fs::remove_file(&link).or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error),
                })?;
            }
        }
        Ok(())
    })
    .await
}

/// The UIDs that have a directory below `<root-dir>/pods`.
///
/// # Errors
/// When it cannot be read.
pub async fn pods_on_disk(fs: &FsPool, pods_dir: &Path) -> Result<Vec<PodUid>, FsError> {
    let path = pods_dir.to_owned();
    fs.run(format!("read {}", pods_dir.display()), move || {
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            entries => entries?,
        };
        Ok(entries.flatten().filter_map(|entry| Some(PodUid::new(entry.file_name().to_str()?))).collect())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn logs_continue_the_restart_count_and_go_with_their_links() {
        let root = tempfile::tempdir().unwrap();
        let pool = FsPool::new(1);
        let dir = root.path().join("logs");
        assert_eq!(restart_count_from_logs(&pool, &dir).await.unwrap(), 0);
        make_log_dir(&pool, &dir).await.unwrap();
        for name in ["0.log", "3.log", "3.log.20260101-000000.gz", "note.txt", "9.tmp"] {
            fs::write(dir.join(name), "x").unwrap();
        }
        assert_eq!(restart_count_from_logs(&pool, &dir).await.unwrap(), 4);
        let link = root.path().join("links/l.log");
        link_log(&pool, &link, &dir.join("0.log")).await.unwrap();
        link_log(&pool, &link, &dir.join("3.log")).await.unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), dir.join("3.log"));
        remove_logs(&pool, &dir.join("3.log"), &link).await.unwrap();
        assert!(
            !link.is_symlink()
                && !dir.join("3.log.20260101-000000.gz").exists()
                && dir.join("0.log").exists()
        );
        link_log(&pool, &link, &dir.join("gone.log")).await.unwrap();
        remove_dangling_links(&pool, link.parent().unwrap()).await.unwrap();
        assert!(!link.is_symlink());
    }

    #[tokio::test]
    async fn modes_are_upstreams() {
        let root = tempfile::tempdir().unwrap();
        let pool = FsPool::new(1);
        let pod = root.path().join("pod");
        make_pod_dirs(&pool, &pod).await.unwrap();
        let hosts = pod.join("etc-hosts");
        write_hosts(&pool, &hosts, b"127.0.0.1 localhost\n".to_vec()).await.unwrap();
        let message = pod.join("containers/c/0123abcd");
        make_termination_file(&pool, &message).await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&pod.join("volumes")), mode(&hosts), mode(&message)], [0o750, 0o644, 0o666]);
        remove(&pool, &pod).await.unwrap();
        remove(&pool, &pod).await.unwrap();
        assert!(!pod.exists());
    }
}
