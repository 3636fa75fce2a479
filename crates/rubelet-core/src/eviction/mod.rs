//! Node pressure: which thresholds are crossed, what is won back first, which pods go, and what they are told.
//!
//! Owns every decision of upstream's eviction manager; never measures, waits or ends anything. A pass of the shell's
//! task is: observe, [`judge`], reclaim what [`reclaim_for`] names, read what pods use, [`victims`]; beside it
//! [`local`] finds pods beyond the limits of their own.
//!
//! Other than upstream, a pass takes as many victims as the shortage needs, counts what victims that are still ending
//! will give back, looks after a reclaim only at what was reclaimed, and takes nobody whose end would free nothing.

mod judge;
pub mod local;
mod message;
mod pace;
mod rank;
#[cfg(test)]
mod tests;
mod victims;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::judge::{Book, Judgement, judge};
pub use self::message::{Explanation, explain};
pub use self::pace::{REST, Trend, next_look};
pub use self::rank::{Layout, rank, relief};
pub use self::victims::{Short, Victims, victims};
use crate::node::pressure::{Signal, Threshold};

/// Reason of evicted pods, in status and events.
pub const REASON: &str = "Evicted";
/// Grace in seconds of a pod that has to go at once (upstream `immediateEvictionGracePeriodSeconds`).
pub const IMMEDIATE_GRACE: u64 = 1;

/// What the configuration says of eviction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvictionConfig {
    /// Hard and soft thresholds.
    pub thresholds: Vec<Threshold>,
    /// `evictionPressureTransitionPeriod`.
    pub transition_period: Duration,
    /// `evictionMaxPodGracePeriod`, seconds.
    pub max_pod_grace: u64,
    /// `localStorageCapacityIsolation`: pods are held to their limits of local storage.
    pub local_storage: bool,
}

/// The maps of the configuration that make thresholds.
#[derive(Clone, Copy, Debug)]
pub struct ThresholdMaps<'a> {
    /// `evictionHard`.
    pub hard: &'a BTreeMap<String, String>,
    /// `evictionSoft`.
    pub soft: &'a BTreeMap<String, String>,
    /// `evictionSoftGracePeriod`; a soft threshold without one is left out (validation has refused it).
    pub soft_grace: &'a BTreeMap<String, Duration>,
    /// `evictionMinimumReclaim`.
    pub min_reclaim: &'a BTreeMap<String, String>,
    /// Whether the group of all pods is limited (`enforceNodeAllocatable` has `pods`).
    pub pods_limited: bool,
}

/// The thresholds of a configuration (upstream `ParseThresholdConfig`), memory first.
///
/// A hard threshold of memory holds for the group of all pods too, where that is limited. Thresholds of `containerfs`
/// are left out: upstream replaces them by those of the file system that holds the containers, which are here already.
pub fn thresholds(maps: ThresholdMaps<'_>) -> Vec<Threshold> {
    let hard = Threshold::parse_all(maps.hard, maps.min_reclaim);
    let soft = Threshold::parse_all(maps.soft, maps.min_reclaim).into_iter().filter_map(|threshold| {
        let grace = *maps.soft_grace.get(threshold.signal.name())?;
        Some(Threshold { grace, ..threshold })
    });
    let of_pods = |threshold: &&Threshold| threshold.signal == Signal::MemoryAvailable && maps.pods_limited;
    let allocatable: Vec<Threshold> = hard
        .iter()
        .filter(of_pods)
        .map(|threshold| Threshold { signal: Signal::AllocatableMemoryAvailable, ..threshold.clone() })
        .collect();
    let ignored = |threshold: &Threshold| {
        matches!(threshold.signal, Signal::ContainerFsAvailable | Signal::ContainerFsInodesFree)
    };
    let mut all: Vec<Threshold> =
        hard.into_iter().chain(soft).chain(allocatable).filter(|threshold| !ignored(threshold)).collect();
    // Memory is what a node dies of first.
    all.sort_by_key(|threshold| (threshold.signal.resource() != "memory", !threshold.is_hard()));
    all
}

/// What to win back before pods are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaim {
    /// Dead containers and sandboxes, with their logs and writable layers.
    pub containers: bool,
    /// Images that nobody uses.
    pub images: bool,
}

/// What can be won back for a signal (upstream `buildSignalToNodeReclaimFuncs`; other than there, dead containers are
/// removed whichever disk is short: their logs are on one, their layers on the other).
pub fn reclaim_for(signal: Signal, layout: Layout) -> Reclaim {
    match signal.resource() {
        "memory" | "pids" => Reclaim::default(),
        _ => Reclaim { containers: true, images: signal.is_image_fs() || !layout.image_fs },
    }
}
