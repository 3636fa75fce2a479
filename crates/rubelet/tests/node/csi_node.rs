//! What a node tells of its drivers: the CSINode, labels and annotation of the Node; and what of its volumes: sizes, how
//! full they are, growth, and tokens that are given anew.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node as NodeObject, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rubelet_testkit::csi_driver::{Capability, Character, Fault, Method, Rule, Usage};
use serde_json::{Value, json};
use tonic::Code;

use crate::csi::{CsiNode, DRIVER, MIB};
use crate::node::NAME;
use crate::pods::{self, uid};
use crate::wait::{self, PATIENCE};

/// Longer than the slowest round of anything that is looked at from time to time.
const ROUND: Duration = Duration::from_secs(150);

fn label(node: &NodeObject, key: &str) -> Option<String> {
    node.metadata.labels.as_ref().and_then(|labels| labels.get(key).cloned())
}

#[test]
fn csi_the_node_tells_of_its_drivers() {
    let mut character = Character::named(DRIVER);
    character.max_volumes = 7;
    character.topology = [("topology.csi.test/zone".to_owned(), "z1".to_owned())].into();
    let mut node = CsiNode::with(character, &json!({"attachRequired": false}));
    let entry = node.entry(DRIVER).unwrap();
    assert_eq!(entry.node_id, format!("node-of-{DRIVER}"));
    assert_eq!(entry.topology_keys.unwrap_or_default(), ["topology.csi.test/zone"]);
    assert_eq!(entry.allocatable.and_then(|of| of.count), Some(7));
    let object = node.csi_node().unwrap();
    let owner = object.metadata.owner_references.unwrap_or_default().remove(0);
    let this = node.cluster.node_object();
    assert_eq!((owner.kind.as_str(), Some(&owner.uid)), ("Node", this.metadata.uid.as_ref()));
    assert_eq!(label(&this, "topology.csi.test/zone").as_deref(), Some("z1"));
    let annotation = this.metadata.annotations.unwrap_or_default()["csi.volume.kubernetes.io/nodeid"].clone();
    let ids: Value = serde_json::from_str(&annotation).unwrap();
    assert_eq!(ids, json!({DRIVER: format!("node-of-{DRIVER}")}));
    // The driver is told last.
    let told = wait::until("the driver to be told", PATIENCE, || {
        let mut calls = node.driver.calls().into_iter();
        calls.find(|call| call.method == Method::NotifyRegistrationStatus).ok_or_else(|| "nothing".to_owned())
    });
    assert_eq!(told.request["plugin_registered"], true);

    // A driver that comes back says what is true now.
    node.driver.stop();
    wait::until("the driver to be out of the CSINode", PATIENCE, || {
        if node.entry(DRIVER).is_none() { Ok(()) } else { Err("it is there".to_owned()) }
    });
    node.driver.change(|character| character.max_volumes = 9);
    node.driver.start().unwrap();
    wait::until("the new limit", PATIENCE, || {
        let count = node.entry(DRIVER).and_then(|entry| entry.allocatable).and_then(|of| of.count);
        if count == Some(9) { Ok(()) } else { Err(format!("{count:?}")) }
    });
    // The agent's own restart changes nothing.
    node.cluster.node.kill_agent();
    node.cluster.start_agent();
    node.wait_registered(DRIVER);
    assert_eq!(node.csi_node().unwrap().spec.drivers.len(), 1);
}

