//! CPU use a second, from the readings that somebody asked for: nothing reads in between.
//!
//! Two readings of each group are kept, so that there is one to compare with however soon the next question comes.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rubelet_core::stats::usage::GroupUsage;

/// Readings that are closer together say nothing of a rate.
const SHORTEST: SignedDuration = SignedDuration::from_secs(1);
/// A rate over more than this is no rate of now.
const LONGEST: SignedDuration = SignedDuration::from_mins(5);

/// Nanoseconds of CPU time at a moment.
#[derive(Clone, Copy, Debug)]
struct Point {
    at: Timestamp,
    cpu: u64,
}

/// Readings by group. Bounded by who calls [`Rates::retain`].
#[derive(Debug, Default)]
pub(super) struct Rates(BTreeMap<String, (Option<Point>, Point)>);

impl Rates {
    /// Says what a group uses a second, and remembers this reading.
    pub(super) fn rate(&mut self, group: &mut GroupUsage) {
        let Some(cpu) = group.cpu.as_ref().map(|cpu| cpu.total) else { return };
        let now = Point { at: group.at, cpu };
        let Some((older, newer)) = self.0.get_mut(&group.path) else {
            self.0.insert(group.path.clone(), (None, now));
            return;
        };
        if now.cpu < newer.cpu || now.at < newer.at {
            // Another group of the same name, or a clock that was set back.
            (*older, *newer) = (None, now);
            return;
        }
        let base = [Some(*newer), *older].into_iter().flatten().find(|base| {
            let window = now.at.duration_since(base.at);
            (SHORTEST..=LONGEST).contains(&window)
        });
        group.nanocores = base.and_then(|base| since(base, now));
        if now.at.duration_since(newer.at) >= SHORTEST {
            (*older, *newer) = (Some(*newer), now);
        }
    }

    /// Forgets groups that are not to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|path, _| keep(path));
    }
}

fn since(base: Point, now: Point) -> Option<u64> {
    let window = u128::try_from(now.at.duration_since(base.at).as_nanos()).ok()?;
    let used = u128::from(now.cpu.checked_sub(base.cpu)?);
    u64::try_from((used * 1_000_000_000).checked_div(window)?).ok()
}

#[cfg(test)]
mod tests {
    use rubelet_core::stats::usage::CpuUsage;

    use super::*;

    /// Readings (milliseconds, CPU nanoseconds) and the rate expected with each.
    #[track_caller]
    fn check(readings: &[(i64, u64, Option<u64>)]) {
        let mut rates = Rates::default();
        for (at, total, expected) in readings {
            let mut group = GroupUsage {
                at: Timestamp::from_millisecond(*at).unwrap(),
                path: "/a".into(),
                cpu: Some(CpuUsage { total: *total, ..CpuUsage::default() }),
                ..GroupUsage::default()
            };
            rates.rate(&mut group);
            assert_eq!(group.nanocores, *expected, "at {at}");
        }
    }

    #[test]
    fn rates_are_of_readings_that_are_apart() {
        check(&[(0, 0, None), (2_000, 1_000, Some(500)), (4_000, 1_000, Some(0))]);
        // Too close to the newest one: the one before it serves.
        check(&[(0, 0, None), (500, 10, None), (1_000, 100, Some(100)), (1_500, 300, Some(200))]);
        // However often somebody asks, the kept readings do not all become too young.
        check(&[(0, 0, None), (1_000, 100, Some(100)), (1_900, 190, Some(100)), (2_800, 280, Some(100))]);
        // Too old, and then fit again.
        check(&[(0, 0, None), (301_000, 301_000, None), (302_000, 302_000, Some(1_000))]);
        // Another group, another clock.
        check(&[(0, 500, None), (2_000, 100, None), (3_000, 200, Some(100))]);
        check(&[(9_000, 0, None), (2_000, 100, None), (3_000, 200, Some(100))]);
    }

    #[test]
    fn forgotten_groups_begin_anew() {
        let mut rates = Rates::default();
        let mut group =
            GroupUsage { path: "/a".into(), cpu: Some(CpuUsage::default()), ..GroupUsage::default() };
        rates.rate(&mut group);
        rates.retain(|path| path != "/a");
        assert!(rates.0.is_empty());
    }
}
