//! Tests of the Node as a whole: a new one, an existing one, changes and their patches.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::addresses::{AddressConfig, AddressFacts};
use super::capacity::{CapacityFacts, HugePages, Reservations};
use super::conditions::Readiness;
use super::info::{ImageReport, MachineIdentity, RuntimeReport};
use super::pressure::Pressures;
use super::*;
use crate::devices::Count;

struct World {
    config: NodeConfig,
    machine: MachineIdentity,
    capacity: CapacityFacts,
    devices: BTreeMap<String, Count>,
    addresses: AddressFacts,
    runtime: Option<RuntimeReport>,
    images: Option<Vec<ImageReport>>,
    pressures: Pressures,
    readiness: Readiness,
}

impl World {
    fn new() -> Self {
        Self {
            config: NodeConfig {
                addresses: AddressConfig {
                    node_name: "node-1".into(),
                    hostname: "node-1".into(),
                    node_ips: vec!["192.0.2.10".parse().unwrap()],
                    external_cloud: false,
                },
                controller_attach: true,
                max_images: 50,
                port: 10250,
                local_storage: true,
                kubelet_version: "v1.36.2+rubelet.0.1.0".into(),
                ..Default::default()
            },
            machine: MachineIdentity {
                machine_id: "m-1".into(),
                system_uuid: "u-1".into(),
                boot_id: "b-1".into(),
                kernel_release: "6.1.0".into(),
                os_image: "Debian GNU/Linux 12 (bookworm)".into(),
                swap_bytes: 0,
                architecture: "amd64".into(),
            },
            capacity: CapacityFacts {
                cpus: 2,
                memory_bytes: 1 << 30,
                ephemeral_storage_bytes: Some(1 << 40),
                max_pods: 110,
                ..Default::default()
            },
            devices: BTreeMap::new(),
            addresses: AddressFacts {
                interfaces: vec!["192.0.2.10".parse().unwrap(), "192.0.2.11".parse().unwrap()],
                ..Default::default()
            },
            runtime: Some(RuntimeReport {
                name: "containerd".into(),
                version: "1.6.20~ds1".into(),
                ..Default::default()
            }),
            images: Some(vec![ImageReport { tags: vec!["a:1".into()], bytes: 7, ..Default::default() }]),
            pressures: Pressures::default(),
            readiness: Readiness::Problems(vec![]),
        }
    }

    fn observe(&self, node: &mut Node, seconds: i64) -> StatusNotes {
        let observation = NodeObservation {
            machine: &self.machine,
            capacity: &self.capacity,
            devices: &self.devices,
            addresses: &self.addresses,
            runtime: self.runtime.as_ref(),
            images: self.images.as_deref(),
            declared_features: &[],
            volumes_in_use: Some(&[]),
            pressures: self.pressures,
            readiness: self.readiness.clone(),
        };
        let now = Timestamp::from_millisecond(seconds * 1000 + 500).unwrap();
        observe_status(&self.config, &observation, node, now)
    }

    fn new_node(&self) -> Node {
        let mut node = initial_node(&self.config, &self.machine.architecture);
        self.observe(&mut node, 0);
        node
    }
}

fn reasons(notes: &StatusNotes) -> Vec<&str> {
    notes.events.iter().map(|event| event.reason).collect()
}

#[test]
fn a_new_node_says_everything() {
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
               "lastHeartbeatTime": "1970-01-01T00:00:00Z", "lastTransitionTime": "1970-01-01T00:00:00Z"})
    };
    assert_eq!(
        serde_json::to_value(World::new().new_node()).unwrap(),
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": "node-1",
                "labels": {
                    "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux",
                    "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "kubernetes.io/hostname": "node-1",
                },
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            },
            "spec": {},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "192.0.2.10"}, {"type": "Hostname", "address": "node-1"},
                ],
                "capacity": {"cpu": "2", "memory": "1Gi", "pods": "110", "ephemeral-storage": "1Ti"},
                "allocatable": {"cpu": "2", "memory": "1Gi", "pods": "110", "ephemeral-storage": "1Ti"},
                "nodeInfo": {
                    "machineID": "m-1", "systemUUID": "u-1", "bootID": "b-1", "kernelVersion": "6.1.0",
                    "osImage": "Debian GNU/Linux 12 (bookworm)", "containerRuntimeVersion": "containerd://1.6.20",
                    "kubeletVersion": "v1.36.2+rubelet.0.1.0", "kubeProxyVersion": "",
                    "operatingSystem": "linux", "architecture": "amd64",
                },
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
                "images": [{"names": ["a:1"], "sizeBytes": 7}],
                "features": {"supplementalGroupsPolicy": false},
                "conditions": [
                    condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                    condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                    condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                    condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
                ],
            },
        })
    );
}

