//! The RuntimeClass plugin: what a sandbox of this kind costs, and where it can run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

use super::super::Change;
use super::{compare, forbidden, read, tolerations};
use crate::kinds;
use crate::status::ApiError;

type List = BTreeMap<String, Quantity>;

/// Adds to a new pod what its class says.
pub(super) fn admit(change: &Change<'_>, pod: &mut Pod) -> Result<(), ApiError> {
    let Some(class) = class_of(change, pod)? else { return Ok(()) };
    if let Some(overhead) = overhead_of(&class)? {
        let given = super::spec(pod).overhead.as_ref().filter(|given| !given.is_empty());
        if given.is_some_and(|given| !compare::same_lists(given, &overhead)) {
            return Err(mismatch(change, pod));
        }
        pod.spec.get_or_insert_default().overhead = Some(overhead);
    }
    let scheduling = &class["scheduling"];
    if scheduling.is_null() {
        return Ok(());
    }
    let selector: BTreeMap<String, String> = read_or_default(&scheduling["nodeSelector"])?;
    for (key, wanted) in selector {
        let own = super::spec(pod).node_selector.as_ref().and_then(|selector| selector.get(&key));
        if let Some(own) = own.filter(|own| **own != wanted) {
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {own}"
            );
            return Err(forbidden(change, pod, &why));
        }
        pod.spec.get_or_insert_default().node_selector.get_or_insert_default().insert(key, wanted);
    }
    let more: Vec<Toleration> = read_or_default(&scheduling["tolerations"])?;
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations::merged(spec.tolerations.as_deref().unwrap_or_default(), &more));
    Ok(())
}

/// Overhead is the class's to say.
pub(super) fn check_overhead(change: &Change<'_>, pod: &Pod) -> Result<(), ApiError> {
    let of_class = class_of(change, pod)?.map(|class| overhead_of(&class)).transpose()?.flatten();
    match (of_class, &super::spec(pod).overhead) {
        (Some(of_class), of_pod) => {
            let same = of_pod.as_ref().is_some_and(|of_pod| compare::same_lists(of_pod, &of_class));
            if same { Ok(()) } else { Err(mismatch(change, pod)) }
        }
        (None, Some(_)) => {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            Err(forbidden(change, pod, why))
        }
        (None, None) => Ok(()),
    }
}

fn mismatch(change: &Change<'_>, pod: &Pod) -> ApiError {
    forbidden(change, pod, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
}

fn class_of(change: &Change<'_>, pod: &Pod) -> Result<Option<Value>, ApiError> {
    let Some(name) = &super::spec(pod).runtime_class_name else { return Ok(None) };
    let found = kinds::find("node.k8s.io", "v1", "runtimeclasses")
        .and_then(|resource| change.lookup.get(resource, "", name));
    match found {
        Some(class) => Ok(Some(class)),
        None => Err(forbidden(change, pod, &format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn overhead_of(class: &Value) -> Result<Option<List>, ApiError> {
    if class["overhead"].is_null() {
        Ok(None)
    } else {
        read_or_default(&class["overhead"]["podFixed"]).map(Some)
    }
}

fn read_or_default<T: serde::de::DeserializeOwned + Default>(value: &Value) -> Result<T, ApiError> {
    if value.is_null() { Ok(T::default()) } else { read(value) }
}
