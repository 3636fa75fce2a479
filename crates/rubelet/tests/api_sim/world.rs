//! The world of one run: the fake API server, the scripted runtime, the agent that lives between them and dies, and
//! the users, controllers and troubles around. Carries out a scenario step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, PodCondition, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rubelet::KubeletConfiguration;
use rubelet::clock::Clock;
use rubelet::control_plane::ApiServer;
use rubelet::node_agent::{FixedProbe, Usage};
use rubelet_core::node::info::MachineIdentity;
use rubelet_core::node::pressure::Observation;
use rubelet_cri::Deadlines;
use rubelet_linux::node_facts::{FileSystem, NodeMachine};
use rubelet_testkit::fake_api::{Failure, FaultHandle, Options, Outage};
use rubelet_testkit::scripted::{BASE_SECOND, HookAction, Op, PullScript};
use rubelet_testkit::{FakeApi, ScriptedCri};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::gate::{CrashPoint, Gate, Side};
use crate::in_process;
use crate::judge::{Judge, is_node_ready, uid_of};
use crate::scenario::{Away, GATE, Kind, NODE, Scenario, SimPod, Step, WatchTrouble, fault};
use crate::story::Story;
use crate::wire::Wire;

/// Dead connections are noticed after this time.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often the judge looks while nothing happens.
const TICK: Duration = Duration::from_secs(5);
/// So soon after an outage there may be no storm.
const STORM: Duration = Duration::from_secs(5);

/// Never more requests at once than this, and one for each pod: all may need their tokens at once.
const OPEN_AT_ONCE: usize = 40;

/// Something that happens by itself later.
enum Due {
    OutageEnds(Away),
    Cut,
    Fast,
    Storm { since: Instant, limit: usize },
}

