//! Where operations are under way, how many in each place, and in which of them something does not answer. Owns no
//! thread and knows no time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All places in which something is under way. Bounded by the operations.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<All>>);

#[derive(Debug, Default)]
struct All {
    places: BTreeMap<String, Place>,
    /// Number of the operation that began last.
    last: u64,
}

#[derive(Debug)]
struct Place {
    /// Operations that wait for their turn.
    waiting: usize,
    running: BTreeMap<u64, Operation>,
    limit: usize,
    /// Closed while something hangs, so that nobody goes on waiting.
    turns: Arc<Semaphore>,
}

#[derive(Debug)]
struct Operation {
    what: String,
    hangs: bool,
}

impl Place {
    fn new(limit: usize) -> Self {
        Self { waiting: 0, running: BTreeMap::new(), limit, turns: turns(limit) }
    }

    fn hangs(&self) -> bool {
        self.running.values().any(|operation| operation.hangs)
    }
}

fn turns(limit: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)))
}

impl Places {
    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets in line for a place; `None` while something hangs there.
    pub(super) fn enter(&self, place: &str, limit: usize) -> Option<Turn> {
        let mut all = self.all();
        let found = all.places.entry(place.to_owned()).or_insert_with(|| Place::new(limit));
        if found.hangs() {
            return None;
        }
        found.waiting += 1;
        Some(Turn { places: self.clone(), place: place.to_owned(), turns: found.turns.clone() })
    }

    pub(super) fn hangs(&self, path: &Path) -> bool {
        let all = self.all();
        all.places.iter().filter(|(_, place)| place.hangs()).any(|(place, _)| {
            let place = Path::new(place);
            place.starts_with(path) || path.starts_with(place)
        })
    }

    pub(super) fn hanging(&self) -> Vec<String> {
        let all = self.all();
        let operations = all.places.values().flat_map(|place| place.running.values());
        operations.filter(|operation| operation.hangs).map(|operation| operation.what.clone()).collect()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all().places.is_empty()
    }

    /// Changes a place, and forgets it when nobody is there any more.
    fn change(&self, name: &str, change: impl FnOnce(&mut Place)) {
        let mut all = self.all();
        let Some(place) = all.places.get_mut(name) else { return };
        change(place);
        if place.waiting == 0 && place.running.is_empty() {
            all.places.remove(name);
        }
    }
}

/// A place in the line; left when dropped.
pub(super) struct Turn {
    places: Places,
    place: String,
    turns: Arc<Semaphore>,
}

impl Turn {
    /// Waits for its turn; `None` when something has come to hang meanwhile.
    pub(super) async fn take(self, what: &str) -> Option<Running> {
        let permit = self.turns.clone().acquire_owned().await.ok()?;
        let mut all = self.places.all();
        all.last += 1;
        let id = all.last;
        let operation = Operation { what: what.to_owned(), hangs: false };
        all.places.get_mut(&self.place)?.running.insert(id, operation);
        drop(all);
        let watch = Watch { places: self.places.clone(), place: self.place.clone(), id };
        Some(Running { watch, _turn: permit })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.places.change(&self.place, |place| place.waiting -= 1);
    }
}

/// An operation that is under way; it ends when this is dropped.
pub(super) struct Running {
    watch: Watch,
    _turn: OwnedSemaphorePermit,
}

impl Running {
    pub(super) fn watch(&self) -> Watch {
        self.watch.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Watch { places, place, id } = &self.watch;
        places.change(place, |place| {
            let ended = place.running.remove(id);
            if ended.is_some_and(|operation| operation.hangs) && !place.hangs() {
                place.turns = turns(place.limit);
            }
        });
    }
}

/// For whoever waits for an operation.
#[derive(Clone)]
pub(super) struct Watch {
    places: Places,
    place: String,
    id: u64,
}

impl Watch {
    /// It does not answer. Nothing happens when it has ended in this very moment.
    pub(super) fn hangs(&self) {
        self.places.change(&self.place, |place| {
            if let Some(operation) = place.running.get_mut(&self.id) {
                operation.hangs = true;
                place.turns.close();
            }
        });
    }
}
