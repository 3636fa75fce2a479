//! Conditions of pods that the control plane sets: where a pod is scheduled, and that it is being evicted.
//!
//! Owns upstream's `UpdatePodCondition`: the time of a condition changes only with its status.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// What a pod waits for whose gates nobody has opened.
pub(super) const GATED: &str = "Scheduling is blocked due to non-empty scheduling gates";

/// The first condition of a pod with scheduling gates.
pub(super) fn gated(now: Timestamp) -> PodCondition {
    PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("SchedulingGated".to_owned()),
        message: Some(GATED.to_owned()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    }
}

/// Sets a condition of a stored pod; says whether anything is different now.
pub(super) fn update(pod: &mut Value, mut condition: Value, now: Timestamp) -> bool {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = pod["status"]["conditions"].as_array_mut() else { return false };
    condition["lastTransitionTime"] = json!(seconds(now));
    match conditions.iter_mut().find(|there| there["type"] == condition["type"]) {
        Some(there) => {
            if there["status"] == condition["status"]
                && let Some(time) = there.get("lastTransitionTime")
            {
                condition["lastTransitionTime"] = time.clone();
            }
            let changed = *there != condition;
            *there = condition;
            changed
        }
        None => {
            conditions.push(condition);
            true
        }
    }
}

/// A time as the API writes it, in whole seconds.
fn seconds(now: Timestamp) -> String {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
