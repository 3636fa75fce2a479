//! The difference between two states of the Node as a patch of its status.
//!
//! Owns what counts as a change (upstream `nodeStatusHasChanged`) and the strategic merge patch that carries it
//! (upstream `PatchNodeStatus`). A patch names only what changed, so that it cannot undo what others wrote
//! meanwhile; the spec is never part of it.

use k8s_openapi::api::core::v1::Node;
use serde_json::{Map, Value, json};

/// Whether anything but heartbeat times differs in labels, annotations or status.
pub fn has_changed(old: &Node, new: &Node) -> bool {
    let comparable = |node: &Node| {
        let mut value = relevant(node);
        if let Some(conditions) = value.pointer_mut("/status/conditions").and_then(Value::as_array_mut) {
            for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
                condition.remove("lastHeartbeatTime");
            }
            conditions.sort_by(|a, b| a["type"].as_str().cmp(&b["type"].as_str()));
        }
        value
    };
    comparable(old) != comparable(new)
}

/// The strategic merge patch for `nodes/status` that turns `old` into `new`; `None` when nothing differs.
pub fn status_patch(old: &Node, new: &Node) -> Option<Value> {
    let (old, new) = (relevant(old), relevant(new));
    let mut patch = merge_patch(&old, &new)?;
    // The API declares addresses mergeable by type, which would mix up two addresses of one type.
    let has_old = old.pointer("/status/addresses").is_some();
    if let Some(addresses) = patch.pointer_mut("/status/addresses").filter(|_| has_old)
        && let Some(addresses) = addresses.as_array_mut()
    {
        addresses.push(json!({"$patch": "replace"}));
    }
    Some(patch)
}

/// What the agent may change, without empty values: to the API nothing, `""`, `[]` and `{}` are the same.
fn relevant(node: &Node) -> Value {
    let part = |value: Value| pruned(value).unwrap_or_else(|| json!({}));
    let metadata = json!({ "labels": node.metadata.labels, "annotations": node.metadata.annotations });
    let status = crate::json::to_value(&node.status).unwrap_or_default();
    json!({ "metadata": part(metadata), "status": part(status) })
}

/// The value without empty parts; `None` when nothing is left. Items of lists stay, so that none changes its place;
/// a label with an empty value is one too.
fn pruned(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            let map: Map<String, Value> = map
                .into_iter()
                .filter_map(|(key, value)| {
                    let value = match (key.as_str(), value) {
                        ("labels" | "annotations", map @ Value::Object(_)) => Some(map),
                        (_, value) => pruned(value),
                    };
                    Some((key, value?))
                })
                .collect();
            (!map.is_empty()).then_some(Value::Object(map))
        }
        Value::Array(items) => {
            let items: Vec<Value> =
                items.into_iter().map(|item| pruned(item).unwrap_or_else(|| json!({}))).collect();
            (!items.is_empty()).then_some(Value::Array(items))
        }
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        other => Some(other),
    }
}

fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        let change = match old.get(key) {
            None => Some(value.clone()),
            Some(before) if key == "conditions" => conditions_patch(before, value),
            Some(before) => merge_patch(before, value),
        };
        if let Some(change) = change {
            patch.insert(key.clone(), change);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Conditions are merged by their type; a patch holds only those that differ, with only what differs.
fn conditions_patch(old: &Value, new: &Value) -> Option<Value> {
    let of = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let (old, new) = (of(old), of(new));
    let find = |list: &[Value], kind: &Value| list.iter().find(|item| item["type"] == *kind).cloned();
    let mut changes = Vec::new();
    for condition in &new {
        match find(&old, &condition["type"]) {
            None => changes.push(condition.clone()),
            Some(before) => {
                if let Some(mut change) = merge_patch(&before, condition) {
                    change["type"] = condition["type"].clone();
                    changes.push(change);
                }
            }
        }
    }
    for gone in old.iter().filter(|item| find(&new, &item["type"]).is_none()) {
        changes.push(json!({"$patch": "delete", "type": gone["type"]}));
    }
    (!changes.is_empty()).then_some(Value::Array(changes))
}
