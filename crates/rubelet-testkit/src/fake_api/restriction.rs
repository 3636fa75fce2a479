//! The admission plugins of a cluster that concern nodes: NodeRestriction, what a node may write of what it may reach,
//! and the taint that new nodes get.
//!
//! NodeRestriction looks at users that are nodes only. Its rules, and the sentences of its refusals, follow upstream's
//! `plugin/pkg/admission/noderestriction`. Asked by the engine.

use std::collections::BTreeSet;

use rubelet_apimachinery::Resource;
use rubelet_apimachinery::status::{self, ApiError};
use rubelet_apimachinery::strategy::Change;
use rubelet_localapi::engine::{Admit, Operation};
use serde_json::{Value, json};

use super::admin::named;
use super::csr;
use super::references;
use super::request::node_of;

/// The plugins.
pub(crate) struct Plugins {
    /// Whether nodes are held to what is theirs.
    pub(crate) restrict: bool,
}

impl Admit for Plugins {
    fn admit(&self, change: &Change<'_>, operation: Operation<'_>) -> Result<(), ApiError> {
        let node = node_of(change.user).filter(|_| self.restrict);
        match (operation, change.subresource) {
            (Operation::Create(object), "") => {
                if let Some(node) = node {
                    admit_create(change, node, object)?;
                }
                if is(change.resource, "nodes") {
                    taint_new_node(object);
                }
                Ok(())
            }
            (Operation::Create(object), subresource) => match (node, subresource) {
                (Some(node), "eviction") => admit_eviction(change, node),
                (Some(node), "token") => admit_token(change, node, object),
                _ => Ok(()),
            },
            (Operation::Update { new, old }, _) => {
                node.map_or(Ok(()), |node| admit_update(change, node, old, new))
            }
            // What an eviction deletes was admitted with it.
            (Operation::Delete(object), "") => node.map_or(Ok(()), |node| admit_delete(change, node, object)),
            (Operation::Delete(_), _) => Ok(()),
        }
    }
}

fn is(resource: &Resource, plural: &str) -> bool {
    resource.group.is_empty() && resource.plural == plural
}

