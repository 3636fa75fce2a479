//! Events, in the words of either group.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::{instant, since};
use super::columns::{NAME, string};
use super::{Printer, cell, name, number, or};
use crate::strategy::value::{at, text};

pub(super) static EVENTS: Printer = Printer {
    columns: &[
        string("Last Seen", "How long ago it happened, the last time."),
        string("Type", "Whether it is news or a warning."),
        string("Reason", "What happened, in one word."),
        string("Object", "What it happened to."),
        string("Subobject", "Which part of that.").wide(),
        string("Source", "Who tells it, and from where.").wide(),
        string("Message", "What happened, for people."),
        string("First Seen", "How long ago it happened, the first time.").wide(),
        string("Count", "How often it happened.").wide(),
        NAME.wide(),
    ],
    cells,
};

fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let object = either(event, "involvedObject", "regarding");
    let first = match either(event, "firstTimestamp", "deprecatedFirstTimestamp") {
        time if instant(time).is_some() => since(time, now),
        _ => since(at(event, &["eventTime"]), now),
    };
    let last = match either(event, "lastTimestamp", "deprecatedLastTimestamp") {
        _ if event["series"].is_object() => since(at(event, &["series", "lastObservedTime"]), now),
        time if instant(time).is_some() => since(time, now),
        _ => first.clone(),
    };
    let count = match either(event, "count", "deprecatedCount").as_i64() {
        _ if event["series"].is_object() => number(event, &["series", "count"]),
        // An event that is told once and for all has no count.
        None | Some(0) => 1,
        Some(count) => count,
    };
    vec![
        json!(last),
        cell(event, &["type"]),
        cell(event, &["reason"]),
        json!(target(object)),
        cell(object, &["fieldPath"]),
        json!(source(event)),
        json!(either(event, "message", "note").as_str().unwrap_or_default().trim()),
        json!(first),
        json!(count),
        name(event),
    ]
}

/// A field by its name in `v1` or in `events.k8s.io/v1`.
fn either<'a>(event: &'a Value, core: &str, new: &str) -> &'a Value {
    event.get(core).unwrap_or_else(|| &event[new])
}

fn target(object: &Value) -> String {
    let kind = text(object, &["kind"]).to_lowercase();
    match text(object, &["name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn source(event: &Value) -> String {
    let source = either(event, "source", "deprecatedSource");
    let controller = either(event, "reportingComponent", "reportingController").as_str().unwrap_or_default();
    let component = or(text(source, &["component"]), controller);
    match or(text(source, &["host"]), text(event, &["reportingInstance"])) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    }
}
