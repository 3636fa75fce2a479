//! Whether the node is short of memory, disk or process IDs.
//!
//! Owns thresholds, their comparison with observations, and how long pressure is reported after it has gone
//! (upstream's eviction manager up to the node conditions). Never evicts and never measures. The shell keeps
//! the [`PressureState`] between two looks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::quantity::{Amount, Format};

/// What a threshold watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// `memory.available`, bytes.
    MemoryAvailable,
    /// `allocatableMemory.available`, bytes.
    AllocatableMemoryAvailable,
    /// `nodefs.available`, bytes.
    NodeFsAvailable,
    /// `nodefs.inodesFree`.
    NodeFsInodesFree,
    /// `imagefs.available`, bytes.
    ImageFsAvailable,
    /// `imagefs.inodesFree`.
    ImageFsInodesFree,
    /// `containerfs.available`, bytes.
    ContainerFsAvailable,
    /// `containerfs.inodesFree`.
    ContainerFsInodesFree,
    /// `pid.available`, tasks.
    PidAvailable,
}

impl Signal {
    /// The signal of a name in the configuration.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "memory.available" => Self::MemoryAvailable,
            "allocatableMemory.available" => Self::AllocatableMemoryAvailable,
            "nodefs.available" => Self::NodeFsAvailable,
            "nodefs.inodesFree" => Self::NodeFsInodesFree,
            "imagefs.available" => Self::ImageFsAvailable,
            "imagefs.inodesFree" => Self::ImageFsInodesFree,
            "containerfs.available" => Self::ContainerFsAvailable,
            "containerfs.inodesFree" => Self::ContainerFsInodesFree,
            "pid.available" => Self::PidAvailable,
            _ => return None,
        })
    }

    /// Its name in the configuration and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::AllocatableMemoryAvailable => "allocatableMemory.available",
            Self::NodeFsAvailable => "nodefs.available",
            Self::NodeFsInodesFree => "nodefs.inodesFree",
            Self::ImageFsAvailable => "imagefs.available",
            Self::ImageFsInodesFree => "imagefs.inodesFree",
            Self::ContainerFsAvailable => "containerfs.available",
            Self::ContainerFsInodesFree => "containerfs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    /// What the node is short of, in the words of events (upstream `signalToResource`).
    pub fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable | Self::AllocatableMemoryAvailable => "memory",
            Self::NodeFsAvailable | Self::ImageFsAvailable | Self::ContainerFsAvailable => {
                "ephemeral-storage"
            }
            Self::NodeFsInodesFree | Self::ImageFsInodesFree | Self::ContainerFsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }

    /// Whether it counts inodes.
    pub fn is_inodes(self) -> bool {
        self.resource() == "inodes"
    }

    /// Which kind of pressure it makes.
    pub fn pressure(self) -> Pressure {
        match self {
            Self::MemoryAvailable | Self::AllocatableMemoryAvailable => Pressure::Memory,
            Self::PidAvailable => Pressure::Pid,
            _ => Pressure::Disk,
        }
    }

    /// Whether it is about the file system that holds images.
    pub fn is_image_fs(self) -> bool {
        matches!(self, Self::ImageFsAvailable | Self::ImageFsInodesFree)
    }
}

/// A kind of pressure, one node condition each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// `MemoryPressure`.
    Memory,
    /// `DiskPressure`.
    Disk,
    /// `PIDPressure`.
    Pid,
}

/// A threshold's amount: absolute, or a share of the capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ThresholdValue {
    /// So much.
    Amount(Amount),
    /// A share from 0 to 1, in single precision as upstream, which decides the last digits of products.
    Share(f32),
}

