//! The data folder: whose it is, the file in it, and how the file is reached when the disk fails.
//!
//! It owns the names in the folder, the lock and the opening of the file. It knows nothing of what is in the tables
//! beyond their format. `Store::open`, `shared` (to open the file anew) and `backup` call it.

use std::any::Any;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{BackendError, Database, StorageBackend};

use super::StoreOptions;
use super::error::{OpenError, StoreError};
use super::format;

/// The store's file in a data folder.
const STORE: &str = "store.redb";
/// A file that is not yet the store's.
const UNFINISHED: &str = "store.redb.new";
/// Held by the process that has the folder; tells its id.
const LOCK: &str = "store.lock";
/// Written to see whether there is room again.
const PROBE: &str = "store.probe";
const PROBE_BYTES: usize = 1 << 20;

/// A data folder that is ours for as long as this lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
    #[cfg(test)]
    pub faults: Arc<faults::Faults>,
}

/// Opens the store in `folder`, and makes both when they are not there.
pub(super) fn open(folder: &Path, options: &StoreOptions) -> Result<(Database, Folder), OpenError> {
    let folder = Folder::claim(folder)?;
    // What an interrupted start or restore has left.
    for leftover in [UNFINISHED, PROBE] {
        std::fs::remove_file(folder.path.join(leftover)).or_else(not_found_is_fine).map_err(|source| {
            OpenError::Folder { path: folder.path.join(leftover), source: Arc::new(source) }
        })?;
    }
    let store = folder.store();
    if !store.try_exists().map_err(cannot_open(&store))? {
        // Under another name until it is whole: a file of no length would mean that everything is lost.
        let unfinished = folder.unfinished();
        let fresh = create(&unfinished, options)?;
        format::create(&fresh, format::STEPS).map_err(|error| StoreError::new(&store, error))?;
        close(fresh, &store)?;
        put_in_place(&unfinished, &store).map_err(cannot_open(&store))?;
    }
    let database = folder.open_store(options)?;
    Ok((database, folder))
}

/// A store that has no folder.
pub(super) fn in_memory(options: &StoreOptions) -> Result<Database, OpenError> {
    let path = Path::new("(memory)");
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    let made = builder.create_with_backend(InMemoryBackend::new());
    let database = made.map_err(|error| StoreError::new(path, error))?;
    format::create(&database, format::STEPS).map_err(|error| StoreError::new(path, error))?;
    Ok(database)
}

impl Folder {
    /// Takes the folder for this process, and makes it when it is not there.
    pub(super) fn claim(folder: &Path) -> Result<Self, OpenError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(cannot_open(folder))?;
        let path = folder.join(LOCK);
        let lock = private().create(true).truncate(false).open(&path);
        let mut lock = lock.map_err(cannot_open(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let holder = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(OpenError::InUse { folder: folder.to_path_buf(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(cannot_open(&path)(source)),
        }
        // For the message of whoever comes next; a full disk must not keep the store from being read.
        let noted = lock.set_len(0).and_then(|()| lock.rewind());
        if let Err(error) = noted.and_then(|()| writeln!(lock, "{}", std::process::id())) {
            tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "cannot note the owner");
        }
        Ok(Self {
            path: folder.to_path_buf(),
            _lock: lock,
            #[cfg(test)]
            faults: Arc::default(),
        })
    }

    /// The store's file.
    pub(super) fn store(&self) -> PathBuf {
        self.path.join(STORE)
    }

    /// Where a file is made that is to become the store's.
    pub(super) fn unfinished(&self) -> PathBuf {
        self.path.join(UNFINISHED)
    }

    /// Opens the store's file to read and write it.
    pub(super) fn open_store(&self, options: &StoreOptions) -> Result<Database, OpenError> {
        let database = open_file(&self.store(), options, self.disk(false)?)?;
        format::upgrade(&database, format::STEPS, &self.store())?;
        Ok(database)
    }

    /// Opens the store's file so that whatever is written to it is kept in memory and lost: to read it from a disk that
    /// takes no writes, not even those that mend the file after a failed one.
    pub(super) fn open_store_to_read(&self, options: &StoreOptions) -> Result<Database, OpenError> {
        open_file(&self.store(), options, self.disk(true)?)
    }

    /// Makes the kernel forget what it holds of the store's file. After a write that failed, a page in memory can be
    /// newer than the disk's and pass for clean: it must not be what the file is judged by.
    pub(super) fn distrust_memory(&self) {
        if let Ok(file) = File::open(self.store()) {
            // A file system that knows no such advice is no worse off.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }

    /// Whether the disk takes writes, without touching the store.
    pub(super) fn probe(&self) -> Result<(), StoreError> {
        let path = self.path.join(PROBE);
        let write = || {
            #[cfg(test)]
            self.faults.check()?;
            let mut file = private().create(true).truncate(true).open(&path)?;
            file.write_all(&vec![0; PROBE_BYTES])?;
            file.sync_data()
        };
        let written = write();
        let removed = std::fs::remove_file(&path).or_else(not_found_is_fine);
        written.and(removed).map_err(|error| StoreError::new(&self.store(), redb::Error::Io(error)))
    }

    fn disk(&self, spill: bool) -> Result<Disk, OpenError> {
        let path = self.store();
        let file = private().open(&path).map_err(cannot_open(&path))?;
        let file = FileBackend::new(file).map_err(|error| StoreError::new(&path, error))?;
        Ok(Disk {
            file,
            spill: spill.then(Mutex::default),
            #[cfg(test)]
            faults: self.faults.clone(),
        })
    }
}

/// Makes an empty file for a database, readable by its owner only.
pub(super) fn create(path: &Path, options: &StoreOptions) -> Result<Database, OpenError> {
    let file = private().create_new(true).open(path).map_err(cannot_open(path))?;
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    let made = FileBackend::new(file).and_then(|backend| builder.create_with_backend(backend));
    made.map_err(|error| StoreError::new(path, error).into())
}

/// Opens the file of a store that is there.
fn open_file(path: &Path, options: &StoreOptions, disk: Disk) -> Result<Database, OpenError> {
    let damaged = |detail: String| StoreError::new(path, redb::Error::Corrupted(detail));
    if disk.len().map_err(cannot_open(path))? == 0 {
        // It would be taken for a new one.
        return Err(damaged("the file is empty".to_owned()).into());
    }
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes).set_check_integrity_on_open(options.check_on_open);
    // A damaged file can make the database engine panic.
    match catch_unwind(AssertUnwindSafe(|| builder.create_with_backend(disk))) {
        Ok(opened) => opened.map_err(|error| StoreError::new(path, error).into()),
        Err(panic) => Err(damaged(panic_text(panic)).into()),
    }
}

/// Opens a file that is nobody's store: a backup. It is changed by that.
pub(super) fn open_loose(path: &Path, options: &StoreOptions) -> Result<Database, OpenError> {
    let file = private().open(path).map_err(cannot_open(path))?;
    let file = FileBackend::new(file).map_err(|error| StoreError::new(path, error))?;
    let disk = Disk {
        file,
        spill: None,
        #[cfg(test)]
        faults: Arc::default(),
    };
    open_file(path, options, disk)
}

/// Ends a database such that the next open need not mend it.
pub(super) fn close(database: Database, path: &Path) -> Result<(), StoreError> {
    database.close().map_err(|error| StoreError::new(path, error))
}

/// Gives a finished file its name, durably.
pub(super) fn put_in_place(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    std::fs::rename(from, to)?;
    match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast::<&'static str>() {
            Ok(text) => (*text).to_owned(),
            Err(_) => "no message".to_owned(),
        },
    }
}

/// For reading and writing; the owner's alone, as it holds secrets.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn not_found_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn cannot_open(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_path_buf();
    move |source| OpenError::Folder { path, source: Arc::new(source) }
}

