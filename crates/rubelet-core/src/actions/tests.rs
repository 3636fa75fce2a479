//! Tables for the planner: a pod and what the runtime shows of it in, the plan as one line out.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::backoff::BackoffPolicy;
use crate::fixtures::{at, hash, observed, pod, sandbox};
use crate::verdicts::Verdict;

/// One case with defaults: a ready sandbox, nothing probed, no back-off, time 1000.
struct Case {
    pod: Pod,
    observed: ObservedPod,
    verdicts: ProbeVerdicts,
    backoff: BackoffTable,
    reported: Option<PodStatus>,
    ending: bool,
}

fn case(spec: Value, containers: &[&str]) -> Case {
    Case {
        pod: pod(spec),
        observed: observed(&[sandbox(0, true)], containers),
        verdicts: ProbeVerdicts::default(),
        backoff: BackoffTable::new(BackoffPolicy::crash_loop(None, false)),
        reported: None,
        ending: false,
    }
}

impl Case {
    fn sandboxes(mut self, sandboxes: &[crate::observed::ObservedSandbox]) -> Self {
        self.observed.sandboxes = sandboxes.to_vec();
        self.observed.sort();
        self
    }
    fn verdict(mut self, id: &str, verdict: Verdict) -> Self {
        self.verdicts.probing = true;
        self.verdicts.by_container.insert(id.into(), verdict);
        self
    }
    /// The container has been restarted so many times already, last at `now`.
    fn restarted(mut self, name: &str, times: usize, now: i64) -> Self {
        let spec = spec_of(&self.pod);
        let container = restart::planned_containers(spec).map(|(_, c)| c).find(|c| c.name == name).unwrap();
        let key = BackoffKey::container(&self.pod, container);
        for _ in 0..times {
            self.backoff.next(key.clone(), at(now), at(now));
        }
        self
    }
    #[track_caller]
    fn check(self, expected: &str) {
        let plan = compute_pod_actions(&PodActionInputs {
            pod: &self.pod,
            observed: &self.observed,
            verdicts: &self.verdicts,
            backoff: &self.backoff,
            reported: self.reported.as_ref(),
            ending: self.ending,
            hash,
            now: at(1000),
        });
        assert_eq!(line(&plan), expected);
    }
}

/// A plan as one line, without what is usual.
fn line(plan: &PodPlan) -> String {
    let mut out = String::new();
    if plan.restarting_all {
        out.push_str(" restart-all");
    }
    if plan.kill_pod {
        out.push_str(" kill-pod");
    }
    for kill in &plan.kill {
        write!(out, " kill:{}:{:?}", kill.id, kill.reason).unwrap();
    }
    for id in &plan.remove {
        write!(out, " remove:{id}").unwrap();
    }
    for id in &plan.prune {
        write!(out, " prune:{id}").unwrap();
    }
    if let Some(attempt) = plan.create_sandbox {
        write!(out, " sandbox:{attempt}").unwrap();
    }
    for start in &plan.start {
        write!(out, " start:{}", start.name).unwrap();
        if let Some(since) = start.restart_since {
            write!(out, "@{}", since.as_second()).unwrap();
        }
    }
    for wait in &plan.backing_off {
        write!(out, " wait:{}:{}s@{}", wait.name, wait.delay.as_secs(), wait.until.as_second()).unwrap();
    }
    if plan.pod_done {
        out.push_str(" done");
    }
    out.trim_start().to_owned()
}

fn one() -> Value {
    json!({"containers": [{"name": "app"}]})
}

fn two(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]})
}

fn staged() -> Value {
    json!({
        "initContainers": [{"name": "i1"}, {"name": "side", "restartPolicy": "Always"}, {"name": "i2"}],
        "containers": [{"name": "app"}],
    })
}

fn staged_with_policy(policy: &str) -> Value {
    let mut spec = staged();
    spec["restartPolicy"] = policy.into();
    spec
}

#[test]
fn a_new_pod_gets_a_sandbox_and_its_first_containers() {
    case(one(), &[]).sandboxes(&[]).check("sandbox:0 start:app");
    case(two("Never"), &[]).sandboxes(&[]).check("sandbox:0 start:a start:b");
    case(staged(), &[]).sandboxes(&[]).check("sandbox:0 start:i1");
    case(one(), &[]).check("start:app");
}

