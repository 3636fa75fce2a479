//! When one probe of one container instance is run next. A grid of ticks that only the spec and the spread decide, so
//! that it is the same in every agent process; and a bit of state on top. Called by [`ContainerProbes`] only.
//!
//! [`ContainerProbes`]: super::ContainerProbes

use std::time::Duration;

use super::{ProbeKind, ProbeTimes};

/// Two runs of a probe are never closer than this, or than half their period if that is shorter.
const MINIMUM_GAP: Duration = Duration::from_secs(1);

/// The ticks of a probe, as ages of the container: the first one within a period after the initial delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    first: Duration,
    period: Duration,
}

impl Grid {
    /// The grid of a probe. Probes of one container have different phases, and so have containers with different
    /// spreads.
    pub(super) fn new(times: &ProbeTimes, kind: ProbeKind, spread: u64) -> Self {
        let share = u128::from(mixed(spread ^ (kind as u64)));
        let phase = (times.period.as_nanos() * share) >> 64;
        Self { first: times.initial_delay.saturating_add(nanos(phase)), period: times.period }
    }

    /// The first tick that is not before this age.
    pub(super) fn at_or_after(&self, age: Duration) -> Duration {
        let Some(late) = age.checked_sub(self.first) else { return self.first };
        let ticks = late.as_nanos().div_ceil(self.period.as_nanos().max(1));
        self.first.saturating_add(nanos(ticks.saturating_mul(self.period.as_nanos())))
    }

    /// The tick after a run that was begun at this age. A tick that would follow too closely is left out.
    fn after(&self, begun: Duration) -> Duration {
        self.at_or_after(begun.saturating_add(MINIMUM_GAP.min(self.period / 2)))
    }
}

/// Where a probe stands on its grid.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    grid: Grid,
    next: Duration,
    under_way: bool,
}

impl Schedule {
    /// Starts with the first tick from `age` on; what was due before it is skipped.
    pub(super) fn new(grid: Grid, age: Duration) -> Self {
        Self { grid, next: grid.at_or_after(age), under_way: false }
    }

    /// When the next run is due; `None` while one is under way.
    pub(super) fn due(&self) -> Option<Duration> {
        (!self.under_way).then_some(self.next)
    }

    /// The next run is a tick from `age` on.
    pub(super) fn resume(&mut self, age: Duration) {
        self.next = self.grid.at_or_after(age);
    }

    /// The next run is one besides the grid, at this age.
    pub(super) fn call(&mut self, age: Duration) {
        self.next = age;
    }

    /// A run begins.
    pub(super) fn begin(&mut self, age: Duration) {
        self.under_way = true;
        self.next = self.grid.after(age);
    }

    /// The run has ended, or was not made. Ticks it took the time of are skipped. Returns whether one was under way.
    pub(super) fn finish(&mut self, age: Duration) -> bool {
        let was_under_way = std::mem::replace(&mut self.under_way, false);
        if self.next <= age {
            self.next = self.grid.after(age);
        }
        was_under_way
    }
}

/// A number in which every bit of the given one decides about every bit (the finaliser of SplitMix64).
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A duration of so many nanoseconds; the longest there is when they are more than 500 years.
fn nanos(count: u128) -> Duration {
    u64::try_from(count).map_or(Duration::MAX, Duration::from_nanos)
}
