//! When to look again: rarely at rest, the more often the nearer a threshold comes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::EvictionConfig;
use crate::node::pressure::{Observations, Signal};

/// Time between two looks at rest (upstream's only one).
pub const REST: Duration = Duration::from_secs(10);
/// Shortest time between two looks.
const SOONEST: Duration = Duration::from_millis(100);
/// Nearer to a threshold than this share of it nothing is predicted: growth comes in bursts.
const NEAR: f64 = 0.5;
/// Time between two looks that near.
const NEAR_PERIOD: Duration = Duration::from_secs(1);

/// How fast what is left shrinks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trend {
    last: BTreeMap<Signal, i64>,
    /// Units a second, of signals that shrink.
    falls: BTreeMap<Signal, f64>,
}

impl Trend {
    /// The trend after one more look, `passed` after the one before.
    #[must_use]
    pub fn after(&self, observations: &Observations, passed: Duration) -> Self {
        let mut next = Self::default();
        for (signal, observation) in observations {
            next.last.insert(*signal, observation.available);
            let Some(before) = self.last.get(signal) else { continue };
            let lost = before.saturating_sub(observation.available);
            if lost > 0 && !passed.is_zero() {
                next.falls.insert(*signal, lost as f64 / passed.as_secs_f64());
            }
        }
        next
    }
}

/// How long the next look can wait: half the time in which, as things go, a threshold is crossed.
pub fn next_look(config: &EvictionConfig, observations: &Observations, trend: &Trend) -> Duration {
    let wait = |threshold: &crate::node::pressure::Threshold| {
        let observation = observations.get(&threshold.signal)?;
        let limit = threshold.value.of(observation.capacity).value();
        let left = observation.available.saturating_sub(limit);
        if left <= 0 {
            // It is crossed: what goes on is seen by the pass itself.
            return Some(NEAR_PERIOD);
        }
        let near = (left as f64) < limit as f64 * NEAR;
        let nearness = if near { NEAR_PERIOD } else { REST };
        let fall = trend.falls.get(&threshold.signal).copied().unwrap_or(0.0);
        let predicted = if fall > 0.0 { left as f64 / fall / 2.0 } else { f64::INFINITY };
        let predicted = Duration::try_from_secs_f64(predicted).unwrap_or(REST);
        Some(predicted.min(nearness))
    };
    config.thresholds.iter().filter_map(wait).min().unwrap_or(REST).clamp(SOONEST, REST)
}
