//! The few mounts the agent makes itself.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rubelet_core::claims::BindFlag;
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, CWD, StatVfsMountFlags, StatxAttributes, StatxFlags, statx};
use rustix::mount::{MountFlags, UnmountFlags};

/// What `statfs` tells of a file system of huge pages (`HUGETLBFS_MAGIC`).
const HUGE_PAGES: i64 = 0x9584_58f6;
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Whether `path` is the root of a mount, a bind of a directory or file on the same device included. A path that
/// does not exist is none. What is mounted is not touched where the kernel can tell without (5.6).
///
/// # Errors
/// When the path cannot be looked at.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    if let Some(told) = crate::crossing::is_mounted_on(path)? {
        return Ok(told);
    }
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let status = match statx(CWD, path, flags, StatxFlags::TYPE) {
        Err(rustix::io::Errno::NOENT) => return Ok(false),
        status => status?,
    };
    if status.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    is_listed(path)
}

/// The same as the list of mounts tells, for kernels before 5.8.
fn is_listed(path: &Path) -> io::Result<bool> {
    let (parent, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default());
    let path = fs::canonicalize(parent)?.join(name);
    Ok(mounts_in(&mountinfo()?).any(|mount| mount.point == path))
}

/// Whether an entry of an open directory is a mount's root; `parent_device` is asked for on kernels that do not tell (before
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

/// Mounts huge pages of this size (bytes). The root is the agent's and may be read by all; with a group it is the
/// group's, and hands that down.
///
/// # Errors
/// When the kernel refuses: `InvalidInput` when it has no pages of that size.
pub fn mount_huge_pages(path: &Path, page_bytes: u64, group: Option<u32>) -> io::Result<()> {
    let mut options = format!("pagesize={page_bytes}");
    if let Some(group) = group {
        let _ = write!(options, ",mode=775,gid={group}");
    }
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    rustix::mount::mount("nodev", path, "hugetlbfs", MountFlags::empty(), options.as_c_str())?;
    if group.is_some() {
        // The option does not take the bit that hands the group down.
        fs::set_permissions(path, fs::Permissions::from_mode(0o2775))?;
    }
    Ok(())
}

/// The size of the huge pages that are mounted at `path`, bytes; `None` when something else is mounted there.
///
/// # Errors
/// When it cannot be looked at.
pub fn huge_page_bytes(path: &Path) -> io::Result<Option<u64>> {
    let found = rustix::fs::statfs(path)?;
    Ok((found.f_type == HUGE_PAGES).then(|| u64::try_from(found.f_bsize).unwrap_or_default()))
}

/// Unmounts what is mounted at `path`.
///
/// # Errors
/// When it is busy or not mounted.
pub fn unmount(path: &Path) -> io::Result<()> {
    rustix::mount::unmount(path, UnmountFlags::NOFOLLOW)?;
    Ok(())
}

/// Shows the directory `source` at `target` too, with these restrictions besides those of the mount it is on.
///
/// # Errors
/// When the kernel refuses; nothing is mounted then.
pub fn bind(source: &Path, target: &Path, flags: &[BindFlag]) -> io::Result<()> {
    rustix::mount::mount_bind(source, target)?;
    if flags.is_empty() {
        return Ok(());
    }
    // A bind takes no flags by itself, and a remount takes away those it does not name.
    let restricted = rustix::fs::statvfs(target).and_then(|present| {
        let mut all = MountFlags::BIND | of_mount(present.f_flag);
        flags.iter().for_each(|flag| all |= of_flag(*flag));
        rustix::mount::mount_remount(target, all, "")
    });
    restricted.map_err(|error| {
        // What was bound must not be taken for what was asked for.
        let _ = unmount(target);
        io::Error::from(error)
    })
}

fn of_flag(flag: BindFlag) -> MountFlags {
    match flag {
        BindFlag::ReadOnly => MountFlags::RDONLY,
        BindFlag::NoSuid => MountFlags::NOSUID,
        BindFlag::NoDev => MountFlags::NODEV,
        BindFlag::NoExec => MountFlags::NOEXEC,
        BindFlag::NoAtime => MountFlags::NOATIME,
        BindFlag::NoDirAtime => MountFlags::NODIRATIME,
        BindFlag::RelAtime => MountFlags::RELATIME,
        BindFlag::StrictAtime => MountFlags::STRICTATIME,
    }
}

fn of_mount(present: StatVfsMountFlags) -> MountFlags {
    let pairs = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ];
    let kept = pairs.into_iter().filter(|(seen, _)| present.contains(*seen));
    kept.fold(MountFlags::empty(), |all, (_, flag)| all | flag)
}

/// Has the kernel give up on a server: whoever waits for what is mounted at `path` gets an error, so that it can be
/// unmounted. Network file systems and FUSE know this, and what was not written there yet is lost; of others it is a
/// plain [`unmount`].
pub fn give_up(path: &Path) {
    let _ = rustix::mount::unmount(path, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW);
}

