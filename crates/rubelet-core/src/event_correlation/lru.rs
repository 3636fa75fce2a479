//! A map that forgets what was not used for longest, so that memory stays bounded however many objects the
//! events are about. Used by the correlator alone.

use std::collections::{BTreeMap, HashMap};

use super::key::Key;

/// A bounded map from keys to small values.
#[derive(Clone, Debug)]
pub(super) struct Lru<V> {
    capacity: usize,
    /// Counts uses; the entry with the smallest number was not used for longest.
    clock: u64,
    entries: HashMap<Key, (u64, V)>,
    by_use: BTreeMap<u64, Key>,
}

impl<V> Lru<V> {
    /// An empty map that holds at most `capacity` entries.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), clock: 0, entries: HashMap::new(), by_use: BTreeMap::new() }
    }

    /// The entry of a key, made when there is none; marks it as used.
    pub(super) fn entry(&mut self, key: Key, make: impl FnOnce() -> V) -> &mut V {
        self.clock += 1;
        let clock = self.clock;
        match self.entries.get(&key) {
            Some((used, _)) => {
                self.by_use.remove(used);
            }
            None if self.entries.len() >= self.capacity => {
                if let Some((_, oldest)) = self.by_use.pop_first() {
                    self.entries.remove(&oldest);
                }
            }
            None => {}
        }
        self.by_use.insert(clock, key);
        let entry = self.entries.entry(key).or_insert_with(|| (clock, make()));
        entry.0 = clock;
        &mut entry.1
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.entries.len(), self.by_use.len());
        self.entries.len()
    }

    /// The values, in no order.
    #[cfg(test)]
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_not_used_for_longest_goes_first() {
        let mut map = Lru::new(2);
        let (a, b, c) = (Key::of(&["a"]), Key::of(&["b"]), Key::of(&["c"]));
        *map.entry(a, || 0) = 1;
        *map.entry(b, || 0) = 2;
        assert_eq!(*map.entry(a, || 0), 1);
        *map.entry(c, || 0) = 3;
        assert_eq!(map.len(), 2);
        assert_eq!(*map.entry(a, || 0), 1);
        assert_eq!(*map.entry(b, || 0), 0, "b was forgotten");
        assert_eq!(map.len(), 2);
    }
}
