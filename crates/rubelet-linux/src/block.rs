//! Block devices of volumes: the link by which a container's configuration finds one, the bind that shows who uses it,
//! and the loop device that keeps it open, so that it cannot become another device meanwhile (upstream
//! `volumepathhandler`). Blocks.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::mounts::{is_mount_point, unmount_all};

/// How often another free loop device is asked for when somebody else was quicker.
const ATTEMPTS: u32 = 16;

/// Has `link` lead to the device; one that leads elsewhere, as after a reboot, is replaced at once.
///
/// # Errors
/// When something that is no link is in its place.
pub fn link_device(device: &Path, link: &Path) -> io::Result<()> {
    match fs::read_link(link) {
        Ok(present) if present == device => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make_parent(link)?;
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    let new = link.with_file_name(format!(".{name}.new"));
    match symlink(device, &new) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&new)?;
            symlink(device, &new)?;
        }
        made => made?,
    }
    fs::rename(new, link)
}

/// Shows the device at `path` too, as a file of that name; idempotent.
///
/// # Errors
/// When it is no block device, or another one is there.
pub fn bind_device(device: &Path, path: &Path) -> io::Result<()> {
    let wanted = fs::metadata(device)?;
    if !wanted.file_type().is_block_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no block device"));
    }
    make_parent(path)?;
    if is_mount_point(path)? {
        if fs::metadata(path)?.rdev() == wanted.rdev() {
            return Ok(());
        }
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "another device is bound there"));
    }
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o640).open(path)?;
    rustix::mount::mount_bind(device, path)?;
    Ok(())
}

