//! What is known of each volume while somebody uses it: whether it is staged, who has it, what failed last. One
//! operation at a time on each volume: who holds its [`Turn`].
//!
//! Memory alone; what it does not know is read from disk by those who need it. An entry goes when nobody uses the volume
//! and nothing is left to do.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rubelet_core::ids::PodUid;
use rubelet_core::volumes::CsiVolume;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::backoff::Backoff;

/// How far a step has come on the driver's side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reached {
    /// Nobody has looked since the agent started.
    #[default]
    NotLooked,
    /// It has not been done, or it has been undone.
    No,
    /// Traces of an earlier run of the agent, or of the kubelet, are there: it may be done.
    Found,
    /// It was asked for and may be done: the answer did not come or leaves it open.
    Uncertain,
    /// It is done.
    Done,
}

/// One volume.
#[derive(Debug, Default)]
pub(super) struct VolumeState {
    pub(super) staged: Reached,
    pub(super) stage: Backoff,
    pub(super) unstage: Backoff,
    /// Pods that have it or are about to, each with the name that the volume has there: a pod may have one volume as two
    /// PersistentVolumes.
    pub(super) users: BTreeMap<(PodUid, String), User>,
}

/// What one pod has of a volume.
#[derive(Debug, Default)]
pub(super) struct User {
    pub(super) published: Reached,
    /// All that comes after publishing is done too: the pod may use it.
    pub(super) ready: bool,
    /// When it was published last, in the shell's time.
    pub(super) at: Option<Timestamp>,
    pub(super) size: Size,
    pub(super) set_up: Backoff,
    pub(super) expand: Backoff,
    pub(super) tear_down: Backoff,
}

/// How large the volume is on this node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    /// As it was mounted or has grown since, bytes.
    pub(super) bytes: Option<i64>,
    /// When the claim was last asked, in the shell's time.
    pub(super) looked: Option<Timestamp>,
    /// The driver has refused to let it grow for good.
    pub(super) refused: bool,
    /// It was in use before this run of the agent: nobody waits for it to grow.
    pub(super) taken_over: bool,
}

impl VolumeState {
    /// The pod's part under this name.
    pub(super) fn user(&mut self, pod: &PodUid, spec_name: &str) -> &mut User {
        self.users.entry((pod.clone(), spec_name.to_owned())).or_default()
    }

    /// Whether a pod but this one has it.
    pub(super) fn used_by_other(&self, pod: &PodUid) -> bool {
        self.users.iter().any(|((user, _), state)| user != pod && state.published != Reached::No)
    }

    fn is_idle(&self) -> bool {
        self.users.is_empty() && self.staged != Reached::Done && self.unstage.until().is_none()
    }
}

type Slot = Arc<AsyncMutex<VolumeState>>;

/// All volumes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    volumes: BTreeMap<String, Slot>,
    /// What may be there of each pod, by unique name and the pod's own.
    pods: BTreeMap<PodUid, BTreeMap<(String, String), CsiVolume>>,
}

impl Inner {
    fn is_used(&self, unique_name: &str) -> bool {
        self.pods.values().flat_map(BTreeMap::keys).any(|(name, _)| name == unique_name)
    }
}

/// The right to do something with a volume; others wait until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    state: OwnedMutexGuard<VolumeState>,
    table: Table,
    key: String,
}

impl Table {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn. Cancel safe: who gives up has changed nothing.
    pub(super) async fn turn(&self, key: String) -> Turn {
        let slot = self.inner().volumes.entry(key.clone()).or_default().clone();
        let state = slot.lock_owned().await;
        Turn { state, table: self.clone(), key }
    }

    /// From now on something of this volume may be there of the pod.
    pub(super) fn begin(&self, pod: &PodUid, volume: &CsiVolume) {
        let key = (volume.unique_name(), volume.spec_name.clone());
        self.inner().pods.entry(pod.clone()).or_default().insert(key, volume.clone());
    }

    /// Nothing of it is there any more.
    pub(super) fn end(&self, pod: &PodUid, volume: &CsiVolume) {
        let mut inner = self.inner();
        let Some(volumes) = inner.pods.get_mut(pod) else { return };
        volumes.remove(&(volume.unique_name(), volume.spec_name.clone()));
        if volumes.is_empty() {
            inner.pods.remove(pod);
        }
    }

    /// What may be there of the pod.
    pub(super) fn of_pod(&self, pod: &PodUid) -> Vec<CsiVolume> {
        self.inner().pods.get(pod).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// Whether a pod may have it.
    pub(super) fn is_used(&self, unique_name: &str) -> bool {
        self.inner().is_used(unique_name)
    }

    /// Does something short unless a pod may have the volume; none can begin to meanwhile.
    pub(super) fn unless_used(&self, unique_name: &str, short: impl FnOnce()) {
        let inner = self.inner();
        if !inner.is_used(unique_name) {
            short();
        }
    }

    /// How many volumes are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.inner().volumes.len()
    }
}

impl Deref for Turn {
    type Target = VolumeState;
    fn deref(&self) -> &VolumeState {
        &self.state
    }
}

impl DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut VolumeState {
        &mut self.state
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.state.is_idle() {
            return;
        }
        let mut inner = self.table.inner();
        // The table's and this turn's: nobody waits for it, and nobody can begin to.
        if inner.volumes.get(&self.key).is_some_and(|slot| Arc::strong_count(slot) == 2) {
            inner.volumes.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_turn_at_a_time_and_nothing_stays() {
        let table = Table::default();
        let (pod, other) = (PodUid::from("a"), PodUid::from("b"));
        let mut turn = table.turn("v".into()).await;
        turn.user(&pod, "pv").published = Reached::Uncertain;
        assert!(!turn.used_by_other(&pod) && turn.used_by_other(&other));
        let mut waiting = Box::pin(table.turn("v".into()));
        assert!((&mut waiting).now_or_never().is_none());
        table.turn("other".into()).await;
        drop(turn);
        let mut turn = waiting.await;
        assert_eq!(turn.user(&pod, "pv").published, Reached::Uncertain);
        turn.users.clear();
        turn.staged = Reached::No;
        // Somebody waits: what he gets is the same volume.
        let waiting = tokio::spawn({
            let table = table.clone();
            async move { drop(table.turn("v".into()).await) }
        });
        tokio::task::yield_now().await;
        drop(turn);
        waiting.await.unwrap();
        assert_eq!(table.len(), 0);
    }
}
