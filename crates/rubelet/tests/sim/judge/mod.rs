//! Judges the story of a run against what must stay true (docs/testing.md). Goes once through all entries in
//! order and keeps what is true at each point; the first violation ends it. Pure.

mod probes;
mod starts;
mod statuses;
mod stops;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use rubelet_testkit::ScriptedCri;
use rubelet_testkit::scripted::{Call, ExitCause, Fact, FactKind, Op, Outcome};

use crate::log::{Entry, Mark, What};
use crate::scenario::{POST_START, PRE_STOP, Role, Scenario, containers_of};

/// What must not be, and where.
#[derive(Debug)]
pub struct Violation {
    /// Place in the story.
    pub seq: u64,
    /// What is wrong.
    pub what: String,
}

type Verdict = Result<(), String>;

/// What is true of one container instance.
#[derive(Debug)]
struct Instance {
    name: String,
    sandbox: String,
    image: String,
    created_at: Timestamp,
    started: bool,
    running: bool,
    exit: Option<i32>,
    post_start_failed: bool,
    pre_stop_began: bool,
    /// Its postStart hook may have failed then, which ends it.
    may_end_since: Option<Timestamp>,
    /// When somebody first began to end it, over all agents.
    ending_since: Option<Timestamp>,
    /// The same for the agent that lives.
    ending_since_now: Option<Timestamp>,
    probes: probes::Probes,
}

/// What is true of one pod UID.
#[derive(Debug, Default)]
struct PodTruth {
    name: String,
    /// As last delivered; `None` while it is not wanted.
    wanted: Option<Arc<Pod>>,
    /// The newest spec that was ever delivered.
    known: Option<Arc<Pod>>,
    /// When the image of a container last changed, by its name.
    changed: BTreeMap<String, Timestamp>,
    /// When it first was.
    first_wanted: Option<Timestamp>,
    /// It was to end, and nothing has been started since: since when.
    ending: Option<Timestamp>,
    /// The agent told for the first time that it ends the pod.
    ending_told: Option<Timestamp>,
    /// The agent that lives has published a status of it, so it knows its spec. What is gone again before the
    /// agent could list the runtime is for it a pod that only the runtime knows.
    told: bool,
    /// When it told that it ends the pod.
    told_ending: Option<Timestamp>,
    /// Containers whose startup has passed in a sandbox.
    passed: BTreeSet<(String, String)>,
    /// Ready or not, by ID.
    sandboxes: BTreeMap<String, bool>,
    containers: BTreeMap<String, Instance>,
    /// The order of creation.
    order: Vec<String>,
    statuses: statuses::Book,
    /// Open postStart calls of the agent that lives: call number and container.
    hooks: BTreeMap<u64, String>,
}

/// The judge on the way through the story.
struct Judge<'a> {
    scenario: &'a Scenario,
    now: Timestamp,
    delivered: bool,
    delivered_at: Timestamp,
    listed: bool,
    /// An agent lives.
    alive: bool,
    /// When it was last looked for what is overdue.
    looked_at: Timestamp,
    pods: BTreeMap<String, PodTruth>,
}

/// Finds the first violation.
pub fn judge(scenario: &Scenario, story: &[Entry], cri: &ScriptedCri) -> Result<(), Violation> {
    let mut judge = Judge {
        scenario,
        now: Timestamp::UNIX_EPOCH,
        delivered: false,
        delivered_at: Timestamp::UNIX_EPOCH,
        listed: false,
        alive: false,
        looked_at: Timestamp::UNIX_EPOCH,
        pods: BTreeMap::new(),
    };
    for entry in story {
        judge.now = entry.at;
        judge.take(entry).map_err(|what| Violation { seq: entry.seq, what })?;
    }
    let Some(misuse) = cri.misuses().into_iter().next() else { return Ok(()) };
    let seq = story.iter().find(|entry| entry.at >= misuse.at).map_or(0, |entry| entry.seq);
    Err(Violation { seq, what: format!("no sane agent does this: {misuse:?}") })
}

