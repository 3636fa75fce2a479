//! Tables for generated statuses.

mod patch;
mod publish;
mod reprobed;

use serde_json::{Value, json};

use super::*;
use crate::fixtures::{at, observed, pod, sandbox};
use crate::verdicts::Verdict;

/// One case with defaults: a ready sandbox, IPv4 node, containerd, time 1000, nothing reported before.
struct Case {
    pod: Pod,
    observed: ObservedPod,
    previous: Option<PodStatus>,
    verdicts: ProbeVerdicts,
    errors: StartErrors,
    replacing: Vec<String>,
    ending: Ending,
    failure: Option<FailureCause<'static>>,
    node: NodeFacts,
}

fn case(spec: Value, containers: &[&str]) -> Case {
    Case {
        pod: pod(spec),
        observed: observed(&[sandbox(0, true)], containers),
        previous: None,
        verdicts: ProbeVerdicts::default(),
        errors: StartErrors::new(),
        replacing: vec![],
        ending: Ending::No,
        failure: None,
        node: NodeFacts {
            ips: vec!["192.168.0.1".parse().unwrap()],
            runtime: "containerd".to_owned(),
            recursive_read_only: false,
        },
    }
}

impl Case {
    fn after(mut self, previous: &PodStatus) -> Self {
        self.previous = Some(previous.clone());
        self
    }
    fn error(mut self, name: &str, reason: &str) -> Self {
        let error = StartError { reason: reason.to_owned(), message: format!("about {name}") };
        self.errors.insert(name.to_owned(), error);
        self
    }
    fn verdict(mut self, id: &str, verdict: Verdict) -> Self {
        self.verdicts.probing = true;
        self.verdicts.by_container.insert(id.into(), verdict);
        self
    }
    fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }
    fn status(&self) -> PodStatus {
        self.status_at(1000)
    }
    fn status_at(&self, now: i64) -> PodStatus {
        generate(&StatusInputs {
            pod: &self.pod,
            observed: &self.observed,
            previous: self.previous.as_ref(),
            verdicts: &self.verdicts,
            start_errors: &self.errors,
            replacing: &self.replacing,
            ending: self.ending,
            failure: self.failure,
            resize: ResizeTold::default(),
            node: &self.node,
            now: at(now),
        })
    }
    #[track_caller]
    fn check(&self, expected: &str) -> PodStatus {
        let status = self.status();
        assert_eq!(containers(&status), expected);
        status
    }
}

/// All containers of a status, one line each: name, state, lastState, restarts, flags.
fn containers(status: &PodStatus) -> String {
    let lists =
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let state = |state: &Option<ContainerState>| match state {
        Some(ContainerState { running: Some(_), .. }) => "Running".to_owned(),
        Some(ContainerState { waiting: Some(waiting), .. }) => {
            format!("Waiting({})", waiting.reason.as_deref().unwrap_or_default())
        }
        Some(ContainerState { terminated: Some(end), .. }) => {
            format!("{}({})", end.exit_code, end.reason.as_deref().unwrap_or_default())
        }
        _ => String::new(),
    };
    let lines: Vec<_> = lists
        .into_iter()
        .flatten()
        .flatten()
        .map(|container| {
            let mut line = format!("{}={}", container.name, state(&container.state));
            if container.last_state.is_some() {
                line.push_str(&format!(" last={}", state(&container.last_state)));
            }
            if container.restart_count > 0 {
                line.push_str(&format!(" x{}", container.restart_count));
            }
            for (flag, word) in [(container.started == Some(true), " started"), (container.ready, " ready")] {
                if flag {
                    line.push_str(word);
                }
            }
            line
        })
        .collect();
    format!("{}: {}", status.phase.as_deref().unwrap_or_default(), lines.join("; "))
}

/// All conditions as `Type=Status(Reason)`.
fn conditions_of(status: &PodStatus) -> String {
    let lines: Vec<_> = status
        .conditions
        .iter()
        .flatten()
        .map(|c| match c.reason.as_deref() {
            Some(reason) => format!("{}={}({reason})", c.type_, c.status),
            None => format!("{}={}", c.type_, c.status),
        })
        .collect();
    lines.join(" ")
}

