//! How tests that have the agent in their own process set it up: a machine of their own, a configuration that opens no
//! port and makes no cgroup, and what to join to the scripted API server. Each test binary uses its part.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rubelet::clock::Clock;
use rubelet::control_plane::ApiServer;
use rubelet::node_agent::{FixedProbe, NodeFlags};
use rubelet::{Kubelet, KubeletBuilder, KubeletConfiguration};
use rubelet_apiclient::Connections;
use rubelet_linux::facts::MachineFacts;
use rubelet_linux::node_facts::NodeMachine;
use rubelet_testkit::FakeApi;

/// The node's address, of those that are kept for examples.
pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// The machine of a node.
pub fn machine(hostname: &str) -> MachineFacts {
    MachineFacts {
        memory: 64 << 30,
        cpus: 16,
        hostname: hostname.to_owned(),
        kernel_release: "6.1.0".to_owned(),
        kernel: (6, 1),
        boot_id: "boot".to_owned(),
        swap_in_use: false,
        cgroup_v2: true,
        apparmor: false,
        selinux: false,
        thermal_throttle_paths: vec![],
    }
}

/// A configuration that listens nowhere, makes no cgroups and keeps to `root`.
pub fn config(root: &Path) -> KubeletConfiguration {
    KubeletConfiguration {
        enable_server: false,
        healthz_port: 0,
        read_only_port: 0,
        cgroups_per_qos: false,
        fail_swap_on: false,
        resolv_conf: String::new(),
        pod_logs_dir: root.join("logs").display().to_string(),
        ..KubeletConfiguration::default()
    }
}

/// An agent for a node of that name; what it runs on and takes pods from is still to be said.
pub fn agent(config: KubeletConfiguration, root: &Path, node: &str, clock: Clock) -> KubeletBuilder {
    Kubelet::builder(config)
        .clock(clock)
        .machine(machine(node))
        .root_dir(root)
        .container_logs_dir(root.join("links"))
        .node_name(node)
        .node_ips([ADDRESS])
}

/// Joins it to the scripted API server.
pub fn join(agent: KubeletBuilder, api: &FakeApi, node: &str, flags: NodeFlags) -> KubeletBuilder {
    let client = || api.client(&format!("system:node:{node}"));
    let connections = Connections { requests: client(), urgent: client(), heartbeats: client() };
    agent.node_flags(flags).api_server(ApiServer::Connected(connections)).node_machine(
        NodeMachine { cpus: 16, memory_bytes: 64 << 30, ..NodeMachine::default() },
        Arc::new(FixedProbe { ips: vec![ADDRESS], ..FixedProbe::default() }),
    )
}

/// Lets time pass until it is so, at most two minutes of the paused clock.
pub async fn until(what: &str, so: impl Fn() -> bool) {
    let mut looks = 0;
    while !so() {
        assert!(looks < 1200, "never: {what}");
        looks += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
