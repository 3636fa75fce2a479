//! The agent's own Node object: what it says, and how it is changed.
//!
//! Owns every decision about the Node and its Lease: what a new one says ([`initial_node`]), what an existing
//! one must be brought to ([`reconcile`]), what the status says now ([`observe_status`]) and the patch that
//! makes it so ([`patch`]). Never talks to anybody and knows no clock. The shell's node agent gathers the
//! facts, calls these functions and carries the answers to the API server.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{DaemonEndpoint, Node, NodeDaemonEndpoints, NodeSpec, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub mod addresses;
pub mod capacity;
pub mod conditions;
pub mod csi;
pub mod info;
pub mod lease;
pub mod lists;
pub mod patch;
pub mod pressure;
pub mod reconcile;
pub mod stuck;
pub mod telling;

#[cfg(test)]
mod tests;

use addresses::{AddressConfig, AddressError, AddressFacts};
use capacity::{CapacityFacts, Reservations};
use conditions::Readiness;
use info::{ImageReport, MachineIdentity, RuntimeReport};
use pressure::Pressures;

use crate::devices::Count;

/// Tells the controllers that volumes are attached for this node (upstream `ControllerManagedAttachAnnotation`).
pub const CONTROLLER_ATTACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const HOSTNAME: &str = "kubernetes.io/hostname";
const OS: &str = "kubernetes.io/os";
const ARCH: &str = "kubernetes.io/arch";
const BETA_OS: &str = "beta.kubernetes.io/os";
const BETA_ARCH: &str = "beta.kubernetes.io/arch";
/// Keeps pods away until an external cloud provider has looked at the node.
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";

/// What was configured about the Node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeConfig {
    /// Names and `--node-ip`.
    pub addresses: AddressConfig,
    /// `--node-labels`.
    pub labels: BTreeMap<String, String>,
    /// `registerWithTaints`.
    pub taints: Vec<Taint>,
    /// `providerID`; empty is none.
    pub provider_id: String,
    /// `enableControllerAttachDetach`.
    pub controller_attach: bool,
    /// What is kept from pods.
    pub reservations: Reservations,
    /// `nodeStatusMaxImages`; -1 is no cap.
    pub max_images: i32,
    /// `port`.
    pub port: i32,
    /// `localStorageCapacityIsolation`.
    pub local_storage: bool,
    /// The version given as kubelet's, see [`info::kubelet_version`].
    pub kubelet_version: String,
}

/// What is known of the node at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeObservation<'a> {
    /// The machine.
    pub machine: &'a MachineIdentity,
    /// What capacity follows from.
    pub capacity: &'a CapacityFacts,
    /// What device plugins offer.
    pub devices: &'a BTreeMap<String, Count>,
    /// Addresses of this machine.
    pub addresses: &'a AddressFacts,
    /// The runtime; `None` before it has answered, when what stands in the status stays.
    pub runtime: Option<&'a RuntimeReport>,
    /// Its images; `None` when they are not known, when what stands in the status stays.
    pub images: Option<&'a [ImageReport]>,
    /// Features to declare, see [`info::declared_features`].
    pub declared_features: &'a [String],
    /// Volumes that must not be detached, by their unique names; `None` when that is not known, when what stands in the
    /// status stays.
    pub volumes_in_use: Option<&'a [String]>,
    /// Shortages.
    pub pressures: Pressures,
    /// Whether the node is ready, apart from what the status itself lacks.
    pub readiness: Readiness,
}

/// An event about the Node that follows from a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    /// Whether it is a Warning.
    pub warning: bool,
    /// Upstream's reason.
    pub reason: &'static str,
    /// The whole message, or `None` for "Node … status is now: …".
    pub message: Option<String>,
}

impl NodeEvent {
    /// "Node … status is now: reason".
    pub fn status(reason: &'static str) -> Self {
        Self { warning: false, reason, message: None }
    }

    /// The message for the node of this name.
    pub fn text(&self, node: &str) -> String {
        match &self.message {
            Some(message) => message.clone(),
            None => format!("Node {node} status is now: {}", self.reason),
        }
    }
}

/// What a look at the node gave besides the status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatusNotes {
    /// Events to record once the status has been accepted.
    pub events: Vec<NodeEvent>,
    /// Why addresses stayed as they were, if they did.
    pub address_problem: Option<AddressError>,
}

