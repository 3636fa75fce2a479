//! Labels, selectors, affinity, tolerations, spread constraints and gates.
//!
//! Owns the rules that the scheduler relies on; the node only needs them to refuse what the API would refuse.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, Toleration,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::field::{Errors, Path};
use super::{names, text};

/// Everything about where a pod may run.
pub(super) fn validate(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    if let Some(affinity) = &spec.affinity {
        let path = path.child("affinity");
        if let Some(node) = &affinity.node_affinity {
            node_affinity(errors, node, &path.child("nodeAffinity"));
        }
        if let Some(pod) = &affinity.pod_affinity {
            pod_affinity(
                errors,
                pod.required_during_scheduling_ignored_during_execution.as_deref(),
                pod.preferred_during_scheduling_ignored_during_execution.as_deref(),
                &path.child("podAffinity"),
            );
        }
        if let Some(pod) = &affinity.pod_anti_affinity {
            pod_affinity(
                errors,
                pod.required_during_scheduling_ignored_during_execution.as_deref(),
                pod.preferred_during_scheduling_ignored_during_execution.as_deref(),
                &path.child("podAntiAffinity"),
            );
        }
    }
    for (index, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = path.child("readinessGates").index(index).child("conditionType");
        errors.invalid_each(&path, &gate.condition_type, names::qualified_name(&gate.condition_type));
    }
    let mut seen = BTreeSet::new();
    for (index, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let path = path.child("schedulingGates").index(index);
        errors.invalid_each(&path, &gate.name, names::qualified_name(&gate.name));
        if !seen.insert(gate.name.as_str()) {
            errors.duplicate(&path, &gate.name);
        }
    }
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(index);
        spread(errors, constraint, &constraints[index + 1..], &path);
    }
    validate_tolerations(errors, spec.tolerations.as_deref().unwrap_or_default(), &path.child("tolerations"));
}

/// A list of tolerations, as pods and runtime classes have them.
pub fn validate_tolerations(errors: &mut Errors, tolerations: &[Toleration], path: &Path) {
    for (index, toleration) in tolerations.iter().enumerate() {
        validate_toleration(errors, toleration, &path.index(index));
    }
}

/// A map of labels; errors point at the map, as upstream's do.
pub(super) fn labels(errors: &mut Errors, labels: Option<&BTreeMap<String, String>>, path: &Path) {
    for (key, value) in labels.into_iter().flatten() {
        errors.invalid_each(path, key, names::qualified_name(key));
        errors.invalid_each(path, value, names::label_value(value));
    }
}

/// A label selector.
pub(super) fn selector(errors: &mut Errors, selector: Option<&LabelSelector>, path: &Path) {
    let Some(selector) = selector else { return };
    labels(errors, selector.match_labels.as_ref(), &path.child("matchLabels"));
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let values = expression.values.as_deref().unwrap_or_default();
        values_for_operator(errors, &expression.operator, values, false, &path);
        errors.invalid_each(&path.child("key"), &expression.key, names::qualified_name(&expression.key));
        label_values(errors, values, &path.child("values"));
    }
}

fn label_values(errors: &mut Errors, values: &[String], path: &Path) {
    for (index, value) in values.iter().enumerate() {
        errors.invalid_each(&path.index(index), value, names::label_value(value));
    }
}

fn values_for_operator(
    errors: &mut Errors,
    operator: &str,
    values: &[String],
    comparisons: bool,
    path: &Path,
) {
    let path_of_values = path.child("values");
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&path_of_values, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(
                &path_of_values,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            );
        }
        "Gt" | "Lt" if comparisons => {
            if values.len() != 1 {
                let rule = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.required(&path_of_values, rule);
            }
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
}

fn node_affinity(errors: &mut Errors, affinity: &NodeAffinity, path: &Path) {
    if let Some(required) = &affinity.required_during_scheduling_ignored_during_execution {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
        if required.node_selector_terms.is_empty() {
            errors.required(&path, "must have at least one node selector term");
        }
        for (index, term) in required.node_selector_terms.iter().enumerate() {
            node_term(errors, term, true, &path.index(index));
        }
    }
    let preferred =
        affinity.preferred_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default();
    for (index, term) in preferred.iter().enumerate() {
        let path = path.child("preferredDuringSchedulingIgnoredDuringExecution").index(index);
        weight(errors, term.weight, &path);
        node_term(errors, &term.preference, false, &path.child("preference"));
    }
}

fn weight(errors: &mut Errors, weight: i32, path: &Path) {
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), &weight, "must be in the range 1-100");
    }
}

fn node_term(errors: &mut Errors, term: &NodeSelectorTerm, check_values: bool, path: &Path) {
    for (index, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let values = requirement.values.as_deref().unwrap_or_default();
        values_for_operator(errors, &requirement.operator, values, true, &path);
        errors.invalid_each(&path.child("key"), &requirement.key, names::qualified_name(&requirement.key));
        if check_values {
            label_values(errors, values, &path.child("values"));
        }
    }
    for (index, requirement) in term.match_fields.iter().flatten().enumerate() {
        node_field(errors, requirement, &path.child("matchFields").index(index));
    }
}

fn node_field(errors: &mut Errors, requirement: &NodeSelectorRequirement, path: &Path) {
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => {
            let rule = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(&path.child("values"), rule);
        }
        "In" | "NotIn" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    if requirement.key == "metadata.name" {
        for (index, value) in values.iter().enumerate() {
            errors.invalid_each(&path.child("values").index(index), value, names::dns_subdomain(value));
        }
    } else {
        errors.invalid(&path.child("key"), &requirement.key, "not a valid field selector key");
    }
}

