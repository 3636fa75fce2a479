//! In-place resize (KEP-1287, KEP-5419): CPU and memory of a pod that runs change without a new pod.
//!
//! Four values are told apart. *Desired* is what the spec says; *allocated* is what the node has agreed to, and what
//! a worker is handed; *actuated* is what the runtime was last told and took; *actual* is what it reports. Everything
//! here is pure; the shell's `allocation` keeps the books and `worker/resize.rs` carries plans out.
//!
//! - [`judge`]: may desired become allocated, now, later or never ([`order`](compare_pending): who is asked first)
//! - [`ResizePlan`]: from actuated to allocated, by container and resource, and the pod's own cgroup around it
//! - [`checkpoint`]: the books on disk, in upstream's form
//! - [`PendingResize`], [`ResizeProgress`]: how it is told in conditions and events

mod actual;
mod actuation;
pub mod checkpoint;
mod guard;
mod order;
mod telling;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

pub use self::actual::{ActualResources, reported_pod_resources, reported_resources};
pub use self::actuation::{
    ContainerUpdate, GroupValues, PodGroupPart, ResizePlan, Resizing, RestartedContainer, Settings,
    extend_plan, group_steps,
};
pub use self::guard::{MemoryShrink, memory_shrink, shrink_problem};
pub use self::order::{PendingPod, compare_pending};
pub use self::telling::{
    IN_PROGRESS, PENDING, PendingResize, ResizeProgress, ResizeTold, message, pending_event, pending_of,
    progress_of,
};
pub use self::verdict::{ResizeFacts, ResizeVerdict, counted_pod, judge};
use crate::containers::{init_containers, is_sidecar, spec_of};
use crate::quantity::{Amount, listed};

/// Names of what can be resized.
pub const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// Feature gates that this depends on; `InPlacePodVerticalScaling` itself is on for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResizeGates {
    /// `InPlacePodVerticalScalingInitContainers`: regular init containers too.
    pub init_containers: bool,
    /// `InPlacePodLevelResourcesVerticalScaling`: resources of the pod itself.
    pub pod_level: bool,
    /// `InPlacePodVerticalScalingExclusiveCPUs`.
    pub exclusive_cpus: bool,
    /// `InPlacePodVerticalScalingExclusiveMemory`.
    pub exclusive_memory: bool,
}

impl Default for ResizeGates {
    /// As they are in 1.36.
    fn default() -> Self {
        Self { init_containers: true, pod_level: true, exclusive_cpus: false, exclusive_memory: false }
    }
}

/// Resources of a pod and its containers: an entry of either book.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodAllocation {
    /// By container name.
    pub containers: BTreeMap<String, ResourceRequirements>,
    /// Those of the pod itself.
    pub pod: Option<ResourceRequirements>,
}

impl PodAllocation {
    /// What a spec asks for.
    pub fn of(pod: &Pod, gates: ResizeGates) -> Self {
        let containers = resizable(pod, gates)
            .map(|container| (container.name.clone(), container.resources.clone().unwrap_or_default()))
            .collect();
        let own = spec_of(pod).resources.clone().filter(|_| gates.pod_level);
        Self { containers, pod: own }
    }
}

/// Containers that can be resized: apps, sidecars and, with their gate, regular init containers.
pub fn resizable(pod: &Pod, gates: ResizeGates) -> impl Iterator<Item = &Container> {
    let spec = spec_of(pod);
    let init = init_containers(spec).iter().filter(move |init| gates.init_containers || is_sidecar(init));
    init.chain(&spec.containers)
}

/// The pod with what was allocated in place of what is desired; `None` when that is the same.
pub fn allocated_pod(pod: &Pod, allocation: &PodAllocation, gates: ResizeGates) -> Option<Pod> {
    let own_differs =
        gates.pod_level && !same_resources(spec_of(pod).resources.as_ref(), allocation.pod.as_ref());
    let differs = |container: &Container| {
        let allocated = allocation.containers.get(&container.name);
        allocated.is_some_and(|allocated| !same_resources(container.resources.as_ref(), Some(allocated)))
    };
    let spec = spec_of(pod);
    if !own_differs && !init_containers(spec).iter().chain(&spec.containers).any(differs) {
        return None;
    }
    let mut copy = pod.clone();
    let spec = copy.spec.get_or_insert_default();
    if own_differs {
        spec.resources = allocation.pod.clone();
    }
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        if differs(container) {
            container.resources = allocation.containers.get(&container.name).cloned();
        }
    }
    Some(copy)
}

/// Whether two sets of resources mean the same: `1` and `1000m` do, no list and an empty one do.
pub fn same_resources(one: Option<&ResourceRequirements>, other: Option<&ResourceRequirements>) -> bool {
    let none = ResourceRequirements::default();
    let (one, other) = (one.unwrap_or(&none), other.unwrap_or(&none));
    same_list(one.requests.as_ref(), other.requests.as_ref())
        && same_list(one.limits.as_ref(), other.limits.as_ref())
}

type List = BTreeMap<String, Quantity>;

fn same_list(one: Option<&List>, other: Option<&List>) -> bool {
    let empty = List::new();
    let (one, other) = (one.unwrap_or(&empty), other.unwrap_or(&empty));
    one.len() == other.len()
        && one.iter().all(|(name, text)| {
            other.get(name).is_some_and(|theirs| {
                text == theirs
                    || matches!((Amount::of(text), Amount::of(theirs)), (Ok(one), Ok(other)) if one == other)
            })
        })
}

/// A change of one value of a container, for the metric of requested resizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestedChange {
    /// `cpu` or `memory`.
    pub resource: &'static str,
    /// `requests` or `limits`.
    pub requirement: &'static str,
    /// `add`, `remove`, `increase` or `decrease`.
    pub operation: &'static str,
}

/// What of the containers' resources a new spec asks to change.
pub fn requested_changes(old: &Pod, new: &Pod, gates: ResizeGates) -> Vec<RequestedChange> {
    let mut changes = vec![];
    for after in resizable(new, gates) {
        let Some(before) = resizable(old, gates).find(|before| before.name == after.name) else { continue };
        for resource in ["memory", "cpu"] {
            for requirement in ["requests", "limits"] {
                let amount = |container| value_of(container, requirement, resource);
                let operation = match (amount(before), amount(after)) {
                    (was, is) if was == is => continue,
                    (was, _) if was.is_zero() => "add",
                    (_, is) if is.is_zero() => "remove",
                    (was, is) if is > was => "increase",
                    _ => "decrease",
                };
                changes.push(RequestedChange { resource, requirement, operation });
            }
        }
    }
    changes
}

fn value_of(container: &Container, requirement: &str, resource: &str) -> Amount {
    let resources = container.resources.as_ref();
    let list =
        resources.and_then(|r| if requirement == "limits" { r.limits.as_ref() } else { r.requests.as_ref() });
    listed(list, resource).unwrap_or(Amount::ZERO)
}