#[test]
fn a_sandbox_that_is_not_right_is_replaced() {
    let no_ip = crate::observed::ObservedSandbox { ips: vec![], ..sandbox(0, true) };
    let host = crate::observed::ObservedSandbox { host_network: true, ..no_ip.clone() };
    case(one(), &["app running"]).sandboxes(&[sandbox(2, false)]).check("kill-pod sandbox:3 start:app");
    case(one(), &["app running"])
        .sandboxes(&[sandbox(0, true), sandbox(1, true)])
        .check("kill-pod sandbox:2 start:app");
    case(one(), &["app running"])
        .sandboxes(std::slice::from_ref(&no_ip))
        .check("kill-pod sandbox:1 start:app");
    case(one(), &["app running"])
        .sandboxes(std::slice::from_ref(&host))
        .check("kill-pod sandbox:1 start:app");
    let mut on_host = one();
    on_host["hostNetwork"] = true.into();
    case(on_host.clone(), &["app running"]).sandboxes(&[host]).check("");
    case(on_host, &["app running"]).sandboxes(&[no_ip]).check("kill-pod sandbox:1 start:app");
    // Init containers start over; all their records go.
    case(staged(), &["i1 exited 0", "side running", "i2 exited 0", "app running"])
        .sandboxes(&[sandbox(0, false)])
        .check("kill-pod remove:i1-0 remove:side-0 remove:i2-0 sandbox:1 start:i1@10");
}

#[test]
fn a_new_sandbox_starts_only_what_policy_allows() {
    let lost = [sandbox(0, false)];
    case(two("OnFailure"), &["a exited 0", "b exited 1"])
        .sandboxes(&lost)
        .check("kill-pod sandbox:1 start:b@10");
    case(two("OnFailure"), &["a exited 0", "b exited 0"]).sandboxes(&lost).check("done");
    case(two("Never"), &["a running", "b exited 0"]).sandboxes(&lost).check("kill-pod done");
    case(two("Never"), &["a exited 0"]).sandboxes(&lost).check("done");
    case(two("Never"), &[]).sandboxes(&lost).check("kill-pod sandbox:1 start:a start:b");
    let own = json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b", "restartPolicy": "Always"}]});
    case(own, &["a exited 0", "b running"]).sandboxes(&lost).check("kill-pod sandbox:1 start:b");
}

#[test]
fn init_containers_run_one_after_another() {
    case(staged(), &["i1 running"]).check("");
    case(staged(), &["i1 exited 0"]).check("start:side");
    case(staged(), &["i1 exited 0", "side running"]).check("start:i2");
    case(staged(), &["i1 exited 0", "side running", "i2 running"]).check("");
    case(staged(), &["i1 exited 0", "side running", "i2 exited 0"]).check("start:app");
    case(staged(), &["i1 exited 0", "side running", "i2 exited 0", "app running"]).check("");
    // Records of completed ones may be gone.
    case(staged(), &["side running", "i2 exited 0"]).check("start:app");
    case(staged(), &["side running", "app running"]).check("");
    // What an earlier sandbox has run counts for nothing.
    case(staged(), &["i1 exited 0 in=s9", "app exited 0 in=s9"]).check("start:i1@10");
    // An app container of this sandbox proves initialisation even when it has exited.
    case(staged(), &["side running", "app exited 1"]).check("start:app@10");
}

#[test]
fn a_failed_init_container_is_restarted_or_ends_the_pod() {
    case(staged(), &["i1 exited 1"]).check("start:i1@10");
    case(staged_with_policy("OnFailure"), &["i1 exited 1"]).check("start:i1@10");
    case(staged_with_policy("Never"), &["i1 exited 1"]).check("kill-pod done");
    case(staged_with_policy("Never"), &["i1 exited 0", "side running", "i2 exited 3"]).check("kill-pod done");
    case(staged_with_policy("OnFailure"), &["i1 exited 0 reason=OOMKilled"]).check("start:i1@10");
    case(staged(), &["i1 created"]).check("prune:i1-0 start:i1");
    case(staged(), &["i1 unknown"]).check("kill:i1-0:UnknownState start:i1");
    case(staged_with_policy("Never"), &["i1 unknown"]).check("kill-pod done");
    let rule = json!({"restartPolicy": "Never", "containers": [{"name": "app"}], "initContainers": [{
        "name": "i1", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}],
    }]});
    case(rule.clone(), &["i1 exited 42"]).check("start:i1@10");
    case(rule, &["i1 exited 41"]).check("kill-pod done");
}