/// A Node as it is registered, without status (upstream `initialNode`).
pub fn initial_node(config: &NodeConfig, architecture: &str) -> Node {
    let mut labels: BTreeMap<String, String> = [
        (HOSTNAME, config.addresses.hostname.as_str()),
        (OS, "linux"),
        (ARCH, architecture),
        (BETA_OS, "linux"),
        (BETA_ARCH, architecture),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    labels.extend(config.labels.clone());
    let mut taints = config.taints.clone();
    if config.addresses.external_cloud {
        taints.push(Taint {
            key: UNINITIALIZED.to_owned(),
            value: Some("true".to_owned()),
            effect: "NoSchedule".to_owned(),
            time_added: None,
        });
    }
    let annotations =
        config.controller_attach.then(|| BTreeMap::from([(CONTROLLER_ATTACH.to_owned(), "true".to_owned())]));
    Node {
        metadata: ObjectMeta {
            name: Some(config.addresses.node_name.clone()),
            labels: Some(labels),
            annotations,
            ..Default::default()
        },
        spec: Some(NodeSpec {
            taints: (!taints.is_empty()).then_some(taints),
            provider_id: (!config.provider_id.is_empty()).then(|| config.provider_id.clone()),
            ..Default::default()
        }),
        status: None,
    }
}

/// Writes what is observed into the Node: status, the annotation for a cloud provider, and the two labels without
/// which no pod fits (upstream `updateNode` with its setters). What others have put into the status stays.
///
/// `now` is cut to whole seconds, which is what the API keeps.
pub fn observe_status(
    config: &NodeConfig,
    observation: &NodeObservation<'_>,
    node: &mut Node,
    now: Timestamp,
) -> StatusNotes {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mut notes = StatusNotes::default();
    write_metadata(config, &observation.machine.architecture, node);
    let status = node.status.get_or_insert_default();

    let present = status.addresses.take().unwrap_or_default();
    let addresses = match config.addresses.addresses(&present, observation.addresses) {
        Ok(addresses) => addresses,
        Err(problem) => {
            notes.address_problem = Some(problem);
            present
        }
    };
    status.addresses = (!addresses.is_empty()).then_some(addresses);

    capacity::write(status, &capacity::capacity(observation.capacity), &config.reservations);
    capacity::write_devices(status, observation.devices);
    notes.events.extend(reboot_event(config, observation.machine, status.node_info.as_ref()));
    info::write_info(status, observation.machine, observation.runtime, &config.kubelet_version);
    status.daemon_endpoints =
        Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: config.port }) });
    if let Some(images) = observation.images {
        let images = info::images(images, config.max_images);
        status.images = (!images.is_empty()).then_some(images);
    }
    if let Some(runtime) = observation.runtime {
        info::write_runtime(status, runtime);
    }
    let declared = observation.declared_features;
    status.declared_features = (!declared.is_empty()).then(|| declared.to_vec());

    if let Some(volumes) = observation.volumes_in_use {
        status.volumes_in_use = (!volumes.is_empty()).then(|| volumes.to_vec());
    }

    let readiness = with_missing_capacity(config, &observation.readiness, status.capacity.as_ref());
    let conditions = status.conditions.get_or_insert_default();
    notes.events.extend(conditions::update(conditions, observation.pressures, &readiness, now));
    notes
}

fn write_metadata(config: &NodeConfig, architecture: &str, node: &mut Node) {
    let labels = node.metadata.labels.get_or_insert_default();
    for (key, value) in [(OS, "linux"), (ARCH, architecture)] {
        if labels.get(key).map(String::as_str) != Some(value) {
            labels.insert(key.to_owned(), value.to_owned());
        }
    }
    match config.addresses.provided_annotation() {
        Some(value) => {
            let annotations = node.metadata.annotations.get_or_insert_default();
            annotations.insert(addresses::PROVIDED_NODE_IP.to_owned(), value);
        }
        None => {
            if let Some(annotations) = &mut node.metadata.annotations {
                annotations.remove(addresses::PROVIDED_NODE_IP);
            }
        }
    }
}

fn reboot_event(
    config: &NodeConfig,
    machine: &MachineIdentity,
    before: Option<&k8s_openapi::api::core::v1::NodeSystemInfo>,
) -> Option<NodeEvent> {
    let before = before.map(|info| info.boot_id.as_str()).filter(|id| !id.is_empty())?;
    (before != machine.boot_id).then(|| NodeEvent {
        warning: true,
        reason: "Rebooted",
        message: Some(format!(
            "Node {} has been rebooted, boot id: {}",
            config.addresses.node_name, machine.boot_id
        )),
    })
}

fn with_missing_capacity<V>(
    config: &NodeConfig,
    readiness: &Readiness,
    capacity: Option<&BTreeMap<String, V>>,
) -> Readiness {
    let Readiness::Problems(problems) = readiness else { return Readiness::Keep };
    let mut problems = problems.clone();
    let wanted =
        ["cpu", "memory", "pods"].into_iter().chain(config.local_storage.then_some("ephemeral-storage"));
    let missing: Vec<&str> =
        wanted.filter(|name| !capacity.is_some_and(|capacity| capacity.contains_key(*name))).collect();
    if !missing.is_empty() {
        problems.push(format!("missing node capacity for resources: {}", missing.join(", ")));
    }
    Readiness::Problems(problems)
}
