//! What the status of a claim says of growing on the node: patches of it, each good for the version it was made from.
//!
//! Owns conditions and `allocatedResourceStatuses` of the storage as upstream writes them (`MarkNodeExpansion…`). Never
//! asks the API server; the shell reads the claim, asks here and writes.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::quantity::{Amount, Format};

const STORAGE: &str = "storage";
const FAILED: &str = "NodeResizeError";
/// Conditions that tell of growing; all of them are over once it is done.
const GROWING: [&str; 4] = ["FileSystemResizePending", "Resizing", "ControllerResizeError", FAILED];

/// The claim has `bytes` now, and nothing is left to do.
pub fn expanded(claim: &PersistentVolumeClaim, bytes: i64) -> Value {
    let kept: Vec<_> = conditions(claim)
        .into_iter()
        .filter(|condition| !GROWING.contains(&condition.type_.as_str()))
        .collect();
    let status = json!({
        "capacity": { STORAGE: Amount::units(bytes, Format::BinarySi).to_string() },
        "allocatedResourceStatuses": { STORAGE: null },
        "conditions": kept,
    });
    patch(claim, status)
}

/// The node has begun to grow the volume; `None` when the status says so already.
pub fn expanding(claim: &PersistentVolumeClaim) -> Option<Value> {
    const BEGUN: &str = "NodeResizeInProgress";
    let statuses = claim.status.as_ref().and_then(|status| status.allocated_resource_statuses.as_ref());
    if statuses.and_then(|statuses| statuses.get(STORAGE)).is_some_and(|status| status == BEGUN) {
        return None;
    }
    Some(patch(claim, json!({ "allocatedResourceStatuses": { STORAGE: BEGUN } })))
}

/// The driver could not; `infeasible`: it is not tried again until somebody asks for less. `None` when the status says
/// so already.
pub fn not_expanded(
    claim: &PersistentVolumeClaim,
    infeasible: bool,
    message: &str,
    now: Timestamp,
) -> Option<Value> {
    let mut conditions = conditions(claim);
    let known = conditions.iter().find(|condition| condition.type_ == FAILED);
    // As upstream, a failure that repeats keeps the first one's words.
    let told = known.is_some_and(|condition| condition.status == "True");
    if told && !infeasible {
        return None;
    }
    if !told {
        conditions.retain(|condition| condition.type_ != FAILED);
        conditions.push(PersistentVolumeClaimCondition {
            type_: FAILED.to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
            message: Some(format!("failed to expand pvc with {message}")),
            ..Default::default()
        });
    }
    let mut status = json!({ "conditions": conditions });
    if infeasible {
        status["allocatedResourceStatuses"] = json!({ STORAGE: "NodeResizeInfeasible" });
    }
    Some(patch(claim, status))
}

fn conditions(claim: &PersistentVolumeClaim) -> Vec<PersistentVolumeClaimCondition> {
    claim.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default()
}

/// A merge patch for exactly the version that was read: lists in it replace what is there.
fn patch(claim: &PersistentVolumeClaim, status: Value) -> Value {
    json!({ "metadata": { "resourceVersion": claim.metadata.resource_version }, "status": status })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(status: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({ "metadata": { "resourceVersion": "7" }, "status": status })).unwrap()
    }

    fn of(condition: &str) -> Value {
        json!({ "type": condition, "status": "True" })
    }

    #[test]
    fn growing_is_told_and_cleared() {
        let before = claim(json!({
            "allocatedResourceStatuses": { "storage": "NodeResizePending" },
            "conditions": [of("FileSystemResizePending"), of("Other"), of("NodeResizeError")],
        }));
        assert_eq!(
            expanded(&before, 2 << 30),
            json!({
                "metadata": { "resourceVersion": "7" },
                "status": {
                    "capacity": { "storage": "2Gi" },
                    "allocatedResourceStatuses": { "storage": null },
                    "conditions": [of("Other")],
                },
            })
        );
        let begun = expanding(&before).unwrap();
        assert_eq!(
            begun["status"],
            json!({ "allocatedResourceStatuses": { "storage": "NodeResizeInProgress" } })
        );
        assert_eq!(expanding(&claim(begun["status"].clone())), None);
    }

    #[test]
    fn failures_are_told_once() {
        let now = Timestamp::from_millisecond(5_500).unwrap();
        let check = |status: Value, infeasible: bool, expected: Option<Value>| {
            let got = not_expanded(&claim(status), infeasible, "no space", now);
            assert_eq!(got.map(|patch| patch["status"].clone()), expected);
        };
        let failure = json!({
            "type": "NodeResizeError", "status": "True", "lastTransitionTime": "1970-01-01T00:00:05Z",
            "message": "failed to expand pvc with no space",
        });
        let pending = of("FileSystemResizePending");
        check(json!({ "conditions": [pending] }), false, Some(json!({ "conditions": [pending, failure] })));
        check(json!({ "conditions": [failure] }), false, None);
        let infeasible = json!({ "storage": "NodeResizeInfeasible" });
        check(
            json!({ "conditions": [failure] }),
            true,
            Some(json!({ "conditions": [failure], "allocatedResourceStatuses": infeasible })),
        );
        check(json!({}), false, Some(json!({ "conditions": [failure] })));
    }
}
