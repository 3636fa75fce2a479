//! Why the store could not do what it was asked, one type for each operation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

/// The file could not be read or written. One failure can be many callers' (all of one transaction), so it is cheap to
/// clone.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// The disk or a quota is full. What is stored stays readable, and writes work again when there is room.
    #[error("no space left to write the store {}", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: Arc<redb::Error>,
    },
    /// The disk failed in another way. The next write opens the file anew.
    #[error("cannot read or write the store {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: Arc<redb::Error>,
    },
    /// The file holds what no store can hold.
    #[error("the store {} is damaged, restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Arc<redb::Error>,
    },
    /// Every handle is gone, or the writer is.
    #[error("the store {} is closed", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    pub(super) fn new(path: &Path, error: impl Into<redb::Error>) -> Self {
        let error = error.into();
        let path = path.to_path_buf();
        let source = Arc::new(error);
        match &*source {
            redb::Error::Io(cause) if is_full(cause) => Self::NoSpace { path, source },
            redb::Error::DatabaseClosed => Self::Closed { path },
            cause if is_damage(cause) => Self::Damaged { path, source },
            _ => Self::Io { path, source },
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn is_damage(error: &redb::Error) -> bool {
    match error {
        // A file that is none of redb's, or ends too early.
        redb::Error::Io(cause) => {
            matches!(cause.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        redb::Error::Corrupted(_)
        | redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableDoesNotExist(_) => true,
        _ => false,
    }
}

/// A store cannot be opened.
#[derive(Debug, Clone, Error)]
pub enum OpenError {
    /// Another process, or another part of this one, has the folder.
    #[error("the data folder {} is in use by {}", folder.display(), holder_text(*holder))]
    InUse {
        /// The data folder.
        folder: PathBuf,
        /// The process that has it, when that can be told.
        holder: Option<u32>,
    },
    /// The folder or a file in it cannot be made or opened.
    #[error("cannot open {}", path.display())]
    Folder {
        /// What cannot be opened.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A version of this program that is newer than this one has written the file.
    #[error(
        "the store {} has format {found}, this version knows formats up to {known}: \
         run the version that wrote it, or restore a backup made by this one",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest format that is known here.
        known: u64,
    },
    /// The file cannot be read, or is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn holder_text(holder: Option<u32>) -> String {
    match holder {
        Some(process) => format!("process {process}"),
        None => "another process".to_owned(),
    }
}

/// A write did not happen; see [`super::Store::write`].
#[derive(Debug, Clone, Error)]
pub enum WriteError<E> {
    /// The job said no. Nothing of it is kept.
    #[error(transparent)]
    Rejected(E),
    /// The job panicked. Nothing of it is kept, and nobody else's write suffers.
    #[error("the write panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

impl WriteError<StoreError> {
    /// For jobs that fail only when the store does.
    pub(super) fn into_store_error(self) -> StoreError {
        match self {
            Self::Rejected(error) | Self::Store(error) => error,
            Self::Panicked { message } => {
                StoreError::new(Path::new("(memory)"), redb::Error::Corrupted(message))
            }
        }
    }
}

/// A watch cannot begin or go on.
#[derive(Debug, Clone, Error)]
pub enum WatchError {
    /// Changes that it has not seen are forgotten: it has to list again (410 Gone).
    #[error("too old resource version: the oldest that can be watched is {oldest}")]
    Compacted {
        /// The oldest revision after which a watch can begin.
        oldest: u64,
    },
    /// The revision has not come yet; another store gave it.
    #[error("too large resource version: {asked}, current: {current}")]
    Ahead {
        /// The revision that was asked for.
        asked: u64,
        /// The newest revision.
        current: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The store as it was cannot be had.
#[derive(Debug, Clone, Error)]
pub enum SnapshotError {
    /// What has changed since is forgotten: the walk has to begin again (410 Gone).
    #[error("the revision {asked} is compacted, the oldest is {oldest}")]
    Compacted {
        /// The revision that was asked for.
        asked: u64,
        /// The oldest revision that can be had.
        oldest: u64,
    },
    /// The revision has not come yet; another store gave it.
    #[error("too large resource version: {asked}, current: {current}")]
    Ahead {
        /// The revision that was asked for.
        asked: u64,
        /// The newest revision.
        current: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
