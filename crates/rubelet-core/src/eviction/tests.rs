//! Tables and properties of eviction.

use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::node::pressure::{Observation, Observations, Pressures};
use crate::pod_builder::{ContainerBuilder, PodBuilder};
use crate::stats::usage::{
    ContainerUsage, FsUsage, GroupUsage, MemoryUsage, PodUsage, ProcessUsage, VolumeUsage,
};

const MI: i64 = 1 << 20;
const ONE: Layout = Layout { image_fs: false, split: false };
const DEDICATED: Layout = Layout { image_fs: true, split: false };
const SPLIT: Layout = Layout { image_fs: true, split: true };

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn config(hard: &[(&str, &str)], soft: &[(&str, &str, u64)], reclaim: &[(&str, &str)]) -> EvictionConfig {
    let soft_map: Vec<(&str, &str)> = soft.iter().map(|(name, text, _)| (*name, *text)).collect();
    let grace = soft.iter().map(|(name, _, grace)| ((*name).to_owned(), Duration::from_secs(*grace)));
    let maps = ThresholdMaps {
        hard: &map(hard),
        soft: &map(&soft_map),
        soft_grace: &grace.collect(),
        min_reclaim: &map(reclaim),
        pods_limited: false,
    };
    EvictionConfig {
        thresholds: thresholds(maps),
        transition_period: Duration::from_secs(300),
        ..EvictionConfig::default()
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn left(signal: Signal, mi: i64) -> Observations {
    [(signal, Observation { available: mi * MI, capacity: 1024 * MI })].into()
}

#[test]
fn thresholds_of_a_configuration_come_with_memory_first() {
    let grace = [("memory.available".to_owned(), Duration::from_secs(30))].into();
    let maps = ThresholdMaps {
        hard: &map(&[
            ("imagefs.available", "15%"),
            ("memory.available", "100Mi"),
            ("containerfs.available", "1%"),
            ("nodefs.inodesFree", "0%"),
        ]),
        soft: &map(&[("memory.available", "200Mi"), ("nodefs.available", "20%")]),
        soft_grace: &grace,
        min_reclaim: &map(&[("memory.available", "10Mi")]),
        pods_limited: true,
    };
    let told: Vec<String> = thresholds(maps)
        .iter()
        .map(|t| format!("{} {} {:?}", t.signal.name(), t.value.of(1000), t.grace))
        .collect();
    assert_eq!(
        told,
        [
            "memory.available 100Mi 0ns",
            "allocatableMemory.available 100Mi 0ns",
            "memory.available 200Mi 30s",
            "imagefs.available 150 0ns"
        ]
    );
}

/// Looks at memory at these moments: (second, Mi left) gives (due, pressure).
#[track_caller]
fn check_story(config: &EvictionConfig, story: &[(i64, i64, bool, bool)]) {
    let mut book = Book::default();
    for (second, mi, due, pressure) in story {
        let (next, found) = judge(config, &left(Signal::MemoryAvailable, *mi), &book, at(*second));
        assert_eq!(
            (!found.due.is_empty(), found.pressures.memory),
            (*due, *pressure),
            "at {second}: {found:?}"
        );
        book = next;
    }
}

#[test]
fn a_hard_threshold_is_due_at_once_and_pressure_outlasts_it() {
    let config = config(&[("memory.available", "100Mi")], &[], &[]);
    check_story(&config, &[(0, 100, false, false), (10, 99, true, true), (20, 100, false, true)]);
    check_story(&config, &[(0, 99, true, true), (299, 100, false, true), (300, 100, false, false)]);
    // The clock is set back by an hour.
    check_story(&config, &[(0, 99, true, true), (-3600, 200, false, true), (-3300, 200, false, false)]);
}

#[test]
fn a_soft_threshold_is_due_after_its_grace_and_begins_anew_when_it_was_left() {
    let config = config(&[], &[("memory.available", "100Mi", 30)], &[("memory.available", "50Mi")]);
    check_story(
        &config,
        &[
            (0, 99, false, true),
            (29, 99, false, true),
            // Above the threshold, below the minimum reclaim: it never was due, so it is over.
            (30, 120, false, true),
            (40, 99, false, true),
            (70, 99, true, true),
            // Now the minimum reclaim counts.
            (80, 120, true, true),
            (90, 150, false, true),
            (100, 120, false, true),
        ],
    );
    let (book, found) = judge(&config, &left(Signal::MemoryAvailable, 1), &Book::default(), at(0));
    assert_eq!(found.changes_in, Some(Duration::from_secs(30)));
    let (_, found) = judge(&config, &left(Signal::MemoryAvailable, 500), &book, at(100));
    assert_eq!((found.changes_in, found.any_met), (Some(Duration::from_secs(200)), false));
}

#[test]
fn what_is_not_observed_makes_no_pressure() {
    let config = config(&[("memory.available", "100Mi"), ("pid.available", "10%")], &[], &[]);
    let (_, found) = judge(&config, &Observations::new(), &Book::default(), at(0));
    assert_eq!(found, Judgement::default());
    assert_eq!(found.pressures, Pressures::default());
}

/// A pod with figures.
struct Made {
    pod: PodBuilder,
    usage: PodUsage,
}

fn made(name: &str) -> Made {
    let usage = PodUsage {
        pod: Arc::default(),
        status: Arc::default(),
        sandbox_id: String::new(),
        sandbox_image: String::new(),
        started_at: None,
        group: None,
        sandbox_group: None,
        network: None,
        containers: vec![],
        volumes: vec![],
        other_ephemeral: None,
    };
    Made { pod: PodBuilder::new(name).uid(name), usage }
}

fn used(mi: i64) -> Option<FsUsage> {
    Some(FsUsage { used: Some((mi * MI) as u64), inodes_used: Some(mi as u64), ..FsUsage::default() })
}

impl Made {
    fn priority(mut self, priority: i32) -> Self {
        self.pod = self.pod.spec(|spec| spec.priority = Some(priority));
        self
    }

    /// A container that requests so much of a resource.
    fn requests(mut self, resource: &str, amount: &str) -> Self {
        self.pod = self.pod.container(ContainerBuilder::new("c", "i").request(resource, amount));
        self
    }

    fn memory(mut self, mi: i64) -> Self {
        let memory = MemoryUsage { working_set: (mi * MI) as u64, ..MemoryUsage::default() };
        let group = GroupUsage { memory: Some(memory), ..GroupUsage::default() };
        self.usage.containers =
            vec![ContainerUsage { name: "c".into(), group: Some(group.clone()), ..Default::default() }];
        self.usage.group = Some(group);
        self
    }

    fn processes(mut self, processes: u64) -> Self {
        let processes = Some(ProcessUsage { processes, ..ProcessUsage::default() });
        self.usage.group = Some(GroupUsage { processes, ..GroupUsage::default() });
        self
    }

    /// Mi in the writable layer, in logs and in an emptyDir.
    fn disk(mut self, layer: i64, logs: i64, volume: i64) -> Self {
        let container =
            ContainerUsage { name: "c".into(), rootfs: used(layer), logs: used(logs), ..Default::default() };
        self.usage.containers = vec![container];
        let volume = VolumeUsage {
            name: "v".into(),
            fs: used(volume).unwrap(),
            ephemeral: true,
            ..Default::default()
        };
        self.usage.volumes = vec![volume];
        self
    }

    fn done(self) -> PodUsage {
        PodUsage { pod: Arc::new(self.pod.build()), ..self.usage }
    }
}

fn names<'a>(pods: impl IntoIterator<Item = &'a PodUsage>) -> Vec<&'a str> {
    pods.into_iter().map(|pod| pod.pod.metadata.name.as_deref().unwrap()).collect()
}

