//! nfs: a directory of an NFS server, mounted by the node's own helper (`mount.nfs`).
//!
//! Unmounted at the end, never emptied: what is in it is the server's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rubelet_core::volumes::NfsVolume;
use rubelet_linux::disk;
use rubelet_linux::mounts;
use rubelet_linux::tool::Tools;

use super::make_dirs;
use super::tmpfs::Tmpfs;
use crate::error::Problem;
use crate::layout::Home;

/// A directory of a server to mount.
#[derive(Debug)]
pub(crate) struct NfsPlan {
    /// Where it is mounted.
    pub(crate) path: PathBuf,
    /// `server:path`.
    pub(crate) device: String,
    /// Containers may only read it.
    pub(crate) read_only: bool,
    options: Vec<String>,
}

impl NfsPlan {
    /// Plans it. `name`: of the PersistentVolume, or of the pod's volume.
    pub(crate) fn of(name: &str, volume: &NfsVolume, pod_dir: &Path) -> Self {
        let mut options = volume.options.clone();
        if volume.read_only {
            options.push("ro".to_owned());
        }
        options.sort();
        options.dedup();
        Self {
            path: Home::Nfs.volume(pod_dir, name),
            device: volume.device(),
            read_only: volume.read_only,
            options,
        }
    }

    /// Mounts it unless it is mounted.
    pub(crate) fn set_up(&self, tmpfs: Tmpfs, tools: &Tools) -> io::Result<Result<(), Problem>> {
        if tmpfs == Tmpfs::PlainDirectory {
            return make_dirs(&self.path).map(Ok);
        }
        if mounts::is_mount_point(&self.path)? {
            return Ok(Ok(()));
        }
        make_dirs(&self.path)?;
        if let Err(error) = disk::mount(tools, "nfs", &self.device, &self.path, &self.options) {
            // A helper that was killed may have done it nevertheless: what is not known to be right must not stay.
            mounts::unmount_all(&self.path)?;
            let _ = fs::remove_dir(&self.path);
            return Ok(Err(error.into()));
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_mounted_once_by_the_nodes_mount() {
        let root = tempfile::tempdir().unwrap();
        let tools = Tools { directory: Some(root.path().join("tools")) };
        fs::create_dir(root.path().join("tools")).unwrap();
        let log = root.path().join("log");
        let mount = |script: &str| {
            let path = root.path().join("tools/mount");
            fs::write(&path, format!("#!/bin/sh\necho \"$@\" >> {}\n{script}\n", log.display())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let volume = NfsVolume {
            server: "fd00::1".into(),
            path: "/export".into(),
            read_only: true,
            options: vec!["vers=4".into(), "hard".into()],
        };
        let plan = NfsPlan::of("pv", &volume, root.path());
        assert_eq!(plan.path, root.path().join("volumes/kubernetes.io~nfs/pv"));
        mount("echo 'mount.nfs: Connection timed out'; exit 32");
        let failed = plan.set_up(Tmpfs::Mount, &tools).unwrap().unwrap_err().to_string();
        assert!(failed.starts_with("mount failed: exit status 32\nMounting command: mount\n"), "{failed}");
        assert!(failed.ends_with("Output: mount.nfs: Connection timed out\n"), "{failed}");
        assert!(!plan.path.exists());
        let said = fs::read_to_string(&log).unwrap();
        assert_eq!(said, format!("-t nfs -o hard,ro,vers=4 -- [fd00::1]:/export {}\n", plan.path.display()));
        if !rustix::process::geteuid().is_root() {
            return;
        }
        // A tmpfs stands in for the server.
        mount(
            "while [ $# -gt 1 ]; do shift; done; PATH=/bin:/usr/bin:/sbin:/usr/sbin exec mount -t tmpfs server $1",
        );
        plan.set_up(Tmpfs::Mount, &tools).unwrap().unwrap();
        plan.set_up(Tmpfs::Mount, &tools).unwrap().unwrap();
        let mounted = mounts::is_mount_point(&plan.path);
        super::super::tear_down(root.path()).unwrap();
        assert!(mounted.unwrap() && !plan.path.exists());
        assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 2);
    }
}
