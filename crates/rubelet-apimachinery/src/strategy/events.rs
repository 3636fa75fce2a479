//! Events, which are one store with two faces: `v1` and `events.k8s.io/v1`.
//!
//! Objects arrive in the shape of `v1`, whichever face they came through; the newer face asks for more.

use rubelet_core::validation::field::{Errors, Path};
use rubelet_core::validation::names;
use serde_json::Value;

use super::rules::Rules;
use super::value::{at, has, text};
use super::{Change, checks};

/// The rules of Events.
pub(crate) struct Events;

/// Whether an event came through `events.k8s.io`.
fn is_strict(change: &Change<'_>) -> bool {
    !change.resource.group.is_empty()
}

impl Rules for Events {
    fn name(&self, name: &str) -> Vec<String> {
        checks::path_segment(name)
    }

    fn created_by_update(&self) -> bool {
        true
    }

    fn collected(&self) -> bool {
        false
    }

    fn validate(&self, change: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        validate_any(change, new, errors);
        match old {
            _ if !is_strict(change) => {}
            None => validate_new(new, errors),
            Some(old) => validate_change(new, old, errors),
        }
    }
}

fn validate_any(change: &Change<'_>, event: &Value, errors: &mut Errors) {
    let namespace = text(event, &["metadata", "namespace"]);
    let involved = text(event, &["involvedObject", "namespace"]);
    let path = Path::new("involvedObject").child("namespace");
    let rule = "does not match event.namespace";
    if !has(event, &["eventTime"]) {
        let fits =
            if involved.is_empty() { matches!(namespace, "" | "default") } else { involved == namespace };
        if !fits {
            errors.invalid(&path, involved, rule);
        }
        return;
    }
    if involved.is_empty() && !matches!(namespace, "default" | "kube-system") {
        errors.invalid(&path, involved, rule);
    }
    let said = if is_strict(change) { "reportingController" } else { "reportingComponent" };
    let name = text(event, &["reportingComponent"]);
    if name.is_empty() {
        errors.required(&Path::new(said), "");
    }
    checks::qualified(errors, &Path::new(said), name);
    for (field, needed, limit) in [
        ("reportingInstance", true, 128),
        ("action", true, 128),
        ("reason", true, 128),
        ("message", false, 1024),
    ] {
        let value = text(event, &[field]);
        if needed && value.is_empty() {
            errors.required(&Path::new(field), "");
        }
        if value.len() > limit {
            errors.invalid(&Path::new(field), "", format!("can have at most {limit} characters"));
        }
    }
}

fn validate_new(event: &Value, errors: &mut Errors) {
    let name = text(event, &["metadata", "name"]);
    errors.invalid_each(&Path::new("metadata").child("name"), name, names::dns_subdomain(name));
    validate_series(event, errors);
    if !has(event, &["eventTime"]) {
        errors.required(&Path::new("eventTime"), "");
    }
    let kind = text(event, &["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid(&Path::new("type"), "", format!("has invalid value: {kind}"));
    }
    let set = [
        ("firstTimestamp", has(event, &["firstTimestamp"])),
        ("lastTimestamp", has(event, &["lastTimestamp"])),
        ("count", event["count"].as_i64().unwrap_or(0) != 0),
        ("source", ["component", "host"].iter().any(|field| !text(event, &["source", field]).is_empty())),
    ];
    for (field, _) in set.iter().filter(|(_, set)| *set) {
        errors.invalid(&Path::new(field), "", "needs to be unset");
    }
}

fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    if new["series"] != old["series"] {
        validate_series(new, errors);
    }
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
    ] {
        let said = if field == "reportingComponent" { "reportingController" } else { field };
        checks::immutable(errors, &Path::new(said), &new[field], &old[field]);
    }
}

fn validate_series(event: &Value, errors: &mut Errors) {
    if !has(event, &["series"]) {
        return;
    }
    if at(event, &["series", "count"]).as_i64().unwrap_or(0) < 2 {
        errors.invalid(&Path::new("series.count"), "", "should be at least 2");
    }
    if !has(event, &["series", "lastObservedTime"]) {
        errors.required(&Path::new("series.lastObservedTime"), "");
    }
}
