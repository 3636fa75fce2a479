//! The files of one container's log: the one that is written, and those it was rotated away to
//! (`0.log.20260102-030405`, later `….gz`).
//!
//! Blocking. Nothing but regular files is opened, and no symbolic link is followed below the container's directory:
//! what stands there may have been put there by somebody who may write logs and not read the host's other files.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

/// Where a container's log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFiles {
    directory: PathBuf,
    name: String,
}

/// Which file a name stood for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// An open log file.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) compressed: bool,
}

impl LogFiles {
    /// The log that is written to `path`, such as `/var/log/pods/ns_pod_uid/container/0.log`.
    ///
    /// # Errors
    /// When this is no path of a file.
    pub fn at(path: &Path) -> io::Result<Self> {
        match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
            (Some(directory), Some(name)) => Ok(Self { directory: directory.into(), name: name.to_owned() }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a log file")),
        }
    }

    /// The directory, to be watched.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Opens the file that is written.
    pub(super) fn current(&self) -> io::Result<File> {
        open(&self.open_directory()?, &self.name)
    }

    /// The rotated files by name, the oldest first, each once.
    pub(super) fn rotated(&self) -> io::Result<Vec<String>> {
        // A file that gets another name while the directory is read can be missing under both; not twice.
        let mut found = self.list()?;
        found.append(&mut self.list()?);
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in Dir::read_from(self.open_directory()?)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let Some(suffix) = name.strip_prefix(&self.name).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            let time = suffix.strip_suffix(".gz").unwrap_or(suffix);
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if time.split_once('-').is_some_and(|(day, time)| digits(day) && digits(time)) {
                found.push(format!("{}.{time}", self.name));
            }
        }
        Ok(found)
    }

    /// Opens a rotated file, compressed or not; `None` when it is gone.
    pub(super) fn open_rotated(&self, name: &str) -> io::Result<Option<Opened>> {
        let directory = self.open_directory()?;
        for (suffix, compressed) in [("", false), (".gz", true)] {
            match open(&directory, &format!("{name}{suffix}")) {
                Ok(file) => return Ok(Some(Opened { file, compressed })),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Whether a rotated file is this one.
    pub(super) fn is(&self, name: &str, which: Identity) -> bool {
        let opened = self.open_rotated(name).ok().flatten();
        opened.is_some_and(|opened| Identity::of(&opened.file).is_ok_and(|this| this == which))
    }

    /// When a rotated file was written last; `None` when it is gone.
    pub(super) fn changed(&self, name: &str) -> Option<SystemTime> {
        self.open_rotated(name).ok().flatten()?.file.metadata().ok()?.modified().ok()
    }

    fn open_directory(&self) -> io::Result<std::os::fd::OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.directory, flags, Mode::empty())?)
    }
}

fn open(directory: impl std::os::fd::AsFd, name: &str) -> io::Result<File> {
    // Opening a pipe would wait for its writer without NONBLOCK.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let odd = || io::Error::new(io::ErrorKind::InvalidInput, "the log is not a regular file");
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP) => return Err(odd()),
        Err(error) => return Err(error.into()),
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(odd()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_rotated_files_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "0.log",
            "0.log.20260102-030405.gz",
            "0.log.20260102-030405",
            "0.log.20250102-030405.gz",
            "0.log.20260103-030405",
            "0.log.20260104-030405.tmp",
            "0.log.20260104-030405.gz.tmp",
            "0.log.x-y",
            "1.log.20260103-030405",
        ] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let files = LogFiles::at(&dir.path().join("0.log")).unwrap();
        assert_eq!(
            files.rotated().unwrap(),
            ["0.log.20250102-030405", "0.log.20260102-030405", "0.log.20260103-030405"]
        );
        assert!(files.open_rotated("0.log.20250102-030405").unwrap().unwrap().compressed);
        assert!(!files.open_rotated("0.log.20260102-030405").unwrap().unwrap().compressed);
        assert!(files.open_rotated("0.log.20230102-030405").unwrap().is_none());
    }

    #[test]
    fn opens_nothing_but_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let files = LogFiles::at(&path).unwrap();
        assert_eq!(files.current().unwrap_err().kind(), io::ErrorKind::NotFound);
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "s").unwrap();
        std::os::unix::fs::symlink(&secret, &path).unwrap();
        assert_eq!(files.current().unwrap_err().to_string(), "the log is not a regular file");
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(files.current().unwrap_err().to_string(), "the log is not a regular file");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(LogFiles::at(&link.join("secret")).unwrap().current().is_err());
    }
}
