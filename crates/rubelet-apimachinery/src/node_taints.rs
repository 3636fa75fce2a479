//! Taints that say what a node's conditions say, so that nothing new is put on a node that cannot run it.
//!
//! The rules are those of upstream's node lifecycle controller, but for what drives pods away: on a node of its own
//! there is nowhere else to go.

use serde_json::{Value, json};

/// Condition type, the status that counts, and the taint's key.
const CONDITIONS: [(&str, &[&str], &str); 6] = [
    ("Ready", &["False"], "node.kubernetes.io/not-ready"),
    ("Ready", &["Unknown"], "node.kubernetes.io/unreachable"),
    ("MemoryPressure", &["True"], "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", &["True"], "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", &["True"], "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", &["True"], "node.kubernetes.io/pid-pressure"),
];
/// The taint of a node that takes no new pods (`kubectl cordon`).
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

fn is_ours(taint: &Value) -> bool {
    let key = taint["key"].as_str().unwrap_or_default();
    taint["effect"] == "NoSchedule"
        && (key == UNSCHEDULABLE || CONDITIONS.iter().any(|(.., ours)| *ours == key))
}

/// The taints the node should have, when they are not those it has: others' first, as they are.
pub fn wanted(node: &Value) -> Option<Vec<Value>> {
    let there: Vec<Value> = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let status = |kind: &str| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.into_iter().flatten().find(|c| c["type"] == kind).and_then(|c| c["status"].as_str())
    };
    let mut keys: Vec<&str> = CONDITIONS
        .iter()
        .filter(|(kind, counts, _)| status(kind).is_some_and(|status| counts.contains(&status)))
        .map(|(.., key)| *key)
        .collect();
    if node["spec"]["unschedulable"] == true {
        keys.push(UNSCHEDULABLE);
    }
    let mut wanted: Vec<Value> = there.iter().filter(|taint| !is_ours(taint)).cloned().collect();
    for key in keys {
        let old = there.iter().find(|taint| is_ours(taint) && taint["key"] == key);
        wanted.push(old.cloned().unwrap_or_else(|| json!({"key": key, "effect": "NoSchedule"})));
    }
    let same = wanted.len() == there.len() && wanted.iter().all(|taint| there.contains(taint));
    (!same).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(node: Value, expected: Option<&[&str]>) {
        let got = wanted(&node)
            .map(|taints| taints.iter().map(|t| t["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>());
        let expected = expected.map(|keys| keys.iter().map(|&k| k.to_owned()).collect::<Vec<_>>());
        assert_eq!(got, expected, "{node}");
    }

    #[test]
    fn conditions_and_cordons_become_taints_and_go_again() {
        let ready = json!([{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}]);
        let ill = json!([{"type": "Ready", "status": "False"}, {"type": "DiskPressure", "status": "True"}]);
        check(json!({"status": {"conditions": ready}}), None);
        let both = ["node.kubernetes.io/not-ready", "node.kubernetes.io/disk-pressure"];
        check(json!({"status": {"conditions": ill}}), Some(&both));
        let own = json!({"key": "gpu", "value": "yes", "effect": "NoSchedule"});
        let old = json!({"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"});
        check(json!({"spec": {"taints": [old, own]}, "status": {"conditions": ready}}), Some(&["gpu"]));
        let kept = json!({"spec": {"taints": [own, {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}, old]},
                          "status": {"conditions": ill}});
        check(kept, None);
        check(json!({"spec": {"unschedulable": true}}), Some(&["node.kubernetes.io/unschedulable"]));
        // What others drive away with is theirs.
        let execute = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"});
        check(json!({"spec": {"taints": [execute]}, "status": {"conditions": ready}}), None);
    }
}
