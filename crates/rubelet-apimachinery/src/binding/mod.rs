//! Which volume a claim gets, and what becomes of a volume whose claim is gone: the next step, computed.
//!
//! The rules are those of upstream's `persistentvolume` controller. One step at a time: who carries it out asks again
//! until there is none. Provisioning is for claims of classes whose provisioner is [`PROVISIONER`].

mod choose;
mod pods;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use crate::strategy::ownership::{has_finalizer, without_finalizer};
use crate::strategy::text;

pub use self::pods::{PodClaim, claims_of, is_made_for, new_claim, not_made_for};

/// The provisioner whose volumes are folders of this machine.
pub const PROVISIONER: &str = "rubelet.io/local-path";
/// Set on a claim and on a volume that were brought together here, rather than by who made them.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Set on a claim that has got its volume.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Names who made a volume.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// What a finalizer must still guard a claim or a volume that is in use.
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// What is to be done next for a claim or a volume.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing.
    Done,
    /// Write this volume's spec and metadata.
    WriteVolume(Value),
    /// Write this volume's status.
    WriteVolumeStatus(Value),
    /// Write this claim's spec and metadata.
    WriteClaim(Value),
    /// Write this claim's status.
    WriteClaimStatus(Value),
    /// Make a folder, and create this volume of it. The folder's path is missing in `spec.hostPath.path`.
    Provision(Value),
    /// Remove the folder of this volume, then delete the volume.
    Reclaim(Value),
    /// The claim waits; people are told by an event of this reason and message.
    Wait {
        /// The event's reason.
        reason: &'static str,
        /// The event's message.
        message: String,
    },
}

/// What steps are computed from.
pub struct World<'a> {
    /// All volumes.
    pub volumes: &'a [Value],
    /// All storage classes.
    pub classes: &'a [Value],
    /// All pods that have not ended.
    pub pods: &'a [Value],
    /// The node that folders are on.
    pub node: &'a str,
}

fn is_deleted(object: &Value) -> bool {
    object["metadata"].get("deletionTimestamp").is_some()
}

fn annotate(object: &mut Value, key: &str, value: &str) {
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = json!({});
    }
    object["metadata"]["annotations"][key] = json!(value);
}

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"].get(key)?.as_str()
}

/// Whether the volume says that it is this claim's: by name, and by UID if it names one.
fn is_of(volume: &Value, claim: &Value) -> bool {
    let reference = &volume["spec"]["claimRef"];
    let uid = text(reference, &["uid"]);
    text(reference, &["namespace"]) == text(claim, &["metadata", "namespace"])
        && text(reference, &["name"]) == text(claim, &["metadata", "name"])
        && (uid.is_empty() || uid == text(claim, &["metadata", "uid"]))
}

/// Whether a pod uses the claim.
fn is_used(claim: &Value, pods: &[Value]) -> bool {
    let (namespace, name) = (text(claim, &["metadata", "namespace"]), text(claim, &["metadata", "name"]));
    let mut pods = pods.iter().filter(|pod| text(pod, &["metadata", "namespace"]) == namespace);
    pods.any(|pod| claims_of(pod).any(|used| used.name == name))
}

/// The next step for a claim.
pub fn next_for_claim(claim: &Value, world: &World<'_>) -> Step {
    if is_deleted(claim) {
        return if has_finalizer(claim, CLAIM_PROTECTION) && !is_used(claim, world.pods) {
            Step::WriteClaim(without_finalizer(claim, CLAIM_PROTECTION))
        } else {
            Step::Done
        };
    }
    let named = text(claim, &["spec", "volumeName"]);
    if named.is_empty() {
        return unbound(claim, world);
    }
    let volume = world.volumes.iter().find(|v| text(v, &["metadata", "name"]) == named);
    let was_bound = annotation(claim, BIND_COMPLETED).is_some();
    match volume {
        Some(volume) if volume["spec"]["claimRef"].is_null() || is_of(volume, claim) => {
            bring_together(claim, volume)
        }
        _ if was_bound => lost(claim),
        Some(_) => Step::Wait {
            reason: "FailedBinding",
            message: format!("volume \"{named}\" already bound to a different claim."),
        },
        None => Step::Wait { reason: "FailedBinding", message: format!("volume \"{named}\" not found.") },
    }
}

/// The step that brings a claim without a volume nearer to one.
fn unbound(claim: &Value, world: &World<'_>) -> Step {
    let class_name = text(claim, &["spec", "storageClassName"]);
    let class = world.classes.iter().find(|c| text(c, &["metadata", "name"]) == class_name);
    let waits_for_pod = class.is_some_and(|c| text(c, &["volumeBindingMode"]) == "WaitForFirstConsumer")
        && !is_used(claim, world.pods);
    if let Some(volume) = choose::volume(claim, world.volumes, waits_for_pod) {
        return bring_together(claim, volume);
    }
    if waits_for_pod {
        return Step::Wait {
            reason: "WaitForFirstConsumer",
            message: "waiting for first consumer to be created before binding".to_owned(),
        };
    }
    let Some(class) = class else {
        let message = if class_name.is_empty() {
            "no persistent volumes available for this claim and no storage class is set".to_owned()
        } else {
            format!("storageclass.storage.k8s.io \"{class_name}\" not found")
        };
        let reason = if class_name.is_empty() { "FailedBinding" } else { "ProvisioningFailed" };
        return Step::Wait { reason, message };
    };
    let provisioner = text(class, &["provisioner"]);
    if provisioner != PROVISIONER {
        return Step::Wait {
            reason: "ExternalProvisioning",
            message: format!(
                "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by \
                 the system administrator. If volume creation is delayed, please verify that the provisioner is \
                 running and correctly registered."
            ),
        };
    }
    if text(claim, &["spec", "volumeMode"]) == "Block" {
        let message = format!("{PROVISIONER} makes folders, not block devices: leave out volumeMode: Block");
        return Step::Wait { reason: "ProvisioningFailed", message };
    }
    if class["mountOptions"].as_array().is_some_and(|options| !options.is_empty()) {
        let message = format!(
            "Mount options are not supported by the provisioner but StorageClass \"{class_name}\" has mount options {}",
            class["mountOptions"]
        );
        return Step::Wait { reason: "ProvisioningFailed", message };
    }
    if claim["spec"].get("selector").is_some() {
        let message = format!("{PROVISIONER} cannot meet a claim's selector: leave it out");
        return Step::Wait { reason: "ProvisioningFailed", message };
    }
    if claim["spec"].get("dataSource").is_some() || claim["spec"].get("dataSourceRef").is_some() {
        let message = format!("{PROVISIONER} cannot copy a data source: leave it out");
        return Step::Wait { reason: "ProvisioningFailed", message };
    }
    Step::Provision(provisioned(claim, class, world.node))
}