#[track_caller]
fn check_rank(pods: &[PodUsage], signal: Signal, layout: Layout, expected: &[&str]) {
    assert_eq!(names(rank(pods, signal, layout)), expected);
    // Whatever the order they come in.
    let reversed: Vec<PodUsage> = pods.iter().rev().cloned().collect();
    assert_eq!(names(rank(&reversed, signal, layout)), expected);
}

#[test]
fn memory_goes_by_excess_then_priority_then_how_much() {
    let pods = [
        made("within").requests("memory", "500Mi").memory(400).done(),
        made("important").priority(10).memory(300).done(),
        made("small").memory(10).done(),
        made("large").requests("memory", "100Mi").memory(200).done(),
        made("unknown").done(),
        made("critical").priority(2_000_000_000).memory(900).done(),
    ];
    let expected = ["unknown", "large", "small", "important", "within"];
    check_rank(&pods, Signal::MemoryAvailable, ONE, &expected);
    check_rank(&pods, Signal::AllocatableMemoryAvailable, SPLIT, &expected);
}

#[test]
fn processes_go_by_priority_then_how_many() {
    let pods = [
        made("few").processes(3).done(),
        made("bomb").processes(900).done(),
        made("important").priority(1).processes(9000).done(),
    ];
    check_rank(&pods, Signal::PidAvailable, ONE, &["bomb", "few", "important"]);
}

