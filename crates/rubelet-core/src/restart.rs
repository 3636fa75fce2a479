//! Whether a container that ended is started again: exit-code rules, the container's policy, the pod's
//! policy, in that order (KEP-753 sidecars, KEP-5307 container restart rules, KEP-5532 RestartAllContainers).
//!
//! It answers questions about single containers and pods; it never plans. `actions`, `phase` and `status`
//! call it, and so does the shell when it wants to know what a container is.

use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, ContainerState, ContainerStateTerminated, EphemeralContainer, Pod,
    PodSpec, PodStatus,
};

use crate::containers::spec_of;
pub use crate::containers::{init_containers, is_sidecar};
use crate::observed::{ObservedPod, ObservedState};
use crate::plan::ContainerKind;

/// Reason of containers that RestartAllContainers ended: they always run again.
pub const RESTARTING_ALL_CONTAINERS: &str = "RestartingAllContainers";

/// Exit code of a container whose end nobody saw.
pub const EXIT_CODE_UNKNOWN: i32 = 137;

/// `spec.restartPolicy` of a pod or a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Restart whatever the exit code was.
    Always,
    /// Restart when the exit code was not 0.
    OnFailure,
    /// Never restart.
    Never,
}

impl RestartPolicy {
    /// Reads the API's word; `None` for anything else, which means that the next wider policy decides.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "Always" => Some(Self::Always),
            "OnFailure" => Some(Self::OnFailure),
            "Never" => Some(Self::Never),
            _ => None,
        }
    }

    /// Whether a container that ended with this exit code is started again.
    pub fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// What follows from a container's exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartDecision {
    /// It stays as it is.
    Stay,
    /// It is started again.
    Restart,
    /// Every container of the pod is removed and the pod starts from its first init container (KEP-5532).
    RestartAll,
}

/// The pod's own restart policy; `Always` when the pod does not say.
pub fn pod_policy(spec: &PodSpec) -> RestartPolicy {
    spec.restart_policy.as_deref().and_then(RestartPolicy::parse).unwrap_or(RestartPolicy::Always)
}

/// The policy that holds for a container when no exit-code rule matches: its own, else the pod's.
pub fn container_policy(container: &Container, spec: &PodSpec) -> RestartPolicy {
    container.restart_policy.as_deref().and_then(RestartPolicy::parse).unwrap_or_else(|| pod_policy(spec))
}

/// What follows when `container` exits with `exit_code`.
///
/// Exit-code rules count only for a container that has a restart policy of its own (upstream
/// `ContainerShouldRestart`); the first rule that matches decides.
pub fn on_exit(container: &Container, spec: &PodSpec, exit_code: i32) -> RestartDecision {
    if container.restart_policy.is_some()
        && let Some(rule) = matching_rule(container, exit_code)
    {
        match rule.action.as_str() {
            "Restart" => return RestartDecision::Restart,
            "RestartAllContainers" => return RestartDecision::RestartAll,
            _ => {}
        }
    }
    if container_policy(container, spec).restarts(exit_code) {
        RestartDecision::Restart
    } else {
        RestartDecision::Stay
    }
}

/// Whether a container that exited with `exit_code` runs again, alone or with the whole pod.
pub fn restarts_after(container: &Container, spec: &PodSpec, exit_code: i32) -> bool {
    on_exit(container, spec, exit_code) != RestartDecision::Stay
}

/// Whether a container that is killed for a failed probe or an unknown state is started again: by policy only,
/// exit-code rules do not count because it has not exited by itself.
pub fn restarts_after_probe_failure(container: &Container, spec: &PodSpec) -> bool {
    container_policy(container, spec) != RestartPolicy::Never
}

/// Whether the container's current instance is to be replaced by a new one in the next sync (upstream
/// `ShouldContainerBeRestarted`). A pod that ends restarts nothing. Unlike upstream, a container in unknown state
/// restarts only if its policy allows: it may have done its work.
///
/// When the runtime has lost every record of the container, `reported` decides, so that what runs once does
/// not run twice.
pub fn is_to_be_started(
    pod: &Pod,
    container: &Container,
    observed: &ObservedPod,
    reported: Option<&PodStatus>,
) -> bool {
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    match observed.newest_container(&container.name) {
        None => lost_container_runs_again(pod, container, reported).unwrap_or(true),
        Some(instance) => match instance.state {
            ObservedState::Running => false,
            ObservedState::Created => true,
            // It is killed first, which is a failure.
            ObservedState::Unknown => restarts_after_probe_failure(container, spec_of(pod)),
            ObservedState::Exited => restarts_after(container, spec_of(pod), instance.exit_code),
        },
    }
}

/// Whether a container that ended as the API was told is started again. What RestartAllContainers ended always
/// is.
pub(crate) fn runs_again(pod: &Pod, container: &Container, end: &ContainerStateTerminated) -> bool {
    end.reason.as_deref() == Some(RESTARTING_ALL_CONTAINERS)
        || restarts_after(container, spec_of(pod), end.exit_code)
}

