//! Giving a pod its node: POST to `pods/{name}/binding`, and to `bindings`.
//!
//! Owns upstream's `BindingREST`; whether the pod fits the node is the scheduler's business.

use rubelet_core::validation::field::{Errors, Path};
use serde_json::{Value, json};

use super::super::Change;
use super::{condition, topology};
use crate::kinds::Resource;
use crate::status::{self, ApiError};

/// The pod on its node. The generation stays: binding is no change of what was asked for.
///
/// # Errors
/// 400 when the binding names another pod, 409 when the pod cannot be bound (any more) or is another one than meant.
pub fn bind(change: &Change<'_>, old: &Value, binding: &Value) -> Result<Value, ApiError> {
    let name = change.name;
    if binding["metadata"]["name"].as_str().unwrap_or_default() != name {
        return Err(status::bad_request("name in URL does not match name in Binding object"));
    }
    check(binding)?;
    preconditions(change, old, &binding["metadata"])?;
    if let Some(why) = obstacle(name, old) {
        let binding = Resource { plural: "pods/binding", ..*change.resource };
        return Err(status::conflict(&binding, name, &why));
    }
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    let mut pod = old.clone();
    pod["spec"]["nodeName"] = json!(node);
    super::set(&mut pod["status"], "nominatedNodeName", Value::Null);
    for field in ["annotations", "labels"] {
        let added = binding["metadata"][field].as_object();
        for (key, value) in added.into_iter().flatten() {
            pod["metadata"][field][key] = value.clone();
        }
    }
    if binding["target"]["kind"] == "Node" {
        for (key, value) in topology::of_node(change, node) {
            pod["metadata"]["labels"][key] = json!(value);
        }
    }
    condition::update(&mut pod, json!({"type": "PodScheduled", "status": "True"}), change.now);
    Ok(pod)
}

/// Upstream gives these errors no code of their own, so that clients see 500.
fn check(binding: &Value) -> Result<(), ApiError> {
    let mut errors = Errors::default();
    let path = Path::new("target");
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        errors.unsupported(&path.child("kind"), kind, &["Node", "<empty>"]);
    }
    errors.required_text(&path.child("name"), binding["target"]["name"].as_str().unwrap_or_default());
    let told: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    match told.as_slice() {
        [] => Ok(()),
        [one] => Err(ApiError::new(500, "", one.clone())),
        many => Err(ApiError::new(500, "", format!("[{}]", many.join(", ")))),
    }
}

/// UID and resource version, where the binding says them, are those of the pod that the scheduler has seen.
fn preconditions(change: &Change<'_>, old: &Value, wanted: &Value) -> Result<(), ApiError> {
    for (field, what) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let wanted = wanted[field].as_str().unwrap_or_default();
        let there = old["metadata"][field].as_str().unwrap_or_default();
        if !wanted.is_empty() && wanted != there {
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: /registry/pods/{}/{}, ResourceVersion: 0, \
                 AdditionalErrorMsg: Precondition failed: {what} in precondition: {wanted}, {what} in object meta: \
                 {there}",
                change.namespace, change.name
            );
            return Err(status::conflict(change.resource, change.name, &why));
        }
    }
    Ok(())
}

fn obstacle(name: &str, old: &Value) -> Option<String> {
    if old["metadata"]["deletionTimestamp"].is_string() {
        return Some(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(node) = old["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        return Some(format!("pod {name} is already assigned to node {node:?}"));
    }
    let gates = old["spec"]["schedulingGates"].as_array();
    gates
        .is_some_and(|gates| !gates.is_empty())
        .then(|| format!("pod {name} has non-empty .spec.schedulingGates"))
}
