//! The folder that plugins register in: which sockets lie in it, and a watch on it. Blocking; the registry calls it through
//! the pool. Follows no link to a directory, leaves out hidden names and whatever is no socket, and is bounded
//! whatever lies there.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rubelet_linux::watch::DirWatch;

/// How deep folders within the folder are looked into.
const DEEPEST: usize = 8;
/// How many folders are looked into.
const MOST_DIRS: usize = 64;
/// How many sockets are taken.
const MOST_SOCKETS: usize = 1024;
/// How many names of one folder are read.
const MOST_NAMES: usize = 16 << 10;

/// What makes a socket another one than the one that lay there before: a plugin that starts anew makes its socket anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    /// Inode numbers are used again, at once on some file systems.
    born: Option<SystemTime>,
}

#[cfg(test)]
impl Identity {
    /// One for tests.
    pub(crate) fn number(inode: u64) -> Self {
        Self { device: 1, inode, born: None }
    }
}

/// What lies in the folder.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Sockets, by path.
    pub(crate) sockets: BTreeMap<PathBuf, Identity>,
    /// Folders, the root first.
    pub(crate) dirs: Vec<PathBuf>,
    /// Something was left out because there was too much.
    pub(crate) truncated: bool,
}

/// Makes the folder if it is not there.
pub(crate) fn create(root: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(root)
}

/// Looks through the folder.
///
/// # Errors
/// The folder itself cannot be read; what cannot be read within it is left out.
pub(crate) fn scan(root: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    let mut next = vec![(root.to_path_buf(), 0)];
    while let Some((dir, depth)) = next.pop() {
        if found.dirs.len() == MOST_DIRS {
            found.truncated = true;
            break;
        }
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(error),
            Err(_) => continue,
        };
        found.dirs.push(dir);
        for (number, entry) in entries.enumerate() {
            if number == MOST_NAMES {
                found.truncated = true;
                break;
            }
            let Ok(entry) = entry else { break };
            if entry.file_name().as_bytes().starts_with(b".") {
                continue;
            }
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                if depth < DEEPEST {
                    next.push((entry.path(), depth + 1));
                } else {
                    found.truncated = true;
                }
            } else if kind.is_socket() || kind.is_symlink() {
                note(&mut found, entry.path());
            }
        }
    }
    Ok(found)
}

/// Takes note of a socket, or of a link to one (upstream follows those).
fn note(found: &mut Found, path: PathBuf) {
    let Ok(meta) = std::fs::metadata(&path) else { return };
    if !meta.file_type().is_socket() {
        return;
    }
    if found.sockets.len() == MOST_SOCKETS {
        found.truncated = true;
        return;
    }
    let identity = Identity { device: meta.dev(), inode: meta.ino(), born: meta.created().ok() };
    found.sockets.insert(path, identity);
}

/// A watch on the folder and the ones within.
///
/// # Errors
/// The root cannot be watched. One within that has gone in the meantime, or for which the system has no watch left, is
/// left to the scans.
pub(crate) fn watch(dirs: &[PathBuf]) -> io::Result<DirWatch> {
    let (root, within) = dirs.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let watch = DirWatch::new(root)?;
    for dir in within {
        let _left_to_scans = watch.also(dir);
    }
    Ok(watch)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn names(found: &Found, root: &Path) -> Vec<String> {
        found.sockets.keys().map(|path| path.strip_prefix(root).unwrap().display().to_string()).collect()
    }

    #[test]
    fn only_sockets_are_found_whatever_lies_there() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("registry");
        create(&root).unwrap();
        create(&root).unwrap();
        let keep: Vec<_> = ["a.sock", ".hidden.sock", "sub/b.sock", "sub/deeper/c.sock", ".dot/d.sock"]
            .into_iter()
            .map(|name| {
                let path = root.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                UnixListener::bind(path).unwrap()
            })
            .collect();
        std::fs::write(root.join("garbage"), [0xff; 100]).unwrap();
        std::fs::write(root.join("looks.sock"), "").unwrap();
        let elsewhere = temp.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        let outside = UnixListener::bind(elsewhere.join("e.sock")).unwrap();
        symlink(elsewhere.join("e.sock"), root.join("link.sock")).unwrap();
        symlink(&elsewhere, root.join("link-to-a-directory")).unwrap();
        symlink("nowhere", root.join("dangling.sock")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("../..", root.join("sub/up")).unwrap();
        let found = scan(&root).unwrap();
        assert_eq!(names(&found, &root), ["a.sock", "link.sock", "sub/b.sock", "sub/deeper/c.sock"]);
        assert!(!found.truncated);
        assert_eq!(found.dirs.len(), 3);
        drop((keep, outside));
    }

    #[test]
    fn a_socket_made_anew_is_another() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.sock");
        let first = UnixListener::bind(&path).unwrap();
        let before = scan(temp.path()).unwrap().sockets[&path];
        assert_eq!(scan(temp.path()).unwrap().sockets[&path], before);
        std::fs::remove_file(&path).unwrap();
        let second = UnixListener::bind(&path).unwrap();
        assert_ne!(scan(temp.path()).unwrap().sockets[&path], before);
        drop((first, second));
    }

    #[test]
    fn depth_is_bounded() {
        let temp = tempfile::tempdir().unwrap();
        let mut dir = temp.path().to_path_buf();
        for _ in 0..=DEEPEST {
            dir.push("d");
        }
        std::fs::create_dir_all(&dir).unwrap();
        let found = scan(temp.path()).unwrap();
        assert!(found.truncated);
        assert_eq!(found.dirs.len(), DEEPEST + 1);
        assert!(scan(&temp.path().join("missing")).is_err());
    }
}