#[test]
fn sidecars_are_kept_running() {
    let up = ["i1 exited 0", "i2 exited 0", "app running"];
    let with = |side: &'static str| [&up[..], &[side]].concat();
    case(staged(), &with("side exited 0")).check("start:side@10");
    case(staged_with_policy("Never"), &with("side exited 1")).check("start:side@10");
    case(staged(), &up).check("start:side");
    case(staged(), &with("side running changed")).check("kill:side-0:DefinitionChanged start:side");
    case(staged(), &with("side unknown")).check("kill:side-0:UnknownState start:side");
    let failed = Verdict { liveness_failed: true, ..Verdict::default() };
    case(staged(), &with("side running"))
        .verdict("side-0", failed)
        .check("kill:side-0:LivenessProbe start:side");
    // During initialisation: the later init container does not wait for the sidecar's restart, yet the app does
    // not start before the last init container is done.
    case(staged(), &["i1 exited 0", "side exited 1", "i2 running"]).check("start:side@10");
    // Sidecars alone do not keep a pod alive.
    case(staged_with_policy("Never"), &["side running", "app exited 0"]).check("kill-pod done");
    case(staged_with_policy("OnFailure"), &["side exited 1", "app exited 0"]).check("kill-pod done");
}

#[test]
fn a_sidecar_with_a_startup_probe_holds_back_the_next_container_until_it_passed() {
    let spec = json!({
        "initContainers": [{"name": "side", "restartPolicy": "Always", "startupProbe": {}}],
        "containers": [{"name": "app"}],
    });
    let verdict = |started| Verdict { started, ..Verdict::default() };
    case(spec.clone(), &["side running"]).check("start:app");
    case(spec.clone(), &["side running"]).verdict("other", verdict(None)).check("");
    case(spec.clone(), &["side running"]).verdict("side-0", verdict(Some(false))).check("");
    case(spec.clone(), &["side running"]).verdict("side-0", verdict(Some(true))).check("start:app");
    let failed = Verdict { startup_failed: true, ..verdict(Some(false)) };
    case(spec, &["side running"]).verdict("side-0", failed).check("kill:side-0:StartupProbe start:side");
}

#[test]
fn app_containers_follow_their_restart_policy() {
    case(two("Always"), &["a exited 0", "b exited 1"]).check("start:a@10 start:b@10");
    case(two("OnFailure"), &["a exited 0", "b exited 1"]).check("start:b@10");
    case(two("Never"), &["a exited 1", "b running"]).check("");
    case(two("Never"), &["a exited 1", "b exited 0"]).check("kill-pod done");
    case(two("OnFailure"), &["a exited 0", "b exited 0"]).check("kill-pod done");
    case(two("Never"), &["a created", "b running"]).check("prune:a-0 start:a");
    case(two("OnFailure"), &["a unknown", "b running"]).check("kill:a-0:UnknownState start:a");
    case(two("Never"), &["a unknown", "b running"]).check("kill:a-0:UnknownState");
    case(two("Never"), &["a unknown", "b exited 0"]).check("kill-pod done");
    case(two("Never"), &["a running"]).check("start:b");
}

#[test]
fn running_app_containers_are_killed_for_a_reason_only() {
    case(two("Never"), &["a running changed", "b running"]).check("kill:a-0:DefinitionChanged start:a");
    let liveness = Verdict { liveness_failed: true, ..Verdict::default() };
    let startup = Verdict { startup_failed: true, ..Verdict::default() };
    case(two("Always"), &["a running", "b running"])
        .verdict("a-0", liveness)
        .check("kill:a-0:LivenessProbe start:a");
    case(two("Always"), &["a running", "b running"])
        .verdict("b-0", startup)
        .check("kill:b-0:StartupProbe start:b");
    case(two("Never"), &["a running", "b running"]).verdict("a-0", liveness).check("kill:a-0:LivenessProbe");
    // The last one alive is killed for its own reason too; what its end means is decided when it has ended.
    case(two("Never"), &["a running", "b exited 0"]).verdict("a-0", liveness).check("kill:a-0:LivenessProbe");
    case(two("Never"), &["a running", "b exited 0"]).verdict("a-0", startup).check("kill:a-0:StartupProbe");
    case(two("Never"), &["a exited 143", "b exited 0"]).verdict("a-0", liveness).check("kill-pod done");
    // Without a recorded hash nothing proves a change.
    let mut unhashed = case(one(), &["app running"]);
    unhashed.observed.containers[0].facts.hash = None;
    unhashed.check("");
}

