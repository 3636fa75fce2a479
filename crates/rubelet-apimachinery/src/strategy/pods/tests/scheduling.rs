//! Where the scheduler puts pods, and what it says when it does not.

use k8s_openapi::api::core::v1::{Node, Pod};

use super::*;
use crate::strategy::pods::schedule::{fits, report, without_nodes};

fn node(change: Value) -> Node {
    let mut node = json!({
        "metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1", "disk": "ssd"}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}},
    });
    merge(&mut node, &change);
    rubelet_core::json::from_value(&node).unwrap()
}

fn typed(pod: &Value) -> Pod {
    rubelet_core::json::from_value(pod).unwrap()
}

/// A pod that runs on the node.
fn running(name: &str, spec: Value) -> Pod {
    let mut pod = stored(spec);
    merge(
        &mut pod,
        &json!({
            "metadata": {"name": name, "labels": {"app": name}}, "spec": {"nodeName": "n1"},
            "status": {"phase": "Running"},
        }),
    );
    typed(&pod)
}

fn requests(resources: Value) -> Value {
    json!({"containers": [{"name": "a", "image": "a", "resources": {"limits": resources}}]})
}

const NO_VICTIMS: &str = "1 No preemption victims found for incoming pod.";
const NO_HELP: &str = "1 Preemption is not helpful for scheduling.";

/// What is said of a pod; empty when it fits.
#[track_caller]
fn check(spec: Value, node_change: Value, others: &[Pod], why: &str, preemption: &str) {
    let verdict = fits(&typed(&stored(spec)), &node(node_change), others);
    let message = verdict.map_or_else(|verdict| verdict.message, |()| String::new());
    let expected = if why.is_empty() {
        String::new()
    } else {
        format!(
            "0/1 nodes are available: {why}. no new claims to deallocate, preemption: 0/1 nodes are available: {preemption}"
        )
    };
    assert_eq!(message, expected);
}

#[test]
fn filters_say_what_is_wrong_with_the_node() {
    let none = || json!({});
    check(none(), none(), &[], "", "");
    check(none(), json!({"spec": {"unschedulable": true}}), &[], "1 node(s) were unschedulable", NO_HELP);
    let tainted = json!({"spec": {"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}});
    check(none(), tainted.clone(), &[], "1 node(s) had untolerated taint(s)", NO_HELP);
    check(json!({"tolerations": [{"key": "a", "operator": "Exists"}]}), tainted, &[], "", "");
    let preferred = json!({"spec": {"taints": [{"key": "a", "effect": "PreferNoSchedule"}]}});
    check(none(), preferred, &[], "", "");
    check(
        json!({"nodeSelector": {"disk": "hdd"}}),
        none(),
        &[],
        "1 node(s) didn't match Pod's node affinity/selector",
        NO_HELP,
    );
    let port =
        json!({"containers": [{"name": "a", "image": "a", "ports": [{"containerPort": 1, "hostPort": 80}]}]});
    let other = running("other", port.clone());
    check(
        port,
        none(),
        std::slice::from_ref(&other),
        "1 node(s) didn't have free ports for the requested pod ports",
        NO_VICTIMS,
    );
}

#[test]
fn resources_run_out() {
    let none = || json!({});
    let busy = [running("busy", requests(json!({"cpu": "1900m"})))];
    let wanted = requests(json!({"cpu": "1900m"}));
    check(wanted.clone(), none(), &busy, "1 Insufficient cpu", NO_VICTIMS);
    let mut ended = busy[0].clone();
    ended.status.get_or_insert_default().phase = Some("Succeeded".to_owned());
    check(wanted, none(), &[ended], "", "");
    let large = requests(json!({"cpu": "10", "memory": "5Gi"}));
    check(large, none(), &[], "1 Insufficient cpu, 1 Insufficient memory", NO_HELP);
    check(requests(json!({"nvidia.com/gpu": "1"})), none(), &[], "1 Insufficient nvidia.com/gpu", NO_HELP);
    let full: Vec<Pod> = ["a", "b", "c"].map(|name| running(name, none())).to_vec();
    check(none(), none(), &full, "1 Too many pods", NO_VICTIMS);
    let polite =
        json!({"priorityClassName": "high", "containers": requests(json!({"cpu": "9"}))["containers"]});
    let verdict = fits(&typed(&stored(polite)), &node(none()), &[]).unwrap_err();
    assert_eq!(
        verdict.message,
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to \
         preemptionPolicy=Never."
    );
}

#[test]
fn other_pods_attract_and_repel() {
    let none = || json!({});
    let term = |labels: Value| json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}});
    let with = |kind: &str, labels: Value| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term(labels)]}}});
    let db = [running("db", none())];
    let near = |labels| with("podAffinity", labels);
    let far = |labels| with("podAntiAffinity", labels);
    check(near(json!({"app": "db"})), none(), &db, "", "");
    check(near(json!({"app": "x"})), none(), &db, "1 node(s) didn't match pod affinity rules", NO_HELP);
    check(far(json!({"app": "x"})), none(), &db, "", "");
    check(
        far(json!({"app": "db"})),
        none(),
        &db,
        "1 node(s) didn't match pod anti-affinity rules",
        NO_VICTIMS,
    );
    check(
        none(),
        none(),
        &[running("lonely", far(json!({})))],
        "1 node(s) didn't satisfy existing pods anti-affinity rules",
        NO_VICTIMS,
    );
    let spread = |key: &str| {
        json!({"topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}},
        ]})
    };
    check(spread("kubernetes.io/hostname"), none(), &db, "", "");
    let missing = "1 node(s) didn't match pod topology spread constraints (missing required label)";
    check(spread("rack"), none(), &db, missing, NO_HELP);
}

#[test]
fn a_pod_is_told_that_it_waits() {
    let mut pod = stored(json!({}));
    let verdict = without_nodes(&typed(&pod)).unwrap_err();
    assert!(verdict.is_failure());
    let (first, later) = ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-01T00:00:09Z".parse().unwrap());
    assert!(report(&mut pod, &verdict, first));
    assert_eq!(
        pod["status"]["conditions"],
        json!([{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "observedGeneration": 1,
            "message": "no nodes available to schedule pods", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }])
    );
    assert!(!report(&mut pod, &verdict, later), "nothing new, nothing to store");

    let mut gated = stored(json!({"schedulingGates": [{"name": "a"}]}));
    let verdict = fits(&typed(&gated), &node(json!({})), &[]).unwrap_err();
    assert_eq!((verdict.reason, verdict.is_failure()), ("SchedulingGated", false));
    assert!(!report(&mut gated, &verdict, later));
}
