//! Strategic merge patch: lists that merge by a key, and the directives that delete, replace, order and retain.
//!
//! The rules are those of apimachinery's `strategicpatch`; the table of merge keys is that of the struct tags of the
//! kinds the fake serves. What has no row is replaced whole, as `taints`, `containerStatuses` and `volumesAttached`
//! are in the real types.

use serde_json::{Map, Value};

/// How a list merges.
enum ListRule {
    /// Objects, matched by this field.
    Key(&'static str),
    /// Plain values, as a set.
    Set,
    /// Replaced whole.
    Atomic,
}

/// The rule of the list at `path` (field names joined with dots, without indices) of an object of `kind`.
fn list_rule(kind: &str, path: &str) -> ListRule {
    let key = match (kind, path) {
        (_, "metadata.ownerReferences") => "uid",
        (_, "metadata.finalizers") => return ListRule::Set,
        ("Node", "spec.podCIDRs") => return ListRule::Set,
        ("Node" | "Pod" | "Namespace" | "Service" | "PersistentVolumeClaim", "status.conditions") => "type",
        ("Node", "status.addresses") => "type",
        ("Pod", "status.podIPs" | "status.hostIPs" | "spec.hostAliases") => "ip",
        (
            "Pod",
            "spec.containers"
            | "spec.initContainers"
            | "spec.ephemeralContainers"
            | "spec.volumes"
            | "spec.imagePullSecrets"
            | "spec.schedulingGates"
            | "spec.resourceClaims"
            | "status.resourceClaimStatuses",
        ) => "name",
        ("Pod", "spec.topologySpreadConstraints") => "topologyKey",
        ("Pod", _) => match container_field(path) {
            Some("env") => "name",
            Some("ports") => "containerPort",
            Some("volumeMounts") => "mountPath",
            Some("volumeDevices") => "devicePath",
            _ => return ListRule::Atomic,
        },
        ("Service", "spec.ports") => "port",
        ("ServiceAccount", "secrets") => "name",
        ("CSINode", "spec.drivers") => "name",
        _ => return ListRule::Atomic,
    };
    ListRule::Key(key)
}

fn container_field(path: &str) -> Option<&str> {
    ["spec.containers.", "spec.initContainers.", "spec.ephemeralContainers."]
        .iter()
        .find_map(|list| path.strip_prefix(list))
}

/// Applies `patch` to `object`, an object of `kind`.
pub(crate) fn merge(kind: &str, object: &mut Value, patch: &Value) -> Result<(), String> {
    let fields = patch.as_object().ok_or("a strategic merge patch is an object")?;
    let into = object.as_object_mut().ok_or("only objects can be patched")?;
    merge_map(kind, "", into, fields)
}

fn merge_map(
    kind: &str,
    path: &str,
    into: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), String> {
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *into = patch
                .iter()
                .filter(|(key, _)| !key.starts_with('$'))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            return Ok(());
        }
        Some("delete") => {
            into.clear();
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(format!("unknown patch directive {other:?} at {path:?}")),
    }
    if let Some(retained) = patch.get("$retainKeys").and_then(Value::as_array) {
        into.retain(|key, _| retained.iter().any(|r| r == key));
    }
    for (key, value) in patch.iter().filter(|(key, _)| key.starts_with("$deleteFromPrimitiveList/")) {
        let field = &key["$deleteFromPrimitiveList/".len()..];
        let gone = value.as_array().map(Vec::as_slice).unwrap_or_default();
        if let Some(Value::Array(list)) = into.get_mut(field) {
            list.retain(|item| !gone.contains(item));
        }
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if value.is_null() {
            into.remove(key);
            continue;
        }
        match value {
            Value::Object(fields) => {
                let was_there = into.get(key).is_some_and(Value::is_object);
                if fields.get("$patch").and_then(Value::as_str) == Some("delete") {
                    into.remove(key);
                    continue;
                }
                if !was_there {
                    into.insert(key.clone(), Value::Object(Map::new()));
                }
                if let Some(Value::Object(inner)) = into.get_mut(key) {
                    merge_map(kind, &below, inner, fields)?;
                }
            }
            Value::Array(items) => {
                let old = match into.remove(key) {
                    Some(Value::Array(old)) => old,
                    _ => vec![],
                };
                let order = patch.get(&format!("$setElementOrder/{key}")).and_then(Value::as_array);
                let merged = merge_list(kind, &below, old, items, order)?;
                into.insert(key.clone(), Value::Array(merged));
            }
            other => {
                into.insert(key.clone(), other.clone());
            }
        }
    }
    Ok(())
}

fn merge_list(
    kind: &str,
    path: &str,
    old: Vec<Value>,
    patch: &[Value],
    order: Option<&Vec<Value>>,
) -> Result<Vec<Value>, String> {
    match list_rule(kind, path) {
        ListRule::Atomic => Ok(patch.to_vec()),
        ListRule::Set => {
            let mut merged = old;
            for item in patch {
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            Ok(merged)
        }
        ListRule::Key(key) => merge_keyed(kind, path, key, old, patch, order),
    }
}

fn merge_keyed(
    kind: &str,
    path: &str,
    key: &str,
    mut merged: Vec<Value>,
    patch: &[Value],
    order: Option<&Vec<Value>>,
) -> Result<Vec<Value>, String> {
    let directive = |item: &Value, name: &str| item.get("$patch").and_then(Value::as_str) == Some(name);
    if patch.iter().any(|item| directive(item, "replace")) {
        return Ok(patch.iter().filter(|item| !directive(item, "replace")).cloned().collect());
    }
    for item in patch {
        let id = item
            .get(key)
            .ok_or_else(|| format!("map: {item} does not contain declared merge key: {key} (list {path})"))?;
        let at = merged.iter().position(|old| old.get(key) == Some(id));
        if directive(item, "delete") {
            merged.retain(|old| old.get(key) != Some(id));
            continue;
        }
        let fields = item.as_object().ok_or_else(|| format!("an item of {path} is no object"))?;
        match at.and_then(|at| merged.get_mut(at)).and_then(Value::as_object_mut) {
            Some(old) => merge_map(kind, path, old, fields)?,
            None => {
                let mut fresh = Map::new();
                merge_map(kind, path, &mut fresh, fields)?;
                merged.push(Value::Object(fresh));
            }
        }
    }
    if let Some(order) = order {
        reorder(&mut merged, key, order);
    }
    Ok(merged)
}

/// Puts the items the client listed in its order, into the places such items hold; the others stay where they are.
fn reorder(items: &mut [Value], key: &str, order: &[Value]) {
    let rank = |item: &Value| order.iter().position(|o| o.get(key).is_some() && o.get(key) == item.get(key));
    let mut listed: Vec<Value> = items.iter().filter(|i| rank(i).is_some()).cloned().collect();
    listed.sort_by_key(|i| rank(i));
    let mut listed = listed.into_iter();
    for slot in items.iter_mut().filter(|i| rank(i).is_some()) {
        if let Some(next) = listed.next() {
            *slot = next;
        }
    }
}
