//! Shows a path inside of a volume to a container (`subPath`), whatever the container's own processes do to that path
//! meanwhile.
//!
//! What is in a volume is not trusted: the path is opened once, with everything in it kept inside of the volume by the
//! kernel, and what was opened is bound by its descriptor onto a place of the agent's own. Nothing is looked up by name
//! twice, so that there is nothing to swap. Layout and rules are upstream's (`pkg/volume/util/subpath`).

mod resolve;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, StatVfsMountFlags, fchmod, fstat, fstatvfs, mkdirat, open,
    openat, unlinkat,
};
use rustix::io::Errno;

use self::resolve::open_beneath;
use crate::mounts::{is_mount_point, unmount_all};

/// Name of the directory below a pod's that holds its bound sub-paths.
pub const DIRECTORY: &str = "volume-subpaths";
/// Longest sub-path, bytes: the kernel's limit for a path.
const MAX_LENGTH: usize = 4096;

/// Where one sub-path of a container is bound: `<pod>/volume-subpaths/<volume>/<container>/<index>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The pod's directory.
    pub pod_dir: PathBuf,
    /// The pod's name for the volume.
    pub volume: String,
    /// Name of the container.
    pub container: String,
    /// Place of the mount in the container's `volumeMounts`.
    pub index: usize,
}

impl Place {
    /// The path.
    ///
    /// # Errors
    /// When a name cannot be that of a directory.
    pub fn path(&self) -> io::Result<PathBuf> {
        let mut path = self.pod_dir.join(DIRECTORY);
        for name in [&self.volume, &self.container] {
            if matches!(name.as_str(), "" | "." | "..") || name.contains(['/', '\0']) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no file name")));
            }
            path.push(name);
        }
        path.push(self.index.to_string());
        Ok(path)
    }
}

/// Why a sub-path cannot be shown. The source tells of the node's file system and is not for the pod's owner.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    /// It is not there and cannot be made.
    #[error("the sub-path cannot be created")]
    Create(#[source] io::Error),
    /// It leaves the volume, or cannot be opened or bound.
    #[error("the sub-path cannot be opened and bound")]
    Prepare(#[source] io::Error),
}

/// Binds `sub_path` of the volume to its place and returns that; makes directories that are missing, as open as the
/// volume's own. What is bound there already is kept if it is the same file, and replaced if it is not.
///
/// Anything may be bound that a volume can hold: directories, files, sockets, pipes, devices. Mounts inside of the
/// volume may be on the way, but what is mounted below the sub-path is not shown.
///
/// # Errors
/// Which of the steps failed, and why. What is bound is then either right or nothing.
pub fn bind(volume: &Path, sub_path: &str, place: &Place) -> Result<PathBuf, SubPathError> {
    let source = open_or_create(volume, sub_path)?;
    let target = place.path().map_err(SubPathError::Prepare)?;
    bind_file(source.as_fd(), &target).map_err(SubPathError::Prepare)?;
    Ok(target)
}

/// Opens `sub_path` of the volume as a mere place, after making what is missing of it.
///
/// # Errors
/// As [`bind`].
pub fn open_or_create(volume: &Path, sub_path: &str) -> Result<OwnedFd, SubPathError> {
    if sub_path.len() > MAX_LENGTH {
        return Err(SubPathError::Prepare(Errno::NAMETOOLONG.into()));
    }
    // The volume's own path is the agent's or the node's: links in it are followed.
    let root = open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| SubPathError::Prepare(error.into()))?;
    match open_beneath(root.as_fd(), sub_path) {
        Err(Errno::NOENT) => create(&root, sub_path).map_err(|error| SubPathError::Create(error.into())),
        opened => opened.map_err(|error| SubPathError::Prepare(error.into())),
    }
}

/// Makes what is missing of a sub-path, one directory after another, each below the last one's descriptor.
fn create(root: &OwnedFd, sub_path: &str) -> rustix::io::Result<OwnedFd> {
    let mode = Mode::from_raw_mode(fstat(root)?.st_mode & 0o7777);
    let parts: Vec<&str> = parts(sub_path).collect();
    // How much of it is there: found by halves, for paths that are as deep as paths can be. Whoever changes it
    // meanwhile makes this one wrong, not unsafe.
    let (mut present, mut missing, mut dir) = (0, parts.len(), open_beneath(root.as_fd(), "")?);
    while missing - present > 1 {
        let half = present + (missing - present) / 2;
        match open_beneath(root.as_fd(), &parts[..half].join("/")) {
            Err(Errno::NOENT) => missing = half,
            opened => (present, dir) = (half, opened?),
        }
    }
    for part in &parts[present..] {
        let made = match mkdirat(&dir, *part, mode) {
            Ok(()) => true,
            // Somebody else was quicker, or a link that leads nowhere is in the way: opening it tells.
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error),
        };
        let flags =
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let below = openat(&dir, *part, flags, Mode::empty())?;
        if made {
            open_up(&below, mode)?;
        }
        dir = below;
    }
    Ok(dir)
}

