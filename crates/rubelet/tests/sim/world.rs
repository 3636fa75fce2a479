//! The world of one run: the scripted runtime, the agent that lives in it and dies, the source of pods, and
//! what is seen of them. Carries out a scenario step by step; judges nothing but an agent that spins.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rubelet::KubeletHandle;
use rubelet::clock::Clock;
use rubelet_cri::Deadlines;
use rubelet_testkit::ScriptedCri;
use rubelet_testkit::scripted::server::{self, CriServer};
use rubelet_testkit::scripted::{BASE_SECOND, CallPoint, HookAction, Op, Phase};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::in_process;
use crate::log::{Mark, Marks, StatusView};
use crate::scenario::{Scenario, Step, uid_of};

/// So many calls at one instant mean that the agent spins.
const SPINNING: u32 = 3000;

/// Stands between the agent and the runtime: a dead agent makes no more calls.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    tripped: Notify,
}

#[derive(Default)]
struct GateState {
    dead: bool,
    /// Calls until the crash, at which phase.
    armed: Option<(u64, Phase)>,
    listed: bool,
    /// Calls of the agent that lives.
    calls: u64,
    /// The instant of the last call and the calls at it.
    instant: Option<Instant>,
    at_instant: u32,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, point: &CallPoint, cri: &ScriptedCri, marks: &Marks) -> HookAction {
        let mut state = self.lock();
        if state.dead {
            return HookAction::Park;
        }
        let now = Instant::now();
        if point.phase == Phase::Before {
            state.calls += 1;
            if state.instant == Some(now) {
                state.at_instant += 1;
            } else {
                (state.instant, state.at_instant) = (Some(now), 0);
            }
            if state.at_instant > SPINNING {
                state.dead = true;
                marks.add(cri, Mark::Wrong(format!("the agent spins, now at {:?}", point.op)));
                self.tripped.notify_one();
                return HookAction::Park;
            }
        }
        if point.op == Op::ListContainers && point.phase == Phase::After && !state.listed {
            state.listed = true;
            marks.add(cri, Mark::Listed);
        }
        match &mut state.armed {
            Some((0, phase)) if *phase == point.phase => {
                state.armed = None;
                state.dead = true;
                marks.add(cri, Mark::Note(format!("crash at {:?} of {:?}", point.phase, point.op)));
                self.tripped.notify_one();
                HookAction::Park
            }
            Some((countdown, phase)) if *phase == point.phase => {
                *countdown -= 1;
                HookAction::Continue
            }
            _ => HookAction::Continue,
        }
    }
}

/// A living agent.
struct Agent {
    task: JoinHandle<Result<(), String>>,
    watcher: JoinHandle<()>,
    handle: KubeletHandle,
    delivered: bool,
    deliver_at: Instant,
}

/// What is wanted under one name.
pub struct Wanted {
    /// The newest pod of that name.
    pub pod: Arc<Pod>,
    /// Whether the source lists it.
    pub listed: bool,
    generation: u32,
    /// Something happened to its processes that it had not asked for.
    pub disturbed: bool,
    /// It was taken away and given back.
    pub given_back: bool,
}