impl ThresholdValue {
    /// Reads `100Mi` or `10%`; `None` for what is neither, and for 0 % and 100 %, which switch it off.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(percent) = text.strip_suffix('%') {
            if matches!(text, "0%" | "100%") {
                return None;
            }
            let share = percent.parse::<f32>().ok()? / 100.0;
            return (0.0..=1.0).contains(&share).then_some(Self::Share(share));
        }
        let amount = Amount::parse(text).ok()?;
        (!amount.is_zero() && !amount.is_negative()).then_some(Self::Amount(amount))
    }

    /// The amount where the whole is `capacity`.
    pub fn of(self, capacity: i64) -> Amount {
        match self {
            Self::Amount(amount) => amount,
            // Truncated like Go's conversion of a float to an integer.
            Self::Share(share) => {
                Amount::units((capacity as f64 * f64::from(share)) as i64, Format::BinarySi)
            }
        }
    }
}

/// When a signal below `value` is pressure.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// What is watched.
    pub signal: Signal,
    /// Below this there is pressure.
    pub value: ThresholdValue,
    /// How far above `value` it must rise before the pressure is over.
    pub min_reclaim: Option<ThresholdValue>,
    /// How long it has to be met before a pod is evicted; zero makes it a hard one.
    pub grace: Duration,
}

impl Threshold {
    /// The thresholds of one map of the configuration, in the order of their names. Unknown signals and bad
    /// amounts are left out (validation has refused them).
    pub fn parse_all(
        thresholds: &BTreeMap<String, String>,
        min_reclaim: &BTreeMap<String, String>,
    ) -> Vec<Self> {
        thresholds
            .iter()
            .filter_map(|(name, text)| {
                Some(Self {
                    signal: Signal::of(name)?,
                    value: ThresholdValue::parse(text)?,
                    min_reclaim: min_reclaim.get(name).and_then(|text| ThresholdValue::parse(text)),
                    grace: Duration::ZERO,
                })
            })
            .collect()
    }

    /// Whether eviction does not wait.
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }

    /// How much is missing, at least 0. `with_min_reclaim`: until the pressure is over for good.
    pub fn shortage(&self, observation: Observation, with_min_reclaim: bool) -> i64 {
        let mut limit = self.value.of(observation.capacity);
        if let Some(more) = self.min_reclaim.filter(|_| with_min_reclaim) {
            limit = limit.plus(more.of(observation.capacity));
        }
        limit.minus(Amount::units(observation.available, Format::DecimalSi)).value().max(0)
    }

    /// Whether there is pressure.
    pub fn is_met(&self, observation: Observation, with_min_reclaim: bool) -> bool {
        self.shortage(observation, with_min_reclaim) > 0
    }
}

/// What was measured of one signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What is left.
    pub available: i64,
    /// The whole.
    pub capacity: i64,
}

/// What was measured; signals that could not be are missing and make no pressure.
pub type Observations = BTreeMap<Signal, Observation>;

/// What is remembered between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PressureState {
    /// Indices of thresholds that were met and have not been cleared by their minimum reclaim.
    met: BTreeSet<usize>,
    /// When each kind of pressure was last there.
    last_seen: BTreeMap<Pressure, Timestamp>,
}

/// What the node conditions say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressures {
    /// Short of memory.
    pub memory: bool,
    /// Short of disk space or inodes.
    pub disk: bool,
    /// Short of process IDs.
    pub pid: bool,
}