/// Gives a directory that was just made the mode that the umask kept from it. It may have been swapped for another one
/// meanwhile: what is somebody else's, or has something in it, keeps its mode.
fn open_up(dir: &OwnedFd, mode: Mode) -> rustix::io::Result<()> {
    let found = fstat(dir)?;
    if found.st_mode & 0o7777 == mode.as_raw_mode() || found.st_uid != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    for entry in Dir::read_from(dir)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(());
        }
    }
    fchmod(dir, mode)
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !matches!(*part, "" | "."))
}

fn bind_file(source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let found = fstat(source)?;
    if is_mount_point(target)? {
        if is_bound(source, target)? {
            return Ok(());
        }
        unmount_all(target)?;
    }
    let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
    make_target(target, is_directory)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let onto = open(target, flags, Mode::empty())?;
    // Both by descriptor: neither side has a name that somebody could swap.
    rustix::mount::mount_bind(in_proc(source), in_proc(onto.as_fd()))?;
    Ok(())
}

fn in_proc(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Whether the same file is mounted there already, no more and no less open to writing.
fn is_bound(source: BorrowedFd<'_>, target: &Path) -> io::Result<bool> {
    let present = open(target, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let (wanted, found) = (fstat(source)?, fstat(&present)?);
    let kept = StatVfsMountFlags::RDONLY
        | StatVfsMountFlags::NOSUID
        | StatVfsMountFlags::NODEV
        | StatVfsMountFlags::NOEXEC;
    let same_file = (wanted.st_dev, wanted.st_ino) == (found.st_dev, found.st_ino);
    Ok(same_file && (fstatvfs(source)?.f_flag & kept) == (fstatvfs(&present)?.f_flag & kept))
}

/// An empty directory or file to mount on.
fn make_target(target: &Path, is_directory: bool) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
    }
    let present = match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        found => Some(found?.file_type()),
    };
    match present {
        Some(kind) if is_directory && kind.is_dir() || !is_directory && kind.is_file() => return Ok(()),
        Some(kind) if kind.is_dir() => fs::remove_dir(target)?,
        Some(_) => fs::remove_file(target)?,
        None => {}
    }
    if is_directory {
        return DirBuilder::new().mode(0o750).create(target);
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open(target, flags, Mode::from_raw_mode(0o640))?;
    Ok(())
}

/// Unmounts and removes every bound sub-path of a pod; idempotent. What is bound is not looked at, so that one on a
/// server that is gone is no obstacle, and nothing is removed but what is empty.
///
/// # Errors
/// When one is busy, or holds what the agent did not put there.
pub fn tear_down(pod_dir: &Path) -> io::Result<()> {
    let top = pod_dir.join(DIRECTORY);
    for volume in entries(&top)? {
        for container in entries(&volume)? {
            for target in entries(&container)? {
                let named = |what: &str, error: io::Error| {
                    io::Error::new(error.kind(), format!("{what} sub-path {}: {error}", target.display()))
                };
                unmount_all(&target).map_err(|error| named("unmount", error))?;
                remove_empty(&target).map_err(|error| named("remove", error))?;
            }
            remove_empty(&container)?;
        }
        remove_empty(&volume)?;
    }
    remove_empty(&top)
}

/// The entries of a directory; none of what is none.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir_file = match openat(CWD, dir, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut found = Vec::new();
    for entry in Dir::new(dir_file)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            found.push(dir.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name)));
        }
    }
    Ok(found)
}

/// Removes a file or an empty directory that nothing is mounted on.
fn remove_empty(path: &Path) -> io::Result<()> {
    match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Err(Errno::NOTDIR) => match unlinkat(CWD, path, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        },
        Err(Errno::NOENT) => Ok(()),
        removed => Ok(removed?),
    }
}
