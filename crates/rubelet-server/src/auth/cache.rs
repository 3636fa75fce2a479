//! Answers that hold for a while: so many, the least recently used go first.
//!
//! Keys are digests of fixed size, made with a key of their own ([`Digester`]): nobody can choose a request so that it
//! takes another's place, and no token is kept in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ring::error::Unspecified;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::time::Instant;

/// What an answer is kept under.
pub(super) type Key = [u8; 32];

/// Makes keys.
pub(super) struct Digester(hmac::Key);

impl Digester {
    pub(super) fn new(random: &SystemRandom) -> Result<Self, Unspecified> {
        hmac::Key::generate(hmac::HMAC_SHA256, random).map(Self)
    }

    /// The key of these texts, in this order and with these borders between them.
    pub(super) fn key<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Key {
        let mut context = hmac::Context::with_key(&self.0);
        for text in texts {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
        let mut key = Key::default();
        for (to, from) in key.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        key
    }
}

/// A bounded cache whose entries end.
pub(super) struct Cache<V> {
    limit: usize,
    entries: Mutex<Entries<V>>,
}

struct Entries<V> {
    by_key: BTreeMap<Key, Entry<V>>,
    /// The oldest use first.
    by_use: BTreeMap<u64, Key>,
    uses: u64,
}

struct Entry<V> {
    value: V,
    ends: Instant,
    used: u64,
}

/// How many entries are looked at for their end each time one is added: more than are added, so that what has ended goes.
const LOOKED_AT: usize = 2;

impl<V: Clone> Cache<V> {
    pub(super) fn new(limit: usize) -> Self {
        let entries = Entries { by_key: BTreeMap::new(), by_use: BTreeMap::new(), uses: 0 };
        Self { limit, entries: Mutex::new(entries) }
    }

    /// The answer, if there is one that still holds.
    pub(super) fn get(&self, key: &Key) -> Option<V> {
        let now = Instant::now();
        let mut entries = self.lock();
        let entry = entries.take(key).filter(|entry| now < entry.ends)?;
        let value = entry.value.clone();
        entries.put(*key, entry.value, entry.ends);
        Some(value)
    }

    /// Keeps an answer for `ttl`; not at all when that is nothing.
    pub(super) fn put(&self, key: Key, value: V, ttl: Duration) {
        let now = Instant::now();
        let Some(ends) = now.checked_add(ttl).filter(|ends| *ends > now) else { return };
        let mut entries = self.lock();
        entries.take(&key);
        for _ in 0..LOOKED_AT {
            let oldest = entries.by_use.first_key_value().map(|(_, key)| *key);
            let Some(oldest) = oldest else { break };
            let full = entries.by_key.len() >= self.limit;
            if !full && entries.by_key.get(&oldest).is_some_and(|entry| now < entry.ends) {
                break;
            }
            entries.take(&oldest);
        }
        entries.put(key, value, ends);
    }

    fn lock(&self) -> MutexGuard<'_, Entries<V>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let entries = self.lock();
        assert_eq!(entries.by_key.len(), entries.by_use.len());
        entries.by_key.len()
    }
}

impl<V> Entries<V> {
    fn take(&mut self, key: &Key) -> Option<Entry<V>> {
        let entry = self.by_key.remove(key)?;
        self.by_use.remove(&entry.used);
        Some(entry)
    }

    fn put(&mut self, key: Key, value: V, ends: Instant) {
        self.uses += 1;
        self.by_use.insert(self.uses, key);
        self.by_key.insert(key, Entry { value, ends, used: self.uses });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> Key {
        [number; 32]
    }

    #[tokio::test(start_paused = true)]
    async fn answers_end() {
        let cache = Cache::new(10);
        cache.put(key(1), "one", Duration::from_secs(10));
        cache.put(key(2), "never", Duration::ZERO);
        tokio::time::advance(Duration::from_millis(9_999)).await;
        assert_eq!(cache.get(&key(1)), Some("one"));
        assert_eq!(cache.get(&key(2)), None);
        // A use does not make it hold longer.
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(cache.get(&key(1)), None);
        assert_eq!(cache.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_used_goes_first() {
        let (cache, long) = (Cache::new(3), Duration::from_secs(60));
        for number in 1..=3 {
            cache.put(key(number), number, long);
        }
        assert_eq!(cache.get(&key(1)), Some(1));
        cache.put(key(4), 4, long);
        assert_eq!([1, 2, 3, 4].map(|number| cache.get(&key(number)).is_some()), [true, false, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_ended_does_not_stay() {
        let cache = Cache::new(1000);
        for number in 0..200 {
            cache.put(key(number), (), Duration::from_secs(1));
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        for number in 0..200 {
            cache.put(key(number / 2 + 100), (), Duration::from_secs(1));
        }
        assert_eq!(cache.len(), 100);
    }

    #[test]
    fn borders_between_texts_count() {
        let random = SystemRandom::new();
        let digester = Digester::new(&random).unwrap();
        assert_eq!(digester.key(["ab", "c"]), digester.key(["ab", "c"]));
        assert_ne!(digester.key(["ab", "c"]), digester.key(["a", "bc"]));
        assert_ne!(digester.key(["ab"]), digester.key(["ab", ""]));
        assert_ne!(digester.key(["ab"]), Digester::new(&random).unwrap().key(["ab"]));
    }

    proptest! {
        #[test]
        fn it_never_has_more_than_its_limit(
            limit in 1_usize..5,
            puts in prop::collection::vec((any::<u8>(), 0_u64..3, any::<bool>()), 0..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let cache = Cache::new(limit);
                for (number, ttl, get) in puts {
                    if get {
                        assert!(cache.get(&key(number)).is_none_or(|value| value == number));
                    }
                    cache.put(key(number), number, Duration::from_secs(ttl));
                    assert!(cache.len() <= limit);
                    tokio::time::advance(Duration::from_millis(700)).await;
                }
            });
        }
    }
}
