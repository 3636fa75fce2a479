//! Wall-clock time for everything that ends up in a status or a log. The only place that reads the system
//! clock; timers use `tokio::time`, so that a paused clock drives both.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Tells the wall-clock time: the system's, or in a simulation a base time plus tokio's (paused) clock.
#[derive(Clone, Debug)]
pub struct Clock {
    simulated: Option<Simulated>,
}

#[derive(Clone, Debug)]
struct Simulated {
    base: Timestamp,
    start: Instant,
    /// Milliseconds it was set ahead since.
    ahead: Arc<AtomicI64>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self { simulated: None }
    }

    /// A clock that shows `base` now and goes on with tokio's clock. Must be called inside a runtime.
    pub fn simulated(base: Timestamp) -> Self {
        Self { simulated: Some(Simulated { base, start: Instant::now(), ahead: Arc::default() }) }
    }

    /// Sets a simulated clock and its clones ahead, or back; the system's clock is left alone.
    pub fn set_ahead(&self, by: SignedDuration) {
        if let Some(simulated) = &self.simulated {
            let milliseconds = i64::try_from(by.as_millis()).unwrap_or_default();
            simulated.ahead.fetch_add(milliseconds, Ordering::SeqCst);
        }
    }

    /// Whether this is a simulation.
    pub fn is_simulated(&self) -> bool {
        self.simulated.is_some()
    }

    /// The time now.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
    pub fn now(&self) -> Timestamp {
        match &self.simulated {
            None => Timestamp::now(),
            Some(Simulated { base, start, ahead }) => SignedDuration::try_from(start.elapsed())
                .ok()
                .and_then(|passed| {
                    let ahead = SignedDuration::from_millis(ahead.load(Ordering::SeqCst));
                    base.checked_add(passed.checked_add(ahead)?).ok()
                })
                .unwrap_or(Timestamp::MAX),
        }
    }

    /// How long from now until `at`; zero when it is past.
    pub fn until(&self, at: Timestamp) -> std::time::Duration {
        at.duration_since(self.now()).try_into().unwrap_or_default()
    }
}