#[test]
fn disk_goes_by_what_lies_on_the_disk_that_is_short() {
    let pods = [
        made("layer").disk(300, 1, 1).done(),
        made("logs").disk(1, 200, 1).done(),
        made("dir").disk(1, 1, 100).done(),
    ];
    use Signal::*;
    check_rank(&pods, NodeFsAvailable, ONE, &["layer", "logs", "dir"]);
    check_rank(&pods, ImageFsInodesFree, ONE, &["layer", "logs", "dir"]);
    check_rank(&pods, NodeFsAvailable, DEDICATED, &["logs", "dir", "layer"]);
    assert_eq!(rank(&pods, ImageFsAvailable, DEDICATED)[0].pod.metadata.name.as_deref(), Some("layer"));
    check_rank(&pods, NodeFsInodesFree, SPLIT, &["layer", "logs", "dir"]);
    // Of images alone nobody gives anything back.
    assert_eq!(relief(&pods[0], ImageFsAvailable, SPLIT), Some(0));
}

#[test]
fn a_request_of_storage_counts() {
    let pods = [
        made("paid").requests("ephemeral-storage", "1Gi").disk(500, 0, 0).done(),
        made("guest").disk(10, 0, 0).done(),
    ];
    check_rank(&pods, Signal::NodeFsAvailable, ONE, &["guest", "paid"]);
}

#[track_caller]
fn check_victims(pods: &[PodUsage], mi_left: i64, promised: i64, expected: (&[&str], bool)) {
    let config = config(&[("memory.available", "100Mi")], &[], &[("memory.available", "100Mi")]);
    let observation = Observation { available: mi_left * MI, capacity: 1024 * MI };
    let threshold = &config.thresholds[0];
    let found = victims(pods, Short { threshold, observation, layout: ONE, promised: promised * MI });
    assert_eq!((&names(found.pods)[..], found.hopeless), expected);
}

#[test]
fn as_many_go_as_the_shortage_needs() {
    let pods = [
        made("a").memory(30).done(),
        made("b").memory(50).done(),
        made("c").memory(40).done(),
        made("idle").memory(0).done(),
        made("within").requests("memory", "1Gi").memory(300).done(),
    ];
    check_victims(&pods, 160, 0, (&["b"], false));
    check_victims(&pods, 115, 0, (&["b", "c"], false));
    check_victims(&pods, 50, 0, (&["b", "c", "a", "within"], false));
    // What is on its way counts.
    check_victims(&pods, 160, 40, (&[], false));
    check_victims(&pods, 115, 60, (&["b"], false));
    // Somebody else takes the memory.
    check_victims(&pods[..4], 20, 0, (&["b"], true));
    check_victims(&pods[3..4], 20, 0, (&[], true));
    check_victims(&[], 20, 0, (&[], true));
    // Of whom nothing is known is tried alone.
    check_victims(&[made("unknown").done(), pods[1].clone(), pods[4].clone()], 115, 0, (&["unknown"], false));
}

