//! What one seed means: which pods users and the scheduler make, what happens to them, to the agent, to the runtime
//! and to the API server. Drawn from the seed alone; nothing here runs anything.

use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ConfigMapKeySelector, ConfigMapVolumeSource, EnvFromSource, EnvVar, EnvVarSource, Pod, PodReadinessGate,
    SecretEnvSource, SecretVolumeSource, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rubelet_testkit::fake_api::{Failure, Fault};
use rubelet_testkit::pods;
use rubelet_testkit::scripted::{Behaviour, Phase, RandomFaults, Rng, RuntimeKind};

use crate::gate::{CrashPoint, Side};

/// The name of the node.
pub const NODE: &str = "node";
/// The condition of readiness gates.
pub const GATE: &str = "example.com/served";

/// What a pod comes to when nobody interferes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Runs for ever.
    Steady,
    /// Ends by itself.
    Job,
    /// Ends a few times, then runs for ever.
    Crashing,
    /// Does not fit.
    TooBig,
}

/// An object that a pod needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A ConfigMap for the environment.
    ConfigEnv,
    /// A Secret for the environment.
    SecretEnv,
    /// A ConfigMap as a volume.
    ConfigVolume,
    /// A Secret as a volume.
    SecretVolume,
}

impl Need {
    /// Whether it is a ConfigMap.
    pub fn is_config(self) -> bool {
        matches!(self, Self::ConfigEnv | Self::ConfigVolume)
    }
    /// Whether it is for the environment.
    pub fn is_env(self) -> bool {
        matches!(self, Self::ConfigEnv | Self::SecretEnv)
    }
}

/// A pod of the API, or a manifest on the node.
#[derive(Clone, Debug)]
pub struct SimPod {
    pub name: String,
    pub kind: Kind,
    pub is_static: bool,
    pub need: Option<Need>,
    /// The object is there from the start.
    pub has_need: bool,
    pub gated: bool,
    /// As it is created.
    pub pod: Pod,
    pub behaviours: Vec<Behaviour>,
}

impl SimPod {
    /// The name of the object it needs.
    pub fn need_name(&self) -> String {
        format!("of-{}", self.name)
    }

    /// The name that it has in the API.
    pub fn api_name(&self) -> String {
        if self.is_static { format!("{}-{NODE}", self.name) } else { self.name.clone() }
    }
}

/// How the API server is away.
#[derive(Clone, Copy, Debug)]
pub enum Away {
    Refuses,
    HalfOpen,
}

/// What happens to open watches.
#[derive(Clone, Copy, Debug)]
pub enum WatchTrouble {
    Close,
    Reset,
    Expire,
    Garble,
    Silence,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// A user makes the pod; a manifest is written.
    Create(usize),
    /// A user deletes the pod; a manifest is removed.
    Delete { pod: usize, grace: i64 },
    /// The pod is deleted by force and made again at once.
    Replace(usize),
    /// A user deletes the mirror.
    DeleteMirror(usize),
    /// What the pod needs appears, or changes.
    Provide(usize),
    /// What the pod needs is deleted.
    Withdraw(usize),
    /// Whoever owns the readiness gate opens or closes it.
    SetGate(usize, bool),
    /// A label changes.
    Label(usize),
    /// The agent is gone at once and comes back after a while.
    Crash(Duration),
    /// The agent dies at a call or a request.
    CrashAt(CrashPoint, Duration),
    /// Requests meet a fault: which, so many times, of these.
    Requests { failure: Failure, verb: &'static str, resource: &'static str, times: usize },
    /// The API server is away.
    Outage(Away, Duration),
    /// Open watches suffer.
    Watches(WatchTrouble, &'static str),
    /// The server forgets its history.
    Compact,
    /// Every answer takes so long, for a while.
    Slow(Duration, Duration),
    /// The node's clock is set.
    Clock(i64),
    /// The runtime is away for a while.
    RestartRuntime(Duration),
    /// The pod's sandbox dies.
    KillSandbox(usize),
    /// A container ends.
    EndContainer(usize),
    /// A controller says that the node was not heard of.
    NodeUnknown,
    /// A label of the Node changes.
    LabelNode,
}

/// Everything a seed means.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub kind: RuntimeKind,
    pub pods: Vec<SimPod>,
    pub faults: Option<RandomFaults>,
    /// What happens, each after a pause.
    pub steps: Vec<(Duration, Step)>,
    /// Answers take so long.
    pub latency: Duration,
    pub start_takes: Duration,
    pub pull_takes: Duration,
    /// Only what a quiet day brings: events and exact counts can be asked for.
    pub adopt_at_end: bool,
}

