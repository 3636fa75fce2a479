//! Memory that runs out, for real: what the status, the events, the figures and the last words say of it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use rubelet_core::stats::exposition::parse;

use crate::kubelet_api::Client;
use crate::node::Node;
use crate::pods;
use crate::wait::{self, PATIENCE};

/// Writes all its memory and dies of it.
const GREEDY: &str = "tail /dev/zero";
/// Loses children to the kernel as often as it is told, and goes on.
const PARENT: &str = "
terminationGracePeriodSeconds: 1
containers:
- name: app
  image: $IMAGE
  command: [sh, -c, 'for i in $(seq 3); do tail /dev/zero; echo lost $? >> /share/lost; done; sleep 1000']
  resources: {limits: {memory: 32Mi}}
  volumeMounts: [{name: share, mountPath: /share}]
volumes: [{name: share, hostPath: {path: $SHARE}}]
";

/// Kills that are counted for a container of a pod.
fn counted(node: &Node, pod: &Pod, container: &str) -> Result<u64, String> {
    let page = Client::plain(node.open_ports().0).page("/metrics/cadvisor");
    let families = parse(&page).map_err(|error| error.to_string())?;
    let name = pod.metadata.name.as_deref().unwrap();
    let family = families.iter().find(|family| family.name == "container_oom_events_total");
    let own = family
        .into_iter()
        .flat_map(|family| &family.samples)
        .filter(|sample| sample.label("pod") == Some(name) && sample.label("container") == Some(container));
    match own.collect::<Vec<_>>()[..] {
        [sample] => Ok(sample.value as u64),
        ref other => Err(format!("{} samples", other.len())),
    }
}

/// Waits until so many kills are counted.
fn wait_counted(node: &Node, pod: &Pod, container: &str, wanted: u64) {
    wait::until(&format!("{wanted} kills to be counted"), PATIENCE, || {
        let counted = counted(node, pod, container)?;
        if counted == wanted { Ok(()) } else { Err(format!("{counted}")) }
    });
}

/// What the agent's log tells of kills in containers.
fn told(node: &Node) -> Vec<String> {
    node.agent_log().lines().filter(|line| line.contains("OOMKilling")).map(str::to_owned).collect()
}

#[test]
fn a_container_that_dies_of_its_limit_says_so_and_its_log_has_the_last_word() {
    let node = Node::start();
    node.apply(
        "greedy",
        &format!(
            "
restartPolicy: Never
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'echo about to; echo take it all >&2; exec {GREEDY}']
  terminationMessagePolicy: FallbackToLogsOnError
  resources: {{limits: {{memory: 32Mi}}}}
- name: shell
  image: $IMAGE
  command: [sh, -c, '{GREEDY}; exit $?']
  resources: {{limits: {{memory: 32Mi}}}}
"
        ),
    );
    let pod = node.wait_phase("greedy", "Failed");
    let ended = pods::ended(&pod, "main");
    assert_eq!(pods::state(&pod, "main"), "terminated OOMKilled 137");
    let message = ended.message.unwrap();
    let mut lines: Vec<&str> = message.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["about to", "take it all"]);
    assert_eq!(pods::state(&pod, "shell"), "terminated OOMKilled 137");
    // The status says it. An event would come a few seconds after the kill.
    wait::throughout(Duration::from_secs(5), || assert_eq!(told(&node), Vec::<String>::new()));
}

#[test]
fn processes_that_are_lost_in_a_container_that_goes_on_are_told_and_counted() {
    let mut node = Node::start();
    node.apply("parent", PARENT);
    let pod = node.wait_ready("parent");
    node.wait_lines("lost", &["lost 137"; 3]);
    wait_counted(&node, &pod, "app", 3);
    let line = node.wait_agent_log(&["OOMKilling", "tail"]);
    // The pod has the same limit as its only container, and the sandbox's process in it: it is reached first.
    for part in
        ["memory limit of 32Mi", "was reached", "2 more", "the container goes on running", &pod_name(&pod)]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(pods::state(&node.pod("parent"), "app"), "running");

    // Another agent neither tells it again nor forgets it.
    let before = told(&node).len();
    node.kill_agent();
    node.start_agent();
    node.wait_ready("parent");
    wait_counted(&node, &pod, "app", 3);
    wait::throughout(Duration::from_secs(5), || assert_eq!(told(&node).len(), before, "{:#?}", told(&node)));
}

#[test]
fn the_count_outlives_the_instance_and_the_agent() {
    let mut node = Node::start();
    node.apply(
        "again",
        &format!(
            "
terminationGracePeriodSeconds: 1
containers:
- name: app
  image: $IMAGE
  command: [sh, -c, 'test -e /share/second && exec sleep 1000; touch /share/second; exec {GREEDY}']
  resources: {{limits: {{memory: 32Mi}}}}
  volumeMounts: [{{name: share, mountPath: /share}}]
- {{name: other, image: $IMAGE, command: [sleep, '1000']}}
volumes: [{{name: share, hostPath: {{path: $SHARE}}}}]
"
        ),
    );
    let pod = node.wait_pod("again", "to have restarted", |pod| {
        pods::restarts(pod, "app") == 1 && pods::state(pod, "app") == "running"
    });
    assert_eq!(pods::last_state(&pod, "app"), "terminated OOMKilled 137");
    wait_counted(&node, &pod, "app", 1);
    wait_counted(&node, &pod, "other", 0);
    node.kill_agent();
    node.start_agent();
    let pod = node.wait_ready("again");
    assert_eq!(pods::last_state(&pod, "app"), "terminated OOMKilled 137");
    wait_counted(&node, &pod, "app", 1);
}

fn pod_name(pod: &Pod) -> String {
    format!("default/{}", pod.metadata.name.as_deref().unwrap())
}
