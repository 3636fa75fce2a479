//! The OOM score adjustment of a container.
//!
//! Owns the formula (upstream `GetContainerOOMScoreAdjust`, KEP-2837 for pod-level requests, KEP-753 for
//! sidecars).

use k8s_openapi::api::core::v1::{Container, Pod};

use super::sums::container_requests;
use crate::admission::is_node_critical_pod;
use crate::containers::{init_containers, is_sidecar, spec_of};
use crate::qos::{QosClass, pod_qos};
use crate::quantity::listed;

const GUARANTEED: i64 = -997;
const BEST_EFFORT: i64 = 1000;

/// The adjustment, −1000 to 1000: the more of the node's memory a burstable container requests, the lower.
pub fn oom_score_adjust(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    if is_node_critical_pod(pod) {
        return GUARANTEED;
    }
    match pod_qos(pod) {
        QosClass::Guaranteed => return GUARANTEED,
        QosClass::BestEffort => return BEST_EFFORT,
        QosClass::Burstable => {}
    }
    let capacity = i128::from(memory_capacity.max(1));
    let unassigned = i128::from(unassigned_per_container(pod));
    let score = |request: i64| 1000 - 1000 * (i128::from(request) + unassigned) / capacity;
    let mut adjust = score(memory_request(container));
    let spec = spec_of(pod);
    let sidecar = is_sidecar(container) && init_containers(spec).iter().any(|c| c.name == container.name);
    if sidecar && let Some(smallest) = spec.containers.iter().map(memory_request).min() {
        // A sidecar lives at least as long as any container it serves.
        adjust = adjust.min(score(smallest));
    }
    i64::try_from(adjust).unwrap_or(i64::MIN).clamp(1000 + GUARANTEED, BEST_EFFORT - 1)
}

fn memory_request(container: &Container) -> i64 {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    listed(requests, "memory").map_or(0, |amount| amount.value())
}

/// Memory that the pod requests beyond its containers, spread evenly over them.
fn unassigned_per_container(pod: &Pod) -> i64 {
    let spec = spec_of(pod);
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let Some(of_pod) = listed(requests, "memory").filter(|amount| !amount.is_zero()) else { return 0 };
    let of_containers = container_requests(spec).get("memory").map_or(0, |amount| amount.value());
    let count = spec.containers.len() + init_containers(spec).len();
    of_pod.value().saturating_sub(of_containers) / i64::try_from(count.max(1)).unwrap_or(i64::MAX)
}