#[test]
fn csi_volumes_say_how_full_they_are() {
    let node = CsiNode::with(
        Character::named(DRIVER).that_can(&[Capability::VolumeCondition]),
        &json!({"attachRequired": false}),
    );
    node.driver.change(|character| {
        let usage = Usage { total: 10 * MIB, used: 3 * MIB, available: 7 * MIB, inodes: (100, 40, 60) };
        character.usage.insert("disk".to_owned(), usage);
        character.abnormal.insert("disk".to_owned(), "the wire is loose".to_owned());
    });
    node.claim("disk", &json!({}));
    let pod = node.run("pod", "disk", "true");
    node.cluster.wait_ready("pod");
    let volume = wait::until("the summary to have the volume", ROUND, || {
        let summary: Value = serde_json::from_str(&node.cluster.node.get("/stats/summary")?).unwrap();
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        let of_pod = pods.into_iter().find(|of| of["podRef"]["uid"] == uid(&pod)).unwrap_or_default();
        let volumes = of_pod["volume"].as_array().cloned().unwrap_or_default();
        let found =
            volumes.iter().find(|volume| volume["name"] == "data" && !volume["capacityBytes"].is_null());
        found.cloned().ok_or_else(|| format!("{volumes:?}"))
    });
    assert_eq!(volume["pvcRef"], json!({"name": "disk", "namespace": "default"}));
    for (field, wanted) in [
        ("capacityBytes", 10 * MIB),
        ("usedBytes", 3 * MIB),
        ("availableBytes", 7 * MIB),
        ("inodes", 100),
        ("inodesUsed", 40),
        ("inodesFree", 60),
    ] {
        assert_eq!(volume[field], wanted, "{field}");
    }
    let page = node.cluster.node.get("/metrics").unwrap();
    let of_claim = "{namespace=\"default\",persistentvolumeclaim=\"disk\"}";
    for (name, wanted) in [("capacity_bytes", 10 * MIB), ("used_bytes", 3 * MIB), ("inodes_free", 60)] {
        let begin = format!("kubelet_volume_stats_{name}{of_claim} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&begin));
        let value: f64 = line.unwrap_or_else(|| panic!("no {begin}")).parse().unwrap();
        assert_eq!(value, wanted as f64, "{name}");
    }
    // Nonsense and refusals cost the page nothing.
    node.driver.change(|character| {
        let usage = Usage { total: -1, used: i64::MIN, available: i64::MAX, inodes: (-5, 7, -9) };
        character.usage.insert("disk".to_owned(), usage);
    });
    node.driver.fault(Rule::on(Method::NodeGetVolumeStats, Fault::Fail(Code::Internal)).after(3));
    node.cluster.node.get("/stats/summary").unwrap();
    node.cluster.node.get("/metrics").unwrap();
    node.end(&pod);
    node.wait_nothing_left();
}

/// A claim and its volume have grown to two MiB, as its controllers leave them for the node to finish.
fn grow(node: &CsiNode, name: &str) {
    let two = || Some([("storage".to_owned(), Quantity("2Mi".to_owned()))].into());
    node.cluster.api.modify::<PersistentVolume>("", name, |volume| {
        volume.spec.get_or_insert_default().capacity = two();
    });
    node.cluster.api.modify::<PersistentVolumeClaim>("default", name, |claim| {
        claim.spec.get_or_insert_default().resources.get_or_insert_default().requests = two();
    });
    node.cluster.api.modify_status::<PersistentVolumeClaim>("default", name, |claim| {
        let status = claim.status.get_or_insert_default();
        status.allocated_resources = two();
        status.allocated_resource_statuses =
            Some([("storage".to_owned(), "NodeResizePending".to_owned())].into());
        let pending = json!([{"type": "FileSystemResizePending", "status": "True"}]);
        status.conditions = serde_json::from_value(pending).unwrap();
    });
}

#[test]
fn csi_volumes_grow_under_their_pods_and_before_they_start() {
    let node = CsiNode::start();
    let secret = json!({"name": "grow", "namespace": "default"});
    node.cluster.api.create_json(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "grow"},
        "stringData": {"key": "abracadabra"}}));
    node.cluster.api.create_json(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "grows"}, "provisioner": DRIVER, "allowVolumeExpansion": true}));
    for name in ["online", "offline", "never"] {
        node.claim(name, &json!({"storageClassName": "grows", "csi": {"nodeExpandSecretRef": secret}}));
    }
    node.driver.fault(Rule::on(Method::NodeExpandVolume, Fault::Fail(Code::OutOfRange)).volume("never"));
    for name in ["online", "never"] {
        node.run(name, name, "true");
        node.cluster.wait_ready(name);
        grow(&node, name);
    }
    grow(&node, "offline");
    node.run("offline", "offline", "true");
    node.cluster.wait_ready("offline");
    for name in ["offline", "online"] {
        wait::until(&format!("the claim {name} to have grown"), ROUND, || {
            let size = node.claimed_size(name);
            if size == "2Mi" { Ok(()) } else { Err(format!("{size} {:?}", node.driver.changes_of(name))) }
        });
        assert_eq!(node.driver.capacity(name), Some(2 * MIB));
        let call = node.driver.calls_of(Method::NodeExpandVolume, name).remove(0);
        assert_eq!(call.request["required_bytes"], 2 * MIB);
        assert_eq!(call.request["secrets"], json!({"key": "abracadabra"}));
        node.wait_told(name, "FileSystemResizeSuccessful", &[]);
        let claim: PersistentVolumeClaim = node.cluster.api.get("default", name).unwrap();
        let status = claim.status.unwrap_or_default();
        assert!(status.conditions.unwrap_or_default().is_empty(), "{name} waits for nothing any more");
        assert!(status.allocated_resource_statuses.unwrap_or_default().is_empty(), "{name}");
    }
    wait::until("the claim that cannot grow to say so", ROUND, || {
        let claim: PersistentVolumeClaim = node.cluster.api.get("default", "never").unwrap();
        let statuses = claim.status.unwrap_or_default().allocated_resource_statuses.unwrap_or_default();
        match statuses.get("storage").map(String::as_str) {
            Some("NodeResizeInfeasible") => Ok(()),
            other => Err(format!("{other:?} {:?}", node.driver.changes_of("never"))),
        }
    });
    node.wait_told("never", "VolumeResizeFailed", &["never"]);
    assert_eq!(node.claimed_size("never"), "1Mi");
    assert!(pods::ready(&node.cluster.pod("never")));
    for name in ["online", "offline", "never"] {
        node.end(&node.cluster.pod(name));
    }
    node.wait_nothing_left();
    assert!(!node.cluster.node.agent_log().contains("abracadabra"), "the log tells a secret");
}

