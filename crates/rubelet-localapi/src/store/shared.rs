//! What all handles, watchers and the writer of a store share: the open file, and the watchers' hub.
//!
//! It owns the file and its replacement after a failure. The database engine takes no more work, not even reads, once
//! the disk has failed it; so the file is opened anew, and when even that takes writes that the disk refuses, it is
//! opened such that it can be read. `writer` and `watcher` call it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use redb::{Database, ReadableDatabase};

use super::StoreOptions;
use super::disk::Folder;
use super::error::{OpenError, StoreError};
use super::hub::Hub;
use super::snapshot::Snapshot;

/// The file, and what can be done with it.
enum Access {
    /// All is well.
    Full(Database),
    /// Reads only; why writes fail.
    ReadOnly(Database, StoreError),
    /// Nothing; why.
    None(StoreError),
}

/// The insides of a store.
pub(super) struct Shared {
    /// What messages call the store.
    pub origin: PathBuf,
    pub options: StoreOptions,
    pub hub: Hub,
    /// Written to only when the file is opened anew or for good closed; the writer reads it while it writes the file.
    access: RwLock<Access>,
    folder: RwLock<Option<Folder>>,
    /// A write has failed since the last one that succeeded: look before the next.
    suspect: AtomicBool,
    /// Nobody opens the file any more.
    closed: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        database: Database,
        folder: Option<Folder>,
        options: StoreOptions,
    ) -> Result<Self, OpenError> {
        let origin = folder.as_ref().map_or_else(|| PathBuf::from("(memory)"), Folder::store);
        let position = read(&database, &origin)?.position();
        Ok(Self {
            hub: Hub::new(options.recent, position.revision, position.floor),
            origin,
            options,
            access: RwLock::new(Access::Full(database)),
            folder: RwLock::new(folder),
            suspect: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    /// The newest state.
    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let first = self.try_snapshot();
        match first {
            Err(StoreError::Io { .. } | StoreError::NoSpace { .. }) if self.mend() => self.try_snapshot(),
            outcome => outcome,
        }
    }

    fn try_snapshot(&self) -> Result<Snapshot, StoreError> {
        match &*self.access() {
            Access::Full(database) | Access::ReadOnly(database, _) => read(database, &self.origin),
            Access::None(error) => Err(error.clone()),
        }
    }

    /// Runs `work` on the file, which is mended first when a write has failed.
    pub(super) fn with_writable<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.suspect.load(Ordering::Acquire) {
            if let Some(folder) = &*self.folder.read().unwrap_or_else(PoisonError::into_inner) {
                // Cheaper than to find out with the store itself.
                folder.probe()?;
            }
            if !matches!(&*self.access(), Access::Full(_)) {
                self.mend();
            }
        }
        let done = match &*self.access() {
            Access::Full(database) => work(database),
            Access::ReadOnly(_, error) | Access::None(error) => return Err(error.clone()),
        };
        match &done {
            Ok(_) => self.suspect.store(false, Ordering::Release),
            Err(_) => drop(self.mend()),
        }
        done
    }

    /// Opens the file anew, and tells watchers of what a failed write has left in it all the same. False when there is
    /// no file to open.
    pub(super) fn mend(&self) -> bool {
        let folder = self.folder.read().unwrap_or_else(PoisonError::into_inner);
        let Some(folder) = folder.as_ref() else { return false };
        let full = {
            let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
            if self.closed.load(Ordering::Acquire) {
                return false;
            }
            // The old one has to be gone before: it holds locks.
            *access = Access::None(StoreError::Closed { path: self.origin.clone() });
            folder.distrust_memory();
            *access = match folder.open_store(&self.options) {
                Ok(database) => Access::Full(database),
                Err(error) => {
                    let error = as_store_error(&self.origin, error);
                    match folder.open_store_to_read(&self.options) {
                        Ok(database) => Access::ReadOnly(database, error),
                        Err(_) => Access::None(error),
                    }
                }
            };
            match &*access {
                Access::Full(_) => tracing::info!(path = %self.origin.display(), "opened the store anew"),
                Access::ReadOnly(_, error) | Access::None(error) => tracing::error!(
                    path = %self.origin.display(),
                    error = error as &dyn std::error::Error,
                    "cannot open the store anew"
                ),
            }
            matches!(&*access, Access::Full(_))
        };
        self.suspect.store(true, Ordering::Release);
        if full {
            // Opening it to write has checked it and synced it: what is there is there for good.
            self.publish_what_survived();
        }
        true
    }

    fn publish_what_survived(&self) {
        let survived = self.try_snapshot().and_then(|snapshot| {
            let mut events = vec![];
            snapshot.find_logged(self.hub.revision(), |logged| {
                events.push(logged.event());
                None::<()>
            })?;
            Ok((events, snapshot.position()))
        });
        match survived {
            Ok((events, position)) => self.hub.publish(events, position.revision, position.floor),
            Err(error) => tracing::error!(
                path = %self.origin.display(),
                error = &error as &dyn std::error::Error,
                "cannot read the store after a failed write"
            ),
        }
    }

    /// Ends the store: the folder is free, watchers and later calls are told.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let closed = Access::None(StoreError::Closed { path: self.origin.clone() });
        let access =
            std::mem::replace(&mut *self.access.write().unwrap_or_else(PoisonError::into_inner), closed);
        if let Access::Full(database) = access
            && let Err(error) = super::disk::close(database, &self.origin)
        {
            tracing::warn!(
                path = %self.origin.display(),
                error = &error as &dyn std::error::Error,
                "the store was not closed well and will be checked when it is opened"
            );
        }
        self.folder.write().unwrap_or_else(PoisonError::into_inner).take();
        self.hub.close();
    }

    #[cfg(test)]
    pub(super) fn faults(&self) -> std::sync::Arc<super::disk::faults::Faults> {
        self.folder.read().unwrap().as_ref().unwrap().faults.clone()
    }

    /// Whether the file can be written, can be read.
    #[cfg(test)]
    pub(super) fn can(&self) -> (bool, bool) {
        let access = self.access();
        (matches!(&*access, Access::Full(_)), !matches!(&*access, Access::None(_)))
    }

    fn access(&self) -> RwLockReadGuard<'_, Access> {
        self.access.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(database: &Database, path: &Path) -> Result<Snapshot, StoreError> {
    let transaction = database.begin_read().map_err(|error| StoreError::new(path, error))?;
    Snapshot::new(transaction, path)
}

fn as_store_error(path: &Path, error: OpenError) -> StoreError {
    match error {
        OpenError::Store(error) => error,
        OpenError::Folder { source, .. } => {
            StoreError::new(path, redb::Error::Io(std::io::Error::new(source.kind(), source)))
        }
        OpenError::InUse { .. } | OpenError::Newer { .. } => {
            StoreError::new(path, redb::Error::Corrupted(error.to_string()))
        }
    }
}