fn milliseconds(rng: &mut Rng, longest: u64) -> Duration {
    Duration::from_millis(rng.below(longest + 1))
}

fn one_in(rng: &mut Rng, n: u64) -> bool {
    rng.below(n) == 0
}

fn pick<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    let count = u64::try_from(all.len()).unwrap_or(1);
    all[usize::try_from(rng.below(count)).unwrap_or(0)]
}

impl Scenario {
    /// Draws the scenario of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0xa11_5eed);
        let rng = &mut rng;
        let kind = pick(rng, &[RuntimeKind::Containerd16, RuntimeKind::Containerd2, RuntimeKind::CriO]);
        let count = 2 + rng.below(3);
        let mut pods: Vec<SimPod> = (0..count).map(|index| draw_pod(rng, index)).collect();
        for index in 0..rng.below(3) {
            pods.push(SimPod::manifest(&format!("s{index}")));
        }
        let faults = one_in(rng, 3).then(|| RandomFaults::rough(rng.next_u64()));
        let steps = draw_steps(rng, &pods);
        Self {
            seed,
            kind,
            pods,
            faults,
            steps,
            latency: milliseconds(rng, 30),
            start_takes: milliseconds(rng, 300),
            pull_takes: milliseconds(rng, 2000),
            adopt_at_end: one_in(rng, 3),
        }
    }

    /// A calm scenario with these pods, which all are there from the start.
    pub fn calm(pods: Vec<SimPod>) -> Self {
        let steps = (0..pods.len()).map(|pod| (Duration::ZERO, Step::Create(pod))).collect();
        Self {
            seed: 0,
            kind: RuntimeKind::Containerd2,
            pods,
            faults: None,
            steps,
            latency: Duration::from_millis(2),
            start_takes: Duration::from_millis(100),
            pull_takes: Duration::from_millis(200),
            adopt_at_end: false,
        }
    }
}

impl SimPod {
    /// A pod of one container that runs for ever.
    pub fn steady(name: &str) -> Self {
        let container = pods::container("app").build();
        Self::of(name, Kind::Steady, vec![Behaviour::forever()], container)
    }

    /// A manifest of one container that runs for ever.
    pub fn manifest(name: &str) -> Self {
        let mut made = Self::steady(name);
        made.is_static = true;
        made
    }

    fn of(
        name: &str,
        kind: Kind,
        behaviours: Vec<Behaviour>,
        container: k8s_openapi::api::core::v1::Container,
    ) -> Self {
        let mut pod = pods::pod(name).grace(5).build();
        if let Some(spec) = &mut pod.spec {
            spec.containers = vec![container];
            if kind == Kind::Job {
                spec.restart_policy = Some("Never".to_owned());
            }
        }
        Self {
            name: name.to_owned(),
            kind,
            is_static: false,
            need: None,
            has_need: true,
            gated: false,
            pod,
            behaviours,
        }
    }

    fn edit(&mut self, edit: impl FnOnce(&mut k8s_openapi::api::core::v1::PodSpec)) {
        if let Some(spec) = &mut self.pod.spec {
            edit(spec);
        }
    }

    /// The same, needing an object.
    pub fn needing(mut self, need: Need, has_need: bool) -> Self {
        (self.need, self.has_need) = (Some(need), has_need);
        let name = self.need_name();
        self.edit(|spec| match need {
            Need::ConfigEnv => {
                let key = ConfigMapKeySelector { name, key: "key".to_owned(), optional: None };
                let from = EnvVarSource { config_map_key_ref: Some(key), ..Default::default() };
                let variable =
                    EnvVar { name: "KEY".to_owned(), value_from: Some(from), ..Default::default() };
                spec.containers[0].env.get_or_insert_default().push(variable);
            }
            Need::SecretEnv => {
                let secret = SecretEnvSource { name, optional: None };
                let from = EnvFromSource { secret_ref: Some(secret), ..Default::default() };
                spec.containers[0].env_from.get_or_insert_default().push(from);
            }
            Need::ConfigVolume => {
                let source = ConfigMapVolumeSource { name, ..Default::default() };
                let volume =
                    Volume { name: "data".to_owned(), config_map: Some(source), ..Default::default() };
                spec.volumes.get_or_insert_default().push(volume);
            }
            Need::SecretVolume => {
                let source = SecretVolumeSource { secret_name: Some(name), ..Default::default() };
                let volume = Volume { name: "data".to_owned(), secret: Some(source), ..Default::default() };
                spec.volumes.get_or_insert_default().push(volume);
            }
        });
        self
    }