/// Everything of one run.
pub struct World {
    pub api: FakeApi,
    pub cri: ScriptedCri,
    pub judge: Judge,
    pub story: Story,
    pub wire: Arc<Wire>,
    pub gate: Arc<Gate>,
    pub pods: Vec<SimPod>,
    /// Every UID of a pod that the runtime may have known, with its name.
    pub uids: BTreeMap<String, String>,
    /// Manifests on the node, by the place of their pod.
    pub manifests: BTreeMap<usize, String>,
    clock: Clock,
    dir: TempDir,
    agent: Option<(JoinHandle<Result<(), String>>, Instant)>,
    restart_at: Option<Instant>,
    /// How long the agent stays away after the armed crash.
    down: Duration,
    due: Vec<(Instant, Due)>,
    faults: Vec<FaultHandle>,
    /// No trouble has been made since.
    fine_since: Instant,
    out: bool,
    latency: Duration,
    generation: u64,
    changes: u64,
}

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(scenario: &Scenario) -> Self {
        let base = Timestamp::from_second(BASE_SECOND).unwrap_or(Timestamp::UNIX_EPOCH);
        let true_time = Clock::simulated(base);
        let now = Arc::new(move || true_time.now());
        let api = FakeApi::with(Options { now, service_accounts: true, ..Options::default() });
        api.latency(scenario.latency);
        let cri = ScriptedCri::new(scenario.kind);
        let story = Story::new();
        let gate = Arc::new(Gate::new(story.clone()));
        let judge = Judge::new(&api, &cri, &story, scenario.faults.is_none());
        let looks = judge.clone();
        let wire =
            Wire::new(&api, NODE, gate.clone(), story.clone(), Box::new(move |asked| looks.look(asked)));
        let reads = std::env::var_os("RUBELET_SIM_READS").is_some();
        let (at_gate, judges, told) = (gate.clone(), judge.clone(), story.clone());
        cri.set_hook(move |point| {
            let subject = &point.subject;
            let what = || format!("{:?} {} {} {}", point.op, subject.pod_name, subject.container, subject.id);
            if !at_gate.pass(Side::Runtime, point.phase, &what) {
                return HookAction::Park;
            }
            if point.op.acts() || reads {
                told.tell(format!("CRI   {:?} {}", point.phase, what()));
            }
            judges.call(point);
            HookAction::Continue
        });
        for pod in &scenario.pods {
            for container in containers_of(&pod.pod) {
                let behaviours = match container.as_str() {
                    "app" => pod.behaviours.clone(),
                    "second" if pod.kind == Kind::Job => pod.behaviours.clone(),
                    "init" => vec![rubelet_testkit::scripted::Behaviour::exits(Duration::from_secs(1), 0)],
                    _ => vec![rubelet_testkit::scripted::Behaviour::forever()],
                };
                cri.script_container(&pod.api_name(), &container, behaviours);
            }
            if pod.kind != Kind::Steady {
                judge.disturb(&pod.api_name());
            }
        }
        cri.set_duration(Op::StartContainer, scenario.start_takes);
        cri.set_duration(Op::RunPodSandbox, scenario.start_takes);
        cri.script_default_pull(PullScript::takes(scenario.pull_takes));
        Self {
            api,
            cri,
            judge,
            story,
            wire,
            gate,
            pods: scenario.pods.clone(),
            uids: BTreeMap::new(),
            manifests: BTreeMap::new(),
            clock: Clock::simulated(base),
            dir: scratch(),
            agent: None,
            restart_at: None,
            down: Duration::ZERO,
            due: vec![],
            faults: vec![],
            fine_since: Instant::now(),
            out: false,
            latency: scenario.latency,
            generation: 0,
            changes: 0,
        }
    }

    /// The agent's root directory.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    fn manifest_path(&self, pod: usize) -> PathBuf {
        self.dir.path().join("manifests").join(format!("{}.json", self.pods[pod].name))
    }

    /// Whether an agent lives and no trouble is to come.
    pub fn is_calm(&self) -> bool {
        self.agent.is_some() && self.due.is_empty() && !self.gate.is_armed()
    }

    /// Makes an agent.
    pub async fn start(&mut self) -> Result<(), String> {
        self.story.tell("AGENT starts");
        self.gate.revive();
        let root = self.dir.path();
        std::fs::create_dir_all(root.join("manifests")).map_err(|error| error.to_string())?;
        let config = KubeletConfiguration {
            static_pod_path: root.join("manifests").display().to_string(),
            ..in_process::config(root)
        };
        let deadlines = Deadlines {
            exec_without_timeout: Duration::from_secs(60),
            ..Deadlines::with_request(Duration::from_secs(30))
        };
        let runtime = Arc::new(self.cri.with_deadlines(deadlines));
        let kubelet = in_process::agent(config, root, NODE, self.clock.clone())
            .runtime(runtime.clone(), runtime)
            .api_server(ApiServer::Connected(self.wire.connect()))
            .node_machine(node_machine(), Arc::new(probe()))
            .build()
            .await
            .map_err(|error| format!("the agent cannot start: {error}"))?;
        let task = tokio::spawn(kubelet.run(std::future::pending()));
        self.restart_at = None;
        self.agent = Some((task, Instant::now()));
        Ok(())
    }

    /// The agent is gone, and comes back after a while.
    pub async fn crash(&mut self, down: Duration) -> Result<(), String> {
        self.gate.kill();
        self.restart_at = Some(Instant::now() + down);
        let Some((task, _)) = self.agent.take() else { return Ok(()) };
        task.abort();
        if let Ok(ended) = task.await {
            return Err(format!("the agent had ended by itself: {ended:?}"));
        }
        // What it owned goes with it, task by task: each is dropped when its turn comes.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.trouble();
        self.story.tell("AGENT gone");
        Ok(())
    }

    /// The next crash comes there.
    pub fn arm(&mut self, point: CrashPoint, down: Duration) {
        self.gate.arm(Some(point));
        self.down = down;
    }

    fn trouble(&mut self) {
        self.fine_since = Instant::now();
    }

    fn later(&mut self, after: Duration, due: Due) {
        self.due.push((Instant::now() + after, due));
    }

    /// Lets time pass: crashes, restarts and what else is due happen.
    pub async fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = Instant::now() + time;
        loop {
            let due = self.due.iter().map(|(at, _)| *at).min();
            let tick = Instant::now() + TICK;
            let next = [Some(until), due, self.restart_at].into_iter().flatten().fold(tick, Instant::min);
            let gate = self.gate.clone();
            // Cancel safe: both only wait.
            tokio::select! {
                biased;
                () = gate.tripped.notified() => {
                    let down = self.down;
                    self.crash(down).await?;
                    continue;
                }
                () = tokio::time::sleep_until(next) => {}
            }
            let now = Instant::now();
            if let Some((task, _)) = self.agent.as_mut().filter(|(task, _)| task.is_finished()) {
                return Err(format!("the agent ended by itself: {:?}", task.await));
            }
            if self.restart_at.is_some_and(|at| at <= now) {
                self.start().await?;
            }
            let (past, due): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.due).into_iter().partition(|(at, _)| *at <= now);
            self.due = due;
            for (_, due) in past {
                self.happen(due);
            }
            self.tick(now);
            if let Some((_, what)) = self.story.first_wrong() {
                return Err(what);
            }
            if now >= until {
                return Ok(());
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        let (_, most_open) = self.wire.traffic_since(now);
        let fine = self.is_calm() && !self.out && self.faults.iter().all(|fault| fault.hits() == 0);
        let alive = self.agent.as_ref().map(|(_, since)| (*since).max(self.fine_since));
        self.judge.tick(alive.filter(|_| fine), most_open, OPEN_AT_ONCE + self.pods.len());
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::OutageEnds(away) => {
                self.story.tell("API server is back");
                self.api.outage(Outage::None);
                self.out = false;
                self.trouble();
                if matches!(away, Away::HalfOpen) {
                    // Whatever hung on its connections hangs for ever.
                    self.wire.cut();
                }
                let pods = self.pods.len();
                self.later(STORM, Due::Storm { since: Instant::now(), limit: 60 + 20 * pods });
            }
            Due::Cut => {
                self.story.tell("dead connections are noticed");
                self.wire.cut();
            }
            Due::Fast => {
                self.api.latency(self.latency);
                self.trouble();
            }
            Due::Storm { since, limit } => {
                let (sent, _) = self.wire.traffic_since(since);
                self.story.tell(format!("{sent} requests in the first seconds after the outage"));
                if sent > limit {
                    self.story.wrong(format!("a storm of {sent} requests after an outage"));
                }
            }
        }
    }

    /// Heartbeats may stay out from now on, or no longer.
    pub fn excuse(&mut self, out: bool) {
        self.out = out;
        self.trouble();
    }

    /// Sets the node's clock ahead, or back.
    pub fn set_clock(&self, seconds: i64) {
        self.clock.set_ahead(SignedDuration::from_secs(seconds));
    }

    /// Carries out one step of a scenario.
    pub async fn take(&mut self, step: &Step) -> Result<(), String> {
        self.story.tell(format!("STEP  {step:?}"));
        match step {
            Step::Create(pod) => self.create(*pod),
            Step::Delete { pod, grace } => self.delete(*pod, *grace),
            Step::Replace(pod) => {
                self.delete(*pod, 0);
                self.create(*pod);
            }
            Step::DeleteMirror(pod) => {
                if self.pods[*pod].is_static {
                    self.api.delete_with_grace::<Pod>("default", &self.pods[*pod].api_name(), 0);
                }
            }
            Step::Provide(pod) => self.provide(*pod),
            Step::Withdraw(pod) => self.withdraw(*pod),
            Step::SetGate(pod, open) => self.set_gate(*pod, *open),
            Step::Label(pod) => {
                let name = self.pods[*pod].api_name();
                self.changes += 1;
                let changes = self.changes.to_string();
                if !self.pods[*pod].is_static && self.api.get::<Pod>("default", &name).is_some() {
                    self.api.modify::<Pod>("default", &name, |pod| {
                        pod.metadata.labels.get_or_insert_default().insert("changes".to_owned(), changes);
                    });
                }
            }
            Step::Crash(down) => self.crash(*down).await?,
            Step::CrashAt(point, down) => self.arm(*point, *down),
            Step::Requests { failure, verb, resource, times } => {
                self.trouble();
                self.faults.push(self.api.fail(fault(failure, verb, resource, *times)));
                if matches!(failure, Failure::HalfOpen | Failure::Hang) {
                    self.later(KEEP_ALIVE, Due::Cut);
                }
            }
            Step::Outage(away, time) => {
                if self.out {
                    return Ok(());
                }
                self.out = true;
                self.trouble();
                match away {
                    Away::Refuses => self.api.outage(Outage::Refuse),
                    Away::HalfOpen => {
                        self.api.outage(Outage::Hang);
                        self.later(KEEP_ALIVE, Due::Cut);
                    }
                }
                self.later(*time, Due::OutageEnds(*away));
            }
            Step::Watches(trouble, resource) => match trouble {
                WatchTrouble::Close => self.api.close_watches(resource),
                WatchTrouble::Reset => self.api.reset_watches(resource),
                WatchTrouble::Expire => self.api.expire_watches(resource),
                WatchTrouble::Garble => self.api.garble_watches(resource),
                WatchTrouble::Silence => self.api.silence_watches(resource),
            },
            Step::Compact => self.api.compact(),
            Step::Slow(latency, time) => {
                self.trouble();
                self.api.latency(*latency);
                self.later(*time, Due::Fast);
            }
            Step::Clock(milliseconds) => self.clock.set_ahead(SignedDuration::from_millis(*milliseconds)),
            Step::RestartRuntime(down) => {
                self.judge.runtime_trouble();
                self.cri.restart_runtime(*down);
            }
            Step::KillSandbox(pod) => {
                let name = self.pods[*pod].api_name();
                self.judge.disturb(&name);
                self.cri.kill_sandbox(&name);
            }
            Step::EndContainer(pod) => {
                let name = self.pods[*pod].api_name();
                self.judge.disturb(&name);
                self.cri.end_container(&name, "app", 1);
            }
            Step::NodeUnknown => {
                if self.api.get::<Node>("", NODE).is_some_and(|node| is_node_ready(&node)) {
                    self.judge.disturb_node(Instant::now() + Duration::from_secs(15));
                    self.api.modify_status::<Node>("", NODE, |node| {
                        let conditions =
                            node.status.iter_mut().flat_map(|s| s.conditions.iter_mut().flatten());
                        for condition in conditions.filter(|condition| condition.type_ == "Ready") {
                            condition.status = "Unknown".to_owned();
                            condition.reason = Some("NodeStatusUnknown".to_owned());
                        }
                    });
                }
            }
            Step::LabelNode => {
                if self.api.get::<Node>("", NODE).is_some() {
                    self.api.modify::<Node>("", NODE, |node| {
                        node.metadata.labels.get_or_insert_default().insert("zone".into(), "z".into());
                    });
                }
            }
        }
        Ok(())
    }

    /// A user makes the pod, or somebody writes the manifest.
    pub fn create(&mut self, pod: usize) {
        let made = self.pods[pod].clone();
        let name = made.api_name();
        if made.need.is_some() && made.has_need {
            self.provide(pod);
        }
        if made.is_static {
            if self.manifests.contains_key(&pod) {
                return;
            }
            self.generation += 1;
            let uid = format!("{}-uid-{}", made.name, self.generation);
            let mut manifest = made.pod;
            manifest.metadata.uid = Some(uid.clone());
            manifest.metadata.creation_timestamp = None;
            if let Some(spec) = &mut manifest.spec {
                spec.node_name = None;
            }
            let text = serde_json::to_string(&manifest).unwrap_or_default();
            let _ = std::fs::create_dir_all(self.dir.path().join("manifests"));
            std::fs::write(self.manifest_path(pod), text).expect("a manifest in a scratch directory");
            self.judge.manifest(&uid, true);
            self.uids.insert(uid.clone(), name);
            self.manifests.insert(pod, uid);
            return;
        }
        if self.api.get::<Pod>("default", &name).is_some() {
            return;
        }
        let created = self.api.create(&made.pod);
        self.uids.insert(uid_of(&created), name);
    }

    /// A user deletes the pod, or somebody removes the manifest.
    pub fn delete(&mut self, pod: usize, grace: i64) {
        if self.pods[pod].is_static {
            if let Some(uid) = self.manifests.remove(&pod) {
                self.judge.manifest(&uid, false);
                std::fs::remove_file(self.manifest_path(pod)).expect("the manifest is there");
            }
            return;
        }
        self.api.delete_with_grace::<Pod>("default", &self.pods[pod].api_name(), grace);
    }

    fn provide(&mut self, pod: usize) {
        let Some(need) = self.pods[pod].need else { return };
        let name = self.pods[pod].need_name();
        self.changes += 1;
        let value = format!("value {}", self.changes);
        let metadata = ObjectMeta {
            name: Some(name.clone()),
            namespace: Some("default".to_owned()),
            ..ObjectMeta::default()
        };
        if need.is_config() {
            let data = Some([("key".to_owned(), value)].into());
            self.api.apply(&ConfigMap { metadata, data, ..ConfigMap::default() });
        } else {
            let data = Some([("key".to_owned(), ByteString(value.into_bytes()))].into());
            self.api.apply(&Secret { metadata, data, ..Secret::default() });
        }
    }

    fn withdraw(&mut self, pod: usize) {
        let Some(need) = self.pods[pod].need else { return };
        let name = self.pods[pod].need_name();
        if need.is_config() {
            self.api.delete::<ConfigMap>("default", &name);
        } else {
            self.api.delete::<Secret>("default", &name);
        }
    }

    /// Whether the object that a pod needs is there.
    pub fn is_provided(&self, pod: usize) -> bool {
        let name = self.pods[pod].need_name();
        match self.pods[pod].need {
            None => true,
            Some(need) if need.is_config() => self.api.get::<ConfigMap>("default", &name).is_some(),
            Some(_) => self.api.get::<Secret>("default", &name).is_some(),
        }
    }

    /// The pod's readiness gate is opened or closed.
    pub fn set_gate(&mut self, pod: usize, open: bool) {
        let name = self.pods[pod].api_name();
        if !self.pods[pod].gated || self.api.get::<Pod>("default", &name).is_none() {
            return;
        }
        self.api.modify_status::<Pod>("default", &name, |pod| {
            let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
            conditions.retain(|condition| condition.type_ != GATE);
            conditions.push(PodCondition {
                type_: GATE.to_owned(),
                status: if open { "True" } else { "False" }.to_owned(),
                ..PodCondition::default()
            });
        });
    }

    /// Ends every trouble.
    pub async fn calm(&mut self) -> Result<(), String> {
        self.story.tell("CALM");
        self.gate.arm(None);
        self.cri.stop_faults();
        for fault in std::mem::take(&mut self.faults) {
            fault.stop();
        }
        if self.out {
            self.due.retain(|(_, due)| !matches!(due, Due::OutageEnds(_)));
            self.happen(Due::OutageEnds(Away::HalfOpen));
        }
        self.due.retain(|(_, due)| !matches!(due, Due::Fast));
        self.happen(Due::Fast);
        let hangs = |call: &rubelet_testkit::scripted::Call| {
            matches!(call.op, Op::PullImage | Op::ExecSync)
                && call.outcome == rubelet_testkit::scripted::Outcome::Open
        };
        if self.cri.history().iter().any(hangs) {
            self.judge.runtime_trouble();
            self.cri.restart_runtime(Duration::ZERO);
        }
        // What was put into silence stays there until its connection is given up.
        self.pass(Duration::from_secs(16)).await
    }

    /// Everything in the runtime about pods, by UID.
    pub fn runtime_uids(&self) -> BTreeSet<String> {
        self.cri.running_containers().into_iter().map(|running| running.subject.pod_uid).collect()
    }
}

