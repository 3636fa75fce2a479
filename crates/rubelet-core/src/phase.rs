//! The phase of a pod, from its container statuses (upstream `getPhase`).
//!
//! It knows nothing of what was reported before: stickiness of terminal phases is the business of `status`.

use std::fmt;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus,
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
            count_init(container, pod, found, &mut init);
        }
    }
    for container in &spec.containers {
        count_app(container, pod, find(status.container_statuses.as_ref(), &container.name), &mut tally);
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

fn count_init(container: &Container, pod: &Pod, seen: Seen<'_>, init: &mut InitTally) {
    match seen {
        Seen::Ended { last, .. } => {
            if last.exit_code != 0 && !restart::runs_again(pod, container, last) {
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

fn count_app(container: &Container, pod: &Pod, seen: Seen<'_>, tally: &mut Tally) {
    match seen {
        Seen::Unknown => tally.unknown += 1,
        Seen::Waiting => tally.waiting += 1,
        Seen::Running { .. } => tally.running += 1,
        Seen::Ended { last, now } => {
            tally.stopped += 1;
            if !restart::runs_again(pod, container, last) {
                tally.stopped_for_good += 1;
            }
            if now && last.exit_code == 0 {
                tally.succeeded += 1;
            }
        }
    }
}

/// Whether the pod comes from a file or URL (`kubernetes.io/config.source` other than `api`).
pub fn is_static(pod: &Pod) -> bool {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get("kubernetes.io/config.source"))
        .is_some_and(|source| source != "api")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    /// A status from words: `running`, `started` (running and started), `waiting`, `waiting:CODE` (ended before),
    /// a number (ended with it), `restarting` (ended by RestartAllContainers); `-` leaves the status out.
    fn status(name: &str, word: &str) -> Option<Value> {
        let ended = |code: &str| json!({"terminated": {"exitCode": code.parse::<i32>().unwrap()}});
        let (state, last) = match word {
            "-" => return None,
            "running" | "started" => (json!({"running": {}}), json!({})),
            "waiting" => (json!({"waiting": {}}), json!({})),
            "restarting" => (
                json!({"waiting": {}}),
                json!({"terminated": {"exitCode": 137, "reason": "RestartingAllContainers"}}),
            ),
            _ => match word.strip_prefix("waiting:") {
                Some(code) => (json!({"waiting": {}}), ended(code)),
                None => (ended(word), json!({})),
            },
        };
        Some(json!({"name": name, "state": state, "lastState": last, "started": word == "started",
            "image": "", "imageID": "", "ready": false, "restartCount": 0}))
    }

    #[track_caller]
    fn check_with(spec: Value, words: &[&str], stopped: bool, initialized: bool, expected: Phase) {
        let pod = fixtures::pod(spec);
        let spec = spec_of(&pod);
        let mut words = words.iter();
        let mut list = |containers: &[Container]| -> Vec<Value> {
            containers.iter().filter_map(|c| status(&c.name, words.next().unwrap())).collect()
        };
        let statuses = json!({"initContainerStatuses": list(init_containers(spec)), "containerStatuses": list(&spec.containers)});
        let status: PodStatus = serde_json::from_value(statuses).unwrap();
        assert_eq!(compute_phase(&pod, &status, stopped, initialized), expected);
    }

    #[test]
    fn app_containers_decide_by_what_runs_and_what_may_run_again() {
        let check = |policy: &str, words: &[&str], expected| {
            let spec = json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
            check_with(spec, words, false, false, expected);
        };
        check("Always", &["waiting", "waiting"], Phase::Pending);
        check("Always", &["running", "waiting"], Phase::Pending);
        check("Always", &["running", "-"], Phase::Pending);
        check("Always", &["-", "-"], Phase::Pending);
        check("Always", &["running", "running"], Phase::Running);
        check("Always", &["running", "waiting:1"], Phase::Running);
        check("Always", &["0", "1"], Phase::Running);
        check("Always", &["waiting:1", "waiting:0"], Phase::Running);
        check("OnFailure", &["0", "1"], Phase::Running);
        check("OnFailure", &["0", "0"], Phase::Succeeded);
        check("Never", &["0", "running"], Phase::Running);
        check("Never", &["0", "0"], Phase::Succeeded);
        check("Never", &["0", "1"], Phase::Failed);
        check("Never", &["0", "waiting:137"], Phase::Failed);
        check("Never", &["0", "restarting"], Phase::Running);
    }

    #[test]
    fn rules_of_a_container_beat_the_policy_of_the_pod() {
        let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]});
        check_with(spec.clone(), &["42"], false, false, Phase::Running);
        check_with(spec.clone(), &["41"], false, false, Phase::Failed);
        check_with(spec, &["42"], true, false, Phase::Failed);
    }

    #[test]
    fn a_pod_that_stopped_is_judged_by_exit_codes_alone_unless_it_is_static() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        check_with(spec.clone(), &["0", "0"], true, true, Phase::Succeeded);
        check_with(spec.clone(), &["0", "143"], true, true, Phase::Failed);
        check_with(spec.clone(), &["0", "waiting:0"], true, true, Phase::Failed);
        check_with(spec.clone(), &["0", "waiting"], true, true, Phase::Pending);
        let mut pod = fixtures::pod(spec);
        assert!(!is_static(&pod));
        pod.metadata.annotations =
            Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
        assert!(is_static(&pod));
        let statuses = json!({"containerStatuses": [status("a", "0"), status("b", "0")]});
        let statuses: PodStatus = serde_json::from_value(statuses).unwrap();
        assert_eq!(compute_phase(&pod, &statuses, true, true), Phase::Running);
    }

    #[test]
    fn init_containers_keep_a_pod_pending_or_fail_it() {
        let check = |policy: &str, words: &[&str], expected| {
            let spec = json!({"restartPolicy": policy, "containers": [{"name": "a"}], "initContainers": [{"name": "i"}]});
            check_with(spec, words, false, false, expected);
        };
        check("Always", &["-", "waiting"], Phase::Pending);
        check("Always", &["running", "waiting"], Phase::Pending);
        check("Always", &["0", "running"], Phase::Running);
        check("Always", &["1", "waiting"], Phase::Pending);
        check("Always", &["waiting:1", "waiting"], Phase::Pending);
        check("Never", &["1", "waiting"], Phase::Failed);
        check("Never", &["waiting:1", "waiting"], Phase::Failed);
        check("Never", &["restarting", "restarting"], Phase::Running);
        check("OnFailure", &["1", "waiting"], Phase::Pending);
    }

    #[test]
    fn sidecars_hold_back_running_until_started_and_never_keep_a_pod_from_ending() {
        let check = |words: &[&str], initialized, expected| {
            let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}],
                "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
            check_with(spec, words, false, initialized, expected);
        };
        check(&["waiting", "waiting"], false, Phase::Pending);
        check(&["running", "waiting"], false, Phase::Pending);
        check(&["running", "running"], false, Phase::Pending);
        check(&["running", "running"], true, Phase::Running);
        check(&["started", "running"], false, Phase::Running);
        check(&["waiting:1", "running"], true, Phase::Running);
        check(&["0", "0"], true, Phase::Succeeded);
        check(&["1", "0"], true, Phase::Succeeded);
        check(&["started", "0"], true, Phase::Running);
        check(&["started", "1"], true, Phase::Running);
    }
}
