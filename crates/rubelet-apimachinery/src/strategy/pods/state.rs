//! The path `status`: what node agents and the scheduler report.
//!
//! Owns what such a write keeps of the stored pod, and upstream's `ValidatePodStatusUpdate`: what cannot be true after
//! what was reported before.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, ContainerUser, Pod, PodCondition, PodSpec, PodStatus,
};
use rubelet_core::restart::{init_containers, may_restart_all, restarts_after};
use rubelet_core::validation::field::{Errors, Json, Path};
use rubelet_core::validation::names;
use serde_json::{Value, json};

use super::super::{Change, Warnings};
use super::update::annotations;
use super::{keep, read, refuse, text, warnings};
use crate::status::ApiError;

/// A write of a status. Labels, annotations and finalizers may come with it, as upstream has always let them.
pub(super) fn update(change: &Change<'_>, new: &mut Value, old: &Value) -> Result<Warnings, ApiError> {
    keep(new, old, "spec");
    for field in ["deletionTimestamp", "ownerReferences", "generation"] {
        keep(&mut new["metadata"], &old["metadata"], field);
    }
    keep_what_old_agents_forget(new, old);
    agree_on_pod_ip(&mut new["status"]);
    let (pod, before): (Pod, Pod) = (read(new)?, read(old)?);
    let mut errors = Errors::default();
    annotations(&mut errors, &pod, &before);
    let empty = PodStatus::default();
    validate(
        &mut errors,
        pod.status.as_ref().unwrap_or(&empty),
        before.status.as_ref().unwrap_or(&empty),
        super::spec(&before),
    );
    refuse(change, super::name_of(&pod), errors.0)?;
    Ok(pod.status.as_ref().map(warnings::of_status).unwrap_or_default())
}

/// The class never changes, and what was observed is not forgotten: whoever leaves these out means what is stored.
fn keep_what_old_agents_forget(new: &mut Value, old: &Value) {
    if !new["status"].is_object() {
        new["status"] = json!({});
    }
    if new["status"]["qosClass"].as_str().unwrap_or_default().is_empty() {
        keep(&mut new["status"], &old["status"], "qosClass");
    }
    if new["status"]["observedGeneration"].as_i64().unwrap_or(0) == 0 {
        keep(&mut new["status"], &old["status"], "observedGeneration");
    }
    // Conditions of one type are matched in their order, because a type may stand there twice.
    let mut remembered: Vec<&Value> = old["status"]["conditions"].as_array().into_iter().flatten().collect();
    let conditions = new["status"].get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter(|condition| condition.is_object()) {
        let Some(at) = remembered.iter().position(|old| old["type"] == condition["type"]) else { continue };
        let old = remembered.remove(at);
        if condition["observedGeneration"].as_i64().unwrap_or(0) == 0 {
            keep(condition, old, "observedGeneration");
        }
    }
}

/// The single address and the list say the same; where they do not, the single one is right (old agents know no other).
fn agree_on_pod_ip(status: &mut Value) {
    let single = status["podIP"].as_str().unwrap_or_default().to_owned();
    let first = status["podIPs"][0]["ip"].as_str().unwrap_or_default().to_owned();
    if single.is_empty() && !first.is_empty() {
        status["podIP"] = json!(first);
    } else if single != first {
        status["podIPs"] = json!([{"ip": single}]);
    }
}