    /// The same, with a readiness gate.
    pub fn gated(mut self) -> Self {
        self.gated = true;
        let gate = PodReadinessGate { condition_type: GATE.to_owned() };
        self.edit(|spec| spec.readiness_gates.get_or_insert_default().push(gate));
        self
    }

    /// A pod that no node is big enough for.
    pub fn too_big(name: &str) -> Self {
        let container = pods::container("app")
            .edit(|container| {
                let cpu = [("cpu".to_owned(), Quantity("1000".to_owned()))].into();
                container.resources.get_or_insert_default().requests = Some(cpu);
            })
            .build();
        Self::of(name, Kind::TooBig, vec![Behaviour::forever()], container)
    }

    /// A pod that ends with this code.
    pub fn job(name: &str, after: Duration, code: i32) -> Self {
        let container = pods::container("app").build();
        Self::of(name, Kind::Job, vec![Behaviour::exits(after, code)], container)
    }
}

fn draw_pod(rng: &mut Rng, index: u64) -> SimPod {
    let name = format!("p{index}");
    let stop = milliseconds(rng, 3000);
    let forever = Behaviour::forever().stopping_for(stop);
    let mut pod = match rng.below(20) {
        0..12 => SimPod::steady(&name),
        12..15 => SimPod::job(&name, milliseconds(rng, 20_000), i32::try_from(rng.below(2)).unwrap_or(0)),
        15..18 => {
            let exit = Behaviour::exits(milliseconds(rng, 10_000), 1);
            let mut pod = SimPod::steady(&name);
            (pod.kind, pod.behaviours) = (Kind::Crashing, vec![exit, forever.clone()]);
            pod
        }
        _ => return SimPod::too_big(&name),
    };
    if pod.kind == Kind::Steady {
        pod.behaviours = vec![forever];
    }
    if one_in(rng, 3) {
        let need = pick(rng, &[Need::ConfigEnv, Need::SecretEnv, Need::ConfigVolume, Need::SecretVolume]);
        let there = !one_in(rng, 3);
        pod = pod.needing(need, there);
    }
    if one_in(rng, 4) {
        pod = pod.gated();
    }
    let host_network = one_in(rng, 6);
    let init = one_in(rng, 4);
    let sidecar = one_in(rng, 5);
    let second = one_in(rng, 3);
    let grace = pick(rng, &[1, 2, 10, 30]);
    pod.edit(|spec| {
        spec.termination_grace_period_seconds = Some(grace);
        spec.host_network = host_network.then_some(true);
        let mut inits = Vec::new();
        if sidecar {
            inits.push(pods::container("sidecar").sidecar().build());
        }
        if init {
            inits.push(pods::container("init").build());
        }
        spec.init_containers = (!inits.is_empty()).then_some(inits);
        if second {
            spec.containers.push(pods::container("second").build());
        }
    });
    pod
}

fn draw_failure(rng: &mut Rng) -> Failure {
    match rng.below(20) {
        0 => Failure::Status(401, None),
        1 => Failure::Status(403, None),
        2 => Failure::Status(409, None),
        3 => Failure::Status(410, None),
        4 | 5 => Failure::Status(429, Some(u32::try_from(1 + rng.below(5)).unwrap_or(1))),
        6 | 7 => Failure::Status(500, None),
        8 => Failure::Status(503, Some(1)),
        9 => Failure::Status(504, None),
        10 => Failure::Reset,
        11 | 12 => Failure::ResetAfter,
        13 => Failure::Hang,
        14 => Failure::HalfOpen,
        15 => Failure::SlowBody(milliseconds(rng, 20_000)),
        16 => Failure::CutBody,
        17 => Failure::Garbage,
        18 => Failure::CloseWatch,
        _ => Failure::Expire,
    }
}

