//! Whether two pod specs say the same, and how they differ.
//!
//! Owns upstream's semantic equality as far as it is not plain equality: quantities are compared by value.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, PodSpec, ResourceRequirements, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rubelet_core::quantity::Amount;
use serde_json::Value;

type List = BTreeMap<String, Quantity>;

/// Whether two specs mean the same.
pub(super) fn same_specs(a: &PodSpec, b: &PodSpec) -> bool {
    a == b || comparable(a.clone()) == comparable(b.clone())
}

/// Whether two containers mean the same.
pub(super) fn same_containers(a: &Container, b: &Container) -> bool {
    let plain = |container: &Container| {
        let mut container = container.clone();
        plain_container(&mut container);
        container
    };
    a == b || plain(a) == plain(b)
}

/// Whether two lists of resources mean the same.
pub(super) fn same_lists(a: &List, b: &List) -> bool {
    a.len() == b.len()
        && a.iter()
            .all(|(name, a)| b.get(name).is_some_and(|b| a == b || plain(a.clone()) == plain(b.clone())))
}

/// A quantity in a form that equal amounts share.
fn plain(quantity: Quantity) -> Quantity {
    match Amount::of(&quantity) {
        Ok(amount) if amount.milli_value() % 1000 == 0 => Quantity(amount.value().to_string()),
        Ok(amount) => Quantity(format!("{}m", amount.milli_value())),
        Err(_) => quantity,
    }
}

fn plain_list(list: &mut Option<List>) {
    *list = list.take().filter(|list| !list.is_empty());
    for quantity in list.iter_mut().flatten().map(|(_, quantity)| quantity) {
        *quantity = plain(quantity.clone());
    }
}

fn plain_resources(resources: &mut Option<ResourceRequirements>) {
    if let Some(resources) = resources {
        plain_list(&mut resources.limits);
        plain_list(&mut resources.requests);
    }
}

fn plain_template(resources: &mut Option<VolumeResourceRequirements>) {
    if let Some(resources) = resources {
        plain_list(&mut resources.limits);
        plain_list(&mut resources.requests);
    }
}

fn plain_container(container: &mut Container) {
    plain_resources(&mut container.resources);
    plain_env(container.env.as_deref_mut().unwrap_or_default());
}

fn plain_env(variables: &mut [EnvVar]) {
    for source in variables.iter_mut().filter_map(|variable| variable.value_from.as_mut()) {
        if let Some(divisor) = source.resource_field_ref.as_mut().and_then(|field| field.divisor.as_mut()) {
            *divisor = plain(divisor.clone());
        }
    }
}

fn comparable(mut spec: PodSpec) -> PodSpec {
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        plain_container(container);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        plain_resources(&mut container.resources);
        plain_env(container.env.as_deref_mut().unwrap_or_default());
    }
    plain_resources(&mut spec.resources);
    plain_list(&mut spec.overhead);
    for volume in spec.volumes.iter_mut().flatten() {
        if let Some(limit) = volume.empty_dir.as_mut().and_then(|dir| dir.size_limit.as_mut()) {
            *limit = plain(limit.clone());
        }
        if let Some(template) = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut()) {
            plain_template(&mut template.spec.resources);
        }
    }
    spec
}

/// Most lines that a difference is told in.
const LINES: usize = 40;

/// How two values differ, a line for each field that went and each that came: `- spec.hostname: "a"`.
pub(super) fn difference(path: &str, old: &Value, new: &Value) -> String {
    let mut lines = Vec::new();
    collect(path, old, new, &mut lines);
    if lines.len() > LINES {
        let more = lines.len() - LINES;
        lines.truncate(LINES);
        lines.push(format!("  and {more} more"));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn collect(path: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    match (old, new) {
        _ if old == new => {}
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                let field = |object: &Value| object.get(name).cloned().unwrap_or_default();
                collect(&format!("{path}.{name}"), &field(old), &field(new), lines);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for index in 0..a.len().max(b.len()) {
                let item = |list: &[Value]| list.get(index).cloned().unwrap_or_default();
                collect(&format!("{path}[{index}]"), &item(a), &item(b), lines);
            }
        }
        _ => {
            for (sign, value) in [('-', old), ('+', new)] {
                if !value.is_null() {
                    lines.push(format!("{sign} {path}: {value}"));
                }
            }
        }
    }
}
