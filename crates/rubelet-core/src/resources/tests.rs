//! Tables of resource numbers: pod fields in, kernel numbers out.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const GIB: i64 = 1 << 30;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
}

fn with(name: &str, requests: Value, limits: Value) -> Value {
    json!({"name": name, "resources": {"requests": requests, "limits": limits}})
}

fn facts() -> ResourceFacts {
    ResourceFacts { memory_capacity: 10 * GIB, ..ResourceFacts::default() }
}

fn of_first(spec: Value, facts: &ResourceFacts) -> LinuxResources {
    let pod = pod(spec);
    let container = pod.spec.as_ref().unwrap().containers[0].clone();
    container_resources(&pod, &container, false, facts)
}

#[test]
fn shares_quota_and_weight() {
    for (milli, shares) in [
        (0, 2),
        (1, 2),
        (2, 2),
        (100, 102),
        (1000, 1024),
        (1500, 1536),
        (256_000, 262_144),
        (i64::MAX, 262_144),
    ] {
        assert_eq!(cpu_shares(milli), shares, "{milli}m");
    }
    for (milli, quota) in [(0, 0), (1, 1000), (10, 1000), (15, 1500), (1000, 100_000), (2500, 250_000)] {
        assert_eq!(cpu_quota(milli, 100_000), quota, "{milli}m");
    }
    for (shares, weight) in [(0, 1), (2, 1), (1024, 39), (2048, 79), (262_144, 10_000)] {
        assert_eq!(cpu_weight(shares), weight, "{shares}");
    }
}

#[test]
fn numbers_of_a_container() {
    let found = of_first(
        json!({"containers": [with("a", json!({"cpu": "250m", "memory": "1Gi"}), json!({"cpu": "2", "memory": "2Gi"}))]}),
        &facts(),
    );
    assert_eq!((found.cpu_shares, found.cpu_quota, found.cpu_period), (256, 200_000, 100_000));
    assert_eq!((found.memory_limit, found.oom_score_adj), (2 * GIB, 900));
    assert_eq!(found.unified, BTreeMap::from([("memory.oom.group".into(), "1".into())]));
}

#[test]
fn a_missing_request_is_the_limit_and_nothing_is_the_minimum() {
    let found = of_first(json!({"containers": [with("a", json!({}), json!({"cpu": "1"}))]}), &facts());
    assert_eq!((found.cpu_shares, found.cpu_quota), (1024, 100_000));
    let found = of_first(json!({"containers": [{"name": "a"}]}), &facts());
    assert_eq!((found.cpu_shares, found.cpu_quota, found.memory_limit, found.oom_score_adj), (2, 0, 0, 1000));
}

#[test]
fn configuration_and_kernel_change_the_numbers() {
    let spec =
        || json!({"containers": [with("a", json!({"cpu": "1"}), json!({"cpu": "1", "memory": "1Gi"}))]});
    let found = of_first(spec(), &ResourceFacts { cpu_quota: false, ..facts() });
    assert_eq!((found.cpu_quota, found.cpu_period), (0, 0));
    assert!(of_first(spec(), &ResourceFacts { single_process_oom_kill: true, ..facts() }).unified.is_empty());
    let v1 = of_first(spec(), &ResourceFacts { cgroup_v2: false, swap_controller: true, ..facts() });
    assert!(v1.unified.is_empty());
    assert_eq!(v1.memory_swap_limit, GIB);
    let pod = pod(spec());
    let pinned = container_resources(&pod, &pod.spec.as_ref().unwrap().containers[0], true, &facts());
    assert_eq!(pinned.cpu_quota, -1);
}

#[test]
fn pod_level_limits_stand_in_for_missing_ones() {
    let found = of_first(
        json!({"resources": {"limits": {"cpu": "2", "memory": "1Gi"}}, "containers": [{"name": "a"}]}),
        &facts(),
    );
    assert_eq!((found.cpu_shares, found.cpu_quota, found.memory_limit), (2048, 200_000, GIB));
}

#[test]
fn huge_pages_have_a_limit_for_each_size() {
    let facts = ResourceFacts { huge_page_sizes: vec!["1GB".into(), "2MB".into(), "64KB".into()], ..facts() };
    let found = of_first(
        json!({"resources": {"limits": {"hugepages-1Gi": "2Gi", "hugepages-2Mi": "2Mi"}},
               "containers": [with("a", json!({}), json!({"hugepages-2Mi": "4Mi"}))]}),
        &facts,
    );
    assert_eq!(
        found.huge_page_limits,
        [("1GB".into(), 2 << 30), ("2MB".into(), 4 << 20), ("64KB".into(), 0)]
    );
}

