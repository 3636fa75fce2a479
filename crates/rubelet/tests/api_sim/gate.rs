//! Stands between the agent and everything it talks to: a dead agent makes no more calls and no more requests, and
//! the agent dies exactly where a test wants it to.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rubelet_testkit::scripted::Phase;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::story::Story;

/// So many calls or requests at one instant mean that the agent spins.
const SPINNING: u32 = 3000;

/// What the agent talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Runtime,
    Api,
}

/// Where the agent is to die.
#[derive(Clone, Copy, Debug)]
pub struct CrashPoint {
    pub side: Side,
    pub countdown: u64,
    pub phase: Phase,
}

/// The gate.
pub struct Gate {
    state: Mutex<State>,
    /// Told when the agent dies here.
    pub tripped: Notify,
    story: Story,
}

#[derive(Default)]
struct State {
    dead: bool,
    armed: Option<CrashPoint>,
    /// Calls and requests of the agent that lives.
    calls: u64,
    requests: u64,
    instant: Option<Instant>,
    at_instant: u32,
}

impl Gate {
    /// An open gate.
    pub fn new(story: Story) -> Self {
        Self { state: Mutex::default(), tripped: Notify::new(), story }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something may pass; what may not waits for ever.
    pub fn pass(&self, side: Side, phase: Phase, what: &dyn Fn() -> String) -> bool {
        let mut state = self.lock();
        if state.dead {
            return false;
        }
        if phase == Phase::Before {
            match side {
                Side::Runtime => state.calls += 1,
                Side::Api => state.requests += 1,
            }
            let now = Instant::now();
            if state.instant == Some(now) {
                state.at_instant += 1;
            } else {
                (state.instant, state.at_instant) = (Some(now), 0);
            }
            if state.at_instant > SPINNING {
                state.dead = true;
                self.story.wrong(format!("the agent spins, now at {}", what()));
                self.tripped.notify_one();
                return false;
            }
        }
        match &mut state.armed {
            Some(point) if point.side == side && point.phase == phase => {
                if point.countdown > 0 {
                    point.countdown -= 1;
                    return true;
                }
                state.armed = None;
                state.dead = true;
                self.story.tell(format!("CRASH {phase:?} {}", what()));
                self.tripped.notify_one();
                false
            }
            _ => true,
        }
    }

    /// A new agent lives.
    pub fn revive(&self) {
        let mut state = self.lock();
        (state.dead, state.calls, state.requests) = (false, 0, 0);
    }

    /// The agent is dead.
    pub fn kill(&self) {
        self.lock().dead = true;
    }

    /// The next crash comes there, or none does.
    pub fn arm(&self, point: Option<CrashPoint>) {
        self.lock().armed = point;
    }

    /// Whether a crash is to come.
    pub fn is_armed(&self) -> bool {
        self.lock().armed.is_some()
    }

    /// Requests of the agent that lives.
    pub fn requests(&self) -> u64 {
        self.lock().requests
    }
}