/// Whether an app container of which the runtime holds nothing is known to have run, and if so whether it runs
/// again. What was reported as running has ended without a witness, which counts as a failure.
pub(crate) fn lost_container_runs_again(
    pod: &Pod,
    container: &Container,
    reported: Option<&PodStatus>,
) -> Option<bool> {
    let status =
        reported?.container_statuses.as_ref()?.iter().find(|status| status.name == container.name)?;
    let state = status.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        return Some(restarts_after(container, spec_of(pod), EXIT_CODE_UNKNOWN));
    }
    let ended = |state: Option<&ContainerState>| {
        state.and_then(|state| state.terminated.as_ref()).map(|end| runs_again(pod, container, end))
    };
    ended(state).or_else(|| ended(status.last_state.as_ref()))
}

/// Whether any container of the pod has a rule that restarts all of them.
pub fn may_restart_all(spec: &PodSpec) -> bool {
    planned_containers(spec).any(|(_, container)| {
        container
            .restart_policy_rules
            .as_ref()
            .is_some_and(|rules| rules.iter().any(|rule| rule.action == "RestartAllContainers"))
    })
}

/// Whether RestartAllContainers is under way: the reported condition says so, or an exited container matches
/// such a rule, as observed or as last reported (upstream `ShouldAllContainersRestart`).
pub fn restart_all_wanted(pod: &Pod, observed: &ObservedPod, reported: Option<&PodStatus>) -> bool {
    let spec = spec_of(pod);
    let condition = reported.and_then(|status| status.conditions.as_ref()).is_some_and(|conditions| {
        conditions.iter().any(|c| c.type_ == "AllContainersRestarting" && c.status == "True")
    });
    if condition {
        return true;
    }
    let asks = |container: &Container, code| on_exit(container, spec, code) == RestartDecision::RestartAll;
    planned_containers(spec).any(|(_, container)| {
        let newest = observed.newest_container(&container.name);
        match newest.map(|instance| (instance.state, instance.exit_code)) {
            Some((ObservedState::Exited, code)) if asks(container, code) => true,
            // A living instance outdates what was reported of its predecessor.
            Some((ObservedState::Created | ObservedState::Running | ObservedState::Unknown, _)) => false,
            Some((ObservedState::Exited, _)) | None => {
                reported_exit_code(reported, &container.name).is_some_and(|code| asks(container, code))
            }
        }
    })
}

/// Whether RestartAllContainers has removed what it had to: no init or app container is left in the runtime.
pub fn restart_all_cleaned_up(pod: &Pod, observed: &ObservedPod) -> bool {
    planned_containers(spec_of(pod))
        .all(|(_, container)| observed.newest_container(&container.name).is_none())
}

/// Init and app containers of a pod in spec order, each with its kind and index.
pub fn planned_containers(spec: &PodSpec) -> impl Iterator<Item = ((ContainerKind, usize), &Container)> {
    init_containers(spec)
        .iter()
        .enumerate()
        .map(|(index, container)| ((ContainerKind::Init, index), container))
        .chain(spec.containers.iter().enumerate().map(|(index, c)| ((ContainerKind::App, index), c)))
}

/// The pod's ephemeral containers in spec order.
pub fn ephemeral_containers(spec: &PodSpec) -> &[EphemeralContainer] {
    spec.ephemeral_containers.as_deref().unwrap_or_default()
}

/// The first exit-code rule that matches.
fn matching_rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.as_ref()?.iter().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.as_ref().is_some_and(|values| values.contains(&exit_code));
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

