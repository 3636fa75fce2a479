//! A small model runtime that carries plans out, with crashes, lost records and dying sandboxes in between.
//!
//! The property: whatever happened before, once nothing disturbs any more the pod converges to what its spec
//! asks for and the plan is empty; and on the way no rule about order and repetition is broken.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::backoff::BackoffPolicy;
use crate::fixtures::{at, container, hash, pod, sandbox};
use crate::kill::compute_kill_plan;
use crate::phase::Phase;
use crate::status::{Ending, NodeFacts, StartErrors, StatusInputs, generate, merge_for_update};

/// Exit code that the rule of app container `a1` answers with RestartAllContainers.
const RESTART_ALL: i32 = 88;

/// What a container does: the exit codes of its first runs, and how it goes on after them.
#[derive(Clone, Debug)]
struct Script {
    exits: Vec<i32>,
    then: Option<i32>,
}

/// What may happen between two syncs.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    Nothing,
    SandboxDies,
    ContainerKilled(usize),
    StateUnknown(usize),
    RecordLost(usize),
    AgentRestarts,
}

struct World {
    pod: Pod,
    observed: ObservedPod,
    backoff: BackoffTable,
    status: Option<PodStatus>,
    now: i64,
    scripts: BTreeMap<String, Script>,
    runs: BTreeMap<String, usize>,
    attempts: BTreeMap<String, u32>,
    /// Init containers that completed and sidecars that ran, per sandbox.
    initialized: BTreeSet<(SandboxId, String)>,
    /// App containers that ended, with their last exit code, unless something restarted them all.
    ended: BTreeMap<String, i32>,
    /// App containers that ended before they ran or while their state was unknown: they may be started again
    /// whatever their policy, or not, when the agent crashed in between.
    ended_unknown: BTreeSet<String>,
    done: bool,
    /// The planner gets the status of the sync before instead of this one's.
    stale: bool,
}

impl World {
    fn new(spec: Value, scripts: BTreeMap<String, Script>, stale: bool) -> Self {
        Self {
            stale,
            pod: pod(spec),
            observed: ObservedPod::absent("u1".into()),
            backoff: BackoffTable::new(BackoffPolicy::crash_loop(None, false)),
            status: None,
            now: 1000,
            scripts,
            runs: BTreeMap::new(),
            attempts: BTreeMap::new(),
            initialized: BTreeSet::new(),
            ended: BTreeMap::new(),
            ended_unknown: BTreeSet::new(),
            done: false,
        }
    }

    fn plan(&mut self) -> PodPlan {
        let node = NodeFacts { ips: vec![], runtime: "containerd".to_owned(), recursive_read_only: false };
        let verdicts = ProbeVerdicts::default();
        let status = generate(&StatusInputs {
            pod: &self.pod,
            observed: &self.observed,
            previous: self.status.as_ref(),
            verdicts: &verdicts,
            start_errors: &StartErrors::new(),
            replacing: &[],
            ending: Ending::No,
            failure: None,
            resize: crate::resize::ResizeTold::default(),
            node: &node,
            now: at(self.now),
        });
        let plan = compute_pod_actions(&PodActionInputs {
            pod: &self.pod,
            observed: &self.observed,
            verdicts: &verdicts,
            backoff: &self.backoff,
            reported: if self.stale {
                self.status.as_ref().or(self.pod.status.as_ref())
            } else {
                Some(&status)
            },
            ending: false,
            hash,
            now: at(self.now),
        });
        if let Some(before) = self.status.as_ref() {
            let merged = merge_for_update(&self.pod, before, &status, self.observed.may_run(), at(self.now));
            assert!(merged.is_ok(), "{merged:?}");
        }
        self.done |= plan.pod_done || Phase::of(&status).is_some_and(Phase::is_terminal);
        self.status = Some(status);
        plan
    }

