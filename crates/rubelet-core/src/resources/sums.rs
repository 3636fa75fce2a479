//! What a pod requests and may use as a whole.
//!
//! Owns the formula of KEP-753 (sidecars) and KEP-2837 (pod-level resources), upstream `PodRequests` and
//! `PodLimits`. Called for cgroups, the OOM score and admission.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::containers::{init_containers, is_sidecar, spec_of};
use crate::quantity::{Amount, listed};

/// Amounts by resource name.
pub type Sums = BTreeMap<String, Amount>;

type List = Option<BTreeMap<String, Quantity>>;

/// Requests of a pod: pod-level ones where given, else the sum over containers.
pub fn pod_requests(pod: &Pod, overhead: bool) -> Sums {
    let spec = spec_of(pod);
    let mut sums = container_requests(spec);
    override_with(&mut sums, spec, |resources| &resources.requests);
    if overhead {
        add(&mut sums, &amounts(&spec.overhead));
    }
    sums
}

/// Limits of a pod. Overhead is added to limits that exist.
pub(crate) fn pod_limits(pod: &Pod, overhead: bool) -> Sums {
    let spec = spec_of(pod);
    let mut sums = aggregate(spec, |resources| &resources.limits);
    override_with(&mut sums, spec, |resources| &resources.limits);
    if overhead {
        for (name, more) in amounts(&spec.overhead) {
            if let Some(sum) = sums.get_mut(&name).filter(|sum| !sum.is_zero()) {
                *sum = sum.plus(more);
            }
        }
    }
    sums
}

/// The sum over containers only.
pub(super) fn container_requests(spec: &PodSpec) -> Sums {
    aggregate(spec, |resources| &resources.requests)
}

/// Whether a limit holds for all of the pod: each container has it, or the pod itself.
pub(super) fn limit_is_declared(pod: &Pod, name: &str) -> bool {
    let spec = spec_of(pod);
    let limited = |resources: &Option<ResourceRequirements>| {
        let limits = resources.as_ref().and_then(|r| r.limits.as_ref());
        listed(limits, name).is_some_and(|limit| !limit.is_zero())
    };
    if limited(&spec.resources) {
        return true;
    }
    // A regular init container runs beside the sidecars before it, and counts as limited with them.
    let mut sidecar_limited = false;
    let init_limited = init_containers(spec).iter().all(|container| {
        let own = limited(&container.resources);
        sidecar_limited |= own && is_sidecar(container);
        own || sidecar_limited
    });
    init_limited && spec.containers.iter().all(|container| limited(&container.resources))
}

/// The larger of what runs at once for good (apps and sidecars), and each init container with the sidecars that
/// stand before it.
fn aggregate(spec: &PodSpec, list: impl Fn(&ResourceRequirements) -> &List) -> Sums {
    let of =
        |container: &Container| container.resources.as_ref().map(|r| amounts(list(r))).unwrap_or_default();
    let mut total = Sums::new();
    for container in &spec.containers {
        add(&mut total, &of(container));
    }
    let mut sidecars = Sums::new();
    let mut while_starting = Sums::new();
    for container in init_containers(spec) {
        let mut own = of(container);
        if is_sidecar(container) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut while_starting, &sidecars);
        } else {
            add(&mut own, &sidecars);
            raise(&mut while_starting, &own);
        }
    }
    raise(&mut total, &while_starting);
    total
}

fn override_with(sums: &mut Sums, spec: &PodSpec, list: impl Fn(&ResourceRequirements) -> &List) {
    let own = spec.resources.as_ref().map(|resources| amounts(list(resources))).unwrap_or_default();
    sums.extend(own.into_iter().filter(|(name, _)| is_pod_level(name)));
}

/// Resources that can be given for a whole pod.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn amounts(list: &List) -> Sums {
    let entries = list.iter().flatten();
    entries.filter_map(|(name, text)| Some((name.clone(), Amount::of(text).ok()?))).collect()
}

fn add(sums: &mut Sums, more: &Sums) {
    for (name, amount) in more {
        let sum = sums.entry(name.clone()).or_insert(Amount::ZERO);
        *sum = sum.plus(*amount);
    }
}

fn raise(sums: &mut Sums, other: &Sums) {
    for (name, amount) in other {
        let sum = sums.entry(name.clone()).or_insert(*amount);
        *sum = sum.or_larger(*amount);
    }
}