#[test]
fn csi_a_driver_gets_tokens_of_the_pod_and_gets_them_again() {
    let node = CsiNode::with(
        Character::named(DRIVER),
        &json!({"attachRequired": false, "podInfoOnMount": true, "requiresRepublish": true,
                "volumeLifecycleModes": ["Ephemeral"],
                "tokenRequests": [{"audience": "vault", "expirationSeconds": 600}]}),
    );
    let volume = format!("csi: {{driver: {DRIVER}}}");
    let pod = node.cluster.run("pod", &crate::csi::showing(&volume, "ls /data", ""));
    node.cluster.wait_ready("pod");
    let published = || {
        let mut calls = node.driver.calls();
        calls.retain(|call| call.method == Method::NodePublishVolume);
        calls
    };
    let call = published().remove(0);
    let tokens = call.request["volume_context"]["csi.storage.k8s.io/serviceAccount.tokens"].clone();
    let tokens: Value = serde_json::from_str(tokens.as_str().unwrap()).unwrap();
    let (token, expires) = (&tokens["vault"]["token"], &tokens["vault"]["expirationTimestamp"]);
    assert!(
        token.as_str().is_some_and(|token| token.split('.').count() == 3) && expires.is_string(),
        "{tokens}"
    );
    // Again and again, to the same place; that it fails once is nothing to the pod.
    node.driver.fault(Rule::on(Method::NodePublishVolume, Fault::Fail(Code::Internal)).times(1));
    wait::until("the volume to be published again", ROUND, || {
        let good = published().iter().filter(|call| call.succeeded()).count();
        if good >= 2 { Ok(()) } else { Err(format!("{good}")) }
    });
    let calls = published();
    assert!(calls.iter().all(|again| again.text("target_path") == call.text("target_path")));
    assert_eq!(node.driver.places().len(), 1);
    let now = node.cluster.pod("pod");
    assert!(pods::ready(&now) && pods::restarts(&now, "c") == 0);
    let log = node.cluster.node.agent_log();
    assert!(!log.contains(token.as_str().unwrap()), "the log tells a token");
    assert_eq!(node.cluster.node_object().metadata.name.as_deref(), Some(NAME));
    node.end(&pod);
    node.wait_nothing_left();
}