#[test]
fn kill_messages_say_what_happens_next() {
    let check = |spec: Value, id: &str, verdict: Verdict, expected: &str| {
        let lines: Vec<String> = restart::planned_containers(spec_of(&pod(spec.clone())))
            .map(|(_, container)| format!("{} running", container.name))
            .collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let case = case(spec, &lines).verdict(id, verdict);
        let plan = compute_pod_actions(&PodActionInputs {
            pod: &case.pod,
            observed: &case.observed,
            verdicts: &case.verdicts,
            backoff: &case.backoff,
            reported: None,
            ending: false,
            hash,
            now: at(1000),
        });
        let [kill] = plan.kill.as_slice() else { panic!("{plan:?}") };
        assert_eq!((kill.id.as_str(), kill.message.as_str()), (id, expected));
    };
    let liveness = Verdict { liveness_failed: true, ..Verdict::default() };
    let startup = Verdict { startup_failed: true, started: Some(false), ..Verdict::default() };
    check(two("Always"), "a-0", liveness, "Container a failed liveness probe, will be restarted");
    check(two("OnFailure"), "a-0", startup, "Container a failed startup probe, will be restarted");
    check(two("Never"), "a-0", liveness, "Container a failed liveness probe");
    check(two("Never"), "b-0", startup, "Container b failed startup probe");
    // Alone in its pod, too.
    let mut alone = one();
    alone["restartPolicy"] = "Never".into();
    check(alone.clone(), "app-0", liveness, "Container app failed liveness probe");
    // The container's own policy decides before the pod's; its exit-code rules are for ends of its own.
    alone["containers"][0]["restartPolicy"] = "OnFailure".into();
    check(alone.clone(), "app-0", liveness, "Container app failed liveness probe, will be restarted");
    alone["containers"][0]["restartPolicy"] = "Never".into();
    alone["containers"][0]["restartPolicyRules"] =
        json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [137]}}]);
    check(alone, "app-0", startup, "Container app failed startup probe");
    // Liveness before startup, as upstream asks.
    check(
        two("Always"),
        "a-0",
        Verdict { liveness_failed: true, ..startup },
        "Container a failed liveness probe, will be restarted",
    );
    let side = |probe: &str| {
        json!({"restartPolicy": "Never", "containers": [{"name": "app"}],
            "initContainers": [{"name": "side", "restartPolicy": "Always", probe: {}}]})
    };
    check(side("livenessProbe"), "side-0", liveness, "Init container side failed liveness probe");
    check(side("startupProbe"), "side-0", startup, "Init container side failed startup probe");
}

#[test]
fn the_end_of_the_last_app_container_by_a_probe_is_like_any_other() {
    let failed = Verdict { liveness_failed: true, ..Verdict::default() };
    let spec = |rules: Value| {
        json!({"restartPolicy": "Never", "containers": [
            {"name": "app", "restartPolicy": "Never", "restartPolicyRules": rules}],
            "initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}]})
    };
    // Sidecars are neither started nor killed for its last moments.
    case(spec(json!([])), &["s1 running", "s2 exited 1", "app running"])
        .verdict("app-0", failed)
        .verdict("s1-0", failed)
        .check("kill:app-0:LivenessProbe");
    case(spec(json!([])), &["s1 running", "s2 exited 1", "app exited 137"]).check("kill-pod done");
    // Its exit-code rules see the code it is killed with.
    let rule = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [137]}}]);
    case(spec(rule.clone()), &["s1 running", "s2 running", "app running"])
        .verdict("app-0", failed)
        .check("kill:app-0:LivenessProbe");
    case(spec(rule), &["s1 running", "s2 running", "app exited 137"])
        .verdict("app-0", failed)
        .check("start:app@10");
}

