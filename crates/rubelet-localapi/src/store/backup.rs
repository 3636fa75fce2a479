//! A copy of the store in a file of its own, and the way back.
//!
//! A backup holds the objects and the revision, not the log. What is restored continues at a revision far beyond any
//! that was handed out, and remembers nothing of what was before: whoever watched gets 410 and lists again. `rubelet
//! local backup` and `rubelet local restore` call it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use redb::{Database, ReadableDatabase, ReadableTable};
use thiserror::Error;

use super::StoreOptions;
use super::disk::{self, Folder};
use super::error::{OpenError, StoreError};
use super::format;
use super::shared::Shared;
use super::tables::{META, OBJECTS, Position};

/// How far a restored store jumps ahead: more changes than can have been made since the backup. As etcd advises for
/// the same purpose (`--bump-revision`).
const JUMP: u64 = 1_000_000_000;

/// How every database of `redb` begins.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";

/// What a backup or a restored store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// The revision it is of.
    pub revision: u64,
    /// How many objects it holds.
    pub objects: u64,
}

/// A backup was not made. Nothing is left of it.
#[derive(Debug, Clone, Error)]
pub enum BackupError {
    /// No file is ever overwritten.
    #[error("{} is there already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("cannot write the backup {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Arc<redb::Error>,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A store was not restored. What was there is as it was.
#[derive(Debug, Clone, Error)]
pub enum RestoreError {
    /// The backup cannot be read.
    #[error("cannot read the backup {}", path.display())]
    Read {
        /// The backup.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// Something else is in the file.
    #[error("{} is no backup of a store (`rubelet local backup` makes one)", path.display())]
    NoBackup {
        /// The file.
        path: PathBuf,
    },
    /// The file is not all of a backup, or not as it was written.
    #[error("the backup {} is damaged", path.display())]
    Damaged {
        /// The backup.
        path: PathBuf,
        /// What is wrong with it.
        source: Arc<redb::Error>,
    },
    /// A newer version of this program has written it.
    #[error("the backup {} has format {found}, this version knows formats up to {known}", path.display())]
    Newer {
        /// The backup.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest format that is known here.
        known: u64,
    },
    /// The data folder is in use, or cannot be written.
    #[error(transparent)]
    Folder(#[from] OpenError),
}

pub(super) fn backup(shared: &Shared, to: &Path) -> Result<Backup, BackupError> {
    let failed = |error: redb::Error| BackupError::Write { path: to.to_path_buf(), source: Arc::new(error) };
    if to.try_exists().map_err(|error| failed(error.into()))? {
        return Err(BackupError::Exists { path: to.to_path_buf() });
    }
    let mut unfinished = to.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    // What an interrupted backup has left.
    drop(std::fs::remove_file(&unfinished));
    let made = copy(shared, &unfinished, &failed);
    let made = made.and_then(|made| {
        disk::put_in_place(&unfinished, to).map_err(|error| failed(error.into()))?;
        Ok(made)
    });
    if made.is_err() {
        drop(std::fs::remove_file(&unfinished));
    }
    made
}

fn copy(
    shared: &Shared,
    to: &Path,
    failed: &impl Fn(redb::Error) -> BackupError,
) -> Result<Backup, BackupError> {
    let snapshot = shared.snapshot()?;
    let target = disk::create(to, &shared.options).map_err(|error| match error {
        OpenError::Folder { source, .. } => failed(io::Error::new(source.kind(), source).into()),
        OpenError::Store(StoreError::NoSpace { source, .. } | StoreError::Io { source, .. }) => {
            BackupError::Write { path: to.to_path_buf(), source }
        }
        other => failed(redb::Error::Corrupted(other.to_string())),
    })?;
    format::create(&target, format::STEPS).map_err(failed)?;
    let transaction = target.begin_write().map_err(|error| failed(error.into()))?;
    let revision = snapshot.revision();
    let mut objects = 0;
    {
        let mut table = transaction.open_table(OBJECTS).map_err(|error| failed(error.into()))?;
        for item in snapshot.all()? {
            let (key, record) = item?;
            let row = (record.created, record.modified, &record.bytes[..]);
            table.insert(key.parts(), row).map_err(|error| failed(error.into()))?;
            objects += 1;
        }
        let mut meta = transaction.open_table(META).map_err(|error| failed(error.into()))?;
        let position = Position { revision, floor: revision, rows: 0, bytes: 0 };
        position.store(&mut meta).map_err(|error| failed(error.into()))?;
    }
    transaction.commit().map_err(|error| failed(error.into()))?;
    target.close().map_err(|error| failed(error.into()))?;
    Ok(Backup { revision, objects })
}

/// Puts the backup `from` in the place of the store in `folder`, which must not be in use. The whole backup is checked
/// before anything is replaced; `from` itself is not touched.
///
/// # Errors
/// When the folder is in use, or the backup cannot be read, is none, is damaged or of a newer format.
pub fn restore(from: &Path, folder: &Path, now: Timestamp) -> Result<Backup, RestoreError> {
    let options = StoreOptions::new(Arc::new(move || now));
    let unread = |source| RestoreError::Read { path: from.to_path_buf(), source: Arc::new(source) };
    let mut source = File::open(from).map_err(unread)?;
    let mut magic = Vec::with_capacity(MAGIC.len());
    source.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(unread)?;
    if magic != MAGIC {
        return Err(RestoreError::NoBackup { path: from.to_path_buf() });
    }
    source.rewind().map_err(unread)?;
    let folder = Folder::claim(folder)?;
    let (unfinished, store) = (folder.unfinished(), folder.store());
    drop(std::fs::remove_file(&unfinished));
    let prepared = prepare(&mut source, &unfinished, &store, &options).map_err(|error| match error {
        OpenError::Newer { found, known, .. } => {
            RestoreError::Newer { path: from.to_path_buf(), found, known }
        }
        OpenError::Store(StoreError::Damaged { source, .. }) => {
            RestoreError::Damaged { path: from.to_path_buf(), source }
        }
        other => RestoreError::Folder(other),
    });
    let restored = prepared.and_then(|restored| {
        disk::put_in_place(&unfinished, &store).map_err(|source| {
            RestoreError::Folder(OpenError::Folder { path: store.clone(), source: Arc::new(source) })
        })?;
        Ok(restored)
    });
    if restored.is_err() {
        drop(std::fs::remove_file(&unfinished));
    }
    restored
}

/// Makes `unfinished` a store that goes on from the backup.
fn prepare(
    source: &mut File,
    unfinished: &Path,
    store: &Path,
    options: &StoreOptions,
) -> Result<Backup, OpenError> {
    let folder_error =
        |source: io::Error| OpenError::Folder { path: unfinished.into(), source: Arc::new(source) };
    let mut target = disk::private().create_new(true).open(unfinished).map_err(folder_error)?;
    io::copy(source, &mut target).map_err(folder_error)?;
    drop(target);

    let database = disk::open_loose(unfinished, options)?;
    format::upgrade(&database, format::STEPS, unfinished)?;
    // A store that is not readable hands out nothing; a damaged one may be the reason for all this.
    let last = disk::open_loose(store, options)
        .ok()
        .and_then(|database| position(&database, store).ok())
        .map_or(0, |position| position.revision);
    let (revision, objects) =
        advance(&database, last, unfinished).map_err(|error| StoreError::new(unfinished, error))?;
    disk::close(database, unfinished)?;
    Ok(Backup { revision, objects })
}

fn position(database: &Database, path: &Path) -> Result<Position, StoreError> {
    let failed = |error: redb::Error| StoreError::new(path, error);
    let transaction = database.begin_read().map_err(|error| failed(error.into()))?;
    let meta = transaction.open_table(META).map_err(|error| failed(error.into()))?;
    Position::load(&meta, path)
}

/// Sets the revision beyond the backup's and `last`, and forgets what led there.
fn advance(database: &Database, last: u64, path: &Path) -> Result<(u64, u64), redb::Error> {
    let current = position(database, path).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
    let revision = current.revision.max(last) + JUMP;
    let transaction = database.begin_write()?;
    transaction.delete_table(super::tables::LOG)?;
    transaction.open_table(super::tables::LOG)?;
    Position { revision, floor: revision, rows: 0, bytes: 0 }.store(&mut transaction.open_table(META)?)?;
    let objects = {
        let table = transaction.open_table(OBJECTS)?;
        let mut count = 0;
        for row in table.iter()? {
            row?;
            count += 1;
        }
        count
    };
    transaction.commit()?;
    Ok((revision, objects))
}
