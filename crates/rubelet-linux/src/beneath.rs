//! Opening files below a directory whose content is not trusted: no link, however placed or swapped, leads out.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Reads a regular file below `root`, at most `limit` bytes of it.
///
/// # Errors
/// When there is none, when a link leads out of `root` (`CrossesDevices`), or when the file is longer than `limit`.
pub fn read_file(root: &Path, relative: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let dir = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let opened = rustix::fs::openat2(
        &dir,
        relative,
        // Not blocking, so that a named pipe in place of the file cannot hold the caller.
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )?;
    let file = File::from(opened);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {limit} bytes")));
    }
    Ok(bytes)
}

/// Reads the last `limit` bytes of a regular file that a container may have put something else in place of: a link
/// is not followed, a pipe or device not waited for.
///
/// # Errors
/// When there is no regular file at `path`.
pub fn read_tail(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_inside_work_and_links_outside_do_not() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("volume");
        fs::create_dir_all(root.join("d")).unwrap();
        fs::write(base.path().join("secret"), "no").unwrap();
        fs::write(root.join("d/file"), "yes").unwrap();
        symlink("d/file", root.join("inside")).unwrap();
        symlink("../secret", root.join("outside")).unwrap();
        symlink(base.path().join("secret"), root.join("absolute")).unwrap();
        let read = |path: &str, limit| read_file(&root, Path::new(path), limit).map_err(|error| error.kind());
        assert_eq!(read("d/file", 3).unwrap(), b"yes");
        assert_eq!(read("inside", 10).unwrap(), b"yes");
        for bad in ["outside", "absolute", "../secret", "d", "none", "/d/file"] {
            assert!(read(bad, 10).is_err(), "{bad}");
        }
        assert_eq!(read("d/file", 2), Err(io::ErrorKind::FileTooLarge));
    }

    #[test]
    fn the_tail_of_a_file_but_not_of_a_link_or_pipe() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("file");
        fs::write(&file, "0123456789").unwrap();
        assert_eq!(read_tail(&file, 3).unwrap(), b"789");
        assert_eq!(read_tail(&file, 100).unwrap(), b"0123456789");
        symlink(&file, base.path().join("link")).unwrap();
        assert!(read_tail(&base.path().join("link"), 3).is_err());
        rustix::fs::mkfifoat(rustix::fs::CWD, base.path().join("pipe"), Mode::RWXU).unwrap();
        assert!(read_tail(&base.path().join("pipe"), 3).is_err());
    }
}
