//! The status of a pod as the API gets it (upstream `generateAPIPodStatus` and the guards of the status
//! manager).
//!
//! [`generate`] makes a status from the spec, what was observed and what was reported before; [`with_verdicts`] brings
//! one up to the probes' last word;
//! [`merge_for_update`] guards what may be published; [`finalize_terminated`] closes the books. All pure:
//! writing is the StatusWriter's.

mod conditions;
mod containers;
pub mod patch;
mod publish;
mod reprobed;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, HostIP, Pod, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub use self::publish::{IllegalTransition, merge_for_update, semantically_equal};
pub use self::reprobed::with_verdicts;

use self::containers::{STATUS_UNKNOWN, container_statuses, terminated, vanished};
use crate::backoff::format_delay;
use crate::containers::{described, init_containers, is_sidecar, spec_of};
use crate::observed::{ObservedPod, ObservedSandbox, ObservedState};
use crate::phase::{self, Phase, compute_phase};
use crate::plan::BackingOff;
use crate::qos;
use crate::resize::{self, ResizeTold};
use crate::restart;
use crate::verdicts::ProbeVerdicts;

/// Why the last attempt to start a container did not lead to a running container. Kept by the pod worker per
/// container name: set when a start fails, removed when one succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    /// The API's reason: `ErrImagePull`, `CrashLoopBackOff`, `CreateContainerConfigError` and so on.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Start errors by container name.
pub type StartErrors = BTreeMap<String, StartError>;

/// How far the pod is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is to run.
    No,
    /// It is being stopped; containers may still run.
    Stopping,
    /// Nothing of it runs any more and nothing will.
    Stopped,
}

/// A decision of the agent that the pod fails: active deadline, eviction, preemption, node shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureCause<'a> {
    /// `status.reason`.
    pub reason: &'a str,
    /// `status.message`.
    pub message: &'a str,
    /// Reason of the condition DisruptionTarget, when the failure is a disruption (`TerminationByKubelet`).
    pub disruption: Option<&'a str>,
}

/// What the status needs to know of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Addresses of the node, primary family first; empty when not known yet.
    pub ips: Vec<IpAddr>,
    /// The runtime's name as it stands in container IDs: `containerd`, `cri-o`.
    pub runtime: String,
    /// The runtime handler of the pod can mount recursively read-only.
    pub recursive_read_only: bool,
}

/// Everything the status depends on.
#[derive(Clone, Copy)]
pub struct StatusInputs<'a> {
    /// The admitted pod, with the API's status in `status`.
    pub pod: &'a Pod,
    /// What the runtime holds.
    pub observed: &'a ObservedPod,
    /// The status generated last; `None` right after a start, then the API's counts.
    pub previous: Option<&'a PodStatus>,
    /// What the probes say.
    pub verdicts: &'a ProbeVerdicts,
    /// Failed starts.
    pub start_errors: &'a StartErrors,
    /// Names of containers that were killed to be started anew in the sync under way, and are not yet.
    pub replacing: &'a [String],
    /// How far the pod is on its way out.
    pub ending: Ending,
    /// Why the agent ends the pod, if it does.
    pub failure: Option<FailureCause<'a>>,
    /// What is known of a resize in place.
    pub resize: ResizeTold<'a>,
    /// The node.
    pub node: &'a NodeFacts,
    /// Now.
    pub now: Timestamp,
}

/// The status of the pod.
///
/// Its phase may be terminal while something still runs (a sidecar, or a pod whose [`deadline`] has passed):
/// that tells the worker to end the pod.
/// [`merge_for_update`] keeps such a phase from being published too early.
pub fn generate(inputs: &StatusInputs<'_>) -> PodStatus {
    let pod = inputs.pod;
    let api = api_status(pod);
    let old = inputs.previous.unwrap_or(api);
    let restarting_all = restart::restart_all_wanted(pod, inputs.observed, Some(old));
    let lists = container_statuses(inputs, restarting_all);
    let (resources, allocated_resources) =
        resize::reported_pod_resources(pod, inputs.resize.actuated, inputs.resize.gates);
    let mut status = PodStatus {
        container_statuses: Some(lists.app),
        init_container_statuses: some_if_any(lists.init),
        ephemeral_container_statuses: some_if_any(lists.ephemeral),
        qos_class: Some(qos::pod_qos(pod).as_str().to_owned()),
        resources,
        allocated_resources,
        observed_generation: pod.metadata.generation,
        start_time: old
            .start_time
            .clone()
            .or_else(|| api.start_time.clone())
            .or_else(|| Some(api_time(inputs.now))),
        ..PodStatus::default()
    };
    settle_phase(inputs, old, api, &mut status);
    settle_addresses(inputs, old, &mut status);
    conditions::fill(inputs, old, restarting_all, &mut status);
    truncated(status)
}

