//! Objects as bytes: what is stored, and the forms that clients ask for.
//!
//! Stored bytes begin with kind, version and metadata, as Go writes them, so that a list can splice them in without
//! decoding: items of a list have neither kind nor version.

use bytes::Bytes;
use rubelet_apimachinery::Resource;
use rubelet_apimachinery::partial;
use rubelet_apimachinery::status::{ApiError, internal};
use serde_json::{Map, Value, json};

use super::media::{Accepted, Encoding};

/// An object as JSON, kind and version first.
pub(crate) fn object(object: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let Some(fields) = object.as_object() else { return object.to_string().into_bytes() };
    let first = ["kind", "apiVersion", "metadata"];
    let named = first.iter().filter_map(|name| fields.get_key_value(*name));
    let rest = fields.iter().filter(|(name, _)| !first.contains(&name.as_str()));
    out.push(b'{');
    for (name, value) in named.chain(rest) {
        if out.len() > 1 {
            out.push(b',');
        }
        // Writing to memory fails for no value that has text for keys.
        let _ = serde_json::to_writer(&mut out, name);
        out.push(b':');
        let _ = serde_json::to_writer(&mut out, value);
    }
    out.push(b'}');
    // It may be kept for long, in memory too.
    out.shrink_to_fit();
    out
}

/// A stored object.
///
/// # Errors
/// 500 when the bytes are none: the store is damaged.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| internal(format!("a stored object cannot be read: {error}")))
}

/// What selectors look at of a stored object.
///
/// # Errors
/// As for [`decode`].
pub(crate) fn selectable(bytes: &[u8]) -> Result<Value, ApiError> {
    partial::selectable(bytes).map_err(|error| internal(format!("a stored object cannot be read: {error}")))
}

/// How the stored bytes of a resource's objects begin.
pub(crate) fn head_of(resource: &Resource) -> String {
    format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", resource.kind, resource.api_version())
}

/// Stored bytes as an item of a list; `head` is that of [`head_of`].
pub(crate) fn item(head: &str, bytes: &[u8], out: &mut Vec<u8>) {
    match bytes.strip_prefix(head.as_bytes()) {
        Some(rest) => {
            out.push(b'{');
            out.extend_from_slice(rest);
        }
        None => out.extend_from_slice(bytes),
    }
}

/// A value written down as agreed.
pub(crate) fn write(value: &Value, accepted: Accepted) -> Bytes {
    match accepted.encoding {
        Encoding::Json if accepted.pretty => {
            let mut out = serde_json::to_vec_pretty(value).unwrap_or_default();
            out.push(b'\n');
            out.into()
        }
        Encoding::Json => {
            let mut out = object(value);
            out.push(b'\n');
            out.into()
        }
        Encoding::Yaml => yaml(value).into(),
    }
}

/// A value as YAML: blocks for what has parts, JSON's own quoting for text, which YAML shares.
fn yaml(value: &Value) -> String {
    let mut out = String::new();
    write_yaml(value, 0, &mut out);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// Whether this is a word that YAML reads as itself: nothing that could be a number, a truth value or a mark.
fn is_plain(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'/')
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/'))
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n" | "nan" | "inf"
        )
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

fn write_yaml(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let name = if is_plain(name) { name.clone() } else { json!(name).to_string() };
                out.push_str(&format!("{indent}{name}:"));
                write_yaml_part(value, depth + 1, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut text = String::new();
                write_yaml(item, depth + 1, &mut text);
                // The dash takes the place of the first line's indent.
                let text = text.strip_prefix(&"  ".repeat(depth + 1)).unwrap_or(&text);
                out.push_str(&format!("{indent}- {text}"));
                if !out.ends_with('\n') {
                    out.push('\n');
                }
            }
        }
        other => out.push_str(&scalar(other)),
    }
}

fn write_yaml_part(value: &Value, depth: usize, out: &mut String) {
    let is_block = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if is_block {
        out.push('\n');
        write_yaml(value, depth, out);
    } else {
        out.push(' ');
        out.push_str(&scalar(value));
        out.push('\n');
    }
}

/// What is left of an object when only its metadata is asked for.
pub(crate) fn metadata_only(object: &mut Value, version: &str) -> Value {
    let metadata = object.get_mut("metadata").map(Value::take).unwrap_or_else(|| Value::Object(Map::new()));
    json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": metadata})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_begin_as_go_writes_them() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {}});
        let bytes = object(&pod);
        assert_eq!(
            std::str::from_utf8(&bytes).unwrap(),
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"spec":{}}"#
        );
        let pods = rubelet_apimachinery::kinds::find("", "v1", "pods").unwrap();
        let mut out = Vec::new();
        item(&head_of(pods), &bytes, &mut out);
        assert_eq!(std::str::from_utf8(&out).unwrap(), r#"{"metadata":{"name":"a"},"spec":{}}"#);
    }

    #[test]
    fn yaml_reads_as_people_expect() {
        let value = json!({
            "kind": "Pod", "metadata": {"labels": {"a.b/c": "1", "yes": "on"}, "name": "a"},
            "spec": {"containers": [{"args": ["-c", "a: b\nc"], "name": "x"}], "volumes": [], "hostPID": true},
        });
        let expected = "kind: Pod\nmetadata:\n  labels:\n    a.b/c: \"1\"\n    \"yes\": \"on\"\n  name: a\nspec:\n  \
                        containers:\n    - args:\n        - \"-c\"\n        - \"a: b\\nc\"\n      name: x\n  \
                        hostPID: true\n  volumes: []\n";
        assert_eq!(yaml(&value), expected);
    }
}
