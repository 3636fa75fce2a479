//! How long statuses take from their publication to the API server's answer
//! (`kubelet_pod_status_sync_duration_seconds`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Four buckets to each doubling: 19 % between one bound and the next.
const PER_DOUBLING: f64 = 4.0;
/// The first bucket's upper bound in seconds.
const FIRST: f64 = 0.000_1;
/// Up to about half an hour.
const BUCKETS: usize = 97;

/// A histogram; shared by the writer and whoever shows it.
#[derive(Debug)]
pub struct SyncDurations {
    counts: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Default for SyncDurations {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)), micros: AtomicU64::new(0) }
    }
}

impl SyncDurations {
    /// Upstream's bucket bounds in seconds.
    pub const BOUNDS: [f64; 11] = [0.010, 0.050, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];

    /// Counts one write.
    pub(super) fn observe(&self, took: Duration) {
        let steps = (took.as_secs_f64() / FIRST).log2() * PER_DOUBLING;
        let bucket = steps.ceil().clamp(0.0, (BUCKETS - 1) as f64) as usize;
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many writes were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Their sum in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.micros.load(Ordering::Relaxed) as f64 / 1e6
    }

    /// How many took no longer than `bound` seconds, to within a bucket.
    pub fn at_most(&self, bound: f64) -> u64 {
        let within =
            self.counts.iter().enumerate().take_while(|(bucket, _)| bound_of(*bucket) <= bound * 1.1);
        within.map(|(_, count)| count.load(Ordering::Relaxed)).sum()
    }

    /// An upper bound in seconds of this share of the writes (0.5, 0.99), at most 19 % too high; `None` without
    /// any.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let total = self.count();
        let wanted = (share * total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count.load(Ordering::Relaxed);
            seen >= wanted
        })?;
        Some(bound_of(bucket))
    }
}

fn bound_of(bucket: usize) -> f64 {
    FIRST * (bucket as f64 / PER_DOUBLING).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_close() {
        let durations = SyncDurations::default();
        assert_eq!(durations.quantile(0.5), None);
        for millis in 1..=1000 {
            durations.observe(Duration::from_millis(millis));
        }
        durations.observe(Duration::ZERO);
        durations.observe(Duration::MAX);
        assert_eq!(durations.count(), 1002);
        for (share, exact) in [(0.5, 0.5), (0.99, 0.99)] {
            let quantile = durations.quantile(share).unwrap();
            assert!((exact * 0.99..exact * 1.2).contains(&quantile), "{share} {quantile}");
        }
        assert!((80..=120).contains(&durations.at_most(0.1)));
        assert!(
            SyncDurations::BOUNDS
                .windows(2)
                .all(|pair| durations.at_most(pair[0]) <= durations.at_most(pair[1]))
        );
    }
}