#[test]
fn labels_taints_and_provider_come_from_the_configuration() {
    let mut world = World::new();
    world.config.labels = [("kubernetes.io/hostname".to_owned(), "other".to_owned())].into();
    world.config.taints = vec![Taint { key: "a".into(), effect: "NoExecute".into(), ..Default::default() }];
    world.config.provider_id = "cloud://1".into();
    world.config.addresses.external_cloud = true;
    world.config.controller_attach = false;
    let node = world.new_node();
    let spec = serde_json::to_value(node.spec).unwrap();
    assert_eq!(
        spec,
        json!({
            "providerID": "cloud://1",
            "taints": [
                {"key": "a", "effect": "NoExecute"},
                {"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"},
            ],
        })
    );
    assert_eq!(node.metadata.labels.unwrap()["kubernetes.io/hostname"], "other");
    let annotations = node.metadata.annotations.unwrap();
    assert_eq!(
        annotations.into_iter().collect::<Vec<_>>(),
        [("alpha.kubernetes.io/provided-node-ip".to_owned(), "192.0.2.10".to_owned())]
    );
}

#[test]
fn an_unchanged_node_only_beats() {
    let world = World::new();
    let old = world.new_node();
    let mut new = old.clone();
    assert_eq!(world.observe(&mut new, 10), StatusNotes::default());
    assert!(!patch::has_changed(&old, &new));
    let beat = |kind: &str| json!({"type": kind, "lastHeartbeatTime": "1970-01-01T00:00:10Z"});
    assert_eq!(
        patch::status_patch(&old, &new),
        Some(json!({"status": {"conditions":
            [beat("MemoryPressure"), beat("DiskPressure"), beat("PIDPressure"), beat("Ready")]}}))
    );
    assert_eq!(patch::status_patch(&old, &old), None);
}

#[test]
fn a_change_is_seen_and_patched_alone() {
    let mut world = World::new();
    let old = world.new_node();
    world.config.addresses.node_ips = vec!["192.0.2.11".parse().unwrap()];
    world.readiness = Readiness::Problems(vec!["container runtime is down".into()]);
    world.images = Some(vec![]);
    let mut new = old.clone();
    let notes = world.observe(&mut new, 0);
    assert_eq!(reasons(&notes), ["NodeNotReady"]);
    assert!(patch::has_changed(&old, &new));
    assert_eq!(
        patch::status_patch(&old, &new),
        Some(json!({"status": {
            "addresses": [
                {"type": "InternalIP", "address": "192.0.2.11"}, {"type": "Hostname", "address": "node-1"},
                {"$patch": "replace"},
            ],
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "container runtime is down"},
            ],
            "images": null,
        }}))
    );
}

#[test]
fn first_addresses_are_no_replacement() {
    let world = World::new();
    let old = Node::default();
    let mut new = old.clone();
    world.observe(&mut new, 0);
    let patch = patch::status_patch(&old, &new).unwrap();
    assert_eq!(patch["status"]["addresses"].as_array().unwrap().len(), 2);
    assert_eq!(
        patch["metadata"],
        json!({"labels": {"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"}})
    );
}

#[test]
fn a_reboot_is_told() {
    let mut world = World::new();
    let old = world.new_node();
    world.machine.boot_id = "b-2".into();
    let mut new = old.clone();
    let notes = world.observe(&mut new, 10);
    assert_eq!(reasons(&notes), ["Rebooted"]);
    assert!(notes.events[0].warning);
    assert_eq!(notes.events[0].text("node-1"), "Node node-1 has been rebooted, boot id: b-2");
    assert_eq!(world.observe(&mut new, 20).events, []);
    assert!(reconcile::may_keep_ready(&new, &world.machine));
    assert!(!reconcile::may_keep_ready(&old, &world.machine));
}

