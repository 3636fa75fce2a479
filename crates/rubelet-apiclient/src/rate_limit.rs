//! How fast the agent may ask: a token bucket for its own pace (`kubeAPIQPS`, `kubeAPIBurst`), and a pause that a
//! server orders by 429 or 503 with Retry-After.
//!
//! Pure: every function takes the moment it is called at and says how long to wait. `connection` does the waiting.

use std::sync::Mutex;
use std::time::Duration;

use rubelet_core::token_bucket;
use tokio::time::Instant;

/// A token bucket. Callers that come early get a place in line: their tokens are taken in advance.
#[derive(Debug)]
pub struct TokenBucket {
    bucket: Mutex<token_bucket::TokenBucket>,
    start: Instant,
}

impl TokenBucket {
    /// `qps` requests a second over time and up to `burst` (at least 1) at once; `None` when `qps` is not positive,
    /// which means no limit.
    pub fn new(qps: f64, burst: u32) -> Option<Self> {
        (qps > 0.0).then(|| Self {
            bucket: Mutex::new(token_bucket::TokenBucket::new(qps, burst, Duration::ZERO)),
            start: Instant::now(),
        })
    }

    /// Takes a token and says how long to wait before using it.
    pub fn reserve(&self, now: Instant) -> Duration {
        lock(&self.bucket).reserve(now.saturating_duration_since(self.start))
    }
}

/// How long a server's Retry-After may hold back requests other than the one it answered.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// After a pause requests go out one after another, this far apart, so that the end of a pause is no stampede.
const SPACING: Duration = Duration::from_millis(20);
/// But nobody waits longer for that than this.
const MAX_SPREAD: Duration = Duration::from_secs(2);

/// A pause ordered by the server.
#[derive(Debug, Default)]
pub struct Pause {
    state: Mutex<Option<PauseState>>,
}

#[derive(Debug, Clone, Copy)]
struct PauseState {
    until: Instant,
    waiting: u32,
}

impl Pause {
    /// The server said at `now` not to come before `wait` has passed.
    pub fn order(&self, now: Instant, wait: Duration) {
        let until = now + wait.min(MAX_PAUSE);
        let mut state = lock(&self.state);
        match &mut *state {
            Some(pause) if pause.until > now => pause.until = pause.until.max(until),
            other => *other = Some(PauseState { until, waiting: 0 }),
        }
    }

    /// How long a request that comes at `now` has to wait; every one that waits is let go a little later.
    pub fn reserve(&self, now: Instant) -> Duration {
        let mut state = lock(&self.state);
        match &mut *state {
            Some(pause) if pause.until > now => {
                let spread = (SPACING * pause.waiting).min(MAX_SPREAD);
                pause.waiting = pause.waiting.saturating_add(1);
                pause.until.saturating_duration_since(now) + spread
            }
            other => {
                *other = None;
                Duration::ZERO
            }
        }
    }
}

/// A panic elsewhere does not make the numbers wrong.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[tokio::test(start_paused = true)]
    async fn burst_is_free_then_the_pace_holds() {
        let bucket = TokenBucket::new(10.0, 3).unwrap();
        let now = Instant::now();
        let waits: Vec<u128> = (0..6).map(|_| bucket.reserve(now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200, 300]);
        // The line is worked off, then the bucket fills up to the burst and not further.
        let later = now + Duration::from_secs(60);
        let waits: Vec<u128> = (0..4).map(|_| bucket.reserve(later).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100]);
    }

    #[test]
    fn zero_means_no_limit() {
        assert!(TokenBucket::new(0.0, 10).is_none());
        assert!(TokenBucket::new(-1.0, 10).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_in_file() {
        let pause = Pause::default();
        let now = Instant::now();
        assert_eq!(pause.reserve(now), Duration::ZERO);
        pause.order(now, Duration::from_secs(1));
        let waits: Vec<u128> = (0..3).map(|_| pause.reserve(now).as_millis()).collect();
        assert_eq!(waits, [1000, 1020, 1040]);
        assert_eq!(pause.reserve(now + Duration::from_secs(1)), Duration::ZERO);
        pause.order(now, Duration::from_secs(100_000));
        assert_eq!(pause.reserve(now), MAX_PAUSE);
    }

    proptest! {
        /// In any second no more requests are let go than the burst and the pace allow together.
        #[test]
        fn never_faster_than_allowed(gaps in proptest::collection::vec(0u64..400, 1..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let bucket = TokenBucket::new(20.0, 5).unwrap();
                let start = Instant::now();
                let mut now = start;
                let mut released = Vec::new();
                for gap in gaps {
                    now += Duration::from_millis(gap);
                    released.push((now + bucket.reserve(now)).duration_since(start).as_millis());
                }
                for (index, first) in released.iter().enumerate() {
                    let in_second = released[index..].iter().filter(|at| **at < first + 1000).count();
                    prop_assert!(in_second <= 5 + 20 + 1, "{in_second} in one second");
                }
                Ok(())
            })?;
        }
    }
}