/// All containers of a pod's spec.
pub fn containers_of(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return vec![] };
    let inits = spec.init_containers.iter().flatten();
    inits.chain(&spec.containers).map(|container| container.name.clone()).collect()
}

/// A directory for one run, in memory where the machine has such a place.
fn scratch() -> TempDir {
    tempfile::Builder::new()
        .prefix("rubelet-api-sim-")
        .tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a scratch directory")
}

fn node_machine() -> NodeMachine {
    NodeMachine {
        identity: MachineIdentity {
            machine_id: "machine".into(),
            system_uuid: "system".into(),
            boot_id: "boot".into(),
            kernel_release: "6.1.0".into(),
            os_image: "Debian".into(),
            architecture: "amd64".into(),
            ..Default::default()
        },
        cpus: 16,
        memory_bytes: 64 << 30,
        huge_pages: vec![],
    }
}

fn probe() -> FixedProbe {
    let space = Observation { available: 1 << 38, capacity: 1 << 40 };
    FixedProbe {
        usage: Usage {
            memory: Some(Observation { available: 1 << 35, capacity: 1 << 36 }),
            node_fs: Some(FileSystem { bytes: space, inodes: None }),
            image_fs: Some(FileSystem { bytes: space, inodes: None }),
            ..Usage::default()
        },
        ips: vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))],
    }
}
