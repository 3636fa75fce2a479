//! The path `resize`: CPU and memory of containers and of the pod change in place (KEP-1287, KEP-5419).
//!
//! Owns upstream's `ValidatePodResize` and the PodResizeValidator plugin, which knows how large the node is.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rubelet_core::qos::{compute_qos, pod_qos};
use rubelet_core::quantity::Amount;
use rubelet_core::resources::pod_requests;
use rubelet_core::restart::is_sidecar;
use rubelet_core::validation::field::{Errors, Path};
use rubelet_core::validation::validate_metadata_and_spec;
use serde_json::{Value, json};

use super::super::{Change, Warnings};
use super::{
    compare, count_generation, forbidden, is_mirror, keep, keep_metadata, name_of, normal, read, refuse, set,
    text, write,
};
use crate::kinds;
use crate::status::ApiError;

type List = BTreeMap<String, Quantity>;

/// An update through that path; everything but resources and resize policies stays.
pub(super) fn update(change: &Change<'_>, new: &mut Value, old: &Value) -> Result<Warnings, ApiError> {
    if same_names(new, old, "containers") && same_names(new, old, "initContainers") {
        keep_but_resources(new, old);
    }
    keep(new, old, "status");
    keep_metadata(new, old);
    let old: Pod = read(old)?;
    let mut pod: Pod = read(new)?;
    normal::apply(&mut pod);
    count_generation(&mut pod, &old);
    let mut errors = Errors(validate_metadata_and_spec(&pod));
    match never(&old) {
        Some(why) => {
            errors.0.clear();
            errors.forbidden(&Path::new(super::WHOLE), why);
        }
        None => validate(&mut errors, &pod, &old),
    }
    refuse(change, name_of(&pod), errors.0)?;
    check_node(change, &pod, &old)?;
    write(new, &pod)?;
    Ok(Warnings::new())
}

fn items<'a>(pod: &'a Value, list: &str) -> &'a [Value] {
    pod["spec"][list].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn same_names(new: &Value, old: &Value, list: &str) -> bool {
    let names = |pod| items(pod, list).iter().map(|container| container["name"].clone()).collect::<Vec<_>>();
    names(new) == names(old)
}

/// Of the new spec only the resources of the pod and its containers are left, and the policies beside them. Containers
/// that came, went or moved are left for validation to refuse.
fn keep_but_resources(new: &mut Value, old: &Value) {
    let wanted = new["spec"].take();
    new["spec"] = old["spec"].clone();
    set(&mut new["spec"], "resources", wanted["resources"].clone());
    for list in ["containers", "initContainers"] {
        let containers = new["spec"].get_mut(list).and_then(Value::as_array_mut);
        let wanted = wanted[list].as_array().into_iter().flatten();
        for (container, wanted) in containers.into_iter().flatten().zip(wanted) {
            set(container, "resources", wanted["resources"].clone());
            set(container, "resizePolicy", wanted["resizePolicy"].clone());
        }
    }
}

/// Why a pod can never be resized.
fn never(old: &Pod) -> Option<&'static str> {
    let spec = super::spec(old);
    if is_mirror(old) {
        Some("static pods cannot be resized")
    } else if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        Some("windows pods cannot be resized")
    } else {
        None
    }
}

