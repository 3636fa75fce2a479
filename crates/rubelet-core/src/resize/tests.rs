//! Tables and properties of resizes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::checkpoint::{decode, encode};
use super::*;
use crate::admission::NodeFacts;
use crate::fixtures::{observed, sandbox};
use crate::plan::{KillReason, PodPlan};
use crate::resources::ResourceFacts;

/// A pod of apps, from `name cpuRequest/cpuLimit memoryRequest/memoryLimit`; `-` is none.
fn pod_of(lines: &[&str]) -> Pod {
    pod_with(lines, json!({}))
}

fn pod_with(lines: &[&str], more: Value) -> Pod {
    let list = |cpu: &str, memory: &str| {
        let all = [("cpu", cpu), ("memory", memory)];
        all.into_iter()
            .filter(|(_, v)| *v != "-")
            .map(|(k, v)| (k.to_owned(), json!(v)))
            .collect::<serde_json::Map<_, _>>()
    };
    let containers: Vec<Value> = lines
        .iter()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (cpu_request, cpu_limit) = words[1].split_once('/').unwrap();
            let (memory_request, memory_limit) = words[2].split_once('/').unwrap();
            let policy: Vec<Value> = words[3..]
                .iter()
                .map(|name| json!({"resourceName": name, "restartPolicy": "RestartContainer"}))
                .collect();
            json!({
                "name": words[0],
                "image": "busybox",
                "resizePolicy": policy,
                "resources": {"requests": list(cpu_request, memory_request), "limits": list(cpu_limit, memory_limit)},
            })
        })
        .collect();
    let mut spec = json!({"containers": containers});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "web", "uid": "u-1", "generation": 3}, "spec": spec}))
        .unwrap()
}

const GATES: ResizeGates =
    ResizeGates { init_containers: true, pod_level: true, exclusive_cpus: false, exclusive_memory: false };

fn book(pod: &Pod) -> PodAllocation {
    PodAllocation::of(pod, GATES)
}

#[test]
fn upstreams_checkpoint_is_read_and_ours_is_upstreams() {
    // Upstream's own vector (`getExampleCheckpoint` of its tests).
    let theirs = r#"{"data":"{\"entries\":{\"pod1\":{\"ContainerResources\":{\"container1\":{\"requests\":{\"cpu\":\"1Ki\",\"memory\":\"1Ki\"}}}}}}","checksum":1178570812}"#;
    let read = decode(theirs.as_bytes()).unwrap();
    let requests = read[&"pod1".into()].containers["container1"].requests.as_ref().unwrap();
    assert_eq!(requests["cpu"].0, "1Ki");
    assert_eq!(decode(encode(&read).as_bytes()).unwrap(), read);
    let damaged = theirs.replace("2Ki", "3Ki").replace("1178570812", "1");
    assert_eq!(
        decode(damaged.as_bytes()).unwrap_err().to_string(),
        "the checksum is 1, and should be 1178570812"
    );
    assert_eq!(decode(b"nonsense").unwrap_err().to_string(), "it is not a checkpoint of resources");
    let empty = encode(&BTreeMap::new());
    assert_eq!(serde_json::from_str::<Value>(&empty).unwrap()["data"], "{}");
}

#[test]
fn a_pod_is_handed_on_with_what_was_allocated() {
    let desired =
        pod_with(&["app 2/2 1Gi/1Gi", "log 100m/- -/-"], json!({"resources": {"limits": {"cpu": "4"}}}));
    let before =
        pod_with(&["app 1/1 1024Mi/1Gi", "log 0.1/- -/-"], json!({"resources": {"limits": {"cpu": "3"}}}));
    let handed = allocated_pod(&desired, &book(&before), GATES).unwrap();
    assert_eq!(book(&handed).containers["app"], book(&before).containers["app"]);
    assert_eq!(book(&handed).pod, book(&before).pod);
    // The same in other words is no difference: the spec's words stay.
    assert_eq!(book(&handed).containers["log"], book(&desired).containers["log"]);
    assert_eq!(handed.metadata.generation, Some(3));
    assert!(allocated_pod(&desired, &book(&desired), GATES).is_none());
    let gates = ResizeGates { pod_level: false, ..GATES };
    assert!(book(&desired).pod.is_some() && PodAllocation::of(&desired, gates).pod.is_none());
}

