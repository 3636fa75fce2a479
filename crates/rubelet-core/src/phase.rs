//! The phase of a pod, from its container statuses (upstream `getPhase`).
//!
//! It knows nothing of what was reported before: stickiness of terminal phases is the business of `status`.

use std::fmt;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus,
};

use crate::containers::{init_containers, is_sidecar, spec_of};
use crate::restart;

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not everything has been started once.
    Pending,
    /// Everything has been started, and something runs or will run again.
    Running,
    /// Every app container ended with exit code 0 and none runs again.
    Succeeded,
    /// Nothing runs again and something failed.
    Failed,
}

impl Phase {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Reads the API's word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed].into_iter().find(|p| p.as_str() == word)
    }

    /// The phase of a status, if it has one.
    pub fn of(status: &PodStatus) -> Option<Self> {
        Self::parse(status.phase.as_deref()?)
    }

    /// Whether a pod never leaves this phase.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reason of containers that RestartAllContainers ended: they always run again.
pub const RESTARTING_ALL_CONTAINERS: &str = "RestartingAllContainers";

/// The phase that follows from the container statuses of `status`.
///
/// `stopped`: the pod ends and nothing of it runs any more, so restart policies no longer matter (not for
/// static pods). `initialized`: an app container of the current sandbox has been created.
pub fn compute_phase(pod: &Pod, status: &PodStatus, stopped: bool, initialized: bool) -> Phase {
    let spec = spec_of(pod);
    let mut init = InitTally::default();
    let mut tally = Tally::default();
    for container in init_containers(spec) {
        let found = find(status.init_container_statuses.as_ref(), &container.name);
        if is_sidecar(container) {
            count_sidecar(found, &mut init, &mut tally);
        } else {
            count_init(container, spec, found, &mut init);
        }
    }
    for container in &spec.containers {
        count_app(container, spec, find(status.container_statuses.as_ref(), &container.name), &mut tally);
    }

    if init.failed_for_good {
        return Phase::Failed;
    }
    if init.pending || (init.sidecar_pending && !initialized) || tally.waiting > 0 {
        return Phase::Pending;
    }
    if tally.unknown > 0 || (tally.running == 0 && tally.stopped == 0) {
        return Phase::Pending;
    }
    let ended = tally.stopped == tally.stopped_for_good || (stopped && !is_static(pod));
    match (tally.running > 0 || !ended, tally.stopped == tally.succeeded) {
        (true, _) => Phase::Running,
        (false, true) => Phase::Succeeded,
        (false, false) => Phase::Failed,
    }
}

/// What the init containers say.
#[derive(Default)]
struct InitTally {
    /// A regular one has not ended yet.
    pending: bool,
    /// A sidecar has not been started yet.
    sidecar_pending: bool,
    /// A regular one failed and is not restarted.
    failed_for_good: bool,
}

/// What sidecars and app containers say; only app containers count as stopped.
#[derive(Default)]
struct Tally {
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
}

/// A container's place in its life, as far as the phase cares.
enum Seen<'a> {
    Unknown,
    Waiting,
    Running {
        started: bool,
    },
    /// Ended, `now` or before it began to wait for its next start.
    Ended {
        last: &'a ContainerStateTerminated,
        now: bool,
    },
}

fn find<'a>(statuses: Option<&'a Vec<ContainerStatus>>, name: &str) -> Seen<'a> {
    let Some(status) = statuses.and_then(|list| list.iter().find(|status| status.name == name)) else {
        return Seen::Unknown;
    };
    let terminated = |state: Option<&'a ContainerState>| state.and_then(|state| state.terminated.as_ref());
    let Some(state) = status.state.as_ref() else { return Seen::Unknown };
    if state.running.is_some() {
        Seen::Running { started: status.started == Some(true) }
    } else if let Some(last) = state.terminated.as_ref() {
        Seen::Ended { last, now: true }
    } else if state.waiting.is_some() {
        match terminated(status.last_state.as_ref()) {
            Some(last) => Seen::Ended { last, now: false },
            None => Seen::Waiting,
        }
    } else {
        Seen::Unknown
    }
}

fn count_init(container: &Container, spec: &PodSpec, seen: Seen<'_>, init: &mut InitTally) {
    match seen {
        Seen::Ended { last, .. } => {
            if last.exit_code != 0 && !runs_again(container, spec, last) {
                init.failed_for_good = true;
            }
        }
        Seen::Unknown | Seen::Waiting | Seen::Running { .. } => init.pending = true,
    }
}

fn count_sidecar(seen: Seen<'_>, init: &mut InitTally, tally: &mut Tally) {
    match seen {
        // A sidecar without any status blocks the phase Running, yet not initialisation.
        Seen::Unknown => tally.unknown += 1,
        Seen::Waiting => {
            init.sidecar_pending = true;
            tally.waiting += 1;
        }
        Seen::Running { started } => {
            init.sidecar_pending |= !started;
            tally.running += 1;
        }
        Seen::Ended { .. } => {}
    }
}

fn count_app(container: &Container, spec: &PodSpec, seen: Seen<'_>, tally: &mut Tally) {
    match seen {
        Seen::Unknown => tally.unknown += 1,
        Seen::Waiting => tally.waiting += 1,
        Seen::Running { .. } => tally.running += 1,
        Seen::Ended { last, now } => {
            tally.stopped += 1;
            if !runs_again(container, spec, last) {
                tally.stopped_for_good += 1;
            }
            if now && last.exit_code == 0 {
                tally.succeeded += 1;
            }
        }
    }
}

/// Whether a container that ended like this is started again.
fn runs_again(container: &Container, spec: &PodSpec, ended: &ContainerStateTerminated) -> bool {
    ended.reason.as_deref() == Some(RESTARTING_ALL_CONTAINERS)
        || restart::restarts_after(container, spec, ended.exit_code)
}

/// Whether the pod comes from a file or URL (`kubernetes.io/config.source` other than `api`).
pub fn is_static(pod: &Pod) -> bool {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get("kubernetes.io/config.source"))
        .is_some_and(|source| source != "api")
}