#[test]
fn swap_is_for_burstable_containers_that_may_grow() {
    let facts =
        ResourceFacts { swap_controller: true, limited_swap: true, swap_capacity: 5 * GIB, ..facts() };
    let swap = |request: &str, limit: &str, facts: &ResourceFacts| {
        let spec = json!({"containers": [with("a", json!({"memory": request}), json!({"memory": limit}))]});
        of_first(spec, facts).unified["memory.swap.max"].clone()
    };
    assert_eq!(swap("1Gi", "2Gi", &facts), (GIB / 2).to_string());
    assert_eq!(swap("1Gi", "1Gi", &facts), "0");
    assert_eq!(swap("0", "0", &facts), "0");
    assert_eq!(swap("1Gi", "2Gi", &ResourceFacts { limited_swap: false, ..facts.clone() }), "0");
    assert_eq!(swap("20Gi", "30Gi", &facts), "0");
}

#[track_caller]
fn check_oom(spec: Value, name: &str, expected: i64) {
    let pod = pod(spec);
    let spec = pod.spec.as_ref().unwrap();
    let container = crate::containers::regular_containers(spec).find(|c| c.name == name).unwrap();
    assert_eq!(oom_score_adjust(&pod, container, 10 * GIB), expected);
}

#[test]
fn oom_scores() {
    let both = |memory: &str| json!({"cpu": "1", "memory": memory});
    let guaranteed = with("a", both("1Gi"), both("1Gi"));
    check_oom(json!({"containers": [guaranteed]}), "a", -997);
    check_oom(json!({"containers": [{"name": "a"}]}), "a", 1000);
    check_oom(json!({"containers": [with("a", json!({"memory": "5Gi"}), json!({}))]}), "a", 500);
    check_oom(json!({"containers": [with("a", json!({"memory": "10Gi"}), json!({}))]}), "a", 3);
    check_oom(json!({"containers": [with("a", json!({"memory": "20Gi"}), json!({}))]}), "a", 3);
    check_oom(json!({"containers": [with("a", json!({"cpu": "1"}), json!({}))]}), "a", 999);
    check_oom(
        json!({"priority": 2_000_001_000, "priorityClassName": "system-node-critical", "containers": [{"name": "a"}]}),
        "a",
        -997,
    );
    check_oom(
        json!({"priority": 1, "priorityClassName": "system-node-critical", "containers": [{"name": "a"}]}),
        "a",
        1000,
    );
}

#[test]
fn a_sidecar_is_never_killed_before_the_containers_it_serves() {
    let spec = |restart: Value| {
        json!({"initContainers": [{"name": "s", "restartPolicy": restart, "resources": {"requests": {"memory": "1Gi"}}}],
               "containers": [with("a", json!({"memory": "4Gi"}), json!({})), with("b", json!({"memory": "3Gi"}), json!({}))]})
    };
    check_oom(spec(json!("Always")), "s", 700);
    check_oom(spec(Value::Null), "s", 900);
}

#[test]
fn memory_requested_for_the_pod_is_spread() {
    let spec = json!({"resources": {"requests": {"memory": "6Gi"}},
        "containers": [with("a", json!({"memory": "2Gi"}), json!({})), {"name": "b"}]});
    check_oom(spec.clone(), "a", 600);
    check_oom(spec, "b", 800);
}

#[track_caller]
fn check_sums(spec: Value, requests: &[(&str, &str)], limits: &[(&str, &str)]) {
    let pod = pod(spec);
    let text = |sums: BTreeMap<String, Amount>| {
        sums.into_iter().map(|(n, a)| (n, a.to_string())).collect::<Vec<_>>()
    };
    let owned = |list: &[(&str, &str)]| {
        list.iter().map(|(n, a)| ((*n).into(), (*a).into())).collect::<Vec<(String, String)>>()
    };
    assert_eq!(text(pod_requests(&pod, true)), owned(requests));
    assert_eq!(text(pod_limits(&pod, true)), owned(limits));
}

#[test]
fn sums_follow_the_sidecar_formula() {
    let cpu = |name: &str, cpu: &str| with(name, json!({"cpu": cpu}), json!({}));
    let sidecar = |name: &str, amount: &str| {
        let mut container = cpu(name, amount);
        container["restartPolicy"] = "Always".into();
        container
    };
    check_sums(json!({"containers": [cpu("a", "1"), cpu("b", "500m")]}), &[("cpu", "1500m")], &[]);
    check_sums(
        json!({"initContainers": [cpu("i", "3")], "containers": [cpu("a", "1")]}),
        &[("cpu", "3")],
        &[],
    );
    check_sums(
        json!({"initContainers": [sidecar("s", "1"), cpu("i", "3")], "containers": [cpu("a", "2")]}),
        &[("cpu", "4")],
        &[],
    );
    check_sums(
        json!({"initContainers": [cpu("i", "3"), sidecar("s", "1")], "containers": [cpu("a", "2")]}),
        &[("cpu", "3")],
        &[],
    );
    check_sums(
        json!({"resources": {"requests": {"cpu": "7"}}, "overhead": {"cpu": "1", "memory": "1Gi"},
                      "containers": [with("a", json!({"cpu": "1", "gpu": "1"}), json!({"cpu": "2"}))]}),
        &[("cpu", "8"), ("gpu", "1"), ("memory", "1Gi")],
        &[("cpu", "3")],
    );
}