#[test]
fn a_victim_is_told_the_numbers() {
    let config = config(&[("memory.available", "100Mi"), ("nodefs.available", "12.5%")], &[], &[]);
    let observation = Observation { available: 50 * MI, capacity: 800 * MI };
    let hog = made("hog").requests("memory", "10Mi").memory(500).done();
    let told = explain(&hog, &config.thresholds[0], observation);
    assert_eq!(
        told.message,
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 500Mi, request is 10Mi, has larger consumption of memory. "
    );
    let annotations: Vec<(&str, &str)> =
        told.annotations.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(
        annotations,
        [
            ("offending_containers", "c"),
            ("offending_containers_usage", "500Mi"),
            ("starved_resource", "memory")
        ]
    );
    let filler = made("filler").requests("cpu", "1").disk(3, 4, 100).done();
    assert_eq!(
        explain(&filler, &config.thresholds[1], observation).message,
        "The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, available: 50Mi. Container c was using 7Mi, request is 0, has larger consumption of ephemeral-storage. "
    );
    let level = PodUsage {
        pod: Arc::new(
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "level"},
                "spec": {"containers": [{"name": "c"}], "resources": {"requests": {"memory": "1Gi"}}},
            }))
            .unwrap(),
        ),
        ..hog
    };
    let told = explain(&level, &config.thresholds[0], observation);
    assert!(
        told.message
            .contains("Pod level was using 500Mi, request is 1Gi, has larger consumption of memory. ")
    );
    assert_eq!(told.annotations["offending_pod_usage"], "500Mi");
}

#[track_caller]
fn check_local(spec: serde_json::Value, usage: Made, layout: Layout, expected: Option<&str>) {
    let pod: crate::Pod = serde_json::from_value(serde_json::json!({"spec": spec})).unwrap();
    assert!(local::limited(&pod).is_some());
    let usage = PodUsage { pod: Arc::new(pod), ..usage.done() };
    let found = local::exceeded(&usage.pod, Some(&usage), &BTreeMap::new(), layout);
    assert_eq!(found.as_ref().map(|found| found.message.as_str()), expected);
}

#[test]
fn pods_are_held_to_limits_of_their_own() {
    let dir = |limit: &str| {
        serde_json::json!({
            "containers": [{"name": "c"}], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": limit}}],
        })
    };
    check_local(dir("100Mi"), made("p").disk(0, 0, 100), ONE, None);
    let text = "Usage of EmptyDir volume \"v\" exceeds the limit \"100Mi\". ";
    check_local(dir("100Mi"), made("p").disk(0, 0, 101), ONE, Some(text));
    let container = || {
        serde_json::json!({"containers": [
            {"name": "c", "resources": {"limits": {"ephemeral-storage": "50Mi"}}},
            {"name": "d", "resources": {"limits": {"ephemeral-storage": "50Mi"}}},
        ]})
    };
    check_local(container(), made("p").disk(25, 25, 0), ONE, None);
    let text = "Container c exceeded its local ephemeral storage limit \"50Mi\". ";
    check_local(container(), made("p").disk(30, 25, 0), ONE, Some(text));
    check_local(container(), made("p").disk(30, 25, 0), DEDICATED, None);
    let text = "Pod ephemeral local storage usage exceeds the total limit of containers 100Mi. ";
    check_local(container(), made("p").disk(20, 20, 61), ONE, Some(text));
}

#[test]
fn what_was_measured_just_now_counts_more() {
    let pod: crate::Pod = serde_json::from_value(serde_json::json!({"spec": {
        "containers": [{"name": "c"}], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}],
    }}))
    .unwrap();
    let usage = PodUsage { pod: Arc::new(pod), ..made("p").disk(0, 0, 0).done() };
    let fresh = |bytes| BTreeMap::from([("v".to_owned(), bytes)]);
    assert_eq!(local::exceeded(&usage.pod, Some(&usage), &fresh(1 << 20), ONE), None);
    assert_eq!(
        local::exceeded(&usage.pod, None, &fresh((1 << 20) + 1), ONE).unwrap().signal,
        "emptydirfs.limit"
    );
}

#[test]
fn who_has_no_limits_is_not_measured() {
    let none = |spec: serde_json::Value| {
        let pod: crate::Pod = serde_json::from_value(serde_json::json!({"spec": spec})).unwrap();
        assert_eq!(local::limited(&pod), None);
    };
    none(serde_json::json!({"containers": [{"name": "c"}], "volumes": [{"name": "v", "emptyDir": {}}]}));
    none(serde_json::json!({"containers": [{"name": "c"}],
        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]}));
    none(serde_json::json!({"containers": [{"name": "c"}], "priority": 2_000_000_000,
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]}));
    none(serde_json::json!({"containers": [{"name": "c"}],
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "nonsense"}}]}));
}