impl Judge<'_> {
    fn take(&mut self, entry: &Entry) -> Verdict {
        self.check_overdue()?;
        match &entry.what {
            What::Mark(mark) => self.take_mark(mark),
            What::Fact(fact) => self.take_fact(fact),
            What::Began(call) => self.take_call(call),
            What::Ended(call) => {
                self.take_end(call);
                Ok(())
            }
        }
    }

    fn take_mark(&mut self, mark: &Mark) -> Verdict {
        match mark {
            Mark::AgentStarted => {
                (self.delivered, self.listed, self.alive) = (false, false, true);
                for pod in self.pods.values_mut() {
                    (pod.told, pod.told_ending) = (false, None);
                    pod.hooks.clear();
                    for container in pod.containers.values_mut() {
                        container.ending_since_now = None;
                        container.probes.begin_life();
                    }
                }
            }
            Mark::Listed => self.listed = true,
            Mark::Delivered(pods) => self.take_delivery(pods),
            Mark::Status(view) => return self.check_status(view),
            Mark::RowGone(uid) => self.row_gone(uid),
            Mark::Wrong(what) => return Err(what.clone()),
            Mark::AgentGone(_) => self.alive = false,
            Mark::Note(_) => {}
        }
        Ok(())
    }

    fn take_delivery(&mut self, pods: &BTreeMap<String, Arc<Pod>>) {
        (self.delivered, self.delivered_at) = (true, self.now);
        for (uid, pod) in pods {
            let truth = self.pods.entry(uid.clone()).or_default();
            truth.name = pod.metadata.name.clone().unwrap_or_default();
            if let Some(known) = &truth.known {
                for (name, _) in containers_of(pod) {
                    if image_of(known, &name) != image_of(pod, &name) {
                        truth.changed.insert(name, self.now);
                    }
                }
            }
            truth.wanted = Some(pod.clone());
            truth.known = Some(pod.clone());
            truth.first_wanted.get_or_insert(self.now);
            if pod.metadata.deletion_timestamp.is_some() {
                truth.ending.get_or_insert(self.now);
            }
        }
        for (uid, truth) in &mut self.pods {
            if !pods.contains_key(uid) {
                truth.wanted = None;
                truth.ending.get_or_insert(self.now);
            }
        }
    }

    fn take_fact(&mut self, fact: &Fact) -> Verdict {
        let uid = fact.subject.pod_uid.clone();
        let id = fact.subject.id.clone();
        match fact.what {
            FactKind::Started => self.check_started(fact)?,
            FactKind::Exited { cause: ExitCause::Killed, .. } => self.check_killed(fact)?,
            FactKind::Removed => self.check_removed(fact)?,
            _ => {}
        }
        let truth = self.pods.entry(uid).or_default();
        let instance = truth.containers.get_mut(&id);
        match (fact.what, instance) {
            (FactKind::SandboxReady, _) => {
                truth.sandboxes.insert(id, true);
            }
            (FactKind::SandboxStopped, _) => {
                truth.sandboxes.insert(id, false);
            }
            (FactKind::SandboxRemoved, _) => {
                truth.sandboxes.remove(&id);
            }
            (FactKind::Created, _) => {
                let name = fact.subject.container.clone();
                let ready = truth.sandboxes.iter().filter(|(_, ready)| **ready).map(|(id, _)| id).max();
                let instance = Instance {
                    sandbox: ready.cloned().unwrap_or_default(),
                    image: truth.known.as_ref().map(|pod| image_of(pod, &name)).unwrap_or_default(),
                    name,
                    created_at: fact.at,
                    started: false,
                    running: false,
                    exit: None,
                    post_start_failed: false,
                    pre_stop_began: false,
                    may_end_since: None,
                    ending_since: None,
                    ending_since_now: None,
                    probes: probes::Probes::default(),
                };
                truth.order.push(id.clone());
                truth.containers.insert(id, instance);
            }
            (FactKind::Started, Some(instance)) => {
                (instance.started, instance.running) = (true, true);
                instance.probes = probes::Probes::of(truth.known.as_deref(), &instance.name, fact.at);
                if instance.probes.started() {
                    truth.passed.insert((instance.sandbox.clone(), instance.name.clone()));
                }
            }
            (FactKind::Exited { code, .. }, Some(instance)) => {
                (instance.running, instance.exit) = (false, Some(code));
            }
            (FactKind::Removed, _) => {
                truth.containers.remove(&id);
                truth.order.retain(|other| *other != id);
            }
            _ => {}
        }
        Ok(())
    }

    fn take_call(&mut self, call: &Call) -> Verdict {
        match call.op {
            Op::RunPodSandbox | Op::CreateContainer | Op::StartContainer => self.check_start_call(call),
            Op::StopContainer
            | Op::StopPodSandbox
            | Op::RemoveContainer
            | Op::RemovePodSandbox
            | Op::RemoveImage => self.check_stop_call(call),
            Op::ExecSync if self.check_probe_call(call)? => Ok(()),
            Op::ExecSync => self.check_hook_call(call),
            _ => Ok(()),
        }
    }

    fn take_end(&mut self, call: &Call) {
        self.end_probe(call);
        if call.outcome == Outcome::GivenUp {
            return;
        }
        if call.outcome == Outcome::Failed(rubelet_cri::CriErrorKind::Unreachable)
            && (call.op == Op::StopContainer || call.command == [PRE_STOP])
            && let Some(truth) = self.pods.get_mut(&call.subject.pod_uid)
            && let Some(instance) = truth.containers.get_mut(&call.subject.id)
        {
            // The runtime may not have heard of it: the grace counts from the next attempt.
            instance.ending_since_now = None;
        }
        if call.op != Op::ExecSync || call.command != [POST_START] {
            return;
        }
        let may_fail = self.scenario.post_start_may_fail(&call.subject.pod_name, &call.subject.container);
        let Some(truth) = self.pods.get_mut(&call.subject.pod_uid) else { return };
        truth.hooks.remove(&call.n);
        // An answer does not tell the exit code: where a hook may fail it is taken to have failed. So does one
        // whose container ended under it.
        if let Some(instance) = truth.containers.get_mut(&call.subject.id)
            && (may_fail || matches!(call.outcome, Outcome::Failed(_)) || !instance.running)
        {
            instance.post_start_failed = true;
            instance.may_end_since.get_or_insert(self.now);
        }
    }
}

