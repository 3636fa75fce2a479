//! Cgroups of both generations: making, setting, reading and removing groups, and ending what is in them.
//!
//! Owns directories and files below the mount; which settings a group gets is core's. It never touches a cgroup
//! outside the path it is given, and never removes one that still holds a process. Called by the shell's `cgroups`,
//! from threads that may block.

mod processes;
mod reading;
mod tree;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use self::reading::GroupReading;
pub use self::tree::CgroupTree;

/// Where control groups are mounted.
pub const MOUNT: &str = "/sys/fs/cgroup";

/// The mounted cgroup hierarchies: one root under the unified hierarchy, one for each controller before it.
pub fn hierarchies(mount: &Path) -> Vec<PathBuf> {
    if mount.join("cgroup.controllers").exists() {
        return vec![mount.to_owned()];
    }
    let mut roots: Vec<PathBuf> = fs::read_dir(mount)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && !path.is_symlink())
        .collect();
    roots.sort();
    roots
}

/// Removes a pod's cgroup (a path like `/kubepods/burstable/pod…`) from every hierarchy, with the empty
/// groups below it. Groups that are not there are fine.
///
/// # Errors
/// When a group still holds a process or cannot be removed.
pub fn remove(hierarchies: &[PathBuf], cgroup: &str) -> io::Result<()> {
    let relative = relative(cgroup)?;
    for root in hierarchies {
        remove_below(&root.join(relative))?;
    }
    Ok(())
}

/// A group's path below a hierarchy's root, which is no group of ours itself.
fn relative(cgroup: &str) -> io::Result<&str> {
    let relative = cgroup.trim_matches('/');
    if relative.is_empty() || relative.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{cgroup:?} names no cgroup of ours"),
        ));
    }
    Ok(relative)
}

fn remove_below(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    // On a cgroup file system rmdir takes the group with its files; it fails while a process is in it.
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod live_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_group_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let below = |path: &str| root.path().join(path);
        for controller in ["cpu", "memory"] {
            fs::create_dir_all(below(controller).join("kubepods/poda/container")).unwrap();
            fs::create_dir_all(below(controller).join("kubepods/podb")).unwrap();
        }
        let roots = hierarchies(root.path());
        assert_eq!(roots, [below("cpu"), below("memory")]);
        remove(&roots, "/kubepods/poda").unwrap();
        remove(&roots, "/kubepods/poda").unwrap();
        assert!(!below("cpu/kubepods/poda").exists() && !below("memory/kubepods/poda").exists());
        assert!(below("cpu/kubepods/podb").exists());
        for bad in ["", "/", "/kubepods/../.."] {
            assert!(remove(&roots, bad).is_err(), "{bad}");
        }
    }
}
