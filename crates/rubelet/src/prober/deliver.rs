//! Verdicts on their way to their pods. For each pod one after the other, so that no older one comes after a newer one,
//! and each pod on its own, so that a slow one delays nobody. What has not begun when a newer verdict on the same
//! container comes is replaced by it: at most one waits for each container.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use rubelet_core::ids::{ContainerId, PodUid};
use rubelet_core::verdicts::Verdict;
use tracing::error;

use super::{Shared, VerdictSink};

/// A verdict and who is to hear it.
pub(super) struct Letter {
    pub(super) id: ContainerId,
    pub(super) verdict: Verdict,
    pub(super) sink: Arc<dyn VerdictSink>,
}

/// What waits, for each pod to which something is being delivered; the others are not in it.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: BTreeMap<PodUid, VecDeque<Letter>>,
}

impl Outbox {
    /// Adds a letter. Says whether a delivery is to be begun; otherwise one is under way and will take it along.
    #[must_use]
    pub(super) fn put(&mut self, uid: &PodUid, letter: Letter) -> bool {
        let begin = !self.waiting.contains_key(uid);
        let letters = self.waiting.entry(uid.clone()).or_default();
        match letters.iter_mut().find(|waiting| waiting.id == letter.id) {
            Some(waiting) => *waiting = letter,
            None => letters.push_back(letter),
        }
        begin
    }

    /// The next letter of a pod. Without one the delivery has ended.
    fn take(&mut self, uid: &PodUid) -> Option<Letter> {
        let letter = self.waiting.get_mut(uid)?.pop_front();
        if letter.is_none() {
            self.waiting.remove(uid);
        }
        letter
    }

    /// Drops what waits about a container that is gone. What is under way is still ahead of what comes after.
    pub(super) fn forget_container(&mut self, uid: &PodUid, id: &ContainerId) {
        if let Some(letters) = self.waiting.get_mut(uid) {
            letters.retain(|letter| letter.id != *id);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Delivers what waits for a pod, and what comes meanwhile.
pub(super) async fn deliver(shared: Arc<Shared>, uid: PodUid) {
    loop {
        let letter = shared.book().outbox.take(&uid);
        let Some(Letter { id, verdict, sink }) = letter else { return };
        let heard = AssertUnwindSafe(async { sink.verdict(&id, verdict).await }).catch_unwind();
        if heard.await.is_err() {
            error!(uid = uid.as_str(), container_id = id.as_str(), "a panic in who hears what probes say");
        }
    }
}