/// Phase, reason and message. A terminal phase stays, whether this agent or the API had it first; otherwise a
/// failure that the agent decided on beats what the containers say.
fn settle_phase(inputs: &StatusInputs<'_>, old: &PodStatus, api: &PodStatus, status: &mut PodStatus) {
    let final_phase = [api, old].into_iter().filter_map(Phase::of).find(|phase| phase.is_terminal());
    let initialized =
        inputs.observed.sandboxes.first().filter(|sandbox| sandbox.ready).is_some_and(|sandbox| {
            spec_of(inputs.pod).containers.iter().any(|app| {
                inputs.observed.instances(&app.name).any(|instance| instance.sandbox_id == sandbox.id)
            })
        });
    let computed = compute_phase(inputs.pod, status, inputs.ending == Ending::Stopped, initialized);
    let computed = if computed.is_terminal() && runs_on(inputs) { Phase::Running } else { computed };
    let over = deadline(inputs.pod, status).is_some_and(|deadline| deadline <= inputs.now);
    let failure = inputs.failure.or(over.then_some(DEADLINE_EXCEEDED)).filter(|_| final_phase.is_none());
    let phase = final_phase.unwrap_or(if failure.is_some() { Phase::Failed } else { computed });
    status.phase = Some(phase.as_str().to_owned());
    if let Some(failure) = failure {
        status.reason = text(failure.reason);
        status.message = text(failure.message);
    } else if [api, old].into_iter().any(|known| Phase::of(known) == Some(phase)) {
        let kept = |of: fn(&PodStatus) -> Option<&String>| {
            [old, api]
                .into_iter()
                .filter(|known| Phase::of(known) == Some(phase))
                .find_map(of)
                .filter(|word| !word.is_empty())
                .cloned()
        };
        status.reason = kept(|known| known.reason.as_ref());
        status.message = kept(|known| known.message.as_ref());
    }
}

/// Whether an app container of a pod that is to run runs or is being replaced. Its status may tell an end all the
/// same: of its last instance, which the API takes back from no container that runs once, although a changed
/// definition has started it anew.
fn runs_on(inputs: &StatusInputs<'_>) -> bool {
    let runs = |app: &Container| {
        let newest = inputs.observed.newest_container(&app.name);
        newest.is_some_and(|newest| newest.state == ObservedState::Running)
            || inputs.replacing.contains(&app.name)
    };
    inputs.ending == Ending::No && spec_of(inputs.pod).containers.iter().any(runs)
}

/// Addresses of host and pod. A pod on the host's network gets the node's addresses and keeps them; a pod that
/// ends keeps what it had.
fn settle_addresses(inputs: &StatusInputs<'_>, old: &PodStatus, status: &mut PodStatus) {
    let node = &inputs.node.ips;
    if node.is_empty() {
        status.host_ip = old.host_ip.clone();
        status.host_ips = old.host_ips.clone();
    } else {
        status.host_ip = node.first().map(IpAddr::to_string);
        status.host_ips = Some(node.iter().take(2).map(|ip| HostIP { ip: ip.to_string() }).collect());
    }
    let reported = || -> Vec<IpAddr> {
        old.pod_ips.iter().flatten().filter_map(|entry| entry.ip.parse().ok()).collect()
    };
    let ips = if spec_of(inputs.pod).host_network == Some(true) {
        let mut ips = reported();
        if ips.is_empty() {
            ips.extend(node.first());
        }
        match (ips.as_slice(), node.get(1)) {
            ([only], Some(second)) if only.is_ipv4() != second.is_ipv4() => ips.push(*second),
            _ => {}
        }
        ips
    } else {
        let newest = inputs.observed.sandboxes.first().filter(|sandbox| sandbox.ready);
        let ips = newest.map(|sandbox| pod_addresses(sandbox, node)).unwrap_or_default();
        if ips.is_empty() && inputs.ending != Ending::No { reported() } else { ips }
    };
    status.pod_ip = ips.first().map(IpAddr::to_string);
    status.pod_ips = some_if_any(ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect());
}

/// The addresses of a pod by those of its sandbox: one of the node's primary family, then one of the other, whatever
/// order the runtime has (upstream `sortPodIPs`). It is asked at the first, and its environment tells the same.
pub fn pod_addresses(sandbox: &ObservedSandbox, node: &[IpAddr]) -> Vec<IpAddr> {
    let primary_is_v4 = node.first().is_none_or(IpAddr::is_ipv4);
    let parsed: Vec<IpAddr> = sandbox.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let first_of = |v4: bool| parsed.iter().find(|ip| ip.is_ipv4() == v4).copied();
    [first_of(primary_is_v4), first_of(!primary_is_v4)].into_iter().flatten().collect()
}

