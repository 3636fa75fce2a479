//! Waiting for the world, with a deadline.
//!
//! The only place of xtask that reads a clock or sleeps: a task runner is a synchronous program that has nothing to
//! simulate. Never used by the agent. Called by the tasks that start and stop processes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at again.
const INTERVAL: Duration = Duration::from_millis(50);

/// Measures how long a step took.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts at zero.
    #[expect(clippy::disallowed_methods, reason = "xtask is synchronous and is never simulated")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

/// Sleeps for one interval.
#[expect(clippy::disallowed_methods, reason = "xtask is synchronous: there is no runtime thread to block")]
pub(crate) fn pause() {
    std::thread::sleep(INTERVAL);
}

/// Looks until `look` answers something or `limit` has passed; `what` is named in the error.
pub(crate) fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let watch = Stopwatch::start();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if watch.0.elapsed() > limit {
            bail!("gave up after {} s waiting for {what}", limit.as_secs());
        }
        pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_the_wait_and_a_deadline_names_what_was_missing() {
        let mut looks = 0;
        let found = until("three looks", Duration::from_secs(60), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), 3);
        let error = until::<()>("godot", Duration::ZERO, || Ok(None)).unwrap_err();
        assert_eq!(error.to_string(), "gave up after 0 s waiting for godot");
    }
}
