//! Who goes first, and what the node gets back.

use std::cmp::Ordering;

use crate::admission::is_critical_pod;
use crate::containers::spec_of;
use crate::node::pressure::Signal;
use crate::quantity::Amount;
use crate::resources::pod_requests;
use crate::stats::usage::{FsUsage, PodUsage};

/// How images and containers lie on disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Images are on another file system than the agent's directory.
    pub image_fs: bool,
    /// Writable layers are on another one than images: beside the agent's directory.
    pub split: bool,
}

/// The parts of what a pod takes on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    layers: bool,
    logs: bool,
    volumes: bool,
}

/// The parts that are on the file system of a signal (upstream `buildSignalToRankFunc`).
fn parts(signal: Signal, layout: Layout) -> Parts {
    match (layout.image_fs, layout.split, signal.is_image_fs()) {
        (true, false, true) => Parts { layers: true, logs: false, volumes: false },
        (true, false, false) => Parts { layers: false, logs: true, volumes: true },
        (true, true, true) => Parts { layers: false, logs: false, volumes: false },
        _ => Parts { layers: true, logs: true, volumes: true },
    }
}

/// What a pod takes of what a signal is about; `None` when that is not known.
fn usage_of(pod: &PodUsage, signal: Signal, layout: Layout) -> Option<i64> {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    match signal.resource() {
        "memory" => Some(number(pod.group.as_ref()?.memory.as_ref()?.working_set)),
        "pids" => {
            let processes = pod.group.as_ref()?.processes.as_ref()?;
            // Threads are what the kernel counts.
            Some(number(processes.threads.unwrap_or(processes.processes).max(processes.processes)))
        }
        _ => {
            let parts = parts(signal, layout);
            let containers = pod.containers.iter();
            let layers = containers.clone().filter(|_| parts.layers).filter_map(|c| c.rootfs.as_ref());
            let logs = containers.filter(|_| parts.logs).filter_map(|c| c.logs.as_ref());
            let volumes = pod.volumes.iter().filter(|volume| parts.volumes && volume.ephemeral);
            let figure = |fs: &FsUsage| if signal.is_inodes() { fs.inodes_used } else { fs.used };
            let all = layers.chain(logs).chain(volumes.map(|volume| &volume.fs));
            Some(all.filter_map(figure).fold(0_i64, |sum, used| sum.saturating_add(number(used))))
        }
    }
}

/// What the node gets back of a signal when a pod has ended; `None` when that is not known.
pub fn relief(pod: &PodUsage, signal: Signal, layout: Layout) -> Option<i64> {
    usage_of(pod, signal, layout)
}

/// What a pod requests of what a signal is about. Nobody can request inodes or process IDs.
fn request_of(pod: &PodUsage, signal: Signal) -> i64 {
    let requests = pod_requests(&pod.pod, true);
    requests.get(signal.resource()).copied().unwrap_or(Amount::ZERO).value()
}

/// By which a pod is judged; what is smaller goes first.
struct Place {
    /// Whether its figures are known: a pod of which nobody knows goes first, as upstream.
    known: bool,
    /// Whether it takes no more than it requests.
    within_request: bool,
    priority: i32,
    /// What it takes beyond its request, negated.
    thrift: i64,
}

impl Place {
    fn of(pod: &PodUsage, signal: Signal, layout: Layout) -> Self {
        let usage = usage_of(pod, signal, layout);
        let used = usage.unwrap_or(0);
        let request = request_of(pod, signal);
        let excess = used.saturating_sub(request);
        Self {
            known: usage.is_some(),
            within_request: signal.resource() != "pids" && excess <= 0,
            priority: spec_of(&pod.pod).priority.unwrap_or(0),
            thrift: excess.saturating_neg(),
        }
    }

    fn cmp(&self, other: &Self) -> Ordering {
        self.known
            .cmp(&other.known)
            .then(self.within_request.cmp(&other.within_request))
            .then(self.priority.cmp(&other.priority))
            .then(self.thrift.cmp(&other.thrift))
    }
}

/// Pods that may be evicted for a signal, first who goes first: beyond their request before others, then lower
/// priority, then who takes most beyond it (upstream `rankMemoryPressure`, `rankDiskPressureFunc`, `rankPIDPressure`).
/// Critical pods, static and mirror pods among them, are never evicted.
pub fn rank<'a>(
    pods: impl IntoIterator<Item = &'a PodUsage>,
    signal: Signal,
    layout: Layout,
) -> Vec<&'a PodUsage> {
    let candidates = pods.into_iter().filter(|pod| !is_critical_pod(&pod.pod));
    let mut placed: Vec<(Place, &PodUsage)> =
        candidates.map(|pod| (Place::of(pod, signal, layout), pod)).collect();
    // Stable: pods that are alike stay in the order of their names.
    placed.sort_by(|(a, _), (b, _)| a.cmp(b));
    placed.into_iter().map(|(_, pod)| pod).collect()
}