#[test]
fn what_is_asked_for_is_counted() {
    let check = |before: &str, after: &str, expected: &str| {
        let changes = requested_changes(&pod_of(&[before]), &pod_of(&[after]), GATES);
        let text: Vec<_> =
            changes.iter().map(|c| format!("{} {} {}", c.resource, c.requirement, c.operation)).collect();
        assert_eq!(text.join(", "), expected, "{before} -> {after}");
    };
    check("app 1/1 1Gi/1Gi", "app 1000m/1 1Gi/1024Mi", "");
    check(
        "app 1/- -/1Gi",
        "app 2/3 1Gi/512Mi",
        "memory requests add, memory limits decrease, cpu requests increase, cpu limits add",
    );
    check("app 1/1 -/-", "app 1/- -/-", "cpu limits remove");
}

#[track_caller]
fn verdict(desired: &Pod, allocated: &Pod, others: &[Pod], facts: &ResizeFacts<'_>) -> String {
    let node = NodeFacts {
        allocatable: [("cpu", "4"), ("memory", "4Gi"), ("pods", "2")]
            .map(|(name, amount)| (name.to_owned(), crate::quantity::Amount::parse(amount).unwrap()))
            .into(),
        ..NodeFacts::default()
    };
    match judge(desired, allocated, others.iter(), &node, facts) {
        ResizeVerdict::Accepted => "accepted".to_owned(),
        ResizeVerdict::Deferred { message } => format!("deferred: {message}"),
        ResizeVerdict::Infeasible { message, detail } => format!("infeasible ({detail}): {message}"),
    }
}

#[test]
fn the_node_agrees_now_later_or_never() {
    let resources = ResourceFacts::default();
    let facts = ResizeFacts { gates: GATES, static_cpus: false, static_memory: false, resources: &resources };
    let others = [pod_of(&["other 2/- 1Gi/-"])];
    let check = |desired: &str, expected: &str| {
        assert_eq!(
            verdict(&pod_of(&[desired]), &pod_of(&["app 1/- 1Gi/-"]), &others, &facts),
            expected,
            "{desired}"
        );
    };
    check("app 2/- 1Gi/-", "accepted");
    check("app 500m/- 1Gi/-", "accepted");
    check(
        "app 3/- 1Gi/-",
        "deferred: Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000",
    );
    check(
        "app 5/- 1Gi/-",
        "infeasible (insufficient_node_allocatable): Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000",
    );
    check(
        "app 1/- 5Gi/-",
        "infeasible (insufficient_node_allocatable): Node didn't have enough capacity: memory, requested: 5368709120, capacity: 4294967296",
    );
    // A node that is overfull in what the pod does not ask more of is no reason.
    let crowd = [pod_of(&["a 4/- -/-"]), pod_of(&["b -/- -/-"]), pod_of(&["c -/- -/-"])];
    let more_memory = pod_of(&["app 1/- 2Gi/-"]);
    assert_eq!(verdict(&more_memory, &pod_of(&["app 1/- 1Gi/-"]), &crowd, &facts), "accepted");
}

