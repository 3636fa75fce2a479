//! Pods that the node has to end although they are wanted: evicted, preempted, shut down. Owns the list; whoever decides
//! adds to it, the sync loop takes from it and tells the workers, which do the rest. Whether a pod has ended is in its
//! row of the table.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rubelet_core::ids::PodUid;
use tokio::sync::Notify;

/// A pod that is to end, and what its status is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodKill {
    /// The pod.
    pub uid: PodUid,
    /// `status.reason`, for example `Evicted`.
    pub reason: &'static str,
    /// `status.message`.
    pub message: String,
    /// Grace in seconds; the pod's own when `None`.
    pub grace: Option<u64>,
    /// Whether it is a disruption, which the condition DisruptionTarget tells: the pod did nothing wrong.
    pub disruption: bool,
}

/// The list; cheap to clone.
#[derive(Clone, Default)]
pub struct PodKills(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Bounded by what the sync loop takes at its next turn.
    kills: Mutex<Vec<PodKill>>,
    news: Notify,
}

impl PodKills {
    fn kills(&self) -> MutexGuard<'_, Vec<PodKill>> {
        self.0.kills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This pod is to end. Events are the caller's.
    pub fn request(&self, kill: PodKill) {
        self.kills().push(kill);
        self.0.news.notify_one();
    }

    /// Waits for, and takes, what was requested. For one caller; cancel-safe.
    pub(crate) async fn requested(&self) -> Vec<PodKill> {
        loop {
            let taken = std::mem::take(&mut *self.kills());
            if !taken.is_empty() {
                return taken;
            }
            // A permit is kept if the list grows in between.
            self.0.news.notified().await;
        }
    }
}
