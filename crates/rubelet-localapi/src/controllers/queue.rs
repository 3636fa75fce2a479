//! What a controller still has to look at: each thing once, at once or after a pause that grows while it fails.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The first pause after a failure, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(30));

/// Keys with the time at which each is due.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    due: BTreeMap<K, Instant>,
    failures: BTreeMap<K, u32>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), failures: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// To be looked at now.
    pub(crate) fn add(&mut self, key: K) {
        self.due.insert(key, Instant::now());
    }

    /// To be looked at then, unless it is due earlier.
    pub(crate) fn add_at(&mut self, key: K, at: Instant) {
        self.due.entry(key).and_modify(|due| *due = at.min(*due)).or_insert(at);
    }

    /// It did not work: to be looked at again after a pause.
    pub(crate) fn retry(&mut self, key: K) {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let pause = PAUSE.0.saturating_mul(1 << (*failures).min(12)).min(PAUSE.1);
        *failures += 1;
        self.add_at(key, Instant::now() + pause);
    }

    /// It worked: the next failure is a first one.
    pub(crate) fn done(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// Takes one that is due.
    pub(crate) fn take(&mut self) -> Option<K> {
        let now = Instant::now();
        let key = self.due.iter().find(|(_, due)| **due <= now).map(|(key, _)| key.clone())?;
        self.due.remove(&key);
        Some(key)
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.values().min().copied()
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
        let begin = Instant::now();
        for expected in [20, 40, 80] {
            queue.retry("a");
            assert_eq!(queue.next_due().unwrap() - begin, Duration::from_millis(expected));
            queue.due.clear();
        }
        for _ in 0..40 {
            queue.retry("a");
            queue.due.clear();
        }
        queue.retry("a");
        assert_eq!(queue.next_due().unwrap() - begin, PAUSE.1);
        queue.add("a");
        assert_eq!(queue.take(), Some("a"));
        queue.done(&"a");
        queue.retry("a");
        assert_eq!(queue.next_due().unwrap() - begin, PAUSE.0);
    }
}
