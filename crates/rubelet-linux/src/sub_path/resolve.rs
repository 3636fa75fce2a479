//! Opens a path inside of a directory whose content is not trusted. Relative links are followed as long as they stay
//! inside; links to absolute paths only if they name a place inside of the very directory; magic links of procfs never.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, readlinkat};
use rustix::io::{Errno, Result};

/// How often the kernel is asked again when something was renamed meanwhile.
const ATTEMPTS: u32 = 32;
/// Links that are followed on one path: the kernel's own limit.
const MAX_LINKS: u32 = 40;
/// How deep a path may be that is walked by hand. Each level costs a descriptor.
const MAX_DEPTH: usize = 256;
/// Longest path with all links expanded, bytes.
const MAX_LENGTH: usize = 64 * 1024;

/// Opens `path` inside of `root` as a mere place, so that pipes and devices are not touched. An empty path is the root.
pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    let relative = if path.is_empty() { "." } else { path };
    for _ in 0..ATTEMPTS {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // Asked for as a directory first, which is what starts an automounter.
        let opened = as_directory(|flags| openat2(root, relative, flags, Mode::empty(), resolve));
        match opened {
            // Something was renamed while the kernel looked.
            Err(Errno::AGAIN) => {}
            // A link that leaves the root, perhaps to come back; or a kernel before 5.6; or one that may not be asked.
            Err(Errno::XDEV | Errno::NOSYS | Errno::PERM) => break,
            opened => return opened,
        }
    }
    walk(root, relative.as_bytes())
}

fn as_directory(open: impl Fn(OFlags) -> Result<OwnedFd>) -> Result<OwnedFd> {
    match open(OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC) {
        Err(Errno::NOTDIR | Errno::LOOP) => open(OFlags::PATH | OFlags::CLOEXEC),
        opened => opened,
    }
}

/// The same by hand: every part is opened below the descriptor of the last one and never through a link; `..` goes
/// back to the descriptor it came from, so that moving a directory does not move the way back.
pub(super) fn walk(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let root = openat(root, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut above: Vec<OwnedFd> = vec![root];
    // What is left to walk, the next part last.
    let mut left: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    push(&mut left, path)?;
    while let Some(part) = left.pop() {
        if part == b".." {
            if above.len() == 1 {
                return Err(Errno::XDEV);
            }
            above.pop();
            continue;
        }
        let dir = above.last().ok_or(Errno::NOENT)?;
        let opened =
            as_directory(|flags| openat(dir, part.as_slice(), flags | OFlags::NOFOLLOW, Mode::empty()))?;
        if FileType::from_raw_mode(fstat(&opened)?.st_mode) != FileType::Symlink {
            if above.len() == MAX_DEPTH {
                return Err(Errno::NAMETOOLONG);
            }
            above.push(opened);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        let target = readlinkat(&opened, "", Vec::new())?;
        let target = target.as_bytes();
        if target.starts_with(b"/") {
            let inside = inside(&above[0], target).ok_or(Errno::XDEV)?;
            above.truncate(1);
            push(&mut left, inside.as_os_str().as_bytes())?;
        } else {
            push(&mut left, target)?;
        }
    }
    above.pop().ok_or(Errno::NOENT)
}

/// What follows the root's own path in an absolute one, if it names a place inside. Nothing depends on the answer but
/// which way is walked: it begins at the root's descriptor again.
fn inside(root: &OwnedFd, path: &[u8]) -> Option<PathBuf> {
    let place = std::fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd())).ok()?;
    Path::new(std::ffi::OsStr::from_bytes(path)).strip_prefix(&place).ok().map(Path::to_owned)
}

fn push(left: &mut Vec<Vec<u8>>, path: &[u8]) -> Result<()> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    left.extend(parts.rev().map(<[u8]>::to_vec));
    if left.iter().map(Vec::len).sum::<usize>() > MAX_LENGTH { Err(Errno::NAMETOOLONG) } else { Ok(()) }
}
