//! Hints that something changed in a directory of logs.
//!
//! One inotify instance serves every follower (the kernel allows few of them per user), one watch every directory; both
//! go with the last follower. A hint says *look again*, never what happened, so that a lost one costs time only.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Where hints come from.
pub trait Changes: Send + Sync {
    /// Watches a directory from now on, until the watch is dropped.
    ///
    /// # Errors
    /// When it cannot be watched; followers then look from time to time.
    fn watch(&self, directory: &Path) -> io::Result<Watch>;
}

/// A watch on a directory.
pub struct Watch {
    hints: watch::Receiver<u64>,
    _guard: Box<dyn Any + Send>,
}

impl Watch {
    /// A watch that gives a hint for each change of `hints`, and drops `guard` at its end.
    pub fn new(hints: watch::Receiver<u64>, guard: Box<dyn Any + Send>) -> Self {
        Self { hints, _guard: guard }
    }

    /// Waits for a hint since the last one; false when none will come any more. Cancel-safe.
    pub async fn changed(&mut self) -> bool {
        self.hints.changed().await.is_ok()
    }
}

/// Hints from inotify.
#[derive(Default, Clone)]
pub struct InotifyChanges(Arc<Mutex<Option<Shared>>>);

struct Shared {
    watches: Watches,
    directories: BTreeMap<PathBuf, Directory>,
    paths: HashMap<WatchDescriptor, PathBuf>,
    task: AbortHandle,
}

struct Directory {
    descriptor: WatchDescriptor,
    hints: watch::Sender<u64>,
    users: usize,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl InotifyChanges {
    fn with<T>(&self, what: impl FnOnce(&mut Option<Shared>) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn start(&self) -> io::Result<Shared> {
        let inotify = Inotify::init()?;
        let watches = inotify.watches();
        let mut events = inotify.into_event_stream(vec![0; 4096])?;
        let this = self.clone();
        let task = tokio::spawn(async move {
            while let Some(Ok(event)) = events.next().await {
                this.with(|shared| hint(shared.as_mut(), &event.wd, event.mask));
            }
            // Followers see that their watches are gone and look from time to time.
            this.with(|shared| *shared = None);
        });
        let task = task.abort_handle();
        Ok(Shared { watches, directories: BTreeMap::new(), paths: HashMap::new(), task })
    }

    fn leave(&self, path: &Path) {
        self.with(|shared| {
            let Some(all) = shared else { return };
            let Some(directory) = all.directories.get_mut(path) else { return };
            directory.users -= 1;
            if directory.users == 0 {
                // An error means that the directory is gone, and its watch with it.
                let _ = all.watches.remove(directory.descriptor.clone());
                all.paths.remove(&directory.descriptor);
                all.directories.remove(path);
            }
            if all.directories.is_empty() {
                *shared = None;
            }
        });
    }
}

fn hint(shared: Option<&mut Shared>, descriptor: &WatchDescriptor, mask: EventMask) {
    let Some(shared) = shared else { return };
    let bump = |directory: &Directory| directory.hints.send_modify(|count| *count = count.wrapping_add(1));
    if mask.contains(EventMask::Q_OVERFLOW) {
        shared.directories.values().for_each(bump);
    } else if let Some(path) = shared.paths.get(descriptor)
        && let Some(directory) = shared.directories.get_mut(path)
    {
        if mask.contains(EventMask::IGNORED) {
            // The directory is gone: a new channel ends the waiting of those who watch.
            directory.hints = watch::Sender::new(0);
        } else {
            bump(directory);
        }
    }
}

struct Guard(InotifyChanges, PathBuf);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.leave(&self.1);
    }
}

impl Changes for InotifyChanges {
    fn watch(&self, path: &Path) -> io::Result<Watch> {
        self.with(|shared| {
            let all = match shared {
                Some(all) => all,
                None => shared.insert(self.start()?),
            };
            if let Some(directory) = all.directories.get_mut(path) {
                directory.users += 1;
                let guard = Guard(self.clone(), path.to_owned());
                return Ok(Watch::new(directory.hints.subscribe(), Box::new(guard)));
            }
            // That a file's last writer has left it is what a follower waits for at the end of a rotated one.
            let mask = WatchMask::MODIFY
                | WatchMask::CLOSE_WRITE
                | WatchMask::CREATE
                | WatchMask::MOVED_TO
                | WatchMask::DELETE
                | WatchMask::ONLYDIR
                | WatchMask::DONT_FOLLOW;
            let descriptor = match all.watches.add(path, mask) {
                Ok(descriptor) => descriptor,
                Err(error) => {
                    if all.directories.is_empty() {
                        *shared = None;
                    }
                    return Err(error);
                }
            };
            let hints = watch::Sender::new(0);
            let watch = Watch::new(hints.subscribe(), Box::new(Guard(self.clone(), path.to_owned())));
            all.paths.insert(descriptor.clone(), path.to_owned());
            all.directories.insert(path.to_owned(), Directory { descriptor, hints, users: 1 });
            Ok(watch)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn hints_reach_every_follower_and_nothing_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let changes = InotifyChanges::default();
        let mut first = changes.watch(dir.path()).unwrap();
        let mut second = changes.watch(dir.path()).unwrap();
        assert_eq!(changes.with(|shared| shared.as_ref().unwrap().directories.len()), 1);
        std::fs::write(dir.path().join("0.log"), "x").unwrap();
        let long = Duration::from_secs(20);
        assert!(tokio::time::timeout(long, first.changed()).await.unwrap());
        assert!(tokio::time::timeout(long, second.changed()).await.unwrap());
        drop(first);
        assert!(changes.with(|shared| shared.is_some()));
        drop(dir);
        // The directory's end is a hint, or the end of hints.
        tokio::time::timeout(long, async { while second.changed().await {} }).await.unwrap();
        drop(second);
        assert!(changes.with(|shared| shared.is_none()));
        assert!(changes.watch(Path::new("/nonexistent")).is_err());
        assert!(changes.with(|shared| shared.is_none()));
    }
}
