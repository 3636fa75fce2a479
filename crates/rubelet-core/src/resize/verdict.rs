//! Whether the node agrees to a resize: now, later or never.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::order::asks_for_more;
use super::{PodAllocation, RESOURCES, ResizeGates, resizable, same_resources, value_of};
use crate::admission::{self, NodeFacts};
use crate::containers::{init_containers, spec_of};
use crate::qos::{QosClass, pod_qos};
use crate::quantity::{Amount, listed};
use crate::resources::{ResourceFacts, container_resources, pod_requests};

/// What the verdict depends on besides room.
#[derive(Clone, Copy, Debug)]
pub struct ResizeFacts<'a> {
    /// Feature gates.
    pub gates: ResizeGates,
    /// `cpuManagerPolicy: static`.
    pub static_cpus: bool,
    /// `memoryManagerPolicy: Static`.
    pub static_memory: bool,
    /// What container resources are computed from.
    pub resources: &'a ResourceFacts,
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResizeVerdict {
    /// The node gives it now.
    Accepted,
    /// There is no room now; it is tried again.
    Deferred {
        /// For the condition and the event.
        message: String,
    },
    /// The node can never give it; only another spec is looked at again.
    Infeasible {
        /// For the condition and the event.
        message: String,
        /// Label of the metric.
        detail: &'static str,
    },
}

/// Judges a resize of a pod that runs. `others` are the other pods of the node as [`counted_pod`] counts them.
///
/// A resize that asks for no more always fits: upstream also asks the checks of new pods (pressure of disks, taints),
/// which say nothing about CPU and memory of what runs.
pub fn judge<'a>(
    desired: &Pod,
    allocated: &Pod,
    others: impl Iterator<Item = &'a Pod>,
    node: &NodeFacts,
    facts: &ResizeFacts<'_>,
) -> ResizeVerdict {
    if let Some((message, detail)) = impossible(desired, allocated, node, facts) {
        return ResizeVerdict::Infeasible { message, detail };
    }
    if !asks_for_more(desired, allocated) {
        return ResizeVerdict::Accepted;
    }
    let (wanted, has) = (pod_requests(desired, true), pod_requests(allocated, true));
    let grows = |name: &str| {
        let amount = |sums: &BTreeMap<String, Amount>| sums.get(name).copied().unwrap_or(Amount::ZERO);
        amount(&wanted) > amount(&has)
    };
    let missing = admission::insufficient(desired, others, node);
    // What it has of the rest it keeps, however full the node is.
    match missing
        .iter()
        .find(|missing| RESOURCES.contains(&missing.resource.as_str()) && grows(&missing.resource))
    {
        Some(missing) => ResizeVerdict::Deferred { message: missing.to_string() },
        None => ResizeVerdict::Accepted,
    }
}

fn impossible(
    desired: &Pod,
    allocated: &Pod,
    node: &NodeFacts,
    facts: &ResizeFacts<'_>,
) -> Option<(String, &'static str)> {
    if swaps(desired, allocated, facts.resources) {
        return Some((
            "In-place resize of containers with swap is not supported.".to_owned(),
            "swap_limitation",
        ));
    }
    if !facts.gates.pod_level
        && !same_resources(spec_of(desired).resources.as_ref(), spec_of(allocated).resources.as_ref())
    {
        let message = "InPlacePodLevelResourcesVerticalScaling is disabled".to_owned();
        return Some((message, "plr_feature_gate_off"));
    }
    if pod_qos(desired) == QosClass::Guaranteed {
        if facts.static_cpus
            && !facts.gates.exclusive_cpus
            && requests_change(desired, allocated, "cpu", facts)
        {
            return Some((
                "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"".to_owned(),
                "guaranteed_pod_cpu_manager_static_policy",
            ));
        }
        if facts.static_memory
            && !facts.gates.exclusive_memory
            && requests_change(desired, allocated, "memory", facts)
        {
            return Some((
                "Resize is infeasible for Guaranteed Pods alongside Memory Manager policy \"Static\""
                    .to_owned(),
                "guaranteed_pod_memory_manager_static_policy",
            ));
        }
    }
    let wanted = pod_requests(desired, true);
    RESOURCES.iter().find_map(|name| {
        let units = |amount: Amount| if *name == "cpu" { amount.milli_value() } else { amount.value() };
        let requested = wanted.get(*name).copied().map(units)?;
        let capacity = node.allocatable.get(*name).copied().map(units)?;
        let grows = requested > pod_requests(allocated, true).get(*name).copied().map_or(0, units);
        (requested > capacity && grows).then(|| {
            let message = format!(
                "Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}"
            );
            (message, "insufficient_node_allocatable")
        })
    })
}

