//! What one seed means: which pods there are, how their containers behave, and what happens to them, the agent
//! and the runtime. Drawn from the seed alone; nothing here runs anything.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use rubelet_core::probes::ProbeKind;
use rubelet_testkit::scripted::{
    Behaviour, ExecScript, Op, Phase, PullScript, RandomFaults, Rng, RuntimeKind,
};
use rubelet_testkit::{ScriptedCri, pods};

use crate::health::{self, Health};

/// The command of every postStart hook.
pub const POST_START: &str = "post-start";
/// The command of every preStop hook.
pub const PRE_STOP: &str = "pre-stop";
/// An image that can never be pulled.
pub const MISSING_IMAGE: &str = "missing:1";

/// A pod's place in the scenario: several UIDs may follow one another under one name.
#[derive(Clone, Debug)]
pub struct SimPod {
    /// The first of its UIDs.
    pub pod: Pod,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// The agent is gone at once and comes back after a while.
    Crash { down: Duration },
    /// The agent is gone at the call that is so many calls away.
    CrashAtCall { countdown: u64, phase: Phase, down: Duration },
    /// The runtime is away for a while.
    RestartRuntime(Duration),
    /// Event streams break.
    BreakEvents,
    /// The machine restarts, the agent with it.
    Reboot(Duration),
    /// The pod's sandbox dies.
    KillSandbox(usize),
    /// A container ends.
    EndContainer { pod: usize, container: usize, code: i32 },
    /// No source wants the pod any more.
    Remove(usize),
    /// The pod is wanted again, under the same UID.
    Readd(usize),
    /// The pod is replaced by another one of its name.
    Recreate(usize),
    /// The API marks the pod for deletion.
    Delete { pod: usize, grace: i64 },
    /// A container gets another image.
    ChangeImage { pod: usize, container: usize },
    /// Pods cannot get a network, or can again.
    Network(bool),
}

/// Everything a seed means.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub kind: RuntimeKind,
    /// Over a real socket with the real client instead of the traits.
    pub socket: bool,
    pub pods: Vec<SimPod>,
    pub faults: Option<RandomFaults>,
    /// What happens, each after a pause.
    pub steps: Vec<(Duration, Step)>,
    /// How long the source takes to deliver after each start of the agent.
    pub deliver_after: Vec<Duration>,
    /// Once all is settled the agent is crashed again, and nothing may happen.
    pub adopt_at_end: bool,
    /// What probes say.
    pub healths: Vec<Health>,
    scripts: Vec<Script>,
}

#[derive(Clone, Debug)]
struct Script {
    pod: String,
    container: String,
    behaviours: Vec<Behaviour>,
    post_start: Vec<ExecScript>,
    pre_stop: Vec<ExecScript>,
}

fn milliseconds(rng: &mut Rng, longest: u64) -> Duration {
    Duration::from_millis(rng.below(longest + 1))
}

fn one_in(rng: &mut Rng, n: u64) -> bool {
    rng.below(n) == 0
}

