//! Containers and init containers: names, images, ports, restart rules, and what each kind may have.
//!
//! Owns the rules per container; its parts (environment, mounts, probes, resources, security) have modules of
//! their own; ephemeral containers have one too.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, ContainerResizePolicy};

use super::field::{Errors, Json, Path};
use super::{Facts, env, handlers, names, resources, security, text, volumes};

/// All containers of a pod.
pub(super) fn validate(errors: &mut Errors, facts: &Facts<'_>, path: &Path) {
    let containers = &facts.spec.containers;
    let list = path.child("containers");
    if containers.is_empty() {
        errors.required(&list, "");
    }
    let mut names = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = list.index(index);
        common(errors, facts, container, &path);
        if !names.insert(container.name.as_str()) {
            errors.duplicate(&path.child("name"), &container.name);
        }
        handlers::validate(errors, facts, container, &path);
        restart_policy(errors, container, false, &path);
    }
    host_ports(errors, containers.iter().enumerate(), &list);

    let list = path.child("initContainers");
    for (index, container) in facts.spec.init_containers.iter().flatten().enumerate() {
        let path = list.index(index);
        common(errors, facts, container, &path);
        restart_policy(errors, container, true, &path);
        if names.contains(container.name.as_str()) {
            errors.duplicate(&path.child("name"), &container.name);
        } else if !container.name.is_empty() {
            names.insert(&container.name);
        }
        // One at a time they run, so they only have to agree with themselves; upstream counts each from 0.
        host_ports(errors, std::iter::once((0, container)), &list);
        if container.restart_policy.as_deref() == Some("Always") {
            handlers::validate(errors, facts, container, &path);
        } else {
            init_only(errors, container, &path);
        }
    }
}

/// What an init container that is no sidecar must not have.
fn init_only(errors: &mut Errors, container: &Container, path: &Path) {
    let fields = [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ];
    for (field, _) in fields.into_iter().filter(|(_, set)| *set) {
        errors
            .forbidden(&path.child(field), "may not be set for init containers without restartPolicy=Always");
    }
    for (index, policy) in container.resize_policy.iter().flatten().enumerate() {
        if policy.restart_policy == "RestartContainer" {
            errors.invalid(
                &path.child("resizePolicy").index(index).child("restartPolicy"),
                &policy.restart_policy,
                "must not be set to 'RestartContainer' for non-sidecar initContainers",
            );
        }
    }
}

/// The rules that all containers share.
pub(super) fn common(errors: &mut Errors, facts: &Facts<'_>, container: &Container, path: &Path) {
    match container.name.as_str() {
        "" => errors.required(&path.child("name"), ""),
        name => errors.invalid_each(&path.child("name"), name, names::dns_label(name)),
    }
    let image = text(&container.image);
    if image.is_empty() {
        errors.required(&path.child("image"), "");
    } else if image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
    errors.one_of(
        &path.child("terminationMessagePolicy"),
        container.termination_message_policy.as_deref(),
        &["File", "FallbackToLogsOnError"],
    );
    ports(errors, container.ports.as_deref().unwrap_or_default(), &path.child("ports"));
    env::validate(errors, container, path);
    volumes::mounts(errors, facts, container, path);
    errors.one_of(
        &path.child("imagePullPolicy"),
        container.image_pull_policy.as_deref(),
        &["Always", "IfNotPresent", "Never"],
    );
    if let Some(requirements) = &container.resources {
        resources::container(errors, facts.spec, requirements, &path.child("resources"));
    }
    let resize = container.resize_policy.as_deref().unwrap_or_default();
    resize_policy(errors, facts, resize, &path.child("resizePolicy"));
    if let Some(context) = &container.security_context {
        security::container(errors, facts.host_users, context, &path.child("securityContext"));
    }
}

fn ports(errors: &mut Errors, ports: &[ContainerPort], path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port.name);
        if !name.is_empty() {
            let broken = names::port_name(name);
            if broken.is_empty() && !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
            errors.invalid_each(&path.child("name"), name, broken);
        }
        if port.container_port == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            let broken = names::port_number(port.container_port);
            errors.invalid_each(&path.child("containerPort"), &port.container_port, broken);
        }
        if let Some(host_port) = port.host_port.filter(|port| *port != 0) {
            errors.invalid_each(&path.child("hostPort"), &host_port, names::port_number(host_port));
        }
        errors.one_of(&path.child("protocol"), port.protocol.as_deref(), &["SCTP", "TCP", "UDP"]);
    }
}

fn host_ports<'a>(
    errors: &mut Errors,
    containers: impl Iterator<Item = (usize, &'a Container)>,
    path: &Path,
) {
    let mut taken = BTreeSet::new();
    for (container_index, container) in containers {
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|port| *port != 0) else { continue };
            let key = format!("{}/{}/{number}", text(&port.protocol), text(&port.host_ip));
            if taken.contains(&key) {
                let path = path.index(container_index).child("ports").index(index);
                errors.duplicate(&path.child("hostPort"), &key);
            }
            taken.insert(key);
        }
    }
}

fn restart_policy(errors: &mut Errors, container: &Container, init: bool, path: &Path) {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    match container.restart_policy.as_deref() {
        None if rules.is_empty() => return,
        None => {
            let rule = "must specify restartPolicy when restart rules are used";
            errors.required(&path.child("restartPolicy"), rule);
            if init {
                return;
            }
        }
        policy => {
            errors.optional_one_of(&path.child("restartPolicy"), policy, &["Always", "Never", "OnFailure"]);
        }
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > 20 {
        errors.too_many(&path, rules.len(), 20);
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        let actions = &["Restart", "RestartAllContainers"];
        errors.optional_one_of(&path.child("action"), Some(&rule.action), actions);
        let path = path.child("exitCodes");
        match &rule.exit_codes {
            None => errors.required(&path, "must be specified"),
            Some(codes) => {
                errors.optional_one_of(&path.child("operator"), Some(&codes.operator), &["In", "NotIn"]);
                let count = codes.values.as_ref().map_or(0, Vec::len);
                if count > 255 {
                    errors.too_many(&path.child("values"), count, 255);
                }
            }
        }
    }
}

fn resize_policy(errors: &mut Errors, facts: &Facts<'_>, policies: &[ContainerResizePolicy], path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, policy) in policies.iter().enumerate() {
        if !seen.insert(policy.resource_name.as_str()) {
            errors.duplicate(&path.index(index), &policy.resource_name);
        }
        errors.one_of(path, Some(&policy.resource_name), &["cpu", "memory"]);
        errors.one_of(path, Some(&policy.restart_policy), &["NotRequired", "RestartContainer"]);
        if facts.spec.restart_policy.as_deref() == Some("Never") && policy.restart_policy != "NotRequired" {
            errors.invalid(
                path,
                &Json(&policy.restart_policy),
                "must be 'NotRequired' when pod `restartPolicy` is 'Never'",
            );
        }
    }
}
