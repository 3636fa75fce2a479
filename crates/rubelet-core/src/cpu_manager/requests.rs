//! How many CPUs of its own a container or a pod is to have under the static policy.
//!
//! Owns upstream's `guaranteedCPUs` and `podGuaranteedCPUs`; knows no machine.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::containers::{init_containers, is_sidecar, spec_of};
use crate::qos::{QosClass, pod_qos};
use crate::quantity::listed;

/// The CPUs of a container of a Guaranteed pod that asks for whole ones; 0 where it shares.
///
/// Pods with resources of their own share: what the pod has is for all of its containers.
pub fn exclusive_cpus(pod: &Pod, container: &Container) -> usize {
    if pod_qos(pod) != QosClass::Guaranteed || has_pod_level_resources(pod) {
        return 0;
    }
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let Some(amount) = listed(requests, "cpu") else { return 0 };
    if amount.value().checked_mul(1000) != Some(amount.milli_value()) {
        return 0;
    }
    usize::try_from(amount.value()).unwrap_or(0)
}

/// The CPUs a pod holds at most at one time: sidecars and app containers together, or an init container and the
/// sidecars before it.
pub fn pod_exclusive_cpus(pod: &Pod) -> usize {
    let spec = spec_of(pod);
    let (mut sidecars, mut starting) = (0_usize, 0_usize);
    for container in init_containers(spec) {
        let own = exclusive_cpus(pod, container);
        if is_sidecar(container) {
            sidecars = sidecars.saturating_add(own);
        } else {
            starting = starting.max(sidecars.saturating_add(own));
        }
    }
    let apps = spec
        .containers
        .iter()
        .fold(0_usize, |sum, container| sum.saturating_add(exclusive_cpus(pod, container)));
    starting.max(apps.saturating_add(sidecars))
}

/// Whether the pod itself has requests or limits.
fn has_pod_level_resources(pod: &Pod) -> bool {
    let given = |list: Option<&std::collections::BTreeMap<_, _>>| list.is_some_and(|list| !list.is_empty());
    spec_of(pod)
        .resources
        .as_ref()
        .is_some_and(|own| given(own.requests.as_ref()) || given(own.limits.as_ref()))
}
