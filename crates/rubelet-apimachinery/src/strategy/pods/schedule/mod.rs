//! Where the scheduler would put a pod, when there is one node: there, or nowhere and why.
//!
//! Owns the order and the words of kube-scheduler's default filters and its FailedScheduling message; the rules that
//! node agents share are `rubelet_core::admission`'s. It never preempts anything. The scheduling loop of the local API
//! calls it for every pod without a node and, when it does not fit, reports [`report`]'s condition and an event.

mod spread;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use rubelet_core::admission::{NodeFacts, has_port_conflict, insufficient, matches_node_affinity, tolerates};
use rubelet_core::quantity::Amount;
use rubelet_core::resources::pod_requests;
use serde_json::{Value, json};

use super::{condition, text};

/// The only scheduler there is: pods that name another one wait for it.
pub const SCHEDULER: &str = "default-scheduler";

/// Why a pod is not scheduled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unschedulable {
    /// The reason of the PodScheduled condition: `Unschedulable`, or `SchedulingGated` for a pod that nobody is to
    /// schedule yet.
    pub reason: &'static str,
    /// What people read, in the condition and in the event `FailedScheduling`.
    pub message: String,
}

impl Unschedulable {
    /// Whether it deserves an event; a closed gate does not.
    pub fn is_failure(&self) -> bool {
        self.reason == "Unschedulable"
    }
}

/// Why the pod does not fit: what its node lacks, and whether taking other pods away could help.
#[derive(Debug, PartialEq, Eq)]
struct Misfit {
    reasons: Vec<String>,
    resolvable: bool,
}

impl Misfit {
    fn new(reason: &str, resolvable: bool) -> Self {
        Self { reasons: vec![reason.to_owned()], resolvable }
    }
}

/// Whether the pod fits the node beside the others: all other pods there are. Those of other nodes, and those that have
/// ended, count for nothing.
///
/// # Errors
/// Why not, as kube-scheduler says it.
pub fn fits(pod: &Pod, node: &Node, others: &[Pod]) -> Result<(), Unschedulable> {
    check_gates(pod)?;
    match misfit(pod, node, others) {
        None => Ok(()),
        Some(Misfit { mut reasons, resolvable }) => {
            reasons.sort();
            let why = reasons.iter().map(|reason| format!("1 {reason}")).collect::<Vec<_>>().join(", ");
            let preemption = if super::spec(pod).preemption_policy.as_deref() == Some("Never") {
                "not eligible due to preemptionPolicy=Never.".to_owned()
            } else if resolvable {
                "0/1 nodes are available: 1 No preemption victims found for incoming pod.".to_owned()
            } else {
                "0/1 nodes are available: 1 Preemption is not helpful for scheduling.".to_owned()
            };
            let message = format!(
                "0/1 nodes are available: {why}. no new claims to deallocate, preemption: {preemption}"
            );
            Err(Unschedulable { reason: "Unschedulable", message })
        }
    }
}

/// What is true of a pod while there is no node at all.
///
/// # Errors
/// Always.
pub fn without_nodes(pod: &Pod) -> Result<(), Unschedulable> {
    check_gates(pod)?;
    let message = "no nodes available to schedule pods".to_owned();
    Err(Unschedulable { reason: "Unschedulable", message })
}

/// What is true of a pod whose claim keeps it waiting: `why` is the claim's problem, such as
/// `persistentvolumeclaim "data" not found`.
pub fn waits_for_claim(why: &str) -> Unschedulable {
    let message = format!("0/1 nodes are available: {why}. not found");
    Unschedulable { reason: "Unschedulable", message }
}

fn check_gates(pod: &Pod) -> Result<(), Unschedulable> {
    if super::spec(pod).scheduling_gates.as_ref().is_none_or(Vec::is_empty) {
        return Ok(());
    }
    Err(Unschedulable { reason: "SchedulingGated", message: condition::GATED.to_owned() })
}

