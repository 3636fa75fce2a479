//! A doubling delay. Knows no clock: it only counts failures. Used by the connection and by [`crate::connect`].

use std::time::Duration;

/// Shortest wait after a failed connection.
pub const CONNECT_BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait after failed connections.
pub const CONNECT_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Delays that double from a first to a longest one.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first` and never exceeds `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first.min(longest) }
    }

    /// The delays between tries of a runtime's socket: 100 ms to 5 s.
    pub fn for_connection() -> Self {
        Self::new(CONNECT_BACKOFF_MIN, CONNECT_BACKOFF_MAX)
    }

    /// The delay after one more failure.
    pub fn after_failure(&mut self) -> Duration {
        let delay = self.next;
        self.next = delay.saturating_mul(2).min(self.longest);
        delay
    }

    /// Forgets all failures.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_longest_and_starts_again() {
        let mut backoff = Backoff::for_connection();
        let delays: Vec<u128> = (0..8).map(|_| backoff.after_failure().as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.after_failure(), CONNECT_BACKOFF_MIN);
    }
}
