//! The conditions this agent owns (upstream `status/generate.go`).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use super::{StatusInputs, api_time, text};
use crate::actions::{SandboxNeed, sandbox_need};
use crate::containers::{init_containers, is_sidecar, spec_of};
use crate::phase::Phase;
use crate::resize;
use crate::restart;

/// Conditions that only this agent writes.
const OWNED: [&str; 8] = [
    "PodScheduled",
    "Ready",
    "Initialized",
    "ContainersReady",
    "PodResizeInProgress",
    "PodResizePending",
    "PodReadyToStartContainers",
    "AllContainersRestarting",
];
/// The condition that this agent shares with other writers.
pub(super) const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// Whether only this agent writes the condition.
pub(super) fn is_owned(condition_type: &str) -> bool {
    OWNED.contains(&condition_type)
}

/// The condition of this type.
pub(super) fn find<'a>(status: &'a PodStatus, condition_type: &str) -> Option<&'a PodCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == condition_type)
}

/// Puts a condition into the list, in place of one of the same type if there is one.
pub(super) fn put(conditions: &mut Vec<PodCondition>, condition: PodCondition) {
    match conditions.iter_mut().find(|listed| listed.type_ == condition.type_) {
        Some(listed) => *listed = condition,
        None => conditions.push(condition),
    }
}

/// Status, reason and message of a condition.
struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    const fn yes(reason: &'static str) -> Self {
        Self { holds: true, reason, message: String::new() }
    }
    const fn no(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }
}

/// What the condition DisruptionTarget says: the status's message, but for pods that are preempted, as upstream.
fn disruption_message<'a>(failure: &super::FailureCause<'a>) -> &'a str {
    match failure.reason {
        crate::preemption::REASON => "Pod was preempted by Kubelet to accommodate a critical pod.",
        _ => failure.message,
    }
}

/// Fills in the conditions of `status`, whose phase and container statuses are settled. Conditions of other
/// owners come from the API's copy of the pod.
pub(super) fn fill(inputs: &StatusInputs<'_>, old: &PodStatus, restarting_all: bool, status: &mut PodStatus) {
    let pod = inputs.pod;
    let phase = Phase::of(status).unwrap_or(Phase::Pending);
    let mut list: Vec<_> = foreign(pod).cloned().collect();
    let stamped = |old: &PodStatus, condition| stamped(old, pod.metadata.generation, inputs.now, condition);
    if let Some(disruption) = find(old, DISRUPTION_TARGET) {
        put(&mut list, disruption.clone());
    }
    if let Some((failure, reason)) = inputs.failure.and_then(|failure| Some((failure, failure.disruption?))) {
        let condition = condition(
            DISRUPTION_TARGET,
            Verdict { holds: true, reason: "", message: disruption_message(&failure).to_owned() },
        );
        put(&mut list, stamped(old, PodCondition { reason: text(reason), ..condition }));
    }

    let has_sandbox = matches!(sandbox_need(pod, inputs.observed), SandboxNeed::Keep(_));
    let containers_ready = containers_ready(pod, status, phase);
    let ready = ready(pod, &containers_ready);
    let mut own = vec![
        condition("PodReadyToStartContainers", Verdict { holds: has_sandbox, ..Verdict::yes("") }),
        condition("Initialized", initialized(pod, old, status, phase)),
        condition("Ready", ready),
        condition("ContainersReady", containers_ready),
        condition("PodScheduled", Verdict::yes("")),
    ];
    if restart::may_restart_all(spec_of(pod)) {
        own.push(condition("AllContainersRestarting", all_restarting(inputs, phase, restarting_all)));
    }
    list.extend(own.into_iter().map(|condition| stamped(old, condition)));
    if !phase.is_terminal() {
        list.extend(resizing(inputs, old));
    }
    status.conditions = Some(list);
}

/// The conditions of a resize. Their time is that of their reason, their generation that of the resize.
fn resizing(inputs: &StatusInputs<'_>, old: &PodStatus) -> Vec<PodCondition> {
    let told = inputs.resize;
    let pending = told.pending.map(|pending| {
        let verdict = Verdict { message: pending.message.clone(), ..Verdict::yes(pending.reason()) };
        (condition(resize::PENDING, verdict), pending.generation)
    });
    let progress = told.progress.map(|progress| {
        let reason = if progress.error.is_some() { "Error" } else { "" };
        let message = progress.error.clone().unwrap_or_default();
        (condition(resize::IN_PROGRESS, Verdict { message, ..Verdict::yes(reason) }), progress.generation)
    });
    [pending, progress]
        .into_iter()
        .flatten()
        .map(|(condition, generation)| {
            let same = find(old, &condition.type_).filter(|before| before.reason == condition.reason);
            PodCondition {
                last_transition_time: same
                    .and_then(|before| before.last_transition_time.clone())
                    .or_else(|| Some(api_time(inputs.now))),
                observed_generation: generation,
                ..condition
            }
        })
        .collect()
}

/// Brings those conditions of a status up to its container statuses that follow from them alone. Others stay, and none
/// is added.
pub(super) fn rejudge(pod: &Pod, status: &mut PodStatus, now: Timestamp) {
    let phase = Phase::of(status).unwrap_or(Phase::Pending);
    let containers_ready = containers_ready(pod, status, phase);
    let judged = [
        condition("Initialized", initialized(pod, status, status, phase)),
        condition("Ready", ready(pod, &containers_ready)),
        condition("ContainersReady", containers_ready),
    ];
    for condition in judged {
        let condition = stamped(status, status.observed_generation, now, condition);
        let listed = status.conditions.iter_mut().flatten().find(|listed| listed.type_ == condition.type_);
        if let Some(listed) = listed {
            *listed = condition;
        }
    }
}

