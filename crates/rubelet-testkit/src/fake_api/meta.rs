//! Object metadata: reading it, and what only the server may write of it.
//!
//! Names, UIDs and times come from counters and the injected clock, so that a run can be repeated.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::State;

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn name(object: &Value) -> &str {
    text(object, "name")
}

pub(crate) fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

pub(crate) fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// The resource version; empty when there is none.
pub(crate) fn version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

pub(crate) fn is_deleted(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// The grace period of a deletion, nought when the kind knows none.
pub(crate) fn deletion_grace(object: &Value) -> i64 {
    object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0)
}

pub(crate) fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}

/// A time as metadata says it: whole seconds.
pub(crate) fn time(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// The characters of generated names, without those that could be taken for others or make words.
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A suffix of five characters, as `generateName` gets.
pub(crate) fn suffix(state: &mut State) -> String {
    let mut number = state.store.next_id().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    let base = NAME_ALPHABET.len() as u64;
    (0..5)
        .map(|_| {
            let digit = (number % base) as usize;
            number /= base;
            char::from(NAME_ALPHABET[digit])
        })
        .collect()
}

/// A UID from a counter.
fn fresh_uid(state: &mut State) -> String {
    let id = state.store.next_id();
    let mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{:08x}-{:04x}-4{:03x}-8000-{id:012x}", mixed >> 32, (mixed >> 16) & 0xffff, mixed & 0xfff)
}

/// Gives a new object its name, UID and birth; what clients may not set is dropped.
pub(crate) fn begin(state: &mut State, now: Timestamp, object: &mut Value) {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    if name(object).is_empty() && !text(object, "generateName").is_empty() {
        let generated = format!("{}{}", text(object, "generateName"), suffix(state));
        object["metadata"]["name"] = json!(generated);
    }
    let uid = fresh_uid(state);
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in
            ["deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "selfLink", "generation"]
        {
            metadata.remove(field);
        }
        metadata.insert("uid".into(), json!(uid));
        metadata.insert("creationTimestamp".into(), json!(time(now)));
    }
}

/// Takes over from the stored object what an update cannot change.
pub(crate) fn keep(old: &Value, new: &mut Value) {
    let fields = [
        "name",
        "generateName",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "generation",
        "resourceVersion",
    ];
    for field in fields {
        match old["metadata"].get(field) {
            Some(value) => new["metadata"][field] = value.clone(),
            None => {
                if let Some(metadata) = new["metadata"].as_object_mut() {
                    metadata.remove(field);
                }
            }
        }
    }
}

/// Notes who wrote what, as far as clients care: that managedFields are there and large.
pub(crate) fn manage(object: &mut Value, manager: &str, subresource: &str, now: Timestamp) {
    let mut fields = json!({});
    for part in ["metadata", "spec", "status", "data"] {
        if let Some(inner) = object.get(part).and_then(Value::as_object) {
            let names = inner.keys().map(|key| (format!("f:{key}"), json!({}))).collect();
            fields[format!("f:{part}")] = Value::Object(names);
        }
    }
    let mut entry = json!({
        "manager": manager, "operation": "Update", "apiVersion": object["apiVersion"], "time": time(now),
        "fieldsType": "FieldsV1", "fieldsV1": fields,
    });
    if !subresource.is_empty() {
        entry["subresource"] = json!(subresource);
    }
    let same = |other: &Value| other["manager"] == manager && other["subresource"] == entry["subresource"];
    let mut entries: Vec<Value> = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries.retain(|other| !same(other));
    entries.push(entry);
    object["metadata"]["managedFields"] = Value::Array(entries);
}