#[test]
fn a_probe_failure_restarts_at_once_unless_the_instance_before_has_just_ended() {
    let failed = Verdict { liveness_failed: true, ..Verdict::default() };
    case(one(), &["app running"]).verdict("app-0", failed).check("kill:app-0:LivenessProbe start:app");
    case(one(), &["app exited 1 @600", "app#1 running"])
        .restarted("app", 1, 600)
        .verdict("app-1", failed)
        .check("kill:app-1:LivenessProbe start:app@600");
    case(one(), &["app exited 1 @995", "app#1 running"])
        .restarted("app", 1, 995)
        .verdict("app-1", failed)
        .check("kill:app-1:LivenessProbe wait:app:10s@1005");
    // Dead already: the verdict on it says nothing more.
    case(one(), &["app exited 143"]).verdict("app-0", failed).check("start:app@10");
}

#[test]
fn ephemeral_containers_start_once_and_first() {
    let mut spec = staged();
    spec["ephemeralContainers"] = json!([{"name": "debug"}]);
    case(spec.clone(), &["i1 running"]).check("start:debug");
    case(spec.clone(), &["i1 exited 0", "debug exited 1"]).check("start:side");
    case(spec, &["i1 exited 0"]).check("start:debug start:side");
}

#[test]
fn back_off_holds_back_restarts() {
    case(one(), &["app exited 1 @995"]).check("start:app@995");
    case(one(), &["app exited 1 @995"]).restarted("app", 1, 990).check("wait:app:10s@1005");
    case(one(), &["app exited 1 @985"]).restarted("app", 1, 980).check("start:app@985");
    case(one(), &["app exited 1 @900"]).restarted("app", 5, 890).check("wait:app:160s@1060");
    // It ran for more than ten minutes: start over.
    case(one(), &["app exited 1 @999"]).restarted("app", 5, 300).check("start:app@999");
    // A regular init container holds back all behind it, a sidecar only itself.
    case(staged(), &["i1 exited 1 @995"]).restarted("i1", 1, 990).check("wait:i1:10s@1005");
    case(staged(), &["side exited 1 @995", "app exited 1"])
        .restarted("side", 1, 990)
        .check("start:app@10 wait:side:10s@1005");
    assert_eq!(crate::backoff::format_delay(Duration::from_secs(160)), "2m40s");
}

#[test]
fn only_the_last_dead_instance_of_an_init_container_is_kept() {
    case(staged(), &["i1 exited 1", "i1#1 exited 1", "i1#2 running"]).check("prune:i1-0");
    case(staged(), &["i1 exited 1", "i1#1 exited 0"]).check("prune:i1-0 start:side");
}

fn restart_all() -> Value {
    json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "init"}, {"name": "side", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}, {"name": "b", "restartPolicy": "Never", "restartPolicyRules": [
            {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}},
        ]}],
    })
}

#[test]
fn restart_all_containers_removes_everything_and_then_starts_over() {
    let all = ["init exited 0", "side running", "a running", "b exited 88"];
    case(restart_all(), &all).check(
        "restart-all kill:a-0:RestartAll kill:side-0:RestartAll remove:a-0 remove:side-0 remove:init-0 remove:b-0",
    );
    case(restart_all(), &["init exited 0", "side running", "a running", "b exited 87"]).check("");
    // Half done: the source is gone, the condition remembers.
    let status = json!({"conditions": [{"type": "AllContainersRestarting", "status": "True"}]});
    let mut half = case(restart_all(), &["init exited 0"]);
    half.reported = Some(serde_json::from_value(status.clone()).unwrap());
    half.check("restart-all remove:init-0");
    let mut clean = case(restart_all(), &[]);
    clean.reported = Some(serde_json::from_value(status).unwrap());
    clean.check("start:init");
}

#[test]
fn a_pod_that_ends_starts_nothing() {
    let mut ending = case(one(), &[]).sandboxes(&[]);
    ending.ending = true;
    ending.check("");
    let mut deleted = case(one(), &["app exited 1"]);
    deleted.pod.metadata.deletion_timestamp = Some(at(900).into());
    deleted.check("");
}
