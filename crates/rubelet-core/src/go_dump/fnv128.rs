//! FNV-1a with 128 bits, fed as text is written.
//!
//! Knows nothing of what it hashes; `static_pod` writes the dump of a pod and its origin into it.

use std::fmt;

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

/// A running hash; print it (32 lower-case hex digits) to end.
#[derive(Clone, Debug)]
pub(crate) struct Fnv128a(u128);

impl Default for Fnv128a {
    fn default() -> Self {
        Self(OFFSET)
    }
}

impl fmt::Write for Fnv128a {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(PRIME);
        }
        Ok(())
    }
}

impl fmt::Display for Fnv128a {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn agrees_with_the_published_vectors() {
        for (text, expected) in [
            ("", "6c62272e07bb014262b821756295c58d"),
            ("a", "d228cb696f1a8caf78912b704e4a8964"),
            ("foobar", "343e1662793c64bf6f0d3597ba446f18"),
        ] {
            let mut hash = Fnv128a::default();
            hash.write_str(text).unwrap();
            assert_eq!(hash.to_string(), expected, "{text:?}");
        }
    }
}
