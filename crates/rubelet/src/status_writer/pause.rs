//! Pauses before the next attempt: doubling, bounded and spread by a hash, so that pods that failed together do
//! not come back together and a simulation can be replayed.

use std::time::Duration;

/// The pause after so many failures in a row (1 for the first): `first` doubled up to `max`, then spread over
/// 75 to 125 % by `name`.
pub fn pause(first: Duration, max: Duration, failures: u32, name: &str) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(max);
    doubled.mul_f64(0.75 + 0.5 * spread(name, failures))
}

/// A number from 0 to 1 that depends on a name and a counter only (FNV-1a).
fn spread(name: &str, count: u32) -> f64 {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in name.bytes().chain(count.to_le_bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    f64::from(hash) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_their_limit_and_are_spread() {
        let second = Duration::from_secs(1);
        let limit = Duration::from_secs(30);
        for (failures, middle) in [(1, 1.0), (2, 2.0), (5, 16.0), (6, 30.0), (4_000_000_000, 30.0)] {
            for name in ["a", "b", "shop/web"] {
                let pause = pause(second, limit, failures, name).as_secs_f64();
                assert!((0.75 * middle..=1.25 * middle).contains(&pause), "{failures} {name} {pause}");
            }
        }
        assert_ne!(pause(second, limit, 1, "a"), pause(second, limit, 1, "b"));
    }
}