const SCOPES: [(&str, &str); 16] = [
    ("*", "*"),
    ("*", "*"),
    ("*", "pods"),
    ("list", "pods"),
    ("watch", "pods"),
    ("patch", "pods/status"),
    ("patch", "pods/status"),
    ("delete", "pods"),
    ("create", "pods"),
    ("create", "serviceaccounts/token"),
    ("*", "configmaps"),
    ("*", "secrets"),
    ("*", "leases"),
    ("patch", "nodes/status"),
    ("create", "nodes"),
    ("create", "events"),
];

fn draw_steps(rng: &mut Rng, pods: &[SimPod]) -> Vec<(Duration, Step)> {
    let mut steps = Vec::new();
    for (index, pod) in pods.iter().enumerate() {
        let pause = if one_in(rng, 2) { Duration::ZERO } else { milliseconds(rng, 5000) };
        if !one_in(rng, 6) {
            steps.push((pause, Step::Create(index)));
        }
        if one_in(rng, 3) && pod.gated {
            steps.push((milliseconds(rng, 3000), Step::SetGate(index, true)));
        }
    }
    for _ in 0..4 + rng.below(10) {
        let pause = match rng.below(4) {
            0 => milliseconds(rng, 100),
            1 => milliseconds(rng, 3000),
            2 => milliseconds(rng, 15_000),
            _ => milliseconds(rng, 60_000),
        };
        let pod = usize::try_from(rng.below(u64::try_from(pods.len()).unwrap_or(1))).unwrap_or(0);
        steps.push((pause, draw_step(rng, pods, pod)));
    }
    steps
}

fn draw_step(rng: &mut Rng, pods: &[SimPod], pod: usize) -> Step {
    let down =
        |rng: &mut Rng| if one_in(rng, 2) { milliseconds(rng, 300) } else { milliseconds(rng, 20_000) };
    let phase = if one_in(rng, 2) { Phase::Before } else { Phase::After };
    match rng.below(36) {
        0..3 => Step::Create(pod),
        3..6 => Step::Delete { pod, grace: i64::try_from(rng.below(12)).unwrap_or(0) },
        6 => Step::Delete { pod, grace: 0 },
        7 => Step::Replace(pod),
        8 => Step::DeleteMirror(pods.iter().position(|pod| pod.is_static).unwrap_or(pod)),
        9 | 10 => Step::Provide(pods.iter().position(|pod| pod.need.is_some()).unwrap_or(pod)),
        11 => Step::Withdraw(pods.iter().position(|pod| pod.need.is_some()).unwrap_or(pod)),
        12 => Step::SetGate(pods.iter().position(|pod| pod.gated).unwrap_or(pod), !one_in(rng, 3)),
        13 => Step::Label(pod),
        14 => Step::Crash(down(rng)),
        15..18 => Step::CrashAt(CrashPoint { side: Side::Api, countdown: rng.below(30), phase }, down(rng)),
        18 => Step::CrashAt(CrashPoint { side: Side::Runtime, countdown: rng.below(40), phase }, down(rng)),
        19..24 => {
            let (verb, resource) = pick(rng, &SCOPES);
            let times = usize::try_from(1 + rng.below(12)).unwrap_or(1);
            Step::Requests { failure: draw_failure(rng), verb, resource, times }
        }
        24 | 25 => Step::Outage(Away::Refuses, milliseconds(rng, 180_000)),
        26 => Step::Outage(Away::HalfOpen, milliseconds(rng, 180_000)),
        27 | 28 => {
            use WatchTrouble::{Close, Expire, Garble, Reset, Silence};
            let trouble = pick(rng, &[Close, Reset, Expire, Garble, Silence]);
            Step::Watches(trouble, pick(rng, &["", "pods", "nodes", "configmaps", "secrets"]))
        }
        29 => Step::Compact,
        30 => Step::Slow(milliseconds(rng, 3000), milliseconds(rng, 60_000)),
        31 => Step::Clock(pick(rng, &[-3_600_000, -30_000, -1500, 1500, 30_000, 3_600_000])),
        32 => Step::RestartRuntime(milliseconds(rng, 10_000)),
        33 => Step::KillSandbox(pod),
        34 => Step::EndContainer(pod),
        _ => {
            if one_in(rng, 2) {
                Step::NodeUnknown
            } else {
                Step::LabelNode
            }
        }
    }
}

/// The fault of a step.
pub fn fault(failure: &Failure, verb: &str, resource: &str, times: usize) -> Fault {
    Fault::on(verb, resource, failure.clone()).times(times)
}