    /// One sync; the agent crashes after `budget` operations.
    fn sync(&mut self, mut budget: usize) -> PodPlan {
        let plan = self.plan();
        if self.done {
            self.end();
            return plan;
        }
        self.check_kills(&plan);
        let mut spend = || {
            let left = budget > 0;
            budget = budget.saturating_sub(1);
            left
        };
        if plan.restarting_all {
            self.ended.clear();
        }
        let kills: Vec<_> = if plan.kill_pod {
            let kills = compute_kill_plan(Some(&self.pod), &self.observed, None, KillReason::SandboxChanged);
            kills.containers.into_iter().map(|kill| kill.id).collect()
        } else {
            plan.kill.iter().map(|kill| kill.id.clone()).collect()
        };
        for id in kills {
            if !spend() {
                return plan;
            }
            self.exit(&id, 137);
            if plan.restarting_all {
                self.ended.clear();
            }
        }
        if plan.kill_pod {
            if !spend() {
                return plan;
            }
            self.observed.sandboxes.iter_mut().for_each(|sandbox| sandbox.ready = false);
        }
        for id in plan.remove.iter().chain(&plan.prune) {
            if !spend() {
                return plan;
            }
            self.observed.containers.retain(|container| container.id != *id);
        }
        let mut current = plan.sandbox.clone();
        if let Some(attempt) = plan.create_sandbox {
            if !spend() {
                return plan;
            }
            let new = sandbox(attempt, true);
            current = Some(new.id.clone());
            self.observed.sandboxes.push(new);
        }
        for start in &plan.start {
            let sandbox = current.clone().unwrap();
            self.check_start(start, &sandbox);
            if let Some(since) = start.restart_since {
                let spec = spec_of(&self.pod);
                let container =
                    restart::planned_containers(spec).map(|(_, c)| c).find(|c| c.name == start.name);
                self.backoff.next(BackoffKey::container(&self.pod, container.unwrap()), since, at(self.now));
            }
            if !spend() {
                break;
            }
            let id = self.create(&start.name, &sandbox);
            if !spend() {
                break;
            }
            self.run(&id);
        }
        self.observed.sort();
        plan
    }

    /// Kills are for a reason: in this model nobody changes the spec and no probe fails.
    fn check_kills(&self, plan: &PodPlan) {
        for kill in &plan.kill {
            assert!(
                matches!(kill.reason, KillReason::UnknownState | KillReason::RestartAll),
                "{kill:?} has no reason"
            );
        }
        if plan.kill_pod {
            let right = matches!(sandbox_need(&self.pod, &self.observed), SandboxNeed::Keep(_));
            assert!(!right, "a pod with a right sandbox was killed: {plan:?}");
        }
    }

    fn check_start(&self, start: &StartContainer, sandbox: &SandboxId) {
        let spec = spec_of(&self.pod);
        let alive = self
            .observed
            .instances(&start.name)
            .any(|instance| matches!(instance.state, ObservedState::Running | ObservedState::Unknown));
        assert!(!alive, "a second instance of {}", start.name);
        let before = match start.kind {
            ContainerKind::App => init_containers(spec).len(),
            ContainerKind::Init if self.any_app_in(sandbox) => 0,
            ContainerKind::Init | ContainerKind::Ephemeral => start.index,
        };
        for earlier in &init_containers(spec)[..before] {
            let key = (sandbox.clone(), earlier.name.clone());
            assert!(self.initialized.contains(&key), "{} before {}", start.name, earlier.name);
        }
        if let (ContainerKind::App, Some(code)) = (start.kind, self.ended.get(&start.name)) {
            let container = &spec.containers[start.index];
            assert!(restart::restarts_after(container, spec, *code), "{} ran twice", start.name);
        }
    }

    fn any_app_in(&self, sandbox: &SandboxId) -> bool {
        spec_of(&self.pod)
            .containers
            .iter()
            .any(|app| self.observed.instances(&app.name).any(|instance| instance.sandbox_id == *sandbox))
    }

    fn create(&mut self, name: &str, sandbox: &SandboxId) -> ContainerId {
        let attempt = self.attempts.entry(name.to_owned()).and_modify(|last| *last += 1).or_insert(0);
        let mut created = container(&format!("{name}#{attempt} created"));
        created.sandbox_id = sandbox.clone();
        created.created_at = at(self.now);
        let id = created.id.clone();
        self.observed.containers.push(created);
        self.observed.sort();
        id
    }

    fn run(&mut self, id: &ContainerId) {
        let now = at(self.now);
        let found = self.observed.containers.iter_mut().find(|container| container.id == *id).unwrap();
        found.state = ObservedState::Running;
        found.started_at = Some(now);
        self.initialized_if_sidecar(id);
    }

    fn initialized_if_sidecar(&mut self, id: &ContainerId) {
        let found = self.observed.containers.iter().find(|container| container.id == *id).unwrap();
        let spec = spec_of(&self.pod);
        if init_containers(spec).iter().any(|init| init.name == found.name && is_sidecar(init)) {
            self.initialized.insert((found.sandbox_id.clone(), found.name.clone()));
        }
    }