fn requests_change(desired: &Pod, allocated: &Pod, resource: &str, facts: &ResizeFacts<'_>) -> bool {
    resizable(desired, facts.gates).any(|container| {
        let before = resizable(allocated, facts.gates).find(|before| before.name == container.name);
        let amount = |container| value_of(container, "requests", resource);
        before.is_some_and(|before| amount(before) != amount(container))
    })
}

/// Whether the resize changes how much a container that is not restarted may swap.
fn swaps(desired: &Pod, allocated: &Pod, facts: &ResourceFacts) -> bool {
    let all = |pod| {
        let spec = spec_of(pod);
        spec.containers.iter().chain(init_containers(spec))
    };
    let may_swap = |pod: &Pod, container: &Container| {
        let resources = container_resources(pod, container, false, facts);
        resources.unified.get("memory.swap.max").is_some_and(|most| most != "0")
    };
    all(desired).any(|container| {
        let Some(before) = all(allocated).find(|before| before.name == container.name) else { return false };
        let amount = |container| value_of(container, "requests", "memory");
        let mut policies = before.resize_policy.iter().flatten();
        let restarts =
            policies.any(|p| p.resource_name == "memory" && p.restart_policy == "RestartContainer");
        amount(container) != amount(before)
            && !restarts
            && (may_swap(desired, container) || may_swap(allocated, before))
    })
}

/// A pod as it counts against others: what was allocated to it or, while that is more, what it still has.
/// `None` when the pod counts as it is.
pub fn counted_pod(allocated: &Pod, actuated: &PodAllocation) -> Option<Pod> {
    let larger = |container: &Container| -> Vec<(&'static str, Amount)> {
        let Some(has) = actuated.containers.get(&container.name) else { return vec![] };
        RESOURCES
            .into_iter()
            .filter_map(|name| Some((name, listed(has.requests.as_ref(), name)?)))
            .filter(|(name, has)| *has > value_of(container, "requests", name))
            .collect()
    };
    let own: Vec<(&'static str, Amount)> = match (&actuated.pod, &spec_of(allocated).resources) {
        (Some(has), Some(allocated)) => RESOURCES
            .into_iter()
            .filter_map(|name| Some((name, listed(has.requests.as_ref(), name)?)))
            .filter(|(name, has)| {
                listed(allocated.requests.as_ref(), name).is_some_and(|allocated| *has > allocated)
            })
            .collect(),
        _ => vec![],
    };
    let spec = spec_of(allocated);
    if own.is_empty() && init_containers(spec).iter().chain(&spec.containers).all(|c| larger(c).is_empty()) {
        return None;
    }
    let mut copy = allocated.clone();
    let spec = copy.spec.get_or_insert_default();
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        for (name, amount) in larger(container) {
            let requests = container.resources.get_or_insert_default().requests.get_or_insert_default();
            requests.insert(name.to_owned(), amount.to_quantity());
        }
    }
    for (name, amount) in own {
        let requests = spec.resources.get_or_insert_default().requests.get_or_insert_default();
        requests.insert(name.to_owned(), amount.to_quantity());
    }
    Some(copy)
}
