//! How containers are ended: the grace period, the hook, and who waits for whom.
//!
//! It computes a [`KillPlan`] from the spec, or from what the agent wrote on the containers when no spec is
//! left. It never stops anything; the shell's executor carries the plan out.

use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, Pod, PodSpec};

use crate::containers::{init_containers, is_sidecar, regular_containers, spec_of};
use crate::ids::{ContainerId, SandboxId};
use crate::observed::{ObservedContainer, ObservedPod, ObservedState};
use crate::plan::KillReason;
use crate::restart;

/// What the runtime is always given between SIGTERM and SIGKILL, in seconds.
pub const MINIMUM_STOP_SECONDS: i64 = 2;
/// Grace when neither pod nor containers say one: the API's default.
pub const DEFAULT_GRACE_SECONDS: i64 = 30;
/// Grace for a pod that only the runtime knows.
pub const ORPHAN_GRACE_SECONDS: i64 = 1;

/// Everything to stop of one pod: containers all in parallel, each as its entry says, then every sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KillPlan {
    /// Containers that run or may run.
    pub containers: Vec<ContainerKill>,
    /// All sandboxes of the pod, newest first; stopped after the containers.
    pub sandboxes: Vec<SandboxId>,
}

/// How one container is stopped.
///
/// The executor runs `pre_stop` (bounded by `grace_seconds`), then waits until every container in `wait_for`
/// has stopped (bounded by what is left), then calls StopContainer with [`stop_timeout`] of what is left.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerKill {
    /// Runtime ID.
    pub id: ContainerId,
    /// Container name.
    pub name: String,
    /// Why.
    pub reason: KillReason,
    /// Text of the event `Killing`.
    pub message: String,
    /// Grace in seconds that hook, waiting and stopping share.
    pub grace_seconds: i64,
    /// Hook to run first; `None` when there is none or no time for one.
    pub pre_stop: Option<LifecycleHandler>,
    /// Containers that have to stop before this one is told to: apps and later sidecars for a sidecar.
    pub wait_for: Vec<ContainerId>,
}

/// The grace period of a pod that ends, in seconds: the smallest of what holds so far, the API's
/// deletionGracePeriodSeconds and an override (eviction, shutdown), else the spec's; never below 1 (upstream
/// `calculateEffectiveGracePeriod`). It never exceeds `current`.
pub fn effective_grace(current: Option<u64>, pod: &Pod, override_seconds: Option<u64>) -> u64 {
    let deletion = pod.metadata.deletion_grace_period_seconds.map(seconds);
    [current, deletion, override_seconds]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or_else(|| seconds(spec_grace(pod)))
        .max(1)
}

/// Seconds for the runtime's StopContainer: what is left of the grace in whole seconds, at least
/// [`MINIMUM_STOP_SECONDS`].
pub fn stop_timeout(grace_seconds: i64, elapsed: Duration) -> i64 {
    let elapsed = i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX);
    grace_seconds.saturating_sub(elapsed).max(MINIMUM_STOP_SECONDS)
}

/// How to stop the whole pod. `pod` is `None` for a pod that only the runtime knows: grace, hooks and names
/// then come from the containers themselves. `grace_override` is the effective grace of the pod; without it
/// each container gets the grace of its own spec.
pub fn compute_kill_plan(
    pod: Option<&Pod>,
    observed: &ObservedPod,
    grace_override: Option<u64>,
    reason: KillReason,
) -> KillPlan {
    let grace = grace_override.map(|grace| i64::try_from(grace).unwrap_or(i64::MAX));
    let alive: Vec<&ObservedContainer> =
        observed.containers.iter().filter(|container| may_run(container)).collect();
    let containers = alive
        .iter()
        .map(|container| ContainerKill {
            wait_for: pod.map(|pod| prerequisites(pod, container, &alive)).unwrap_or_default(),
            ..kill_one(pod, container, reason, "", grace)
        })
        .collect();
    KillPlan { containers, sandboxes: observed.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect() }
}

/// How to stop one container of a pod that goes on. `message` is the text of its event; empty for the usual
/// one.
pub fn compute_container_kill(
    pod: Option<&Pod>,
    container: &ObservedContainer,
    reason: KillReason,
    message: &str,
) -> ContainerKill {
    let grace = (reason == KillReason::RestartAll).then_some(0);
    kill_one(pod, container, reason, message, grace)
}