fn one() -> Value {
    json!({"containers": [{"name": "app", "image": "busybox"}]})
}

fn staged() -> Value {
    json!({
        "initContainers": [{"name": "init"}, {"name": "side", "restartPolicy": "Always"}],
        "containers": [{"name": "web"}, {"name": "db"}],
        "ephemeralContainers": [{"name": "debug"}],
    })
}

#[test]
fn containers_wait_until_they_are_created() {
    case(one(), &[]).check("Pending: app=Waiting(ContainerCreating)");
    case(staged(), &[]).check(
        "Pending: init=Waiting(PodInitializing); side=Waiting(PodInitializing); db=Waiting(PodInitializing); \
         web=Waiting(PodInitializing); debug=Waiting(PodInitializing)",
    );
    case(one(), &["app created"]).check("Pending: app=Waiting(ContainerCreating)");
}

#[test]
fn the_newest_instance_is_the_state_and_the_one_before_the_last_state() {
    case(one(), &["app running"]).check("Running: app=Running started ready");
    case(one(), &["app exited 1 reason=Error", "app#1 running"])
        .check("Running: app=Running last=1(Error) x1 started ready");
    case(one(), &["app exited 1 reason=Error", "app#1 exited 2 reason=Error"])
        .check("Running: app=2(Error) last=1(Error) x1");
    case(staged(), &["init exited 0 reason=Completed", "side running", "web running", "db running"]).check(
        "Running: init=0(Completed) ready; side=Running started ready; db=Running started ready; \
         web=Running started ready; debug=Waiting(PodInitializing)",
    );
}

