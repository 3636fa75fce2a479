//! What node and pods say when the runtime is in trouble: silent as a whole, away for a moment, stuck with one pod.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node as NodeObject;

use crate::adoption::assert_ready;
use crate::cluster::{Cluster, node_condition};
use crate::pods::{self, container_id};
use crate::wait;

const REST: &str = "
terminationGracePeriodSeconds: 1
containers: [{name: c, image: $IMAGE, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.2; done']}]
";
/// The same, asked every other second by commands, which only the runtime can run.
const PROBED: &str = "
terminationGracePeriodSeconds: 1
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.2; done']
  livenessProbe: {exec: {command: ['true']}, periodSeconds: 2, failureThreshold: 2}
  readinessProbe: {exec: {command: ['true']}, periodSeconds: 2, failureThreshold: 2}
";
/// Until a runtime that is silent is told: it is asked every 10 s, and has 30 s to answer.
const TOLD: Duration = Duration::from_secs(90);

fn ready_message(node: &NodeObject) -> (String, String) {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
    (ready.reason.clone().unwrap_or_default(), ready.message.clone().unwrap_or_default())
}

/// Every Ready since it was True first, without repetitions.
fn ready_history(cluster: &Cluster) -> Vec<String> {
    let uid = cluster.node_object().metadata.uid.unwrap();
    let history = cluster.api.history::<NodeObject>(&uid);
    let mut seen: Vec<String> = history.iter().map(|node| node_condition(node, "Ready")).collect();
    seen.dedup();
    let first = seen.iter().position(|ready| ready == "True").unwrap();
    seen.split_off(first)
}

#[test]
fn api_a_runtime_that_stops_answering_is_told_and_nothing_else_happens() {
    let cluster = Cluster::start();
    cluster.run("web", PROBED);
    let before = container_id(&cluster.wait_ready("web"), "c");
    cluster.wait_node("to be ready", |node| node_condition(node, "Ready") == "True");
    cluster.node.runtime.freeze(true);
    // It may be a moment only.
    wait::throughout(Duration::from_secs(25), || {
        assert_eq!(node_condition(&cluster.node_object(), "Ready"), "True");
    });
    let node = wait::until("the node not to be ready", TOLD, || {
        let node = cluster.node_object();
        if node_condition(&node, "Ready") == "False" { Ok(node) } else { Err("it is".to_owned()) }
    });
    let (reason, message) = ready_message(&node);
    assert_eq!(reason, "KubeletNotReady");
    assert_eq!(message, "container runtime is down: it has not answered Version and Status within 10 s");
    // The agent is well, whatever the runtime is.
    let health = cluster.node.get("/healthz?verbose").unwrap();
    assert!(
        health.contains("[+]containerruntime ok: the container runtime does not answer since"),
        "{health}"
    );
    assert!(health.contains("healthz check passed"), "{health}");
    assert_ready(&[cluster.pod("web")]);
    let told = cluster.events("web");
    let stuck = told.iter().filter(|event| event.reason.as_deref() == Some("StuckInRuntime")).count();
    assert_eq!(stuck, 0, "all of it is silent: {told:?}");

    cluster.node.runtime.freeze(false);
    cluster.wait_node("to be ready again", |node| node_condition(node, "Ready") == "True");
    assert_eq!(ready_message(&cluster.node_object()).1, "kubelet is posting ready status");
    cluster.run("after", REST);
    cluster.wait_ready("after");
    let after = cluster.pod("web");
    assert_ready(std::slice::from_ref(&after));
    assert_eq!(container_id(&after, "c"), before);
    assert_eq!(pods::restarts(&after, "c"), 0);
    assert_eq!(ready_history(&cluster), ["True", "False", "True"]);
}

#[test]
fn api_a_runtime_that_is_away_for_a_moment_is_no_news() {
    let mut cluster = Cluster::start();
    cluster.run("web", REST);
    let before = container_id(&cluster.wait_ready("web"), "c");
    cluster.wait_node("to be ready", |node| node_condition(node, "Ready") == "True");
    cluster.node.runtime.kill();
    cluster.node.wait_agent_log(&["the container runtime cannot be used"]);
    cluster.node.runtime.restart();
    cluster.run("after", REST);
    cluster.wait_ready("after");
    // The same with an agent that starts before its runtime does.
    cluster.node.runtime.kill();
    cluster.node.kill_agent();
    cluster.node.start_agent();
    wait::throughout(Duration::from_secs(5), || {
        assert_eq!(node_condition(&cluster.node_object(), "Ready"), "True");
    });
    cluster.node.runtime.restart();
    cluster.run("last", REST);
    cluster.wait_ready("last");
    assert_eq!(container_id(&cluster.wait_ready("web"), "c"), before);
    assert_eq!(ready_history(&cluster), ["True"]);
}

#[test]
fn api_a_pod_that_hangs_in_the_runtime_is_told_alone() {
    let cluster = Cluster::start();
    let hangs = cluster.run("hangs", REST);
    let id = container_id(&cluster.wait_ready("hangs"), "c");
    let containers = cluster.node.runtime.containers();
    let sandbox = containers.into_iter().find(|other| *other != id).unwrap();
    cluster.node.runtime.freeze_shim(&sandbox, true);
    cluster.api.delete_with_grace::<k8s_openapi::api::core::v1::Pod>("default", "hangs", 1);
    let event = cluster.wait_event("hangs", "StuckInRuntime");
    let message = event.message.unwrap_or_default();
    assert!(message.contains("has not answered StopContainer of container c"), "{message}");
    assert!(message.contains(&id) && message.contains("other pods are not affected"), "{message}");
    let health = cluster.node.get("/healthz?verbose").unwrap();
    assert!(health.contains("[+]containerruntime ok: one pod is stuck in the container runtime"), "{health}");
    cluster.run("other", REST);
    cluster.wait_ready("other");
    assert_eq!(node_condition(&cluster.node_object(), "Ready"), "True");
    cluster.node.runtime.freeze_shim(&sandbox, false);
    cluster.wait_gone(&hangs);
    assert_eq!(ready_history(&cluster), ["True"]);
}