fn reference(claim: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": claim["metadata"]["namespace"], "name": claim["metadata"]["name"],
        "uid": claim["metadata"]["uid"], "resourceVersion": claim["metadata"]["resourceVersion"],
    })
}

/// The volume of a claim that is to have a folder of its own.
fn provisioned(claim: &Value, class: &Value, node: &str) -> Value {
    let policy = match text(class, &["reclaimPolicy"]) {
        "" => "Delete",
        policy => policy,
    };
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": format!("pvc-{}", text(claim, &["metadata", "uid"])),
            "annotations": {PROVISIONED_BY: PROVISIONER},
        },
        "spec": {
            "accessModes": claim["spec"]["accessModes"],
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "claimRef": reference(claim),
            "hostPath": {"type": "DirectoryOrCreate"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
            ]}]}},
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": class["metadata"]["name"],
            "volumeMode": "Filesystem",
        },
    })
}

/// The next of the four writes that make a claim and a volume each other's: volume, its status, claim, its status.
fn bring_together(claim: &Value, volume: &Value) -> Step {
    if text(&volume["spec"]["claimRef"], &["uid"]) != text(claim, &["metadata", "uid"]) {
        let mut volume = volume.clone();
        if volume["spec"]["claimRef"].is_null() {
            annotate(&mut volume, BOUND_BY_CONTROLLER, "yes");
        }
        volume["spec"]["claimRef"] = reference(claim);
        return Step::WriteVolume(volume);
    }
    if text(volume, &["status", "phase"]) != "Bound" {
        return volume_phase(volume, "Bound");
    }
    let name = text(volume, &["metadata", "name"]);
    if text(claim, &["spec", "volumeName"]) != name || annotation(claim, BIND_COMPLETED).is_none() {
        let mut claim = claim.clone();
        if text(&claim, &["spec", "volumeName"]).is_empty() {
            annotate(&mut claim, BOUND_BY_CONTROLLER, "yes");
        }
        annotate(&mut claim, BIND_COMPLETED, "yes");
        claim["spec"]["volumeName"] = json!(name);
        return Step::WriteClaim(claim);
    }
    let status = json!({
        "phase": "Bound", "accessModes": volume["spec"]["accessModes"], "capacity": volume["spec"]["capacity"],
    });
    let is_said =
        ["phase", "accessModes", "capacity"].iter().all(|key| claim["status"][*key] == status[*key]);
    if is_said {
        return Step::Done;
    }
    let mut claim = claim.clone();
    if let (Some(old), Value::Object(new)) = (claim["status"].as_object_mut(), &status) {
        old.extend(new.clone());
    } else {
        claim["status"] = status;
    }
    Step::WriteClaimStatus(claim)
}

fn volume_phase(volume: &Value, phase: &str) -> Step {
    let mut volume = volume.clone();
    volume["status"] = json!({"phase": phase});
    Step::WriteVolumeStatus(volume)
}

fn lost(claim: &Value) -> Step {
    if text(claim, &["status", "phase"]) == "Lost" {
        return Step::Done;
    }
    let mut claim = claim.clone();
    claim["status"] = json!({"phase": "Lost"});
    Step::WriteClaimStatus(claim)
}

/// The next step for a volume, given the claim its reference names, if there is one.
pub fn next_for_volume(volume: &Value, claim: Option<&Value>) -> Step {
    let phase = text(volume, &["status", "phase"]);
    if is_deleted(volume) {
        let is_in_use = phase == "Bound" && claim.is_some_and(|c| is_of(volume, c));
        return if has_finalizer(volume, VOLUME_PROTECTION) && !is_in_use {
            Step::WriteVolume(without_finalizer(volume, VOLUME_PROTECTION))
        } else {
            Step::Done
        };
    }
    let reference = &volume["spec"]["claimRef"];
    if reference.is_null() || text(reference, &["uid"]).is_empty() {
        return if phase == "Available" { Step::Done } else { volume_phase(volume, "Available") };
    }
    if claim.is_some_and(|claim| is_of(volume, claim)) {
        return Step::Done;
    }
    if text(volume, &["spec", "persistentVolumeReclaimPolicy"]) == "Delete"
        && annotation(volume, PROVISIONED_BY) == Some(PROVISIONER)
    {
        return if phase == "Released" {
            Step::Reclaim(volume.clone())
        } else {
            volume_phase(volume, "Released")
        };
    }
    if phase == "Released" { Step::Done } else { volume_phase(volume, "Released") }
}
