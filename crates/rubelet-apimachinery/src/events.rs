//! Events are one store with two faces: `v1` and `events.k8s.io/v1`. This turns an object of one into the other, as
//! upstream's conversions between both and the internal type do.
//!
//! Names of fields move, values stay; nothing is validated here. The engine keeps events in core form.

use serde_json::{Map, Value, json};

/// Fields of `v1` and what `events.k8s.io/v1` calls them. All others have the same name in both.
const RENAMED: [(&str, &str); 7] = [
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("involvedObject", "regarding"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
];

/// Fields that `v1` always has.
const CORE_ALWAYS: [&str; 4] = ["involvedObject", "reportingComponent", "reportingInstance", "source"];
/// Fields that `events.k8s.io/v1` always has.
const NEW_ALWAYS: [&str; 2] = ["deprecatedSource", "regarding"];

/// The `v1` form of an event, in which events are stored.
pub fn to_core(event: Value) -> Value {
    convert(event, "v1", &CORE_ALWAYS, |name| {
        RENAMED
            .iter()
            .find(|(_, new)| *new == name)
            .map_or_else(|| name.to_owned(), |(core, _)| (*core).to_owned())
    })
}

/// The `events.k8s.io/v1` form of an event.
pub fn to_events(event: Value) -> Value {
    convert(event, "events.k8s.io/v1", &NEW_ALWAYS, |name| {
        RENAMED
            .iter()
            .find(|(core, _)| *core == name)
            .map_or_else(|| name.to_owned(), |(_, new)| (*new).to_owned())
    })
}

fn convert(event: Value, api_version: &str, always: &[&str], rename: impl Fn(&str) -> String) -> Value {
    let Value::Object(fields) = event else { return event };
    let mut converted: Map<String, Value> =
        fields.into_iter().map(|(name, value)| (rename(&name), value)).collect();
    converted.insert("apiVersion".to_owned(), json!(api_version));
    for &name in always {
        let empty = if name.starts_with("reporting") { json!("") } else { json!({}) };
        converted.entry(name).or_insert(empty);
    }
    if api_version != "v1" {
        // Text that is optional here.
        for name in ["reportingController", "reportingInstance"] {
            if converted.get(name).and_then(Value::as_str) == Some("") {
                converted.remove(name);
            }
        }
    }
    Value::Object(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fields_move_and_values_stay() {
        let core = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
            "involvedObject": {"kind": "Pod"}, "source": {"component": "kubelet"}, "message": "m", "count": 3,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:01Z", "reason": "Started",
            "type": "Normal", "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000001Z"},
            "related": {"kind": "Node"}, "action": "Run", "reportingComponent": "kubelet", "reportingInstance": "n1",
        });
        let new = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "regarding": {"kind": "Pod"}, "deprecatedSource": {"component": "kubelet"}, "note": "m",
            "deprecatedCount": 3, "deprecatedFirstTimestamp": "2026-01-01T00:00:00Z",
            "deprecatedLastTimestamp": "2026-01-01T00:00:01Z", "reason": "Started", "type": "Normal",
            "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000001Z"},
            "related": {"kind": "Node"}, "action": "Run", "reportingController": "kubelet", "reportingInstance": "n1",
        });
        assert_eq!(to_events(core.clone()), new);
        assert_eq!(to_core(new), core);
    }

    #[test]
    fn what_a_form_always_has_is_there() {
        let core = to_core(json!({"kind": "Event", "regarding": {"name": "a"}}));
        assert_eq!(core["source"], json!({}));
        assert_eq!(core["reportingComponent"], json!(""));
        assert_eq!(to_events(core).get("reportingController"), None);
        assert_eq!(to_core(json!("text")), json!("text"));
    }
}
