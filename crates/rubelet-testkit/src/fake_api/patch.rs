//! Applying a patch: JSON merge patch (RFC 7386), JSON patch (RFC 6902), and by content type the strategic one.
//!
//! Values in, values out; who may patch and what may change is decided by the callers.

use serde_json::Value;

use super::status::{ApiError, bad_request};
use super::strategic;

/// The object after the patch, by the request's content type.
pub(crate) fn apply(kind: &str, object: &Value, content_type: &str, body: &[u8]) -> Result<Value, ApiError> {
    let patch: Value =
        serde_json::from_slice(body).map_err(|e| bad_request(format!("error decoding patch: {e}")))?;
    let mut patched = object.clone();
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/merge-patch+json" => merge(&mut patched, &patch),
        "application/strategic-merge-patch+json" => {
            strategic::merge(kind, &mut patched, &patch).map_err(bad_request)?;
        }
        "application/json-patch+json" => json_patch(&mut patched, &patch)?,
        other => {
            let mut error = ApiError::new(
                415,
                "UnsupportedMediaType",
                format!(
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json (got {other:?})"
                ),
            );
            error.details = serde_json::json!({});
            return Err(error);
        }
    }
    Ok(patched)
}

/// RFC 7386: objects merge, null removes, everything else replaces.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(into) = target.as_object_mut() else { return };
    for (key, value) in fields {
        if value.is_null() {
            into.remove(key);
        } else {
            merge(into.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn json_patch(target: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let operations = patch.as_array().ok_or_else(|| bad_request("a JSON patch is a list of operations"))?;
    for operation in operations {
        let text = |field: &str| operation[field].as_str().unwrap_or_default().to_owned();
        let (op, path, from) = (text("op"), text("path"), text("from"));
        let unprocessable = |why: &str| {
            ApiError::new(
                422,
                "Invalid",
                format!("the server rejected our request due to an error in our request: {op} {path}: {why}"),
            )
        };
        let value = operation.get("value").cloned();
        let done = match op.as_str() {
            "test" => (target.pointer(&path).cloned().unwrap_or(Value::Null) == value.unwrap_or(Value::Null))
                .then_some(()),
            "add" => add(target, &path, value.unwrap_or(Value::Null)),
            "remove" => remove(target, &path).map(|_| ()),
            "replace" => target.pointer_mut(&path).map(|slot| *slot = value.unwrap_or(Value::Null)),
            "move" => remove(target, &from).and_then(|moved| add(target, &path, moved)),
            "copy" => target.pointer(&from).cloned().and_then(|copied| add(target, &path, copied)),
            _ => return Err(unprocessable("unknown operation")),
        };
        done.ok_or_else(|| unprocessable(if op == "test" { "test failed" } else { "no such path" }))?;
    }
    Ok(())
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            let at: usize = last.parse().ok()?;
            (at <= list.len()).then(|| list.insert(at, value))?;
        }
        _ => return None,
    }
    Some(())
}

fn remove(target: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(map) => map.remove(&last),
        Value::Array(list) => {
            let at: usize = last.parse().ok()?;
            (at < list.len()).then(|| list.remove(at))
        }
        _ => None,
    }
}