#[test]
fn exclusive_cpus_and_memory_and_swap_are_not_resized() {
    let resources = ResourceFacts::default();
    let facts = ResizeFacts { gates: GATES, static_cpus: true, static_memory: true, resources: &resources };
    let before = pod_of(&["app 1/1 1Gi/1Gi"]);
    let check = |desired: &str, facts: &ResizeFacts<'_>, expected: &str| {
        assert_eq!(verdict(&pod_of(&[desired]), &before, &[], facts), expected, "{desired}");
    };
    check(
        "app 2/2 1Gi/1Gi",
        &facts,
        "infeasible (guaranteed_pod_cpu_manager_static_policy): Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"",
    );
    check(
        "app 1/1 2Gi/2Gi",
        &facts,
        "infeasible (guaranteed_pod_memory_manager_static_policy): Resize is infeasible for Guaranteed Pods alongside Memory Manager policy \"Static\"",
    );
    let gates = ResizeGates { exclusive_cpus: true, exclusive_memory: true, ..GATES };
    check("app 2/2 2Gi/2Gi", &ResizeFacts { gates, ..facts }, "accepted");
    let swapping = ResourceFacts {
        limited_swap: true,
        swap_controller: true,
        swap_capacity: 1 << 30,
        memory_capacity: 4 << 30,
        ..ResourceFacts::default()
    };
    let facts = ResizeFacts { static_cpus: false, static_memory: false, resources: &swapping, ..facts };
    let burstable = pod_of(&["app 1/- 1Gi/2Gi"]);
    let wanted = "infeasible (swap_limitation): In-place resize of containers with swap is not supported.";
    assert_eq!(verdict(&pod_of(&["app 1/- 1536Mi/2Gi"]), &burstable, &[], &facts), wanted);
    assert_eq!(verdict(&pod_of(&["app 2/- 1Gi/2Gi"]), &burstable, &[], &facts), "accepted");
    let restarting = pod_of(&["app 1/- 1Gi/2Gi memory"]);
    assert_eq!(verdict(&pod_of(&["app 1/- 1536Mi/2Gi memory"]), &restarting, &[], &facts), "accepted");
}

#[test]
fn a_pod_counts_with_what_it_still_has() {
    let allocated = pod_of(&["app 1/- 1Gi/-", "log 1/- -/-"]);
    let counted = counted_pod(&allocated, &book(&pod_of(&["app 2/- 512Mi/-", "log 1/- -/-"]))).unwrap();
    let sums = crate::resources::pod_requests(&counted, true);
    assert_eq!((sums["cpu"].milli_value(), sums["memory"].value()), (3000, 1 << 30));
    assert!(counted_pod(&allocated, &book(&allocated)).is_none());
    assert!(counted_pod(&allocated, &PodAllocation::default()).is_none());
}

#[test]
fn who_is_asked_first() {
    let pod = |line: &str, priority: i32| pod_with(&[line], json!({"priority": priority}));
    let at = |seconds| Some(jiff::Timestamp::from_second(seconds).unwrap());
    let small = pod("app 1/1 1Gi/1Gi", 0);
    let burstable = pod("app 1/- 1Gi/-", 0);
    let named = [
        ("guaranteed, new", pod("app 2/2 1Gi/1Gi", 0), &small, None),
        ("burstable, old", pod("app 2/- 1Gi/-", 0), &burstable, at(1)),
        ("guaranteed, old", pod("app 2/2 1Gi/1Gi", 0), &small, at(1)),
        ("important", pod("app 2/- 1Gi/-", 7), &burstable, at(9)),
        ("less", pod("app 500m/- 1Gi/-", -5), &burstable, at(5)),
    ];
    let mut order: Vec<_> = named.iter().collect();
    let pending = |(_, desired, allocated, since): &'_ (_, Pod, &Pod, _)| {
        (desired.clone(), (*allocated).clone(), *since)
    };
    order.sort_by(|a, b| {
        let (a, b) = (pending(a), pending(b));
        let of = |p: &(Pod, Pod, Option<jiff::Timestamp>)| p.clone();
        let (a, b) = (of(&a), of(&b));
        compare_pending(
            &PendingPod { desired: &a.0, allocated: &a.1, since: a.2 },
            &PendingPod { desired: &b.0, allocated: &b.1, since: b.2 },
        )
    });
    let names: Vec<_> = order.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names, ["less", "important", "guaranteed, old", "guaranteed, new", "burstable, old"]);
}

