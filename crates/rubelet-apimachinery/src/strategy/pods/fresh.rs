//! What a new pod begins with (upstream `podStrategy.PrepareForCreate`): its first status and generation, and selectors
//! that are made from its own labels.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, PodAffinityTerm, PodStatus, SecurityContext};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use rubelet_core::qos::compute_qos;
use rubelet_core::validation::APPARMOR_CONTAINER;

use super::super::{Change, Warnings};
use super::condition;

type Labels = BTreeMap<String, String>;

/// Prepares a pod that admission has let pass.
pub(super) fn prepare(change: &Change<'_>, pod: &mut Pod) -> Warnings {
    pod.metadata.generation = Some(1);
    let mut status = PodStatus {
        phase: Some("Pending".to_owned()),
        qos_class: Some(compute_qos(pod).to_string()),
        ..PodStatus::default()
    };
    if super::spec(pod).scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        status.conditions = Some(vec![condition::gated(change.now)]);
    }
    pod.status = Some(status);
    select_by_own_labels(pod);
    profiles_from_annotations(pod)
}

/// Keys whose values are the pod's own become requirements of the selectors beside them.
fn select_by_own_labels(pod: &mut Pod) {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let Some(spec) = &mut pod.spec else { return };
    if let Some(affinity) = &mut spec.affinity {
        if let Some(pods) = &mut affinity.pod_affinity {
            let preferred = pods.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
            let required = pods.required_during_scheduling_ignored_during_execution.iter_mut().flatten();
            preferred
                .map(|weighted| &mut weighted.pod_affinity_term)
                .chain(required)
                .for_each(|t| term(t, &labels));
        }
        if let Some(pods) = &mut affinity.pod_anti_affinity {
            let preferred = pods.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
            let required = pods.required_during_scheduling_ignored_during_execution.iter_mut().flatten();
            preferred
                .map(|weighted| &mut weighted.pod_affinity_term)
                .chain(required)
                .for_each(|t| term(t, &labels));
        }
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        if let Some(selector) = &mut constraint.label_selector {
            require(selector, constraint.match_label_keys.as_deref().unwrap_or_default(), "In", &labels);
        }
    }
}

fn term(term: &mut PodAffinityTerm, labels: &Labels) {
    // No selector at all selects nothing, which more requirements cannot change.
    if let Some(selector) = &mut term.label_selector {
        require(selector, term.match_label_keys.as_deref().unwrap_or_default(), "In", labels);
        require(selector, term.mismatch_label_keys.as_deref().unwrap_or_default(), "NotIn", labels);
    }
}

fn require(selector: &mut LabelSelector, keys: &[String], operator: &str, labels: &Labels) {
    for (key, value) in keys.iter().filter_map(|key| labels.get_key_value(key)) {
        selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
            key: key.clone(),
            operator: operator.to_owned(),
            values: Some(vec![value.clone()]),
        });
    }
}

/// AppArmor profiles that old clients write as annotations become fields (upstream `applyAppArmorVersionSkew`).
fn profiles_from_annotations(pod: &mut Pod) -> Warnings {
    let mut warnings = Warnings::new();
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let Some(spec) = &mut pod.spec else { return warnings };
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return warnings;
    }
    let of_pod = spec.security_context.as_ref().and_then(|context| context.app_armor_profile.clone());
    let mut sync = |name: &str, context: &mut Option<SecurityContext>| {
        let key = format!("{APPARMOR_CONTAINER}{name}");
        let Some(annotation) = annotations.get(&key) else { return };
        if context.as_ref().is_some_and(|context| context.app_armor_profile.is_some()) {
            return;
        }
        let profile = profile_of(annotation);
        // One that says what the pod says already is no news; one that says nothing is, but only to its author.
        if profile.is_some() && profile == of_pod {
            return;
        }
        if let Some(profile) = profile {
            context.get_or_insert_default().app_armor_profile = Some(profile);
        }
        warnings.push(format!(
            "metadata.annotations[{key}]: deprecated since v1.30; use the \"appArmorProfile\" field instead"
        ));
    };
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        sync(&container.name, &mut container.security_context);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        sync(&container.name, &mut container.security_context);
    }
    warnings
}

fn profile_of(annotation: &str) -> Option<AppArmorProfile> {
    let profile = |kind: &str, name: Option<&str>| {
        Some(AppArmorProfile { type_: kind.to_owned(), localhost_profile: name.map(str::to_owned) })
    };
    match annotation {
        "unconfined" => profile("Unconfined", None),
        "runtime/default" => profile("RuntimeDefault", None),
        local => {
            let name = local.strip_prefix("localhost/")?;
            let usable = !name.is_empty() && name.trim() == name && name.len() <= 4095;
            if usable { profile("Localhost", Some(name)) } else { None }
        }
    }
}