/// Everything of one run.
pub struct World {
    pub cri: ScriptedCri,
    pub marks: Marks,
    pub wanted: Vec<Wanted>,
    /// Every UID that ever was.
    pub uids: Vec<String>,
    clock: Clock,
    dir: TempDir,
    gate: Arc<Gate>,
    agent: Option<Agent>,
    /// When the next agent is made.
    restart_at: Option<Instant>,
    /// How long it stays away after the armed crash.
    down: Duration,
    starts: usize,
    deliver_after: Vec<Duration>,
    server: Option<CriServer>,
}

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(scenario: &Scenario) -> Self {
        let cri = rubelet_testkit::scripted::ScriptedCri::new(scenario.kind);
        scenario.script(&cri);
        let dir = scratch();
        let marks = Marks::default();
        let gate = Arc::new(Gate::default());
        let (at_gate, truth, seen) = (gate.clone(), cri.clone(), marks.clone());
        cri.set_hook(move |point| at_gate.ask(point, &truth, &seen));
        let server = scenario.socket.then(|| {
            server::serve(&cri, &dir.path().join("cri.sock")).expect("a socket in a scratch directory")
        });
        let wanted: Vec<Wanted> = scenario
            .pods
            .iter()
            .map(|pod| Wanted {
                pod: Arc::new(pod.pod.clone()),
                listed: true,
                generation: 0,
                disturbed: false,
                given_back: false,
            })
            .collect();
        let base = Timestamp::from_second(BASE_SECOND).unwrap_or(Timestamp::UNIX_EPOCH);
        Self {
            uids: wanted.iter().map(|wanted| uid_of(&wanted.pod)).collect(),
            cri,
            marks,
            wanted,
            clock: Clock::simulated(base),
            dir,
            gate,
            agent: None,
            restart_at: None,
            down: Duration::ZERO,
            starts: 0,
            deliver_after: scenario.deliver_after.clone(),
            server,
        }
    }

    /// The agent's root directory.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// What the agent publishes, by UID.
    pub fn rows(&self) -> BTreeMap<String, StatusView> {
        let rows = self.agent.as_ref().map(|agent| agent.handle.pods()).unwrap_or_default();
        rows.iter()
            .map(|row| {
                let uid = uid_of(&row.pod);
                (uid.clone(), StatusView::of(&uid, row))
            })
            .collect()
    }

    /// Whether an agent lives, knows its pods, and no crash is to come.
    pub fn is_calm(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.delivered) && self.gate.lock().armed.is_none()
    }

    /// How many calls the agent that lives has made.
    pub fn calls(&self) -> u64 {
        self.gate.lock().calls
    }

    /// Makes an agent.
    pub async fn start(&mut self) -> Result<(), String> {
        self.marks.add(&self.cri, Mark::AgentStarted);
        {
            let mut gate = self.gate.lock();
            (gate.dead, gate.listed, gate.calls) = (false, false, 0);
        }
        let root = self.dir.path();
        let mut config = in_process::config(root);
        if let Some(server) = &self.server {
            config.container_runtime_endpoint = server.endpoint();
            config.runtime_request_timeout = rubelet_config::GoDuration::from_secs(30);
        }
        let mut builder = in_process::agent(config, root, "node", self.clock.clone());
        if self.server.is_none() {
            let deadlines = Deadlines {
                exec_without_timeout: Duration::from_secs(60),
                ..Deadlines::with_request(Duration::from_secs(30))
            };
            let runtime = Arc::new(self.cri.with_deadlines(deadlines));
            builder = builder.runtime(runtime.clone(), runtime);
        }
        let kubelet =
            builder.embedded().build().await.map_err(|error| format!("the agent cannot start: {error}"))?;
        let handle = kubelet.handle();
        let watcher = tokio::spawn(watch(handle.clone(), self.cri.clone(), self.marks.clone()));
        let task = tokio::spawn(kubelet.run(std::future::pending()));
        let after = self.deliver_after.get(self.starts).copied().unwrap_or_default();
        self.starts += 1;
        self.restart_at = None;
        self.agent =
            Some(Agent { task, watcher, handle, delivered: false, deliver_at: Instant::now() + after });
        if after.is_zero() {
            self.deliver(true);
        }
        Ok(())
    }

    /// Gives the full set to the agent; the first one only when its time has come.
    fn deliver(&mut self, first: bool) {
        let Some(agent) = &mut self.agent else { return };
        if !agent.delivered && !first {
            return;
        }
        agent.delivered = true;
        let pods: Vec<Arc<Pod>> =
            self.wanted.iter().filter(|wanted| wanted.listed).map(|wanted| wanted.pod.clone()).collect();
        let by_uid = pods.iter().map(|pod| (uid_of(pod), pod.clone())).collect();
        self.marks.add(&self.cri, Mark::Delivered(by_uid));
        agent.handle.set_pods(pods);
    }

    /// The agent is gone, and comes back after a while.
    pub async fn crash(&mut self, how: &str, down: Duration) -> Result<(), String> {
        self.gate.lock().dead = true;
        self.restart_at = Some(Instant::now() + down);
        let Some(agent) = self.agent.take() else { return Ok(()) };
        agent.watcher.abort();
        agent.task.abort();
        let ended = agent.task.await;
        if let Ok(ended) = ended {
            return Err(format!("the agent had ended by itself: {ended:?}"));
        }
        // What it owned goes with it, task by task: each is dropped when its turn comes.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.marks.add(&self.cri, Mark::AgentGone(how.to_owned()));
        Ok(())
    }

    /// The next crash comes at a call.
    pub fn arm(&mut self, countdown: u64, phase: Phase, down: Duration) {
        self.gate.lock().armed = Some((countdown, phase));
        self.down = down;
    }

    /// No crash comes any more.
    pub fn disarm(&mut self) {
        self.gate.lock().armed = None;
    }

    /// Lets time pass: crashes, restarts and deliveries that are due happen.
    pub async fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = Instant::now() + time;
        loop {
            let delivery = self.agent.as_ref().filter(|agent| !agent.delivered).map(|agent| agent.deliver_at);
            let next = [Some(until), delivery, self.restart_at].into_iter().flatten().min().unwrap_or(until);
            let gate = self.gate.clone();
            tokio::select! {
                biased;
                () = gate.tripped.notified() => {
                    let down = self.down;
                    self.crash("at a call", down).await?;
                    continue;
                }
                () = tokio::time::sleep_until(next) => {}
            }
            if let Some(agent) = self.agent.as_mut().filter(|agent| agent.task.is_finished()) {
                let ended = (&mut agent.task).await;
                return Err(format!("the agent ended by itself: {ended:?}"));
            }
            if delivery.is_some_and(|at| at <= next) {
                self.deliver(true);
            }
            if self.restart_at.is_some_and(|at| at <= next) {
                self.start().await?;
            }
            if next >= until {
                return Ok(());
            }
        }
    }

    /// Carries out one step of a scenario.
    pub async fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Crash { down } => self.crash("killed", *down).await?,
            Step::CrashAtCall { countdown, phase, down } => self.arm(*countdown, *phase, *down),
            Step::RestartRuntime(down) => self.cri.restart_runtime(*down),
            Step::BreakEvents => self.cri.break_event_streams(),
            Step::Reboot(down) => {
                self.crash("reboot", *down + Duration::from_secs(1)).await?;
                self.cri.reboot(*down);
                self.wanted.iter_mut().for_each(|wanted| wanted.disturbed = true);
            }
            Step::KillSandbox(pod) => {
                if self.cri.kill_sandbox(&self.name(*pod)) {
                    self.wanted[*pod].disturbed = true;
                }
            }
            Step::EndContainer { pod, container, code } => {
                let name = self.name(*pod);
                let names = crate::scenario::containers_of(&self.wanted[*pod].pod);
                if let Some((container, _)) = names.get(*container)
                    && self.cri.end_container(&name, container, *code)
                {
                    self.wanted[*pod].disturbed = true;
                }
            }
            Step::Remove(pod) => self.change(*pod, |wanted| wanted.listed = false),
            Step::Readd(pod) => self.change(*pod, |wanted| {
                // The API does not bring a deleted object back.
                if wanted.pod.metadata.deletion_timestamp.is_none() {
                    wanted.given_back |= !wanted.listed;
                    wanted.listed = true;
                }
            }),
            Step::Recreate(pod) => self.recreate(*pod),
            Step::Delete { pod, grace } => {
                let now = self.clock.now();
                self.change(*pod, |wanted| {
                    if !wanted.listed || wanted.pod.metadata.deletion_timestamp.is_some() {
                        return;
                    }
                    let mut pod = (*wanted.pod).clone();
                    pod.metadata.deletion_timestamp = Some(Time(now));
                    pod.metadata.deletion_grace_period_seconds = Some(*grace);
                    wanted.pod = Arc::new(pod);
                });
            }
            Step::ChangeImage { pod, container } => {
                if rubelet_core::phase::is_static(&self.wanted[*pod].pod) {
                    return Ok(());
                }
                self.change(*pod, |wanted| {
                    let mut pod = (*wanted.pod).clone();
                    let Some(spec) = pod.spec.as_mut() else { return };
                    if let Some(container) = spec.containers.get_mut(*container) {
                        container.image = Some("changed:1".to_owned());
                    }
                    wanted.pod = Arc::new(pod);
                });
            }
            Step::Network(works) => self.cri.set_network_problem((!works).then_some("no plugin")),
        }
        self.marks.add(&self.cri, Mark::Note(format!("step {step:?}")));
        Ok(())
    }

    /// Changes what is wanted and delivers it.
    pub fn change(&mut self, pod: usize, change: impl FnOnce(&mut Wanted)) {
        change(&mut self.wanted[pod]);
        self.deliver(false);
    }

    fn recreate(&mut self, pod: usize) {
        let wanted = &mut self.wanted[pod];
        wanted.generation += 1;
        let mut fresh = (*wanted.pod).clone();
        let uid = format!("{}-uid-{}", self.cri_name(pod), self.wanted[pod].generation);
        fresh.metadata.uid = Some(uid.clone());
        fresh.metadata.deletion_timestamp = None;
        fresh.metadata.deletion_grace_period_seconds = None;
        if rubelet_core::phase::is_static(&fresh) {
            let annotations = fresh.metadata.annotations.get_or_insert_default();
            annotations.insert(rubelet_core::static_pod::CONFIG_HASH_ANNOTATION.to_owned(), uid.clone());
        }
        self.uids.push(uid);
        let wanted = &mut self.wanted[pod];
        wanted.pod = Arc::new(fresh);
        (wanted.listed, wanted.disturbed, wanted.given_back) = (true, false, false);
        self.deliver(false);
    }

    fn cri_name(&self, pod: usize) -> String {
        self.wanted[pod].pod.metadata.name.clone().unwrap_or_default()
    }

    /// The name of a pod.
    pub fn name(&self, pod: usize) -> String {
        self.cri_name(pod)
    }
}

/// Sees every status that is published.
async fn watch(handle: KubeletHandle, cri: ScriptedCri, marks: Marks) {
    let mut changes = handle.changes();
    let mut seen: BTreeMap<String, StatusView> = BTreeMap::new();
    loop {
        changes.borrow_and_update();
        let rows = handle.pods();
        let views: BTreeMap<String, StatusView> = rows
            .iter()
            .map(|row| {
                let uid = uid_of(&row.pod);
                (uid.clone(), StatusView::of(&uid, row))
            })
            .collect();
        for (uid, view) in &views {
            if seen.get(uid) != Some(view) {
                marks.add(&cri, Mark::Status(view.clone()));
            }
        }
        for uid in seen.keys().filter(|uid| !views.contains_key(*uid)) {
            marks.add(&cri, Mark::RowGone(uid.clone()));
        }
        seen = views;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// A directory for one run, in memory where the machine has such a place.
fn scratch() -> TempDir {
    tempfile::Builder::new()
        .prefix("rubelet-sim-")
        .tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a scratch directory")
}