/// The plan of a pod of which everything runs, in words.
fn planned(
    allocated: &Pod,
    actuated: Option<&PodAllocation>,
    reports: Option<ActualResources>,
) -> (PodPlan, String) {
    let lines: Vec<String> =
        spec_of(allocated).containers.iter().map(|c| format!("{} running", c.name)).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut observed = observed(&[sandbox(0, true)], &lines);
    for container in &mut observed.containers {
        container.resources = reports;
    }
    let mut plan = PodPlan::default();
    let resources = ResourceFacts::default();
    let resizing =
        Resizing { pod: allocated, observed: &observed, actuated, gates: GATES, resources: &resources };
    extend_plan(&mut plan, &resizing);
    let names = |list: &[ContainerUpdate]| list.iter().map(|u| u.name.clone()).collect::<Vec<_>>().join(" ");
    let text = format!(
        "memory[{}] cpu[{}] restart[{}] adopt[{}]{}",
        names(&plan.resize.memory),
        names(&plan.resize.cpu),
        plan.resize.restart.iter().map(|r| r.name.clone()).collect::<Vec<_>>().join(" "),
        plan.resize.adopt.join(" "),
        if plan.resize.pod_level { " pod" } else { "" },
    );
    (plan, text)
}

#[test]
fn containers_are_updated_less_before_more() {
    let before = pod_of(&["a 1/2 1Gi/2Gi", "b 1/2 1Gi/2Gi", "c 1/2 1Gi/2Gi"]);
    let check = |lines: &[&str], expected: &str| {
        let (plan, text) = planned(&pod_of(lines), Some(&book(&before)), None);
        assert_eq!(text, expected, "{lines:?}");
        assert_eq!(plan.is_empty(), !plan.resize.in_progress());
    };
    check(&["a 1/2 1Gi/2Gi", "b 1/2 1Gi/2Gi", "c 1/2 1Gi/2Gi"], "memory[] cpu[] restart[] adopt[]");
    check(&["a 1/2 1Gi/3Gi", "b 1/2 1Gi/1Gi", "c 2/2 1Gi/2Gi"], "memory[b a] cpu[c] restart[] adopt[]");
    check(&["a 2/2 1Gi/2Gi", "b 500m/2 2Gi/2Gi", "c 1/1 1Gi/2Gi"], "memory[b] cpu[c b a] restart[] adopt[]");
    // Only the resource that has the policy restarts, and all changes come with the new instance.
    check(
        &["a 1/1 1Gi/2Gi memory", "b 1/3 1Gi/3Gi cpu", "c 1/2 1Gi/2Gi"],
        "memory[] cpu[a] restart[b] adopt[]",
    );
    let (plan, _) = planned(&pod_of(&["a 1/3 1Gi/2Gi cpu"]), Some(&book(&before)), None);
    assert_eq!(plan.kill[0].reason, KillReason::Resize);
    assert_eq!(plan.kill[0].message, "Container a resize requires restart");
    assert_eq!(plan.start.len(), 1);
}

#[test]
fn the_pods_own_limit_counts_for_containers_without_one() {
    let with =
        |cpu: &str| pod_with(&["a 1/- -/-", "b 1/1 -/-"], json!({"resources": {"limits": {"cpu": cpu}}}));
    let (_, text) = planned(&with("4"), Some(&book(&with("3"))), None);
    assert_eq!(text, "memory[] cpu[a] restart[] adopt[] pod");
}

#[test]
fn nothing_is_restarted_for_want_of_a_record() {
    let allocated = pod_of(&["app 1/2 1Gi/2Gi cpu memory"]);
    let same =
        ActualResources { cpu_shares: 1024, cpu_quota: 200_000, cpu_period: 100_000, memory_limit: 2 << 30 };
    let check = |reports, expected: &str| assert_eq!(planned(&allocated, None, reports).1, expected);
    check(None, "memory[] cpu[] restart[] adopt[app]");
    check(Some(same), "memory[] cpu[] restart[] adopt[app]");
    check(Some(ActualResources { memory_limit: 1 << 30, ..same }), "memory[app] cpu[] restart[] adopt[]");
    check(Some(ActualResources { cpu_quota: 100_000, ..same }), "memory[] cpu[app] restart[] adopt[]");
}

