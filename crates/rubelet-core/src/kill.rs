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
pub const ORPHAN_GRACE_SECONDS: u64 = 1;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::fixtures::{self, container, observed, sandbox};

    fn pod(deletion_grace: Option<i64>, spec_grace: Option<i64>) -> Pod {
        let mut pod = fixtures::pod(json!({"containers": [{
            "name": "app",
            "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}},
            "livenessProbe": {"terminationGracePeriodSeconds": 5},
            "startupProbe": {"terminationGracePeriodSeconds": 90},
        }, {"name": "plain", "livenessProbe": {}}]}));
        pod.metadata.deletion_grace_period_seconds = deletion_grace;
        pod.spec.as_mut().unwrap().termination_grace_period_seconds = spec_grace;
        pod
    }

    #[test]
    fn the_smallest_grace_holds() {
        let check = |current, deletion, spec, forced, expected| {
            assert_eq!(effective_grace(current, &pod(deletion, spec), forced), expected);
        };
        check(None, None, None, None, 30);
        check(None, None, Some(60), None, 60);
        check(None, Some(20), Some(60), None, 20);
        check(None, Some(20), Some(60), Some(5), 5);
        check(Some(3), Some(20), Some(60), Some(5), 3);
        check(None, Some(90), Some(60), None, 90);
        check(None, Some(0), Some(60), None, 1);
        check(None, None, Some(0), None, 1);
        check(None, Some(-4), None, None, 1);
        check(Some(40), None, Some(10), None, 40);
    }

    #[test]
    fn a_single_kill_takes_the_grace_of_its_reason() {
        let check = |deletion, name: &str, reason, expected| {
            let kill = compute_container_kill(
                Some(&pod(deletion, Some(60))),
                &container(&format!("{name} running")),
                reason,
                "",
            );
            assert_eq!(kill.grace_seconds, expected);
            assert_eq!(kill.message, format!("Stopping container {name}"));
        };
        check(None, "app", KillReason::DefinitionChanged, 60);
        check(None, "app", KillReason::LivenessProbe, 5);
        check(None, "app", KillReason::StartupProbe, 90);
        check(None, "plain", KillReason::LivenessProbe, 60);
        check(Some(7), "app", KillReason::LivenessProbe, 7);
        check(None, "app", KillReason::RestartAll, 0);
    }

    #[test]
    fn hooks_run_when_there_is_time_and_a_process() {
        let hook = |line: &str, reason| {
            compute_container_kill(Some(&pod(None, None)), &container(line), reason, "why").pre_stop.is_some()
        };
        assert!(hook("app running", KillReason::LivenessProbe));
        assert!(!hook("plain running", KillReason::LivenessProbe));
        assert!(!hook("app unknown", KillReason::UnknownState));
        assert!(!hook("app running", KillReason::RestartAll));
    }

    #[test]
    fn a_pod_without_a_spec_is_stopped_by_what_its_containers_carry() {
        let mut pod = observed(&[sandbox(0, true)], &["app running", "old exited 0"]);
        let facts = &mut pod.containers.iter_mut().find(|c| c.name == "app").unwrap().facts;
        facts.pre_stop_handler = Some(r#"{"sleep":{"seconds":3}}"#.to_owned());
        facts.pod_termination_grace_period = Some(45);
        let plan = compute_kill_plan(None, &pod, None, KillReason::PodEnds);
        assert_eq!(plan.sandboxes, ["s0".into()]);
        let [kill] = plan.containers.as_slice() else { panic!("{plan:?}") };
        assert_eq!((kill.name.as_str(), kill.grace_seconds), ("app", 45));
        assert_eq!(kill.pre_stop.as_ref().unwrap().sleep.as_ref().unwrap().seconds, 3);
        let orphan = compute_kill_plan(None, &pod, Some(ORPHAN_GRACE_SECONDS), KillReason::PodEnds);
        assert_eq!(orphan.containers[0].grace_seconds, 1);
    }

    #[test]
    fn stopping_always_leaves_two_seconds() {
        let check = |grace, millis, expected| {
            assert_eq!(stop_timeout(grace, Duration::from_millis(millis)), expected);
        };
        check(30, 0, 30);
        check(30, 9_999, 21);
        check(30, 29_000, 2);
        check(30, 90_000, 2);
        check(0, 0, 2);
    }

    fn with_sidecars() -> Pod {
        let always = |name: &str| json!({"name": name, "restartPolicy": "Always"});
        fixtures::pod(json!({
            "initContainers": [always("s1"), {"name": "init"}, always("s2"), always("s3")],
            "containers": [{"name": "a"}, {"name": "b"}],
            "ephemeralContainers": [{"name": "debug"}],
        }))
    }

    fn order(containers: &[&str]) -> Vec<String> {
        let plan = compute_kill_plan(
            Some(&with_sidecars()),
            &observed(&[sandbox(0, true)], containers),
            Some(10),
            KillReason::PodEnds,
        );
        let mut lines: Vec<_> = plan
            .containers
            .iter()
            .map(|kill| {
                let waits: Vec<_> = kill.wait_for.iter().map(ContainerId::as_str).collect();
                format!("{}<-{}", kill.name, waits.join(","))
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn sidecars_wait_for_apps_and_then_for_the_next_living_sidecar() {
        assert_eq!(
            order(&["s1 running", "s2 running", "s3 running", "a running", "b exited 0", "debug running"]),
            ["a<-", "debug<-", "s1<-a-0,s2-0", "s2<-a-0,s3-0", "s3<-a-0"]
        );
        assert_eq!(order(&["s1 running", "s2 exited 1", "s3 running"]), ["s1<-s3-0", "s3<-"]);
        assert_eq!(order(&["init running", "s1 running"]), ["init<-", "s1<-"]);
    }

    proptest! {
        #[test]
        fn grace_only_shrinks(
            current in prop::option::of(1..100u64),
            deletion in prop::option::of(-5..100i64),
            spec in prop::option::of(-5..100i64),
            forced in prop::option::of(0..100u64),
        ) {
            let grace = effective_grace(current, &pod(deletion, spec), forced);
            prop_assert!(grace >= 1);
            if let Some(current) = current {
                prop_assert!(grace <= current);
                prop_assert_eq!(effective_grace(Some(grace), &pod(deletion, spec), forced), grace);
            }
        }

        #[test]
        fn waiting_never_goes_in_a_circle_and_only_for_what_is_stopped(states in prop::collection::vec(0..3u8, 7)) {
            let names = ["s1", "init", "s2", "s3", "a", "b", "debug"];
            let lines: Vec<_> = names
                .iter()
                .zip(&states)
                .map(|(name, state)| format!("{name} {}", ["running", "unknown", "exited"][usize::from(*state)]))
                .collect();
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            let plan = compute_kill_plan(
                Some(&with_sidecars()), &observed(&[], &lines), Some(10), KillReason::PodEnds,
            );
            // Stop whoever waits for nobody, until everybody is stopped.
            let mut waiting = plan.containers.clone();
            while !waiting.is_empty() {
                let free: Vec<_> =
                    waiting.iter().filter(|kill| kill.wait_for.is_empty()).map(|kill| kill.id.clone()).collect();
                prop_assert!(!free.is_empty(), "{waiting:?}");
                waiting.retain(|kill| !free.contains(&kill.id));
                for kill in &mut waiting {
                    kill.wait_for.retain(|id| !free.contains(id));
                }
            }
        }
    }
}
