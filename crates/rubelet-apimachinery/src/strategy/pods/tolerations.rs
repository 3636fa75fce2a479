//! The DefaultTolerationSeconds plugin: five minutes on a node that is not ready or not reachable.

use k8s_openapi::api::core::v1::{Pod, Toleration};

use super::text;

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Adds what the pod does not say itself. Updates are treated as new pods are.
pub(super) fn admit(pod: &mut Pod) {
    let tolerations = pod.spec.get_or_insert_default().tolerations.get_or_insert_default();
    let missing: Vec<&str> = TAINTS
        .into_iter()
        .filter(|taint| {
            !tolerations.iter().any(|toleration| {
                (text(&toleration.key) == *taint || text(&toleration.key).is_empty())
                    && matches!(text(&toleration.effect), "" | "NoExecute")
            })
        })
        .collect();
    for taint in missing {
        tolerations.push(Toleration {
            key: Some(taint.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            toleration_seconds: Some(SECONDS),
            ..Toleration::default()
        });
    }
}

/// Both lists as one, without those that others make superfluous (upstream `MergeTolerations`): what a runtime class
/// adds to a pod's own.
pub(super) fn merged(first: &[Toleration], second: &[Toleration]) -> Vec<Toleration> {
    let all: Vec<&Toleration> = first.iter().chain(second).collect();
    let mut merged: Vec<Toleration> = Vec::new();
    for (index, toleration) in all.iter().enumerate() {
        let covered_by_kept = merged.iter().any(|kept| covers(kept, toleration));
        let covered_later =
            all[index + 1..].iter().any(|later| **later != **toleration && covers(later, toleration));
        if !covered_by_kept && !covered_later {
            merged.push((*toleration).clone());
        }
    }
    merged
}

/// Whether whatever `narrow` tolerates, `wide` tolerates too, and as long.
fn covers(wide: &Toleration, narrow: &Toleration) -> bool {
    let (key, effect, operator) = (text(&wide.key), text(&wide.effect), text(&wide.operator));
    let any_key = key.is_empty() && operator == "Exists";
    let as_long = match wide.toleration_seconds {
        Some(seconds) if effect == "NoExecute" => narrow.toleration_seconds.is_some_and(|n| n <= seconds),
        _ => true,
    };
    let same_value = match operator {
        "Exists" => true,
        "" | "Equal" => text(&narrow.operator) == "Equal" && text(&narrow.value) == text(&wide.value),
        _ => false,
    };
    wide == narrow
        || ((key == text(&narrow.key) || any_key)
            && (effect == text(&narrow.effect) || effect.is_empty())
            && as_long
            && same_value)
}
