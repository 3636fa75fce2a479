//! Hands a directory tree to a group (`fsGroup`): every file belongs to it and can be read and written by it. Follows
//! no link, and touches nothing that somebody swaps in while it walks: each file is opened first, then changed.

use std::io;
use std::path::Path;

use rustix::fd::{AsFd, AsRawFd as _, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, chmod, chownat, fstat, openat};

/// Read and write, for owner and group.
const FILE: u32 = 0o660;
/// For directories besides: search, and that what is made in them is the group's.
const DIRECTORY: u32 = 0o2110;
/// How deep the walk goes. Each level costs a descriptor.
const MAX_DEPTH: u32 = 128;

/// Whether the root of the tree is the group's already, and as open as [`hand_to_group`] would make it (upstream's
/// `OnRootMismatch`).
///
/// # Errors
/// When it cannot be looked at.
pub fn is_handed(root: &Path, group: u32) -> io::Result<bool> {
    let found = rustix::fs::stat(root)?;
    let wanted = FILE | DIRECTORY;
    let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
    Ok(is_directory && found.st_gid == group && found.st_mode & wanted == wanted)
}

/// Hands everything at and below `root` to the group, the root last: a walk that was cut short is seen at the root.
///
/// # Errors
/// The first thing that cannot be changed.
pub fn hand_to_group(root: &Path, group: u32) -> io::Result<()> {
    let root = openat(CWD, root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    hand(&root, Gid::from_raw(group), 0)
}

fn hand(file: &OwnedFd, group: Gid, depth: u32) -> io::Result<()> {
    let found = fstat(file)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    if kind == FileType::Directory {
        if depth == MAX_DEPTH {
            return Err(io::Error::other(format!("the tree is deeper than {MAX_DEPTH} directories")));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(file, ".", flags, Mode::empty())?;
        for entry in Dir::read_from(dir.as_fd())? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match openat(&dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
                // It went meanwhile.
                Err(rustix::io::Errno::NOENT) => {}
                below => hand(&below?, group, depth + 1)?,
            }
        }
    }
    if found.st_gid != group.as_raw() {
        chownat(file, "", None, Some(group), AtFlags::EMPTY_PATH)?;
    }
    // A link has no mode of its own.
    if kind == FileType::Symlink {
        return Ok(());
    }
    let wanted = if kind == FileType::Directory { FILE | DIRECTORY } else { FILE };
    let mode = found.st_mode & 0o7777 | wanted;
    // Changing the group may have taken bits away.
    if fstat(file)?.st_mode & 0o7777 != mode {
        // A descriptor that is a mere place cannot be changed, its file can.
        let place = format!("/proc/self/fd/{}", file.as_raw_fd());
        chmod(place, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn everything_is_the_groups_and_links_are_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let (root, outside) = (base.path().join("root"), base.path().join("outside"));
        fs::create_dir_all(root.join("a/b")).unwrap();
        for (path, mode) in [("file", 0o600), ("a/tool", 0o755), ("a/b/set", 0o4770)] {
            fs::write(root.join(path), "x").unwrap();
            fs::set_permissions(root.join(path), Permissions::from_mode(mode)).unwrap();
        }
        fs::write(&outside, "x").unwrap();
        fs::set_permissions(&outside, Permissions::from_mode(0o600)).unwrap();
        symlink(&outside, root.join("a/link")).unwrap();
        // Without privilege only one's own group can be given.
        let own = fs::metadata(&outside).unwrap().gid();
        let group = if rustix::process::geteuid().is_root() { 4321 } else { own };

        assert!(!is_handed(&root, group).unwrap());
        hand_to_group(&root, group).unwrap();
        assert!(is_handed(&root, group).unwrap() && !is_handed(&root, group + 1).unwrap());
        let check = |path: &str, mode: u32| {
            let found = fs::symlink_metadata(root.join(path)).unwrap();
            assert_eq!(
                format!("{:o} {}", found.mode() & 0o7777, found.gid()),
                format!("{mode:o} {group}"),
                "{path}"
            );
        };
        check("", 0o2775);
        check("a/b", 0o2775);
        check("file", 0o660);
        check("a/tool", 0o775);
        check("a/b/set", 0o4770);
        check("a/link", 0o777);
        let found = fs::metadata(&outside).unwrap();
        assert_eq!((found.mode() & 0o7777, found.gid()), (0o600, own));
        hand_to_group(&root, group).unwrap();
        check("a/b/set", 0o4770);
    }
}