/// Sets the PodScheduled condition of a stored pod that is not scheduled; says whether anything is different now.
pub fn report(pod: &mut Value, verdict: &Unschedulable, now: Timestamp) -> bool {
    let mut scheduled = json!({
        "type": "PodScheduled", "status": "False", "reason": verdict.reason, "message": verdict.message,
    });
    // Gates are told when the pod is made, where upstream says no generation.
    if verdict.is_failure()
        && let Some(generation) = pod["metadata"]["generation"].as_i64().filter(|generation| *generation > 0)
    {
        scheduled["observedGeneration"] = json!(generation);
    }
    condition::update(pod, scheduled, now)
}

/// The first filter that fails, in kube-scheduler's order.
fn misfit(pod: &Pod, node: &Node, others: &[Pod]) -> Option<Misfit> {
    let facts = facts(node);
    let spec = super::spec(pod);
    let here: Vec<&Pod> = others.iter().filter(|other| is_on(other, &facts.name)).collect();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let cordoned = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
    if cordoned && !tolerated(tolerations, &cordon()) {
        return Some(Misfit::new("node(s) were unschedulable", false));
    }
    if !matches!(text(&spec.node_name), "") && text(&spec.node_name) != facts.name {
        return Some(Misfit::new("node(s) didn't match the requested node name", false));
    }
    let repels = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    if facts.taints.iter().filter(repels).any(|taint| !tolerated(tolerations, taint)) {
        return Some(Misfit::new("node(s) had untolerated taint(s)", false));
    }
    if !matches_node_affinity(pod, &facts) {
        return Some(Misfit::new("node(s) didn't match Pod's node affinity/selector", false));
    }
    if has_port_conflict(pod, here.iter().copied()) {
        return Some(Misfit::new("node(s) didn't have free ports for the requested pod ports", true));
    }
    resources(pod, &here, &facts)
        .or_else(|| spread::constraints(pod, &facts, &here))
        .or_else(|| spread::affinity(pod, &facts, &here))
}

fn facts(node: &Node) -> NodeFacts {
    let allocatable = node.status.iter().flat_map(|status| status.allocatable.iter().flatten());
    NodeFacts {
        name: text(&node.metadata.name).to_owned(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        taints: node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default(),
        allocatable: allocatable
            .filter_map(|(name, quantity)| Some((name.clone(), Amount::of(quantity).ok()?)))
            .collect(),
        ..NodeFacts::default()
    }
}

fn is_on(pod: &Pod, node: &str) -> bool {
    let phase = pod.status.as_ref().map(|status| text(&status.phase)).unwrap_or_default();
    text(&super::spec(pod).node_name) == node && !matches!(phase, "Succeeded" | "Failed")
}

fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

/// What `kubectl cordon` amounts to.
fn cordon() -> Taint {
    Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    }
}

/// Unlike on a node, a resource that the node does not have at all is insufficient.
fn resources(pod: &Pod, here: &[&Pod], facts: &NodeFacts) -> Option<Misfit> {
    let mut missing = insufficient(pod, here.iter().copied(), facts);
    // Preemption can free what others use, not what the node never had.
    let mut resolvable = missing.iter().all(|missing| missing.requested <= missing.capacity);
    let mut reasons: Vec<String> = missing
        .drain(..)
        .map(|missing| match missing.resource.as_str() {
            "pods" => "Too many pods".to_owned(),
            resource => format!("Insufficient {resource}"),
        })
        .collect();
    let absent = pod_requests(pod, true).into_iter().filter(|(name, amount)| {
        !amount.is_zero() && !name.starts_with("hugepages-") && !facts.allocatable.contains_key(name)
    });
    for (name, _) in absent {
        resolvable = false;
        reasons.push(format!("Insufficient {name}"));
    }
    if reasons.is_empty() { None } else { Some(Misfit { reasons, resolvable }) }
}

/// Whether a label selector takes an object with these labels.
pub(crate) fn selects<'a>(selector: &LabelSelector, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    selector.match_labels.iter().flatten().all(|(key, value)| label(key) == Some(value.as_str()))
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let found = label(&requirement.key);
            let listed = |value: &str| requirement.values.iter().flatten().any(|known| known == value);
            match requirement.operator.as_str() {
                "In" => found.is_some_and(listed),
                "NotIn" => !found.is_some_and(listed),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}
