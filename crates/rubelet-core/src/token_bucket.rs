//! A token bucket: so many at once, then so many a second. Time is given as the span since any fixed moment.
//! Used per object by the event correlator, and by the shell for every configured pace: events, requests, pulls.

use std::time::Duration;

/// Starts full.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Duration,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens (at least one), refilled with `per_second` tokens a second.
    pub fn new(per_second: f64, burst: u32, now: Duration) -> Self {
        let burst = f64::from(burst.max(1));
        Self { per_second, burst, tokens: burst, at: now }
    }

    /// Takes a token if there is one.
    pub fn try_take(&mut self, now: Duration) -> bool {
        self.refill(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// Takes a token in any case and says how long to wait until it is there.
    pub fn reserve(&mut self, now: Duration) -> Duration {
        self.refill(now);
        self.tokens -= 1.0;
        if self.tokens >= 0.0 || self.per_second <= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(-self.tokens / self.per_second).unwrap_or(Duration::MAX)
    }

    /// A clock that went back refills nothing and takes nothing away.
    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let second = Duration::from_secs;
        let mut bucket = TokenBucket::new(0.5, 3, second(100));
        assert_eq!([(); 4].map(|()| bucket.try_take(second(100))), [true, true, true, false]);
        assert!(!bucket.try_take(second(101)));
        assert!(bucket.try_take(second(102)));
        assert!(!bucket.try_take(second(50)), "a clock that goes back gives nothing");
        assert_eq!(bucket.reserve(second(50)), second(2));
        assert_eq!(bucket.reserve(second(50)), second(4));
        assert_eq!(bucket.reserve(second(1000)), Duration::ZERO);
    }
}
