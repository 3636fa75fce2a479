//! In which order pods whose resize waits are asked again (upstream `sortPendingResizes`).

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::RESOURCES;
use crate::containers::spec_of;
use crate::qos::{QosClass, pod_qos};
use crate::quantity::Amount;
use crate::resources::pod_requests;

/// A pod whose desired resources are not allocated yet.
#[derive(Clone, Copy, Debug)]
pub struct PendingPod<'a> {
    /// What it wants.
    pub desired: &'a Pod,
    /// What it has.
    pub allocated: &'a Pod,
    /// Since when its resize waits, as its condition says.
    pub since: Option<Timestamp>,
}

/// Those that ask for no more come first, since they always succeed and make room; then by priority, guaranteed pods
/// before others, and the one that has waited longest. One that has not been told of yet is the youngest.
pub fn compare_pending(one: &PendingPod<'_>, other: &PendingPod<'_>) -> Ordering {
    let key = |pending: &PendingPod<'_>| {
        (
            asks_for_more(pending.desired, pending.allocated),
            Reverse(spec_of(pending.desired).priority.unwrap_or(0)),
            pod_qos(pending.desired) != QosClass::Guaranteed,
            pending.since.unwrap_or(Timestamp::MAX),
        )
    };
    key(one).cmp(&key(other))
}

/// Whether a resize raises what the pod requests of CPU or memory.
pub(super) fn asks_for_more(desired: &Pod, allocated: &Pod) -> bool {
    let (wanted, has) = (pod_requests(desired, true), pod_requests(allocated, true));
    let amount =
        |sums: &BTreeMap<String, Amount>, name: &str| sums.get(name).copied().unwrap_or(Amount::ZERO);
    RESOURCES.iter().any(|name| amount(&wanted, name) > amount(&has, name))
}
