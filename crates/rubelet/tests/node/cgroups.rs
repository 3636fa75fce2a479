//! Control groups for real: what the kernel says of each group equals the formulas, for each class and option; groups
//! end with their pods, and nothing in them outlives those.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rubelet_linux::cgroup::{CgroupTree, GroupReading, MOUNT};

use crate::node::Node;
use crate::pods;
use crate::wait::{self, PATIENCE};

const MIB: i64 = 1 << 20;

fn tree() -> CgroupTree {
    CgroupTree::find(Path::new(MOUNT)).unwrap()
}

fn group(node: &Node, below: &str) -> String {
    format!("{}/kubepods{below}", node.runtime.get("cgroup_root"))
}

/// What shares are read as: through the weight of the unified hierarchy they lose some.
fn shares(shares: i64) -> i64 {
    if !tree().is_unified() {
        return shares;
    }
    let weight = 1 + (shares - 2) * 9999 / 262_142;
    (weight - 1) * 262_142 / 9999 + 2
}

#[track_caller]
fn wait_reading(node: &Node, below: &str, expected: GroupReading) {
    let group = group(node, below);
    let expected = GroupReading { cpu_shares: expected.cpu_shares.map(shares), ..expected };
    wait::until(&format!("{group} to be {expected:?}"), PATIENCE, || {
        let found = GroupReading { memory_usage: None, ..tree().read(&group) };
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

fn pod(resources: &str) -> String {
    format!(
        "terminationGracePeriodSeconds: 1\ncontainers:\n- name: app\n  image: $IMAGE\n  command: [sleep, '1000']\n  \
         resources: {resources}\n"
    )
}

fn machine() -> (i64, i64, i64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let kib: i64 = total.trim().trim_end_matches(" kB").parse().unwrap();
    let number = |path: &str| fs::read_to_string(path).unwrap().trim().parse::<i64>().unwrap();
    let pids = number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max"));
    let cpus = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let cpus: rubelet_core::cpu_set::CpuSet = cpus.parse().unwrap();
    (kib * 1024, pids, i64::try_from(cpus.len()).unwrap())
}

#[test]
fn every_group_is_what_the_formulas_say() {
    let node = Node::configured(
        "podPidsLimit: 77\nkubeReserved: {cpu: 250m, memory: 100Mi, pid: '100'}\n\
         systemReserved: {cpu: 250m, memory: 156Mi, pid: '900'}\n",
    );
    node.apply("guaranteed", &pod("{limits: {cpu: 250m, memory: 64Mi}}"));
    node.apply("limited", &pod("{requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 500m, memory: 48Mi}}"));
    node.apply("open", &pod("{requests: {cpu: 300m, memory: 16Mi}}"));
    node.apply("besteffort", &pod("{}"));
    let uid = |name: &str| pods::uid(&node.wait_ready(name)).to_owned();
    let (guaranteed, limited) = (uid("guaranteed"), uid("limited"));
    let (open, best_effort) = (uid("open"), uid("besteffort"));
    let period = Some(100_000);
    let base = GroupReading { cpu_period: period, pids_limit: Some(77), ..Default::default() };
    wait_reading(
        &node,
        &format!("/pod{guaranteed}"),
        GroupReading { cpu_shares: Some(256), cpu_quota: Some(25_000), memory_limit: Some(64 * MIB), ..base },
    );
    wait_reading(
        &node,
        &format!("/burstable/pod{limited}"),
        GroupReading { cpu_shares: Some(102), cpu_quota: Some(50_000), memory_limit: Some(48 * MIB), ..base },
    );
    wait_reading(&node, &format!("/burstable/pod{open}"), GroupReading { cpu_shares: Some(307), ..base });
    wait_reading(
        &node,
        &format!("/besteffort/pod{best_effort}"),
        GroupReading { cpu_shares: Some(2), ..base },
    );
    let class = GroupReading { cpu_period: period, ..Default::default() };
    wait_reading(&node, "/burstable", GroupReading { cpu_shares: Some(409), ..class });
    wait_reading(&node, "/besteffort", GroupReading { cpu_shares: Some(2), ..class });
    let (memory, pids, cpus) = machine();
    wait_reading(
        &node,
        "",
        GroupReading {
            cpu_shares: Some((cpus * 1000 - 500) * 1024 / 1000),
            memory_limit: Some(memory - 256 * MIB),
            pids_limit: Some(pids - 1000),
            ..class
        },
    );
    assert_eq!(tree().cpus(&group(&node, "")), tree().cpus("/"));
    node.wait_agent_log(&["NodeAllocatableEnforced", "Updated Node Allocatable limit across pods"]);
    // A class is worth less when one of its pods has gone.
    node.remove("open");
    wait_reading(&node, "/burstable", GroupReading { cpu_shares: Some(102), ..class });
    let metrics = node.get("/metrics").unwrap();
    for operation in ["create", "update", "destroy"] {
        let count =
            format!("kubelet_cgroup_manager_duration_seconds_count{{operation_type=\"{operation}\"}}");
        assert!(metrics.contains(&count), "{operation}");
    }
}

#[test]
fn options_change_what_is_set() {
    let node = Node::configured(
        "cpuCFSQuotaPeriod: 20ms\nenforceNodeAllocatable: [none]\nsystemReserved: {cpu: '1'}\n",
    );
    node.apply(
        "level",
        "
terminationGracePeriodSeconds: 1
resources: {requests: {cpu: 200m}, limits: {cpu: 400m, memory: 64Mi}}
containers:
- {name: a, image: $IMAGE, command: [sleep, '1000']}
- {name: b, image: $IMAGE, command: [sleep, '1000'], resources: {requests: {cpu: 100m}}}
",
    );
    let uid = pods::uid(&node.wait_ready("level")).to_owned();
    wait_reading(
        &node,
        &format!("/burstable/pod{uid}"),
        GroupReading {
            cpu_shares: Some(204),
            cpu_quota: Some(8000),
            cpu_period: Some(20_000),
            memory_limit: Some(64 * MIB),
            ..Default::default()
        },
    );
    // Nothing is taken off for what is reserved.
    let (memory, pids, cpus) = machine();
    wait_reading(
        &node,
        "",
        GroupReading {
            cpu_shares: Some(cpus * 1024),
            memory_limit: Some(memory),
            pids_limit: Some(pids),
            cpu_period: Some(100_000),
            ..Default::default()
        },
    );
}

#[test]
fn without_quotas_pods_have_none() {
    let node = Node::configured("cpuCFSQuota: false\n");
    node.apply("guaranteed", &pod("{limits: {cpu: 250m, memory: 64Mi}}"));
    let uid = pods::uid(&node.wait_ready("guaranteed")).to_owned();
    wait_reading(
        &node,
        &format!("/pod{uid}"),
        GroupReading {
            cpu_shares: Some(256),
            cpu_period: Some(100_000),
            memory_limit: Some(64 * MIB),
            ..Default::default()
        },
    );
}

/// Puts a process into a group, in every hierarchy.
fn stray(node: &Node, uid: &str) -> Child {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let dirs: Vec<PathBuf> =
        node.cgroups(uid).into_iter().filter(|dir| dir.ends_with(format!("pod{uid}"))).collect();
    assert!(!dirs.is_empty());
    for mut dir in dirs {
        // In the unified hierarchy only groups without others below them have processes.
        if dir.join("cgroup.controllers").exists() {
            dir = dir.join("stray");
            fs::create_dir(&dir).unwrap();
        }
        if let Err(error) = fs::write(dir.join("cgroup.procs"), child.id().to_string()) {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{}: {error}", dir.display());
        }
    }
    child
}

#[test]
fn what_is_left_in_a_pods_group_ends_with_it() {
    let node = Node::start();
    node.apply("strays", &pod("{}"));
    let uid = pods::uid(&node.wait_ready("strays")).to_owned();
    let mut child = stray(&node, &uid);
    node.remove("strays");
    // It is a child of this test, which has to take its end.
    wait::until("the stray process to be killed", PATIENCE, || match child.try_wait().unwrap() {
        Some(status) if status.success() => panic!("it ended by itself"),
        Some(_) => Ok(()),
        None => Err("it runs".to_owned()),
    });
    node.wait_gone("strays");
    wait::until("the groups to be gone", PATIENCE, || match node.cgroups(&uid) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    node.wait_agent_log(&["killing what runs in the control group"]);
}

#[test]
fn groups_are_made_again_for_pods_that_come_later_and_leftovers_go() {
    let mut node = Node::start();
    node.apply("first", &pod("{}"));
    let uid = pods::uid(&node.wait_ready("first")).to_owned();
    let before = node.cgroups(&uid).len();
    node.stop_agent();
    let leftover = group(&node, "/burstable/pod3f0c2a5e-0000-4000-8000-000000000000");
    tree().make(&leftover).unwrap();
    node.start_agent();
    wait::until("the leftover to be removed", PATIENCE, || {
        if tree().exists(&leftover) { Err("it is there".to_owned()) } else { Ok(()) }
    });
    assert_eq!(node.cgroups(&uid).len(), before, "a running pod keeps its groups");
    assert_eq!(pods::state(&node.wait_ready("first"), "app"), "running");
}

#[test]
fn reserved_groups_are_set_once_they_are_there() {
    let node = Node::without_agent("");
    let reserved = format!("{}/daemons", node.runtime.get("cgroup_root"));
    node.configure(&format!(
        "enforceNodeAllocatable: [pods, kube-reserved]\nkubeReservedCgroup: {reserved}\n\
         kubeReserved: {{cpu: 100m, memory: 64Mi, pid: '50'}}\n"
    ));
    let mut node = node;
    node.start_agent();
    node.wait_agent_log(&["FailedNodeAllocatableEnforcement", "Kube Reserved", "does not exist"]);
    node.stop_agent();
    tree().make(&reserved).unwrap();
    node.start_agent();
    node.wait_agent_log(&["NodeAllocatableEnforced", "Updated limits on kube reserved cgroup", "daemons"]);
    let found = tree().read(&reserved);
    assert_eq!(found.cpu_shares, Some(shares(102)));
    assert_eq!((found.memory_limit, found.pids_limit), (Some(64 * MIB), Some(50)));
    node.stop_agent();
    tree().remove(&reserved).unwrap();
}

#[test]
fn reservations_larger_than_the_node_are_refused() {
    let mut node = Node::without_agent("kubeReserved: {memory: 100Ti, cpu: 4k}\n");
    node.launch_agent();
    node.wait_agent_failed();
    node.wait_agent_log(&[
        "invalid Node Allocatable configuration.",
        "Resource \"memory\" has a reservation of",
        "Resource \"cpu\" has a reservation of 4k but capacity of",
        "Expected capacity >= reservation.",
    ]);
}