/// The last status of a pod whose clean-up is done: containers without an end get exit code 137 and
/// `ContainerStatusUnknown`, and the phase is Failed if it is not terminal (not for static pods). Upstream
/// `TerminatePod`.
pub fn finalize_terminated(pod: &Pod, previous: &PodStatus, now: Timestamp) -> PodStatus {
    let mut status = previous.clone();
    let initialized = had_initialized(pod, &status);
    let close = |container: &mut ContainerStatus| {
        let ended = container.state.as_ref().is_some_and(|state| state.terminated.is_some());
        if !ended {
            let message = "The container could not be located when the pod was terminated";
            container.state = Some(terminated(vanished(STATUS_UNKNOWN, message)));
            container.ready = false;
            container.started = Some(false);
        }
    };
    if initialized {
        status.container_statuses.iter_mut().flatten().for_each(close);
    }
    // Init containers behind the last one that shows any life were never reached.
    let init = status.init_container_statuses.as_deref_mut().unwrap_or_default();
    let reached = init.iter().rposition(has_lived).unwrap_or(0) + 1;
    init.iter_mut().take(reached).for_each(close);
    if !phase::is_static(pod) && !Phase::of(&status).is_some_and(Phase::is_terminal) {
        status.phase = Some(Phase::Failed.as_str().to_owned());
    }
    if let Some(phase) = Phase::of(&status) {
        conditions::force_not_ready(&mut status, phase, now);
    }
    status
}

/// Whether a container ever left its first waiting.
fn has_lived(status: &ContainerStatus) -> bool {
    let ended_before = status.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
    ended_before || status.state.as_ref().is_some_and(|state| state.waiting.is_none())
}

/// Whether the pod got as far as its app containers, by its last status.
fn had_initialized(pod: &Pod, status: &PodStatus) -> bool {
    let Some(last) = init_containers(spec_of(pod)).last() else { return true };
    if status.container_statuses.iter().flatten().any(has_lived) {
        return true;
    }
    let found = status.init_container_statuses.iter().flatten().find(|init| init.name == last.name);
    found.is_some_and(|init| {
        let state = init.state.as_ref();
        if is_sidecar(last) {
            state.is_some_and(|state| state.running.is_some()) && init.started == Some(true)
        } else {
            [state, init.last_state.as_ref()]
                .into_iter()
                .flatten()
                .filter_map(|state| state.terminated.as_ref())
                .any(|end| end.exit_code == 0)
        }
    })
}

/// The status of a pod that is not admitted: Failed, `Pod was rejected: …`.
pub fn rejected(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> PodStatus {
    let api = api_status(pod);
    PodStatus {
        phase: Some(Phase::Failed.as_str().to_owned()),
        reason: text(reason),
        message: Some(format!("Pod was rejected: {message}")),
        qos_class: Some(qos::pod_qos(pod).as_str().to_owned()),
        observed_generation: pod.metadata.generation,
        start_time: api.start_time.clone().or_else(|| Some(api_time(now))),
        conditions: api.conditions.clone(),
        ..PodStatus::default()
    }
}

/// When the pod's activeDeadlineSeconds ends, counted from the start time of `status`.
pub fn deadline(pod: &Pod, status: &PodStatus) -> Option<Timestamp> {
    let seconds = spec_of(pod).active_deadline_seconds?;
    let start = status.start_time.as_ref()?.0;
    let allowed = std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Some(start.saturating_add(allowed).unwrap_or(Timestamp::MAX))
}

/// What a pod fails with when its activeDeadlineSeconds is over.
pub const DEADLINE_EXCEEDED: FailureCause<'static> = FailureCause {
    reason: "DeadlineExceeded",
    message: "Pod was active on the node longer than the specified deadline",
    disruption: None,
};

/// Start error of a container in back-off: reason CrashLoopBackOff and upstream's text, then the time of the
/// next attempt.
pub fn crash_loop_error(pod: &Pod, waiting: &BackingOff) -> StartError {
    StartError {
        reason: "CrashLoopBackOff".to_owned(),
        message: format!(
            "back-off {} restarting failed container={} pod={}; next attempt at {}",
            format_delay(waiting.delay),
            waiting.name,
            described(pod),
            api_time(waiting.until).0,
        ),
    }
}

/// The API's copy of the status, or an empty one.
fn api_status(pod: &Pod) -> &PodStatus {
    static EMPTY: LazyLock<PodStatus> = LazyLock::new(PodStatus::default);
    pod.status.as_ref().unwrap_or(&EMPTY)
}

/// A text as an optional field: absent when empty.
fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn some_if_any<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// A time as the API keeps it: whole seconds.
fn api_time(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// A status with all times in whole seconds, as it comes back from the API.
fn truncated(mut status: PodStatus) -> PodStatus {
    let cut = |time: &mut Option<Time>| {
        if let Some(time) = time {
            *time = api_time(time.0);
        }
    };
    cut(&mut status.start_time);
    for condition in status.conditions.iter_mut().flatten() {
        cut(&mut condition.last_transition_time);
        cut(&mut condition.last_probe_time);
    }
    let cut_state = |state: &mut Option<ContainerState>| {
        let Some(state) = state else { return };
        if let Some(running) = &mut state.running {
            cut(&mut running.started_at);
        }
        if let Some(end) = &mut state.terminated {
            cut(&mut end.started_at);
            cut(&mut end.finished_at);
        }
    };
    let lists = [
        &mut status.init_container_statuses,
        &mut status.container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    for container in lists.into_iter().flatten().flatten() {
        cut_state(&mut container.state);
        cut_state(&mut container.last_state);
    }
    status
}
