//! How much room things take: a file system, the files of a directory, a tree.
//!
//! What is measured may belong to a pod: no link is followed, nothing is waited for, and a tree is walked in steps, so
//! that whoever walks can stop. Everything here may block.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rubelet_core::stats::usage::FsUsage;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2, statat};
use rustix::io::Errno;

/// Files with several names that are remembered in one walk; beyond them a file counts once for each name.
const LINKS: usize = 1 << 18;
/// Bytes of the blocks that the system counts files in.
const BLOCK: u64 = 512;

/// What files take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Space {
    fn add(&mut self, status: &Stat) {
        let blocks = u64::try_from(status.st_blocks).unwrap_or(0);
        self.bytes = self.bytes.saturating_add(blocks.saturating_mul(BLOCK));
        self.inodes += 1;
    }
}

/// The file system that holds a path; what is used of it by everybody. `device` stays empty.
///
/// # Errors
/// The system's.
pub fn file_system(path: &Path, at: Timestamp) -> io::Result<FsUsage> {
    let found = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| Some(blocks.saturating_mul(found.f_frsize));
    // Btrfs and some others count no inodes.
    let inodes = |count: u64| (found.f_files > 0).then_some(count);
    Ok(FsUsage {
        at,
        available: bytes(found.f_bavail),
        capacity: bytes(found.f_blocks),
        used: bytes(found.f_blocks.saturating_sub(found.f_bfree)),
        inodes_free: inodes(found.f_ffree),
        inodes: inodes(found.f_files),
        inodes_used: inodes(found.f_files.saturating_sub(found.f_ffree)),
        device: String::new(),
    })
}

/// One file; a link by itself.
///
/// # Errors
/// When it is not there.
pub fn file_space(path: &Path) -> io::Result<Space> {
    let mut space = Space::default();
    space.add(&statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)?);
    Ok(space)
}

/// The files of a directory, not those of directories in it (upstream `fileMetricsByDir`).
///
/// # Errors
/// When the directory cannot be read.
pub fn files_space(dir: &Path) -> io::Result<Space> {
    let mut space = Space::default();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = Dir::new(rustix::fs::open(dir, flags, Mode::empty())?)?;
    while let Some(entry) = dir.next() {
        let entry = entry?;
        if entry.file_type() == FileType::Directory {
            continue;
        }
        let Ok(status) = statat(dir.fd()?, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
            space.add(&status);
        }
    }
    Ok(space)
}

/// Measures a tree as `du` does: disk blocks and inodes on one file system, a file of several names once.
#[derive(Debug)]
pub struct TreeWalk {
    top: OwnedFd,
    device: u64,
    /// Directories below the top that are still to be read, the next one last.
    pending: Vec<PathBuf>,
    links: BTreeSet<u64>,
    space: Space,
}

impl TreeWalk {
    /// Begins a walk.
    ///
    /// # Errors
    /// When there is no directory.
    pub fn new(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let top = rustix::fs::open(path, flags, Mode::empty())?;
        let status = fstat(&top)?;
        let mut space = Space::default();
        space.add(&status);
        let pending = vec![PathBuf::from(".")];
        Ok(Self { top, device: status.st_dev, pending, links: BTreeSet::new(), space })
    }

    /// Goes on until it has looked at this many entries, and to the end of the directory it is in then. Returns what
    /// there is when the whole tree has been seen.
    ///
    /// # Errors
    /// The system's; what has vanished or cannot be reached is passed over.
    pub fn step(&mut self, entries: usize) -> io::Result<Option<Space>> {
        let mut seen = 0;
        while let Some(dir) = self.pending.pop() {
            seen += self.read(&dir)?;
            if seen >= entries && !self.pending.is_empty() {
                return Ok(None);
            }
        }
        Ok(Some(self.space))
    }

    fn read(&mut self, path: &Path) -> io::Result<usize> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        // A container may put a link or a mount in place of what was a directory a moment ago.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let dir = match openat2(&self.top, path, flags, Mode::empty(), resolve) {
            Ok(dir) => dir,
            Err(Errno::MFILE | Errno::NFILE | Errno::IO) => {
                return Err(io::Error::other(format!("{} cannot be read", path.display())));
            }
            Err(_) => return Ok(1),
        };
        let mut dir = Dir::new(dir)?;
        let mut seen = 1;
        while let Some(Ok(entry)) = dir.next() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            seen += 1;
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            let Ok(status) = statat(dir.fd()?, name, flags) else { continue };
            if status.st_dev != self.device {
                continue;
            }
            if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
                self.pending.push(path.join(OsStr::from_bytes(name.to_bytes())));
            } else if status.st_nlink > 1 {
                let known = if self.links.len() < LINKS {
                    !self.links.insert(status.st_ino)
                } else {
                    self.links.contains(&status.st_ino)
                };
                if known {
                    continue;
                }
            }
            self.space.add(&status);
        }
        Ok(seen)
    }
}

