//! The one-slot mailbox of a pod worker: the newest input wins and nothing queues up. The sync loop writes,
//! one worker reads.

use std::sync::{Arc, Mutex, PoisonError};

use rubelet_core::Pod;
use rubelet_core::lifecycle::TerminationCause;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What has come in since the worker last looked.
#[derive(Debug, Default)]
pub struct Inputs {
    /// The newest spec, if it changed.
    pub pod: Option<Arc<Pod>>,
    /// The pod is to end.
    pub terminate: Option<Terminate>,
    /// The pod that used this namespace and name is gone.
    pub predecessor_gone: bool,
    /// Something may have changed in the runtime.
    pub poked: bool,
    /// An object that the pod refers to has changed.
    pub refresh: bool,
}

/// A wish to end the pod.
#[derive(Clone, Debug)]
pub struct Terminate {
    /// Why.
    pub cause: TerminationCause,
    /// Grace in seconds; the pod's own when `None`.
    pub grace: Option<u64>,
}

/// The mailbox; shared by the sync loop and one worker.
#[derive(Debug)]
pub struct Mailbox {
    slot: Mutex<Inputs>,
    filled: Notify,
    /// Cancelled at the first wish to end the pod: syncs stop at their next safe point.
    ending: CancellationToken,
}

impl Mailbox {
    /// An empty mailbox.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { slot: Mutex::default(), filled: Notify::new(), ending: CancellationToken::new() })
    }

    fn put(&self, change: impl FnOnce(&mut Inputs)) {
        change(&mut self.slot.lock().unwrap_or_else(PoisonError::into_inner));
        self.filled.notify_one();
    }

    /// The pod has a new spec.
    pub fn update(&self, pod: Arc<Pod>) {
        self.put(|inputs| inputs.pod = Some(pod));
    }

    /// Look at the pod now.
    pub fn poke(&self) {
        self.put(|inputs| inputs.poked = true);
    }

    /// An object that the pod refers to has changed: what was made from it is made anew.
    pub fn refresh(&self) {
        self.put(|inputs| inputs.refresh = true);
    }

    /// The predecessor with the same namespace and name has finished.
    pub fn predecessor_gone(&self) {
        self.put(|inputs| inputs.predecessor_gone = true);
    }

    /// End the pod. Of several wishes the one with the shortest grace is kept.
    pub fn terminate(&self, wish: Terminate) {
        self.put(|inputs| {
            inputs.terminate = Some(match inputs.terminate.take() {
                None => wish,
                Some(earlier) => Terminate {
                    grace: match (earlier.grace, wish.grace) {
                        (Some(a), Some(b)) => Some(a.min(b)),
                        (one, other) => one.or(other),
                    },
                    cause: if wish.cause.forgets_pod() { wish.cause } else { earlier.cause },
                },
            });
        });
        self.ending.cancel();
    }

    /// Takes what has come in.
    pub fn take(&self) -> Inputs {
        std::mem::take(&mut self.slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until something has come in since the last `take`. Cancel-safe: a `Notify` permit is kept when
    /// nobody waits, and the slot itself is the truth.
    pub async fn filled(&self) {
        // A permit may be left over from something that was taken already: the slot decides.
        while self.is_empty() {
            self.filled.notified().await;
        }
    }

    /// Waits until something more comes in. Cancel-safe.
    pub async fn changed(&self) {
        self.filled.notified().await;
    }

    /// Whether nothing waits to be taken.
    pub fn is_empty(&self) -> bool {
        let slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.pod.is_none()
            && slot.terminate.is_none()
            && !slot.predecessor_gone
            && !slot.poked
            && !slot.refresh
    }

    /// Whether a wish with a shorter grace than this one waits to be taken.
    pub fn wants_grace_below(&self, grace: u64) -> bool {
        let slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.terminate.as_ref().and_then(|wish| wish.grace).is_some_and(|wanted| wanted.max(1) < grace)
    }

    /// Waits until the pod is to end. Cancel-safe.
    pub async fn ending(&self) {
        self.ending.cancelled().await;
    }

    /// Whether the pod is to end.
    pub fn is_ending(&self) -> bool {
        self.ending.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn newest_input_wins_and_grace_only_shrinks() {
        let mailbox = Mailbox::new();
        for name in ["a", "b"] {
            let mut pod = Pod::default();
            pod.metadata.name = Some(name.into());
            mailbox.update(Arc::new(pod));
        }
        let wish = |grace| Terminate { cause: TerminationCause::Deleted, grace };
        for grace in [Some(30), None, Some(5), Some(10)] {
            mailbox.terminate(wish(grace));
        }
        mailbox.filled().await;
        let inputs = mailbox.take();
        assert_eq!(inputs.pod.unwrap().metadata.name.as_deref(), Some("b"));
        assert_eq!(inputs.terminate.unwrap().grace, Some(5));
        assert!(mailbox.is_ending());
        assert!(mailbox.take().terminate.is_none());
    }
}
