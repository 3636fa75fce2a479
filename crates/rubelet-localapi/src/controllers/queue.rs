//! What a controller still has to look at: each thing once, at once or after a pause that grows while it fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// The first pause after a failure, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(30));

/// Keys with the time at which each is due; those that have been due for longest are taken first.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    due: BTreeMap<K, Instant>,
    /// The same, by time.
    order: BTreeSet<(Instant, K)>,
    failures: BTreeMap<K, u32>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), order: BTreeSet::new(), failures: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// To be looked at now.
    pub(crate) fn add(&mut self, key: K) {
        self.add_at(key, Instant::now());
    }

    /// To be looked at then, unless it is due earlier.
    pub(crate) fn add_at(&mut self, key: K, at: Instant) {
        if let Some(due) = self.due.get_mut(&key) {
            if *due <= at {
                return;
            }
            let before = (std::mem::replace(due, at), key);
            self.order.remove(&before);
            self.order.insert((at, before.1));
        } else {
            self.due.insert(key.clone(), at);
            self.order.insert((at, key));
        }
    }

    /// It did not work: to be looked at again after a pause.
    pub(crate) fn retry(&mut self, key: K) {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let pause = PAUSE.0.saturating_mul(1 << (*failures).min(12)).min(PAUSE.1);
        *failures = failures.saturating_add(1);
        self.add_at(key, Instant::now() + pause);
    }

    /// It worked: the next failure is a first one.
    pub(crate) fn done(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// Takes one that is due.
    pub(crate) fn take(&mut self) -> Option<K> {
        self.next_due().filter(|due| *due <= Instant::now())?;
        let (_, key) = self.order.pop_first()?;
        self.due.remove(&key);
        Some(key)
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.order.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_it_works_and_news_end_them() {
        let mut queue = Queue::default();
        queue.add("a");
        assert_eq!(queue.take(), Some("a"));
        assert_eq!(queue.take(), None);
        for expected in [20, 40, 80] {
            queue.retry("a");
            assert_eq!(queue.next_due().unwrap() - Instant::now(), Duration::from_millis(expected));
            tokio::time::sleep_until(queue.next_due().unwrap()).await;
            assert_eq!(queue.take(), Some("a"));
        }
        for _ in 0..40 {
            queue.retry("a");
            tokio::time::sleep_until(queue.next_due().unwrap()).await;
            queue.take();
        }
        queue.retry("a");
        assert_eq!(queue.next_due().unwrap() - Instant::now(), PAUSE.1);
        queue.add("a");
        assert_eq!(queue.take(), Some("a"));
        queue.done(&"a");
        queue.retry("a");
        assert_eq!(queue.next_due().unwrap() - Instant::now(), PAUSE.0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_longest_is_first_and_each_comes_once() {
        let mut queue = Queue::default();
        queue.add("z");
        tokio::time::sleep(Duration::from_millis(1)).await;
        queue.add("a");
        queue.add("z");
        let later = Instant::now() + PAUSE.0;
        queue.add_at("m", later);
        queue.add_at("m", later + PAUSE.0);
        assert_eq!((queue.take(), queue.take(), queue.take()), (Some("z"), Some("a"), None));
        tokio::time::sleep_until(later).await;
        assert_eq!((queue.take(), queue.take(), queue.next_due()), (Some("m"), None, None));
    }
}
