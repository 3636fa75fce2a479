//! How containers are ended: the grace period, the hook, and who waits for whom.
//!
//! It computes a [`KillPlan`] from the spec, or from what the agent wrote on the containers when no spec is
//! left. It never stops anything; the shell's executor carries the plan out.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, PodSpec};

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
    let _ = (pod, observed, grace_override, reason);
    KillPlan::default()
}

/// How to stop one container of a pod that goes on. `message` is the text of its event.
pub fn compute_container_kill(
    pod: Option<&Pod>,
    container: &ObservedContainer,
    reason: KillReason,
    message: &str,
) -> ContainerKill {
    let _ = (pod, message);
    ContainerKill {
        id: container.id.clone(),
        name: container.name.clone(),
        reason,
        message: String::new(),
        grace_seconds: 0,
        pre_stop: None,
        wait_for: vec![],
    }
}

fn seconds(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn spec_grace(pod: &Pod) -> i64 {
    pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_SECONDS)
}