/// Judges one look at the node. Pressure is reported while it is there and for `transition_period` after.
///
/// A clock that was set back never keeps pressure longer than the period from the new time on.
pub fn observe(
    thresholds: &[Threshold],
    observations: &Observations,
    state: &PressureState,
    transition_period: Duration,
    now: Timestamp,
) -> (PressureState, Pressures) {
    let met: BTreeSet<usize> = thresholds
        .iter()
        .enumerate()
        .filter(|(index, threshold)| {
            let with_min_reclaim = state.met.contains(index);
            observations
                .get(&threshold.signal)
                .is_some_and(|observation| threshold.is_met(*observation, with_min_reclaim))
        })
        .map(|(index, _)| index)
        .collect();
    let mut last_seen = state.last_seen.clone();
    for at in last_seen.values_mut() {
        *at = (*at).min(now);
    }
    for index in &met {
        last_seen.insert(thresholds[*index].signal.pressure(), now);
    }
    last_seen.retain(|_, at| {
        let gone_for: Duration = now.duration_since(*at).try_into().unwrap_or_default();
        gone_for.is_zero() || gone_for < transition_period
    });
    let pressures = Pressures {
        memory: last_seen.contains_key(&Pressure::Memory),
        disk: last_seen.contains_key(&Pressure::Disk),
        pid: last_seen.contains_key(&Pressure::Pid),
    };
    (PressureState { met, last_seen }, pressures)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(300);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn thresholds(pairs: &[(&str, &str)], reclaim: &[(&str, &str)]) -> Vec<Threshold> {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        Threshold::parse_all(&map(pairs), &map(reclaim))
    }

    fn defaults() -> Vec<Threshold> {
        thresholds(
            &[
                ("memory.available", "100Mi"),
                ("nodefs.available", "10%"),
                ("nodefs.inodesFree", "5%"),
                ("pid.available", "10%"),
            ],
            &[],
        )
    }

    #[track_caller]
    fn check(observed: &[(Signal, i64, i64)], expected: (bool, bool, bool)) {
        let observations = seen(observed);
        let (_, found) = observe(&defaults(), &observations, &PressureState::default(), PERIOD, at(0));
        assert_eq!((found.memory, found.disk, found.pid), expected);
    }

    fn seen(observed: &[(Signal, i64, i64)]) -> Observations {
        observed
            .iter()
            .map(|(signal, available, capacity)| {
                (*signal, Observation { available: *available, capacity: *capacity })
            })
            .collect()
    }

    #[test]
    fn below_a_threshold_is_pressure_and_exactly_at_it_is_not() {
        use Signal::*;
        check(&[], (false, false, false));
        check(&[(MemoryAvailable, 100 << 20, 1 << 30)], (false, false, false));
        check(&[(MemoryAvailable, (100 << 20) - 1, 1 << 30)], (true, false, false));
        check(&[(NodeFsAvailable, 99, 1000)], (false, true, false));
        check(&[(NodeFsAvailable, 500, 1000), (NodeFsInodesFree, 1, 1000)], (false, true, false));
        check(&[(PidAvailable, 3, 32768)], (false, false, true));
    }

    #[test]
    fn pressure_stays_for_the_transition_period() {
        let low = seen(&[(Signal::MemoryAvailable, 1, 1 << 30)]);
        let fine = seen(&[(Signal::MemoryAvailable, 1 << 29, 1 << 30)]);
        let (state, _) = observe(&defaults(), &low, &PressureState::default(), PERIOD, at(0));
        let (state, found) = observe(&defaults(), &fine, &state, PERIOD, at(299));
        assert!(found.memory);
        // The clock is set back by an hour, and then goes on.
        let (state, found) = observe(&defaults(), &fine, &state, PERIOD, at(-3600));
        assert!(found.memory);
        let (state, found) = observe(&defaults(), &fine, &state, PERIOD, at(-3300));
        assert!(!found.memory);
        assert_eq!(state, PressureState::default());
    }

    #[test]
    fn min_reclaim_has_to_be_reached_before_pressure_ends() {
        let limits = thresholds(&[("nodefs.available", "1Gi")], &[("nodefs.available", "1Gi")]);
        let with = |left: i64| seen(&[(Signal::NodeFsAvailable, left << 20, 100 << 30)]);
        let (state, found) = observe(&limits, &with(1500), &PressureState::default(), Duration::ZERO, at(0));
        assert!(!found.disk);
        let (state, found) = observe(&limits, &with(1000), &state, Duration::ZERO, at(10));
        assert!(found.disk);
        let (state, found) = observe(&limits, &with(1500), &state, Duration::ZERO, at(20));
        assert!(found.disk);
        let (_, found) = observe(&limits, &with(2048), &state, Duration::ZERO, at(30));
        assert!(!found.disk);
    }

    #[test]
    fn amounts_that_switch_a_threshold_off_or_are_none() {
        for text in ["0%", "100%", "101%", "-1%", "x", "0", "-5Mi", ""] {
            assert_eq!(ThresholdValue::parse(text), None, "{text:?}");
        }
        assert_eq!(ThresholdValue::parse("10%").unwrap().of(52_323_426_304).to_string(), "5232342708");
    }
}
