//! When to look again: rarely at rest, the more often the nearer a threshold comes.
//!
//! Of memory the kernel tells by itself; of disks it does not, and a disk can begin to fill right after a look. So a disk
//! is looked at as if somebody were about to write as fast as disks of nodes do: before half of the room above the
//! threshold can be gone. The fastest it was seen to fill lately counts where that is more.

use std::collections::BTreeMap;
use std::time::Duration;

use super::EvictionConfig;
use super::judge::sensible;
use crate::node::pressure::{Observations, Pressure, Signal};

/// Time between two looks at rest (upstream's only one).
pub const REST: Duration = Duration::from_secs(10);
/// Shortest time between two looks.
const SOONEST: Duration = Duration::from_millis(100);
/// Nearer to a threshold than this share of it nothing is predicted: growth comes in bursts.
const NEAR: f64 = 0.5;
/// Time between two looks that near.
const NEAR_PERIOD: Duration = Duration::from_secs(1);

/// Bytes a second that may begin to be written at any time.
const BURST_BYTES: f64 = (200 << 20) as f64;
/// Files a second that may begin to be made at any time.
const BURST_INODES: f64 = 20_000.0;
/// Shortest time between two looks at a disk on which nothing was seen to be written.
const SOONEST_AT_REST: Duration = Duration::from_millis(500);
/// Time in which the memory of how fast a disk filled fades to half.
const FADES: Duration = Duration::from_secs(30);

/// How fast what is left shrinks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trend {
    last: BTreeMap<Signal, i64>,
    /// Units a second: of memory and process IDs between the last two looks, of disks the most of late.
    falls: BTreeMap<Signal, f64>,
}

fn is_disk(signal: Signal) -> bool {
    signal.pressure() == Pressure::Disk
}

impl Trend {
    /// The trend after one more look, `passed` after the one before.
    #[must_use]
    pub fn after(&self, observations: &Observations, passed: Duration) -> Self {
        let mut next = Self::default();
        for (signal, observation) in observations {
            next.last.insert(*signal, observation.available);
            let Some(before) = self.last.get(signal) else { continue };
            let lost = before.saturating_sub(observation.available).max(0);
            let seen = if passed.is_zero() { 0.0 } else { lost as f64 / passed.as_secs_f64() };
            let fall = if is_disk(*signal) { seen.max(self.faded(*signal, passed)) } else { seen };
            // What is slower than this does not bring the next look nearer.
            if fall >= 1.0 {
                next.falls.insert(*signal, fall);
            }
        }
        next
    }

    /// What is left of the fastest fall of a signal: writers come in bursts.
    fn faded(&self, signal: Signal, passed: Duration) -> f64 {
        let fall = self.falls.get(&signal).copied().unwrap_or(0.0);
        fall * 0.5_f64.powf(passed.as_secs_f64() / FADES.as_secs_f64())
    }
}

/// The time in which half of `left` is gone at so much a second.
fn half_gone(left: i64, fall: f64) -> Duration {
    let seconds = if fall > 0.0 { left as f64 / fall / 2.0 } else { f64::INFINITY };
    Duration::try_from_secs_f64(seconds).unwrap_or(REST)
}

/// How long the next look can wait: half the time in which, as things go or may come, a threshold is crossed.
pub fn next_look(config: &EvictionConfig, observations: &Observations, trend: &Trend) -> Duration {
    let wait = |threshold: &crate::node::pressure::Threshold| {
        let observation = sensible(observations, threshold)?;
        let limit = threshold.value.of(observation.capacity).value();
        let left = observation.available.saturating_sub(limit);
        if left <= 0 {
            // It is crossed: what goes on is seen by the pass itself.
            return Some(NEAR_PERIOD);
        }
        let near = (left as f64) < limit as f64 * NEAR;
        let nearness = if near { NEAR_PERIOD } else { REST };
        let fall = trend.falls.get(&threshold.signal).copied().unwrap_or(0.0);
        let burst = match (is_disk(threshold.signal), threshold.signal.is_inodes()) {
            (false, _) => 0.0,
            (true, true) => BURST_INODES,
            (true, false) => BURST_BYTES,
        };
        let possible = half_gone(left, burst).max(SOONEST_AT_REST);
        let predicted = half_gone(left, fall).min(possible);
        Some(predicted.min(nearness))
    };
    config.thresholds.iter().filter_map(wait).min().unwrap_or(REST).clamp(SOONEST, REST)
}
