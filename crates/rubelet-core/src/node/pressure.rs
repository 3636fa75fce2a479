//! Whether the node is short of memory, disk or process IDs.
//!
//! Owns the vocabulary: signals, thresholds and their comparison with observations. Never measures; what follows from a
//! threshold that is met, and for how long, is [`crate::eviction`]'s.

use std::collections::BTreeMap;
use std::time::Duration;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, available: i64, capacity: i64, expected: bool) {
        let limit = [("nodefs.available".to_owned(), value.to_owned())].into();
        let thresholds = Threshold::parse_all(&limit, &BTreeMap::new());
        assert_eq!(thresholds[0].is_met(Observation { available, capacity }, false), expected);
    }

    #[test]
    fn below_a_threshold_is_pressure_and_exactly_at_it_is_not() {
        check("100Mi", 100 << 20, 1 << 30, false);
        check("100Mi", (100 << 20) - 1, 1 << 30, true);
        check("10%", 99, 1000, true);
        check("10%", 100, 1000, false);
        check("5%", 1, 1000, true);
    }

    #[test]
    fn amounts_that_switch_a_threshold_off_or_are_none() {
        for text in ["0%", "100%", "101%", "-1%", "x", "0", "-5Mi", ""] {
            assert_eq!(ThresholdValue::parse(text), None, "{text:?}");
        }
        assert_eq!(ThresholdValue::parse("10%").unwrap().of(52_323_426_304).to_string(), "5232342708");
    }
}