#[test]
fn sandboxes_leave_overhead_apart() {
    let pod = pod(json!({"overhead": {"cpu": "250m", "memory": "64Mi"},
        "containers": [with("a", json!({"cpu": "1"}), json!({"cpu": "2", "memory": "1Gi"}))]}));
    let found = sandbox_resources(&pod, false, &facts());
    assert_eq!((found.cpu_shares, found.cpu_quota, found.memory_limit), (1024, 200_000, GIB));
    let overhead = sandbox_overhead(&pod, &facts());
    assert_eq!((overhead.cpu_shares, overhead.cpu_quota, overhead.memory_limit), (256, 25_000, 64 << 20));
    assert_eq!(sandbox_overhead(&Pod::default(), &facts()), LinuxResources::default());
}

#[track_caller]
fn check_cgroup(spec: Value, shares: i64, quota: Option<i64>, memory: Option<i64>) {
    let found = pod_group_settings(&pod(spec), &facts(), false);
    assert_eq!((found.cpu_shares, found.cpu_quota, found.memory), (Some(shares), quota, memory));
    assert_eq!(found.cpu_period, quota.map(|_| 100_000));
}

#[test]
fn pod_cgroups_are_limited_when_all_containers_are() {
    let both = json!({"cpu": "1", "memory": "1Gi"});
    let limited = with("a", json!({"cpu": "500m"}), both.clone());
    check_cgroup(json!({"containers": [{"name": "a"}]}), 2, None, None);
    check_cgroup(
        json!({"containers": [with("a", both.clone(), both.clone())]}),
        1024,
        Some(100_000),
        Some(GIB),
    );
    check_cgroup(json!({"containers": [limited, limited]}), 1024, Some(200_000), Some(2 * GIB));
    check_cgroup(json!({"containers": [limited, {"name": "b"}]}), 512, None, None);
    check_cgroup(json!({"initContainers": [{"name": "i"}], "containers": [limited]}), 512, None, None);
    check_cgroup(
        json!({"resources": {"limits": both}, "containers": [{"name": "b"}]}),
        2,
        Some(100_000),
        Some(GIB),
    );
}

#[test]
fn huge_pages_of_a_pod_are_what_it_requests() {
    let pages = json!({"hugepages-2Mi": "4Mi", "cpu": "1"});
    let pod = pod(json!({"containers": [with("a", pages.clone(), pages)]}));
    let found = pod_group_settings(&pod, &facts(), false);
    assert_eq!(found.huge_pages, Some(BTreeMap::from([(2 << 20, 4 << 20)])));
}

#[test]
fn options_of_the_node_show_in_pod_groups() {
    let both = json!({"cpu": "1", "memory": "1Gi"});
    let guaranteed = pod(json!({"containers": [with("a", both.clone(), both)]}));
    let find = |facts: &ResourceFacts, exclusive| pod_group_settings(&guaranteed, facts, exclusive);
    assert_eq!(find(&ResourceFacts { cpu_quota: false, ..facts() }, false).cpu_quota, Some(-1));
    assert_eq!(find(&facts(), true).cpu_quota, Some(-1));
    let short = ResourceFacts { cpu_period: 10_000, pod_pids_limit: 77, ..facts() };
    let found = find(&short, false);
    assert_eq!((found.cpu_quota, found.cpu_period, found.pids), (Some(10_000), Some(10_000), Some(77)));
    assert_eq!(find(&facts(), false).pids, None);
    let qos = MemoryQos { throttling_factor: 0.9, tiered: true, allocatable: 0, page_size: 4096 };
    let found = find(&ResourceFacts { memory_qos: Some(qos), ..facts() }, false);
    assert_eq!(found.unified, BTreeMap::from([("memory.min".into(), GIB.to_string())]));
}

proptest! {
    #[test]
    fn scores_and_shares_stay_in_the_kernels_range(milli in any::<i64>(), memory in 0_i64.., capacity in any::<i64>()) {
        prop_assert!((MIN_SHARES..=MAX_SHARES).contains(&cpu_shares(milli)));
        let spec = json!({"containers": [with("a", json!({"memory": memory.to_string()}), json!({}))]});
        let pod = pod(spec);
        let score = oom_score_adjust(&pod, &pod.spec.as_ref().unwrap().containers[0], capacity);
        prop_assert!((-1000..=1000).contains(&score));
    }
}
