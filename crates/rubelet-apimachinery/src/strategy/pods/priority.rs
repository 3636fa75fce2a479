//! The Priority plugin: what a pod's class is worth.
//!
//! Owns the classes that every cluster has, and the default one.

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::super::Change;
use super::{forbidden, text};
use crate::kinds;
use crate::status::ApiError;

/// Classes that are there even before anyone has stored them.
const SYSTEM_CLASSES: [(&str, i32); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

struct Class {
    name: Option<String>,
    value: i32,
    preemption: String,
}

/// Resolves the class of a new pod.
pub(super) fn admit_new(change: &Change<'_>, pod: &mut Pod) -> Result<(), ApiError> {
    let wanted = text(&super::spec(pod).priority_class_name).to_owned();
    let class = match wanted.as_str() {
        "" => default_class(change),
        name => named_class(change, name)
            .ok_or_else(|| forbidden(change, pod, &format!("no PriorityClass with name {name} was found")))?,
    };
    let spec = super::spec(pod);
    if let Some(given) = spec.priority.filter(|given| *given != class.value) {
        let computed = class.value;
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {computed} from the given PriorityClass name"
        );
        return Err(forbidden(change, pod, &why));
    }
    if let Some(given) = spec.preemption_policy.as_ref().filter(|given| **given != class.preemption) {
        let computed = &class.preemption;
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {computed} from the given PriorityClass name"
        );
        return Err(forbidden(change, pod, &why));
    }
    let spec = pod.spec.get_or_insert_default();
    spec.priority_class_name = class.name;
    spec.priority = Some(class.value);
    spec.preemption_policy = Some(class.preemption);
    Ok(())
}

/// An update that leaves them out means the ones that were computed.
pub(super) fn admit_update(new: &mut Pod, old: &Pod) {
    let old = super::spec(old);
    let spec = new.spec.get_or_insert_default();
    spec.priority = spec.priority.or(old.priority);
    if spec.preemption_policy.is_none() {
        spec.preemption_policy.clone_from(&old.preemption_policy);
    }
}

/// The stored class that says it is the default, the least of them if there are several; else worth nothing.
fn default_class(change: &Change<'_>) -> Class {
    let stored = kinds::find("scheduling.k8s.io", "v1", "priorityclasses");
    let stored = stored.map(|resource| change.lookup.list(resource, "")).unwrap_or_default();
    let defaults = stored.iter().filter(|class| class["globalDefault"] == true);
    match defaults.min_by_key(|class| class["value"].as_i64()) {
        Some(class) => read_class(class),
        None => Class { name: None, value: 0, preemption: preempts(None) },
    }
}

fn named_class(change: &Change<'_>, name: &str) -> Option<Class> {
    let resource = kinds::find("scheduling.k8s.io", "v1", "priorityclasses")?;
    if let Some(class) = change.lookup.get(resource, "", name) {
        return Some(read_class(&class));
    }
    let (name, value) = SYSTEM_CLASSES.into_iter().find(|(system, _)| *system == name)?;
    Some(Class { name: Some(name.to_owned()), value, preemption: preempts(None) })
}

fn read_class(class: &Value) -> Class {
    Class {
        name: class["metadata"]["name"].as_str().map(str::to_owned),
        value: class["value"].as_i64().and_then(|value| i32::try_from(value).ok()).unwrap_or(0),
        preemption: preempts(class["preemptionPolicy"].as_str()),
    }
}

fn preempts(policy: Option<&str>) -> String {
    policy.unwrap_or("PreemptLowerPriority").to_owned()
}