#[test]
fn the_pods_group_makes_room_first_and_shrinks_last() {
    use PodGroupPart::{Limit, Request};
    let check = |current: (i64, i64), wanted: (i64, i64), before: &[PodGroupPart], after: &[PodGroupPart]| {
        let of = |(limit, request)| GroupValues { limit, request };
        assert_eq!(group_steps(of(current), of(wanted)), (before.to_vec(), after.to_vec()));
    };
    check((100, 10), (200, 20), &[Limit, Request], &[]);
    check((200, 20), (100, 10), &[], &[Request, Limit]);
    check((200, 20), (300, 10), &[Limit], &[Request]);
    check((200, 20), (200, 20), &[], &[]);
    // No limit is more than any.
    check((-1, 20), (100, 20), &[], &[Limit]);
    check((100, 20), (-1, 20), &[Limit], &[]);
}

#[test]
fn memory_is_not_taken_from_who_uses_it() {
    let before = pod_of(&["a 1/2 1Gi/2Gi", "b 1/2 1Gi/2Gi"]);
    let (plan, _) = planned(&pod_of(&["a 1/2 1Gi/1Gi", "b 1/2 1Gi/3Gi"]), Some(&book(&before)), None);
    let shrink = memory_shrink(&plan.resize, Some(4 << 30), Some(4 << 30));
    assert_eq!((shrink.pod, shrink.containers.len()), (None, 1));
    let usage = |a: u64| [("a".to_owned(), a)].into();
    assert_eq!(shrink_problem(&shrink, None, &usage((1 << 30) - 1)), None);
    assert_eq!(
        shrink_problem(&shrink, None, &usage(1 << 30)).unwrap(),
        "cannot decrease memory limits: attempting to set container \"a\" memory limit (1073741824) below current usage (1073741824)"
    );
    assert_eq!(
        shrink_problem(&shrink, None, &BTreeMap::new()).unwrap(),
        "cannot decrease memory limits: missing container \"a\" memory usage"
    );
    let shrink = memory_shrink(&plan.resize, Some(5 << 30), Some(4 << 30));
    assert_eq!(
        shrink_problem(&shrink, Some(5 << 30), &usage(7)).unwrap(),
        "cannot decrease memory limits: attempting to set pod memory limit (4294967296) below current usage (5368709120)"
    );
}

#[test]
fn the_api_is_told_what_the_runtime_reports() {
    let allocated = |line: &str| pod_of(&[line]).spec.unwrap().containers[0].resources.clone().unwrap();
    let check = |line: &str, actual: Option<ActualResources>, told: Option<&str>, expected: &str| {
        let told = told.map(&allocated);
        let found = reported_resources(&allocated(line), actual.as_ref(), told.as_ref());
        let show = |list: &Option<BTreeMap<String, Quantity>>, name: &str| {
            list.as_ref()
                .and_then(|list| list.get(name))
                .map_or("-".to_owned(), |quantity| quantity.0.clone())
        };
        let text = format!(
            "{}/{} {}/{}",
            show(&found.requests, "cpu"),
            show(&found.limits, "cpu"),
            show(&found.requests, "memory"),
            show(&found.limits, "memory")
        );
        assert_eq!(text, expected, "{line}");
    };
    let actual = |cpu_shares, cpu_quota, memory_limit| {
        Some(ActualResources { cpu_shares, cpu_quota, cpu_period: 100_000, memory_limit })
    };
    // What means the same keeps its words.
    check("app 0.1/1000m 1024Mi/2Gi", actual(102, 100_000, 2 << 30), None, "0.1/1000m 1024Mi/2Gi");
    check(
        "app 1/2 1Gi/2Gi",
        actual(512, 50_000, 1 << 30),
        Some("app 500m/500m 512Mi/1Gi"),
        "500m/500m 512Mi/1Gi",
    );
    check("app 1/2 1Gi/2Gi", None, Some("app 500m/1 512Mi/1Gi"), "500m/1 512Mi/1Gi");
    check("app 1/2 1Gi/2Gi", None, None, "1/2 1Gi/2Gi");
    // The kernel knows nothing smaller.
    check("app 1m/5m -/-", actual(2, 1000, 0), None, "1m/5m -/-");
    check("app -/- -/-", actual(2, 0, 0), None, "-/- -/-");
}