fn pod_affinity(
    errors: &mut Errors,
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
    path: &Path,
) {
    for (index, term) in required.unwrap_or_default().iter().enumerate() {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution").index(index);
        pod_term(errors, term, &path);
    }
    for (index, term) in preferred.unwrap_or_default().iter().enumerate() {
        let path = path.child("preferredDuringSchedulingIgnoredDuringExecution").index(index);
        weight(errors, term.weight, &path);
        pod_term(errors, &term.pod_affinity_term, &path.child("podAffinityTerm"));
    }
}

fn pod_term(errors: &mut Errors, term: &PodAffinityTerm, path: &Path) {
    selector(errors, term.label_selector.as_ref(), &path.child("labelSelector"));
    selector(errors, term.namespace_selector.as_ref(), &path.child("namespaceSelector"));
    for namespace in term.namespaces.iter().flatten() {
        errors.invalid_each(&path.child("namespace"), namespace, names::dns_label(namespace));
    }
    let mismatch = term.mismatch_label_keys.as_deref().unwrap_or_default();
    let matching = term.match_label_keys.as_deref().unwrap_or_default();
    label_keys(errors, matching, mismatch, term.label_selector.as_ref(), path);
    let path = path.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.required(&path, "can not be empty");
    }
    errors.invalid_each(&path, &term.topology_key, names::qualified_name(&term.topology_key));
}

/// Keys whose values are taken from the pod itself.
fn label_keys(
    errors: &mut Errors,
    matching: &[String],
    mismatch: &[String],
    selector: Option<&LabelSelector>,
    path: &Path,
) {
    for (field, keys) in [("matchLabelKeys", matching), ("mismatchLabelKeys", mismatch)] {
        let path = path.child(field);
        if selector.is_none() && !keys.is_empty() {
            errors.forbidden(&path, "must not be specified when labelSelector is not set");
            continue;
        }
        for (index, key) in keys.iter().enumerate() {
            errors.invalid_each(&path.index(index), key, names::qualified_name(key));
        }
    }
    if let Some(selector) = selector {
        let mut known: BTreeSet<&str> =
            selector.match_labels.iter().flatten().map(|(key, _)| key.as_str()).collect();
        for expression in selector.match_expressions.iter().flatten() {
            let key = expression.key.as_str();
            if let Some(index) = matching.iter().rposition(|matching| matching == key)
                && known.contains(key)
            {
                errors.invalid(&path.index(index), key, "exists in both matchLabelKeys and labelSelector");
            }
            known.insert(key);
        }
    }
    for (index, key) in matching.iter().enumerate().filter(|(_, key)| mismatch.contains(key)) {
        let path = path.child("matchLabelKeys").index(index);
        errors.invalid(&path, key, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

fn spread(
    errors: &mut Errors,
    constraint: &TopologySpreadConstraint,
    later: &[TopologySpreadConstraint],
    path: &Path,
) {
    let positive = |errors: &mut Errors, number: i32, path: &Path| {
        if number <= 0 {
            errors.invalid(path, &number, "must be greater than zero");
        }
    };
    positive(errors, constraint.max_skew, &path.child("maxSkew"));
    if constraint.topology_key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    let action = constraint.when_unsatisfiable.as_str();
    let actions = &["DoNotSchedule", "ScheduleAnyway"];
    errors.optional_one_of(&path.child("whenUnsatisfiable"), Some(action), actions);
    let repeated = later.iter().any(|later| {
        later.topology_key == constraint.topology_key
            && later.when_unsatisfiable == constraint.when_unsatisfiable
    });
    if repeated {
        let pair = format!("{{{}, {action}}}", constraint.topology_key);
        errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), &pair);
    }
    if let Some(domains) = constraint.min_domains {
        let path = path.child("minDomains");
        positive(errors, domains, &path);
        if action != "DoNotSchedule" {
            let rule = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            errors.invalid(&path, &domains, rule);
        }
    }
    let policies = [
        ("nodeAffinityPolicy", &constraint.node_affinity_policy),
        ("nodeTaintsPolicy", &constraint.node_taints_policy),
    ];
    for (field, policy) in policies {
        errors.optional_one_of(&path.child(field), policy.as_deref(), &["Honor", "Ignore"]);
    }
    let matching = constraint.match_label_keys.as_deref().unwrap_or_default();
    label_keys(errors, matching, &[], constraint.label_selector.as_ref(), path);
    selector(errors, constraint.label_selector.as_ref(), &path.child("labelSelector"));
}

fn validate_toleration(errors: &mut Errors, toleration: &Toleration, path: &Path) {
    let (key, operator) = (text(&toleration.key), text(&toleration.operator));
    let (value, effect) = (text(&toleration.value), text(&toleration.effect));
    let operator_path = path.child("operator");
    if !key.is_empty() {
        errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
    } else if operator != "Exists" {
        let rule =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(&operator_path, operator, rule);
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        let rule = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(&path.child("effect"), effect, rule);
    }
    match operator {
        "Equal" | "" => {
            let broken = names::label_value(value);
            if !broken.is_empty() {
                errors.invalid(&operator_path, value, broken.join(";"));
            }
        }
        "Exists" if !value.is_empty() => {
            errors.invalid(&operator_path, value, "value must be empty when `operator` is 'Exists'");
        }
        "Exists" => {}
        "Lt" | "Gt" => errors.unsupported(&operator_path, operator, &["Equal", "Exists", "Lt", "Gt"]),
        other => errors.unsupported(&operator_path, other, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        let effects = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
        errors.optional_one_of(&path.child("effect"), Some(effect), effects);
    }
}
