//! The strategic merge patch that makes the API's copy of a pod say what this agent says.
//!
//! Owns the difference between two statuses and what of it is worth a request. It never sends anything and never
//! decides what is true: the status writer of the shell calls it with what the worker published and the newest
//! copy of the API. The guards of [`super::merge_for_update`] hold against that copy too, so that neither a lost
//! journal nor another writer makes a status go back.
//!
//! Source of the rules: upstream `PatchPodStatus` and `isPodStatusByKubeletEqual`; merge keys as in the API's type
//! `PodStatus` (conditions by `type`, addresses by `ip`, every other list replaced whole).

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use serde_json::{Map, Value, json};

use super::publish::{IllegalTransition, merge_for_update};
use super::{conditions, truncated};
use crate::phase::Phase;
use crate::quantity::Amount;
use crate::static_pod::CONFIG_MIRROR_ANNOTATION;

type Object = Map<String, Value>;

/// Fields of a condition that change only together with something that a client asked for.
const STAMPS: [&str; 3] = ["lastProbeTime", "lastTransitionTime", "observedGeneration"];
/// Conditions whose change traffic depends on.
const READINESS: [&str; 2] = ["Ready", "ContainersReady"];

/// The body of a PATCH of `pods/status` that turns `api`, the pod as the API server holds it (for a static pod its
/// mirror), into one with `status`; `None` when nothing differs that a client could care about.
///
/// The spec is that of `pod`, the pod as this node runs it; of `api` only metadata and status are looked at.
/// The body names the UID of `api`, so that a pod that took the name meanwhile is not touched. Conditions of other
/// owners are left alone. A difference in the stamps of conditions alone is no reason to write; when there is
/// one, ours are sent. `now` stamps what the guards change.
///
/// # Errors
/// A container that ended for good must not come back. A mirror is exempt: it shows what its static pod does.
pub fn status_patch(
    pod: &Pod,
    api: &Pod,
    status: &PodStatus,
    now: Timestamp,
) -> Result<Option<Value>, IllegalTransition> {
    let held = super::api_status(api);
    let mut wanted = guarded(pod, api, held, status, now)?;
    // The server sets it and lets nobody change it.
    wanted.qos_class = wanted.qos_class.or_else(|| held.qos_class.clone());
    let (held, wanted) = (plain(held), plain(&wanted));
    let mut patch = Object::new();
    let mut worth = false;
    let keys: BTreeSet<&String> = held.keys().chain(wanted.keys()).collect();
    for key in keys {
        let (old, new) = (held.get(key), wanted.get(key));
        if old == new {
            continue;
        }
        let (difference, matters) = match key.as_str() {
            "conditions" => conditions_patch(list(old), list(new)),
            "podIPs" | "hostIPs" => (addresses_patch(list(old), list(new)), true),
            _ => (merge_patch(old, new), true),
        };
        worth |= matters;
        if difference.as_array().is_none_or(|list| !list.is_empty()) {
            patch.insert(key.clone(), difference);
        }
    }
    if !worth {
        return Ok(None);
    }
    let uid = api.metadata.uid.as_deref().unwrap_or_default();
    Ok(Some(json!({ "metadata": { "uid": uid }, "status": patch })))
}

/// Whether a change should not wait behind others: the phase, or one of the conditions that traffic depends on.
pub fn is_urgent(held: &PodStatus, wanted: &PodStatus) -> bool {
    let verdict = |status: &PodStatus, kind| conditions::find(status, kind).map(|found| found.status.clone());
    held.phase != wanted.phase || READINESS.iter().any(|kind| verdict(held, kind) != verdict(wanted, kind))
}

/// What may be published over `held`. Whether something of the pod still runs was decided by the worker when it
/// published a terminal phase.
fn guarded(
    pod: &Pod,
    api: &Pod,
    held: &PodStatus,
    status: &PodStatus,
    now: Timestamp,
) -> Result<PodStatus, IllegalTransition> {
    let mirror =
        api.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(CONFIG_MIRROR_ANNOTATION));
    let is_over = |status| Phase::of(status).is_some_and(Phase::is_terminal);
    if !mirror {
        return merge_for_update(pod, held, status, false, now);
    }
    let merged = merge_for_update(pod, held, status, false, now);
    if merged.is_ok() && (is_over(status) || !is_over(held)) {
        return merged;
    }
    // A static pod that ended may run again under the same UID, after the agent was told to forget it.
    let others = PodStatus {
        phase: None,
        reason: None,
        message: None,
        init_container_statuses: None,
        container_statuses: None,
        ephemeral_container_statuses: None,
        ..held.clone()
    };
    merge_for_update(pod, &others, status, false, now)
}