impl Scenario {
    /// Draws the scenario of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5eed);
        let rng = &mut rng;
        let kinds = [
            RuntimeKind::Containerd16,
            RuntimeKind::Containerd17,
            RuntimeKind::Containerd2,
            RuntimeKind::CriO,
        ];
        let kind = kinds[usize::try_from(rng.below(4)).unwrap_or(0)];
        let mut scripts = Vec::new();
        let count = 1 + rng.below(4);
        let mut pods: Vec<SimPod> = (0..count).map(|index| draw_pod(rng, index, &mut scripts)).collect();
        let socket = seed % 50 == 7;
        // Over a real socket an answer may come later than the paused clock has it: no probe is on time there.
        let healths = if socket { vec![] } else { health::draw(seed, &mut pods) };
        let mut faults = (!one_in(rng, 4)).then(|| RandomFaults::rough(rng.next_u64()));
        if let (Some(faults), false) = (&mut faults, healths.is_empty()) {
            // By it the agent tells a command that is slow from a runtime that is: the judge could not.
            faults.spared = Some(Op::Version);
        }
        let steps = draw_steps(rng, &pods);
        let deliver_after =
            (0..8).map(|_| if one_in(rng, 4) { milliseconds(rng, 8000) } else { Duration::ZERO }).collect();
        Self {
            seed,
            kind,
            socket,
            pods,
            faults,
            steps,
            deliver_after,
            adopt_at_end: one_in(rng, 3),
            healths,
            scripts,
        }
    }

    /// The scenario of the exhaustive crash test: two calm pods with everything that has an order.
    pub fn base() -> Self {
        let mut scripts = Vec::new();
        let mut script = |pod: &str, container: &str, behaviours: Vec<Behaviour>| {
            scripts.push(Script {
                pod: pod.to_owned(),
                container: container.to_owned(),
                behaviours,
                post_start: vec![ExecScript { takes: Duration::from_secs(2), ..Default::default() }],
                pre_stop: vec![ExecScript { takes: Duration::from_secs(1), ..Default::default() }],
            });
        };
        let forever = || Behaviour::forever().stopping_for(Duration::from_secs(1));
        script("web", "setup", vec![Behaviour::exits(Duration::from_secs(1), 0)]);
        script("web", "proxy", vec![forever()]);
        script("web", "app", vec![forever()]);
        script("db", "store", vec![forever()]);
        script("db", "watch", vec![forever()]);
        let web = pods::pod("web")
            .grace(20)
            .init_container(pods::container("setup"))
            .init_container(pods::container("proxy").sidecar().post_start([POST_START]))
            .container(pods::container("app").post_start([POST_START]).pre_stop([PRE_STOP]))
            .build();
        let db = pods::pod("db")
            .grace(20)
            .container(pods::container("store").pre_stop([PRE_STOP]))
            .container(pods::container("watch").pull_policy("Always"))
            .build();
        Self {
            seed: 0,
            kind: RuntimeKind::Containerd2,
            socket: false,
            pods: [web, db].into_iter().map(|pod| SimPod { pod }).collect(),
            faults: None,
            steps: vec![],
            deliver_after: vec![],
            adopt_at_end: false,
            healths: vec![],
            scripts,
        }
    }

    /// Pods of a story of their own, in which nothing goes wrong by itself.
    pub fn of(pods: Vec<SimPod>, healths: Vec<Health>) -> Self {
        Self { pods, healths, scripts: vec![], ..Self::base() }
    }

    /// Tells the runtime how everything behaves.
    pub fn script(&self, cri: &ScriptedCri) {
        let mut rng = Rng::new(self.seed ^ 0xd0_0d);
        for script in &self.scripts {
            let Script { pod, container, .. } = script;
            cri.script_container(pod, container, script.behaviours.iter().cloned());
            cri.script_exec(pod, container, POST_START, script.post_start.iter().cloned());
            cri.script_exec(pod, container, PRE_STOP, script.pre_stop.iter().cloned());
        }
        self.healths.iter().for_each(|health| health.script(cri));
        for (op, longest) in [
            (Op::RunPodSandbox, 1500),
            (Op::CreateContainer, 200),
            (Op::StartContainer, 300),
            (Op::StopPodSandbox, 300),
            (Op::RemoveContainer, 50),
            (Op::RemovePodSandbox, 100),
            (Op::ListContainers, 20),
            (Op::ListPodSandbox, 20),
        ] {
            cri.set_duration(op, milliseconds(&mut rng, longest));
        }
        cri.script_default_pull(PullScript::takes(milliseconds(&mut rng, 2000)));
        let missing = PullScript::fails(rubelet_cri::CriErrorKind::NotFound, "no such image");
        cri.script_pull(&format!("docker.io/library/{MISSING_IMAGE}"), [missing.clone()]);
        cri.script_pull(MISSING_IMAGE, [missing]);
    }

    /// How a container behaves in the long run.
    pub fn last_behaviour(&self, pod: &str, container: &str) -> Behaviour {
        let script = self.scripts.iter().find(|s| s.pod == pod && s.container == container);
        script.and_then(|s| s.behaviours.last().cloned()).unwrap_or_else(Behaviour::forever)
    }

    /// How an instance of a container behaves.
    pub fn behaviour(&self, pod: &str, container: &str, attempt: u32) -> Behaviour {
        let script = self.scripts.iter().find(|s| s.pod == pod && s.container == container);
        let attempt = usize::try_from(attempt).unwrap_or(usize::MAX);
        let found = script.and_then(|s| s.behaviours.get(attempt).or(s.behaviours.last()).cloned());
        found.unwrap_or_else(Behaviour::forever)
    }

    /// What a probe of a container says, if it has one.
    pub fn health(&self, pod: &str, container: &str, kind: ProbeKind) -> Option<&Health> {
        self.healths.iter().find(|h| h.pod == pod && h.container == container && h.kind == kind)
    }

    /// Whether a container may be restarted again and again because of what its probes say.
    pub fn is_ill_for_ever(&self, pod: &str, container: &str) -> bool {
        let kinds = [ProbeKind::Startup, ProbeKind::Liveness];
        kinds
            .iter()
            .any(|kind| self.health(pod, container, *kind).is_some_and(|health| !health.ends_calmly()))
    }

    /// Whether any postStart hook of a container fails.
    pub fn post_start_may_fail(&self, pod: &str, container: &str) -> bool {
        self.scripts
            .iter()
            .filter(|s| s.pod == pod && s.container == container)
            .flat_map(|s| &s.post_start)
            .any(|exec| exec.exit_code != 0 || exec.error.is_some())
    }

    /// Whether a container's postStart hook fails for ever.
    pub fn post_start_always_fails(&self, pod: &str, container: &str) -> bool {
        self.scripts
            .iter()
            .find(|s| s.pod == pod && s.container == container)
            .and_then(|s| s.post_start.last())
            .is_some_and(|exec| exec.exit_code != 0 || exec.error.is_some())
    }
}

