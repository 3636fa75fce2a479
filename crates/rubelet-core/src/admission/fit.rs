//! Whether the node has room for what a pod requests.
//!
//! Owns the comparison (upstream `noderesources.Fits`); never frees anything.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Pod;

use super::NodeFacts;
use crate::quantity::Amount;
use crate::resources::pod_requests;

/// One resource the node has not enough of. CPU is in thousandths, everything else in whole units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insufficient {
    /// Resource name.
    pub resource: String,
    /// What the pod requests.
    pub requested: i64,
    /// What others have.
    pub used: i64,
    /// What the node can give in all.
    pub capacity: i64,
}

impl fmt::Display for Insufficient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, requested, used, capacity } = self;
        write!(
            f,
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        )
    }
}

/// What the node is short of for a pod beside the others, CPU, memory and storage first. Resources that the node does
/// not have at all count only when they are huge pages.
pub fn insufficient<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod>,
    node: &NodeFacts,
) -> Vec<Insufficient> {
    let mut missing = Vec::new();
    let wanted = pod_requests(pod, true);
    let mut used = BTreeMap::<String, i64>::new();
    let mut count = 0_i64;
    for other in others {
        count += 1;
        for (name, amount) in pod_requests(other, true) {
            let amount = units(&name, amount);
            let sum = used.entry(name).or_insert(0);
            *sum = sum.saturating_add(amount);
        }
    }
    if let Some(capacity) = node.allocatable.get("pods").map(|amount| amount.value())
        && count + 1 > capacity
    {
        missing.push(Insufficient { resource: "pods".to_owned(), requested: 1, used: count, capacity });
    }
    // The order in which upstream names them: the first one is the pod's reason.
    let first = ["cpu", "memory", "ephemeral-storage"];
    let rest = wanted.keys().map(String::as_str).filter(|name| !first.contains(name));
    for name in first.into_iter().chain(rest) {
        let Some(requested) = wanted.get(name).map(|amount| units(name, *amount)) else { continue };
        // An extended resource the node does not have is somebody else's to give, in the cluster.
        let capacity = match node.allocatable.get(name) {
            Some(capacity) => units(name, *capacity),
            None if name.starts_with("hugepages-") => 0,
            None => continue,
        };
        let used = used.get(name).copied().unwrap_or(0);
        if requested > 0 && requested > capacity.saturating_sub(used) {
            missing.push(Insufficient { resource: name.to_owned(), requested, used, capacity });
        }
    }
    missing
}

fn units(name: &str, amount: Amount) -> i64 {
    if name == "cpu" { amount.milli_value() } else { amount.value() }
}
