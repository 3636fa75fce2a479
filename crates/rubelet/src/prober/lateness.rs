//! How punctual runs are: a few counters, for benchmarks and for whoever debugs a node. Not on `/metrics`.

use std::time::Duration;

/// Bucket `n` holds what is later than 2^(n-1) ms and not later than 2^n ms; the last one everything above.
const BUCKETS: usize = 18;

/// How long after they were due runs have begun, waiting for a slot included, and how many were not made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    counts: [u64; BUCKETS],
    max: Duration,
    skipped: u64,
}

impl Lateness {
    /// A run began so late.
    pub(super) fn began(&mut self, late: Duration) {
        let milliseconds = late.as_micros().div_ceil(1000);
        let bucket = (u128::BITS - milliseconds.saturating_sub(1).leading_zeros()) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
        self.max = self.max.max(late);
    }

    /// A run was not made, because there was no slot before its next tick.
    pub(super) fn skip(&mut self) {
        self.skipped += 1;
    }

    /// How many runs have begun.
    pub fn runs(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many runs were not made.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// How late the latest was.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// How late this share (0 to 1) of the runs was at most, rounded up to a power of two of milliseconds, and never
    /// more than the maximum; zero when there were none.
    pub fn at_most(&self, share: f64) -> Duration {
        let wanted = share.clamp(0.0, 1.0) * self.runs() as f64;
        let mut sum = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            sum += count;
            if sum as f64 >= wanted && bucket < BUCKETS - 1 {
                return self.max.min(Duration::from_millis(1 << bucket));
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_read_off_the_buckets_and_never_above_the_maximum() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.at_most(0.99), Duration::ZERO);
        for _ in 0..98 {
            lateness.began(Duration::from_micros(900));
        }
        lateness.began(Duration::from_millis(3));
        lateness.began(Duration::from_millis(700));
        assert_eq!(lateness.runs(), 100);
        assert_eq!(lateness.at_most(0.5), Duration::from_millis(1));
        assert_eq!(lateness.at_most(0.99), Duration::from_millis(4));
        assert_eq!(lateness.at_most(1.0), Duration::from_millis(700), "not 1024");
        assert_eq!(lateness.max(), Duration::from_millis(700));
    }

    #[test]
    fn whatever_the_lateness_it_is_counted() {
        let mut lateness = Lateness::default();
        for late in [Duration::ZERO, Duration::from_secs(100_000), Duration::MAX] {
            lateness.began(late);
        }
        assert_eq!((lateness.runs(), lateness.max()), (3, Duration::MAX));
        assert_eq!(lateness.at_most(0.0), Duration::from_millis(1));
        assert_eq!(lateness.at_most(0.9), Duration::MAX);
    }
}