fn draw_pod(rng: &mut Rng, index: u64, scripts: &mut Vec<Script>) -> SimPod {
    let name = format!("p{index}");
    let policy = match rng.below(5) {
        0..3 => "Always",
        3 => "OnFailure",
        _ => "Never",
    };
    let grace = [1, 2, 5, 30][usize::try_from(rng.below(4)).unwrap_or(0)];
    let mut builder = pods::pod(&name).restart_policy(policy).grace(grace);
    let mut add = |rng: &mut Rng, container: &str, behaviours: Vec<Behaviour>, regular_init: bool| {
        let mut made = pods::container(container);
        let mut script = Script {
            pod: name.clone(),
            container: container.to_owned(),
            behaviours,
            post_start: vec![],
            pre_stop: vec![],
        };
        if one_in(rng, 5) {
            made = made.pull_policy("Always");
        }
        if one_in(rng, 40) {
            made = made.image(MISSING_IMAGE);
        } else if one_in(rng, 3) {
            made = made.image(&format!("image{}:1", rng.below(3)));
        }
        if !regular_init && one_in(rng, 3) {
            made = made.post_start([POST_START]);
            script.post_start = draw_hook(rng);
        }
        if !regular_init && one_in(rng, 3) {
            made = if one_in(rng, 4) { made.pre_stop_sleep(2) } else { made.pre_stop([PRE_STOP]) };
            script.pre_stop = draw_hook(rng);
        }
        scripts.push(script);
        made
    };
    for number in 0..rng.below(3) {
        let container = format!("i{number}");
        if one_in(rng, 3) {
            let behaviours = draw_app(rng, false);
            builder = builder.init_container(add(rng, &container, behaviours, false).sidecar());
        } else {
            let behaviours = draw_init(rng);
            builder = builder.init_container(add(rng, &container, behaviours, true));
        }
    }
    for number in 0..1 + rng.below(3) {
        let container = format!("c{number}");
        let behaviours = draw_app(rng, policy != "Always");
        builder = builder.container(add(rng, &container, behaviours, false));
    }
    if one_in(rng, 12) {
        builder = builder.active_deadline(i64::try_from(5 + rng.below(90)).unwrap_or(5));
    }
    if one_in(rng, 6) {
        builder = builder.host_network();
    }
    let mut pod = builder.build();
    if one_in(rng, 5) {
        // As a file source would deliver it.
        rubelet_core::static_pod::mark(&mut pod, "file", jiff::Timestamp::UNIX_EPOCH);
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations
            .insert(rubelet_core::static_pod::CONFIG_HASH_ANNOTATION.to_owned(), format!("{name}-uid"));
    }
    SimPod { pod }
}

