//! Node selector and required node affinity.
//!
//! Owns the matching (upstream `GetRequiredNodeAffinity`). Preferences are the scheduler's business.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use super::NodeFacts;
use crate::containers::spec_of;

/// Whether the node is one the pod wants: its node selector and required node affinity.
pub fn matches(pod: &Pod, node: &NodeFacts) -> bool {
    let spec = spec_of(pod);
    let selected =
        spec.node_selector.iter().flatten().all(|(key, value)| label(node, key) == Some(value.as_str()));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        && required
            .is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// Whether a PersistentVolume whose node affinity requires this can be used on a node with these labels (upstream
/// `CheckNodeAffinity`, which looks at nothing but labels).
pub fn volume_fits_node(required: &NodeSelector, labels: &BTreeMap<String, String>) -> bool {
    let node = NodeFacts { labels: labels.clone(), ..NodeFacts::default() };
    required.node_selector_terms.iter().any(|term| term_matches(term, &node))
}

/// The node's label. What the agent itself knows better than a label is the operating system.
fn label<'a>(node: &'a NodeFacts, key: &str) -> Option<&'a str> {
    match key {
        "kubernetes.io/os" => Some("linux"),
        _ => node.labels.get(key).map(String::as_str),
    }
}

/// All requirements of a term; a term without any matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &NodeFacts) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!labels.is_empty() || !fields.is_empty())
        && labels.iter().all(|requirement| label_matches(requirement, node))
        && fields.iter().all(|requirement| field_matches(requirement, node))
}

/// A requirement that is badly formed matches nothing.
fn label_matches(requirement: &NodeSelectorRequirement, node: &NodeFacts) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let found = label(node, &requirement.key);
    let among = |value: &str| values.iter().any(|known| known == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let compared = |holds: fn(i64, i64) -> bool| match (found.and_then(number), values) {
        (Some(found), [wanted]) => number(wanted).is_some_and(|wanted| holds(found, wanted)),
        _ => false,
    };
    match requirement.operator.as_str() {
        "In" => found.is_some_and(among),
        "NotIn" => !values.is_empty() && !found.is_some_and(among),
        "Exists" => values.is_empty() && found.is_some(),
        "DoesNotExist" => values.is_empty() && found.is_none(),
        "Gt" => compared(|found, wanted| found > wanted),
        "Lt" => compared(|found, wanted| found < wanted),
        _ => false,
    }
}

fn field_matches(requirement: &NodeSelectorRequirement, node: &NodeFacts) -> bool {
    let [value] = requirement.values.as_deref().unwrap_or_default() else { return false };
    let found = if requirement.key == "metadata.name" { node.name.as_str() } else { "" };
    match requirement.operator.as_str() {
        "In" => found == value,
        "NotIn" => found != value,
        _ => false,
    }
}
