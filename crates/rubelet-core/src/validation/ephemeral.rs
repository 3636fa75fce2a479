//! Ephemeral containers, which no new pod may have and which are added to running ones.
//!
//! Owns upstream's `validateEphemeralContainers`: what they may not set, and whom they may target.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::EphemeralContainer;

use super::field::{Errors, Path};
use super::{Facts, containers, text};
use crate::containers::ephemeral_as_container;

const RULE: &str = "cannot be set for an Ephemeral Container";

/// All ephemeral containers of a pod.
pub(super) fn validate(errors: &mut Errors, facts: &Facts<'_>, path: &Path) {
    let spec = facts.spec;
    let others: BTreeSet<&str> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|container| container.name.as_str())
        .collect();
    let mut names = others.clone();
    for (index, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = path.child("ephemeralContainers").index(index);
        containers::common(errors, facts, &ephemeral_as_container(container), &path);
        if !names.insert(container.name.as_str()) {
            errors.duplicate(&path.child("name"), &container.name);
        }
        let target = text(&container.target_container_name);
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        unsupported(errors, container, &path);
    }
}

fn unsupported(errors: &mut Errors, container: &EphemeralContainer, path: &Path) {
    let listed = |set: Option<bool>| set == Some(true);
    let resources = container.resources.as_ref().is_some_and(|resources| {
        resources.limits.is_some() || resources.requests.is_some() || resources.claims.is_some()
    });
    let fields = [
        ("ports", listed(container.ports.as_ref().map(|list| !list.is_empty()))),
        ("resources", resources),
        ("resizePolicy", listed(container.resize_policy.as_ref().map(|list| !list.is_empty()))),
        ("restartPolicy", container.restart_policy.is_some()),
        ("restartPolicyRules", listed(container.restart_policy_rules.as_ref().map(|list| !list.is_empty()))),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ];
    for (field, _) in fields.into_iter().filter(|(_, set)| *set) {
        errors.forbidden(&path.child(field), RULE);
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.child("volumeMounts").index(index);
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if !text(value).is_empty() {
                errors.forbidden(&path.child(field), RULE);
            }
        }
    }
}
