//! Chance, from whoever starts the server: names, UIDs and the length of watches.
//!
//! The source is a function, so that a simulation can replay it ([`seeded`]); a real server takes [`system`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::rand::{SecureRandom, SystemRandom};

/// Gives 64 bits each time.
pub type Random = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The characters of generated names, without those that could be taken for others or make words
/// (`k8s.io/apimachinery/pkg/util/rand`).
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The same numbers for the same seed (splitmix64).
pub fn seeded(seed: u64) -> Random {
    let state = AtomicU64::new(seed);
    Arc::new(move || {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut word = state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    })
}

/// Numbers nobody can guess, from the system.
pub fn system() -> Random {
    let source = SystemRandom::new();
    let fallback = seeded(u64::from(std::process::id()));
    Arc::new(move || {
        let mut bytes = [0; 8];
        // The system's source fails only before the machine has booted; UIDs need to differ, not to be secret.
        if source.fill(&mut bytes).is_ok() { u64::from_le_bytes(bytes) } else { fallback() }
    })
}

/// Text of this many characters of the alphabet of names.
pub(crate) fn name(random: &Random, length: usize) -> String {
    let mut out = String::with_capacity(length);
    let mut word = 0;
    for at in 0..length {
        // A word holds thirteen digits.
        if at % 13 == 0 {
            word = random();
        }
        let base = ALPHABET.len() as u64;
        out.push(char::from(ALPHABET[usize::try_from(word % base).unwrap_or(0)]));
        word /= base;
    }
    out
}

/// A UID (RFC 9562, version 4).
pub(crate) fn uid(random: &Random) -> String {
    let (high, low) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | (low >> 48) & 0x3fff,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same() {
        let (one, two) = (seeded(7), seeded(7));
        let first = (name(&one, 20), uid(&one));
        assert_eq!(first, (name(&two, 20), uid(&two)));
        assert_ne!(first.1, uid(&one));
        assert_eq!((first.0.len(), first.1.len(), &first.1[14..15]), (20, 36, "4"));
        assert_ne!(system()(), system()());
    }
}