/// Measures a whole tree at once; see [`TreeWalk`].
///
/// # Errors
/// As [`TreeWalk`].
pub fn directory_usage(path: &Path) -> io::Result<Space> {
    let mut walk = TreeWalk::new(path)?;
    loop {
        if let Some(space) = walk.step(usize::MAX)? {
            return Ok(space);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn blocks(path: &Path) -> u64 {
        fs::symlink_metadata(path).unwrap().blocks() * BLOCK
    }

    #[test]
    fn a_tree_is_measured_as_du_does() {
        let root = tempfile::tempdir().unwrap();
        let (tree, outside) = (root.path().join("tree"), root.path().join("outside"));
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("big"), vec![1; 1 << 20]).unwrap();
        fs::write(tree.join("a/file"), vec![1; 100_000]).unwrap();
        fs::write(tree.join("a/b/c/file"), "x").unwrap();
        fs::hard_link(tree.join("a/file"), tree.join("a/b/again")).unwrap();
        symlink(&outside, tree.join("link")).unwrap();
        symlink("../a", tree.join("a/loop")).unwrap();
        // The kernel may give a file its blocks only when it writes it out.
        for file in ["a/file", "a/b/c/file"] {
            fs::File::open(tree.join(file)).unwrap().sync_all().unwrap();
        }
        let counted = ["", "a", "a/b", "a/b/c", "a/file", "a/b/c/file", "link", "a/loop"];
        let bytes: u64 = counted.iter().map(|path| blocks(&tree.join(path))).sum();
        let expected = Space { bytes, inodes: counted.len() as u64 };
        assert_eq!(directory_usage(&tree).unwrap(), expected);
        // In steps it is the same.
        let mut walk = TreeWalk::new(&tree).unwrap();
        let mut steps = 1;
        let found = loop {
            match walk.step(1).unwrap() {
                Some(space) => break space,
                None => steps += 1,
            }
        };
        assert_eq!(found, expected);
        assert!(steps > 2, "{steps}");
        assert!(directory_usage(&tree.join("link")).is_err(), "a link is no directory");
        assert!(directory_usage(&tree.join("none")).is_err());
    }

    #[test]
    fn a_directory_that_became_a_link_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (tree, outside) = (root.path().join("tree"), root.path().join("outside"));
        fs::create_dir_all(tree.join("a")).unwrap();
        fs::create_dir_all(tree.join("b")).unwrap();
        fs::create_dir_all(outside.join("deep")).unwrap();
        let mut walk = TreeWalk::new(&tree).unwrap();
        assert_eq!(walk.step(1).unwrap(), None);
        for name in ["a", "b"] {
            fs::remove_dir(tree.join(name)).unwrap();
            symlink(&outside, tree.join(name)).unwrap();
        }
        assert_eq!(walk.step(usize::MAX).unwrap().unwrap().inodes, 3);
    }

    #[test]
    fn a_mount_below_is_not_counted() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("below");
        fs::create_dir(&below).unwrap();
        if crate::mounts::mount_tmpfs(&below, Some(1 << 20), 0o755, None).is_err() {
            assert!(!rustix::process::geteuid().is_root(), "root must be able to mount");
            return;
        }
        fs::write(below.join("file"), vec![1; 100_000]).unwrap();
        let (whole, mounted) = (directory_usage(root.path()), file_system(&below, Timestamp::UNIX_EPOCH));
        crate::mounts::unmount(&below).unwrap();
        assert_eq!(whole.unwrap().inodes, 1);
        let mounted = mounted.unwrap();
        assert_eq!(mounted.capacity, Some(1 << 20));
        assert!(mounted.used.unwrap() >= 100_000 && mounted.inodes_used.unwrap() >= 1, "{mounted:?}");
    }

    #[test]
    fn only_files_of_a_directory_count() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("dir")).unwrap();
        fs::write(root.path().join("0.log"), "x").unwrap();
        fs::write(root.path().join("0.log.1.gz"), "x").unwrap();
        assert_eq!(files_space(root.path()).unwrap().inodes, 2);
        assert_eq!(file_space(&root.path().join("0.log")).unwrap().inodes, 1);
        assert!(files_space(&root.path().join("none")).is_err());
    }
}
