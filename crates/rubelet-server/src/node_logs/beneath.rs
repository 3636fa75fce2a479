//! Opening what is below the log directory, and nothing else: no spelling of a path and no symbolic link leads out.
//!
//! Blocking. The kernel keeps the way beneath the directory (`openat2`). Where it cannot, and for links whose target
//! begins with the directory's own path (`containers/x.log → /var/log/pods/…`), the path is walked component by component
//! over open directories: a link is read, never followed by the kernel, and `..` goes back to a directory that the walk
//! came through. Both are proof against links that change meanwhile.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;
/// Each open directory of a walk takes a file descriptor.
const MAX_DEPTH: usize = 64;

/// What was opened, to be read.
#[derive(Debug)]
pub(super) enum Opened {
    /// A regular file.
    File(File),
    /// A directory.
    Directory(File),
}

/// Why something was not opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// There is none, or there cannot be one of this name.
    #[error("no such file or directory")]
    Missing,
    /// It is outside the directory, or may be.
    #[error("path escapes from parent")]
    Outside,
    /// It is a device, a pipe or a socket.
    #[error("not a regular file or directory")]
    Odd,
    /// The system says so.
    #[error(transparent)]
    Io(io::Error),
}

impl From<Errno> for OpenError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ => Self::Missing,
            Errno::XDEV | Errno::LOOP => Self::Outside,
            Errno::NXIO => Self::Odd,
            other => Self::Io(other.into()),
        }
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Without waiting for the writer of a pipe, and without becoming the process of a terminal.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Opens what `relative` names below `root`. `..` that would leave is an error, an absolute path too.
pub(super) fn open(root: &Path, relative: &[u8]) -> Result<Opened, OpenError> {
    if relative.contains(&0) {
        return Err(OpenError::Missing);
    }
    let relative = OsStr::from_bytes(if relative.is_empty() { b"." } else { relative });
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root_fd = rustix::fs::open(root, directory, Mode::empty())?;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&root_fd, relative, READ, Mode::empty(), how) {
        Ok(opened) => kind(opened),
        // Not to be had here, not in this moment, or a link that begins with a slash.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN | Errno::XDEV) => walk(root, &root_fd, relative),
        Err(error) => Err(error.into()),
    }
}

fn kind(opened: OwnedFd) -> Result<Opened, OpenError> {
    match FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode) {
        FileType::RegularFile => Ok(Opened::File(opened.into())),
        FileType::Directory => Ok(Opened::Directory(opened.into())),
        _ => Err(OpenError::Odd),
    }
}

/// The same without the kernel's help.
pub(super) fn walk(root: &Path, root_fd: &OwnedFd, relative: &OsStr) -> Result<Opened, OpenError> {
    if relative.as_bytes().starts_with(b"/") {
        return Err(OpenError::Outside);
    }
    // The last is the next.
    let mut todo = components(relative);
    // The way from the root to here.
    let mut way: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            way.pop().ok_or(OpenError::Outside)?;
            continue;
        }
        let here = last(&way, root_fd);
        let next = rustix::fs::openat(here, &name, LOOK, Mode::empty())?;
        match FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode) {
            FileType::Directory if way.len() >= MAX_DEPTH => return Err(OpenError::Missing),
            FileType::Directory => way.push(next),
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(OpenError::Outside);
                }
                let target = rustix::fs::readlinkat(&next, "", Vec::new())?;
                let target = OsStr::from_bytes(target.as_bytes());
                if target.as_bytes().starts_with(b"/") {
                    let rest = beneath(root, Path::new(target)).ok_or(OpenError::Outside)?;
                    way.clear();
                    todo.extend(components(rest.as_os_str()));
                } else {
                    todo.extend(components(target));
                }
            }
            // Below a file there is nothing.
            _ if !todo.is_empty() => return Err(OpenError::Missing),
            FileType::RegularFile => {
                let file = rustix::fs::openat(here, &name, READ | OFlags::NOFOLLOW, Mode::empty())?;
                return match kind(file)? {
                    Opened::File(file) => Ok(Opened::File(file)),
                    // Something else has come in its place.
                    Opened::Directory(_) => Err(OpenError::Missing),
                };
            }
            _ => return Err(OpenError::Odd),
        }
    }
    let directory = rustix::fs::openat(last(&way, root_fd), ".", READ | OFlags::DIRECTORY, Mode::empty())?;
    kind(directory)
}

fn last<'a>(way: &'a [OwnedFd], root: &'a OwnedFd) -> BorrowedFd<'a> {
    way.last().unwrap_or(root).as_fd()
}

/// The components of a path, the last first; those that say nothing are left out.
fn components(path: &OsStr) -> Vec<OsString> {
    let parts = path.as_bytes().split(|byte| *byte == b'/').rev();
    parts.filter(|part| !matches!(*part, b"" | b".")).map(|part| OsStr::from_bytes(part).to_owned()).collect()
}

/// What is left of an absolute path below the directory, by the directory's name as it was given or as it is.
fn beneath(root: &Path, target: &Path) -> Option<PathBuf> {
    if let Ok(rest) = target.strip_prefix(root) {
        return Some(rest.to_owned());
    }
    let root = std::fs::canonicalize(root).ok()?;
    target.strip_prefix(root).ok().map(Path::to_owned)
}

/// What is in a directory.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// Any bytes.
    pub(super) name: Vec<u8>,
    /// A link is none, wherever it leads.
    pub(super) is_directory: bool,
}

