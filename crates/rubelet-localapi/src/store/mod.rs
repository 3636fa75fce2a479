//! Where every object of the local API is kept, and who is told of a change: one file, one writer, durable before
//! anyone hears of it.
//!
//! It owns the file in the data folder, the revision counter, the change log and the watchers. Bytes are the final JSON
//! of an object and are never looked into here, except lazily for those who watch. It knows nothing of requests,
//! selectors or kinds: `engine` and `controllers` call it, `rubelet local backup` and `restore` too.
//!
//! - *Writing*: [`Store::write`] runs a closure over a [`Transaction`]. A store in a folder has one thread that takes
//!   what is queued into one transaction of the file with one fsync; each closure fails or panics alone. A store in
//!   memory has no thread: the closure runs in the caller, so that simulations replay.
//! - *Reading*: [`Store::snapshot`] is the store at one revision while writes go on. [`Store::snapshot_at`] is the
//!   store at an older revision, made of the present and what the log says has changed since: the pages of a
//!   `limit`/`continue` walk are of one revision without any read transaction held open between them, so no memory and
//!   no pages of the file are kept for a client that never comes back. When the log no longer reaches that far, the
//!   answer is [`SnapshotError::Compacted`] (410 Gone).
//! - *Watching*: [`Store::watch`]. A write wakes only those it concerns, in the order in which they came. Events are
//!   shared; one that nobody waits for is not kept in memory, and who is slow reads from the log.
//! - *The log* is bounded by count, bytes and age ([`LogLimits`]) and is compacted along with writes: nothing runs at
//!   rest.
mod backup;
mod disk;
mod error;
mod event;
mod format;
mod hub;
mod key;
mod merge;
mod shared;
mod snapshot;
mod tables;
#[cfg(test)]
mod tests;
mod transaction;
mod watcher;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub use backup::{Backup, BackupError, RestoreError, restore};
pub use error::{OpenError, SnapshotError, StoreError, WatchError, WriteError};
pub use event::{Event, EventKind};
pub use key::{Key, Record};
pub use merge::Objects;
pub use snapshot::Snapshot;
pub use transaction::{Transaction, TransactionObjects};
pub use watcher::Watcher;

use shared::Shared;
use writer::Writer;

/// How far back watches and pages of lists can go. Whichever limit is met first ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Changes kept.
    pub changes: u64,
    /// Bytes of objects kept, before and after each change.
    pub bytes: u64,
    /// Age up to which a change is kept; kube-apiserver compacts etcd every 5 minutes (`--etcd-compaction-interval`).
    pub age: Duration,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { changes: 10_000, bytes: 16 << 20, age: Duration::from_secs(300) }
    }
}

/// How many events that someone still waits for are kept in memory; who is slower than that reads from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecentLimits {
    /// Events kept.
    pub events: usize,
    /// Bytes of objects kept, as JSON.
    pub bytes: usize,
}

impl Default for RecentLimits {
    fn default() -> Self {
        Self { events: 256, bytes: 1 << 20 }
    }
}

/// What a store is told when it is opened.
#[derive(Clone)]
pub struct StoreOptions {
    /// Wall time, for the age of changes in the log.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// How long changes are kept.
    pub log: LogLimits,
    /// How many events are kept in memory.
    pub recent: RecentLimits,
    /// Bytes of the file's pages kept in memory.
    pub cache_bytes: usize,
    /// Whether all of the file is read and checked when it is opened, so that damage is told of then and not at the
    /// first read. It takes what it takes after a crash, when the file is read in any case.
    pub check_on_open: bool,
}

impl StoreOptions {
    /// The defaults, with this clock.
    pub fn new(now: Arc<dyn Fn() -> Timestamp + Send + Sync>) -> Self {
        Self {
            now,
            log: LogLimits::default(),
            recent: RecentLimits::default(),
            cache_bytes: 1 << 20,
            check_on_open: true,
        }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StoreOptions")
            .field("log", &self.log)
            .field("recent", &self.recent)
            .field("cache_bytes", &self.cache_bytes)
            .field("check_on_open", &self.check_on_open)
            .finish_non_exhaustive()
    }
}

