//! What a write sees and does: the newest state with its own changes on top, which exist nowhere else until the write
//! has succeeded. Owns those changes; `writer` runs jobs over it and applies what it holds.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use redb::{ReadableTable, Table};

use super::error::StoreError;
use super::event::EventKind;
use super::key::{Key, Record};
use super::merge::{Item, Merge, Overlay, Rows, Scope, record};
use super::tables::{Change, ObjectKey, ObjectRow};

/// The objects of a transaction, in the order of their keys.
pub struct TransactionObjects<'t>(Box<dyn Iterator<Item = Item> + 't>);

impl std::fmt::Debug for TransactionObjects<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TransactionObjects").finish_non_exhaustive()
    }
}

impl Iterator for TransactionObjects<'_> {
    type Item = Result<(Key, Record), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// A job's view of the store.
pub struct Transaction<'t> {
    objects: &'t Table<'t, ObjectKey, ObjectRow>,
    path: &'t Path,
    /// The newest revision before this.
    base: u64,
    changes: Vec<Change>,
    /// The last of `changes` for each key.
    latest: BTreeMap<Key, Option<Record>>,
    keep: bool,
    compact_to: Option<u64>,
    /// Once the file could not be read, nothing that was decided here counts.
    failure: Option<StoreError>,
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Transaction")
            .field("base", &self.base)
            .field("changes", &self.changes)
            .finish_non_exhaustive()
    }
}

/// What a job has left.
pub(super) struct Outcome {
    pub changes: Vec<Change>,
    pub compact_to: Option<u64>,
    pub keep: bool,
}

impl<'t> Transaction<'t> {
    pub(super) fn new(objects: &'t Table<'t, ObjectKey, ObjectRow>, base: u64, path: &'t Path) -> Self {
        Self {
            objects,
            path,
            base,
            changes: vec![],
            latest: BTreeMap::new(),
            keep: true,
            compact_to: None,
            failure: None,
        }
    }

    /// The newest revision that the job sees, its own changes included.
    pub fn revision(&self) -> u64 {
        self.base + self.changes.len() as u64
    }

    /// The revision that the next [`Self::put`] or [`Self::delete`] will have: the `metadata.resourceVersion` to write
    /// into its bytes.
    pub fn next_revision(&self) -> u64 {
        self.revision() + 1
    }

    /// One object.
    ///
    /// # Errors
    /// When the file cannot be read. The write then fails, whatever the job answers.
    pub fn get(&mut self, key: &Key) -> Result<Option<Record>, StoreError> {
        if let Some(latest) = self.latest.get(key) {
            return Ok(latest.clone());
        }
        let found = self.objects.get(key.parts()).map(|row| row.map(|row| record(row.value())));
        found.map_err(|error| {
            let error = StoreError::new(self.path, error);
            self.failure.get_or_insert(error).clone()
        })
    }

    /// The objects of a resource, in one namespace or all, after the object of this namespace and name.
    ///
    /// # Errors
    /// When the file cannot be read. An error within the list is the job's to hand on.
    pub fn list(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
    ) -> Result<TransactionObjects<'_>, StoreError> {
        let scope = Scope { resource, namespace, after };
        let range = self.objects.range((scope.start(), std::ops::Bound::Unbounded));
        let rows = Rows::new(range.map_err(|error| StoreError::new(self.path, error))?, &scope, self.path);
        let overlay: Vec<Overlay> = self
            .latest
            .iter()
            .filter(|(key, _)| scope.holds(key.parts()))
            .map(|(key, record)| Ok((key.clone(), record.clone())))
            .collect();
        Ok(TransactionObjects(Box::new(Merge::new(rows, overlay.into_iter()))))
    }

    /// Stores an object, new or not, and returns the revision of the change.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn put(&mut self, key: Key, bytes: impl Into<Bytes>) -> Result<u64, StoreError> {
        let (previous, revision, bytes) = (self.get(&key)?, self.next_revision(), bytes.into());
        let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Added };
        let created = previous.as_ref().map_or(revision, |record| record.created);
        self.latest.insert(key.clone(), Some(Record { created, modified: revision, bytes: bytes.clone() }));
        self.changes.push(Change { revision, kind, key, created, bytes, previous });
        Ok(revision)
    }

    /// Removes an object and returns the revision of the change, or `None` when there is nothing to remove.
    /// `last_bytes` is the state of it that watchers are told of: the last one, with the revision of the deletion.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn delete(&mut self, key: &Key, last_bytes: impl Into<Bytes>) -> Result<Option<u64>, StoreError> {
        let Some(previous) = self.get(key)? else { return Ok(None) };
        let (revision, created) = (self.next_revision(), previous.created);
        self.latest.insert(key.clone(), None);
        self.changes.push(Change {
            revision,
            kind: EventKind::Deleted,
            key: key.clone(),
            created,
            bytes: last_bytes.into(),
            previous: Some(previous),
        });
        Ok(Some(revision))
    }

    /// Nothing of this job is to be kept, though it succeeds: a dry run. Its answer is returned as always.
    pub fn discard(&mut self) {
        self.keep = false;
    }

    pub(super) fn compact_to(&mut self, revision: u64) {
        self.compact_to = Some(revision);
    }

    pub(super) fn finish(self, succeeded: bool) -> Result<Outcome, StoreError> {
        let Self { changes, compact_to, keep, failure, .. } = self;
        match failure {
            Some(error) => Err(error),
            None => Ok(Outcome { changes, compact_to, keep: keep && succeeded }),
        }
    }
}
