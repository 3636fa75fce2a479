//! Directory watches as hints: "something in there may have changed". What changed is found by looking; a
//! lost or merged event therefore costs nothing but time until the next poll.

use std::io;
use std::path::Path;

use futures::StreamExt as _;
use inotify::{Inotify, WatchMask};

/// A watch on one directory. Ends with the value.
pub struct DirWatch {
    events: inotify::EventStream<[u8; 4096]>,
}

impl DirWatch {
    /// Watches a directory for files that appear, vanish or are written.
    ///
    /// # Errors
    /// When the directory is not there or the system's limit of watches is reached.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::MODIFY
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        inotify.watches().add(dir, mask)?;
        Ok(Self { events: inotify.into_event_stream([0; 4096])? })
    }

    /// Waits until something may have changed. Cancel-safe: events that were not taken stay in the kernel.
    ///
    /// # Errors
    /// When the watch is gone (the directory was removed): make a new one.
    pub async fn changed(&mut self) -> io::Result<()> {
        match self.events.next().await {
            Some(Ok(event)) if event.mask.contains(inotify::EventMask::IGNORED) => {
                Err(io::Error::new(io::ErrorKind::NotFound, "the watched directory is gone"))
            }
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error),
            None => Err(io::Error::other("the watch has ended")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_file_is_a_hint_and_a_removed_directory_an_error() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d");
        std::fs::create_dir(&dir).unwrap();
        let mut watch = DirWatch::new(&dir).unwrap();
        std::fs::write(dir.join("f"), "x").unwrap();
        watch.changed().await.unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        while watch.changed().await.is_ok() {}
    }
}
