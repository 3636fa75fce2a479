//! The few mounts the agent makes itself.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags};

/// Whether something is mounted at `path`: it lies on another device than its parent. A path that does not
/// exist is no mount point.
///
/// # Errors
/// When the path cannot be looked at.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let own = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        own => own?,
    };
    let parent = fs::metadata(path.parent().unwrap_or(path))?;
    Ok(own.is_dir() && own.dev() != parent.dev())
}

/// Mounts a tmpfs of at most `limit` bytes, or of the kernel's default size.
///
/// # Errors
/// When the kernel refuses.
pub fn mount_tmpfs(path: &Path, limit: Option<i64>) -> io::Result<()> {
    let size = limit
        .filter(|limit| *limit > 0)
        .and_then(|limit| std::ffi::CString::new(format!("size={limit}")).ok());
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), size.as_deref())?;
    Ok(())
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
        if let Err(error) = mount_tmpfs(&path, Some(1 << 20)) {
            assert!(!rustix::process::geteuid().is_root(), "root must be able to mount: {error}");
            return;
        }
        let found = is_mount_point(&path).unwrap();
        let size = rustix::fs::statvfs(&path).map(|fs| fs.f_blocks * fs.f_frsize);
        unmount(&path).unwrap();
        assert!(found);
        assert_eq!(size.unwrap(), 1 << 20);
        assert!(!is_mount_point(&path).unwrap());
    }
}
