//! The tables in the file and what a row of each means. Knows nothing of transactions beyond one row.
//!
//! `meta` holds numbers by name; `objects` the newest state of each object; `log` each change by its revision. A change
//! of what a row means is a new format (see `format`).

use std::path::Path;

use bytes::Bytes;
use redb::{ReadableTable, Table, TableDefinition};

use super::error::StoreError;
use super::event::{Event, EventKind};
use super::key::{Key, Record};

/// Numbers: see the names below.
pub(super) const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");
/// (resource, namespace, name) → (created, modified, JSON).
pub(super) const OBJECTS: TableDefinition<'static, ObjectKey, ObjectRow> = TableDefinition::new("objects");
/// Revision → [`LogRow`].
pub(super) const LOG: TableDefinition<'static, u64, LogRow> = TableDefinition::new("log");

pub(super) type ObjectKey = (&'static str, &'static str, &'static str);
pub(super) type ObjectRow = (u64, u64, &'static [u8]);
/// Kind, time in milliseconds since 1970, (resource, namespace, name), created, modified before (0 for none), JSON
/// before, JSON after.
pub(super) type LogRow = (u8, u64, ObjectKey, u64, u64, &'static [u8], &'static [u8]);
type LogRowRef<'a> = (u8, u64, (&'a str, &'a str, &'a str), u64, u64, &'a [u8], &'a [u8]);

/// The format of the file.
pub(super) const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";
const META_FLOOR: &str = "compacted";
const META_ROWS: &str = "log rows";
const META_BYTES: &str = "log bytes";

/// Where the store is: the numbers that change with each write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The newest revision.
    pub revision: u64,
    /// The log holds all changes after this one.
    pub floor: u64,
    /// Rows in the log.
    pub rows: u64,
    /// Bytes of objects in the log.
    pub bytes: u64,
}

impl Position {
    /// An empty store. 0 means "any" to clients, so revisions begin at 1.
    pub(super) const START: Self = Self { revision: 1, floor: 1, rows: 0, bytes: 0 };

    pub(super) fn load(
        meta: &impl ReadableTable<&'static str, u64>,
        path: &Path,
    ) -> Result<Self, StoreError> {
        let number = |name: &str| match meta.get(name) {
            Ok(Some(found)) => Ok(found.value()),
            Ok(None) => {
                let detail = format!("it does not tell its {name}");
                Err(StoreError::new(path, redb::Error::Corrupted(detail)))
            }
            Err(error) => Err(StoreError::new(path, error)),
        };
        Ok(Self {
            revision: number(META_REVISION)?,
            floor: number(META_FLOOR)?,
            rows: number(META_ROWS)?,
            bytes: number(META_BYTES)?,
        })
    }

    pub(super) fn store(self, meta: &mut Table<'_, &'static str, u64>) -> Result<(), redb::StorageError> {
        for (name, number) in [
            (META_REVISION, self.revision),
            (META_FLOOR, self.floor),
            (META_ROWS, self.rows),
            (META_BYTES, self.bytes),
        ] {
            meta.insert(name, number)?;
        }
        Ok(())
    }
}

/// A change as it is written to the log.
#[derive(Debug)]
pub(super) struct Change {
    pub revision: u64,
    pub kind: EventKind,
    pub key: Key,
    pub created: u64,
    pub bytes: Bytes,
    pub previous: Option<Record>,
}

impl Change {
    /// What it adds to [`Position::bytes`].
    pub(super) fn weight(&self) -> u64 {
        let previous = self.previous.as_ref().map_or(0, |record| record.bytes.len());
        (self.bytes.len() + previous) as u64
    }

    /// The row of the log.
    pub(super) fn row(&self, time: u64) -> LogRowRef<'_> {
        let (modified, previous) = match &self.previous {
            Some(record) => (record.modified, &record.bytes[..]),
            None => (0, &[][..]),
        };
        (self.kind.code(), time, self.key.parts(), self.created, modified, previous, &self.bytes)
    }

    /// What watchers are told.
    pub(super) fn into_event(self) -> Event {
        let previous = self.previous.map(|record| record.bytes);
        Event::new(self.revision, self.kind, self.key, self.created, self.bytes, previous)
    }
}

/// A row of the log, looked at where it is.
pub(super) struct Logged<'a> {
    pub revision: u64,
    pub kind: EventKind,
    pub time: u64,
    pub key: (&'a str, &'a str, &'a str),
    created: u64,
    previous_modified: u64,
    previous: &'a [u8],
    bytes: &'a [u8],
}

impl<'a> Logged<'a> {
    pub(super) fn new(path: &Path, revision: u64, row: LogRowRef<'a>) -> Result<Self, StoreError> {
        let (kind, time, key, created, previous_modified, previous, bytes) = row;
        let Some(kind) = EventKind::of(kind) else {
            let detail = format!("the change {revision} is of the unknown kind {kind}");
            return Err(StoreError::new(path, redb::Error::Corrupted(detail)));
        };
        Ok(Self { revision, kind, time, key, created, previous_modified, previous, bytes })
    }

    pub(super) fn weight(&self) -> u64 {
        (self.previous.len() + self.bytes.len()) as u64
    }

    /// The object before the change.
    pub(super) fn previous(&self) -> Option<Record> {
        let bytes = Bytes::copy_from_slice(self.previous);
        let record = Record { created: self.created, modified: self.previous_modified, bytes };
        (self.kind != EventKind::Added).then_some(record)
    }

    /// What watchers are told.
    pub(super) fn event(&self) -> Event {
        Event::new(
            self.revision,
            self.kind,
            Key::of(self.key),
            self.created,
            Bytes::copy_from_slice(self.bytes),
            self.previous().map(|record| record.bytes),
        )
    }
}
