//! News that the API server answers again after it did not. Who waits out a back-off tries then instead of later: the
//! first request that gets through ends the outage for all of a node at once.
//!
//! Owns only the news. Sent by [`crate::connection`]; heard by watches and by whoever else waits to try again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Sends the news.
#[derive(Debug, Default)]
pub struct Waker(watch::Sender<u64>);

impl Waker {
    /// The server answers again.
    pub fn wake(&self) {
        self.0.send_modify(|times| *times = times.wrapping_add(1));
    }

    /// Hears what is sent from now on.
    pub fn subscribe(&self) -> Wake {
        Wake(Some(self.0.subscribe()))
    }
}

/// Hears the news.
#[derive(Clone, Debug, Default)]
pub struct Wake(Option<watch::Receiver<u64>>);

impl Wake {
    /// Forgets what came so far: what is tried next is newer.
    pub fn forget(&mut self) {
        if let Some(news) = &mut self.0 {
            news.mark_unchanged();
        }
    }

    /// Waits for news since the last call of this or of [`Wake::forget`]; for ever if nobody sends any. Cancel-safe.
    pub async fn called(&mut self) {
        if let Some(news) = &mut self.0
            && news.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    /// Sleeps for `time`, or until news comes. Whether news came.
    pub async fn pause(&mut self, time: Duration) -> bool {
        timeout(time, self.called()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_with_the_news() {
        let waker = Waker::default();
        let mut wake = waker.subscribe();
        let long = Duration::from_secs(30);
        let start = Instant::now();
        assert!(!wake.pause(Duration::from_secs(1)).await);
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        waker.wake();
        assert!(wake.pause(long).await);
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        waker.wake();
        wake.forget();
        assert!(!wake.pause(long).await, "what came before the attempt is no news");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_sender_a_pause_is_a_sleep() {
        let start = Instant::now();
        assert!(!Wake::default().pause(Duration::from_secs(3)).await);
        let waker = Waker::default();
        let mut orphan = waker.subscribe();
        drop(waker);
        assert!(!orphan.pause(Duration::from_secs(3)).await);
        assert_eq!(start.elapsed(), Duration::from_secs(6));
    }
}
