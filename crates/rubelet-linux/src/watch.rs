//! Directory watches as hints: "something in there may have changed". What changed is found by looking; a
//! lost or merged event therefore costs nothing but time until the next poll.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use inotify::{EventMask, EventOwned, Inotify, WatchMask};
use tokio::time::Instant;

/// How long a file that is being written is waited for, and the least time between two hints.
const SETTLE: Duration = Duration::from_millis(50);

/// A watch on one directory. Ends with the value.
pub struct DirWatch {
    events: inotify::EventStream<[u8; 4096]>,
    /// When the first event came that no hint was given for yet.
    news_since: Option<Instant>,
    /// Files that were seen to be written and not to be closed, since the last hint.
    unfinished: BTreeSet<OsString>,
    /// When the last hint was given.
    hinted: Option<Instant>,
}

impl DirWatch {
    /// Watches a directory for files that appear, vanish or are written.
    ///
    /// # Errors
    /// When the directory is not there or the system's limit of watches is reached.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        inotify.watches().add(dir, mask())?;
        Ok(Self {
            events: inotify.into_event_stream([0; 4096])?,
            news_since: None,
            unfinished: BTreeSet::new(),
            hinted: None,
        })
    }

    /// Watches one more directory. When any of them goes, the whole watch ends with an error.
    ///
    /// # Errors
    /// As [`DirWatch::new`].
    pub fn also(&self, dir: &Path) -> io::Result<()> {
        self.events.watches().add(dir, mask()).map(drop)
    }

    /// Waits until something may have changed. A file that was renamed into the directory, removed from it or
    /// written and closed is told at once; one that is still being written a little later, in the hope that it is
    /// whole by then. However many events there were, they are one hint, and two hints are at least that little
    /// apart. Cancel-safe: what is known is kept in the watch, the rest in the kernel.
    ///
    /// # Errors
    /// When the watch is gone (the directory was removed): make a new one.
    pub async fn changed(&mut self) -> io::Result<()> {
        let since = match self.news_since {
            Some(since) => since,
            None => {
                let event = self.events.next().await;
                self.note(event)?
            }
        };
        loop {
            while let Some(event) = self.events.next().now_or_never() {
                self.note(event)?;
            }
            let apart = self.hinted.map(|hinted| hinted + SETTLE);
            let written = (!self.unfinished.is_empty()).then(|| since + SETTLE);
            let due = apart.max(written);
            let Some(due) = due.filter(|due| *due > Instant::now()) else { break };
            if let Ok(event) = tokio::time::timeout_at(due, self.events.next()).await {
                self.note(event)?;
            }
        }
        self.unfinished.clear();
        self.news_since = None;
        self.hinted = Some(Instant::now());
        Ok(())
    }

    /// Takes note of one event; returns when the first one came that no hint was given for yet.
    fn note(&mut self, event: Option<io::Result<EventOwned>>) -> io::Result<Instant> {
        let event = event.ok_or_else(|| io::Error::other("the watch has ended"))??;
        if event.mask.contains(EventMask::IGNORED) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the watched directory is gone"));
        }
        if let Some(name) = event.name {
            if event.mask.intersects(EventMask::CREATE | EventMask::MODIFY) {
                self.unfinished.insert(name);
            } else if !event.mask.contains(EventMask::ATTRIB) {
                self.unfinished.remove(&name);
            }
        }
        Ok(*self.news_since.get_or_insert_with(Instant::now))
    }
}

/// What is a change.
fn mask() -> WatchMask {
    WatchMask::CLOSE_WRITE
        | WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVED_FROM
        | WatchMask::MOVED_TO
        | WatchMask::MODIFY
        | WatchMask::ATTRIB
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
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

    #[tokio::test]
    async fn one_watch_can_be_on_several_directories() {
        let root = tempfile::tempdir().unwrap();
        let dirs = ["a", "b"].map(|name| root.path().join(name));
        for dir in &dirs {
            std::fs::create_dir(dir).unwrap();
        }
        let mut watch = DirWatch::new(&dirs[0]).unwrap();
        watch.also(&dirs[1]).unwrap();
        std::fs::write(dirs[1].join("f"), "x").unwrap();
        watch.changed().await.unwrap();
        std::fs::remove_dir_all(&dirs[1]).unwrap();
        while watch.changed().await.is_ok() {}
        assert!(watch.also(&dirs[1]).is_err());
    }

    /// Waits for a hint and returns how long it took, in milliseconds of a clock that only moves when all wait.
    async fn hint_after(watch: &mut DirWatch) -> u128 {
        let began = Instant::now();
        watch.changed().await.unwrap();
        began.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_whole_is_told_at_once_and_a_burst_is_one_hint() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d");
        std::fs::create_dir(&dir).unwrap();
        let mut watch = DirWatch::new(&dir).unwrap();
        for number in 0..200 {
            let name = format!("a-name-that-is-not-short-{number}");
            std::fs::write(root.path().join(&name), "x").unwrap();
            std::fs::rename(root.path().join(&name), dir.join(&name)).unwrap();
        }
        assert_eq!(hint_after(&mut watch).await, 0);
        assert!(watch.changed().now_or_never().is_none(), "the burst was told");
        std::fs::remove_file(dir.join("a-name-that-is-not-short-0")).unwrap();
        let after = hint_after(&mut watch).await;
        assert!((50..60).contains(&after), "{after} ms: hints keep a distance");
        tokio::time::sleep(SETTLE * 2).await;
        std::fs::write(dir.join("b"), "written and closed").unwrap();
        assert_eq!(hint_after(&mut watch).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_being_written_is_waited_for_but_not_for_ever() {
        use std::io::Write as _;
        let root = tempfile::tempdir().unwrap();
        let mut watch = DirWatch::new(root.path()).unwrap();
        let mut file = std::fs::File::create(root.path().join("f")).unwrap();
        file.write_all(b"half").unwrap();
        let after = hint_after(&mut watch).await;
        assert!((50..60).contains(&after), "{after} ms");
        tokio::time::sleep(SETTLE * 2).await;
        file.write_all(b"whole").unwrap();
        drop(file);
        assert_eq!(hint_after(&mut watch).await, 0);
    }
}
