//! JSON patch (RFC 6902), with the habits of the library that kube-apiserver uses: `replace` of a field that is not
//! there adds it, negative indices count from the end, and a field that is not there tests equal to null.

use serde_json::{Map, Value};

use crate::decode::{MAX_DEPTH, depth};

/// More operations are refused, as upstream.
const MAX_OPERATIONS: usize = 10_000;
/// All that `copy` may add to an object, in bytes of JSON, as upstream.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Why a JSON patch cannot be applied, in the words of the library.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum JsonPatchError {
    /// It is not a list of operations.
    #[error("error decoding patch: json: cannot unmarshal {0}")]
    Malformed(String),
    /// Too many operations.
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooMany(usize),
    /// An operation failed.
    #[error("{0}")]
    Failed(String),
}

fn failed<T>(why: impl Into<String>) -> Result<T, JsonPatchError> {
    Err(JsonPatchError::Failed(why.into()))
}

/// The object after all operations.
pub(super) fn apply(current: &Value, patch: &Value) -> Result<Value, JsonPatchError> {
    let malformed = |value: &Value, into: &str| {
        JsonPatchError::Malformed(format!("{} into Go value of type {into}", super::json_kind(value)))
    };
    let operations = patch.as_array().ok_or_else(|| malformed(patch, "[]handlers.jsonPatchOp"))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(JsonPatchError::TooMany(operations.len()));
    }
    let mut target = current.clone();
    let mut copied = 0;
    for operation in operations {
        let operation = operation.as_object().ok_or_else(|| malformed(operation, "handlers.jsonPatchOp"))?;
        step(&mut target, operation, &mut copied)?;
    }
    Ok(target)
}

fn step(
    target: &mut Value,
    operation: &Map<String, Value>,
    copied: &mut usize,
) -> Result<(), JsonPatchError> {
    let kind = operation.get("op").and_then(Value::as_str).unwrap_or("unknown");
    let place = |name: &str| match operation.get(name).and_then(Value::as_str) {
        Some(path) => Ok(path),
        None => failed(format!("{kind} operation failed to decode {name}: missing value")),
    };
    let value = operation.get("value").unwrap_or(&Value::Null);
    match kind {
        "add" => add(target, kind, place("path")?, value.clone()),
        "remove" => take(target, kind, place("path")?, "path").map(drop),
        "replace" => replace(target, place("path")?, value.clone()),
        "move" => {
            let moved = take(target, kind, place("from")?, "from path")?;
            add(target, kind, place("path")?, moved)
        }
        "copy" => {
            let from = place("from")?;
            let (parent, key) = parent(target, from).ok_or_else(|| {
                JsonPatchError::Failed(format!(
                    "copy operation does not apply: doc is missing from path: {from}: missing value"
                ))
            })?;
            let found = get(parent, &key)
                .map_err(|why| JsonPatchError::Failed(format!("error in copy for from: '{from}': {why}")))?;
            *copied += found.to_string().len();
            if *copied > MAX_COPIED {
                return failed(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the \
                     limit {MAX_COPIED}"
                ));
            }
            let found = found.clone();
            add(target, kind, place("path")?, found)
        }
        "test" => test(target, place("path")?, value),
        other => failed(format!("Unexpected kind: {other}")),
    }
}

/// Path segments after the first slash, unescaped. What is before it does not count, as upstream.
fn segments(path: &str) -> impl Iterator<Item = String> {
    path.split('/').skip(1).map(|segment| segment.replace("~1", "/").replace("~0", "~"))
}

/// The object or list that holds the last segment of a path, and that segment.
fn parent<'a>(target: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let mut keys: Vec<String> = segments(path).collect();
    let last = keys.pop()?;
    let mut place = target;
    for key in keys {
        place = match place {
            Value::Object(fields) => fields.get_mut(&key)?,
            Value::Array(items) => {
                let at = index(&key, items.len(), items.len()).ok()?;
                items.get_mut(at)?
            }
            _ => return None,
        };
    }
    (place.is_object() || place.is_array()).then_some((place, last))
}