/// The conditions of other owners, as the API has them.
fn foreign(pod: &Pod) -> impl Iterator<Item = &PodCondition> {
    super::api_status(pod).conditions.iter().flatten().filter(|condition| !is_owned(&condition.type_))
}

fn condition(condition_type: &str, verdict: Verdict) -> PodCondition {
    PodCondition {
        type_: condition_type.to_owned(),
        status: if verdict.holds { "True" } else { "False" }.to_owned(),
        reason: text(verdict.reason),
        message: text(&verdict.message),
        ..PodCondition::default()
    }
}

/// Adds generation and transition time; the time changes only with the status of the condition.
fn stamped(
    old: &PodStatus,
    generation: Option<i64>,
    now: Timestamp,
    condition: PodCondition,
) -> PodCondition {
    let unchanged = find(old, &condition.type_).filter(|before| before.status == condition.status);
    PodCondition {
        last_transition_time: unchanged
            .and_then(|before| before.last_transition_time.clone())
            .or_else(|| Some(api_time(now))),
        observed_generation: generation,
        ..condition
    }
}

fn containers_ready(pod: &Pod, status: &PodStatus, phase: Phase) -> Verdict {
    let spec = spec_of(pod);
    let sidecars = init_containers(spec).iter().filter(|init| is_sidecar(init));
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let app = status.container_statuses.as_deref().unwrap_or_default();
    let mut unknown = Vec::new();
    let mut unready = Vec::new();
    let judged = sidecars.map(|c| (c, init)).chain(spec.containers.iter().map(|c| (c, app)));
    for (container, statuses) in judged {
        match of_name(statuses, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    match phase {
        Phase::Succeeded if unknown.is_empty() => return Verdict::no("PodCompleted", String::new()),
        Phase::Failed => return Verdict::no("PodFailed", String::new()),
        _ => {}
    }
    let message = lists(&[("unknown", &unknown), ("unready", &unready)]);
    if message.is_empty() { Verdict::yes("") } else { Verdict::no("ContainersNotReady", message) }
}

fn ready(pod: &Pod, containers_ready: &Verdict) -> Verdict {
    if !containers_ready.holds {
        return Verdict::no(containers_ready.reason, containers_ready.message.clone());
    }
    let gates = spec_of(pod).readiness_gates.as_deref().unwrap_or_default();
    let missing: Vec<_> = gates
        .iter()
        .filter_map(|gate| {
            let wanted = &gate.condition_type;
            match foreign(pod).find(|condition| condition.type_ == *wanted) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate {wanted:?} does not exist."))
                }
                Some(found) if found.status != "True" => Some(format!(
                    "the status of pod readiness gate {wanted:?} is not \"True\", but {}",
                    found.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if missing.is_empty() {
        Verdict::yes("")
    } else {
        Verdict::no("ReadinessGatesNotReady", missing.join(", "))
    }
}

/// A pod that was initialised once stays so: neither a restarting sidecar nor RestartAllContainers undoes it.
fn initialized(pod: &Pod, old: &PodStatus, status: &PodStatus, phase: Phase) -> Verdict {
    let statuses = status.init_container_statuses.as_deref().unwrap_or_default();
    let mut unknown = Vec::new();
    let mut incomplete = Vec::new();
    for container in init_containers(spec_of(pod)) {
        match of_name(statuses, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) => {
                let done = if is_sidecar(container) { status.started == Some(true) } else { status.ready };
                if !done {
                    incomplete.push(container.name.as_str());
                }
            }
        }
    }
    if phase == Phase::Succeeded && unknown.is_empty() {
        return Verdict::yes("PodCompleted");
    }
    let app_ran = status.container_statuses.iter().flatten().any(|container| {
        container.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    });
    let before = find(old, "Initialized").is_some_and(|condition| condition.status == "True");
    let message = lists(&[("unknown", &unknown), ("incomplete", &incomplete)]);
    if app_ran || before || message.is_empty() {
        Verdict::yes("")
    } else {
        Verdict::no("ContainersNotInitialized", message)
    }
}

fn all_restarting(inputs: &StatusInputs<'_>, phase: Phase, wanted: bool) -> Verdict {
    match phase {
        Phase::Succeeded => Verdict::no("PodCompleted", String::new()),
        Phase::Failed => Verdict::no("PodFailed", String::new()),
        _ if wanted && !restart::restart_all_cleaned_up(inputs.pod, inputs.observed) => Verdict {
            message: "container exited with restart policy rule".to_owned(),
            ..Verdict::yes("RestartAllContainersStarted")
        },
        _ => Verdict::no("", String::new()),
    }
}

/// A terminal phase is never Ready, whatever was generated before it became terminal.
pub(super) fn force_not_ready(status: &mut PodStatus, phase: Phase, now: Timestamp) {
    let reason = match phase {
        Phase::Succeeded => "PodCompleted",
        Phase::Failed => "PodFailed",
        Phase::Pending | Phase::Running => return,
    };
    for listed in status.conditions.iter_mut().flatten() {
        if matches!(listed.type_.as_str(), "Ready" | "ContainersReady") && listed.status != "False" {
            listed.status = "False".to_owned();
            listed.reason = text(reason);
            listed.message = None;
            listed.last_transition_time = Some(api_time(now));
        }
    }
}

fn of_name<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|status| status.name == name)
}

/// `containers with unready status: [a b], …`, leaving out empty lists.
fn lists(lists: &[(&str, &[&str])]) -> String {
    lists
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("containers with {what} status: [{}]", names.join(" ")))
        .collect::<Vec<_>>()
        .join(", ")
}