/// Takes a bound device away with the loop device that keeps it open; what is not there is fine.
///
/// # Errors
/// When it is in use.
pub fn unbind_device(path: &Path) -> io::Result<()> {
    detach_loop(path)?;
    unmount_all(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn make_parent(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    match path.parent() {
        Some(parent) => fs::DirBuilder::new().recursive(true).mode(0o750).create(parent),
        None => Ok(()),
    }
}

/// The loop device over a file or device, by the path it was made from.
///
/// # Errors
/// When the kernel's list cannot be read.
pub fn loop_of(path: &Path) -> io::Result<Option<PathBuf>> {
    let real = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        real => real?,
    };
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        if !entry.file_name().as_bytes().starts_with(b"loop") {
            continue;
        }
        // It goes with the device.
        let Ok(backing) = fs::read(entry.path().join("loop/backing_file")) else { continue };
        let backing = backing.trim_ascii_end();
        let backing = backing.strip_suffix(b" (deleted)").unwrap_or(backing);
        if backing == real.as_os_str().as_bytes() || backing == path.as_os_str().as_bytes() {
            return Ok(Some(Path::new("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

/// Makes a loop device over a file or device, or finds the one there is.
///
/// # Errors
/// When the kernel has none to give.
pub fn attach_loop(path: &Path) -> io::Result<PathBuf> {
    if let Some(present) = loop_of(path)? {
        return Ok(present);
    }
    let path = fs::canonicalize(path)?;
    let writable = OpenOptions::new().read(true).write(true).open(&path);
    let (file, read_only) = match writable {
        Ok(file) => (file, false),
        Err(_) => (File::open(&path)?, true),
    };
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    for _ in 0..ATTEMPTS {
        let device = PathBuf::from(format!("/dev/loop{}", sys::free_loop(&control)?));
        let opened = OpenOptions::new().read(true).write(!read_only).open(&device)?;
        match sys::configure(&opened, &file, path.as_os_str().as_bytes(), read_only) {
            // Somebody else was quicker.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            done => return done.map(|()| device),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "no loop device stays free"))
}

/// Gives back the loop device over a file or device; none is fine. One that is in use goes with its last user.
///
/// # Errors
/// When the kernel refuses.
pub fn detach_loop(path: &Path) -> io::Result<()> {
    let Some(device) = loop_of(path)? else { return Ok(()) };
    let opened = match File::open(&device) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    match sys::clear(&opened) {
        // It went meanwhile.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(()),
        done => done,
    }
}

/// The kernel's calls for loop devices, which neither std nor rustix have.
#[allow(unsafe_code, reason = "loop devices are made by ioctls without a safe form")]
mod sys {
    use super::{File, io};
    use rustix::fd::AsRawFd as _;

    const CONFIGURE: libc::Ioctl = 0x4C0A;
    const SET_FD: libc::Ioctl = 0x4C00;
    const CLEAR: libc::Ioctl = 0x4C01;
    const GET_FREE: libc::Ioctl = 0x4C82;
    const READ_ONLY: u32 = 1;

    /// The kernel's `loop_info64`.
    #[repr(C)]
    struct Info {
        device: u64,
        inode: u64,
        real_device: u64,
        offset: u64,
        size_limit: u64,
        number: u32,
        encrypt_type: u32,
        encrypt_key_size: u32,
        flags: u32,
        file_name: [u8; 64],
        crypt_name: [u8; 64],
        encrypt_key: [u8; 32],
        init: [u64; 2],
    }

    /// The kernel's `loop_config`.
    #[repr(C)]
    struct Config {
        fd: u32,
        block_size: u32,
        info: Info,
        reserved: [u64; 8],
    }

    pub(super) fn free_loop(control: &File) -> io::Result<i32> {
        // SAFETY: this call takes no argument.
        checked(unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) })
    }

    pub(super) fn configure(device: &File, backing: &File, name: &[u8], read_only: bool) -> io::Result<()> {
        let mut file_name = [0; 64];
        // The last byte stays zero.
        file_name.iter_mut().take(63).zip(name).for_each(|(to, from)| *to = *from);
        let config = Config {
            fd: backing.as_raw_fd().cast_unsigned(),
            block_size: 0,
            info: Info {
                device: 0,
                inode: 0,
                real_device: 0,
                offset: 0,
                size_limit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: if read_only { READ_ONLY } else { 0 },
                file_name,
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        // SAFETY: the kernel reads one `loop_config`, which lives until the call returns.
        let done = checked(unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const config) });
        match done {
            // Kernels before 5.8 only know this.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTTY)) => {
                // SAFETY: the argument is a descriptor, which is open until the call returns.
                checked(unsafe { libc::ioctl(device.as_raw_fd(), SET_FD, backing.as_raw_fd()) }).map(|_| ())
            }
            done => done.map(|_| ()),
        }
    }

    pub(super) fn clear(device: &File) -> io::Result<()> {
        // SAFETY: this call takes no argument.
        checked(unsafe { libc::ioctl(device.as_raw_fd(), CLEAR, 0) }).map(|_| ())
    }

    fn checked(returned: i32) -> io::Result<i32> {
        if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_its_device_and_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("dir/link");
        for device in ["/dev/one", "/dev/two", "/dev/two"] {
            link_device(Path::new(device), &link).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(device));
        }
        assert_eq!(fs::read_dir(root.path().join("dir")).unwrap().count(), 1);
        fs::remove_file(&link).unwrap();
        fs::write(&link, "x").unwrap();
        assert!(link_device(Path::new("/dev/one"), &link).is_err());
    }

    #[test]
    fn a_device_is_bound_kept_open_and_given_back() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let (file, path) = (root.path().join("image"), root.path().join("map/uid"));
        File::create(&file).unwrap().set_len(1 << 20).unwrap();
        assert!(bind_device(&file, &path).is_err(), "a file is no device");
        unbind_device(&path).unwrap();
        let device = match attach_loop(&file) {
            Ok(device) => device,
            // A machine without loop devices.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => panic!("{error}"),
        };
        let done = (|| {
            bind_device(&device, &path)?;
            bind_device(&device, &path)?;
            let lock = attach_loop(&path)?;
            let again = attach_loop(&path)?;
            let found = loop_of(&path)?;
            unbind_device(&path)?;
            unbind_device(&path)?;
            Ok::<_, io::Error>((lock, again, found))
        })();
        let (same, first) = (attach_loop(&file).unwrap() == device, loop_of(&file).unwrap());
        detach_loop(&file).unwrap();
        let (lock, again, found) = done.unwrap();
        assert!(same && first == Some(device.clone()));
        assert_eq!((&lock, Some(&lock)), (&again, found.as_ref()));
        assert_ne!(lock, device);
        assert!(!path.exists());
        assert_eq!(loop_of(&file).unwrap(), None);
    }
}