/// A list index below `end`; those below zero count from `length`.
fn index(text: &str, length: usize, end: usize) -> Result<usize, String> {
    let number: i64 = text.parse().map_err(|_| format!("strconv.Atoi: parsing {text:?}: invalid syntax"))?;
    let at = if number < 0 { number.saturating_add_unsigned(length as u64) } else { number };
    usize::try_from(at)
        .ok()
        .filter(|at| *at < end)
        .ok_or_else(|| format!("Unable to access invalid index: {number}: invalid index referenced"))
}

static NULL: Value = Value::Null;

fn get<'a>(parent: &'a Value, key: &str) -> Result<&'a Value, String> {
    match parent {
        Value::Array(items) => {
            let at = index(key, items.len(), items.len())?;
            Ok(items.get(at).unwrap_or(&NULL))
        }
        _ => Ok(parent.get(key).unwrap_or(&NULL)),
    }
}

/// Refuses what would nest too deeply to be walked.
fn check_depth(path: &str, value: &Value) -> Result<(), JsonPatchError> {
    if segments(path).count() + depth(value) > MAX_DEPTH {
        return failed("exceeded max depth");
    }
    Ok(())
}

fn add(target: &mut Value, kind: &str, path: &str, value: Value) -> Result<(), JsonPatchError> {
    check_depth(path, &value)?;
    let Some((parent, key)) = parent(target, path) else {
        let (what, path) = match kind {
            "add" => ("path", format!("\"{path}\"")),
            _ => ("destination path", path.to_owned()),
        };
        return failed(format!(
            "{kind} operation does not apply: doc is missing {what}: {path}: missing value"
        ));
    };
    match parent {
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => match index(&key, items.len() + 1, items.len() + 1) {
            Ok(at) => items.insert(at, value),
            Err(why) => return failed(format!("error in {kind} for path: '{path}': {why}")),
        },
        Value::Object(fields) => {
            fields.insert(key, value);
        }
        _ => {}
    }
    Ok(())
}

fn take(target: &mut Value, kind: &str, path: &str, what: &str) -> Result<Value, JsonPatchError> {
    let Some((parent, key)) = parent(target, path) else {
        let path = if kind == "remove" { format!("\"{path}\"") } else { path.to_owned() };
        return failed(format!(
            "{kind} operation does not apply: doc is missing {what}: {path}: missing value"
        ));
    };
    let taken = match parent {
        Value::Array(items) => index(&key, items.len(), items.len()).map(|at| items.remove(at)),
        Value::Object(fields) => fields
            .remove(&key)
            .ok_or_else(|| format!("Unable to remove nonexistent key: {key}: missing value")),
        _ => Ok(Value::Null),
    };
    taken.map_err(|why| JsonPatchError::Failed(format!("error in {kind} for path: '{path}': {why}")))
}

fn replace(target: &mut Value, path: &str, value: Value) -> Result<(), JsonPatchError> {
    check_depth(path, &value)?;
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return failed("replace operation value must be object or array");
        }
        *target = value;
        return Ok(());
    }
    let Some((parent, key)) = parent(target, path) else {
        return failed(format!(
            "replace operation does not apply: doc is missing path: {path}: missing value"
        ));
    };
    match parent {
        Value::Array(items) => match index(&key, items.len(), items.len()) {
            Ok(at) => items[at] = value,
            Err(_) => {
                return failed(format!(
                    "replace operation does not apply: doc is missing key: {path}: missing value"
                ));
            }
        },
        Value::Object(fields) => {
            fields.insert(key, value);
        }
        _ => {}
    }
    Ok(())
}