fn validate(errors: &mut Errors, new: &Pod, old: &Pod) {
    let path = Path::new("spec");
    if pod_qos(old) != compute_qos(new) {
        let class = new.status.as_ref().map(|status| text(&status.qos_class)).unwrap_or_default();
        errors.invalid(&path, class, "Pod QOS Class may not change as a result of resizing");
    }
    if !node_supports(old) {
        errors.forbidden(&path, "Pod running on node without support for resize");
    }
    let claims = old.status.as_ref().and_then(|s| s.node_allocatable_resource_claim_statuses.as_ref());
    if claims.is_some_and(|claims| !claims.is_empty()) {
        errors.forbidden(&path, "pods with node allocatable resource claims cannot be resized");
    }
    let (new, old) = (super::spec(new), super::spec(old));
    of_pod(errors, new, old, &path);
    if !order(errors, new, old, &path) {
        return;
    }
    let pairs = containers(new, "initContainers").iter().zip(containers(old, "initContainers"));
    for (index, (new, old)) in pairs.enumerate() {
        removed(errors, new, old, &path.child("initContainers").index(index).child("resources"));
    }
    for (index, (new, old)) in new.containers.iter().zip(&old.containers).enumerate() {
        removed(errors, new, old, &path.child("containers").index(index).child("resources"));
    }
    for (new, old) in new.containers.iter().zip(&old.containers) {
        if !compare::same_containers(&with_old(new, old), old) {
            errors.forbidden(&path, "only cpu and memory resources are mutable");
        }
    }
    let pairs = containers(new, "initContainers").iter().zip(containers(old, "initContainers"));
    for (index, (new, old)) in pairs.enumerate() {
        let path = path.child("initContainers").index(index);
        if !compare::same_containers(&with_old(new, old), old) {
            errors
                .forbidden(&path, "only cpu and memory resources for init or sidecar containers are mutable");
        }
        let restarts = new.resize_policy.iter().flatten().any(|p| p.restart_policy == "RestartContainer");
        if restarts && !is_sidecar(new) && !compare::same_containers(new, old) {
            let rule =
                "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            errors.forbidden(&path, rule);
        }
    }
}

/// Whether the node's agent tells what containers have, which those that can resize do.
fn node_supports(old: &Pod) -> bool {
    let statuses = old.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut running = statuses.filter(|status| status.state.as_ref().is_some_and(|s| s.running.is_some()));
    running.next().is_none_or(|status| status.resources.is_some())
}

/// Resources of the pod as a whole.
fn of_pod(errors: &mut Errors, new: &PodSpec, old: &PodSpec, path: &Path) {
    let given = |spec: &PodSpec| {
        spec.resources.as_ref().is_some_and(|resources| {
            resources.requests.iter().flatten().next().is_some()
                || resources.limits.iter().flatten().next().is_some()
        })
    };
    if !given(new) && !given(old) {
        return;
    }
    let resources_path = path.child("resources");
    let none = ResourceRequirements::default();
    if old.resources.is_some() && new.resources.is_none() {
        return errors.forbidden(&resources_path, "pod-level resources cannot be removed");
    }
    let after = new.resources.as_ref().unwrap_or(&none);
    let before = old.resources.as_ref().unwrap_or(&none);
    if are_removed(&after.requests, &before.requests) {
        errors.forbidden(&resources_path.child("requests"), "pod-level resource requests cannot be removed");
    }
    if are_removed(&after.limits, &before.limits) {
        errors.forbidden(&resources_path.child("limits"), "pod-level resource limits cannot be removed");
    }
    if !same_but_cpu_and_memory(after, before) {
        errors.forbidden(path, "only cpu and memory resources are mutable at pod-level");
    }
}

fn containers<'a>(spec: &'a PodSpec, list: &str) -> &'a [Container] {
    match list {
        "containers" => &spec.containers,
        _ => spec.init_containers.as_deref().unwrap_or_default(),
    }
}

/// Whether the containers are the same in the same order.
fn order(errors: &mut Errors, new: &PodSpec, old: &PodSpec, path: &Path) -> bool {
    let before = errors.0.len();
    for list in ["containers", "initContainers"] {
        let (new, old) = (containers(new, list), containers(old, list));
        let path = path.child(list);
        if new.len() != old.len() {
            errors.forbidden(&path, &format!("{list} may not be added or removed on resize"));
            continue;
        }
        for (index, _) in new.iter().zip(old).enumerate().filter(|(_, (new, old))| new.name != old.name) {
            let rule = format!("{list} may not be renamed or reordered on resize");
            errors.forbidden(&path.index(index).child("name"), &rule);
        }
    }
    errors.0.len() == before
}

