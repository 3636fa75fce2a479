//! The queue between those who record events and the sink that sends them. Bounded: when it is full the oldest
//! event is dropped and counted, because what happens now matters more. Adding never waits.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rubelet_core::event_correlation::Occurrence;
use tokio::sync::Notify;

/// How many events wait at most (client-go `maxQueuedEvents`).
pub(super) const CAPACITY: usize = 1000;

/// Many writers, one reader.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    added: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Occurrence>,
    dropped: u64,
}

impl Queue {
    pub(super) fn push(&self, occurrence: Occurrence) {
        let mut state = self.state();
        if state.waiting.len() == CAPACITY {
            state.waiting.pop_front();
            state.dropped += 1;
        }
        state.waiting.push_back(occurrence);
        drop(state);
        self.added.notify_one();
    }

    /// The oldest event, once there is one. Cancel-safe: an event is taken in the same step that gives it out.
    pub(super) async fn next(&self) -> Occurrence {
        loop {
            if let Some(occurrence) = self.state().waiting.pop_front() {
                return occurrence;
            }
            self.added.notified().await;
        }
    }

    /// How many waited too long for their turn.
    pub(super) fn dropped(&self) -> u64 {
        self.state().dropped
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