#[test]
fn a_status_carries_what_the_runtime_tells() {
    let spec = json!({"containers": [{"name": "app", "image": "busybox",
        "resources": {"requests": {"cpu": "1"}}, "volumeMounts": [
            {"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "IfPossible"},
            {"name": "w", "mountPath": "/w"}]}]});
    let mut case = case(spec, &["app exited 3 @77 reason=Error"]);
    let container = &mut case.observed.containers[0];
    container.message = "runtime".to_owned();
    container.termination_message = Some("bye".to_owned());
    container.user = Some(crate::observed::LinuxUser { uid: 1, gid: 2, supplemental_groups: vec![3] });
    let status = case.status();
    let container = serde_json::to_value(&status.container_statuses.unwrap()[0]).unwrap();
    assert_eq!(
        container,
        json!({
            "name": "app", "image": "busybox:latest", "imageID": "busybox@sha256:1",
            "containerID": "containerd://app-0", "restartCount": 0, "ready": false, "started": false,
            "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "1"}},
            "state": {"terminated": {"containerID": "containerd://app-0", "exitCode": 3, "reason": "Error",
                "message": "runtime: bye", "startedAt": "1970-01-01T00:00:10Z", "finishedAt": "1970-01-01T00:01:17Z"}},
            "user": {"linux": {"uid": 1, "gid": 2, "supplementalGroups": [3]}},
            "volumeMounts": [
                {"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "Disabled"},
                {"name": "w", "mountPath": "/w"}],
        })
    );
}

#[test]
fn failed_starts_are_told_and_the_last_end_moves_to_last_state() {
    case(one(), &[]).error("app", "ErrImagePull").check("Pending: app=Waiting(ErrImagePull)");
    case(one(), &["app exited 1 reason=Error"])
        .error("app", "CrashLoopBackOff")
        .check("Running: app=Waiting(CrashLoopBackOff) last=1(Error)");
    // A container that is not to be started has nothing to wait for.
    let mut never = one();
    never["restartPolicy"] = "Never".into();
    case(never, &["app exited 1 reason=Error"])
        .error("app", "CrashLoopBackOff")
        .check("Failed: app=1(Error)");
    case(one(), &["app exited 1 reason=Error"])
        .error("app", "CrashLoopBackOff")
        .ending(Ending::Stopping)
        .check("Running: app=1(Error)");
    case(staged(), &["init exited 0 reason=Completed", "side exited 0 reason=Completed"])
        .error("init", "ErrImagePull")
        .error("side", "CrashLoopBackOff")
        .check(
            "Pending: init=0(Completed) ready; side=Waiting(CrashLoopBackOff) last=0(Completed); \
             db=Waiting(PodInitializing); web=Waiting(PodInitializing); debug=Waiting(PodInitializing)",
        );
}

#[test]
fn the_message_of_a_crash_loop_begins_like_upstreams() {
    let waiting = BackingOff {
        kind: crate::plan::ContainerKind::App,
        name: "app".to_owned(),
        until: at(1080),
        delay: std::time::Duration::from_secs(80),
    };
    let error = crash_loop_error(&pod(one()), &waiting);
    assert_eq!(error.reason, "CrashLoopBackOff");
    assert_eq!(
        error.message,
        "back-off 1m20s restarting failed container=app pod=web_shop(u1); next attempt at 1970-01-01T00:18:00Z"
    );
}

#[test]
fn a_container_that_vanished_is_not_forgotten() {
    let running = case(one(), &["app running"]).status();
    let gone = case(one(), &[]).after(&running);
    let status = gone.check("Running: app=Waiting(ContainerCreating) last=137(ContainerStatusUnknown) x1");
    // It is counted once.
    case(one(), &[])
        .after(&status)
        .check("Running: app=Waiting(ContainerCreating) last=137(ContainerStatusUnknown) x1");
    case(one(), &["app#1 running"])
        .after(&status)
        .check("Running: app=Running last=137(ContainerStatusUnknown) x1 started ready");
    // An end that was reported stays.
    let ended = case(one(), &["app exited 3 reason=Error"]).status();
    case(one(), &[]).after(&ended).check("Running: app=3(Error)");
    case(one(), &["app#1 running"])
        .after(&ended)
        .check("Running: app=Running last=3(Error) x1 started ready");
    // A wiped runtime does not set the count back.
    case(one(), &["app running"])
        .after(&case(one(), &["app#4 exited 3 reason=Error"]).status())
        .check("Running: app=Running last=3(Error) x5 started ready");
}

#[test]
fn an_unknown_state_ends_what_ran() {
    let running = case(one(), &["app running"]).status();
    let status =
        case(one(), &["app unknown"]).after(&running).check("Running: app=137(ContainerStatusUnknown) x1");
    case(one(), &["app unknown"]).after(&status).check("Running: app=137(ContainerStatusUnknown) x1");
    case(one(), &["app unknown"]).check("Pending: app=Waiting(ContainerCreating)");
}

#[test]
fn an_end_that_the_api_takes_for_final_stays_until_the_next_one() {
    let mut spec = staged();
    spec["restartPolicy"] = "OnFailure".into();
    let done =
        case(spec.clone(), &["init exited 0 reason=Completed", "side running", "web running"]).status();
    let check = |containers: &[&str], error: Option<&str>, expected: &str| {
        let mut case = case(spec.clone(), containers).after(&done);
        if let Some(reason) = error {
            case = case.error("init", reason);
        }
        assert_eq!(super::tests::containers(&case.status()).split("; ").next().unwrap(), expected);
    };
    check(&["init#1 running in=s1"], None, "Pending: init=0(Completed) x1 ready");
    check(&[], Some("ErrImagePull"), "Pending: init=0(Completed) ready");
    check(&["init#1 exited 4 in=s1"], None, "Pending: init=4() last=0(Completed) x1");
}

#[test]
fn a_container_that_is_replaced_has_not_ended() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "web"}]});
    let running = case(spec.clone(), &["web running"]).status();
    let killed = Case { replacing: vec!["web".to_owned()], ..case(spec.clone(), &["web exited 137"]) };
    let killed = killed.after(&running).check("Running: web=Waiting(ContainerCreating) last=137()");
    let started = case(spec.clone(), &["web exited 137", "web#1 running"])
        .after(&killed)
        .check("Running: web=Running last=137() x1 started ready");
    assert_eq!(Phase::of(&started), Some(Phase::Running));
    // One whose end was told before is not ended by that.
    let ended = case(spec.clone(), &["web exited 137"]).after(&running).status();
    let kept = PodStatus { phase: Some("Running".to_owned()), ..ended };
    case(spec, &["web exited 137", "web#1 running"]).after(&kept).check("Running: web=137() x1");
}

