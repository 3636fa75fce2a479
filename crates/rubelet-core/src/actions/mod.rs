//! What is to be done to one pod in the runtime now (upstream `computePodActions`).
//!
//! [`compute_pod_actions`] compares the spec with what was observed and returns a [`PodPlan`]; the pod worker
//! calls it in every sync and its executor carries the plan out. Nothing here acts or waits.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};

use crate::backoff::BackoffTable;
use crate::observed::ObservedPod;
use crate::plan::PodPlan;
use crate::verdicts::ProbeVerdicts;

/// Everything the decision depends on.
#[derive(Clone, Copy)]
pub struct PodActionInputs<'a> {
    /// The admitted pod.
    pub pod: &'a Pod,
    /// What the runtime holds.
    pub observed: &'a ObservedPod,
    /// What the probes say.
    pub verdicts: &'a ProbeVerdicts,
    /// Crash-loop back-off.
    pub backoff: &'a BackoffTable,
    /// The status last generated or reported: it remembers a RestartAllContainers that is under way.
    pub reported: Option<&'a PodStatus>,
    /// The pod ends: nothing is started any more.
    pub ending: bool,
    /// Hash that a container with this spec is created with (`hash::container_hash`).
    pub hash: fn(&Container) -> u32,
    /// Now.
    pub now: Timestamp,
}

/// The plan for the pod.
pub fn compute_pod_actions(inputs: &PodActionInputs<'_>) -> PodPlan {
    let _ = inputs;
    PodPlan::default()
}
