//! The NodeRestriction admission plugin: what a node may write of what it may reach.
//!
//! Only users that are nodes are looked at. The rules, and the sentences of the refusals, follow upstream's
//! `plugin/pkg/admission/noderestriction`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::State;
use super::csr;
use super::handle::Call;
use super::meta;
use super::references;
use super::resources::{self, ResourceRef};
use super::status::{self, ApiError};
use super::store::Key;

/// A create of `object`.
pub(crate) fn admit_create(
    state: &State,
    call: &Call<'_>,
    resource: ResourceRef,
    object: &Value,
) -> Result<(), ApiError> {
    let Some(node) = call.user.node() else { return Ok(()) };
    let name = meta::name(object);
    let refuse = |why: String| Err(status::forbidden(resource, name, &why));
    match resource.plural {
        "pods" => mirror_pod(state, node, object).or_else(|error| match error {
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
        "leases" => lease(resource, node, object, name),
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
pub(crate) fn admit_update(
    _: &State,
    call: &Call<'_>,
    resource: ResourceRef,
    old: &Value,
    new: &Value,
) -> Result<(), ApiError> {
    let Some(node) = call.user.node() else { return Ok(()) };
    let name = meta::name(old);
    let refuse = |why: String| Err(status::forbidden(resource, name, &why));
    match (resource.plural, call.request.subresource.as_str()) {
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
        ("leases", _) => lease(resource, node, old, name),
        ("csinodes", _) => csi_node(resource, node, name),
        _ => Ok(()),
    }
}

/// A delete of `object`.
pub(crate) fn admit_delete(
    _: &State,
    call: &Call<'_>,
    resource: ResourceRef,
    object: &Value,
) -> Result<(), ApiError> {
    let Some(node) = call.user.node() else { return Ok(()) };
    let name = meta::name(object);
    match resource.plural {
        "pods" if object["spec"]["nodeName"] != node => Err(status::forbidden(
            resource,
            name,
            &format!("node \"{node}\" can only delete pods with spec.nodeName set to itself"),
        )),
        "nodes" => own_node(resource, node, name),
        "leases" => lease(resource, node, object, name),
        "csinodes" => csi_node(resource, node, name),
        "persistentvolumeclaims" => Err(status::forbidden(resource, name, "may only update PVC status")),
        _ => Ok(()),
    }
}

/// An eviction of `pod`.
pub(crate) fn admit_eviction(call: &Call<'_>, resource: ResourceRef, pod: &Value) -> Result<(), ApiError> {
    match call.user.node() {
        Some(node) if pod["spec"]["nodeName"] != node => Err(status::forbidden(
            resource,
            meta::name(pod),
            &format!("node {node} can only evict pods with spec.nodeName set to itself"),
        )),
        _ => Ok(()),
    }
}

/// A request for a token.
pub(crate) fn admit_token(
    state: &State,
    call: &Call<'_>,
    resource: ResourceRef,
    request: &Value,
) -> Result<(), ApiError> {
    let Some(node) = call.user.node() else { return Ok(()) };
    let refuse = |why: &str| Err(status::forbidden(resource, &call.request.name, why));
    let bound = &request["spec"]["boundObjectRef"];
    let pod_name = bound["name"].as_str().unwrap_or_default();
    if bound["kind"] != "Pod" || bound["apiVersion"] != "v1" || pod_name.is_empty() {
        return refuse("node requested token not bound to a pod");
    }
    let uid = bound["uid"].as_str().unwrap_or_default();
    if uid.is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    let pods = resources::named("pods");
    let pod = state
        .store
        .get(&Key::new(pods, &call.request.namespace, pod_name))
        .ok_or_else(|| status::not_found(pods, pod_name))?;
    if uid != meta::uid(pod) {
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
    if !mentions_audience(state, pod, audience) {
        return refuse(&format!(
            "audience \"{audience}\" not found in pod spec volume, {} is not authorized to request tokens for this \
             audience",
            call.user.name
        ));
    }
    Ok(())
}

/// Whether a projected volume of the pod, or a CSI driver it uses inline, asks for tokens of this audience.
fn mentions_audience(state: &State, pod: &Value, audience: &str) -> bool {
    let of = |request: &Value| request["audience"].as_str().unwrap_or_default() == audience;
    references::items(&pod["spec"], "volumes").any(|volume| {
        let projected = references::items(&volume["projected"], "sources")
            .filter_map(|source| source.get("serviceAccountToken"))
            .any(of);
        let driver = volume["csi"]["driver"].as_str().unwrap_or_default();
        let driver = state.store.get(&Key::new(resources::named("csidrivers"), "", driver));
        projected || driver.is_some_and(|d| references::items(&d["spec"], "tokenRequests").any(of))
    })
}

fn own_node(resource: ResourceRef, node: &str, name: &str) -> Result<(), ApiError> {
    if name == node {
        return Ok(());
    }
    Err(status::forbidden(
        resource,
        name,
        &format!("node \"{node}\" is not allowed to modify node \"{name}\""),
    ))
}

fn lease(resource: ResourceRef, node: &str, object: &Value, name: &str) -> Result<(), ApiError> {
    if meta::namespace(object) != "kube-node-lease" {
        let why = "can only access leases in the \"kube-node-lease\" system namespace";
        return Err(status::forbidden(resource, name, why));
    }
    if name != node {
        let why = "can only access node lease with the same name as the requesting node";
        return Err(status::forbidden(resource, name, why));
    }
    Ok(())
}

fn csi_node(resource: ResourceRef, node: &str, name: &str) -> Result<(), ApiError> {
    if name == node {
        return Ok(());
    }
    Err(status::forbidden(
        resource,
        name,
        "can only access CSINode with the same name as the requesting node",
    ))
}

fn updated_node(resource: ResourceRef, node: &str, old: &Value, new: &Value) -> Result<(), ApiError> {
    let name = meta::name(old);
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

fn mirror_pod(state: &State, node: &str, pod: &Value) -> Result<(), Refusal> {
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
    let nodes = resources::named("nodes");
    let stored = state
        .store
        .get(&Key::new(nodes, "", node))
        .ok_or_else(|| Refusal::NotFound(status::not_found(nodes, node)))?;
    let (expected, got) = (meta::uid(stored), owner["uid"].as_str().unwrap_or_default());
    if expected != got {
        return refuse(format!("node {node} UID mismatch: expected {got} got {expected}"));
    }
    if let Some(what) = references::any_object(pod) {
        return refuse(format!("node \"{node}\" can not create pods that reference {what}"));
    }
    Ok(())
}
