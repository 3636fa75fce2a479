//! Keys of the correlator: 128 bits instead of the texts they stand for, because texts of a thousand bytes each
//! would make the caches large. Never leaves the process.

use std::hash::{DefaultHasher, Hasher};

/// What identifies an event, a group of similar events, or an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(u64, u64);

impl Key {
    /// The key of these texts in this order; where one ends and the next begins counts.
    pub(super) fn of(parts: &[&str]) -> Self {
        let half = |seed: u8| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(seed);
            for part in parts {
                hasher.write_usize(part.len());
                hasher.write(part.as_bytes());
            }
            hasher.finish()
        };
        Self(half(0), half(1))
    }

    /// A name made of the key, for where the natural one is not allowed.
    pub(super) fn as_name(self) -> String {
        format!("{:016x}{:016x}", self.0, self.1)
    }
}
