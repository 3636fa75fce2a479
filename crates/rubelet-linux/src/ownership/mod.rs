//! Hands a directory tree to a group (`fsGroup`): every file belongs to it and can be read, and written, by it. Follows
//! no link, does not cross into what is mounted below, and changes nothing that somebody swaps in while it walks: what
//! has to be changed is opened first.
//!
//! What is right already costs one look and no write. As upstream, a file that cannot be changed (a read-only file
//! system, a server that does not let root) is told in the log and does not stop the others.

mod walk;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{FileType, stat};
use tracing::warn;

/// Read and write, for owner and group.
const FILE: u32 = 0o660;
/// Read, for owner and group.
const READ_ONLY_FILE: u32 = 0o440;
/// For directories besides: search, and that what is made in them is the group's.
const DIRECTORY: u32 = 0o2110;

/// What a tree is handed over as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whose it becomes.
    pub group: u32,
    /// The group may only read it.
    pub read_only: bool,
}

impl Grant {
    /// Mode bits that a file has to have.
    fn bits(self, is_directory: bool) -> u32 {
        let file = if self.read_only { READ_ONLY_FILE } else { FILE };
        if is_directory { file | DIRECTORY } else { file }
    }
}

/// How far a walk is, for others to look at, and their word to stop it.
#[derive(Debug, Default)]
pub struct Progress {
    files: AtomicU64,
    stopped: AtomicBool,
}

impl Progress {
    /// Files looked at so far.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Has the walk end soon, with an error of kind `Interrupted`.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// What a walk did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// Files looked at.
    pub files: u64,
    /// Files that could not be changed.
    pub failed: u64,
    /// The first of them, with the reason.
    pub first_failure: Option<String>,
}

/// Whether the root of the tree is the group's already, and as open as [`hand_over`] would make it (upstream's
/// `OnRootMismatch`).
///
/// # Errors
/// When it cannot be looked at.
pub fn is_handed_over(root: &Path, grant: Grant) -> io::Result<bool> {
    let found = stat(root)?;
    let wanted = grant.bits(true);
    let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
    Ok(is_directory && found.st_gid == grant.group && found.st_mode & wanted == wanted)
}

/// Hands everything at and below `root` over, on a few threads when there is much; the root last, so that a walk that
/// was cut short is seen there. Memory and descriptors are bounded, however large the tree is.
///
/// # Errors
/// A directory that cannot be read; `Interrupted` when it was stopped.
pub fn hand_over(root: &Path, grant: Grant, progress: &Progress) -> io::Result<Handed> {
    let handed = walk::hand_over(root, grant, progress)?;
    if let Some(first) = &handed.first_failure {
        warn!(
            root = %root.display(), group = grant.group, failed = handed.failed, first,
            "files of a volume could not be handed to the pod's group"
        );
    }
    Ok(handed)
}

/// Whether the root of the tree is the group's already: [`is_handed_over`] for a volume that may be written.
///
/// # Errors
/// When it cannot be looked at.
pub fn is_handed(root: &Path, group: u32) -> io::Result<bool> {
    is_handed_over(root, Grant { group, read_only: false })
}

/// Hands everything at and below `root` to the group: [`hand_over`] that nobody watches.
///
/// # Errors
/// A directory that cannot be read.
pub fn hand_to_group(root: &Path, group: u32) -> io::Result<()> {
    hand_over(root, Grant { group, read_only: false }, &Progress::default()).map(|_| ())
}

#[cfg(test)]
mod tests;
