//! One agent a root folder: a lock on a file in it, for as long as the program runs.
//!
//! Two agents over one folder would remove each other's pods. The kernel gives the lock back when the process ends,
//! however it does; the file stays. Called by the program before it touches anything; unlike upstream's `--lock-file`,
//! which is a way of agents to make room for one another.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Where the lock is, below the root folder.
const PLACE: &str = "rubelet/lock";

/// The root folder is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum RootLockError {
    /// Another agent works there.
    #[error("another agent{} works in the root folder {}: stop it, or name another folder with --root-dir", told(.pid), .root.display())]
    Taken {
        /// The folder.
        root: PathBuf,
        /// The other's process, if it has said so.
        pid: Option<u32>,
    },
    /// The lock cannot be made.
    #[error("the root folder {} cannot be used", .root.display())]
    Unusable {
        /// The folder.
        root: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn told(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(", process {pid},")).unwrap_or_default()
}

/// A root folder that is this agent's until this is dropped.
#[derive(Debug)]
pub struct RootLock {
    _file: File,
}

impl RootLock {
    /// Takes the folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`RootLockError`]; nobody is waited for.
    pub fn take(root: &Path) -> Result<Self, RootLockError> {
        let unusable = |source| RootLockError::Unusable { root: root.to_owned(), source };
        let path = root.join(PLACE);
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o750).create(folder).map_err(unusable)?;
        }
        // Whoever may read it could hold the lock, so that nobody else may.
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(unusable)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Who it is only helps to find it: it may not have said so yet.
                let _ = file.take(16).read_to_string(&mut text);
                return Err(RootLockError::Taken { root: root.to_owned(), pid: text.trim().parse().ok() });
            }
            Err(problem) => return Err(unusable(problem.into())),
        }
        let said = file.set_len(0).and_then(|()| file.rewind());
        said.and_then(|()| writeln!(file, "{}", std::process::id())).map_err(unusable)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_agents_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let lock = RootLock::take(&root).unwrap();
        let refused = RootLock::take(&root).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.contains("--root-dir"), "{refused}");
        drop(lock);
        std::fs::write(root.join(PLACE), "99999999999999999999 and more").unwrap();
        let _lock = RootLock::take(&root).unwrap();
        let said = std::fs::read_to_string(root.join(PLACE)).unwrap();
        assert_eq!(said.trim(), std::process::id().to_string());
        // Another folder is another's.
        RootLock::take(&dir.path().join("other")).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let problem = RootLock::take(&dir.path().join("file")).unwrap_err();
        assert!(matches!(problem, RootLockError::Unusable { .. }), "{problem}");
    }
}
