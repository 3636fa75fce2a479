//! The table of pods: what each worker last published. Workers write their own row, everyone else reads
//! snapshots.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::PodStatus;
use rubelet_apiclient::level::Level;
use rubelet_core::Pod;
use rubelet_core::ids::PodUid;
use rubelet_core::lifecycle::PodState;
use tokio::sync::watch;

/// One row.
#[derive(Clone, Debug)]
pub struct PodRow {
    /// The pod as desired and admitted.
    pub pod: Arc<Pod>,
    /// The status last published.
    pub status: Arc<PodStatus>,
    /// The stage its worker is in.
    pub state: PodState,
}

/// The table; cheap to clone.
#[derive(Clone, Debug)]
pub struct PodTable {
    rows: Arc<Mutex<BTreeMap<PodUid, PodRow>>>,
    version: Arc<Level<u64>>,
    changed: Arc<Mutex<Option<Changed>>>,
}

/// Rows that changed since they were last taken, with the last row of those that are gone.
type Changed = BTreeMap<PodUid, RowChange>;

/// What became of a row.
#[derive(Clone, Debug)]
pub enum RowChange {
    /// It was written.
    Written(PodRow),
    /// It was removed; this is what it said last.
    Removed(PodRow),
}

impl Default for PodTable {
    fn default() -> Self {
        Self { rows: Arc::default(), version: Arc::new(Level::new(0)), changed: Arc::default() }
    }
}

impl PodTable {
    /// Writes a pod's row.
    pub fn publish(&self, uid: &PodUid, row: PodRow) {
        // Noted after it is there: a first reader either sees the row or finds the note.
        self.rows().insert(uid.clone(), row.clone());
        self.note(uid, || RowChange::Written(row));
        self.version.update(|version| *version += 1);
    }

    /// Removes a pod's row.
    pub fn remove(&self, uid: &PodUid) {
        let last = self.rows().remove(uid);
        if let Some(last) = last {
            self.note(uid, || RowChange::Removed(last));
        }
        self.version.update(|version| *version += 1);
    }

    /// One row.
    pub fn get(&self, uid: &PodUid) -> Option<PodRow> {
        self.rows().get(uid).cloned()
    }

    /// The row of the pod of this name: the one that is to run, where an older one of that name has not ended yet.
    pub fn named(&self, namespace: &str, name: &str) -> Option<PodRow> {
        let is_it = |row: &&PodRow| {
            let metadata = &row.pod.metadata;
            metadata.name.as_deref() == Some(name) && metadata.namespace.as_deref() == Some(namespace)
        };
        let rank = |row: &&PodRow| match row.state {
            PodState::WaitingForPredecessor | PodState::Syncing => 2,
            PodState::Terminating { .. } => 1,
            PodState::Terminated { .. } | PodState::Finished { .. } => 0,
        };
        self.rows().values().filter(is_it).max_by_key(rank).cloned()
    }

    /// All rows.
    pub fn snapshot(&self) -> BTreeMap<PodUid, PodRow> {
        self.rows().clone()
    }

    /// Changes whenever a row does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.follow()
    }

    /// Takes what changed since the last call; the first call takes every row. For one reader, the status writer,
    /// which waits for [`Self::changes`] in between.
    pub fn take_changed(&self) -> BTreeMap<PodUid, RowChange> {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        match changed.replace(Changed::new()) {
            Some(changed) => changed,
            None => {
                self.rows().iter().map(|(uid, row)| (uid.clone(), RowChange::Written(row.clone()))).collect()
            }
        }
    }

    /// Without a reader nothing is noted.
    fn note(&self, uid: &PodUid, change: impl FnOnce() -> RowChange) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(changed) = changed.as_mut() {
            changed.insert(uid.clone(), change());
        }
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<PodUid, PodRow>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
