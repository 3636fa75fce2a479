//! No new pods for a node that is short of something (upstream: the eviction manager's `Admit`).

use k8s_openapi::api::core::v1::{Pod, Taint};

use super::{NodeFacts, Rejection, is_critical_pod, tolerates};
use crate::containers::spec_of;
use crate::qos::{QosClass, pod_qos};

/// What a node is short of, as its conditions say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodePressure {
    /// MemoryPressure.
    pub memory: bool,
    /// DiskPressure.
    pub disk: bool,
    /// PIDPressure.
    pub pids: bool,
}

/// Critical pods always pass. When memory alone is short, pods that ask for some pass, and so do those that
/// tolerate the taint of that condition.
pub(super) fn check(pod: &Pod, node: &NodeFacts) -> Result<(), Rejection> {
    let NodePressure { memory, disk, pids } = node.pressure;
    if !(memory || disk || pids) || is_critical_pod(pod) {
        return Ok(());
    }
    if !disk && !pids && (pod_qos(pod) != QosClass::BestEffort || tolerates_memory_pressure(pod)) {
        return Ok(());
    }
    let conditions: Vec<&str> = [(memory, "MemoryPressure"), (disk, "DiskPressure"), (pids, "PIDPressure")]
        .into_iter()
        .filter_map(|(holds, name)| holds.then_some(name))
        .collect();
    Err(Rejection::new("Evicted", format!("The node had condition: [{}]. ", conditions.join(" "))))
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/memory-pressure".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    spec_of(pod).tolerations.iter().flatten().any(|toleration| tolerates(toleration, &taint))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT_OF_MEMORY: NodePressure = NodePressure { memory: true, disk: false, pids: false };
    const SHORT_OF_ALL: NodePressure = NodePressure { memory: true, disk: true, pids: true };

    fn check_pod(pressure: NodePressure, spec: serde_json::Value, expected: Option<&str>) {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": spec})).unwrap();
        let node = NodeFacts { pressure, ..NodeFacts::default() };
        let rejected = check(&pod, &node).err();
        assert_eq!(rejected.as_ref().map(|r| r.message.as_str()), expected, "{spec}");
        assert!(rejected.is_none_or(|r| r.reason == "Evicted"));
    }

    #[test]
    fn who_passes_under_pressure() {
        let plain = serde_json::json!({"containers": [{"name": "c"}]});
        let burstable =
            serde_json::json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        let tolerant = serde_json::json!({"containers": [{"name": "c"}],
            "tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}]});
        let critical = serde_json::json!({"containers": [{"name": "c"}], "priority": 2_000_000_000});
        check_pod(NodePressure::default(), plain.clone(), None);
        check_pod(SHORT_OF_MEMORY, plain.clone(), Some("The node had condition: [MemoryPressure]. "));
        check_pod(SHORT_OF_MEMORY, burstable.clone(), None);
        check_pod(SHORT_OF_MEMORY, tolerant.clone(), None);
        check_pod(
            SHORT_OF_ALL,
            burstable,
            Some("The node had condition: [MemoryPressure DiskPressure PIDPressure]. "),
        );
        check_pod(
            SHORT_OF_ALL,
            tolerant,
            Some("The node had condition: [MemoryPressure DiskPressure PIDPressure]. "),
        );
        check_pod(SHORT_OF_ALL, critical, None);
    }
}
