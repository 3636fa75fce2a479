//! Memory that is protected and throttled by class: the gate MemoryQoS (KEP-2570), in the unified hierarchy only.
//!
//! Owns the numbers of containers; those of pods and QoS classes are with the groups they are set on.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::qos::{QosClass, pod_qos};
use crate::quantity::listed;

/// File of hard protection: the kernel never takes this much away.
pub(super) const MIN: &str = "memory.min";
/// File of soft protection.
pub(super) const LOW: &str = "memory.low";
const HIGH: &str = "memory.high";

/// What the gate needs to know; there is none while it is off, or without the unified hierarchy.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryQos {
    /// `memoryThrottlingFactor`.
    pub throttling_factor: f64,
    /// `memoryReservationPolicy: TieredReservation`.
    pub tiered: bool,
    /// Memory that pods may request of the node, bytes; 0 when it is not known.
    pub allocatable: i64,
    /// Size of a page, bytes.
    pub page_size: i64,
}

/// The files of a container. Without the tiered policy protection is taken back; throttling begins at a part of the
/// way from the request to the limit, or to what the node has.
pub(super) fn of_container(pod: &Pod, container: &Container, qos: &MemoryQos) -> BTreeMap<String, String> {
    let resources = container.resources.as_ref();
    let amount = |list| listed(list, "memory").map_or(0, |amount| amount.value());
    let request = amount(resources.and_then(|r| r.requests.as_ref()));
    let limit = amount(resources.and_then(|r| r.limits.as_ref()));
    let mut files = BTreeMap::new();
    if request != 0 && qos.tiered {
        let file = if pod_qos(pod) == QosClass::Guaranteed { MIN } else { LOW };
        files.insert(file.to_owned(), request.to_string());
    } else {
        files.insert(MIN.to_owned(), "0".to_owned());
        files.insert(LOW.to_owned(), "0".to_owned());
    }
    let top = if limit != 0 { limit } else { qos.allocatable };
    if request != limit && top > 0 {
        let high = throttled_at(request, top, qos);
        if high > request && high != 0 {
            files.insert(HIGH.to_owned(), high.to_string());
        }
    }
    files
}

/// `memory.high`, a multiple of the page size.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "the formula is one of floats"
)]
fn throttled_at(request: i64, top: i64, qos: &MemoryQos) -> i64 {
    let page = qos.page_size.max(1);
    let bytes = request as f64 + (top as f64 - request as f64) * qos.throttling_factor;
    ((bytes / page as f64).floor() as i64).saturating_mul(page)
}

/// The file of a pod's own group, under the tiered policy: what its containers request together.
pub(super) fn of_pod(class: QosClass, request: i64, qos: &MemoryQos) -> BTreeMap<String, String> {
    if !qos.tiered || request <= 0 {
        return BTreeMap::new();
    }
    let file = if class == QosClass::Guaranteed { MIN } else { LOW };
    [(file.to_owned(), request.to_string())].into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MIB: i64 = 1 << 20;

    #[track_caller]
    fn check(tiered: bool, resources: serde_json::Value, expected: &[(&str, i64)]) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "resources": resources}]}
        }))
        .unwrap();
        let qos = MemoryQos { throttling_factor: 0.9, tiered, allocatable: 1000 * MIB, page_size: 4096 };
        let found = of_container(&pod, &pod.spec.as_ref().unwrap().containers[0], &qos);
        let expected: BTreeMap<String, String> =
            expected.iter().map(|(file, value)| ((*file).to_owned(), value.to_string())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn throttling_begins_below_the_limit() {
        // KEP-2570's example: floor[(request + 0.9 × (limit − request)) / page] × page.
        let high = (100.0 * MIB as f64 + 0.9 * 100.0 * MIB as f64) as i64 / 4096 * 4096;
        let both = json!({"requests": {"memory": "100Mi"}, "limits": {"memory": "200Mi"}});
        check(false, both.clone(), &[("memory.min", 0), ("memory.low", 0), ("memory.high", high)]);
        check(true, both, &[("memory.low", 100 * MIB), ("memory.high", high)]);
    }

    #[test]
    fn without_a_limit_the_node_is_it() {
        let high = (100.0 * MIB as f64 + 0.9 * 900.0 * MIB as f64) as i64 / 4096 * 4096;
        check(
            true,
            json!({"requests": {"memory": "100Mi"}}),
            &[("memory.low", 100 * MIB), ("memory.high", high)],
        );
        // Neither request nor limit: nothing to protect, nothing to throttle at.
        check(true, json!({}), &[("memory.min", 0), ("memory.low", 0)]);
    }

    #[test]
    fn request_and_limit_the_same_are_not_throttled() {
        let all = json!({"cpu": "1", "memory": "64Mi"});
        let both = json!({"requests": all, "limits": all});
        check(true, both.clone(), &[("memory.min", 64 * MIB)]);
        check(false, both, &[("memory.min", 0), ("memory.low", 0)]);
    }
}
