//! Filters that look at other pods: topology spread and pod affinity, for the only node there is.
//!
//! One node is one topology domain, which makes most of the arithmetic go away; what is left is labels that are missing
//! and domains that would have to be more.

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, TopologySpreadConstraint};
use rubelet_core::admission::NodeFacts;

use super::super::text;
use super::{Misfit, selects};

/// Constraints that must hold.
pub(super) fn constraints(pod: &Pod, node: &NodeFacts, here: &[&Pod]) -> Option<Misfit> {
    let constraints = super::super::spec(pod).topology_spread_constraints.iter().flatten();
    let hard = constraints.filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule");
    for constraint in hard {
        if !node.labels.contains_key(&constraint.topology_key) {
            let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
            return Some(Misfit::new(reason, false));
        }
        // With fewer domains than wanted, each is compared with an empty one.
        if constraint.min_domains.unwrap_or(1) > 1 {
            let others = here.iter().filter(|other| counts(constraint, pod, other)).count();
            let skew = others + usize::from(counts(constraint, pod, pod));
            if i32::try_from(skew).is_ok_and(|skew| skew > constraint.max_skew) {
                return Some(Misfit::new("node(s) didn't match pod topology spread constraints", true));
            }
        }
    }
    None
}

fn counts(constraint: &TopologySpreadConstraint, pod: &Pod, other: &Pod) -> bool {
    other.metadata.namespace == pod.metadata.namespace
        && other.metadata.deletion_timestamp.is_none()
        && constraint
            .label_selector
            .as_ref()
            .is_some_and(|selector| selects(selector, |key| label(other, key)))
}

/// Required affinity and anti-affinity, the pod's own and the others'.
pub(super) fn affinity(pod: &Pod, node: &NodeFacts, here: &[&Pod]) -> Option<Misfit> {
    let known = |term: &PodAffinityTerm| node.labels.contains_key(&term.topology_key);
    for term in near(pod) {
        let met = here.iter().any(|other| matches(term, pod, other));
        // The first of a group that belongs together has nobody to be near to.
        if !known(term) || !(met || matches(term, pod, pod)) {
            return Some(Misfit::new("node(s) didn't match pod affinity rules", false));
        }
    }
    if far(pod).any(|term| known(term) && here.iter().any(|other| matches(term, pod, other))) {
        return Some(Misfit::new("node(s) didn't match pod anti-affinity rules", true));
    }
    let repelled = |other: &&&Pod| far(other).any(|term| known(term) && matches(term, other, pod));
    here.iter()
        .find(repelled)
        .map(|_| Misfit::new("node(s) didn't satisfy existing pods anti-affinity rules", true))
}

fn near(pod: &Pod) -> impl Iterator<Item = &PodAffinityTerm> {
    let affinity =
        super::super::spec(pod).affinity.as_ref().and_then(|affinity| affinity.pod_affinity.as_ref());
    affinity.into_iter().flat_map(|a| a.required_during_scheduling_ignored_during_execution.iter().flatten())
}

fn far(pod: &Pod) -> impl Iterator<Item = &PodAffinityTerm> {
    let affinity =
        super::super::spec(pod).affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    affinity.into_iter().flat_map(|a| a.required_during_scheduling_ignored_during_execution.iter().flatten())
}

/// Whether a term of `owner` means the other pod. Of a namespace only its name is known here.
fn matches(term: &PodAffinityTerm, owner: &Pod, other: &Pod) -> bool {
    let namespace = text(&other.metadata.namespace);
    let listed = term.namespaces.iter().flatten().any(|name| name == namespace);
    let selected = term.namespace_selector.as_ref().is_some_and(|selector| {
        selects(selector, |key| (key == "kubernetes.io/metadata.name").then_some(namespace))
    });
    let unsaid = term.namespaces.as_ref().is_none_or(Vec::is_empty) && term.namespace_selector.is_none();
    let in_scope = listed || selected || (unsaid && namespace == text(&owner.metadata.namespace));
    in_scope
        && term.label_selector.as_ref().is_some_and(|selector| selects(selector, |key| label(other, key)))
}

fn label<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(key).map(String::as_str)
}
