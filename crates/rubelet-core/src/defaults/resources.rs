//! Requests from limits, pod-level resources from the containers', and canonical quantities.
//!
//! Owns the sums of upstream's `AggregateContainerRequests` and `AggregateContainerLimits` in the inner form
//! that the UID needs; whoever sums for cgroups or admission uses [`crate::quantity`] instead.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::go_dump::DerivedQuantities;
use crate::go_dump::quantity::GoQuantity;
use crate::quantity::Amount;

type Written = BTreeMap<String, Quantity>;
type Sums = BTreeMap<String, GoQuantity>;

/// Requests default to limits per container; then pod-level limits and requests are completed (KEP-2837).
pub(super) fn default_requests_and_limits(spec: &mut PodSpec) -> DerivedQuantities {
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let Some(resources) = &mut container.resources else { continue };
        let Some(limits) = &resources.limits else { continue };
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
    let mut derived = DerivedQuantities::default();
    default_huge_page_limits(spec, &mut derived);
    default_pod_requests(spec, &mut derived);
    derived
}

fn default_huge_page_limits(spec: &mut PodSpec, derived: &mut DerivedQuantities) {
    let sums = aggregate_limits(spec);
    let Some(resources) = &mut spec.resources else { return };
    if is_empty(&resources.limits) && is_empty(&resources.requests) {
        return;
    }
    let listed =
        |list: &Option<Written>, name: &str| list.as_ref().is_some_and(|list| list.contains_key(name));
    for (name, sum) in sums.into_iter().filter(|(name, _)| is_huge_page(name)) {
        if !listed(&resources.requests, &name) && !listed(&resources.limits, &name) {
            let quantity = sum.amount().to_quantity();
            resources.limits.get_or_insert_default().insert(name.clone(), quantity);
            derived.limits.insert(name, sum);
        }
    }
}

fn default_pod_requests(spec: &mut PodSpec, derived: &mut DerivedQuantities) {
    let sums = aggregate_requests(spec);
    let Some(resources) = &mut spec.resources else { return };
    let Some(limits) = resources.limits.as_ref().filter(|limits| !limits.is_empty()) else { return };
    let mut added = Written::new();
    let absent = |added: &Written, name: &str| {
        !added.contains_key(name)
            && resources.requests.as_ref().is_none_or(|requests| !requests.contains_key(name))
    };
    for (name, sum) in sums {
        if is_overcommittable(&name) && absent(&added, &name) {
            added.insert(name.clone(), sum.amount().to_quantity());
            derived.requests.insert(name, sum);
        }
    }
    for (name, limit) in limits {
        if (is_overcommittable(name) || is_huge_page(name)) && absent(&added, name) {
            added.insert(name.clone(), limit.clone());
            if let Some(form) = derived.limits.get(name) {
                derived.requests.insert(name.clone(), form.clone());
            }
        }
    }
    if !added.is_empty() {
        resources.requests.get_or_insert_default().extend(added);
    }
}

/// What a pod may set for all its containers together, huge pages aside.
fn is_overcommittable(name: &str) -> bool {
    matches!(name, "cpu" | "memory")
}

fn is_empty(list: &Option<Written>) -> bool {
    list.as_ref().is_none_or(BTreeMap::is_empty)
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// What the containers of a pod request together (KEP-753): the larger of all that run at once and of each
/// init container with the sidecars before it.
pub(crate) fn aggregate_requests(spec: &PodSpec) -> Sums {
    aggregate(spec, |resources| resources.requests.as_ref())
}

/// The same sum over limits.
pub(crate) fn aggregate_limits(spec: &PodSpec) -> Sums {
    aggregate(spec, |resources| resources.limits.as_ref())
}

fn aggregate(spec: &PodSpec, list: impl Fn(&ResourceRequirements) -> Option<&Written>) -> Sums {
    let forms = |resources: Option<&ResourceRequirements>| -> Sums {
        let written = resources.and_then(&list).into_iter().flatten();
        written.filter_map(|(name, quantity)| Some((name.clone(), GoQuantity::parse(&quantity.0)?))).collect()
    };
    let mut total = Sums::new();
    for container in &spec.containers {
        add(&mut total, &forms(container.resources.as_ref()));
    }
    let mut sidecars = Sums::new();
    let mut init = Sums::new();
    for container in spec.init_containers.iter().flatten() {
        let own = forms(container.resources.as_ref());
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut init, &sidecars);
        } else {
            let mut with_sidecars = own;
            add(&mut with_sidecars, &sidecars);
            raise(&mut init, &with_sidecars);
        }
    }
    raise(&mut total, &init);
    total
}

fn add(sums: &mut Sums, more: &Sums) {
    for (name, quantity) in more {
        let sum = match sums.get(name) {
            Some(sum) => sum.clone().plus(quantity),
            None => quantity.clone(),
        };
        sums.insert(name.clone(), sum);
    }
}

fn raise(sums: &mut Sums, other: &Sums) {
    for (name, quantity) in other {
        if sums.get(name).is_none_or(|sum| quantity.compare(sum) == Ordering::Greater) {
            sums.insert(name.clone(), quantity.clone());
        }
    }
}

/// Writes every quantity in canonical form; those of resource lists are rounded up to thousandths before.
///
/// What is no quantity stays as it is, for validation to report.
pub(crate) fn canonical_quantities(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            requirements(&mut container.resources);
        }
        for container in spec.ephemeral_containers.iter_mut().flatten() {
            requirements(&mut container.resources);
        }
        requirements(&mut spec.resources);
        rounded(&mut spec.overhead);
        for volume in spec.volumes.iter_mut().flatten() {
            if let Some(limit) = volume.empty_dir.as_mut().and_then(|dir| dir.size_limit.as_mut()) {
                exact(limit);
            }
            if let Some(template) = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut())
                && let Some(resources) = &mut template.spec.resources
            {
                rounded(&mut resources.limits);
                rounded(&mut resources.requests);
            }
        }
    }
    if let Some(status) = &mut pod.status {
        let lists = [
            &mut status.container_statuses,
            &mut status.init_container_statuses,
            &mut status.ephemeral_container_statuses,
        ];
        for container in
            lists.into_iter().flat_map(|list: &mut Option<Vec<ContainerStatus>>| list.iter_mut().flatten())
        {
            requirements(&mut container.resources);
            rounded(&mut container.allocated_resources);
        }
        requirements(&mut status.resources);
        rounded(&mut status.allocated_resources);
    }
}

fn requirements(resources: &mut Option<ResourceRequirements>) {
    if let Some(resources) = resources {
        rounded(&mut resources.limits);
        rounded(&mut resources.requests);
    }
}

fn rounded(list: &mut Option<Written>) {
    for quantity in list.iter_mut().flatten().map(|(_, quantity)| quantity) {
        if let Some(form) = GoQuantity::parse(&quantity.0) {
            *quantity = form.rounded_up_to_milli().amount().to_quantity();
        }
    }
}

fn exact(quantity: &mut Quantity) {
    if let Ok(amount) = Amount::of(quantity) {
        *quantity = amount.to_quantity();
    }
}
