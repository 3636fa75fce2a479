//! What a new copy of a pod from the API means for its worker.
//!
//! Owns the line between news and echo: the agent's own status writes come back through the watch and must not
//! wake the worker that caused them. Called by the sync loop with the copy it told the worker and the new one;
//! never looks at anything but the objects.
//!
//! Source of the rules: upstream `checkAndUpdatePod`, restated so that only what others wrote is a reason to
//! reconcile.

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};

use crate::phase::Phase;
use crate::static_pod::{CONFIG_MIRROR_ANNOTATION, CONFIG_SEEN_ANNOTATION, CONFIG_SOURCE_ANNOTATION};
use crate::status::patch::owns_condition;

/// How two copies of a pod differ, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodChange {
    /// Nothing that anyone on the node acts on.
    None,
    /// Only what this agent writes: the echo of its own write, or someone's overwrite of it, which is the
    /// status writer's to correct.
    StatusOnly,
    /// The status has something from another writer: a condition (readiness gates look at them), a resource
    /// claim, or a terminal phase. The worker has to look again.
    Reconcile,
    /// What is asked for: spec, labels, annotations, deletion, or the generation, which the status has to follow
    /// even when the agent ignores what changed.
    Spec,
}

/// Annotations that the agent sets on its own copy.
const LOCAL_ANNOTATIONS: [&str; 3] =
    [CONFIG_SOURCE_ANNOTATION, CONFIG_SEEN_ANNOTATION, CONFIG_MIRROR_ANNOTATION];

/// Compares the copy that is known with a newer one. A terminal phase counts as news even when it is this agent's
/// own: it comes once in a pod's life, and nothing in the objects tells whose it is.
pub fn classify(known: &Pod, new: &Pod) -> PodChange {
    if asks_for_something_else(known, new) {
        return PodChange::Spec;
    }
    let empty = PodStatus::default();
    let (before, after) = (known.status.as_ref().unwrap_or(&empty), new.status.as_ref().unwrap_or(&empty));
    if before == after {
        return PodChange::None;
    }
    if others_conditions_differ(before, after)
        || has_ended(before, after)
        || before.resource_claim_statuses != after.resource_claim_statuses
        || before.extended_resource_claim_status != after.extended_resource_claim_status
        || before.node_allocatable_resource_claim_statuses != after.node_allocatable_resource_claim_statuses
    {
        return PodChange::Reconcile;
    }
    PodChange::StatusOnly
}

fn asks_for_something_else(known: &Pod, new: &Pod) -> bool {
    let (before, after) = (&known.metadata, &new.metadata);
    let annotations = |pod: &Pod| {
        let all = pod.metadata.annotations.clone().unwrap_or_default();
        all.into_iter().filter(|(key, _)| !LOCAL_ANNOTATIONS.contains(&key.as_str())).collect::<Vec<_>>()
    };
    before.uid != after.uid
        || before.generation != after.generation
        || before.deletion_timestamp != after.deletion_timestamp
        || before.deletion_grace_period_seconds != after.deletion_grace_period_seconds
        || before.labels.iter().flatten().ne(after.labels.iter().flatten())
        || (before.annotations != after.annotations && annotations(known) != annotations(new))
        || known.spec != new.spec
}

fn others_conditions_differ(before: &PodStatus, after: &PodStatus) -> bool {
    let others = |status: &PodStatus| -> Vec<PodCondition> {
        let listed = status.conditions.iter().flatten();
        let mut list: Vec<_> = listed.filter(|condition| !owns_condition(condition)).map(told).collect();
        list.sort_by(|a, b| a.type_.cmp(&b.type_));
        list
    };
    others(before) != others(after)
}

/// What a condition says, without its stamps.
fn told(condition: &PodCondition) -> PodCondition {
    PodCondition {
        type_: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone().filter(|text| !text.is_empty()),
        message: condition.message.clone().filter(|text| !text.is_empty()),
        ..PodCondition::default()
    }
}

fn has_ended(before: &PodStatus, after: &PodStatus) -> bool {
    let over = |status: &PodStatus| Phase::of(status).filter(|phase| phase.is_terminal());
    over(after).is_some() && over(after) != over(before)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn base() -> Value {
        json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u1", "generation": 3, "resourceVersion": "7",
                "labels": {"app": "web"}, "annotations": {"note": "a", "kubernetes.io/config.source": "api"},
            },
            "spec": {"containers": [{"name": "app", "image": "busybox"}]},
            "status": {
                "phase": "Running",
                "conditions": [
                    {"type": "Ready", "status": "False"},
                    {"type": "example.com/lb", "status": "False"},
                ],
            },
        })
    }

    fn check(pointer: &str, value: Value, expected: PodChange) {
        let known = base();
        let mut new = base();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match new.pointer_mut(parent).unwrap() {
            Value::Object(object) => {
                object.insert(key.to_owned(), value);
            }
            Value::Array(list) => match key.parse::<usize>() {
                Ok(index) => list[index] = value,
                Err(_) => list.push(value),
            },
            other => panic!("{other}"),
        }
        let pod = |value| serde_json::from_value::<Pod>(value).unwrap();
        assert_eq!(classify(&pod(known), &pod(new)), expected, "{pointer}");
    }

    #[test]
    fn only_what_others_say_is_news() {
        use PodChange::*;
        check("/metadata/resourceVersion", json!("8"), None);
        check("/metadata/finalizers", json!(["x"]), None);
        check("/metadata/managedFields", json!([{"manager": "kubelet"}]), None);
        check("/metadata/generation", json!(4), Spec);
        check("/metadata/labels", json!({"app": "db"}), Spec);
        check("/metadata/annotations", json!({"note": "b"}), Spec);
        check(
            "/metadata/annotations",
            json!({"note": "a", "kubernetes.io/config.source": "file", "kubernetes.io/config.seen": "x"}),
            None,
        );
        check("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"), Spec);
        check("/metadata/deletionGracePeriodSeconds", json!(0), Spec);
        check("/metadata/uid", json!("u2"), Spec);
        check("/spec/activeDeadlineSeconds", json!(5), Spec);
        check("/status/podIP", json!("10.0.0.1"), StatusOnly);
        check("/status/conditions/0", json!({"type": "Ready", "status": "True"}), StatusOnly);
        check("/status/conditions/1", json!({"type": "example.com/lb", "status": "True"}), Reconcile);
        check("/status/conditions/1", json!({"type": "example.com/other", "status": "False"}), Reconcile);
        check("/status/conditions/-", json!({"type": "example.com/new", "status": "True"}), Reconcile);
        check(
            "/status/conditions/1",
            json!({"type": "example.com/lb", "status": "False", "lastProbeTime": "2026-01-01T00:00:00Z"}),
            StatusOnly,
        );
        check("/status/phase", json!("Succeeded"), Reconcile);
        check("/status/phase", json!("Pending"), StatusOnly);
        check("/status/conditions/-", json!({"type": "DisruptionTarget", "status": "True"}), Reconcile);
        check("/status/resourceClaimStatuses", json!([{"name": "gpu"}]), Reconcile);
    }
}