fn removed(errors: &mut Errors, new: &Container, old: &Container, path: &Path) {
    let none = ResourceRequirements::default();
    let (new, old) = (new.resources.as_ref().unwrap_or(&none), old.resources.as_ref().unwrap_or(&none));
    if are_removed(&new.requests, &old.requests) {
        errors.forbidden(&path.child("requests"), "resource requests cannot be removed");
    }
    if are_removed(&new.limits, &old.limits) {
        errors.forbidden(&path.child("limits"), "resource limits cannot be removed");
    }
}

fn are_removed(new: &Option<List>, old: &Option<List>) -> bool {
    let none = List::new();
    let (new, old) = (new.as_ref().unwrap_or(&none), old.as_ref().unwrap_or(&none));
    old.keys().any(|name| !new.contains_key(name))
}

/// The new container with the old CPU and memory, and the old policy: what is left must not have changed. Upstream
/// compares the policy, so that a change of it is refused too.
fn with_old(new: &Container, old: &Container) -> Container {
    let mut container = new.clone();
    let none = ResourceRequirements::default();
    let before = old.resources.as_ref().unwrap_or(&none);
    let after = container.resources.get_or_insert_default();
    after.limits = old_cpu_and_memory(&after.limits, &before.limits);
    after.requests = old_cpu_and_memory(&after.requests, &before.requests);
    container
}

fn old_cpu_and_memory(new: &Option<List>, old: &Option<List>) -> Option<List> {
    let mut list = new.clone().unwrap_or_default();
    for name in ["cpu", "memory"] {
        match old.as_ref().and_then(|old| old.get(name)) {
            Some(quantity) => list.insert(name.to_owned(), quantity.clone()),
            None => list.remove(name),
        };
    }
    Some(list).filter(|list| !list.is_empty())
}

fn same_but_cpu_and_memory(new: &ResourceRequirements, old: &ResourceRequirements) -> bool {
    let none = List::new();
    let same = |new: &Option<List>, old: &Option<List>| {
        let merged = old_cpu_and_memory(new, old);
        compare::same_lists(merged.as_ref().unwrap_or(&none), old.as_ref().unwrap_or(&none))
    };
    same(&new.limits, &old.limits) && same(&new.requests, &old.requests) && new.claims == old.claims
}

/// What the pod wants after this has to fit its node, were it alone there.
fn check_node(change: &Change<'_>, new: &Pod, old: &Pod) -> Result<(), ApiError> {
    let name = text(&super::spec(new).node_name);
    if name.is_empty() || new.metadata.generation == old.metadata.generation {
        return Ok(());
    }
    let node = kinds::find("", "v1", "nodes").and_then(|nodes| change.lookup.get(nodes, "", name));
    let Some(node) = node else {
        return Err(forbidden(change, new, &format!("node {name:?} not found")));
    };
    let refuse = |why: &str, reason: &str| {
        let mut error = forbidden(change, new, why);
        error.details["causes"] = json!([{"reason": reason}]);
        Err(error)
    };
    let system = node["metadata"]["labels"]["kubernetes.io/os"].as_str();
    if let Some(system) = system.filter(|system| *system != "linux") {
        let why = format!("pod resize is only supported on linux nodes, node {name:?} is {system:?}");
        return refuse(&why, "UnsupportedPlatform");
    }
    let requests = pod_requests(new, true);
    let amount = |resource: &str| {
        let allocatable = node["status"]["allocatable"][resource].as_str();
        let allocatable = allocatable.and_then(|text| Amount::parse(text).ok()).unwrap_or(Amount::ZERO);
        (requests.get(resource).copied().unwrap_or(Amount::ZERO), allocatable)
    };
    let mut short = Vec::new();
    let (wanted, there) = amount("cpu");
    if wanted > there {
        let (wanted, there) = (wanted.milli_value(), there.milli_value());
        short.push(format!("cpu, requested: {wanted}, allocatable: {there}"));
    }
    let (wanted, there) = amount("memory");
    if wanted > there {
        short.push(format!("memory, requested: {}, allocatable: {}", wanted.value(), there.value()));
    }
    if short.is_empty() {
        return Ok(());
    }
    let why = format!("node didn't have enough allocatable resources: {}", short.join("; "));
    refuse(&why, "NodeCapacity")
}
