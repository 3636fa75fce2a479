//! The file `kubelet_internal_checkpoint`: read once, written when the book has changed. A file that cannot be read is set
//! aside; what it says is taken even when its checksum is wrong, since nothing better is known of devices in use.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rubelet_core::devices::Checkpoint;
use rubelet_linux::record;
use tracing::warn;

use crate::fs_pool::FsPool;

/// Its name; upstream's.
const NAME: &str = "kubelet_internal_checkpoint";

/// The file.
pub(super) struct CheckpointFile {
    path: PathBuf,
    /// The book says something else.
    old: AtomicBool,
    /// Held while it is written, so that the newest is written last.
    turn: tokio::sync::Mutex<()>,
}

impl CheckpointFile {
    pub(super) fn new(folder: &Path) -> Self {
        Self { path: folder.join(NAME), old: AtomicBool::new(false), turn: tokio::sync::Mutex::default() }
    }

    /// The book says something else from now on.
    pub(super) fn is_old(&self) {
        self.old.store(true, Ordering::Release);
    }

    /// What an earlier run has written down.
    pub(super) async fn load(&self, fs: &FsPool) -> Option<Checkpoint> {
        let path = self.path.clone();
        let read = move || match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => text.map(Some),
        };
        let text = match fs.run(format!("read {}", self.path.display()), read).await {
            Ok(text) => text?,
            Err(error) => {
                warn!("the checkpoint of devices is not known: {}", crate::logging::chain(&error));
                return None;
            }
        };
        match Checkpoint::decode(&text) {
            Ok((checkpoint, right)) => {
                if !right {
                    warn!(file = %self.path.display(), "the checkpoint of devices has a wrong checksum; it is taken as it is");
                }
                Some(checkpoint)
            }
            Err(error) => {
                let path = self.path.clone();
                let aside = fs.run("set the checkpoint of devices aside".to_owned(), move || {
                    Ok(record::set_aside(&path))
                });
                let aside = aside.await.unwrap_or_else(|error| error.to_string());
                warn!("the checkpoint of devices is damaged: {}; {aside}", crate::logging::chain(&error));
                None
            }
        }
    }

    /// Writes it if it is old. Failures are told; the next change tries again.
    pub(super) async fn save(&self, fs: &FsPool, checkpoint: impl FnOnce() -> Checkpoint) {
        let _turn = self.turn.lock().await;
        if !self.old.swap(false, Ordering::AcqRel) {
            return;
        }
        // Whoever asks may be dropped before it is written.
        let mut unwritten = Unwritten { file: self, is_written: false };
        let text = match checkpoint().encode() {
            Ok(text) => text,
            Err(error) => {
                warn!("the checkpoint of devices cannot be written: {}", crate::logging::chain(&error));
                return;
            }
        };
        let path = self.path.clone();
        let written = fs.run(format!("write {}", self.path.display()), move || record::replace(&path, &text));
        match written.await {
            Ok(()) => unwritten.is_written = true,
            Err(error) => {
                warn!("the checkpoint of devices is not written: {}", crate::logging::chain(&error))
            }
        }
    }
}

/// Has the file counted as old again unless it was written.
struct Unwritten<'a> {
    file: &'a CheckpointFile,
    is_written: bool,
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        if !self.is_written {
            self.file.is_old();
        }
    }
}
