//! What pods say of their waiting: slow and stalled pulls, a missing Secret, containers that do not stop.

use std::time::Duration;

use serde_json::json;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::pods::{self, waiting_message};
use crate::registry::{Manners, Registry};
use crate::wait::{self, PATIENCE};

/// The message of a condition.
fn message(pod: &k8s_openapi::api::core::v1::Pod, kind: &str) -> String {
    let conditions = pods::status(pod).conditions.unwrap_or_default();
    let condition = conditions.into_iter().find(|condition| condition.type_ == kind).unwrap_or_default();
    format!("{}: {}", condition.reason.unwrap_or_default(), condition.message.unwrap_or_default())
}

#[test]
fn explain_slow_and_stalled_pulls() {
    let node = Node::start();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let slow = Manners { layer_takes: Duration::from_secs(30), ..Manners::default() };
    let slow = Registry::serve(&node.runtime, dirs[0].path(), slow).image("slow");
    let stalled = Manners { layer_takes: Duration::from_secs(2), stalls: true, ..Manners::default() };
    let stalled = Registry::serve(&node.runtime, dirs[1].path(), stalled).image("stalled");
    let spec = |image: &str| {
        format!(
            "terminationGracePeriodSeconds: 1\ncontainers: [{{name: a, image: '{image}', command: [sleep, '1000']}}, \
             {{name: b, image: $IMAGE, command: [sleep, '1000']}}]"
        )
    };
    node.apply("slow", &spec(&slow));
    let told = node
        .wait_pod("slow", "to say how far its pull is", |pod| waiting_message(pod, "a").contains(" % of "));
    let text = waiting_message(&told, "a");
    assert!(
        text.starts_with(&format!("pulling image \"{slow}\" (")) && text.contains(" s so far)"),
        "{text}"
    );
    assert_eq!(waiting_message(&told, "b"), "image pull of container \"a\" comes first");
    assert_eq!(pods::state(&told, "a"), "waiting ContainerCreating");
    // Bytes a second are known from the second look on.
    node.wait_pod("slow", "to say how fast its pull is", |pod| waiting_message(pod, "a").contains("B/s"));
    let ready = node.wait_ready("slow");
    assert_eq!((waiting_message(&ready, "a"), waiting_message(&ready, "b")), (String::new(), String::new()));

    node.apply("stalled", &spec(&stalled));
    let event = wait::until("the stall to be told", PATIENCE * 3, || {
        let log = node.agent_log();
        let line = log.lines().find(|line| line.contains("PullStalled") && line.contains(&stalled));
        line.map(str::to_owned)
            .ok_or_else(|| node.try_pod("stalled").map_or_else(|error| error, |pod| pods::summary(&pod)))
    });
    assert!(event.contains("has stalled: ") && event.contains("nothing new for "), "{event}");
    let text = waiting_message(&node.pod("stalled"), "a");
    assert!(text.contains("nothing new for "), "{text}");
    node.remove("stalled");
    node.wait_gone("stalled");
}

#[test]
fn explain_a_missing_secret() {
    let cluster = Cluster::start();
    cluster.run(
        "web",
        "containers: [{name: a, image: $IMAGE, command: [sleep, '1000'], volumeMounts: [{name: files, mountPath: /files}]}]\n\
         volumes: [{name: files, secret: {secretName: z}}]",
    );
    let expected = "volume \"files\" is not ready: secret \"z\" not found";
    let told =
        cluster.wait_pod("web", "to say what it waits for", |pod| !waiting_message(pod, "a").is_empty());
    assert_eq!(waiting_message(&told, "a"), expected);
    assert_eq!(message(&told, "PodReadyToStartContainers"), format!("VolumesNotReady: {expected}"));
    let event = cluster.wait_event("web", "FailedMount");
    assert!(event.message.as_ref().is_some_and(|text| text.contains("\"files\"")), "{:?}", event.message);
    cluster.api.create_json(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "z"}}));
    let ready = cluster.wait_ready("web");
    assert_eq!(message(&ready, "PodReadyToStartContainers"), ": ");
    // It was said once.
    let said: Vec<String> = cluster.status_writes("web").iter().map(ToString::to_string).collect();
    let said = said.iter().filter(|write| write.contains("is not ready")).count();
    assert_eq!(said, 1);
}

#[test]
fn explain_containers_that_do_not_stop() {
    let node = Node::start();
    let spec = |grace: u32| {
        format!(
            "terminationGracePeriodSeconds: {grace}\ncontainers: [{{name: main, image: $IMAGE, command: [sh, -c, 'trap \"\" TERM; while true; do sleep 0.1; done']}}]"
        )
    };
    node.apply("deaf", &spec(14));
    node.apply("frozen", &spec(2));
    node.wait_ready("deaf");
    let frozen = node.wait_ready("frozen");
    // A shim that does not answer: the runtime cannot stop what is in it.
    let filter = format!(
        "labels.\"io.kubernetes.pod.uid\"=={},labels.\"io.cri-containerd.kind\"==sandbox",
        pods::uid(&frozen)
    );
    let sandbox = node.runtime.ctr(&["containers", "ls", "-q", &filter]).trim().to_owned();
    node.runtime.freeze_shim(&sandbox, true);
    node.remove("deaf");
    node.remove("frozen");
    let event = node.wait_agent_log(&["ExceededGracePeriod", "frozen-node-1", "does not stop"]);
    node.runtime.freeze_shim(&sandbox, false);
    assert!(event.contains("Container main does not stop: it was told to 12 s ago"), "{event}");
    assert!(event.contains("with a grace period of 2 s; its process "), "{event}");
    node.wait_gone("frozen");
    node.wait_gone("deaf");
    let log = node.agent_log();
    let told = log.lines().find(|line| line.contains("deaf-node-1") && line.contains("ExceededGracePeriod"));
    assert_eq!(told, None, "it ended within its grace");
}
