//! One book on disk. Changes are counted, and a write takes along all that were made before it began.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rubelet_core::resize::checkpoint::{self, Book};
use rubelet_linux::record;
use tokio::sync::Mutex;
use tracing::warn;

use crate::fs_pool::{FsError, FsPool};

/// Most that is read: far more than a node's pods fill.
const MAX_BYTES: u64 = 64 << 20;

/// A book's file.
pub(super) struct BookFile {
    path: PathBuf,
    fs: FsPool,
    /// Changes made to the book.
    made: AtomicU64,
    /// Changes that are on the disk; held while writing.
    written: Mutex<u64>,
}

impl BookFile {
    pub(super) fn new(path: PathBuf, fs: FsPool) -> Self {
        Self { path, fs, made: AtomicU64::new(0), written: Mutex::new(0) }
    }

    /// What it holds; nothing when it is not there or no book, which then is set aside.
    pub(super) async fn read(&self) -> Book {
        let path = self.path.clone();
        let read = self.fs.run(format!("read {}", path.display()), move || {
            let length = match std::fs::metadata(&path) {
                Ok(found) => found.len(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Book::new()),
                Err(error) => return Err(error),
            };
            let problem = if length > MAX_BYTES {
                format!("it has {length} bytes")
            } else {
                match checkpoint::decode(&std::fs::read(&path)?) {
                    Ok(book) => return Ok(book),
                    Err(error) => crate::logging::chain(&error),
                }
            };
            // Not within the macro: what is not logged is not evaluated.
            let aside = record::set_aside(&path);
            warn!("{}: {problem}; {aside}", path.display());
            Ok(Book::new())
        });
        read.await.unwrap_or_else(|error| {
            warn!("{}", crate::logging::chain(&error));
            Book::new()
        })
    }

    /// The book has changed.
    pub(super) fn changed(&self) {
        self.made.fetch_add(1, Ordering::Release);
    }

    /// Writes the book unless the disk has it.
    pub(super) async fn write(&self, text: impl FnOnce() -> String) -> Result<(), FsError> {
        let mut written = self.written.lock().await;
        let made = self.made.load(Ordering::Acquire);
        if *written == made {
            return Ok(());
        }
        let (path, text) = (self.path.clone(), text());
        let writing = self.fs.run(format!("write {}", path.display()), move || record::replace(&path, &text));
        writing.await?;
        *written = made;
        Ok(())
    }
}
