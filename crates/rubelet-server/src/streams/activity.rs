//! When something last went over a stream, to end those where nothing does: a client that was cut off without a word
//! looks like one that waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The last time of a stream's use.
#[derive(Debug)]
pub(crate) struct Activity {
    start: Instant,
    /// Milliseconds after the start.
    last: AtomicU64,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    /// Something went over it.
    pub(crate) fn seen(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Waits until nothing has gone over it for so long. One timer, moved only when it is due.
    pub(crate) async fn idle(&self, limit: Duration) {
        let due = || self.start + Duration::from_millis(self.last.load(Ordering::Relaxed)) + limit;
        while due() > Instant::now() {
            tokio::time::sleep_until(due()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_counts_from_the_last_use() {
        let activity = Activity::new();
        let start = Instant::now();
        let limit = Duration::from_secs(10);
        tokio::join!(activity.idle(limit), async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                activity.seen();
            }
        });
        assert_eq!(start.elapsed().as_secs(), 37);
    }
}
