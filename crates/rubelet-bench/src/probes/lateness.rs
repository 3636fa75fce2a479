//! How punctual probes are, as those see it who are probed. Pure: the arrivals come in.
//!
//! Nobody outside the prober knows its grid. For each pod it is taken from the pod's own arrivals: one second apart,
//! through the one that came earliest on it. What all probes of a pod have in common is therefore not seen.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::numbers::quantile;

/// From probe to probe, seconds.
const PERIOD: f64 = 1.0;

/// Of all pods together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lateness {
    /// Seconds behind the grid: of half of the probes at most, of 99 in 100, of all.
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
    /// Probes that came.
    pub(super) came: usize,
    /// Points of the grid, between the first and the last arrival of a pod, at which no probe came.
    pub(super) missed: usize,
}

/// What arrivals, by pod, say; `None` of none.
pub(super) fn of(arrivals: &[(usize, Instant)]) -> Option<Lateness> {
    let began = arrivals.iter().map(|(_, at)| *at).min()?;
    let mut by_pod: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (pod, at) in arrivals {
        by_pod.entry(*pod).or_default().push(at.duration_since(began).as_secs_f64());
    }
    let (mut late, mut missed) = (vec![], 0);
    for times in by_pod.values_mut() {
        times.sort_by(f64::total_cmp);
        let first = times[0];
        let phases: Vec<f64> =
            times.iter().map(|at| at - first - ((at - first) / PERIOD).round() * PERIOD).collect();
        let earliest = phases.iter().copied().fold(f64::INFINITY, f64::min);
        late.extend(phases.iter().map(|phase| phase - earliest));
        let points = times.last().map_or(0.0, |last| ((last - first) / PERIOD).round()) as usize + 1;
        missed += points.saturating_sub(times.len());
    }
    late.sort_by(f64::total_cmp);
    Some(Lateness {
        p50: quantile(&late, 0.5)?,
        p99: quantile(&late, 0.99)?,
        max: *late.last()?,
        came: late.len(),
        missed,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check(arrivals: &[(usize, u64)], p50: f64, max: f64, missed: usize) {
        let began = Instant::now();
        let arrivals: Vec<_> =
            arrivals.iter().map(|(pod, ms)| (*pod, began + Duration::from_millis(*ms))).collect();
        let found = of(&arrivals).unwrap();
        let is = |found: f64, wanted: f64| (found - wanted).abs() < 1e-6;
        assert!(is(found.p50, p50) && is(found.max, max), "{found:?}");
        assert_eq!((found.came, found.missed), (arrivals.len(), missed));
    }

    #[test]
    fn lateness_is_taken_from_the_earliest_of_each_pod() {
        assert_eq!(of(&[]), None);
        check(&[(1, 0)], 0.0, 0.0, 0);
        // Pods have phases of their own, and the first arrival may be a late one.
        check(&[(1, 20), (1, 1000), (1, 2005), (2, 300), (2, 1300)], 0.0, 0.020, 0);
        check(&[(1, 0), (1, 1100), (1, 4000), (1, 4999)], 0.001, 0.101, 2);
    }
}