impl PodTruth {
    /// The newest instance of a container.
    fn newest(&self, name: &str) -> Option<&Instance> {
        self.order
            .iter()
            .rev()
            .filter_map(|id| self.containers.get(id))
            .find(|instance| instance.name == name)
    }

    fn running(&self) -> impl Iterator<Item = (&String, &Instance)> {
        self.containers.iter().filter(|(_, instance)| instance.running)
    }

    fn role(&self, name: &str) -> Option<Role> {
        let pod = self.known.as_ref()?;
        containers_of(pod).into_iter().find(|(container, _)| container == name).map(|(_, role)| role)
    }

    fn policy(&self) -> &str {
        let spec = self.known.as_ref().and_then(|pod| pod.spec.as_ref());
        spec.and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
    }

    /// Whether an exit code means that a container of this pod does not run again.
    fn stays_ended(&self, code: i32) -> bool {
        match self.policy() {
            "Never" => true,
            "OnFailure" => code == 0,
            _ => false,
        }
    }

    /// Whether the pod ends by itself: every app container has, or an init container failed for good.
    fn is_done(&self) -> bool {
        let Some(pod) = &self.known else { return false };
        let ended = |name: &str| self.newest(name).and_then(|instance| instance.exit);
        let containers = containers_of(pod);
        let mut apps = containers.iter().filter(|(_, role)| *role == Role::App);
        let init_failed = self.policy() == "Never"
            && containers
                .iter()
                .any(|(name, role)| *role == Role::Init && ended(name).is_some_and(|code| code != 0));
        init_failed || apps.all(|(name, _)| ended(name).is_some_and(|code| self.stays_ended(code)))
    }

    /// Whether the pod's time is up.
    fn deadline_passed(&self, now: Timestamp) -> bool {
        let spec = self.known.as_ref().and_then(|pod| pod.spec.as_ref());
        let Some(deadline) = spec.and_then(|spec| spec.active_deadline_seconds) else { return false };
        // Statuses keep whole seconds.
        self.first_wanted.is_some_and(|first| now.as_second() - first.as_second() >= deadline)
    }

    /// Whether all of the pod is to be stopped.
    fn may_end(&self, now: Timestamp) -> bool {
        self.ending.is_some() || self.is_done() || self.deadline_passed(now)
    }
}

fn image_of(pod: &Pod, container: &str) -> String {
    let Some(spec) = &pod.spec else { return String::new() };
    spec.init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .find(|c| c.name == container)
        .and_then(|c| c.image.clone())
        .unwrap_or_default()
}
