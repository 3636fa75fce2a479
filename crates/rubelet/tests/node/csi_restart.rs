//! kill -9 of the agent at moments of a volume's life, with a driver whose calls go on meanwhile: the next agent knows what
//! is mounted, mounts nothing twice, forgets nothing, and takes nothing from a container that runs.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use rubelet_testkit::csi_driver::{Fault, FaultHandle, Method, Rule};
use serde_json::json;

use crate::csi::{CsiNode, DRIVER};
use crate::pods::{container_id, restarts};
use crate::runtime::mounts_below;
use crate::wait::{self, PATIENCE};

fn wait_struck(node: &CsiNode, fault: &FaultHandle) {
    wait::until("the call to come", PATIENCE, || {
        if fault.hits() > 0 { Ok(()) } else { Err(format!("{:?}", node.driver.changes_of("disk"))) }
    });
}

/// Mounts of the volume for pods: never more than one each.
fn targets(node: &CsiNode) -> Vec<String> {
    let mut mounts = mounts_below(&node.cluster.node.root().join("pods"));
    mounts.retain(|point| point.contains("kubernetes.io~csi"));
    mounts
}

#[test]
fn csi_volumes_of_running_pods_are_adopted() {
    let mut node = CsiNode::start();
    node.claim("disk", &json!({}));
    node.driver.provide_device("raw", 1 << 20).unwrap();
    node.bind(DRIVER, "raw", &json!({"volumeMode": "Block"}));
    let spec = crate::csi::claiming("disk", "echo x > /data/x", "")
        .replace("volumeMounts", "volumeDevices: [{name: raw, devicePath: /dev/raw}]\n  volumeMounts")
        + "- {name: raw, persistentVolumeClaim: {claimName: raw}}\n";
    let pod = node.cluster.run("pod", &spec);
    let id = container_id(&node.cluster.wait_ready("pod"), "c");
    let mounts = mounts_below(&node.cluster.node.root());
    node.cluster.node.kill_agent();
    node.cluster.start_agent();
    node.wait_registered(DRIVER);
    let adopted = node.cluster.wait_ready("pod");
    assert_eq!((container_id(&adopted, "c"), restarts(&adopted, "c")), (id, 0));
    // One more pod on the same volume: asking to stage what is staged changes nothing.
    let second = node.run("second", "disk", "cat /data/x");
    node.cluster.wait_ready("second");
    assert!(node.driver.calls_of(Method::NodeStageVolume, "disk").len() <= 2);
    assert_eq!(targets(&node).len(), 2);
    node.end(&second);
    assert_eq!(mounts_below(&node.cluster.node.root()), mounts);

    // Pod, claim and volume go while no agent runs: what is known on the node has to be enough.
    node.cluster.node.kill_agent();
    node.cluster.api.delete_with_grace::<Pod>("default", "pod", 0);
    for name in ["disk", "raw"] {
        node.cluster.api.delete::<PersistentVolumeClaim>("default", name);
        node.cluster.api.delete::<PersistentVolume>("", name);
    }
    node.cluster.start_agent();
    node.cluster.wait_nothing_left(&pod);
    node.wait_nothing_left();
    for name in ["disk", "raw"] {
        let changes = node.driver.changes_of(name);
        assert_eq!(changes[changes.len() - 2..], ["NodeUnpublishVolume", "NodeUnstageVolume"], "{name}");
    }
}

/// A pod that is being started or ended when the agent is killed, at one call of the driver.
fn killed_at(method: Method, what: Fault) {
    let mut node = CsiNode::start();
    let folder = node.claim("disk", &json!({}));
    let starts = matches!(method, Method::NodeStageVolume | Method::NodePublishVolume);
    let fault = node.driver.fault(Rule::on(method, what).times(1));
    let pod = node.run("pod", "disk", "echo run >> /data/runs");
    if !starts {
        node.cluster.wait_ready("pod");
        node.cluster.api.delete::<Pod>("default", "pod");
    }
    wait_struck(&node, &fault);
    node.cluster.node.kill_agent();
    fault.stop();
    node.cluster.start_agent();
    if starts {
        node.cluster.wait_ready("pod");
        assert_eq!(targets(&node).len(), 1);
        node.end(&pod);
    } else {
        node.cluster.wait_gone(&pod);
    }
    node.wait_nothing_left();
    assert_eq!(std::fs::read_to_string(folder.join("runs")).unwrap(), "run\n", "{method:?}");
}

#[test]
fn csi_an_agent_killed_while_staging_or_publishing_goes_on_where_it_was() {
    for method in [Method::NodeStageVolume, Method::NodePublishVolume] {
        killed_at(method, Fault::Hang);
        killed_at(method, Fault::DoThenHang);
    }
}

#[test]
fn csi_an_agent_killed_while_unpublishing_or_unstaging_goes_on_where_it_was() {
    for method in [Method::NodeUnpublishVolume, Method::NodeUnstageVolume] {
        killed_at(method, Fault::Hang);
        killed_at(method, Fault::DoThenHang);
    }
}

#[test]
fn csi_a_pod_deleted_while_its_volume_came_leaves_nothing() {
    let mut node = CsiNode::start();
    for (method, killed) in [(Method::NodeStageVolume, false), (Method::NodePublishVolume, true)] {
        let name = format!("disk-{killed}");
        node.claim(&name, &json!({}));
        let fault = node.driver.fault(Rule::on(method, Fault::DoThenHang).volume(&name).times(1));
        let pod = node.run(&name, &name, "true");
        wait_struck(&node, &fault);
        node.cluster.api.delete_with_grace::<Pod>("default", &name, 0);
        if killed {
            node.cluster.node.kill_agent();
            fault.stop();
            node.cluster.start_agent();
        } else {
            fault.stop();
        }
        node.cluster.wait_nothing_left(&pod);
        node.wait_nothing_left();
    }
}
