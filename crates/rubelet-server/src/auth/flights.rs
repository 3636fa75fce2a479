//! One question at a time: whoever asks what is being asked already waits for that answer.
//!
//! The work belongs to those who wait for it: it ends with the last of them, and any of them drives it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};

use super::cache::Key;

/// The questions under way.
pub(super) struct Flights<V: Clone + Send + Sync + 'static>(Arc<Mutex<Open<V>>>);

struct Open<V> {
    flights: BTreeMap<Key, (u64, WeakShared<BoxFuture<'static, V>>)>,
    count: u64,
}

impl<V: Clone + Send + Sync + 'static> Flights<V> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Open { flights: BTreeMap::new(), count: 0 })))
    }

    /// The answer under way, or that of `work`, which begins when somebody waits.
    pub(super) fn join(
        &self,
        key: Key,
        work: impl Future<Output = V> + Send + 'static,
    ) -> Shared<BoxFuture<'static, V>> {
        let mut open = lock(&self.0);
        if let Some(flight) = open.flights.get(&key).and_then(|(_, flight)| flight.upgrade()) {
            return flight;
        }
        open.count += 1;
        let place = Place { open: self.0.clone(), key, number: open.count };
        let number = open.count;
        let flight = async move {
            let _place = place;
            work.await
        }
        .boxed()
        .shared();
        if let Some(weak) = flight.downgrade() {
            open.flights.insert(key, (number, weak));
        }
        flight
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        lock(&self.0).flights.len()
    }
}

fn lock<V>(open: &Mutex<Open<V>>) -> MutexGuard<'_, Open<V>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A question's entry; goes with its work, answered or given up.
struct Place<V> {
    open: Arc<Mutex<Open<V>>>,
    key: Key,
    number: u64,
}

impl<V> Drop for Place<V> {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        // Somebody may have begun anew while this one was given up.
        if open.flights.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            open.flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    const KEY: Key = [7; 32];

    #[tokio::test(start_paused = true)]
    async fn those_who_ask_the_same_share_the_answer() {
        let (flights, asked) = (Flights::new(), Arc::new(AtomicU32::new(0)));
        let ask = |key| {
            let asked = asked.clone();
            flights.join(key, async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                asked.fetch_add(1, Ordering::SeqCst) + 1
            })
        };
        let (a, b, other) = (ask(KEY), ask(KEY), ask([8; 32]));
        assert_eq!(flights.len(), 2);
        let (a, b, _) = tokio::join!(a, b, other);
        assert_eq!((a, b, asked.load(Ordering::SeqCst)), (a, a, 2));
        assert_eq!(flights.len(), 0);
        // Later it is another question.
        assert_eq!(ask(KEY).await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_comes_when_the_first_gives_up_and_work_ends_with_the_last() {
        let flights = Flights::new();
        let work = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            5
        };
        let mut first = flights.join(KEY, work());
        let second = tokio::spawn(flights.join(KEY, work()));
        assert!((&mut first).now_or_never().is_none());
        drop(first);
        assert_eq!(second.await.unwrap(), 5);
        let only = flights.join(KEY, work());
        assert_eq!(flights.len(), 1);
        drop(only);
        assert_eq!(flights.len(), 0);
    }
}
