//! Removes a directory tree and never crosses into a mount, not even a bind on the same device: what is mounted
//! on it or below is not ours to delete, nor looked at, for it may be a server's that is gone. Symbolic links are removed, never followed.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use crate::crossing;
use crate::mounts::is_mount_root;

/// How deep the walk goes before it moves a directory up.
const MAX_DEPTH: u32 = 24;

/// Removes `path` with everything below it.
///
/// # Errors
/// The first thing that cannot be removed; `ErrorKind::CrossesDevices` for a mount point at or below `path`, whose
/// content stays untouched. `NotFound` when `path` does not exist.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let parent = path.parent().ok_or_else(|| io::Error::other("the root cannot be removed"))?;
    let name = path.file_name().ok_or_else(|| io::Error::other("the path has no last part"))?;
    let parent = openat(rustix::fs::CWD, parent, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let top = open_here(&parent, name)?;
    // What lies too deep is moved up and taken in the next round, so that neither descriptors nor the stack grow
    // with the depth of a tree that a container made.
    let mut removal = Removal { top: &top, moved: 0 };
    loop {
        let before = removal.moved;
        removal.empty(&top, 0)?;
        if removal.moved == before {
            break;
        }
    }
    drop(top);
    unlinkat(&parent, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

fn open_dir(at: &OwnedFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    Ok(openat(at, name, flags, Mode::empty())?)
}

/// Opens a directory on which nothing is mounted. What is mounted is not even looked at where the kernel can tell.
fn open_here(at: &OwnedFd, name: &(impl AsRef<OsStr> + ?Sized)) -> io::Result<OwnedFd> {
    let name = name.as_ref();
    match crossing::open_dir(at, name) {
        Ok(Some(opened)) => return Ok(opened),
        Ok(None) => {}
        Err(Errno::XDEV) => return Err(is_mounted(name)),
        Err(error) => return Err(error.into()),
    }
    let device = fstat(at)?.st_dev;
    if statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?.st_dev != device
        || is_mount_root(at, name, || Ok(device))?
    {
        return Err(is_mounted(name));
    }
    open_dir(at, name)
}

fn is_mounted(name: &OsStr) -> io::Error {
    let text = format!("{} is a mount point", name.to_string_lossy());
    io::Error::new(io::ErrorKind::CrossesDevices, text)
}

struct Removal<'a> {
    top: &'a OwnedFd,
    /// Directories moved up so far.
    moved: u64,
}

impl Removal<'_> {
    fn empty(&mut self, dir: &OwnedFd, depth: u32) -> io::Result<()> {
        for entry in Dir::read_from(dir.as_fd())? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let is_dir = match entry.file_type() {
                FileType::Unknown => match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => continue,
                    status => FileType::from_raw_mode(status?.st_mode) == FileType::Directory,
                },
                found => found == FileType::Directory,
            };
            if !is_dir {
                // The kernel keeps what something is mounted on.
                ignore_gone(unlinkat(dir, name, AtFlags::empty()))?;
                continue;
            }
            let below = match open_here(dir, OsStr::from_bytes(name.to_bytes())) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                below => below?,
            };
            if depth == MAX_DEPTH {
                self.move_up(dir, name)?;
                continue;
            }
            self.empty(&below, depth + 1)?;
            drop(below);
            ignore_gone(unlinkat(dir, name, AtFlags::REMOVEDIR))?;
        }
        Ok(())
    }

    /// Moves a directory that lies too deep to the top, under a name that nothing has there.
    fn move_up(&mut self, dir: &OwnedFd, name: &CStr) -> io::Result<()> {
        loop {
            self.moved += 1;
            let free = format!(".removing-{}-{}", std::process::id(), self.moved);
            match renameat(dir, name, self.top, free) {
                // A removal that was cut short left it there, or a container made it.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::BUSY)
                    if self.is_taken(self.moved)? => {}
                moved => return ignore_gone(moved),
            }
        }
    }

    fn is_taken(&self, number: u64) -> io::Result<bool> {
        let name = format!(".removing-{}-{number}", std::process::id());
        match statat(self.top, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            found => Ok(found.map(|_| true)?),
        }
    }
}

fn ignore_gone(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn removes_deep_trees_and_does_not_follow_links() {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "x").unwrap();
        let tree = root.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert!(outside.join("precious").exists());
        assert_eq!(remove_tree(&tree).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn depth_costs_neither_descriptors_nor_stack() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut dir = open_dir(
            &openat(rustix::fs::CWD, root.path(), OFlags::DIRECTORY, Mode::empty()).unwrap(),
            "tree",
        )
        .unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
            dir = open_dir(&dir, "d").unwrap();
        }
        drop(dir);
        std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(move || remove_tree(&tree).unwrap())
            .unwrap()
            .join()
            .unwrap();
        assert!(!root.path().join("tree").exists());
    }

    #[test]
    fn what_an_earlier_removal_left_at_the_top_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        let deep = (0..40).fold(tree.clone(), |dir, _| dir.join("d"));
        fs::create_dir_all(&deep).unwrap();
        // Directories that are not empty, and files, under the first names that are tried.
        for number in 1..=4 {
            let left = tree.join(format!(".removing-{}-{number}", std::process::id()));
            if number % 2 == 0 {
                fs::write(left, "x").unwrap();
            } else {
                let deep = (0..40).fold(left, |dir, _| dir.join("d"));
                fs::create_dir_all(deep).unwrap();
            }
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn a_link_in_place_of_the_tree_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, root.path().join("tree")).unwrap();
        assert!(remove_tree(&root.path().join("tree")).is_err());
        assert!(outside.join("precious").exists());
    }

    #[test]
    fn stops_at_a_mount_point() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        fs::create_dir_all(tree.join("mounted")).unwrap();
        // A tmpfs needs privilege; where there is none the kernel refuses the mount and there is nothing to check.
        let mounted = rustix::mount::mount(
            "tmpfs",
            tree.join("mounted"),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            None,
        );
        if mounted.is_err() {
            assert!(!rustix::process::geteuid().is_root(), "root must be able to mount: {mounted:?}");
            return;
        }
        let check = || {
            fs::write(tree.join("mounted/precious"), "x").unwrap();
            let result = remove_tree(&tree);
            let kept = tree.join("mounted/precious").exists();
            rustix::mount::unmount(tree.join("mounted"), rustix::mount::UnmountFlags::DETACH).unwrap();
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::CrossesDevices);
            assert!(kept);
        };
        check();
        rustix::mount::mount("tmpfs", &tree, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        fs::write(tree.join("precious"), "x").unwrap();
        let result = remove_tree(&tree);
        let kept = tree.join("precious").exists();
        rustix::mount::unmount(&tree, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::CrossesDevices);
        assert!(kept);
        let other = root.path().join("other");
        fs::create_dir(&other).unwrap();
        rustix::mount::mount_bind(&other, tree.join("mounted")).unwrap();
        check();
    }
}