/// Unmounts everything at `path`, however often it was mounted on; asks the kernel by doing it, so that a bind on the
/// same device is found on every kernel.
///
/// # Errors
/// When it is busy.
pub fn unmount_all(path: &Path) -> io::Result<()> {
    loop {
        match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted here, or nothing is here.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where else the directory at `path` is mounted (upstream `GetMountRefs`).
///
/// # Errors
/// When `path` or the list of mounts cannot be read.
pub fn other_mounts_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(other_mounts_in(&mountinfo()?, &fs::canonicalize(path)?))
}

/// The kernel's list. The name of somebody else's mount that is no text keeps nobody from reading the rest.
fn mountinfo() -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(MOUNTINFO)?).into_owned())
}

/// One mount as the kernel lists it.
struct Mount<'a> {
    device: &'a str,
    /// The directory of the device that it shows.
    root: PathBuf,
    point: PathBuf,
}

fn mounts_in(mountinfo: &str) -> impl Iterator<Item = Mount<'_>> {
    // ID, parent, device, root, mount point.
    mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let (device, root, point) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Mount { device, root: unescaped(root), point: unescaped(point) })
    })
}

fn other_mounts_in(mountinfo: &str, path: &Path) -> Vec<PathBuf> {
    let mounts: Vec<Mount<'_>> = mounts_in(mountinfo).collect();
    // Of several on one mount point the last one is seen.
    let over = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    let Some(over) = over.max_by_key(|mount| mount.point.components().count()) else { return Vec::new() };
    let mut inside = over.root.clone();
    inside.extend(path.strip_prefix(&over.point).into_iter().flat_map(Path::components));
    let others = mounts
        .iter()
        .filter(|mount| mount.device == over.device && mount.root == inside && mount.point != path);
    others.map(|mount| mount.point.clone()).collect()
}

/// A path as the kernel writes it, with blanks and the like as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let octal = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_bind_is_restricted_found_and_taken_away() {
        let root = tempfile::tempdir().unwrap();
        let (source, target) = (root.path().join("a source"), root.path().join("target"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(source.join("file"), "x").unwrap();
        unmount_all(&root.path().join("none")).unwrap();
        if let Err(error) = bind(&source, &target, &[BindFlag::ReadOnly, BindFlag::NoExec]) {
            assert!(!rustix::process::geteuid().is_root(), "root must be able to mount: {error}");
            return;
        }
        let (seen, written) = (fs::read_to_string(target.join("file")), fs::write(target.join("new"), "x"));
        let flags = rustix::fs::statvfs(&target).map(|found| found.f_flag);
        let others = other_mounts_of(&source);
        let listed = (is_listed(&target), is_listed(&source));
        bind(&source, &target, &[]).unwrap();
        unmount_all(&target).unwrap();
        assert_eq!(seen.unwrap(), "x");
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert!(flags.unwrap().contains(StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOEXEC));
        assert!(listed.0.unwrap() && !listed.1.unwrap());
        assert_eq!(others.unwrap(), [fs::canonicalize(&target).unwrap()]);
        assert!(!is_mount_point(&target).unwrap() && fs::read_dir(&target).unwrap().next().is_none());
        fs::write(source.join("new"), "x").unwrap();
    }

    #[test]
    fn other_mounts_are_those_of_the_same_directory() {
        let info = "\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
30 21 8:2 / /mnt/disk rw - ext4 /dev/sdb1 rw
31 21 8:1 /srv/data /pods/1/local rw - ext4 /dev/sda1 rw
32 21 8:1 /srv/data/below /pods/2/local rw - ext4 /dev/sda1 rw
33 21 8:2 / /pods/3/local rw - ext4 /dev/sdb1 rw
34 21 8:2 /a\\040b /pods/4/lo\\040cal rw - ext4 /dev/sdb1 rw
";
        let check = |path: &str, expected: &[&str]| {
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(other_mounts_in(info, Path::new(path)), expected, "{path}");
        };
        check("/srv/data", &["/pods/1/local"]);
        check("/srv", &[]);
        check("/mnt/disk", &["/pods/3/local"]);
        check("/pods/3/local", &["/mnt/disk"]);
        check("/mnt/disk/a b", &["/pods/4/lo cal"]);
        assert_eq!(other_mounts_in("", Path::new("/x")), Vec::<PathBuf>::new());
    }

    #[test]
    fn huge_pages_have_their_size_and_group() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("m");
        fs::create_dir(&path).unwrap();
        assert_eq!(huge_page_bytes(&path).unwrap(), None);
        if !rustix::process::geteuid().is_root()
            || !Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists()
        {
            return;
        }
        assert!(mount_huge_pages(&path, 3 << 20, None).is_err(), "no pages of that size");
        mount_huge_pages(&path, 2 << 20, Some(7)).unwrap();
        let (size, found) = (huge_page_bytes(&path), fs::metadata(&path));
        unmount(&path).unwrap();
        assert_eq!(size.unwrap(), Some(2 << 20));
        assert_eq!(found.map(|found| (found.mode() & 0o7777, found.gid())).unwrap(), (0o2775, 7));
    }

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
