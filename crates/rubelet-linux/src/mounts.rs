//! The few mounts the agent makes itself.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::mount::{MountFlags, UnmountFlags};

/// Whether `path` is the root of a mount, a bind of a directory or file on the same device included. A path that
/// does not exist is none.
///
/// # Errors
/// When the path cannot be looked at.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let parent = || Ok(fs::metadata(path.parent().unwrap_or(path))?.dev());
    match is_mount_root(CWD, path, parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        answer => answer,
    }
}

/// The same for an entry of an open directory; `parent_device` is asked for on kernels that do not tell (before
/// 5.8), where a bind on the same device goes unnoticed.
pub(crate) fn is_mount_root(
    dir: impl AsFd,
    name: impl rustix::path::Arg,
    parent_device: impl FnOnce() -> io::Result<u64>,
) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let status = statx(dir, name, flags, StatxFlags::TYPE)?;
    if status.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    Ok(rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor) != parent_device()?)
}

/// Whether this kernel refused `noswap` before (it came with Linux 6.4): each refusal is a line in the kernel's log.
static NO_NOSWAP: AtomicBool = AtomicBool::new(false);

/// Mounts a tmpfs of at most `limit` bytes, or of the kernel's default size, whose root has this mode and group from
/// the first moment on. What is in it is not swapped out where the kernel can promise that.
///
/// # Errors
/// When the kernel refuses.
pub fn mount_tmpfs(path: &Path, limit: Option<i64>, mode: u32, group: Option<u32>) -> io::Result<()> {
    let mut options = format!("mode={mode:o}");
    if let Some(limit) = limit.filter(|limit| *limit > 0) {
        let _ = write!(options, ",size={limit}");
    }
    if let Some(group) = group {
        let _ = write!(options, ",gid={group}");
    }
    let mount = |options: String| {
        let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
        rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str())
            .map_err(io::Error::from)
    };
    if !NO_NOSWAP.load(Ordering::Relaxed) {
        match mount(format!("{options},noswap")) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                NO_NOSWAP.store(true, Ordering::Relaxed);
            }
            done => return done,
        }
    }
    mount(options)
}

/// Unmounts what is mounted at `path`.
///
/// # Errors
/// When it is busy or not mounted.
pub fn unmount(path: &Path) -> io::Result<()> {
    rustix::mount::unmount(path, UnmountFlags::NOFOLLOW)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tmpfs_has_its_size_and_is_found() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("m");
        fs::create_dir(&path).unwrap();
        assert!(!is_mount_point(&path).unwrap() && !is_mount_point(&root.path().join("none")).unwrap());
        if let Err(error) = mount_tmpfs(&path, Some(1 << 20), 0o2777, Some(7)) {
            assert!(!rustix::process::geteuid().is_root(), "root must be able to mount: {error}");
            return;
        }
        let found = is_mount_point(&path).unwrap();
        let root_of = fs::metadata(&path).map(|metadata| (metadata.mode() & 0o7777, metadata.gid()));
        let size = rustix::fs::statvfs(&path).map(|fs| fs.f_blocks * fs.f_frsize);
        unmount(&path).unwrap();
        assert!(found);
        assert_eq!(size.unwrap(), 1 << 20);
        assert_eq!(root_of.unwrap(), (0o2777, 7));
        assert!(!is_mount_point(&path).unwrap());
        // A bind on the same device is a mount point too.
        let source = root.path().join("source");
        fs::create_dir(&source).unwrap();
        rustix::mount::mount_bind(&source, &path).unwrap();
        let found = is_mount_point(&path).unwrap();
        unmount(&path).unwrap();
        assert!(found);
    }
}
