//! Warnings about containers: broken bytes, variables that hide others, ports that collide.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rubelet_core::containers::ephemeral_as_container;
use rubelet_core::quantity::listed;

use super::super::super::Warnings;
use super::super::text;

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Everything about the containers of a pod.
pub(super) fn all(pod: &Pod, spec: &PodSpec, warnings: &mut Warnings) {
    let annotated = |key: &str| pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(key));
    let unused = |key: &str| {
        format!(
            "metadata.annotations[{key}]: non-functional in v1.27+; use the \"seccompProfile\" field instead"
        )
    };
    let has_profile = spec.security_context.as_ref().is_some_and(|context| context.seccomp_profile.is_some());
    if !has_profile && annotated(SECCOMP_POD) {
        warnings.push(unused(SECCOMP_POD));
    }
    let containers = with_paths(spec);
    for (path, container) in &containers {
        let key = format!("{SECCOMP_CONTAINER}{}", container.name);
        let context = container.security_context.as_ref();
        if context.is_none_or(|context| context.seccomp_profile.is_none()) && annotated(&key) {
            warnings.push(unused(&key));
        }
        let resources = container.resources.as_ref();
        for name in ["memory", "ephemeral-storage"] {
            let (limits, requests) =
                (format!("{path}.resources.limits"), format!("{path}.resources.requests"));
            fraction(resources.and_then(|r| r.limits.as_ref()), name, &limits, warnings);
            fraction(resources.and_then(|r| r.requests.as_ref()), name, &requests, warnings);
        }
        variables(container, path, warnings);
    }
    ports(&containers, warnings);
}

fn with_paths(spec: &PodSpec) -> Vec<(String, Container)> {
    let init = spec.init_containers.iter().flatten().enumerate();
    let ephemeral = spec.ephemeral_containers.iter().flatten().enumerate();
    init.map(|(index, container)| (format!("spec.initContainers[{index}]"), container.clone()))
        .chain(spec.containers.iter().enumerate().map(|(i, c)| (format!("spec.containers[{i}]"), c.clone())))
        .chain(ephemeral.map(|(index, container)| {
            (format!("spec.ephemeralContainers[{index}]"), ephemeral_as_container(container))
        }))
        .collect()
}

/// Parts of a byte.
pub(super) fn fraction(
    list: Option<&BTreeMap<String, Quantity>>,
    name: &str,
    path: &str,
    warnings: &mut Warnings,
) {
    if let Some(amount) = listed(list, name).filter(|amount| amount.milli_value() % 1000 != 0) {
        warnings.push(format!(
            "{path}[{name}]: fractional byte value \"{amount}\" is invalid, must be an integer"
        ));
    }
}

/// A variable may build on the one of its name before it, but not hide it.
fn variables(container: &Container, path: &str, warnings: &mut Warnings) {
    let mut seen = BTreeSet::new();
    for (index, variable) in container.env.iter().flatten().enumerate() {
        if seen.insert(variable.name.as_str()) {
            continue;
        }
        let reference = format!("$({})", variable.name);
        let value = text(&variable.value);
        if variable.value_from.is_some() || value == reference || !value.contains(&reference) {
            warnings.push(format!(
                "{path}.env[{index}]: hides previous definition of {:?}, which may be dropped when using apply",
                variable.name
            ));
        }
    }
}

struct Seen<'a> {
    path: String,
    port: &'a ContainerPort,
}

fn ports(containers: &[(String, Container)], warnings: &mut Warnings) {
    let mut by_number: BTreeMap<(i32, &str), Vec<Seen<'_>>> = BTreeMap::new();
    let mut by_name: BTreeMap<&str, String> = BTreeMap::new();
    let mut names = Warnings::new();
    for (path, container) in containers {
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let path = format!("{path}.ports[{index}]");
            let (host_ip, host_port) = (text(&port.host_ip), port.host_port.unwrap_or(0));
            if !host_ip.is_empty() && host_port == 0 {
                warnings.push(format!(
                    "{path}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} \
                     HostIP:{host_ip}}}",
                    text(&port.name),
                    port.container_port,
                    text(&port.protocol)
                ));
            }
            let others = by_number.entry((port.container_port, text(&port.protocol))).or_default();
            for other in others.iter() {
                if let Some(how) = collision(port, other.port) {
                    warnings.push(format!("{path}: {how} port definition with {}", other.path));
                }
            }
            others.push(Seen { path: path.clone(), port });
            let name = text(&port.name);
            if name.is_empty() {
                continue;
            }
            match by_name.get(name) {
                Some(first) => names.push(format!(
                    "{path}: duplicate port name {name:?} with {first}, services and probes that select ports by name \
                     will use {first}"
                )),
                None => {
                    by_name.insert(name, path);
                }
            }
        }
    }
    warnings.extend(names);
}

fn collision(port: &ContainerPort, other: &ContainerPort) -> Option<&'static str> {
    let of = |port: &ContainerPort| (port.host_port.unwrap_or(0), text(&port.host_ip).to_owned());
    let ((a, a_ip), (b, b_ip)) = (of(port), of(other));
    if a == b && a_ip == b_ip {
        Some("duplicate")
    } else if a == 0 || b == 0 {
        Some("overlapping")
    } else if a == b && a_ip.is_empty() != b_ip.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}