#[test]
fn events_say_what_the_pod_is_to_have() {
    let pod = pod_with(
        &["c1 -/- 100/200", "c2 200m/- 100/-"],
        json!({"initContainers": [{"name": "c0", "image": "i", "resources": {"limits": {"cpu": "200m"}, "requests": {"cpu": "100m"}}}]}),
    );
    // Upstream's vector (`TestPodResizeCompletedMsg`).
    assert_eq!(
        message("Pod resize completed", &pod, Some(2), ""),
        r#"Pod resize completed: {"initContainers":[{"name":"c0","resources":{"limits":{"cpu":"200m"},"requests":{"cpu":"100m"}}}],"containers":[{"name":"c1","resources":{"limits":{"memory":"200"},"requests":{"memory":"100"}}},{"name":"c2","resources":{"requests":{"cpu":"200m","memory":"100"}}}],"generation":2}"#
    );
    assert!(
        message("Pod resize error", &pod, Some(2), "a \"b\"")
            .ends_with(r#""generation":2,"error":"a \"b\""}"#)
    );
}

#[test]
fn the_pod_as_a_whole_is_told() {
    let allocated = pod_of(&["a 1/2 1Gi/2Gi", "b 1/1 -/-"]);
    let actuated = book(&pod_of(&["a 500m/2 1Gi/2Gi"]));
    let (resources, requests) = reported_pod_resources(&allocated, Some(&actuated), GATES);
    let resources = serde_json::to_value(resources.unwrap()).unwrap();
    assert_eq!(
        resources,
        json!({"limits": {"cpu": "3", "memory": "2Gi"}, "requests": {"cpu": "1500m", "memory": "1Gi"}})
    );
    assert_eq!(serde_json::to_value(requests).unwrap(), json!({"cpu": "2", "memory": "1Gi"}));
    let (none, no_requests) = reported_pod_resources(&pod_of(&["a -/- -/-"]), None, GATES);
    assert_eq!((none, no_requests), (None, None));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    /// Carrying a plan out update by update ends with what was allocated, and no step lets the sum of limits pass the
    /// larger of the sums before and after.
    #[test]
    fn plans_converge_within_the_larger_sum(values in proptest::collection::vec((1i64..8, 1i64..8, 1i64..8, 1i64..8), 1..5)) {
        let line = |i: usize, cpu: i64, memory: i64| format!("c{i} {cpu}/{cpu} {memory}Gi/{memory}Gi");
        let old: Vec<_> = values.iter().enumerate().map(|(i, v)| line(i, v.0, v.1)).collect();
        let new: Vec<_> = values.iter().enumerate().map(|(i, v)| line(i, v.2, v.3)).collect();
        let refs = |lines: &[String]| pod_of(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let (old, new) = (refs(&old), refs(&new));
        let (plan, _) = planned(&new, Some(&book(&old)), None);
        let mut has: BTreeMap<String, Settings> = spec_of(&old).containers.iter()
            .map(|c| (c.name.clone(), Settings::of(c.resources.as_ref(), None))).collect();
        let sum = |has: &BTreeMap<String, Settings>| has.values().map(|s| (s.memory_limit, s.cpu_limit)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let wanted: BTreeMap<String, Settings> = spec_of(&new).containers.iter()
            .map(|c| (c.name.clone(), Settings::of(c.resources.as_ref(), None))).collect();
        let (first, last) = (sum(&has), sum(&wanted));
        for (updates, memory) in [(&plan.resize.memory, true), (&plan.resize.cpu, false)] {
            for update in updates {
                let entry = has.get_mut(&update.name).unwrap();
                *entry = if memory { update.wanted.with_cpu_of(*entry) } else { entry.with_cpu_of(update.wanted) };
                let now = sum(&has);
                prop_assert!(now.0 <= first.0.max(last.0) && now.1 <= first.1.max(last.1));
            }
        }
        prop_assert_eq!(has, wanted);
    }
}
