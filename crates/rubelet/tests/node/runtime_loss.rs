//! A runtime that dies, comes back, or is not there yet.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::adoption::assert_ready;
use crate::node::Node;
use crate::pods::{self, container_id};
use crate::wait::{self, PATIENCE};

const REST: &str = "
terminationGracePeriodSeconds: 1
containers: [{name: c, image: $IMAGE, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.2; done']}]
";

#[test]
fn twenty_pods_outlive_a_killed_runtime() {
    let mut node = Node::start();
    for number in 0..20 {
        node.apply(&format!("p{number}"), REST);
    }
    let ids: BTreeSet<String> =
        (0..20).map(|number| container_id(&node.wait_ready(&format!("p{number}")), "c")).collect();
    node.runtime.kill();
    node.wait_agent_log(&["the container runtime cannot be used"]);
    // A pod that is asked for meanwhile waits, and one that is taken away too.
    node.apply("meanwhile", REST);
    node.remove("p19");
    // What is not known to have ended is not said to have ended.
    wait::throughout(Duration::from_secs(3), || {
        let pods = node.pods();
        let told: Vec<_> = pods
            .into_iter()
            .filter(|pod| {
                !["p19-node-1", "meanwhile-node-1"].contains(&pod.metadata.name.as_deref().unwrap())
            })
            .collect();
        assert_eq!(told.len(), 19);
        assert_ready(&told);
    });
    node.runtime.restart();
    node.wait_ready("meanwhile");
    node.wait_gone("p19");
    for number in 0..19 {
        let pod = node.wait_ready(&format!("p{number}"));
        assert_ready(std::slice::from_ref(&pod));
        assert!(ids.contains(&container_id(&pod, "c")), "{}", pods::summary(&pod));
    }
    node.apply("after", REST);
    node.wait_ready("after");
    let running = node.runtime.ctr(&["tasks", "ls"]);
    let running = running.lines().filter(|line| line.contains("RUNNING")).count();
    assert_eq!(running, 2 * 21, "19 old and two new pods, each with its sandbox");
}

#[test]
fn runtime_and_agent_killed_together_lose_nothing() {
    let mut node = Node::start();
    for number in 0..5 {
        node.apply(&format!("p{number}"), REST);
    }
    let ids: Vec<String> =
        (0..5).map(|number| container_id(&node.wait_ready(&format!("p{number}")), "c")).collect();
    node.runtime.kill();
    node.kill_agent();
    node.start_agent();
    node.wait_agent_log(&["the container runtime cannot be used"]);
    node.runtime.restart();
    for (number, id) in ids.iter().enumerate() {
        let pod = node.wait_ready(&format!("p{number}"));
        assert_ready(std::slice::from_ref(&pod));
        assert_eq!(container_id(&pod, "c"), *id);
    }
}

#[test]
fn an_agent_waits_for_a_runtime_that_comes_later() {
    let mut node = Node::without_agent("");
    node.runtime.kill();
    node.apply("early", REST);
    node.start_agent();
    let line = node.wait_agent_log(&["the container runtime cannot be used"]);
    assert!(line.contains("containerd.sock"), "the socket is named: {line}");
    node.runtime.restart();
    node.wait_ready("early");
}

#[test]
fn a_container_killed_behind_the_agents_back_is_restarted() {
    let node = Node::start();
    node.apply("shot", REST);
    let before = node.wait_ready("shot");
    let id = container_id(&before, "c");
    node.runtime.ctr(&["tasks", "kill", "--signal", "SIGKILL", &id]);
    let after = node.wait_pod("shot", "to run again", |pod| pods::ready(pod) && container_id(pod, "c") != id);
    assert_eq!(pods::restarts(&after, "c"), 1);
    assert_eq!(pods::last_state(&after, "c"), "terminated Error 137");
    assert_eq!(pods::status(&after).pod_ip, pods::status(&before).pod_ip, "the sandbox stays");
}

#[test]
fn a_pod_whose_sandbox_dies_is_run_again_in_a_new_one() {
    let node = Node::start();
    node.apply(
        "boxed",
        "
terminationGracePeriodSeconds: 1
initContainers: [{name: init, image: $IMAGE, command: [sh, -c, 'echo init >> /share/log'], volumeMounts: [{name: share, mountPath: /share}]}]
containers: [{name: c, image: $IMAGE, command: [sh, -c, 'echo main >> /share/log; exec sleep 1000'], volumeMounts: [{name: share, mountPath: /share}]}]
volumes: [{name: share, hostPath: {path: $SHARE}}]",
    );
    let before = node.wait_ready("boxed");
    node.wait_line("log", "main");
    let known = [container_id(&before, "c"), container_id(&before, "init")];
    let containers = node.runtime.containers();
    let sandbox = containers.iter().find(|id| !known.contains(id)).unwrap();
    node.runtime.ctr(&["tasks", "kill", "--signal", "SIGKILL", sandbox]);
    let after = node.wait_pod("boxed", "to run again", |pod| {
        pods::ready(pod) && container_id(pod, "c") != known[0] && pods::restarts(pod, "c") == 1
    });
    node.wait_lines("log", &["init", "main", "init", "main"]);
    assert_eq!(pods::uid(&after), pods::uid(&before));
    node.wait_agent_log(&["SandboxChanged", "boxed-node-1"]);
}

#[test]
fn a_pod_that_hangs_in_the_runtime_holds_up_nobody() {
    let node = Node::start();
    node.apply("hangs", REST);
    let hangs = node.wait_ready("hangs");
    let id = container_id(&hangs, "c");
    let sandbox = node.runtime.containers().into_iter().find(|other| *other != id).unwrap();
    node.runtime.freeze_shim(&sandbox, true);
    node.remove("hangs");
    node.wait_agent_log(&["Stopping container c", "hangs-node-1"]);
    for name in ["one", "two"] {
        node.apply(name, REST);
        node.wait_ready(name);
    }
    node.remove("one");
    node.wait_gone("one");
    assert!(node.runtime.containers().contains(&id), "the pod that hangs is still there");
    node.runtime.freeze_shim(&sandbox, false);
    node.wait_gone("hangs");
    wait::until("its containers to be gone", PATIENCE, || match node.runtime.containers().len() {
        2 => Ok(()),
        other => Err(other.to_string()),
    });
    assert_ready(&node.pods());
}

#[test]
fn an_unknown_runtime_class_is_named() {
    let node = Node::start();
    node.apply("classy", &format!("runtimeClassName: no-such-handler{REST}"));
    node.wait_agent_log(&["FailedCreatePodSandBox", "classy-node-1", "no-such-handler"]);
    assert_eq!(pods::phase(&node.pod("classy")), "Pending");
    node.remove("classy");
    node.wait_gone("classy");
}
