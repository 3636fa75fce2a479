//! What makes two manifests the same pod: content, UID and name, over removals and returns.

use std::fs;

use crate::node::Node;
use crate::pods::{self, container_id, restarts, state};
use crate::wait::{self, PATIENCE};

/// The end of a manifest whose containers write to the shared folder.
const SHARE: &str = "volumes: [{name: share, hostPath: {path: $SHARE}}]";
/// Its place in a container.
const MOUNT: &str = "volumeMounts: [{name: share, mountPath: /share}]";

/// A pod that notes its beginnings and ends, and takes a second to end.
fn noting(name: &str) -> String {
    format!(
        "
terminationGracePeriodSeconds: 20
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'trap \"sleep 1; echo {name} ends >> /share/log; exit 0\" TERM; echo {name} begins >> /share/log; while true; do sleep 0.05; done']
  {MOUNT}
{SHARE}"
    )
}

#[test]
fn a_manifest_that_comes_back_while_its_pod_ends_is_run_again() {
    let node = Node::start();
    node.apply("back", &noting("it"));
    let first = node.wait_ready("back");
    node.wait_line("log", "it begins");
    node.remove("back");
    node.wait_agent_log(&["Stopping container main", "back-node-1"]);
    node.apply("back", &noting("it"));
    let second = node.wait_pod("back", "to run again", |pod| {
        pods::ready(pod) && container_id(pod, "main") != container_id(&first, "main")
    });
    assert_eq!(pods::uid(&second), pods::uid(&first), "the same content in the same file is the same UID");
    assert_eq!(restarts(&second, "main"), 0, "it is a new life, not a restart");
    node.wait_lines("log", &["it begins", "it ends", "it begins"]);
}

#[test]
fn what_was_done_is_done_again_only_when_its_manifest_was_gone() {
    let mut node = Node::start();
    let spec = format!(
        "restartPolicy: Never\ncontainers: [{{name: c, image: $IMAGE, command: [sh, -c, 'echo ran >> /share/log'], {MOUNT}}}]\n{SHARE}"
    );
    node.apply("job", &spec);
    node.wait_phase("job", "Succeeded");
    // Away and back while nobody looks: nothing has happened.
    node.kill_agent();
    let text = fs::read(node.manifest_file("job.yaml")).unwrap();
    node.remove("job");
    node.write_manifest("job.yaml", &text);
    node.start_agent();
    node.wait_phase("job", "Succeeded");
    node.remove("job");
    node.wait_gone("job");
    assert_eq!(node.lines("log"), ["ran"]);
    node.apply("job", &spec);
    node.wait_phase("job", "Succeeded");
    assert_eq!(node.lines("log"), ["ran", "ran"]);
}

#[test]
fn a_pod_with_a_uid_of_its_own_is_changed_in_place() {
    let node = Node::start();
    node.runtime.ctr(&["images", "tag", "rubelet.local/busybox:1", "rubelet.local/busybox:2"]);
    let pod = |image: &str, label: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata:
  name: fixed
  uid: 11111111-2222-3333-4444-555555555555
  labels: {{round: {label}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: changes, image: 'rubelet.local/busybox:{image}', command: [sleep, '1000']}}
  - {{name: stays, image: $IMAGE, command: [sleep, '1000']}}
"
        )
    };
    node.write_manifest("fixed.yaml", pod("1", "first").as_bytes());
    let before = node.wait_ready("fixed");
    assert_eq!(pods::uid(&before), "11111111-2222-3333-4444-555555555555");
    // Labels alone touch no container.
    node.write_manifest("fixed.yaml", pod("1", "second").as_bytes());
    let relabelled = node.wait_pod("fixed", "to have its new label", |pod| {
        pod.metadata.labels.as_ref().is_some_and(|labels| labels["round"] == "second")
    });
    assert_eq!(container_id(&relabelled, "changes"), container_id(&before, "changes"));
    // Another image is another container, in the same sandbox. (Both names are one image to the runtime, which
    // tells either.)
    node.write_manifest("fixed.yaml", pod("2", "second").as_bytes());
    let after = node
        .wait_pod("fixed", "to run the other image", |pod| pods::ready(pod) && restarts(pod, "changes") == 1);
    node.wait_agent_log(&["Container changes definition changed, will be restarted"]);
    assert_eq!(container_id(&after, "stays"), container_id(&before, "stays"));
    assert_eq!((restarts(&after, "stays"), state(&after, "stays").as_str()), (0, "running"));
    assert_eq!(pods::status(&after).pod_ip, pods::status(&before).pod_ip);
}

#[test]
fn a_pod_of_another_namespace_is_another_pod() {
    let node = Node::start();
    let pod = |namespace: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: same, namespace: {namespace}}}
spec:
  containers: [{{name: c, image: $IMAGE, command: [sh, -c, 'hostname; exec sleep 1000']}}]
"
        )
    };
    node.write_manifest("a.yaml", pod("team-a").as_bytes());
    node.write_manifest("b.yaml", pod("team-b").as_bytes());
    wait::until("both to be ready", PATIENCE, || {
        let pods = node.try_pods()?;
        let ready = pods.iter().filter(|pod| pods::ready(pod)).count();
        if ready == 2 { Ok(()) } else { Err(format!("{ready} ready")) }
    });
}

#[test]
fn an_agent_killed_during_a_hook_still_ends_the_pod_in_time() {
    let mut node = Node::start();
    node.apply(
        "hooked",
        &format!(
            "
terminationGracePeriodSeconds: 6
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'trap \"echo told >> /share/log; exit 0\" TERM; echo up >> /share/log; while true; do sleep 0.05; done']
  lifecycle: {{preStop: {{exec: {{command: [sh, -c, 'echo hook >> /share/log; sleep 1']}}}}}}
  {MOUNT}
{SHARE}"
        ),
    );
    node.wait_line("log", "up");
    node.wait_ready("hooked");
    node.remove("hooked");
    node.wait_line("log", "hook");
    node.kill_agent();
    node.start_agent();
    wait::until("the pod to be gone", PATIENCE, || match node.runtime.containers().len() {
        0 => Ok(()),
        other => Err(other.to_string()),
    });
    let lines = node.lines("log");
    assert_eq!(lines.last().map(String::as_str), Some("told"), "it was asked, not shot: {lines:?}");
    wait::until("its directory to be gone", PATIENCE, || {
        match fs::read_dir(node.root().join("pods")).unwrap().count() {
            0 => Ok(()),
            other => Err(other.to_string()),
        }
    });
}
