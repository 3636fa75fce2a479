//! What a Node that already exists is brought to when the agent starts.
//!
//! Owns the reconciliation of upstream's `tryRegisterWithAPIServer` (attach annotation, default labels, extended
//! resources, huge pages) and the question whose Node it is. Everything else on the object belongs to others and
//! stays: taints, other labels, pod CIDRs. Never talks to the API server.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::capacity::{is_extended, is_huge_pages, set};
use super::info::MachineIdentity;
use super::{ARCH, BETA_ARCH, BETA_OS, CONTROLLER_ATTACH, HOSTNAME, OS};
use crate::quantity::Amount;

/// Labels that a start sets again when it has a value for them.
const DEFAULT_LABELS: [&str; 11] = [
    HOSTNAME,
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    OS,
    ARCH,
    BETA_OS,
    BETA_ARCH,
];

/// Brings `existing` to what `initial` (a new Node with its status) says, where the agent has the say.
///
/// `reset_extended`: nothing is known of devices, so that extended resources count as gone until their plugins
/// register (upstream: no device checkpoint).
pub fn existing_node(existing: &mut Node, initial: &Node, reset_extended: bool) {
    attach_annotation(existing, initial);
    default_labels(existing, initial);
    let status = existing.status.get_or_insert_default();
    let default_status = NodeStatus::default();
    let fresh = initial.status.as_ref().unwrap_or(&default_status);
    if status.capacity.is_none() {
        status.capacity = fresh.capacity.clone();
    }
    if status.allocatable.is_none() {
        status.allocatable = fresh.allocatable.clone();
    }
    for (list, fresh) in
        [(&mut status.capacity, &fresh.capacity), (&mut status.allocatable, &fresh.allocatable)]
    {
        let Some(list) = list else { continue };
        list.retain(|name, _| {
            !is_huge_pages(name) || fresh.as_ref().is_some_and(|fresh| fresh.contains_key(name))
        });
        for (name, quantity) in fresh.iter().flatten().filter(|(name, _)| is_huge_pages(name)) {
            if let Ok(amount) = Amount::of(quantity) {
                set(list, name, amount);
            }
        }
        if reset_extended {
            for (_, quantity) in list.iter_mut().filter(|(name, _)| is_extended(name)) {
                *quantity = Quantity("0".to_owned());
            }
        }
    }
}

fn attach_annotation(existing: &mut Node, initial: &Node) {
    let wanted = initial.metadata.annotations.as_ref().and_then(|all| all.get(CONTROLLER_ATTACH));
    match wanted {
        Some(value) => {
            let annotations = existing.metadata.annotations.get_or_insert_default();
            annotations.insert(CONTROLLER_ATTACH.to_owned(), value.clone());
        }
        None => {
            if let Some(annotations) = &mut existing.metadata.annotations {
                annotations.remove(CONTROLLER_ATTACH);
            }
        }
    }
}

fn default_labels(existing: &mut Node, initial: &Node) {
    let labels = existing.metadata.labels.get_or_insert_default();
    for key in DEFAULT_LABELS {
        match initial.metadata.labels.as_ref().and_then(|all| all.get(key)) {
            Some(value) if value.is_empty() => {
                labels.remove(key);
            }
            Some(value) => {
                labels.insert(key.to_owned(), value.clone());
            }
            None => {}
        }
    }
}

/// A Node of this name that another machine has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherMachine {
    /// Its machine ID as the Node tells.
    pub machine_id: String,
    /// Its system UUID as the Node tells.
    pub system_uuid: String,
    /// How the Node calls its operating system and kernel, for a message.
    pub description: String,
}

/// Whether a Node was registered by another machine, as far as it tells.
///
/// The firmware's UUID decides where both have one, so that a machine that was installed anew is still itself and a
/// clone is not; otherwise the machine ID does.
pub fn other_machine(existing: &Node, machine: &MachineIdentity) -> Option<OtherMachine> {
    let info = existing.status.as_ref()?.node_info.as_ref()?;
    let differs = |theirs: &str, ours: &str| {
        (!theirs.is_empty() && !ours.is_empty()).then(|| !theirs.eq_ignore_ascii_case(ours))
    };
    let other = differs(&info.system_uuid, &machine.system_uuid)
        .or_else(|| differs(&info.machine_id, &machine.machine_id))
        .unwrap_or(false);
    other.then(|| OtherMachine {
        machine_id: info.machine_id.clone(),
        system_uuid: info.system_uuid.clone(),
        description: format!("{}, kernel {}", info.os_image, info.kernel_version),
    })
}

/// Whether the Node's Ready condition is True, and of this boot: what a restarted agent may go on saying until it
/// has heard of the runtime.
pub fn may_keep_ready(existing: &Node, machine: &MachineIdentity) -> bool {
    let Some(status) = &existing.status else { return false };
    let same_boot = status.node_info.as_ref().is_some_and(|info| info.boot_id == machine.boot_id);
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    same_boot && ready
}

/// When the Node's status was last reported.
pub fn last_heartbeat(existing: &Node) -> Option<Timestamp> {
    let conditions = existing.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    ready.last_heartbeat_time.as_ref().map(|time| time.0)
}