/// A directory's entries by name, at most `limit`, and whether there are more.
pub(super) fn entries(directory: &File, limit: usize) -> io::Result<(Vec<Entry>, bool)> {
    let mut found = Vec::new();
    let mut more = false;
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if found.len() == limit {
            more = true;
            break;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
            known => known,
        };
        found.push(Entry { name: name.to_bytes().to_owned(), is_directory: kind == FileType::Directory });
    }
    found.sort_unstable();
    Ok((found, more))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    /// A tree with a secret beside it.
    struct Tree {
        _base: tempfile::TempDir,
        root: PathBuf,
        secret: PathBuf,
    }

    fn tree() -> Tree {
        let base = tempfile::tempdir().unwrap();
        let (root, secret) = (base.path().join("log"), base.path().join("secret"));
        fs::create_dir_all(root.join("pods/a/c")).unwrap();
        fs::create_dir_all(root.join("containers")).unwrap();
        fs::write(&secret, "secret").unwrap();
        fs::write(base.path().join("log-secret"), "secret").unwrap();
        fs::write(root.join("syslog"), "syslog").unwrap();
        fs::write(root.join("pods/a/c/0.log"), "zero").unwrap();
        let link = |to: &Path, name: &str| symlink(to, root.join(name)).unwrap();
        link(Path::new("../pods/a/c/0.log"), "containers/relative.log");
        link(&root.join("pods/a/c/0.log"), "containers/absolute.log");
        link(Path::new("relative.log"), "containers/twice.log");
        link(&root.join("pods/../syslog"), "dots");
        link(&root, "root");
        link(&root.join("pods"), "pods-link");
        link(Path::new("../secret"), "out");
        link(&secret, "out-absolute");
        link(base.path(), "out-directory");
        link(&root.join("../secret"), "out-dots");
        link(&base.path().join("log-secret"), "out-prefix");
        link(Path::new("/proc/self/root"), "magic");
        link(Path::new("pods/../../log/syslog"), "around");
        link(Path::new("loop"), "loop");
        link(Path::new("nowhere"), "dangling");
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe"), Mode::RWXU).unwrap();
        Tree { _base: base, root, secret }
    }

    /// What is there, by both ways of looking: they have to agree.
    fn look(root: &Path, path: &[u8]) -> String {
        let told = |opened| match opened {
            Ok(Opened::File(mut file)) => {
                let mut text = String::new();
                File::read_to_string(&mut file, &mut text).unwrap();
                text
            }
            Ok(Opened::Directory(_)) => "directory".to_owned(),
            Err(error) => format!("{error:?}"),
        };
        let with_kernel = told(open(root, path));
        let root_fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let alone = match path.contains(&0) {
            true => "Missing".to_owned(),
            false => told(walk(root, &root_fd, OsStr::from_bytes(path))),
        };
        assert_eq!(with_kernel, alone, "{}", String::from_utf8_lossy(path));
        alone
    }

    #[test]
    fn links_beneath_work_and_nothing_leads_out() {
        let tree = tree();
        let check = |path: &str, expected: &str| {
            assert_eq!(look(&tree.root, path.as_bytes()), expected, "{path}");
        };
        for path in ["", ".", "./", "pods", "pods/", "pods/a/..", "root", "root/root/pods", "pods-link/a"] {
            check(path, "directory");
        }
        for path in ["syslog", "./syslog", "pods/../syslog", "root/syslog", "root/root/root/syslog", "dots"] {
            check(path, "syslog");
        }
        for path in [
            "pods/a/c/0.log",
            "pods-link/a/c/0.log",
            "containers/relative.log",
            "containers/absolute.log",
            "containers/twice.log",
        ] {
            check(path, "zero");
        }
        for path in [
            "..",
            "../secret",
            "pods/../../secret",
            "out",
            "out-absolute",
            "out-directory",
            "out-directory/secret",
            "out-directory/log/syslog",
            "out-dots",
            "out-prefix",
            "magic",
            "magic/etc/passwd",
            "around",
            "loop",
            "root/out",
            "root/../syslog",
            tree.secret.to_str().unwrap(),
            "/syslog",
        ] {
            check(path, "Outside");
        }
        for path in ["none", "none/..", "syslog/x", "dangling", "..\\secret", "%2e%2e/secret", "a\0b", "\0"] {
            check(path, "Missing");
        }
        check(&"x".repeat(300), "Missing");
        check("pipe", "Odd");
    }

    #[test]
    fn entries_are_sorted_and_bounded() {
        let tree = tree();
        let Ok(Opened::Directory(directory)) = open(&tree.root, b"") else { panic!("no directory") };
        let (found, more) = entries(&directory, 100).unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|entry| (std::str::from_utf8(&entry.name).unwrap(), entry.is_directory))
            .collect();
        assert!(names.is_sorted() && !more);
        assert!(names.contains(&("pods", true)) && names.contains(&("pods-link", false)), "{names:?}");
        let Ok(Opened::Directory(directory)) = open(&tree.root, b"") else { panic!("no directory") };
        let (found, more) = entries(&directory, 3).unwrap();
        assert_eq!((found.len(), more), (3, true));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_path_reads_the_secret(
            parts in prop::collection::vec(prop::sample::select(vec![
                "..", ".", "", "pods", "a", "c", "0.log", "containers", "relative.log", "absolute.log", "root",
                "out", "out-absolute", "out-directory", "out-dots", "out-prefix", "magic", "around", "log", "secret",
            ]), 0..8),
            noise in prop::collection::vec(any::<u8>(), 0..6),
        ) {
            let tree = tree();
            let path = parts.join("/");
            prop_assert_ne!(look(&tree.root, path.as_bytes()), "secret", "{}", path);
            let noisy = [path.as_bytes(), &noise].concat();
            prop_assert_ne!(look(&tree.root, &noisy), "secret");
        }
    }
}