/// Exit code of a container's current state as last reported.
fn reported_exit_code(reported: Option<&PodStatus>, name: &str) -> Option<i32> {
    let status = reported?;
    let lists = [status.init_container_statuses.as_ref(), status.container_statuses.as_ref()];
    lists
        .into_iter()
        .flatten()
        .flatten()
        .find(|container| container.name == name)
        .and_then(|container| container.state.as_ref()?.terminated.as_ref())
        .map(|terminated| terminated.exit_code)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    fn app(fields: Value) -> Container {
        let mut container = json!({"name": "app"});
        container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(container).unwrap()
    }

    #[test]
    fn the_narrowest_policy_decides() {
        let check = |pod: &str, own: Option<&str>, zero: bool, one: bool| {
            let spec = PodSpec { restart_policy: Some(pod.to_owned()), ..PodSpec::default() };
            let container = Container { restart_policy: own.map(str::to_owned), ..app(json!({})) };
            let decided = [0, 1].map(|code| restarts_after(&container, &spec, code));
            assert_eq!(decided, [zero, one], "pod {pod}, container {own:?}");
        };
        check("Always", None, true, true);
        check("OnFailure", None, false, true);
        check("Never", None, false, false);
        check("", None, true, true);
        check("Never", Some("Always"), true, true);
        check("Always", Some("Never"), false, false);
        check("Always", Some("OnFailure"), false, true);
        check("Never", Some("unheard-of"), false, false);
    }

    #[test]
    fn the_first_exit_code_rule_that_matches_decides() {
        let rules = json!([
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [1, 2]}},
            {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [2, 3]}},
            {"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0, 4]}},
            {"action": "Restart"},
        ]);
        let spec = PodSpec { restart_policy: Some("Never".to_owned()), ..PodSpec::default() };
        let ruled = app(json!({"restartPolicy": "Never", "restartPolicyRules": rules}));
        let check = |code, expected| assert_eq!(on_exit(&ruled, &spec, code), expected, "exit code {code}");
        check(1, RestartDecision::Restart);
        check(2, RestartDecision::Restart);
        check(3, RestartDecision::RestartAll);
        check(9, RestartDecision::Restart);
        check(0, RestartDecision::Stay);
        check(4, RestartDecision::Stay);
        // Rules without a policy of the container's own do not count, nor do they for a probe failure.
        let unruled = Container { restart_policy: None, ..ruled.clone() };
        assert_eq!(on_exit(&unruled, &spec, 1), RestartDecision::Stay);
        assert!(!restarts_after_probe_failure(&ruled, &spec));
    }

    #[test]
    fn restart_all_is_wanted_by_an_exit_and_not_by_an_outdated_report() {
        let pod = fixtures::pod(json!({"containers": [{"name": "app", "restartPolicy": "Never",
            "restartPolicyRules": [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [5]}}],
        }]}));
        let ended = json!({"containerStatuses": [{"name": "app", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": 5}}}]});
        let condition = json!({"conditions": [{"type": "AllContainersRestarting", "status": "True"}]});
        let check = |containers: &[&str], reported: Option<&Value>, expected: bool| {
            let status = reported.map(|value| serde_json::from_value::<PodStatus>(value.clone()).unwrap());
            let observed = fixtures::observed(&[], containers);
            assert_eq!(restart_all_wanted(&pod, &observed, status.as_ref()), expected, "{containers:?}");
        };
        check(&["app exited 5"], None, true);
        check(&["app exited 4"], None, false);
        check(&["app exited 5", "app#1 running"], None, false);
        check(&[], Some(&ended), true);
        check(&["app#1 running"], Some(&ended), false);
        check(&["app running"], Some(&condition), true);
        assert!(may_restart_all(spec_of(&pod)));
    }

    #[test]
    fn a_container_is_started_when_it_is_missing_or_ended_and_may_return() {
        let mut pod = fixtures::pod(json!({"restartPolicy": "OnFailure", "containers": [{"name": "app"}]}));
        let check = |pod: &Pod, containers: &[&str], expected: bool| {
            let container = &spec_of(pod).containers[0];
            let observed = fixtures::observed(&[], containers);
            assert_eq!(is_to_be_started(pod, container, &observed, None), expected, "{containers:?}");
        };
        let check_lost = |state: Value, last: Value, expected: bool| {
            let status = json!({"containerStatuses": [{"name": "app", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": state, "lastState": last}]});
            let status: PodStatus = serde_json::from_value(status).unwrap();
            let container = &spec_of(&pod).containers[0];
            let lost = ObservedPod::absent("u1".into());
            assert_eq!(is_to_be_started(&pod, container, &lost, Some(&status)), expected, "{status:?}");
        };
        let ended = |code: i32| json!({"terminated": {"exitCode": code}});
        check_lost(ended(0), json!({}), false);
        check_lost(ended(1), json!({}), true);
        check_lost(json!({"waiting": {}}), ended(0), false);
        check_lost(json!({"waiting": {}}), ended(137), true);
        check_lost(json!({"waiting": {}}), json!({}), true);
        check_lost(json!({"running": {}}), ended(0), true);
        check_lost(json!({"running": {}}), json!({}), true);
        check_lost(
            json!({"waiting": {}}),
            json!({"terminated": {"exitCode": 0, "reason": "RestartingAllContainers"}}),
            true,
        );
        check(&pod, &[], true);
        check(&pod, &["app created"], true);
        check(&pod, &["app unknown"], true);
        check(&pod, &["app running"], false);
        check(&pod, &["app exited 0"], false);
        check(&pod, &["app exited 1"], true);
        check(&pod, &["app exited 1", "app#1 running"], false);
        pod.spec.as_mut().unwrap().restart_policy = Some("Never".to_owned());
        let running: PodStatus =
            serde_json::from_value(json!({"containerStatuses": [{"name": "app", "image": "",
            "imageID": "", "ready": false, "restartCount": 0, "state": {"running": {}}}]}))
            .unwrap();
        let lost = ObservedPod::absent("u1".into());
        assert!(!is_to_be_started(&pod, &spec_of(&pod).containers[0], &lost, Some(&running)));
        pod.metadata.deletion_timestamp = Some(fixtures::at(0).into());
        check(&pod, &[], false);
    }
}
