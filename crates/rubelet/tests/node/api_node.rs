//! The node itself in the API: how it registers, what it says of itself, and what it keeps of an object that is there.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node as NodeObject;
use serde_json::json;

use crate::cluster::{Cluster, node_condition};
use crate::node::NAME;
use crate::wait::{self, PATIENCE};

/// The node's lease.
fn lease(cluster: &Cluster) -> Result<Lease, String> {
    cluster.api.get("kube-node-lease", NAME).ok_or_else(|| "there is none".to_owned())
}

#[test]
fn api_a_node_registers_says_what_it_is_and_keeps_its_lease() {
    // A lease of 4 s is renewed every second.
    let mut cluster = Cluster::without_agent("nodeLeaseDurationSeconds: 4");
    let begin = wait::uptime();
    cluster.node.launch_agent();
    let node = cluster.wait_node("to be ready", |node| node_condition(node, "Ready") == "True");
    println!("from exec to Ready: {:.2} s", wait::uptime() - begin);

    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
        assert_eq!(node_condition(&node, kind), "False", "{kind}");
    }
    let status = node.status.clone().unwrap();
    let info = status.node_info.unwrap();
    assert!(info.kubelet_version.starts_with("v1.36."), "{}", info.kubelet_version);
    assert!(info.container_runtime_version.starts_with("containerd://"), "{info:?}");
    assert_eq!((info.operating_system.as_str(), info.architecture.as_str()), ("linux", "amd64"));
    for text in [&info.kernel_version, &info.os_image, &info.boot_id, &info.machine_id, &info.system_uuid] {
        assert!(!text.is_empty(), "{info:?}");
    }
    let (capacity, allocatable) = (status.capacity.unwrap(), status.allocatable.unwrap());
    let cpus = std::thread::available_parallelism().unwrap().to_string();
    assert_eq!((capacity["cpu"].0.as_str(), capacity["pods"].0.as_str()), (cpus.as_str(), "110"));
    for resource in ["cpu", "memory", "pods", "ephemeral-storage"] {
        assert!(capacity.contains_key(resource) && allocatable.contains_key(resource), "{resource}");
    }
    let addresses = status.addresses.unwrap();
    let address =
        |kind: &str| addresses.iter().find(|address| address.type_ == kind).unwrap().address.clone();
    assert_eq!(address("Hostname"), NAME);
    assert!(address("InternalIP").parse::<std::net::IpAddr>().is_ok(), "{addresses:?}");
    let labels = node.metadata.labels.clone().unwrap();
    assert_eq!(labels["kubernetes.io/hostname"], NAME);
    assert_eq!(labels["kubernetes.io/os"], "linux");
    assert_eq!(labels["kubernetes.io/arch"], "amd64");

    let first = wait::until("a lease", PATIENCE, || lease(&cluster));
    let owner = &first.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), Some(&owner.uid)), ("Node", node.metadata.uid.as_ref()));
    let spec = first.spec.unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_duration_seconds), (Some(NAME), Some(4)));
    wait::until("the lease to be renewed", PATIENCE, || {
        let renewed = lease(&cluster)?.spec.unwrap().renew_time;
        if renewed > spec.renew_time { Ok(()) } else { Err(format!("{renewed:?}")) }
    });
    let image = |node: &NodeObject| {
        let images = node.status.as_ref().and_then(|status| status.images.clone()).unwrap_or_default();
        images.iter().flat_map(|image| image.names.iter().flatten()).any(|name| name.contains("busybox"))
    };
    cluster.wait_node("to list its images", image);
}

#[test]
fn api_an_existing_node_keeps_what_others_wrote() {
    let mut cluster = Cluster::without_agent("registerWithTaints: [{key: fresh, effect: NoSchedule}]");
    cluster.api.create_json(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME,
        "labels": {"others": "own", "kubernetes.io/hostname": "wrong"}, "annotations": {"note": "kept"}},
        "spec": {"unschedulable": true, "taints": [{"key": "theirs", "effect": "NoExecute"}]}}));
    cluster.start_agent();
    let node = cluster.node_object();
    let labels = node.metadata.labels.unwrap();
    assert_eq!(labels["others"], "own");
    assert_eq!(labels["kubernetes.io/hostname"], NAME);
    assert_eq!(node.metadata.annotations.unwrap()["note"], "kept");
    let spec = node.spec.unwrap();
    assert_eq!(spec.unschedulable, Some(true));
    let taints: Vec<String> = spec.taints.unwrap().into_iter().map(|taint| taint.key).collect();
    assert!(taints.contains(&"theirs".to_owned()), "{taints:?}");
    assert!(!taints.contains(&"fresh".to_owned()), "taints to register with are for new nodes: {taints:?}");
}

#[test]
fn api_a_new_node_is_what_flags_say() {
    let mut cluster = Cluster::without_agent("");
    let flags = [
        "--node-labels=tier=back,zone=z1",
        "--register-with-taints=fresh=yes:NoSchedule",
        "--provider-id=maker://machine/7",
    ];
    cluster.node.arguments.extend(flags.map(str::to_owned));
    cluster.node.start_agent();
    let node = cluster.wait_node("to be there", |_| true);
    let (labels, spec) = (node.metadata.labels.unwrap(), node.spec.unwrap());
    assert_eq!((labels["tier"].as_str(), labels["zone"].as_str()), ("back", "z1"));
    assert_eq!(spec.provider_id.as_deref(), Some("maker://machine/7"));
    let taints: Vec<(String, Option<String>)> =
        spec.taints.unwrap().into_iter().map(|taint| (taint.key, taint.value)).collect();
    assert!(taints.contains(&("fresh".to_owned(), Some("yes".to_owned()))), "{taints:?}");
}

#[test]
fn api_a_node_stays_ready_when_its_agent_is_restarted() {
    let mut cluster = Cluster::start();
    let before = cluster.node_object();
    let uid = before.metadata.uid.clone().unwrap();
    for kill in [true, false] {
        let leased = wait::until("a lease", PATIENCE, || lease(&cluster)).spec.unwrap().renew_time;
        if kill {
            cluster.node.kill_agent();
        } else {
            cluster.node.stop_agent();
        }
        cluster.start_agent();
        wait::until("the new agent's lease", PATIENCE, || {
            if lease(&cluster)?.spec.unwrap().renew_time > leased {
                Ok(())
            } else {
                Err("it is old".to_owned())
            }
        });
        // Long enough for a first look that says NotReady to be written.
        wait::throughout(Duration::from_millis(500), || {
            assert_eq!(node_condition(&cluster.node_object(), "Ready"), "True");
        });
    }
    assert_eq!(cluster.node_object().metadata.uid, before.metadata.uid);
    let history: Vec<String> =
        cluster.api.history::<NodeObject>(&uid).iter().map(|node| node_condition(node, "Ready")).collect();
    let first_ready = history.iter().position(|ready| ready == "True").unwrap();
    assert!(history[first_ready..].iter().all(|ready| ready == "True"), "{history:?}");
}
