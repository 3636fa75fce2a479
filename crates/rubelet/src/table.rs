//! The table of pods: what each worker last published. Workers write their own row, everyone else reads
//! snapshots.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::PodStatus;
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
    version: Arc<watch::Sender<u64>>,
}

impl Default for PodTable {
    fn default() -> Self {
        Self { rows: Arc::default(), version: Arc::new(watch::Sender::new(0)) }
    }
}

impl PodTable {
    /// Writes a pod's row.
    pub fn publish(&self, uid: &PodUid, row: PodRow) {
        self.rows().insert(uid.clone(), row);
        self.version.send_modify(|version| *version += 1);
    }

    /// Removes a pod's row.
    pub fn remove(&self, uid: &PodUid) {
        self.rows().remove(uid);
        self.version.send_modify(|version| *version += 1);
    }

    /// One row.
    pub fn get(&self, uid: &PodUid) -> Option<PodRow> {
        self.rows().get(uid).cloned()
    }

    /// All rows.
    pub fn snapshot(&self) -> BTreeMap<PodUid, PodRow> {
        self.rows().clone()
    }

    /// Changes whenever a row does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<PodUid, PodRow>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