fn validate(errors: &mut Errors, new: &PodStatus, old: &PodStatus, spec: &PodSpec) {
    let path = Path::new("status");
    conditions(errors, new.conditions.as_deref().unwrap_or_default(), &path.child("conditions"));
    nomination(errors, new, old, spec, &path.child("nominatedNodeName"));
    if let Some(generation) = new.observed_generation.filter(|generation| *generation < 0) {
        errors.invalid(&path.child("observedGeneration"), &generation, "must be a non-negative integer");
    }
    if text(&new.qos_class) != text(&old.qos_class) {
        errors.invalid(&path.child("qosClass"), text(&new.qos_class), "field is immutable");
    }
    transitions(errors, new, old, spec, &path);
    claims(errors, new, spec, &path.child("resourceClaimStatuses"));
    let ips = |status: &PodStatus| -> Vec<String> {
        status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()
    };
    addresses(errors, &ips(new), &ips(old), &path.child("podIPs"));
    let ips = |status: &PodStatus| -> Vec<String> {
        status.host_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()
    };
    let hosts = ips(new);
    if let Some(first) = hosts.first().filter(|first| *first != text(&new.host_ip)) {
        let path = path.child("hostIPs").index(0).child("ip");
        errors.invalid(&path, first, "must be equal to `hostIP`");
    }
    addresses(errors, &hosts, &ips(old), &path.child("hostIPs"));
    for (list, statuses) in lists(new) {
        for (index, status) in statuses.iter().enumerate() {
            if let Some(user) = &status.user {
                user_ids(errors, user, &path.child(list).index(index).child("user").child("linux"));
            }
        }
    }
    allocated(errors, new, spec, &path);
}

fn lists(status: &PodStatus) -> [(&'static str, &[ContainerStatus]); 3] {
    [
        ("containerStatuses", status.container_statuses.as_deref().unwrap_or_default()),
        ("initContainerStatuses", status.init_container_statuses.as_deref().unwrap_or_default()),
        ("ephemeralContainerStatuses", status.ephemeral_container_statuses.as_deref().unwrap_or_default()),
    ]
}

fn conditions(errors: &mut Errors, conditions: &[PodCondition], path: &Path) {
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        if let Some(generation) = condition.observed_generation.filter(|generation| *generation < 0) {
            errors.invalid(&path.child("observedGeneration"), &generation, "must be a non-negative integer");
        }
        if !matches!(condition.type_.as_str(), "PodScheduled" | "Ready" | "Initialized") {
            errors.invalid_each(
                &path.child("Type"),
                &condition.type_,
                names::qualified_name(&condition.type_),
            );
        }
    }
}

fn nomination(errors: &mut Errors, new: &PodStatus, old: &PodStatus, spec: &PodSpec, path: &Path) {
    let name = text(&new.nominated_node_name);
    if name.is_empty() || name == text(&old.nominated_node_name) {
        return;
    }
    errors.invalid_each(path, name, names::dns_subdomain(name));
    if !text(&spec.node_name).is_empty() {
        errors.forbidden(path, "may not be set on pods that are already bound to a node");
    }
}

/// A container that has ended and is not started again stays ended.
fn transitions(errors: &mut Errors, new: &PodStatus, old: &PodStatus, spec: &PodSpec, path: &Path) {
    for ((list, before), (_, after)) in lists(old).into_iter().zip(lists(new)) {
        let containers: &[Container] = match list {
            "containerStatuses" => &spec.containers,
            "initContainerStatuses" => init_containers(spec),
            _ => &[],
        };
        if list != "ephemeralContainerStatuses" && may_restart_all(spec) {
            continue;
        }
        for (index, was) in before.iter().enumerate() {
            let Some(end) = was.state.as_ref().and_then(|state| state.terminated.as_ref()) else { continue };
            let starts = |is: &&ContainerStatus| {
                is.name == was.name && is.state.as_ref().is_none_or(|state| state.terminated.is_none())
            };
            let allowed = containers
                .iter()
                .find(|container| container.name == was.name)
                .is_some_and(|container| restarts_after(container, spec, end.exit_code));
            if after.iter().any(|is| starts(&is)) && !allowed {
                let rule = "may not be transitioned to non-terminated state";
                errors.forbidden(&path.child(list).index(index).child("state"), rule);
            }
        }
    }
}