#[test]
fn a_removed_init_container_counts_as_completed_once_an_app_exists() {
    case(staged(), &["side running", "web running", "db running"]).check(
        "Running: init=0(Completed) ready; side=Running started ready; db=Running started ready; \
         web=Running started ready; debug=Waiting(PodInitializing)",
    );
}

#[test]
fn probes_decide_and_an_agent_restart_flaps_nothing() {
    let spec = json!({"containers": [{"name": "app", "startupProbe": {}, "readinessProbe": {}}]});
    let probed = |started, ready| {
        let verdict = Verdict { started, ready, ..Verdict::default() };
        case(spec.clone(), &["app running"]).verdict("app-0", verdict)
    };
    case(spec.clone(), &["app running"]).check("Running: app=Running started ready");
    probed(None, None).check("Running: app=Running");
    probed(Some(false), None).check("Running: app=Running");
    probed(Some(true), None).check("Running: app=Running started");
    probed(Some(true), Some(false)).check("Running: app=Running started");
    let ready = probed(Some(true), Some(true)).check("Running: app=Running started ready");
    // The agent has restarted and no probe has run yet.
    probed(None, None).after(&ready).check("Running: app=Running started ready");
    probed(None, Some(false)).after(&ready).check("Running: app=Running started");
    // A new instance has to prove itself.
    let verdict = Verdict::default();
    case(spec, &["app exited 1", "app#1 running"])
        .verdict("app-1", verdict)
        .after(&ready)
        .check("Running: app=Running last=1() x1");
}

#[test]
fn conditions_follow_the_containers() {
    let status = case(staged(), &["init exited 0", "side running"]).status();
    assert_eq!(
        conditions_of(&status),
        "PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) \
         ContainersReady=False(ContainersNotReady) PodScheduled=True"
    );
    let message = conditions::find(&status, "Ready").unwrap().message.clone().unwrap();
    assert_eq!(message, "containers with unready status: [web db]");
    let fresh = case(staged(), &[]).status();
    assert_eq!(
        conditions::find(&fresh, "Initialized").unwrap().message.as_deref(),
        Some("containers with incomplete status: [init side]")
    );
    let up = case(one(), &["app running"]).status();
    assert_eq!(
        conditions_of(&up),
        "PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True PodScheduled=True"
    );
    let mut never = one();
    never["restartPolicy"] = "Never".into();
    let mut done = case(never, &["app exited 0"]);
    done.observed.sandboxes[0].ready = false;
    assert_eq!(
        conditions_of(&done.status()),
        "PodReadyToStartContainers=False Initialized=True(PodCompleted) Ready=False(PodCompleted) \
         ContainersReady=False(PodCompleted) PodScheduled=True"
    );
}

#[test]
fn transition_times_change_only_with_the_condition() {
    let first = case(one(), &[]).status_at(100);
    let second = case(one(), &["app running"]).after(&first).status_at(200);
    let time = |status: &PodStatus, of: &str| {
        conditions::find(status, of).unwrap().last_transition_time.as_ref().unwrap().0.as_second()
    };
    assert_eq!([time(&second, "PodScheduled"), time(&second, "Ready")], [100, 200]);
    assert_eq!(second.start_time.as_ref().unwrap().0, at(100));
    assert_eq!(second.observed_generation, Some(3));
    assert_eq!(conditions::find(&second, "Ready").unwrap().observed_generation, Some(3));
}

