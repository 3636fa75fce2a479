//! The store at one revision: the present as the file has it, or the past, made of the present and the log.
//!
//! Owns a read transaction. It never waits and never writes.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use redb::ReadTransaction;

use super::error::{SnapshotError, StoreError};
use super::event::EventKind;
use super::key::{Key, Record};
use super::merge::{Item, Merge, Objects, Rows, Scope, record};
use super::tables::{LOG, Logged, META, OBJECTS, Position};

/// The store at one revision.
pub struct Snapshot {
    transaction: ReadTransaction,
    path: PathBuf,
    /// Where the file is.
    position: Position,
    /// The revision that is shown, at most `position.revision`.
    revision: u64,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Snapshot")
            .field("revision", &self.revision)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// An object that has changed since: what it was then is in this row of the log.
#[derive(Debug, Clone, Copy)]
struct Undo {
    row: u64,
    existed: bool,
}

impl Snapshot {
    pub(super) fn new(transaction: ReadTransaction, path: &Path) -> Result<Self, StoreError> {
        let meta = transaction.open_table(META).map_err(|error| StoreError::new(path, error))?;
        let position = Position::load(&meta, path)?;
        Ok(Self { transaction, path: path.to_path_buf(), position, revision: position.revision })
    }

    /// The same file, seen at another revision.
    pub(super) fn at(mut self, asked: u64) -> Result<Self, SnapshotError> {
        let Position { revision: current, floor: oldest, .. } = self.position;
        if asked > current {
            return Err(SnapshotError::Ahead { asked, current });
        }
        if asked < oldest {
            return Err(SnapshotError::Compacted { asked, oldest });
        }
        self.revision = asked;
        Ok(self)
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// The revision of what is shown: the `metadata.resourceVersion` of a list.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// One object.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let undone =
            self.find_logged(self.revision, |logged| (logged.key == key.parts()).then(|| logged.previous()))?;
        if let Some(previous) = undone {
            return Ok(previous);
        }
        let objects = self.transaction.open_table(OBJECTS).map_err(|error| self.failed(error))?;
        let found = objects.get(key.parts()).map_err(|error| self.failed(error))?;
        Ok(found.map(|row| record(row.value())))
    }

    /// The objects of a resource, in one namespace or all, after the object of this namespace and name. One object is
    /// read at a time.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn list(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
    ) -> Result<Objects, StoreError> {
        let scope = Scope { resource, namespace, after };
        let rows = self.rows(&scope)?;
        let undo = self.undo(&scope)?;
        if undo.is_empty() {
            return Ok(Objects { merged: Box::new(rows) });
        }
        let log = self.transaction.open_table(LOG).map_err(|error| self.failed(error))?;
        let path = self.path.clone();
        let overlay = undo.into_iter().map(move |(key, undo)| {
            let row = log.get(undo.row).map_err(|error| StoreError::new(&path, error))?;
            let before = match row {
                Some(row) => Logged::new(&path, undo.row, row.value())?.previous(),
                None => {
                    let detail = format!("the change {} is missing", undo.row);
                    return Err(StoreError::new(&path, redb::Error::Corrupted(detail)));
                }
            };
            Ok((key, before))
        });
        Ok(Objects { merged: Box::new(Merge::new(rows, overlay)) })
    }

    /// The objects of all resources, as the file has them now.
    pub(super) fn all(&self) -> Result<impl Iterator<Item = Item> + use<>, StoreError> {
        let objects = self.transaction.open_table(OBJECTS).map_err(|error| self.failed(error))?;
        let range = objects.range::<(&str, &str, &str)>(..).map_err(|error| self.failed(error))?;
        let path = self.path.clone();
        Ok(range.map(move |row| {
            let (key, row) = row.map_err(|error| StoreError::new(&path, error))?;
            Ok((Key::of(key.value()), record(row.value())))
        }))
    }

    /// How many objects [`Self::list`] would give, without copying them: `metadata.remainingItemCount`. It reads the
    /// file as a list does: a walk should count once and subtract.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn count(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
    ) -> Result<u64, StoreError> {
        let scope = Scope { resource, namespace, after };
        let undo = self.undo(&scope)?;
        let mut rows = self.rows(&scope)?;
        let mut count = undo.values().filter(|undo| undo.existed).count() as u64;
        while let Some(unchanged) =
            rows.next_with(|parts, _| undo.is_empty() || !undo.contains_key(&Key::of(parts)))
        {
            count += u64::from(unchanged?);
        }
        Ok(count)
    }

    /// What `look` finds first in the log after the revision `after`, oldest first.
    pub(super) fn find_logged<T>(
        &self,
        after: u64,
        mut look: impl FnMut(&Logged<'_>) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        if after >= self.position.revision {
            return Ok(None);
        }
        let log = self.transaction.open_table(LOG).map_err(|error| self.failed(error))?;
        let start = (Bound::Excluded(after), Bound::Unbounded);
        for row in log.range::<u64>(start).map_err(|error| self.failed(error))? {
            let (revision, row) = row.map_err(|error| self.failed(error))?;
            let found = look(&Logged::new(&self.path, revision.value(), row.value())?);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// What of a scope has changed since the revision that is shown. Bounded by the log's own bound.
    fn undo(&self, scope: &Scope<'_>) -> Result<BTreeMap<Key, Undo>, StoreError> {
        let mut undo = BTreeMap::new();
        self.find_logged(self.revision, |logged| {
            if scope.holds(logged.key) {
                // The first change tells what was before it.
                undo.entry(Key::of(logged.key))
                    .or_insert(Undo { row: logged.revision, existed: logged.kind != EventKind::Added });
            }
            None::<()>
        })?;
        Ok(undo)
    }

    fn rows(&self, scope: &Scope<'_>) -> Result<Rows<'static>, StoreError> {
        let objects = self.transaction.open_table(OBJECTS).map_err(|error| self.failed(error))?;
        let range = objects.range((scope.start(), Bound::Unbounded)).map_err(|error| self.failed(error))?;
        Ok(Rows::new(range, scope, &self.path))
    }

    fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        StoreError::new(&self.path, error)
    }
}
