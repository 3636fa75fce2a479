//! Requests, limits and overhead.
//!
//! Owns which resources may be named where, and how requests, limits and pod-level values have to relate.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::field::{Errors, Path, Reason};
use super::{FieldError, names};
use crate::defaults::{aggregate_limits, aggregate_requests};
use crate::quantity::Amount;

type List = BTreeMap<String, Quantity>;

/// Resource names that are known without a domain.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// Resources that are counted in whole things.
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Container,
    Pod,
}

/// The resources of one container.
pub(super) fn container(
    errors: &mut Errors,
    spec: &PodSpec,
    requirements: &ResourceRequirements,
    path: &Path,
) {
    validate(errors, requirements, Scope::Container, path);
    claims(errors, spec, requirements, &path.child("claims"));
}

/// The overhead of a runtime class, which follows the rules of limits.
pub(super) fn overhead(errors: &mut Errors, overhead: &List, path: &Path) {
    let limits = ResourceRequirements { limits: Some(overhead.clone()), ..ResourceRequirements::default() };
    validate(errors, &limits, Scope::Container, path);
}

/// Pod-level resources (KEP-2837).
pub(super) fn pod_level(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    let Some(resources) = &spec.resources else { return };
    let base = path.child("resources");
    if resources.claims.is_some() {
        errors.forbidden(&base.child("claims"), "claims may not be set for Resources at pod-level");
    }
    validate(errors, resources, Scope::Pod, &base);
    let of = |list: &Option<List>, name: &str| Amount::of(list.as_ref()?.get(name)?).ok();
    for (name, sum) in aggregate_requests(spec) {
        let sum = sum.rounded_up_to_milli().amount();
        if let Some(request) = of(&resources.requests, &name).filter(|request| sum > *request) {
            let rule = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.invalid(&base.child("requests").key(&name), &request.to_string(), rule);
        }
    }
    for (name, sum) in aggregate_limits(spec).into_iter().filter(|(name, _)| is_huge_page(name)) {
        let sum = sum.rounded_up_to_milli().amount();
        if let Some(limit) = of(&resources.limits, &name).filter(|limit| sum > *limit) {
            let rule = format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.invalid(&base.child("limits").key(&name), &limit.to_string(), rule);
        }
    }
    for (index, container) in spec.containers.iter().enumerate() {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        for (name, own) in limits.into_iter().flatten() {
            let Some(own) = Amount::of(own).ok() else { continue };
            if let Some(limit) = of(&resources.limits, name).filter(|limit| own > *limit) {
                let path = base.child("containers").index(index).key(name).child("limits");
                let rule = format!("must be less than or equal to pod limits of {limit}");
                errors.invalid(&path, &own.to_string(), rule);
            }
        }
    }
}

fn validate(errors: &mut Errors, requirements: &ResourceRequirements, scope: Scope, path: &Path) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let empty = List::new();
    let limits = requirements.limits.as_ref().unwrap_or(&empty);
    let requests = requirements.requests.as_ref().unwrap_or(&empty);
    for (name, quantity) in limits {
        entry(errors, name, quantity, scope, &limits_path.key(name));
    }
    for (name, quantity) in requests {
        entry(errors, name, quantity, scope, &requests_path.key(name));
        let Ok(request) = Amount::of(quantity) else { continue };
        let overcommit = is_native(name) && !is_huge_page(name);
        match limits.get(name).map(Amount::of) {
            Some(Ok(limit)) => match request.cmp(&limit) {
                Ordering::Equal => {}
                _ if !overcommit => {
                    let rule = format!("must be equal to {name} limit of {limit}");
                    errors.invalid(&requests_path, &request.to_string(), rule);
                }
                Ordering::Greater => {
                    let rule = format!("must be less than or equal to {name} limit of {limit}");
                    errors.invalid(&requests_path, &request.to_string(), rule);
                }
                Ordering::Less => {}
            },
            Some(Err(_)) => {}
            None if !overcommit => {
                errors.required(&limits_path, "Limit must be set for non overcommitable resources");
            }
            None => {}
        }
    }
    let all: Vec<&String> = limits.keys().chain(requests.keys()).collect();
    let huge = all.iter().any(|name| is_huge_page(name));
    if huge && !all.iter().any(|name| matches!(name.as_str(), "cpu" | "memory")) {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// One name with its quantity.
fn entry(errors: &mut Errors, name: &str, quantity: &Quantity, scope: Scope, path: &Path) {
    resource_name(errors, name, scope, path);
    let amount = match Amount::of(quantity) {
        Ok(amount) => amount,
        Err(error) => return errors.invalid(path, &quantity.0, error.to_string()),
    };
    if amount.is_negative() {
        errors.invalid(path, &amount.to_string(), "must be greater than or equal to 0");
    }
    if (COUNTED.contains(&name) || is_extended(name)) && amount.milli_value() % 1000 != 0 {
        errors.invalid(path, &amount.to_string(), "must be an integer");
    }
    if let Some(page) = name.strip_prefix("hugepages-") {
        let page = Amount::parse(page).ok().map(Amount::value).filter(|page| *page > 0);
        if page.is_none_or(|page| amount.value() % page != 0) {
            let rule = format!("{amount} is not positive integer multiple of {name}");
            errors.invalid(path, &amount.to_string(), rule);
        }
    }
}

fn resource_name(errors: &mut Errors, name: &str, scope: Scope, path: &Path) {
    let before = errors.0.len();
    errors.invalid_each(path, name, names::qualified_name(name));
    let standard = STANDARD.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-");
    if errors.0.len() == before && !name.contains('/') && !standard {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    }
    if scope == Scope::Pod {
        let supported = matches!(name, "cpu" | "memory") || is_huge_page(name);
        if errors.0.len() == before && !supported {
            errors.unsupported(path, name, &["cpu", "hugepages-", "memory"]);
        }
    } else if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

fn claims(errors: &mut Errors, spec: &PodSpec, requirements: &ResourceRequirements, path: &Path) {
    let known: BTreeSet<&str> = spec
        .resource_claims
        .iter()
        .flatten()
        .map(|claim| claim.name.as_str())
        .filter(|name| !name.is_empty())
        .collect();
    let mut seen = BTreeSet::new();
    for (index, claim) in requirements.claims.iter().flatten().enumerate() {
        let path = path.index(index);
        if claim.name.is_empty() {
            errors.required(&path, "");
            continue;
        }
        if !seen.insert((claim.name.as_str(), claim.request.as_deref().unwrap_or_default())) {
            errors.duplicate(&path, &claim.name);
        }
        if !known.contains(claim.name.as_str()) {
            errors.not_found(&path, &claim.name);
            if let Some(FieldError { reason: Reason::NotFound, detail, .. }) = errors.0.last_mut() {
                let names = known.iter().copied().collect::<Vec<_>>().join(", ");
                let which =
                    if known.is_empty() { " which is empty".to_owned() } else { format!(": {names}") };
                *detail = format!("must be one of the names in pod.spec.resourceClaims{which}");
            }
        }
    }
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Without a domain, or in the project's own.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource of somebody's own domain, as device plugins offer them.
fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}
