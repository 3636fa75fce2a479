//! Whether a pod may run on this node at all. Asked once, when a pod is first seen.
//!
//! Owns the order of the checks and their words (upstream `lifecycle/predicate.go` and the handlers around it);
//! the first failure wins and is final for the pod. Each check has a file. Topology, devices and preemption are not
//! here: they need state of their own.

mod affinity;
mod fit;
mod kind;
mod ports;
mod pressure;
mod sysctl;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

pub use self::affinity::{matches as matches_node_affinity, volume_fits_node};
pub use self::fit::{Insufficient, insufficient};
pub use self::kind::{is_critical_pod, is_mirror_pod, is_node_critical_pod, is_static_pod};
pub use self::ports::conflict as has_port_conflict;
pub use self::pressure::NodePressure;
pub use self::sysctl::{SysctlPatternError, check_sysctl_pattern};
use crate::containers::{ephemeral_as_container, regular_containers, spec_of};
use crate::quantity::Amount;
use crate::security::{Profile, apparmor_profile, requires_apparmor};

/// What is known of the node.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Node name.
    pub name: String,
    /// Labels of the node; `kubernetes.io/os` counts as `linux` whatever stands here.
    pub labels: BTreeMap<String, String>,
    /// Taints of the node.
    pub taints: Vec<Taint>,
    /// Allocatable resources, `pods` among them. One that is missing here is not checked.
    pub allocatable: BTreeMap<String, Amount>,
    /// Kernel version: major, minor.
    pub kernel: (u32, u32),
    /// `allowedUnsafeSysctls`: names, or prefixes that end in `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Whether the runtime understands `supplementalGroupsPolicy`.
    pub supplemental_groups_policy: bool,
    /// Whether AppArmor is enabled in the kernel.
    pub apparmor: bool,
    /// What the node is short of.
    pub pressure: NodePressure,
    /// The node is shutting down.
    pub shutting_down: bool,
}

/// Why a pod may not run. It becomes Failed with this reason, and an event says the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The API's CamelCase word: `status.reason` and the reason of the event.
    pub reason: String,
    /// Message, without the prefix "Pod was rejected: ".
    pub message: String,
    /// What is missing, when resources are all that is: preempting others could help a critical pod.
    pub insufficient: Vec<Insufficient>,
}

impl Rejection {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into(), insufficient: Vec::new() }
    }

    /// A failed predicate of the scheduler's.
    fn predicate(name: &str, problem: &str) -> Self {
        Self::new(name, format!("Predicate {name} failed: {problem}"))
    }
}

/// Decides whether a pod may run beside the others (those that run or may run, the pod itself not among them).
pub fn admit<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod> + Clone,
    node: &NodeFacts,
) -> Result<(), Rejection> {
    pressure::check(pod, node)?;
    sysctl::check(pod, node)?;
    check_os(pod)?;
    check_supplemental_groups(pod, node)?;
    check_general(pod, others, node)?;
    check_apparmor(pod, node)?;
    if node.shutting_down {
        return Err(Rejection::new("NodeShutdown", "Pod was rejected as the node is shutting down."));
    }
    Ok(())
}

fn check_os(pod: &Pod) -> Result<(), Rejection> {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
    if label.is_some_and(|os| os != "linux") {
        return Err(Rejection::new(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ));
    }
    if spec_of(pod).os.as_ref().is_some_and(|os| os.name != "linux") {
        return Err(Rejection::new(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        ));
    }
    Ok(())
}

fn check_supplemental_groups(pod: &Pod, node: &NodeFacts) -> Result<(), Rejection> {
    let context = spec_of(pod).security_context.as_ref();
    let strict = context.and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict");
    if strict && !node.supplemental_groups_policy {
        return Err(Rejection::new(
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        ));
    }
    Ok(())
}

/// The scheduler's predicates. All are looked at, for preemption only helps when resources alone are missing.
fn check_general<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod> + Clone,
    node: &NodeFacts,
) -> Result<(), Rejection> {
    let insufficient = fit::insufficient(pod, others.clone(), node);
    let failed = if !affinity::matches(pod, node) {
        Some(("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"))
    } else if !names_this_node(pod, node) {
        Some(("NodeName", "node(s) didn't match the requested node name"))
    } else if ports::conflict(pod, others) {
        Some(("NodePorts", "node(s) didn't have free ports for the requested pod ports"))
    } else if has_untolerated_taint(pod, node) {
        Some(("TaintToleration", "node(s) had taints that the pod didn't tolerate"))
    } else {
        None
    };
    match (insufficient.first(), failed) {
        (None, None) => Ok(()),
        (None, Some((name, problem))) => Err(Rejection::predicate(name, problem)),
        (Some(first), failed) => {
            let mut rejection = Rejection::new(&format!("OutOf{}", first.resource), first.to_string());
            if failed.is_none() {
                rejection.insufficient = insufficient;
            }
            Err(rejection)
        }
    }
}

fn names_this_node(pod: &Pod, node: &NodeFacts) -> bool {
    spec_of(pod).node_name.as_deref().is_none_or(|name| name.is_empty() || name == node.name)
}

/// Only NoExecute concerns a running pod, and static pods tolerate it.
fn has_untolerated_taint(pod: &Pod, node: &NodeFacts) -> bool {
    let tolerations = spec_of(pod).tolerations.as_deref().unwrap_or_default();
    let untolerated = |taint: &Taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint));
    !is_static_pod(pod) && node.taints.iter().any(|taint| taint.effect == "NoExecute" && untolerated(taint))
}

/// Whether a toleration puts up with a taint (upstream `ToleratesTaint`).
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let any_or = |field: &Option<String>, value: &str| {
        field.as_deref().is_none_or(|field| field.is_empty() || field == value)
    };
    any_or(&toleration.effect, &taint.effect)
        && any_or(&toleration.key, &taint.key)
        && match toleration.operator.as_deref() {
            None | Some("" | "Equal") => {
                toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
            }
            Some("Exists") => true,
            Some(_) => false,
        }
}

/// Only pods that have not started are checked: what runs already is not judged again.
fn check_apparmor(pod: &Pod, node: &NodeFacts) -> Result<(), Rejection> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if !matches!(phase, None | Some("" | "Pending")) || !requires_apparmor(pod) {
        return Ok(());
    }
    let reject =
        |problem: &str| Err(Rejection::new("AppArmor", format!("Cannot enforce AppArmor: {problem}")));
    if !node.apparmor {
        return reject("AppArmor is not enabled on the host");
    }
    let spec = spec_of(pod);
    let ephemeral: Vec<_> = spec.ephemeral_containers.iter().flatten().map(ephemeral_as_container).collect();
    for container in regular_containers(spec).chain(&ephemeral) {
        match apparmor_profile(pod, container) {
            Ok(Some(Profile::Localhost(name))) if name.trim().is_empty() => {
                return reject("invalid empty AppArmor profile name");
            }
            Err(crate::security::ProfileError::AppArmorMissing) => {
                return reject("invalid empty AppArmor profile name");
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
