//! Pods whose volumes may be tried again, because what they waited for is there. Owns the set; whoever knows adds to it,
//! the sync loop takes from it and wakes their workers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rubelet_core::ids::PodUid;
use tokio::sync::Notify;

/// The set; cheap to clone.
#[derive(Clone, Default)]
pub struct PodWakes(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Bounded by the pods that wait.
    pods: Mutex<BTreeSet<PodUid>>,
    news: Notify,
}

impl PodWakes {
    fn pods(&self) -> MutexGuard<'_, BTreeSet<PodUid>> {
        self.0.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This pod is to look at its volumes again.
    pub fn wake(&self, pod: &PodUid) {
        self.pods().insert(pod.clone());
        self.0.news.notify_one();
    }

    /// Waits for, and takes, pods that are to look again. For one caller; cancel-safe.
    pub async fn woken(&self) -> BTreeSet<PodUid> {
        loop {
            let taken = std::mem::take(&mut *self.pods());
            if !taken.is_empty() {
                return taken;
            }
            // A permit is kept if the set grows in between.
            self.0.news.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn everyone_is_woken_once() {
        let wakes = PodWakes::default();
        let mut waiting = Box::pin(wakes.woken());
        assert!(poll!(&mut waiting).is_pending());
        for pod in ["b", "a", "b"] {
            wakes.wake(&pod.into());
        }
        assert_eq!(waiting.await, ["a".into(), "b".into()].into());
        assert!(poll!(Box::pin(wakes.woken())).is_pending());
    }
}
