//! Whether something is mounted on a name, asked so that what is mounted there is never touched: a server that is gone
//! cannot hold whoever asks. Kernels before 5.6 cannot tell this way.

use std::io;
use std::path::Path;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// Opens a directory below an open one, unless it is a link or something is mounted on it (`XDEV`). `None`: this kernel
/// cannot tell.
pub(crate) fn open_dir(dir: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    told(openat2(dir, name, flags, Mode::empty(), ResolveFlags::NO_XDEV))
}

/// Whether something is mounted on the last part of a path; what is not there has nothing mounted on it. `None`: this
/// kernel cannot tell.
///
/// # Errors
/// When the directory that it is in cannot be opened.
pub(crate) fn is_mounted_on(path: &Path) -> io::Result<Option<bool>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Some(false)),
        parent => parent?,
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match told(openat2(&parent, name, flags, Mode::empty(), ResolveFlags::NO_XDEV)) {
        Ok(Some(_)) | Err(Errno::NOENT) => Ok(Some(false)),
        Ok(None) => Ok(None),
        Err(Errno::XDEV) => Ok(Some(true)),
        Err(error) => Err(error.into()),
    }
}

fn told(opened: rustix::io::Result<OwnedFd>) -> rustix::io::Result<Option<OwnedFd>> {
    match opened {
        // Sandboxes that do not know the call say that it is not permitted.
        Err(Errno::NOSYS | Errno::PERM) => Ok(None),
        opened => opened.map(Some),
    }
}