fn test(target: &mut Value, path: &str, expected: &Value) -> Result<(), JsonPatchError> {
    let equal = if path.is_empty() {
        *target == *expected
    } else {
        let Some((parent, key)) = parent(target, path) else {
            return failed(format!("test operation does not apply: is missing path: {path}: missing value"));
        };
        let found = get(parent, &key)
            .map_err(|why| JsonPatchError::Failed(format!("error in test for path: '{path}': {why}")))?;
        found == expected
    };
    if equal { Ok(()) } else { failed(format!("testing value {path} failed: test failed")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(current: Value, patch: Value, expected: Value) {
        assert_eq!(apply(&current, &patch), Ok(expected), "{patch}");
    }

    #[track_caller]
    fn check_error(current: Value, patch: Value, expected: &str) {
        assert_eq!(apply(&current, &patch).unwrap_err().to_string(), expected, "{patch}");
    }

    #[test]
    fn operations_change_objects_and_lists() {
        let op = |op: &str, path: &str, value: Value| json!([{"op": op, "path": path, "value": value}]);
        check(json!({"a": 1}), op("add", "/b", json!(2)), json!({"a": 1, "b": 2}));
        check(json!({"a": [1, 3]}), op("add", "/a/1", json!(2)), json!({"a": [1, 2, 3]}));
        check(json!({"a": [1]}), op("add", "/a/-", json!(2)), json!({"a": [1, 2]}));
        check(json!({"a": [1]}), op("add", "/a/-1", json!(2)), json!({"a": [1, 2]}));
        check(json!({"a": {"x/y~z": 1}}), op("replace", "/a/x~1y~0z", json!(2)), json!({"a": {"x/y~z": 2}}));
        check(json!({}), op("replace", "/a", json!(2)), json!({"a": 2}));
        check(json!({"a": 1}), op("replace", "", json!({"b": 1})), json!({"b": 1}));
        check(json!({"a": [1, 2]}), op("remove", "/a/-1", json!(null)), json!({"a": [1]}));
        check(json!({"a": 1}), op("test", "/a", json!(1)), json!({"a": 1}));
        check(json!({"a": 1}), op("test", "/b", json!(null)), json!({"a": 1}));
        check(
            json!({"a": {"b": 1}, "c": []}),
            json!([{"op": "move", "from": "/a/b", "path": "/c/0"}, {"op": "copy", "from": "/c", "path": "/d"}]),
            json!({"a": {}, "c": [1], "d": [1]}),
        );
    }

    #[test]
    fn failures_say_which_path() {
        let op = |op: &str, path: &str| json!([{"op": op, "path": path, "value": 1}]);
        check_error(
            json!({}),
            op("remove", "/a"),
            "error in remove for path: '/a': Unable to remove nonexistent key: a: missing value",
        );
        check_error(
            json!({}),
            op("add", "/a/b"),
            "add operation does not apply: doc is missing path: \"/a/b\": missing value",
        );
        check_error(
            json!({}),
            op("add", ""),
            "add operation does not apply: doc is missing path: \"\": missing value",
        );
        check_error(json!({"a": 2}), op("test", "/a"), "testing value /a failed: test failed");
        check_error(
            json!({"a": []}),
            op("add", "/a/1"),
            "error in add for path: '/a/1': Unable to access invalid index: 1: invalid index referenced",
        );
        check_error(
            json!({"a": []}),
            op("add", "/a/x"),
            "error in add for path: '/a/x': strconv.Atoi: parsing \"x\": invalid syntax",
        );
        check_error(json!({}), op("frob", "/a"), "Unexpected kind: frob");
        check_error(json!({}), json!([{"op": "add"}]), "add operation failed to decode path: missing value");
        check_error(
            json!({}),
            json!({}),
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        );
    }

    #[test]
    fn growth_is_bounded() {
        let many = Value::Array(vec![json!({"op": "test", "path": ""}); MAX_OPERATIONS + 1]);
        check_error(json!({}), many, "The allowed maximum operations in a JSON patch is 10000, got 10001");
        let doubling = Value::Array(vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 64]);
        assert!(apply(&json!({"a": ["x".repeat(100)]}), &doubling).is_err());
        let deeper = Value::Array(vec![json!({"op": "copy", "from": "/a", "path": "/a/a"}); 200]);
        check_error(json!({"a": {"a": {}}}), deeper, "exceeded max depth");
    }
}