fn draw_app(rng: &mut Rng, ends: bool) -> Vec<Behaviour> {
    let slow = |rng: &mut Rng, behaviour: Behaviour| match rng.below(6) {
        0 => behaviour.ignoring_sigterm(),
        1 | 2 => behaviour.stopping_for(milliseconds(rng, 6000)),
        _ => behaviour,
    };
    let code = |rng: &mut Rng| if one_in(rng, 2) { 0 } else { 1 };
    let exit = |rng: &mut Rng| {
        let (after, code) = (milliseconds(rng, 15_000), code(rng));
        Behaviour::exits(after, code).with_message("it is over")
    };
    if ends {
        return match rng.below(4) {
            0 => vec![slow(rng, Behaviour::forever())],
            1 => vec![exit(rng), exit(rng), Behaviour::exits(milliseconds(rng, 5000), 0)],
            _ => vec![exit(rng)],
        };
    }
    match rng.below(12) {
        0 => vec![exit(rng), exit(rng), slow(rng, Behaviour::forever())],
        1 => vec![exit(rng)],
        2 => vec![Behaviour::oom(milliseconds(rng, 9000)), slow(rng, Behaviour::forever())],
        3 => vec![Behaviour::cannot_start("no such file"), slow(rng, Behaviour::forever())],
        4 if one_in(rng, 3) => vec![Behaviour::cannot_create("no space")],
        5 if one_in(rng, 3) => vec![Behaviour::cannot_start("no such file")],
        _ => vec![slow(rng, Behaviour::forever())],
    }
}

fn draw_init(rng: &mut Rng) -> Vec<Behaviour> {
    let done = Behaviour::exits(milliseconds(rng, 4000), 0);
    match rng.below(10) {
        0 | 1 => vec![Behaviour::exits(milliseconds(rng, 2000), 1), done],
        2 if one_in(rng, 2) => vec![Behaviour::exits(milliseconds(rng, 2000), 3)],
        3 => vec![Behaviour::cannot_start("no such file"), done],
        _ => vec![done],
    }
}

fn draw_hook(rng: &mut Rng) -> Vec<ExecScript> {
    let mut runs = Vec::new();
    if one_in(rng, 5) {
        runs.push(ExecScript { takes: milliseconds(rng, 2000), exit_code: 1, ..Default::default() });
    }
    if runs.is_empty() || !one_in(rng, 4) {
        runs.push(ExecScript { takes: milliseconds(rng, 4000), ..Default::default() });
    }
    runs
}

fn draw_steps(rng: &mut Rng, pods: &[SimPod]) -> Vec<(Duration, Step)> {
    let count = 2 + rng.below(7);
    let mut steps = Vec::new();
    for _ in 0..count {
        let pause = match rng.below(4) {
            0 => milliseconds(rng, 100),
            1 => milliseconds(rng, 2000),
            2 => milliseconds(rng, 8000),
            _ => milliseconds(rng, 25_000),
        };
        let pod = usize::try_from(rng.below(u64::try_from(pods.len()).unwrap_or(1))).unwrap_or(0);
        let container = usize::try_from(rng.below(4)).unwrap_or(0);
        let down = |rng: &mut Rng| {
            if one_in(rng, 2) { milliseconds(rng, 300) } else { milliseconds(rng, 20_000) }
        };
        let step = match rng.below(20) {
            0..3 => Step::Crash { down: down(rng) },
            3..8 => Step::CrashAtCall {
                countdown: rng.below(40),
                phase: if one_in(rng, 2) { Phase::Before } else { Phase::After },
                down: down(rng),
            },
            8 => Step::RestartRuntime(milliseconds(rng, 15_000)),
            9 => Step::BreakEvents,
            10 => Step::KillSandbox(pod),
            11 => Step::EndContainer { pod, container, code: i32::try_from(rng.below(2)).unwrap_or(0) },
            12 | 13 => Step::Remove(pod),
            14 => Step::Readd(pod),
            15 => Step::Recreate(pod),
            16 | 17 => Step::Delete { pod, grace: i64::try_from(rng.below(12)).unwrap_or(0) },
            18 => Step::ChangeImage { pod, container },
            _ if one_in(rng, 3) => Step::Reboot(milliseconds(rng, 10_000)),
            _ => Step::Network(one_in(rng, 2)),
        };
        steps.push((pause, step));
    }
    steps
}

/// The UID of a pod.
pub fn uid_of(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// All containers of a pod's spec: name, whether an init container, whether a sidecar.
pub fn containers_of(pod: &Pod) -> Vec<(String, Role)> {
    let Some(spec) = &pod.spec else { return vec![] };
    let inits = spec.init_containers.iter().flatten().map(|c| {
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        (c.name.clone(), if sidecar { Role::Sidecar } else { Role::Init })
    });
    inits.chain(spec.containers.iter().map(|c| (c.name.clone(), Role::App))).collect()
}

/// What a container is in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Init,
    Sidecar,
    App,
}
