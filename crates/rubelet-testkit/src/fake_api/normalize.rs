//! The form in which a real server returns what it was sent: Go's types leave out what is empty, always write what has
//! no `omitempty`, keep times in their precision and quantities in their canonical form.
//!
//! A client that compares what it sent with what came back must survive all of this. Values in, values out.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::meta;

/// Fields of type `metav1.Time`, stored in whole seconds.
const SECOND_TIMES: &[&str] = &[
    "creationTimestamp",
    "deletionTimestamp",
    "firstTimestamp",
    "lastTimestamp",
    "startTime",
    "lastTransitionTime",
    "lastProbeTime",
    "lastHeartbeatTime",
    "lastUpdateTime",
    "startedAt",
    "finishedAt",
    "expirationTimestamp",
];

/// Fields of type `metav1.MicroTime`, written with six decimals.
const MICRO_TIMES: &[&str] = &["renewTime", "acquireTime", "eventTime", "lastObservedTime"];

/// Maps from resource names to quantities.
const QUANTITIES: &[&str] =
    &["capacity", "allocatable", "limits", "requests", "allocatedResources", "podFixed", "overhead"];

/// Maps whose values are the clients' own text.
const OPAQUE: &[&str] = &["data", "stringData", "binaryData", "annotations", "labels", "fieldsV1"];

/// Texts of statuses that are left out when they are empty.
const OMITTED_TEXTS: &[&str] =
    &["reason", "message", "phase", "podIP", "hostIP", "nominatedNodeName", "containerID"];

/// Brings an object of `kind` into the form in which it is returned.
pub(crate) fn normalize(kind: &str, object: &mut Value) {
    tidy(object);
    match kind {
        "Pod" => {
            for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
                let statuses = object.get_mut("status").and_then(|status| status.get_mut(list));
                for status in statuses.and_then(Value::as_array_mut).into_iter().flatten() {
                    always(
                        status,
                        &[("state", json!({})), ("lastState", json!({})), ("ready", json!(false))],
                    );
                    always(
                        status,
                        &[("restartCount", json!(0)), ("image", json!("")), ("imageID", json!(""))],
                    );
                }
            }
        }
        "Node" => {
            always(object, &[("spec", json!({})), ("status", json!({}))]);
            let texts = [
                "machineID",
                "systemUUID",
                "bootID",
                "kernelVersion",
                "osImage",
                "containerRuntimeVersion",
                "kubeletVersion",
                "kubeProxyVersion",
                "operatingSystem",
                "architecture",
            ];
            let endpoints = json!({"kubeletEndpoint": {"Port": 0}});
            always(&mut object["status"], &[("daemonEndpoints", endpoints), ("nodeInfo", json!({}))]);
            always(&mut object["status"]["nodeInfo"], &texts.map(|field| (field, json!(""))));
        }
        "Event" => always(
            object,
            &[("source", json!({})), ("reportingComponent", json!("")), ("reportingInstance", json!(""))],
        ),
        _ => {}
    }
}

/// Fields without `omitempty`.
fn always(object: &mut Value, fields: &[(&str, Value)]) {
    let Some(map) = object.as_object_mut() else { return };
    for (field, value) in fields {
        map.entry(*field).or_insert_with(|| value.clone());
    }
}

fn tidy(object: &mut Value) {
    match object {
        Value::Object(fields) => {
            fields.retain(|key, value| match value {
                Value::Null => false,
                Value::Array(items) => !items.is_empty() || key == "containers",
                Value::String(text) => !text.is_empty() || !OMITTED_TEXTS.contains(&key.as_str()),
                _ => true,
            });
            for (key, value) in fields.iter_mut() {
                let key = key.as_str();
                if SECOND_TIMES.contains(&key) {
                    rewrite_time(value, meta::time);
                } else if MICRO_TIMES.contains(&key) {
                    rewrite_time(value, |at| format!("{at:.6}"));
                } else if QUANTITIES.contains(&key) {
                    for quantity in value.as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
                        if let Some(canonical) = quantity.as_str().and_then(canonical_quantity) {
                            *quantity = json!(canonical);
                        }
                    }
                } else if !OPAQUE.contains(&key) {
                    tidy(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

fn rewrite_time(value: &mut Value, write: impl FnOnce(Timestamp) -> String) {
    if let Some(at) = value.as_str().and_then(|text| text.parse().ok()) {
        *value = json!(write(at));
    }
}

/// The canonical form of a quantity: the largest suffix of its kind with which no fraction is left. `None` when it is
/// none, or finer than thousandths.
pub(crate) fn canonical_quantity(text: &str) -> Option<String> {
    const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [&str; 8] = ["m", "", "k", "M", "G", "T", "P", "E"];
    let digits =
        text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '-' && c != '+').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    if number.is_empty() {
        return None;
    }
    let milli = thousandths(number)?;
    if let Some(power) = BINARY.iter().position(|s| *s == suffix).filter(|power| *power > 0) {
        let milli = milli.checked_mul(1024_i128.checked_pow(u32::try_from(power).ok()?)?)?;
        let whole = milli.checked_div(1000).filter(|whole| whole * 1000 == milli)?;
        let (mut value, mut exponent) = (whole, 0);
        while value != 0 && value % 1024 == 0 && exponent + 1 < BINARY.len() {
            value /= 1024;
            exponent += 1;
        }
        return Some(format!("{value}{}", BINARY[exponent]));
    }
    let power = DECIMAL.iter().position(|s| *s == suffix)?;
    let (mut value, mut exponent) = match u32::try_from(power).ok()?.checked_sub(1) {
        // Said in thousandths: the number counts them.
        None => (number.parse().ok()?, 0),
        Some(power) => (milli.checked_mul(1000_i128.checked_pow(power)?)?, 0),
    };
    if value == 0 {
        return Some("0".to_owned());
    }
    while value % 1000 == 0 && exponent + 1 < DECIMAL.len() {
        value /= 1000;
        exponent += 1;
    }
    Some(format!("{value}{}", DECIMAL[exponent]))
}

/// A decimal number in thousandths, if it is that coarse.
fn thousandths(number: &str) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 3 {
        return None;
    }
    let scale = 10_i128.pow(3 - u32::try_from(fraction.len()).ok()?);
    let negative = whole.starts_with('-');
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse::<i128>().ok()? * scale };
    Some(whole * 1000 + if negative { -fraction } else { fraction })
}