/// A handle on the store; clones share it. When the last one goes, what is queued is written, watchers end and the
/// folder is free for others.
#[derive(Clone)]
pub struct Store {
    writer: Arc<Writer>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Store")
            .field("origin", &self.shared.origin)
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in a data folder, which is made when it is not there, and starts its writer thread. Blocks for
    /// as long as the file is read (once, to check it).
    ///
    /// # Errors
    /// When another process has the folder, the file cannot be read, is damaged or of a newer format.
    pub fn open(folder: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        let (database, folder) = disk::open(folder, &options)?;
        let shared = Arc::new(Shared::new(database, Some(folder), options)?);
        let writer = Arc::new(Writer::thread(shared.clone()).map_err(|source| OpenError::Folder {
            path: shared.origin.to_path_buf(),
            source: Arc::new(source),
        })?);
        Ok(Self { writer, shared })
    }

    /// A store that is gone when it is dropped, and whose writes run where they are asked for.
    ///
    /// # Errors
    /// None that is known; the engine's constructor can tell of some.
    pub fn in_memory(options: StoreOptions) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared::new(disk::in_memory(&options)?, None, options)?);
        let writer = Arc::new(Writer::inline(shared.clone()));
        Ok(Self { writer, shared })
    }

    /// Runs `job` over the newest state and keeps its changes, all or none. Once this returns they are on the disk and
    /// watchers have been told. When `job` fails or panics, or says [`Transaction::discard`], nothing of it is kept.
    ///
    /// The answer is held back until everything that `job` may have seen is on the disk. A caller that goes away does
    /// not take back what is queued. `job` runs on the writer's thread: it must not wait for anything.
    ///
    /// # Errors
    /// `job`'s own, its panic, or the store's: then nothing can be said about what was kept, except that a failed
    /// write was not told to any watcher unless it turned out to be on the disk after all.
    pub async fn write<T, E, F>(&self, job: F) -> Result<T, WriteError<E>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        self.writer.write(job).await
    }

    /// The newest state, which stays as it is while writes go on. Do not keep it over a wait that a client controls:
    /// the file cannot use again what an open snapshot may still read.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.shared.snapshot()
    }

    /// The state as it was at `revision`.
    ///
    /// # Errors
    /// When the log no longer reaches back to it, or it has not come yet.
    pub fn snapshot_at(&self, revision: u64) -> Result<Snapshot, SnapshotError> {
        self.shared.snapshot()?.at(revision)
    }

    /// The revision of the newest change that watchers were told of. Never 0: an empty store begins at 1.
    pub fn revision(&self) -> u64 {
        self.shared.hub.revision()
    }

    /// The oldest revision after which a watch can begin, and of which a snapshot can be had.
    pub fn oldest_revision(&self) -> u64 {
        self.shared.hub.floor()
    }

    /// Follows all changes after `after_revision` to objects of `resource`, in one namespace or all, of one name or
    /// all. A watch for one object is woken by that object alone.
    ///
    /// # Errors
    /// When the log no longer reaches back to the revision, or it has not come yet.
    pub fn watch(
        &self,
        resource: &str,
        namespace: Option<&str>,
        name: Option<&str>,
        after_revision: u64,
    ) -> Result<Watcher, WatchError> {
        Watcher::new(self.shared.clone(), resource, namespace, name, after_revision)
    }

    /// Forgets the changes up to `revision`, as if they were too old.
    ///
    /// # Errors
    /// The store's.
    pub async fn compact_to(&self, revision: u64) -> Result<(), StoreError> {
        let done = self.write(move |transaction| {
            transaction.compact_to(revision);
            Ok::<(), StoreError>(())
        });
        done.await.map_err(WriteError::into_store_error)
    }

    /// Writes a copy of the newest state to a new file while everything goes on. Blocks until it is on the disk: run it
    /// where blocking is allowed.
    ///
    /// # Errors
    /// When the file is there already or cannot be written.
    pub fn backup(&self, to: &Path) -> Result<Backup, BackupError> {
        backup::backup(&self.shared, to)
    }
}