    fn exit(&mut self, id: &ContainerId, code: i32) {
        let Some(found) = self.observed.containers.iter_mut().find(|container| container.id == *id) else {
            return;
        };
        if found.state == ObservedState::Exited {
            return;
        }
        let before = found.state;
        found.state = ObservedState::Exited;
        found.exit_code = code;
        found.finished_at = Some(at(self.now));
        let spec = spec_of(&self.pod);
        if code == 0 && init_containers(spec).iter().any(|init| init.name == found.name) {
            self.initialized.insert((found.sandbox_id.clone(), found.name.clone()));
        }
        if spec.containers.iter().any(|app| app.name == found.name) {
            match before {
                ObservedState::Running => {
                    self.ended.insert(found.name.clone(), code);
                }
                _ => {
                    self.ended_unknown.insert(found.name.clone());
                }
            }
        }
    }

    /// Everything that runs goes on by one step of its script.
    fn live(&mut self) {
        self.now += 1;
        let running: Vec<_> = self
            .observed
            .containers
            .iter()
            .filter(|container| container.state == ObservedState::Running)
            .map(|container| (container.id.clone(), container.name.clone()))
            .collect();
        for (id, name) in running {
            let script = &self.scripts[&name];
            let run = self.runs.entry(name).or_insert(0);
            let exit = script.exits.get(*run).copied().or(script.then);
            if let Some(code) = exit {
                *run += 1;
                self.exit(&id, code);
            }
        }
    }

    fn disturb(&mut self, disturbance: Disturbance) {
        let count = self.observed.containers.len();
        match disturbance {
            Disturbance::Nothing => {}
            Disturbance::AgentRestarts => {
                // Probes, start errors and everything else in memory is gone; the API has the status.
                self.pod.status = self.status.take();
            }
            Disturbance::SandboxDies => {
                if let Some(newest) = self.observed.sandboxes.first_mut() {
                    newest.ready = false;
                }
            }
            Disturbance::ContainerKilled(index) if count > 0 => {
                let id = self.observed.containers[index % count].id.clone();
                self.exit(&id, 137);
            }
            Disturbance::StateUnknown(index) if count > 0 => {
                let found = &mut self.observed.containers[index % count];
                if found.state == ObservedState::Running {
                    found.state = ObservedState::Unknown;
                }
            }
            Disturbance::RecordLost(index) if count > 0 => {
                // Whoever removes records removes the oldest first.
                let name = self.observed.containers[index % count].name.clone();
                let oldest = self.observed.containers.iter().rposition(|container| container.name == name);
                let oldest = oldest.unwrap_or_default();
                if self.observed.containers[oldest].state == ObservedState::Exited {
                    let lost = self.observed.containers.remove(oldest);
                    let more = self.observed.newest_container(&lost.name).is_some();
                    if !more && !self.was_reported(&lost) && self.ended.remove(&lost.name).is_some() {
                        self.ended_unknown.insert(lost.name);
                    }
                }
            }
            Disturbance::ContainerKilled(_) | Disturbance::StateUnknown(_) | Disturbance::RecordLost(_) => {}
        }
    }

    /// Whether the end of this instance stands in the status.
    fn was_reported(&self, lost: &ObservedContainer) -> bool {
        let statuses = self.status.as_ref().or(self.pod.status.as_ref());
        let id = format!("containerd://{}", lost.id);
        statuses.and_then(|status| status.container_statuses.as_ref()).is_some_and(|list| {
            list.iter().any(|container| {
                let end = container.state.as_ref().and_then(|state| state.terminated.as_ref());
                end.is_some_and(|end| end.container_id.as_ref() == Some(&id))
            })
        })
    }

    /// The pod ends: everything is stopped, and no plan starts anything again.
    fn end(&mut self) {
        let kills = compute_kill_plan(Some(&self.pod), &self.observed, Some(1), KillReason::PodEnds);
        for kill in kills.containers {
            self.exit(&kill.id, 137);
        }
        self.observed.sandboxes.iter_mut().for_each(|sandbox| sandbox.ready = false);
        assert!(!self.observed.may_run());
    }

    /// Whether the pod is as its spec asks for.
    fn is_right(&self) -> bool {
        let spec = spec_of(&self.pod);
        let runs = |name: &str| {
            self.observed.newest_container(name).is_some_and(|c| c.state == ObservedState::Running)
        };
        spec.containers.iter().all(|app| {
            runs(&app.name)
                || self.ended_unknown.contains(&app.name)
                || self.ended.get(&app.name).is_some_and(|code| !restart::restarts_after(app, spec, *code))
        }) && init_containers(spec).iter().all(|init| !is_sidecar(init) || runs(&init.name))
    }
}