fn kill_one(
    pod: Option<&Pod>,
    container: &ObservedContainer,
    reason: KillReason,
    message: &str,
    grace_override: Option<i64>,
) -> ContainerKill {
    let lifecycle_hook = pod.and_then(|pod| pre_stop_of_spec(spec_of(pod), &container.name));
    let grace_seconds = grace_override.unwrap_or_else(|| own_grace(pod, container, reason)).max(0);
    // A hook needs time and a container that is known to run; one whose pod no longer lists it, or whose pod
    // is unknown, runs the hook it was created with.
    let pre_stop = if grace_seconds > 0 && container.state == ObservedState::Running {
        lifecycle_hook.unwrap_or_else(|| pre_stop_of_facts(container))
    } else {
        None
    };
    let message = if message.is_empty() {
        format!("Stopping container {}", container.name)
    } else {
        message.to_owned()
    };
    ContainerKill {
        id: container.id.clone(),
        name: container.name.clone(),
        reason,
        message,
        grace_seconds,
        pre_stop,
        wait_for: Vec::new(),
    }
}

/// Grace without an override: the API's deletion grace, else the failed probe's own, else the spec's
/// (upstream `setTerminationGracePeriod`).
fn own_grace(pod: Option<&Pod>, container: &ObservedContainer, reason: KillReason) -> i64 {
    let facts = &container.facts;
    let Some(pod) = pod else {
        return facts
            .pod_deletion_grace_period
            .or(facts.pod_termination_grace_period)
            .unwrap_or(MINIMUM_STOP_SECONDS);
    };
    if let Some(deletion) = pod.metadata.deletion_grace_period_seconds {
        return deletion;
    }
    let spec = regular_containers(spec_of(pod)).find(|spec| spec.name == container.name);
    let probe = spec.and_then(|spec| match reason {
        KillReason::LivenessProbe => spec.liveness_probe.as_ref(),
        KillReason::StartupProbe => spec.startup_probe.as_ref(),
        _ => None,
    });
    probe.and_then(|probe| probe.termination_grace_period_seconds).unwrap_or_else(|| spec_grace(pod))
}

/// The preStop hook of a container of the spec; the outer `None` says that the spec has no such container.
fn pre_stop_of_spec(spec: &PodSpec, name: &str) -> Option<Option<LifecycleHandler>> {
    let regular = regular_containers(spec).map(|c| (&c.name, c.lifecycle.as_ref()));
    let ephemeral = restart::ephemeral_containers(spec).iter().map(|c| (&c.name, c.lifecycle.as_ref()));
    regular
        .chain(ephemeral)
        .find(|(listed, _)| *listed == name)
        .map(|(_, lifecycle)| lifecycle.and_then(|lifecycle| lifecycle.pre_stop.clone()))
}

/// The preStop hook that the agent noted on the container when it created it.
fn pre_stop_of_facts(container: &ObservedContainer) -> Option<LifecycleHandler> {
    serde_json::from_str(container.facts.pre_stop_handler.as_deref()?).ok()
}

/// Whom a sidecar waits for: every app container, and the nearest later sidecar that is alive too (upstream
/// `terminationOrdering`). Nobody else waits.
fn prerequisites(pod: &Pod, container: &ObservedContainer, alive: &[&ObservedContainer]) -> Vec<ContainerId> {
    let spec = spec_of(pod);
    let inits = init_containers(spec);
    let Some(position) = inits.iter().position(|init| init.name == container.name && is_sidecar(init)) else {
        return Vec::new();
    };
    let of_name = |name: &str| {
        alive.iter().filter(|other| other.name == name).map(|other| other.id.clone()).collect::<Vec<_>>()
    };
    let later = inits[position + 1..]
        .iter()
        .filter(|init| is_sidecar(init))
        .map(|init| of_name(&init.name))
        .find(|ids| !ids.is_empty())
        .unwrap_or_default();
    spec.containers.iter().flat_map(|app| of_name(&app.name)).chain(later).collect()
}

fn may_run(container: &ObservedContainer) -> bool {
    matches!(container.state, ObservedState::Running | ObservedState::Unknown)
}

fn seconds(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn spec_grace(pod: &Pod) -> i64 {
    spec_of(pod).termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS)
}
