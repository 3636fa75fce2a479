//! CPUs of their own for real: who runs where as the kernel has it, through the lives of pods and of the agent.

use std::fs;

use k8s_openapi::api::core::v1::Pod;
use rubelet_core::cpu_set::CpuSet;

use crate::node::Node;
use crate::pods;
use crate::wait::{self, PATIENCE};

/// Static, with the first CPU for the system.
const STATIC: &str = "cpuManagerPolicy: static\nreservedSystemCPUs: '0'\ncpuManagerReconcilePeriod: 1s\n";

fn pod(resources: &str) -> String {
    format!(
        "terminationGracePeriodSeconds: 1\ncontainers:\n- name: app\n  image: $IMAGE\n  command: [sleep, '1000']\n  \
         resources: {resources}\n"
    )
}

fn online() -> CpuSet {
    rubelet_linux::topology::read().unwrap().all_cpus()
}

fn id(pod: &Pod) -> String {
    pods::container_id(pod, "app").rsplit('/').next().unwrap().to_owned()
}

/// The CPUs that the processes of the container may run on.
fn cpus(node: &Node, pod: &Pod) -> Result<CpuSet, String> {
    let groups = node.cgroups(&id(pod));
    let group = groups.first().ok_or("no group")?;
    let procs = fs::read_to_string(group.join("cgroup.procs")).map_err(|error| error.to_string())?;
    let process = procs.lines().next().ok_or("no process")?;
    let status = fs::read_to_string(format!("/proc/{process}/status")).map_err(|error| error.to_string())?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).ok_or("no list")?;
    allowed.parse().map_err(|error| format!("{error}"))
}

#[track_caller]
fn wait_cpus(node: &Node, pod: &Pod, expected: &CpuSet) {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    wait::until(&format!("{name} to run on {expected}"), PATIENCE, || {
        let found = cpus(node, pod)?;
        if found == *expected { Ok(()) } else { Err(format!("it runs on {found}")) }
    });
}

fn state(node: &Node) -> Result<serde_json::Value, String> {
    let text =
        fs::read_to_string(node.root().join("cpu_manager_state")).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| format!("{text}: {error}"))
}

/// Waits until the checkpoint says so of the pod.
#[track_caller]
fn wait_entry(node: &Node, pod: &Pod, expected: Option<&CpuSet>) {
    let path = format!("/entries/{}/app", pods::uid(pod));
    wait::until("the checkpoint", PATIENCE, || {
        let state = state(node)?;
        let found = state.pointer(&path).and_then(serde_json::Value::as_str).map(str::to_owned);
        if found == expected.map(ToString::to_string) { Ok(()) } else { Err(state.to_string()) }
    });
}

#[test]
fn a_guaranteed_pod_has_its_cpu_alone() {
    let node = Node::configured(STATIC);
    node.apply("sharer", &pod("{}"));
    let sharer = node.wait_ready("sharer");
    wait_cpus(&node, &sharer, &online());
    node.apply("pinned", &pod("{limits: {cpu: 1, memory: 64Mi}}"));
    let pinned = node.wait_ready("pinned");
    let own = cpus(&node, &pinned).unwrap();
    assert!(own.len() == 1 && !own.contains(0), "{own}");
    let rest = online().difference(&own);
    wait_cpus(&node, &sharer, &rest);
    wait_entry(&node, &pinned, Some(&own));
    assert_eq!(state(&node).unwrap()["policyName"], "static");
    // Who comes later shares the rest.
    node.apply("late", &pod("{requests: {memory: 8Mi}}"));
    let late = node.wait_ready("late");
    assert_eq!(cpus(&node, &late).unwrap(), rest);
    // No quota for it: it would only be throttled on its own CPU.
    let quotas = node.cgroups(&id(&pinned)).into_iter().filter_map(|group| {
        fs::read_to_string(group.join("cpu.cfs_quota_us"))
            .or_else(|_| fs::read_to_string(group.join("cpu.max")))
            .ok()
    });
    for quota in quotas {
        assert!(quota.starts_with("-1") || quota.starts_with("max"), "{quota}");
    }
    let metrics = node.get("/metrics").unwrap();
    assert!(metrics.contains("kubelet_cpu_manager_exclusive_cpu_allocation_count 1"), "{metrics}");
    node.remove("pinned");
    wait_cpus(&node, &sharer, &online());
    wait_cpus(&node, &late, &online());
    wait_entry(&node, &pinned, None);
}

#[test]
fn cpus_outlive_the_agent_and_its_checkpoint() {
    let mut node = Node::configured(STATIC);
    node.apply("sharer", &pod("{}"));
    node.apply("pinned", &pod("{limits: {cpu: 1, memory: 64Mi}}"));
    let (sharer, pinned) = (node.wait_ready("sharer"), node.wait_ready("pinned"));
    let own = cpus(&node, &pinned).unwrap();
    let rest = online().difference(&own);
    wait_cpus(&node, &sharer, &rest);
    let checkpoint = node.root().join("cpu_manager_state");
    // As it is, without it, of no use, and of another policy.
    let foreign = r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#;
    for content in [None, Some(""), Some("{"), Some(foreign)] {
        node.kill_agent();
        match content {
            None => {}
            Some("") => fs::remove_file(&checkpoint).unwrap(),
            Some(content) => fs::write(&checkpoint, content).unwrap(),
        }
        node.start_agent();
        wait_entry(&node, &pinned, Some(&own));
        let again = node.wait_ready("pinned");
        assert_eq!((id(&again), pods::restarts(&again, "app")), (id(&pinned), 0));
        assert_eq!(cpus(&node, &pinned).unwrap(), own, "after {content:?}");
        wait_cpus(&node, &sharer, &rest);
    }
    node.wait_agent_log(&["cpu_manager_state", "it is rebuilt from running containers"]);
    // A policy that pins nobody gives everybody everything, without a restart.
    node.kill_agent();
    node.arguments = vec!["--cpu-manager-policy".to_owned(), "none".to_owned()];
    node.start_agent();
    wait_cpus(&node, &pinned, &online());
    wait_cpus(&node, &sharer, &online());
    let again = node.wait_ready("pinned");
    assert_eq!((id(&again), pods::restarts(&again, "app")), (id(&pinned), 0));
    wait::until("the checkpoint of the policy none", PATIENCE, || {
        let text = fs::read_to_string(&checkpoint).map_err(|error| error.to_string())?;
        if text == foreign { Ok(()) } else { Err(text) }
    });
}

#[test]
fn cpus_that_are_not_there_cannot_be_reserved() {
    let mut node = Node::without_agent("cpuManagerPolicy: static\nreservedSystemCPUs: '0,9000'\n");
    node.launch_agent();
    node.wait_agent_failed();
    node.wait_agent_log(&["reserved CPUs 9000 are not online"]);
}
