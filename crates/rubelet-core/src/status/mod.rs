//! The status of a pod as the API gets it (upstream `generateAPIPodStatus` and the guards of the status
//! manager).
//!
//! [`generate`] makes a status from the spec, what was observed and what was reported before;
//! [`merge_for_update`] guards what may be published; [`finalize_terminated`] closes the books. All pure:
//! writing is the StatusWriter's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::observed::ObservedPod;
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
    /// How far the pod is on its way out.
    pub ending: Ending,
    /// Why the agent ends the pod, if it does.
    pub failure: Option<FailureCause<'a>>,
    /// The node.
    pub node: &'a NodeFacts,
    /// Now.
    pub now: Timestamp,
}

/// The status of the pod.
///
/// Its phase may be terminal while a sidecar still runs: that tells the worker to end the pod.
/// [`merge_for_update`] keeps such a phase from being published too early.
pub fn generate(inputs: &StatusInputs<'_>) -> PodStatus {
    let _ = inputs;
    PodStatus::default()
}

/// The last status of a pod whose clean-up is done: containers without an end get exit code 137 and
/// `ContainerStatusUnknown`, and the phase is Failed if it is not terminal (not for static pods). Upstream
/// `TerminatePod`.
pub fn finalize_terminated(pod: &Pod, previous: &PodStatus, now: Timestamp) -> PodStatus {
    let _ = (pod, now);
    previous.clone()
}

/// The status of a pod that is not admitted: Failed, `Pod was rejected: …`.
pub fn rejected(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> PodStatus {
    let _ = (pod, reason, message, now);
    PodStatus::default()
}

/// Why a status must not follow another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IllegalTransition {
    /// A container that ended for good would run or wait again.
    #[error("terminated container {container} attempted illegal transition to non-terminated state")]
    ContainerRevived {
        /// Its name.
        container: String,
    },
}

/// What to publish when the API holds `old` and `new` was generated.
///
/// Conditions of other owners are kept from `old`; a terminal phase is held back while `may_run`; terminal
/// phases, restart counts and observed generations do not regress; a terminal phase makes Ready and
/// ContainersReady False.
///
/// # Errors
/// A container that ended for good must not come back: such a status is not published.
pub fn merge_for_update(
    pod: &Pod,
    old: &PodStatus,
    new: &PodStatus,
    may_run: bool,
    now: Timestamp,
) -> Result<PodStatus, IllegalTransition> {
    let _ = (pod, old, may_run, now);
    Ok(new.clone())
}

/// Whether two statuses say the same to a client: what this agent does not own, the order of conditions and
/// fractions of seconds do not count (upstream `isPodStatusByKubeletEqual`).
pub fn semantically_equal(a: &PodStatus, b: &PodStatus) -> bool {
    a == b
}

/// When the pod's activeDeadlineSeconds ends, counted from the start time of `status`.
pub fn deadline(pod: &Pod, status: &PodStatus) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let start = status.start_time.as_ref()?.0;
    let allowed = std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Some(start.saturating_add(allowed).unwrap_or(Timestamp::MAX))
}

/// Start error of a container in back-off: reason CrashLoopBackOff and upstream's text, then the time of the
/// next attempt.
pub fn crash_loop_error(pod: &Pod, waiting: &crate::plan::BackingOff) -> StartError {
    let _ = (pod, waiting);
    StartError { reason: "CrashLoopBackOff".to_owned(), message: String::new() }
}