#[test]
fn a_restart_without_the_runtime_changes_nothing() {
    let mut world = World::new();
    let old = world.new_node();
    world.runtime = None;
    world.images = None;
    world.readiness = Readiness::Keep;
    let mut new = old.clone();
    world.observe(&mut new, 10);
    assert!(!patch::has_changed(&old, &new));
}

#[test]
fn what_is_missing_makes_the_node_unready() {
    let mut world = World::new();
    world.capacity.ephemeral_storage_bytes = None;
    let ready = |world: &World| {
        let status = world.new_node().status.unwrap();
        status.conditions.unwrap()[3].message.clone().unwrap()
    };
    assert_eq!(ready(&world), "missing node capacity for resources: ephemeral-storage");
    world.config.local_storage = false;
    assert_eq!(ready(&world), "kubelet is posting ready status");
}

#[test]
fn addresses_stay_when_none_is_found() {
    let mut world = World::new();
    let mut node = world.new_node();
    world.addresses.interfaces.clear();
    let notes = world.observe(&mut node, 10);
    assert!(notes.address_problem.is_some());
    assert_eq!(node.status.unwrap().addresses.unwrap().len(), 2);
}

#[test]
fn an_existing_node_is_reconciled_where_the_agent_has_the_say() {
    let mut world = World::new();
    world.config.labels = [
        ("topology.kubernetes.io/zone".to_owned(), "z1".to_owned()),
        ("beta.kubernetes.io/instance-type".to_owned(), String::new()),
        ("team".to_owned(), "new".to_owned()),
    ]
    .into();
    world.capacity.huge_pages = vec![HugePages { page_bytes: 2 << 20, count: 1 }];
    let initial = world.new_node();
    let mut existing: Node = serde_json::from_value(json!({
        "metadata": {
            "name": "node-1",
            "labels": {"kubernetes.io/hostname": "old", "team": "theirs", "beta.kubernetes.io/instance-type": "x"},
            "annotations": {"theirs": "1"},
        },
        "spec": {"podCIDR": "10.0.0.0/24", "taints": [{"key": "k", "effect": "NoSchedule"}], "unschedulable": true},
        "status": {
            "capacity": {"cpu": "1", "example.com/dongle": "4", "hugepages-1Gi": "2Gi"},
            "allocatable": {"cpu": "1", "example.com/dongle": "4", "hugepages-1Gi": "2Gi"},
        },
    }))
    .unwrap();
    let spec = existing.spec.clone();
    reconcile::existing_node(&mut existing, &initial, true);
    assert_eq!(existing.spec, spec);
    assert_eq!(
        serde_json::to_value(&existing.metadata).unwrap(),
        json!({
            "name": "node-1",
            "labels": {
                "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "kubernetes.io/os": "linux", "kubernetes.io/hostname": "node-1", "team": "theirs",
                "topology.kubernetes.io/zone": "z1",
            },
            "annotations": {"theirs": "1", "volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        })
    );
    let expected = json!({"cpu": "1", "example.com/dongle": "0", "hugepages-2Mi": "2Mi"});
    let status = existing.status.clone().unwrap();
    assert_eq!(serde_json::to_value(status.capacity).unwrap(), expected);
    assert_eq!(serde_json::to_value(status.allocatable).unwrap(), expected);

    world.config.controller_attach = false;
    reconcile::existing_node(&mut existing, &world.new_node(), false);
    assert_eq!(existing.metadata.annotations.unwrap().into_keys().collect::<Vec<_>>(), ["theirs"]);
}

#[test]
fn whose_node_it_is() {
    let check = |machine_id: &str, uuid: &str, other: bool| {
        let world = World::new();
        let node = world.new_node();
        let machine = MachineIdentity {
            machine_id: machine_id.into(),
            system_uuid: uuid.into(),
            ..world.machine.clone()
        };
        assert_eq!(reconcile::other_machine(&node, &machine).is_some(), other, "{machine_id} {uuid}");
    };
    check("m-1", "u-1", false);
    check("m-1", "U-1", false);
    // Installed anew.
    check("m-2", "u-1", false);
    // A clone.
    check("m-1", "u-2", true);
    check("m-2", "u-2", true);
    check("m-2", "", true);
    check("m-1", "", false);
    check("", "", false);
    assert_eq!(reconcile::other_machine(&Node::default(), &World::new().machine), None);
    let node = World::new().new_node();
    assert_eq!(reconcile::last_heartbeat(&node), Some(Timestamp::UNIX_EPOCH));
}

#[test]
fn reservations_show_in_allocatable_only() {
    let mut world = World::new();
    world.config.reservations = Reservations::new(
        &[("memory".to_owned(), "256Mi".to_owned())].into(),
        &Default::default(),
        0,
        &Default::default(),
    );
    let status = world.new_node().status.unwrap();
    assert_eq!(status.capacity.unwrap()["memory"].0, "1Gi");
    assert_eq!(status.allocatable.unwrap()["memory"].0, "768Mi");
}

/// Applies a status patch as the API server would, for the kinds of change the agent makes.
fn apply(target: &mut Value, patch: &Value) {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else { panic!("not objects") };
    for (key, change) in patch {
        match (target.get_mut(key), change) {
            (_, Value::Null) => {
                target.remove(key);
            }
            (Some(Value::Array(conditions)), Value::Array(changes)) if key == "conditions" => {
                for change in changes {
                    match conditions.iter_mut().find(|c| c["type"] == change["type"]) {
                        Some(condition) => apply(condition, change),
                        None => conditions.push(change.clone()),
                    }
                }
            }
            (Some(before @ Value::Object(_)), Value::Object(_)) => apply(before, change),
            (_, Value::Array(items)) => {
                let items = items.iter().filter(|item| item.get("$patch").is_none()).cloned().collect();
                target.insert(key.clone(), Value::Array(items));
            }
            (_, other) => {
                target.insert(key.clone(), other.clone());
            }
        }
    }
}

proptest! {
    #[test]
    fn a_patch_leads_from_one_state_to_the_other(
        problems in proptest::collection::vec("[a-c]", 0..3),
        images in proptest::collection::vec(0_u64..4, 0..4),
        memory in any::<bool>(), cpus in 1_u32..4, seconds in 0_i64..100, ip in 10_u8..13,
    ) {
        let mut world = World::new();
        let old = world.new_node();
        world.readiness = Readiness::Problems(problems);
        world.images = Some(images.into_iter().map(|bytes| ImageReport { bytes, ..Default::default() }).collect());
        world.pressures.memory = memory;
        world.capacity.cpus = cpus;
        world.config.addresses.node_ips = vec![[192, 0, 2, ip].into()];
        let mut new = old.clone();
        world.observe(&mut new, seconds);
        let mut applied = serde_json::to_value(&old).unwrap();
        if let Some(patch) = patch::status_patch(&old, &new) {
            apply(&mut applied, &patch);
        }
        let applied: Node = serde_json::from_value(applied).unwrap();
        prop_assert!(!patch::has_changed(&applied, &new));
        prop_assert_eq!(patch::status_patch(&applied, &new), None);
    }
}

#[test]
fn devices_are_told_as_their_plugins_tell_them() {
    let mut world = World::new();
    let gpu = "example.com/gpu";
    let told = |node: &Node| {
        let status = node.status.as_ref().unwrap();
        let of = |list: &Option<BTreeMap<String, _>>| {
            list.as_ref()
                .and_then(|list| list.get(gpu))
                .map(|quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| quantity.0.clone())
        };
        (of(&status.capacity), of(&status.allocatable))
    };
    let pair = |capacity: &str, allocatable: &str| (Some(capacity.to_owned()), Some(allocatable.to_owned()));
    let mut node = world.new_node();
    assert_eq!(told(&node), (None, None));
    world.devices.insert(gpu.into(), Count { capacity: 3, allocatable: 2 });
    world.observe(&mut node, 1);
    assert_eq!(told(&node), pair("3", "2"));
    // Nothing is said of it after a restart: what was told stays.
    world.devices.clear();
    world.observe(&mut node, 2);
    assert_eq!(told(&node).0, Some("3".to_owned()));
    world.devices.insert(gpu.into(), Count::default());
    world.observe(&mut node, 3);
    assert_eq!(told(&node), pair("0", "0"));
}
