//! The checkpoint of the book (`<root-dir>/dra_manager_state`, upstream's form). Written whole, one write at a time, the
//! newest state last.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rubelet_core::dra::book::ClaimBook;
use rubelet_core::dra::checkpoint;
use rubelet_linux::record;
use tokio::sync::Mutex;

use crate::fs_pool::{FsError, FsPool};

/// The file.
pub(super) struct Store {
    path: PathBuf,
    fs: FsPool,
    writing: Mutex<()>,
    /// The file may not say what the book does.
    behind: AtomicBool,
}

impl Store {
    pub(super) fn new(root_dir: &Path, fs: FsPool) -> Self {
        let path = root_dir.join(checkpoint::FILE);
        Self { path, fs, writing: Mutex::new(()), behind: AtomicBool::new(false) }
    }

    /// Reads the file; none is an empty book.
    ///
    /// # Errors
    /// What is wrong with it, in words; it has been set aside then, unless it could not be read.
    pub(super) async fn load(&self) -> Result<ClaimBook, String> {
        let path = self.path.clone();
        let read = self.fs.run(format!("read {}", path.display()), move || match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        });
        let Some(bytes) = read.await.map_err(|error| crate::logging::chain(&error))? else {
            return Ok(ClaimBook::default());
        };
        match checkpoint::decode(&bytes) {
            Ok(book) => Ok(book),
            Err(problem) => {
                let path = self.path.clone();
                let what = format!("set aside {}", path.display());
                let aside = self.fs.run(what, move || Ok(record::set_aside(&path))).await;
                let aside = aside.unwrap_or_else(|error| crate::logging::chain(&error));
                let problem = crate::logging::chain(&problem);
                Err(format!("{}: {problem}; {aside}", self.path.display()))
            }
        }
    }

    /// Whether the last write failed.
    pub(super) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::SeqCst)
    }

    /// Writes what `text` gives when it is this write's turn.
    ///
    /// # Errors
    /// The file is then as it was.
    pub(super) async fn save(&self, text: impl FnOnce() -> String) -> Result<(), FsError> {
        // Before anything is waited for: a write that is given up is one that did not happen.
        self.behind.store(true, Ordering::SeqCst);
        let _turn = self.writing.lock().await;
        let (path, text) = (self.path.clone(), text());
        self.fs.run(format!("write {}", path.display()), move || record::replace(&path, &text)).await?;
        self.behind.store(false, Ordering::SeqCst);
        Ok(())
    }
}
