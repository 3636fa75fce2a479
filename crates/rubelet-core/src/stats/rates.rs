//! How much CPU is used a second: the difference of two readings, by metrics-server's rules.
//!
//! Pure. What a reading has for a container or the node counts only when it is whole: CPU time and memory, both more
//! than nothing. Called by the local API for `metrics.k8s.io`, which keeps [`Points`] of a reading until the next.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::usage::{GroupUsage, NodeUsage, PodUsage};

/// Readings that are closer together say nothing of a rate.
pub const SHORTEST_WINDOW: SignedDuration = SignedDuration::from_secs(1);
/// A rate over more than this is no rate of now.
pub const LONGEST_WINDOW: SignedDuration = SignedDuration::from_secs(60);
/// A container that has run for less has no rate since its start: its group is older than its process
/// (`freshContainerMinMetricsResolution`).
const FRESH: SignedDuration = SignedDuration::from_secs(10);

/// CPU time by a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    at: Timestamp,
    cpu: u64,
}

/// What is kept of a reading, to compare a later one with: the CPU time of the node and of each container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Points {
    node: Option<Point>,
    containers: BTreeMap<String, Point>,
}

/// What the node or a container uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// End of the window.
    pub at: Timestamp,
    /// The time the use of CPU is of.
    pub window: SignedDuration,
    /// CPU use, nanoseconds of CPU time a second.
    pub nanocores: u64,
    /// Working set at the end of the window, bytes.
    pub memory: u64,
}

/// What the containers of a pod use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRate {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// Each running container by name; none is missing.
    pub containers: Vec<(String, Rate)>,
}

impl PodRate {
    /// End and length of the window: those of the container that was read first.
    pub fn window(&self) -> Option<(Timestamp, SignedDuration)> {
        let first = self.containers.iter().map(|(_, rate)| rate).min_by_key(|rate| rate.at)?;
        Some((first.at, first.window))
    }
}

/// What node and pods use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeRates {
    /// The node as a whole.
    pub node: Option<Rate>,
    /// Pods of which every running container has a rate.
    pub pods: Vec<PodRate>,
    /// Whether another reading a moment later can tell more: something that was read whole has no rate yet.
    pub incomplete: bool,
}

impl Points {
    /// What there is to keep of a reading.
    pub fn of(reading: &NodeUsage) -> Self {
        let mut containers = BTreeMap::new();
        for container in reading.pods.iter().flat_map(|pod| &pod.containers) {
            if let Some(whole) = container.group.as_ref().and_then(Whole::of) {
                containers.insert(container.id.clone(), whole.point());
            }
        }
        Self { node: Whole::of(&reading.root).map(|whole| whole.point()), containers }
    }

    /// When the node was read.
    pub fn at(&self) -> Option<Timestamp> {
        self.node.map(|point| point.at)
    }
}

/// The figures of a group, of which none is missing.
struct Whole {
    at: Timestamp,
    cpu: u64,
    memory: u64,
}

impl Whole {
    fn of(group: &GroupUsage) -> Option<Self> {
        let cpu = group.cpu.as_ref()?.total;
        let memory = group.memory.as_ref()?.working_set;
        (cpu > 0 && memory > 0).then_some(Self { at: group.at, cpu, memory })
    }

    fn point(&self) -> Point {
        Point { at: self.at, cpu: self.cpu }
    }

    /// The rate since a point; none when time or counter have gone back, or the window is of no use.
    fn since(&self, earlier: Point) -> Option<Rate> {
        let window = self.at.duration_since(earlier.at);
        if !(SHORTEST_WINDOW..=LONGEST_WINDOW).contains(&window) {
            return None;
        }
        let used = self.cpu.checked_sub(earlier.cpu)?;
        Some(Rate { at: self.at, window, nanocores: a_second(used, window), memory: self.memory })
    }
}