#[test]
fn readiness_gates_and_foreign_conditions_count() {
    let mut spec = one();
    spec["readinessGates"] = json!([{"conditionType": "lb"}]);
    let mut gated = case(spec, &["app running"]);
    let ready = |case: &Case| {
        let condition = conditions::find(&case.status(), "Ready").unwrap().clone();
        (condition.status, condition.message.unwrap_or_default())
    };
    assert_eq!(
        ready(&gated),
        (
            "False".to_owned(),
            "corresponding condition of pod readiness gate \"lb\" does not exist.".to_owned()
        )
    );
    let api = |status: &str| {
        serde_json::from_value(json!({"conditions": [{"type": "lb", "status": status}]})).unwrap()
    };
    gated.pod.status = Some(api("False"));
    assert_eq!(ready(&gated).1, "the status of pod readiness gate \"lb\" is not \"True\", but False");
    gated.pod.status = Some(api("True"));
    assert_eq!(ready(&gated).0, "True");
    assert!(conditions_of(&gated.status()).starts_with("lb=True "));
}

#[test]
fn an_initialised_pod_stays_initialised() {
    let up = case(staged(), &["init exited 0", "side running"]).status();
    let lost = case(staged(), &["init exited 0", "side exited 1"]).after(&up).status();
    assert_eq!(conditions::find(&lost, "Initialized").unwrap().status, "True");
}

#[test]
fn restart_all_containers_is_told_while_it_lasts() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]}]});
    let restarting =
        |status: &PodStatus| conditions::find(status, "AllContainersRestarting").unwrap().status.clone();
    let up = case(spec.clone(), &["a running", "b running"])
        .check("Running: a=Running started ready; b=Running started ready");
    assert_eq!(restarting(&up), "False");
    let asked = case(spec.clone(), &["a running", "b exited 88"])
        .after(&up)
        .check("Running: a=Running started ready; b=88()");
    assert_eq!(restarting(&asked), "True");
    let half = case(spec.clone(), &["b exited 88"])
        .after(&asked)
        .check("Running: a=Waiting(RestartingAllContainers) last=137(RestartingAllContainers) x1; b=88()");
    assert_eq!(restarting(&half), "True");
    let clean = case(spec.clone(), &[]).after(&half).check(
        "Running: a=Waiting(ContainerCreating) last=137(RestartingAllContainers) x1; \
         b=Waiting(RestartingAllContainers) last=137(RestartingAllContainers) x1",
    );
    assert_eq!(restarting(&clean), "False");
    case(spec, &["a#1 running", "b#1 running"]).after(&clean).check(
        "Running: a=Running last=137(RestartingAllContainers) x1 started ready; \
         b=Running last=137(RestartingAllContainers) x1 started ready",
    );
}

#[test]
fn addresses_follow_the_family_of_the_node_and_outlive_the_sandbox_of_an_ending_pod() {
    let ips = |status: &PodStatus| -> Vec<String> {
        assert_eq!(status.pod_ip, status.pod_ips.as_ref().and_then(|ips| Some(ips.first()?.ip.clone())));
        status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()
    };
    let mut dual = case(one(), &["app running"]);
    dual.observed.sandboxes[0].ips = ["fd00::7", "10.0.0.7", "10.0.0.8"].map(str::to_owned).to_vec();
    assert_eq!(ips(&dual.status()), ["10.0.0.7", "fd00::7"]);
    dual.node.ips = vec!["fd00::1".parse().unwrap(), "192.168.0.1".parse().unwrap()];
    let status = dual.status();
    assert_eq!(ips(&status), ["fd00::7", "10.0.0.7"]);
    assert_eq!(status.host_ip.as_deref(), Some("fd00::1"));
    assert_eq!(status.host_ips.as_ref().unwrap().len(), 2);
    let mut gone = dual.after(&status);
    gone.observed.sandboxes[0].ready = false;
    assert!(ips(&gone.status()).is_empty());
    assert_eq!(ips(&gone.ending(Ending::Stopping).status()), ["fd00::7", "10.0.0.7"]);

    let mut spec = one();
    spec["hostNetwork"] = true.into();
    let mut host = case(spec, &["app running"]);
    host.observed.sandboxes[0].ips.clear();
    let first = host.status();
    assert_eq!(ips(&first), ["192.168.0.1"]);
    host.node.ips = vec!["192.168.0.9".parse().unwrap(), "fd00::1".parse().unwrap()];
    assert_eq!(ips(&host.after(&first).status()), ["192.168.0.1", "fd00::1"]);
}