fn claims(errors: &mut Errors, status: &PodStatus, spec: &PodSpec, path: &Path) {
    let mut seen = Vec::new();
    for (index, claim) in status.resource_claim_statuses.iter().flatten().enumerate() {
        let path = path.index(index);
        if !spec.resource_claims.iter().flatten().any(|known| known.name == claim.name) {
            let rule = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid(&path.child("name"), &claim.name, rule);
        }
        if seen.contains(&&claim.name) {
            errors.duplicate(&path.child("name"), &claim.name);
        }
        seen.push(&claim.name);
        if let Some(name) = &claim.resource_claim_name {
            errors.invalid_each(&path.child("resourceClaimName"), name, names::dns_subdomain(name));
        }
    }
}

/// One address of each family; those that are stored already are not judged again.
fn addresses(errors: &mut Errors, new: &[String], old: &[String], path: &Path) {
    for (index, address) in new.iter().enumerate().filter(|(_, address)| !old.contains(address)) {
        errors.invalid_each(&path.index(index), address, names::ip_address(address));
    }
    if new.len() < 2 {
        return;
    }
    let parsed: Vec<IpAddr> = new.iter().filter_map(|address| address.parse().ok()).collect();
    let fours = parsed.iter().filter(|address| address.is_ipv4()).count();
    if parsed.len() != 2 || new.len() > 2 || fours != 1 {
        // Upstream shows its inner type.
        let shown: Vec<Value> = new.iter().map(|address| json!({"IP": address})).collect();
        errors.invalid(path, &Json(&shown), "may specify no more than one IP for each IP family");
    }
}

fn user_ids(errors: &mut Errors, user: &ContainerUser, path: &Path) {
    let Some(user) = &user.linux else { return };
    for (field, id) in [("uid", user.uid), ("gid", user.gid)] {
        errors.invalid_each(&path.child(field), &id, names::user_or_group(id));
    }
    for (index, group) in user.supplemental_groups.iter().flatten().enumerate() {
        let path = path.child("supplementalGroups").index(index);
        errors.invalid_each(&path, group, names::user_or_group(*group));
    }
}

/// What device plugins and drivers say of the health of what they gave.
fn allocated(errors: &mut Errors, status: &PodStatus, spec: &PodSpec, path: &Path) {
    for (list, statuses) in lists(status) {
        for (index, status) in statuses.iter().enumerate() {
            let path = path.child(list).index(index).child("allocatedResourcesStatus");
            let told = status.allocated_resources_status.as_deref().unwrap_or_default();
            if list == "ephemeralContainerStatuses" {
                if !told.is_empty() {
                    errors.forbidden(&path, "must not be specified in container status");
                }
                continue;
            }
            let mut containers = spec.containers.iter().chain(init_containers(spec));
            let container = containers.find(|container| container.name == status.name);
            for (index, resource) in told.iter().enumerate() {
                let path = path.index(index);
                if let Some(rule) = container.and_then(|container| unasked(container, &resource.name)) {
                    errors.invalid(&path.child("name"), &resource.name, rule);
                }
                let mut seen = Vec::new();
                for (index, one) in resource.resources.iter().flatten().enumerate() {
                    let path = path.child("resources").index(index);
                    let known = ["Healthy", "Unhealthy", "Unknown"];
                    let health = one.health.as_deref().unwrap_or_default();
                    errors.optional_one_of(&path.child("health"), Some(health), &known);
                    if seen.contains(&&one.resource_id) {
                        errors.duplicate(&path.child("resourceID"), &one.resource_id);
                    }
                    seen.push(&one.resource_id);
                }
            }
        }
    }
}

fn unasked(container: &Container, name: &str) -> Option<&'static str> {
    let resources = container.resources.as_ref();
    if name.starts_with("claim:") {
        let mut claims = resources.into_iter().flat_map(|resources| resources.claims.iter().flatten());
        let asked = claims.any(|claim| match claim.request.as_deref() {
            Some(request) if !request.is_empty() => name == format!("claim:{}/{request}", claim.name),
            _ => name == format!("claim:{}", claim.name),
        });
        (!asked).then_some(
            "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or \
             'claim:<claimName>' if request is empty",
        )
    } else {
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        let asked = requests.is_some_and(|requests| requests.contains_key(name));
        (!asked).then_some("must match one of the container's resource requests")
    }
}