/// So much CPU time in the window, as nanoseconds a second; the fraction is dropped, as upstream does.
fn a_second(used: u64, window: SignedDuration) -> u64 {
    let nanos = window.as_nanos().max(1).unsigned_abs();
    u64::try_from(u128::from(used) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

/// What node and pods use by `latest`, compared with what was kept of readings before it: the first that fits counts,
/// so that the longest window is to be given first.
pub fn rates(earlier: &[Points], latest: &NodeUsage) -> NodeRates {
    let mut rates = NodeRates::default();
    if let Some(whole) = Whole::of(&latest.root) {
        rates.node = earlier.iter().find_map(|points| whole.since(points.node?));
        rates.incomplete |= rates.node.is_none();
    }
    for pod in &latest.pods {
        match pod_rate(earlier, pod) {
            Ok(rate) if rate.containers.is_empty() => {}
            Ok(rate) => rates.pods.push(rate),
            Err(Missing::Earlier) => rates.incomplete = true,
            Err(Missing::Figures) => {}
        }
    }
    rates
}

/// Why a pod has no rate.
enum Missing {
    /// A container has no CPU time or memory yet.
    Figures,
    /// There is nothing to compare a container with.
    Earlier,
}

fn pod_rate(earlier: &[Points], pod: &PodUsage) -> Result<PodRate, Missing> {
    let mut containers = Vec::with_capacity(pod.containers.len());
    // What cannot be read will not be a moment later; it is looked for first.
    for container in &pod.containers {
        let whole = container.group.as_ref().and_then(Whole::of).ok_or(Missing::Figures)?;
        containers.push((container, whole));
    }
    let rated = containers.into_iter().map(|(container, whole)| {
        let kept = earlier.iter().find_map(|points| whole.since(*points.containers.get(&container.id)?));
        let since_start = || {
            let started = container.started_at.filter(|at| whole.at.duration_since(*at) >= FRESH)?;
            whole.since(Point { at: started, cpu: 0 })
        };
        let rate = kept.or_else(since_start).ok_or(Missing::Earlier)?;
        Ok((container.name.clone(), rate))
    });
    let containers = rated.collect::<Result<Vec<_>, Missing>>()?;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let metadata = &pod.pod.metadata;
    Ok(PodRate { namespace: text(&metadata.namespace), name: text(&metadata.name), containers })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::stats::usage::{ContainerUsage, CpuUsage, MemoryUsage};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + seconds).unwrap()
    }

    /// A group with so many seconds of CPU time and 4 KiB of memory.
    fn group(seconds: i64, cpu: u64) -> GroupUsage {
        GroupUsage {
            at: at(seconds),
            cpu: Some(CpuUsage { total: cpu * 1_000_000_000, ..CpuUsage::default() }),
            memory: Some(MemoryUsage { working_set: 4096, ..MemoryUsage::default() }),
            ..GroupUsage::default()
        }
    }

    fn container(id: &str, started: i64, group: Option<GroupUsage>) -> ContainerUsage {
        let started_at = Some(at(started));
        ContainerUsage { name: id.into(), id: id.into(), started_at, group, ..ContainerUsage::default() }
    }

    fn reading(seconds: i64, cpu: u64, pods: Vec<(&str, Vec<ContainerUsage>)>) -> NodeUsage {
        let pods = pods.into_iter().map(|(name, containers)| {
            let mut pod = crate::Pod::default();
            pod.metadata.name = Some(name.to_owned());
            pod.metadata.namespace = Some("default".to_owned());
            PodUsage {
                pod: Arc::new(pod),
                status: Arc::default(),
                sandbox_id: String::new(),
                sandbox_image: String::new(),
                started_at: None,
                group: None,
                sandbox_group: None,
                network: None,
                containers,
                volumes: Vec::new(),
                other_ephemeral: None,
            }
        });
        NodeUsage { root: group(seconds, cpu), pods: pods.collect(), ..NodeUsage::default() }
    }

    #[test]
    fn the_node_uses_what_two_readings_differ_by() {
        #[track_caller]
        fn check(earlier: (i64, u64), latest: (i64, u64), expected: Option<u64>) {
            let earlier = Points::of(&reading(earlier.0, earlier.1, vec![]));
            let rates = rates(&[earlier], &reading(latest.0, latest.1, vec![]));
            assert_eq!(rates.node.map(|rate| rate.nanocores), expected);
            assert_eq!(rates.incomplete, expected.is_none());
        }
        check((0, 10), (10, 15), Some(500_000_000));
        check((0, 10), (3, 11), Some(333_333_333));
        check((0, 10), (10, 10), Some(0));
        check((0, 10), (0, 10), None);
        check((10, 10), (0, 15), None);
        check((0, 10), (10, 9), None);
        check((0, 10), (61, 15), None);
        let rate = rates(&[Points::of(&reading(0, 1, vec![]))], &reading(15, 2, vec![])).node.unwrap();
        assert_eq!((rate.at, rate.window, rate.memory), (at(15), SignedDuration::from_secs(15), 4096));
    }

    #[test]
    fn the_longest_window_counts_that_has_the_container() {
        let first = Points::of(&reading(0, 1, vec![("p", vec![container("a", -100, Some(group(0, 10)))])]));
        let second = Points::of(&reading(
            5,
            1,
            vec![
                ("p", vec![container("a", -100, Some(group(5, 10)))]),
                ("q", vec![container("b", 4, Some(group(5, 1)))]),
            ],
        ));
        let latest = reading(
            10,
            1,
            vec![
                ("p", vec![container("a", -100, Some(group(10, 20)))]),
                ("q", vec![container("b", 4, Some(group(10, 2)))]),
            ],
        );
        let found = rates(&[first, second], &latest);
        let said: Vec<_> = found
            .pods
            .iter()
            .map(|pod| (pod.name.as_str(), pod.containers[0].1.nanocores, pod.window().unwrap().1.as_secs()))
            .collect();
        assert_eq!(said, [("p", 1_000_000_000, 10), ("q", 200_000_000, 5)]);
        assert!(!found.incomplete);
    }

    #[test]
    fn pods_are_told_of_whole_or_not_at_all() {
        #[track_caller]
        fn check(containers: Vec<ContainerUsage>, told: usize, incomplete: bool) {
            let earlier = reading(0, 1, vec![("p", vec![container("a", -100, Some(group(0, 10)))])]);
            let found = rates(&[Points::of(&earlier)], &reading(20, 2, vec![("p", containers)]));
            assert_eq!((found.pods.len(), found.incomplete), (told, incomplete));
        }
        let a = || container("a", -100, Some(group(20, 12)));
        check(vec![a()], 1, false);
        // Older than ten seconds: since its start.
        check(vec![a(), container("b", 5, Some(group(20, 3)))], 1, false);
        check(vec![a(), container("b", 15, Some(group(20, 3)))], 0, true);
        // Older than any rate may be.
        check(vec![a(), container("b", -100, Some(group(20, 3)))], 0, true);
        check(vec![a(), container("b", 5, None)], 0, false);
        check(vec![a(), container("b", 5, Some(group(20, 0)))], 0, false);
        check(vec![a(), container("c", 15, Some(group(20, 3))), container("b", 5, None)], 0, false);
        // The container was started again under another ID.
        check(vec![container("a2", 15, Some(group(20, 1)))], 0, true);
        check(vec![], 0, false);
    }

    #[test]
    fn a_container_since_its_start_has_its_own_window() {
        let latest = reading(20, 2, vec![("p", vec![container("b", 5, Some(group(20, 3)))])]);
        let found = rates(&[Points::of(&reading(0, 1, vec![]))], &latest);
        let rate = found.pods[0].containers[0].1;
        assert_eq!((rate.nanocores, rate.window.as_secs()), (200_000_000, 15));
    }
}