#[test]
fn a_deadline_or_an_eviction_fails_the_pod_and_terminal_phases_stay() {
    let mut spec = one();
    spec["activeDeadlineSeconds"] = 60.into();
    let first = case(spec.clone(), &["app running"]).status_at(100);
    let running = case(spec.clone(), &["app running"]).after(&first);
    assert_eq!(deadline(&running.pod, &first), Some(at(160)));
    assert_eq!(running.status_at(159).phase.as_deref(), Some("Running"));
    let late = running.status_at(160);
    assert_eq!((late.phase.as_deref(), late.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
    // The end of its containers changes neither phase nor reason.
    let ended = case(spec, &["app exited 0"]).after(&late).ending(Ending::Stopped).status_at(170);
    assert_eq!((ended.phase, ended.reason, ended.message), (late.phase, late.reason, late.message));

    let mut evicted = case(one(), &["app running"]);
    evicted.failure =
        Some(FailureCause { reason: "Evicted", message: "low", disruption: Some("TerminationByKubelet") });
    let status = evicted.status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    assert_eq!(
        conditions::find(&status, "DisruptionTarget").unwrap().reason.as_deref(),
        Some("TerminationByKubelet")
    );
    let later = case(one(), &["app exited 0"]).after(&status).status();
    assert_eq!((later.phase.as_deref(), later.message.as_deref()), (Some("Failed"), Some("low")));
    assert!(conditions::find(&later, "DisruptionTarget").is_some());
}

#[test]
fn a_pod_that_stopped_ends_by_its_exit_codes() {
    case(one(), &["app exited 0"]).ending(Ending::Stopped).check("Succeeded: app=0()");
    case(one(), &["app exited 137"]).ending(Ending::Stopped).check("Failed: app=137()");
    case(one(), &[]).ending(Ending::Stopped).check("Pending: app=Waiting(ContainerCreating)");
}

#[test]
fn the_last_status_leaves_nothing_open() {
    let check = |spec: Value, lines: &[&str], expected: &str| {
        let case = case(spec, lines).ending(Ending::Stopped);
        let status = finalize_terminated(&case.pod, &case.status(), at(1000));
        assert_eq!(containers(&status), expected);
        assert_eq!(finalize_terminated(&case.pod, &status, at(2000)), status);
        for of in ["Ready", "ContainersReady"] {
            assert_eq!(conditions::find(&status, of).unwrap().status, "False");
        }
    };
    check(one(), &["app exited 0"], "Succeeded: app=0()");
    check(one(), &[], "Failed: app=137(ContainerStatusUnknown)");
    check(
        staged(),
        &["init exited 0"],
        "Failed: init=0() ready; side=Waiting(PodInitializing); db=Waiting(PodInitializing); \
         web=Waiting(PodInitializing); debug=Waiting(PodInitializing)",
    );
    check(
        staged(),
        &["init exited 0", "side exited 0", "web exited 0"],
        "Failed: init=0() ready; side=0(); db=137(ContainerStatusUnknown); web=0(); debug=Waiting(PodInitializing)",
    );
}

#[test]
fn a_rejected_pod_says_why() {
    let status = rejected(&pod(one()), "NodeAffinity", "no", at(5));
    let value = serde_json::to_value(&status).unwrap();
    assert_eq!(
        value,
        json!({"phase": "Failed", "reason": "NodeAffinity", "message": "Pod was rejected: no",
            "qosClass": "BestEffort", "observedGeneration": 3, "startTime": "1970-01-01T00:00:05Z"})
    );
}