const BLOCK: u64 = 4096;

/// What would have been written to the file.
#[derive(Debug, Default)]
struct Spill {
    blocks: BTreeMap<u64, Vec<u8>>,
    length: Option<u64>,
}

/// The file; with a spill, it is only read.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    spill: Option<Mutex<Spill>>,
    #[cfg(test)]
    faults: Arc<faults::Faults>,
}

impl Disk {
    fn spill(&self) -> Option<MutexGuard<'_, Spill>> {
        self.spill.as_ref().map(|spill| spill.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn check(&self) -> io::Result<()> {
        #[cfg(test)]
        self.faults.check()?;
        Ok(())
    }

    /// Reads what of the file is there; the rest is zero.
    fn read_zeroed(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.fill(0);
        let there = self.file.len()?.saturating_sub(offset).min(out.len() as u64) as usize;
        self.file.read(offset, &mut out[..there])
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        match self.spill().and_then(|spill| spill.length) {
            Some(length) => Ok(length),
            None => self.file.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let Some(spill) = self.spill() else { return self.file.read(offset, out) };
        self.read_zeroed(offset, out)?;
        let (first, end) = (offset / BLOCK, (offset + out.len() as u64).div_ceil(BLOCK));
        for (block, bytes) in spill.blocks.range(first..end) {
            let (start, from) = ((block * BLOCK).max(offset), offset.max(block * BLOCK) - block * BLOCK);
            let into = &mut out[(start - offset) as usize..];
            let count = into.len().min((BLOCK - from) as usize);
            into[..count].copy_from_slice(&bytes[from as usize..from as usize + count]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self.spill() {
            Some(mut spill) => {
                spill.blocks.retain(|block, _| block * BLOCK < len);
                spill.length = Some(len);
                Ok(())
            }
            None => self.check().and_then(|()| self.file.set_len(len)),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.spill() {
            Some(_) => Ok(()),
            None => self.check().and_then(|()| self.file.sync_data()),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let Some(mut spill) = self.spill() else {
            return self.check().and_then(|()| self.file.write(offset, data));
        };
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (block, from) = (at / BLOCK, (at % BLOCK) as usize);
            let count = (data.len() - done).min(BLOCK as usize - from);
            let bytes = match spill.blocks.entry(block) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(place) => {
                    let mut bytes = vec![0; BLOCK as usize];
                    self.read_zeroed(block * BLOCK, &mut bytes)?;
                    place.insert(bytes)
                }
            };
            bytes[from..from + count].copy_from_slice(&data[done..done + count]);
            done += count;
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

/// Disks that fail, for tests.
#[cfg(test)]
pub(super) mod faults {
    use std::io;
    use std::sync::{Mutex, PoisonError};

    /// What writes to the disk are answered with.
    #[derive(Debug, Default)]
    pub(in crate::store) struct Faults {
        state: Mutex<Option<(io::ErrorKind, u32)>>,
    }

    impl Faults {
        /// From the `after`th write on, each fails.
        pub(in crate::store) fn set(&self, kind: io::ErrorKind, after: u32) {
            *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some((kind, after));
        }

        /// All is well again.
        pub(in crate::store) fn clear(&self) {
            *self.state.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }

        pub(super) fn check(&self) -> io::Result<()> {
            match &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
                None => Ok(()),
                Some((kind, 0)) => Err((*kind).into()),
                Some((_, after)) => {
                    *after -= 1;
                    Ok(())
                }
            }
        }
    }
}