#[test]
fn the_nearer_a_threshold_the_sooner_the_next_look() {
    let config = config(&[("memory.available", "100Mi")], &[], &[]);
    let look = |mi, trend: &Trend| next_look(&config, &left(Signal::MemoryAvailable, mi), trend);
    let calm = Trend::default();
    assert_eq!(look(900, &calm), REST);
    assert_eq!(look(149, &calm), Duration::from_secs(1));
    assert_eq!(look(50, &calm), Duration::from_secs(1));
    assert_eq!(next_look(&config, &Observations::new(), &calm), REST);
    // 100 Mi a second: from 900 Mi it is 8 s to the threshold.
    let second = Duration::from_secs(1);
    let trend = calm.after(&left(Signal::MemoryAvailable, 1000), second);
    assert_eq!(look(900, &trend), REST);
    let trend = trend.after(&left(Signal::MemoryAvailable, 900), second);
    assert_eq!(look(900, &trend), Duration::from_secs(4));
    assert_eq!(look(110, &trend), Duration::from_millis(100));
    // It grows again.
    let trend = trend.after(&left(Signal::MemoryAvailable, 950), second);
    assert_eq!(look(950, &trend), REST);
}

#[test]
fn a_disk_at_rest_is_looked_at_before_a_fast_writer_can_fill_it() {
    use Signal::*;
    let config = config(
        &[("nodefs.available", "100Mi"), ("nodefs.inodesFree", "1000"), ("pid.available", "10")],
        &[],
        &[],
    );
    let look = |signal: Signal, available: i64| {
        let seen = [(signal, Observation { available, capacity: 100_000 * MI })].into();
        next_look(&config, &seen, &Trend::default())
    };
    let check = |signal, available, millis| {
        assert_eq!(look(signal, available), Duration::from_millis(millis), "{signal:?} {available}");
    };
    // 200 Mi a second: 4000 Mi last for 20 s.
    check(NodeFsAvailable, 4100 * MI, 10_000);
    check(NodeFsAvailable, 2100 * MI, 5000);
    check(NodeFsAvailable, 300 * MI, 500);
    check(NodeFsAvailable, 101 * MI, 500);
    check(NodeFsAvailable, 99 * MI, 1000);
    check(NodeFsInodesFree, 401_000, 10_000);
    check(NodeFsInodesFree, 101_000, 2500);
    check(PidAvailable, 100, 10_000);
}

#[test]
fn how_fast_a_disk_filled_is_remembered_for_a_while() {
    let config = config(&[("nodefs.available", "1Mi")], &[], &[]);
    let seen = |mi| -> Observations {
        [(Signal::NodeFsAvailable, Observation { available: mi * MI, capacity: 100_000 * MI })].into()
    };
    let second = Duration::from_secs(1);
    let trend = Trend::default().after(&seen(10_001), second).after(&seen(9001), second);
    let check = |trend: &Trend, mi, millis: u128| {
        assert_eq!(next_look(&config, &seen(mi), trend).as_millis(), millis, "{mi} {trend:?}");
    };
    check(&trend, 9001, 4500);
    check(&trend, 1001, 500);
    check(&trend, 401, 200);
    // Nothing was written for half a minute, and something removed: half as fast.
    let trend = trend.after(&seen(9501), Duration::from_secs(30));
    check(&trend, 9001, 9000);
    check(&trend, 401, 400);
    // Long ago.
    let trend = trend.after(&seen(9501), Duration::from_secs(3600));
    assert_eq!(trend, Trend::default().after(&seen(9501), second));
}

#[test]
fn what_cannot_be_right_makes_no_pressure() {
    let config = config(&[("memory.available", "100Mi"), ("nodefs.available", "10%")], &[], &[]);
    for capacity in [0, -1, i64::MIN] {
        let nonsense = Observation { available: 0, capacity };
        let seen = [(Signal::MemoryAvailable, nonsense), (Signal::NodeFsAvailable, nonsense)].into();
        let (_, found) = judge(&config, &seen, &Book::default(), at(0));
        assert_eq!(found, Judgement::default(), "{capacity}");
        assert_eq!(next_look(&config, &seen, &Trend::default()), REST, "{capacity}");
    }
}