/// A status as JSON in one spelling: whole seconds, canonical quantities, and nothing that says the same as its
/// absence.
fn plain(status: &PodStatus) -> Object {
    let Ok(Value::Object(mut plain)) = crate::json::to_value(&truncated(status.clone())) else {
        return Object::new();
    };
    for key in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        for container in plain.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
            let Value::Object(container) = container else { continue };
            // The API server writes an empty state where there is none.
            for state in ["state", "lastState", "allocatedResources"] {
                if container.get(state).and_then(Value::as_object).is_some_and(Map::is_empty) {
                    container.remove(state);
                }
            }
            canonical(container);
        }
    }
    canonical(&mut plain);
    plain.values_mut().for_each(strip);
    plain.retain(|_, value| !is_nothing(value));
    plain
}

/// Spells the quantities of `allocatedResources` and `resources` as the API server does.
fn canonical(object: &mut Object) {
    let spell = |list: Option<&mut Value>| {
        for quantity in list.and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
            if let Some(amount) = quantity.as_str().and_then(|text| Amount::parse(text).ok()) {
                *quantity = amount.to_string().into();
            }
        }
    };
    spell(object.get_mut("allocatedResources"));
    if let Some(resources) = object.get_mut("resources") {
        spell(resources.get_mut("limits"));
        spell(resources.get_mut("requests"));
    }
}

/// Removes what Go leaves out: nulls, empty texts and empty lists.
fn strip(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.values_mut().for_each(strip);
            object.retain(|_, value| !is_nothing(value));
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The difference of two values without merge keys: objects field by field, everything else replaced, null for
/// what is gone.
fn merge_patch(old: Option<&Value>, new: Option<&Value>) -> Value {
    match (old, new) {
        (_, None) => Value::Null,
        (Some(Value::Object(old)), Some(Value::Object(new))) => Value::Object(fields_patch(old, new)),
        (_, Some(new)) => new.clone(),
    }
}

fn fields_patch(old: &Object, new: &Object) -> Object {
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| (key.clone(), merge_patch(old.get(key), new.get(key))))
        .collect()
}

/// The list of conditions to send, and whether anything but stamps is in it.
fn conditions_patch(old: &[Value], new: &[Value]) -> (Value, bool) {
    let find = |list: &[Value], kind: &Value| {
        list.iter().find(|listed| listed["type"] == *kind).and_then(Value::as_object).cloned()
    };
    let mut patch = Vec::new();
    let mut worth = false;
    for condition in new {
        let Value::Object(fields) = condition else { continue };
        let Some(known) = find(old, &condition["type"]) else {
            patch.push(condition.clone());
            worth = true;
            continue;
        };
        let mut difference = fields_patch(&known, fields);
        if difference.is_empty() {
            continue;
        }
        worth |= difference.keys().any(|key| !STAMPS.contains(&key.as_str()));
        difference.insert("type".to_owned(), condition["type"].clone());
        patch.push(Value::Object(difference));
    }
    for condition in old {
        if find(new, &condition["type"]).is_none() {
            patch.push(json!({ "$patch": "delete", "type": condition["type"] }));
            worth = true;
        }
    }
    (Value::Array(patch), worth)
}

/// The list of addresses to send. The first address is the pod's main one, and what merging keeps comes after what
/// is sent: the old ones are deleted and all the new ones sent in their order.
fn addresses_patch(old: &[Value], new: &[Value]) -> Value {
    if new.is_empty() {
        return Value::Null;
    }
    let deleted = old.iter().map(|entry| json!({ "$patch": "delete", "ip": entry["ip"] }));
    Value::Array(deleted.chain(new.iter().cloned()).collect())
}

/// Whether a condition of this type is this agent's alone.
pub(crate) fn owns_condition(condition: &PodCondition) -> bool {
    conditions::is_owned(&condition.type_)
}