fn script(exits: impl Strategy<Value = i32>, then: Option<i32>) -> impl Strategy<Value = Script> {
    prop::collection::vec(exits, 0..3).prop_map(move |exits| Script { exits, then })
}

fn disturbance() -> impl Strategy<Value = Disturbance> {
    prop_oneof![
        3 => Just(Disturbance::Nothing),
        1 => Just(Disturbance::SandboxDies),
        1 => Just(Disturbance::AgentRestarts),
        1 => (0..9usize).prop_map(Disturbance::ContainerKilled),
        1 => (0..9usize).prop_map(Disturbance::StateUnknown),
        1 => (0..9usize).prop_map(Disturbance::RecordLost),
    ]
}

proptest! {
    #[test]
    fn every_pod_converges_and_no_rule_is_broken_on_the_way(
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        own_policy in prop::option::of(prop::sample::select(vec!["Always", "OnFailure", "Never"])),
        init in 0..4usize,
        stale in any::<bool>(),
        scripts in (
            script(0..3i32, Some(0)),
            script(0..2i32, None),
            script(0..2i32, Some(0)),
            script(0..2i32, None),
            script(prop_oneof![0..2i32, Just(RESTART_ALL)], None),
        ),
        troubles in prop::collection::vec((disturbance(), 0..12usize), 0..25),
    ) {
        // Init containers i0 and i2 are regular, s1 is a sidecar between them.
        let inits = [
            json!({"name": "i0"}),
            json!({"name": "s1", "restartPolicy": "Always"}),
            json!({"name": "i2"}),
        ];
        let mut a1 = json!({"name": "a1"});
        if let Some(own) = own_policy {
            a1["restartPolicy"] = own.into();
            a1["restartPolicyRules"] = json!([{"action": "RestartAllContainers",
                "exitCodes": {"operator": "In", "values": [RESTART_ALL]}}]);
        }
        let spec = json!({
            "restartPolicy": policy,
            "initContainers": inits[..init],
            "containers": [{"name": "a0"}, a1],
        });
        let names = ["i0", "s1", "i2", "a0", "a1"].map(str::to_owned);
        let scripts = [scripts.0, scripts.1, scripts.2, scripts.3, scripts.4];
        let mut world = World::new(spec, names.into_iter().zip(scripts).collect(), stale);
        for (disturbance, budget) in troubles {
            world.sync(budget);
            world.live();
            world.disturb(disturbance);
        }
        // Undisturbed, with time to sit out every back-off.
        for _ in 0..60 {
            if world.done {
                break;
            }
            let plan = world.sync(usize::MAX);
            world.live();
            if let Some(wait) = plan.backing_off.iter().map(|wait| wait.until.as_second()).max() {
                world.now = world.now.max(wait);
            }
        }
        if world.done {
            world.end();
            let plan = world.plan();
            prop_assert!(plan.start.is_empty() || !plan.pod_done, "{plan:?}");
        } else {
            prop_assert!(world.is_right(), "{:#?}", world.observed);
            let plan = world.plan();
            prop_assert!(plan.is_empty() && plan.backing_off.is_empty(), "{plan:?}");
        }
    }

    #[test]
    fn nothing_is_started_or_killed_by_the_plan_of_a_pod_that_ends(
        states in prop::collection::vec(prop::option::of(0..4usize), 5),
        ready in any::<bool>(),
        deleted in any::<bool>(),
    ) {
        let mut pod = pod(json!({
            "initContainers": [{"name": "i0"}, {"name": "s1", "restartPolicy": "Always"}],
            "containers": [{"name": "a0"}, {"name": "a1"}],
            "ephemeralContainers": [{"name": "e"}],
        }));
        if deleted {
            pod.metadata.deletion_timestamp = Some(at(1).into());
        }
        let words = ["created", "running", "unknown", "exited 1"];
        let lines: Vec<_> = ["i0", "s1", "a0", "a1", "e"]
            .iter()
            .zip(&states)
            .filter_map(|(name, state)| Some(format!("{name} {}", words[(*state)?])))
            .collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let plan = compute_pod_actions(&PodActionInputs {
            pod: &pod,
            observed: &crate::fixtures::observed(&[sandbox(0, ready)], &lines),
            verdicts: &ProbeVerdicts::default(),
            backoff: &BackoffTable::new(BackoffPolicy::crash_loop(None, false)),
            reported: None,
            ending: !deleted,
            hash,
            now: at(1000),
        });
        prop_assert_eq!(plan, PodPlan::default());
    }
}