#[test]
fn what_is_won_back_first() {
    use Signal::*;
    let check = |signal, layout, containers, images| {
        assert_eq!(reclaim_for(signal, layout), Reclaim { containers, images }, "{signal:?} {layout:?}");
    };
    check(MemoryAvailable, ONE, false, false);
    check(PidAvailable, DEDICATED, false, false);
    check(NodeFsAvailable, ONE, true, true);
    check(ImageFsInodesFree, DEDICATED, true, true);
    check(NodeFsInodesFree, DEDICATED, true, false);
}

proptest! {
    #[test]
    fn victims_cover_the_shortage_and_are_no_more_than_needed(
        pods in proptest::collection::vec((0i64..200, 0i32..3, 0i64..200), 0..12),
        left in 0i64..220,
    ) {
        let pods: Vec<PodUsage> = pods
            .into_iter()
            .enumerate()
            .map(|(n, (mi, priority, request))| {
                made(&format!("p{n}")).priority(priority).requests("memory", &format!("{request}Mi")).memory(mi).done()
            })
            .collect();
        let config = config(&[("memory.available", "100Mi")], &[], &[("memory.available", "100Mi")]);
        let threshold = &config.thresholds[0];
        let observation = Observation { available: left * MI, capacity: 1024 * MI };
        let found = victims(&pods, Short { threshold, observation, layout: ONE, promised: 0 });
        let gives = |pod: &PodUsage| relief(pod, Signal::MemoryAvailable, ONE).unwrap();
        let missing = threshold.shortage(observation, true);
        let sum: i64 = found.pods.iter().map(|pod| gives(pod)).sum();
        if missing == 0 {
            prop_assert!(found.pods.is_empty());
        } else if found.hopeless {
            prop_assert!(found.pods.len() <= 1);
            prop_assert!(pods.iter().map(gives).sum::<i64>() < missing);
        } else {
            prop_assert!(sum >= missing);
            let last = gives(found.pods.last().unwrap());
            prop_assert!(sum - last < missing);
        }
        // Who goes stands before who stays.
        let order = names(rank(&pods, Signal::MemoryAvailable, ONE));
        let order: Vec<&str> = order
            .into_iter()
            .filter(|name| pods.iter().any(|pod| names([pod]) == [*name] && gives(pod) > 0))
            .collect();
        prop_assert_eq!(&order[..found.pods.len()], &names(found.pods)[..]);
    }

    #[test]
    fn any_story_of_any_clock_is_judged(
        looks in proptest::collection::vec((-10_000i64..10_000, 0i64..1000), 1..20),
    ) {
        let config = config(
            &[("memory.available", "100Mi")],
            &[("memory.available", "300Mi", 60)],
            &[("memory.available", "100Mi")],
        );
        let mut book = Book::default();
        for (second, mi) in looks {
            let (next, found) = judge(&config, &left(Signal::MemoryAvailable, mi), &book, at(second));
            prop_assert_eq!(found.due.contains(&0) || mi >= 100, true);
            prop_assert!(found.due.is_empty() || found.pressures.memory);
            prop_assert!(mi < 400 || !found.any_met);
            prop_assert!(next_look(&config, &left(Signal::MemoryAvailable, mi), &Trend::default()) <= REST);
            book = next;
        }
    }

    /// However a disk was filled before: a writer of 200 Mi a second, which begins at the worst moment, is seen before
    /// the room above the threshold is gone, unless that room is too small for half a second.
    #[test]
    fn a_writer_is_seen_before_it_crosses(
        room in 1i64..20_000,
        before in proptest::collection::vec((0i64..20_000, 0u64..100_000), 0..5),
    ) {
        let config = config(&[("nodefs.available", "500Mi")], &[], &[]);
        let seen = |mi: i64| -> Observations {
            [(Signal::NodeFsAvailable, Observation { available: mi * MI, capacity: 100_000 * MI })].into()
        };
        let trend = before
            .iter()
            .fold(Trend::default(), |trend, (mi, millis)| trend.after(&seen(*mi), Duration::from_millis(*millis)));
        let pause = next_look(&config, &seen(500 + room), &trend);
        prop_assert!(pause <= REST && pause >= Duration::from_millis(100));
        let written = 200.0 * pause.as_secs_f64();
        prop_assert!(written <= room as f64 || pause <= Duration::from_millis(500), "{pause:?}");
    }
}