/// The TaintNodesByCondition plugin: a node is not ready until its conditions have been looked at.
fn taint_new_node(node: &mut Value) {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let mut taints: Vec<Value> = references::items(&node["spec"], "taints").cloned().collect();
    if !taints.iter().any(|t| t["key"] == taint["key"] && t["effect"] == taint["effect"]) {
        taints.push(taint);
        node["spec"]["taints"] = json!(taints);
    }
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// A create of `object`.
fn admit_create(change: &Change<'_>, node: &str, object: &Value) -> Result<(), ApiError> {
    let (resource, name) = (change.resource, name_of(object));
    let refuse = |why: String| Err(status::forbidden(resource, name, &why));
    match resource.plural {
        "pods" => mirror_pod(change, node, object).or_else(|error| match error {
            Refusal::Forbidden(why) => refuse(why),
            Refusal::NotFound(error) => Err(error),
        }),
        "nodes" => {
            own_node(resource, node, name)?;
            let labels = forbidden_labels(&changed_labels(object, &Value::Null));
            if !labels.is_empty() {
                let labels = labels.join(", ");
                return refuse(format!(
                    "node \"{node}\" is not allowed to set the following labels: {labels}"
                ));
            }
            if object["spec"].get("configSource").is_some() {
                return refuse(format!(
                    "node \"{node}\" is not allowed to create pods with a non-nil configSource"
                ));
            }
            Ok(())
        }
        "leases" => lease(change, node, name),
        "csinodes" => csi_node(resource, node, name),
        "resourceslices" if object["spec"]["nodeName"] != node => {
            refuse("can only create ResourceSlice with the same NodeName as the requesting node".into())
        }
        "certificatesigningrequests" => {
            let signer = object["spec"]["signerName"].as_str().unwrap_or_default();
            if signer != csr::CLIENT_SIGNER && signer != csr::SERVING_SIGNER {
                return Ok(());
            }
            match csr::common_name(object) {
                Err(why) => refuse(format!("unable to parse csr: {why}")),
                Ok(common_name) if common_name != format!("system:node:{node}") => {
                    refuse(format!("can only create a node CSR with CN=system:node:{node}"))
                }
                Ok(_) => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// An update from `old` to `new`.
fn admit_update(change: &Change<'_>, node: &str, old: &Value, new: &Value) -> Result<(), ApiError> {
    let (resource, name) = (change.resource, name_of(old));
    let refuse = |why: String| Err(status::forbidden(resource, name, &why));
    match (resource.plural, change.subresource) {
        ("pods", "status") => {
            if old["spec"]["nodeName"] != node {
                return refuse(format!(
                    "node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"
                ));
            }
            if !changed_labels(new, old).is_empty() {
                return refuse(format!("node \"{node}\" cannot update labels through pod status"));
            }
            if new["status"]["resourceClaimStatuses"] != old["status"]["resourceClaimStatuses"] {
                return refuse(format!("node \"{node}\" cannot update resource claim statues"));
            }
            if new["status"]["extendedResourceClaimStatus"] != old["status"]["extendedResourceClaimStatus"] {
                return refuse(format!("node \"{node}\" cannot update extended resource claim status"));
            }
            Ok(())
        }
        ("pods", "") => refuse(format!(
            "unexpected operation \"UPDATE\", node \"{node}\" can only create and delete mirror pods"
        )),
        ("pods", sub) => {
            refuse(format!("unexpected pod subresource \"{sub}\", only 'status' and 'eviction' are allowed"))
        }
        ("nodes", _) => updated_node(resource, node, old, new),
        ("persistentvolumeclaims", "status") => Ok(()),
        ("persistentvolumeclaims", _) => refuse("may only update PVC status".into()),
        ("leases", _) => lease(change, node, name),
        ("csinodes", _) => csi_node(resource, node, name),
        _ => Ok(()),
    }
}

/// A delete of `object`.
fn admit_delete(change: &Change<'_>, node: &str, object: &Value) -> Result<(), ApiError> {
    let (resource, name) = (change.resource, name_of(object));
    match resource.plural {
        "pods" if object["spec"]["nodeName"] != node => Err(status::forbidden(
            resource,
            name,
            &format!("node \"{node}\" can only delete pods with spec.nodeName set to itself"),
        )),
        "nodes" => own_node(resource, node, name),
        "leases" => lease(change, node, name),
        "csinodes" => csi_node(resource, node, name),
        "persistentvolumeclaims" => Err(status::forbidden(resource, name, "may only update PVC status")),
        _ => Ok(()),
    }
}

/// An eviction.
fn admit_eviction(change: &Change<'_>, node: &str) -> Result<(), ApiError> {
    let pod = change.lookup.get(change.resource, change.namespace, change.name).unwrap_or_default();
    if pod["spec"]["nodeName"] == node {
        return Ok(());
    }
    let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
    Err(status::forbidden(change.resource, change.name, &why))
}

/// A request for a token.
fn admit_token(change: &Change<'_>, node: &str, request: &Value) -> Result<(), ApiError> {
    let refuse = |why: &str| Err(status::forbidden(change.resource, change.name, why));
    let bound = &request["spec"]["boundObjectRef"];
    let pod_name = bound["name"].as_str().unwrap_or_default();
    if bound["kind"] != "Pod" || bound["apiVersion"] != "v1" || pod_name.is_empty() {
        return refuse("node requested token not bound to a pod");
    }
    let uid = bound["uid"].as_str().unwrap_or_default();
    if uid.is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    let pods = named("pods");
    let pod = change
        .lookup
        .get(pods, change.namespace, pod_name)
        .ok_or_else(|| status::not_found(pods, pod_name))?;
    if pod["metadata"]["uid"] != uid {
        return refuse(&format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    let audiences: Vec<&str> =
        references::items(&request["spec"], "audiences").filter_map(Value::as_str).collect();
    let audience = match audiences.as_slice() {
        [] => "",
        [one] => one,
        _ => return refuse("node may only request 0 or 1 audiences"),
    };
    if !mentions_audience(change, &pod, audience) {
        return refuse(&format!(
            "audience \"{audience}\" not found in pod spec volume, {} is not authorized to request tokens for this \
             audience",
            change.user.name
        ));
    }
    Ok(())
}

/// Whether a projected volume of the pod, or a CSI driver it uses inline, asks for tokens of this audience.
fn mentions_audience(change: &Change<'_>, pod: &Value, audience: &str) -> bool {
    let of = |request: &Value| request["audience"].as_str().unwrap_or_default() == audience;
    references::items(&pod["spec"], "volumes").any(|volume| {
        let projected = references::items(&volume["projected"], "sources")
            .filter_map(|source| source.get("serviceAccountToken"))
            .any(of);
        let driver = volume["csi"]["driver"].as_str().unwrap_or_default();
        let driver = change.lookup.get(named("csidrivers"), "", driver);
        projected || driver.is_some_and(|d| references::items(&d["spec"], "tokenRequests").any(of))
    })
}

fn own_node(resource: &Resource, node: &str, name: &str) -> Result<(), ApiError> {
    if name == node {
        return Ok(());
    }
    Err(status::forbidden(
        resource,
        name,
        &format!("node \"{node}\" is not allowed to modify node \"{name}\""),
    ))
}

fn lease(change: &Change<'_>, node: &str, name: &str) -> Result<(), ApiError> {
    let resource = change.resource;
    if change.namespace != "kube-node-lease" {
        let why = "can only access leases in the \"kube-node-lease\" system namespace";
        return Err(status::forbidden(resource, name, why));
    }
    if name != node {
        let why = "can only access node lease with the same name as the requesting node";
        return Err(status::forbidden(resource, name, why));
    }
    Ok(())
}

fn csi_node(resource: &Resource, node: &str, name: &str) -> Result<(), ApiError> {
    if name == node {
        return Ok(());
    }
    Err(status::forbidden(
        resource,
        name,
        "can only access CSINode with the same name as the requesting node",
    ))
}

fn updated_node(resource: &Resource, node: &str, old: &Value, new: &Value) -> Result<(), ApiError> {
    let name = name_of(old);
    own_node(resource, node, name)?;
    let refuse = |why: String| Err(status::forbidden(resource, name, &why));
    if new["spec"].get("configSource").is_some_and(|source| *source != old["spec"]["configSource"]) {
        return refuse(format!(
            "node \"{node}\" is not allowed to update configSource to a new non-nil configSource"
        ));
    }
    if !same_list(&new["spec"]["taints"], &old["spec"]["taints"]) {
        return refuse(format!("node \"{node}\" is not allowed to modify taints"));
    }
    if !same_list(&new["metadata"]["ownerReferences"], &old["metadata"]["ownerReferences"]) {
        return refuse(format!("node \"{node}\" is not allowed to modify ownerReferences"));
    }
    let labels = forbidden_labels(&changed_labels(new, old));
    if !labels.is_empty() {
        return refuse(format!("is not allowed to modify labels: {}", labels.join(", ")));
    }
    Ok(())
}

/// Whether two lists say the same; an absent one is an empty one.
fn same_list(a: &Value, b: &Value) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    list(a) == list(b)
}

/// The label keys in which two objects differ.
fn changed_labels(new: &Value, old: &Value) -> BTreeSet<String> {
    let labels = |object: &Value| {
        let labels = object.get("metadata").and_then(|m| m.get("labels")).and_then(Value::as_object);
        labels.cloned().unwrap_or_default()
    };
    let (new, old) = (labels(new), labels(old));
    let keys: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    keys.into_iter().filter(|key| new.get(*key) != old.get(*key)).cloned().collect()
}

/// Labels of Kubernetes' own namespaces that a kubelet may set on its node.
const KUBELET_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

fn forbidden_labels(changed: &BTreeSet<String>) -> Vec<String> {
    changed.iter().filter(|label| is_forbidden(label)).cloned().collect()
}

fn is_forbidden(label: &str) -> bool {
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let within = |domain: &str| namespace == domain || namespace.ends_with(&format!(".{domain}"));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    let allowed =
        KUBELET_LABELS.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    kubernetes && !allowed
}

enum Refusal {
    Forbidden(String),
    NotFound(ApiError),
}

fn mirror_pod(change: &Change<'_>, node: &str, pod: &Value) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::Forbidden(why));
    if !references::is_mirror(pod) {
        return refuse(format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can only create mirror pods"
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return refuse(format!("node \"{node}\" can only create pods with spec.nodeName set to itself"));
    }
    let owners: Vec<&Value> = references::items(&pod["metadata"], "ownerReferences").collect();
    let owner = match owners.as_slice() {
        [] => {
            return refuse(format!(
                "node \"{node}\" can only create pods with an owner reference set to itself"
            ));
        }
        [owner] => owner,
        _ => {
            return refuse(format!(
                "node \"{node}\" can only create pods with a single owner reference set to itself"
            ));
        }
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return refuse(format!("node \"{node}\" can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return refuse(format!(
            "node \"{node}\" can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner["blockOwnerDeletion"] == true {
        return refuse(format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference"));
    }
    let nodes = named("nodes");
    let stored = change
        .lookup
        .get(nodes, "", node)
        .ok_or_else(|| Refusal::NotFound(status::not_found(nodes, node)))?;
    let (expected, got) = (&stored["metadata"]["uid"], owner["uid"].as_str().unwrap_or_default());
    if expected != got {
        return refuse(format!("node {node} UID mismatch: expected {got} got {expected}"));
    }
    if let Some(what) = references::any_object(pod) {
        return refuse(format!("node \"{node}\" can not create pods that reference {what}"));
    }
    Ok(())
}
