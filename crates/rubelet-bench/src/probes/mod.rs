//! The probes' part: what they cost the agent and how punctual they are, and what log rotation costs.
//!
//! Owns the runs and their order. All but the commands of the real runtime need no containers: the scripted runtime has
//! the pods, this program is what is probed (`targets`), and beside the agent a process makes the bare exchanges at the
//! same pace (`floor`). The words are in `report`. Called by the plan of the benchmark.

pub(crate) mod floor;
mod lateness;
mod report;
mod rotation;
mod runtime;
mod targets;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rubelet_cri::{RuntimeService, v1};
use rubelet_testkit::scripted::{ExecScript, HookAction, Op, Phase};
use rustls::crypto::CryptoProvider;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::floor::Floor;
use self::lateness::Lateness;
use self::rotation::Rotated;
use self::targets::{DRIP, Target};
use crate::agent::{Agent, Site};
use crate::plan::{Bench, LIMIT, POLL_MANY, SETTLE, SETTLE_IDLE, Size};
use crate::procfs::{self, Idle};
use crate::report::Report;
use crate::server::world::World;
use crate::{pods, say};

/// Has commands.
const BUSYBOX: &str = "rubelet.local/busybox:1";
/// Containers of the real runtime in which a command runs each second: more would be a load of its own.
const REAL_CONTAINERS: usize = 4;
/// The pod in which the floor's commands run, and that in which one never ends; as their manifests call them.
const FLOOR_POD: &str = "floor";
const HANGING_POD: &str = "hangs";
/// What the agent's configuration says of the size of logs.
const LOG_SIZE: &str = rotation::LIMIT_TEXT;
/// Bytes a second of a log that is written steadily, so that rotated files are compressed.
const STEADY: u64 = 1 << 20;
/// The longest that a log is written to at full speed.
const FULL_SPEED: Duration = Duration::from_secs(5);

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http,
    Https,
    Tcp,
    Grpc,
    Exec,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Http, Self::Https, Self::Tcp, Self::Grpc, Self::Exec];

    fn key(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Grpc => "grpc",
            Self::Exec => "exec",
        }
    }
}

/// Everything that was measured of probes.
#[derive(Debug, Default)]
struct Measured {
    pods: usize,
    costs: Vec<Cost>,
    /// Agent and floor, on their own and among a command that hangs and an answer that drips.
    lateness: Vec<Punctual>,
    /// Pods without probes, and with three each.
    idle: Option<Idle>,
    three: Option<Idle>,
    real: Option<Real>,
    rotated: Vec<Rotated>,
}

/// CPU time for probes of one kind, over intervals of the same length.
#[derive(Debug)]
struct Cost {
    kind: Kind,
    rounds: Vec<Round>,
}

/// One interval, in which the agent and the floor ran beside each other.
#[derive(Clone, Copy, Debug)]
struct Round {
    seconds: f64,
    /// Probes that came, and CPU seconds.
    agent: (u64, f64),
    floor: (u64, f64),
}

/// How punctual HTTP probes were.
#[derive(Debug)]
struct Punctual {
    /// Whether there were others that hung.
    beset: bool,
    agent: Option<Lateness>,
    floor: Option<Lateness>,
}

/// Commands in containers of the real runtime.
#[derive(Clone, Copy, Debug)]
struct Real {
    /// How many, CPU seconds of the agent, and of the runtime.
    agent: (u64, f64, f64),
    /// The bare calls: how many, CPU seconds of the runtime.
    floor: (u64, f64),
}

/// Measures the probes' part.
pub(crate) async fn measure(bench: &mut Bench) -> Result<Report> {
    let mut site = bench.site.clone();
    site.extra = json!({
        // A node that is short of disk, as this machine may be from other work, would refuse pods.
        "evictionHard": {"memory.available": "1Mi"},
        "containerLogMaxSize": LOG_SIZE,
    });
    let mut part = Part { bench, site };
    let measured = part.measure().await?;
    let conditions = part.bench.conditions().await?;
    Ok(report::report(&measured, conditions))
}

/// The provider of TLS, as the agent has it.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The part with its tools.
struct Part<'a> {
    bench: &'a mut Bench,
    site: Site,
}

/// An agent with pods of the scripted runtime.
struct Scene {
    world: World,
    agent: Agent,
}

impl Part<'_> {
    async fn measure(&mut self) -> Result<Measured> {
        let size = self.bench.size.clone();
        let mut measured = Measured { pods: size.pods, ..Measured::default() };
        if !size.idle.is_zero() {
            say(&format!("idle with {} pods without probes, {} s", size.pods, size.idle.as_secs()));
            measured.idle = Some(self.rest((0..size.pods).map(pods::manifest).collect(), &size).await?);
            say(&format!("idle with {} pods of three probes, {} s", size.pods, size.idle.as_secs()));
            let target = Target::start(Kind::Http).await?;
            let manifests = (0..size.pods).map(|number| with_three(number, &target)).collect();
            measured.three = Some(self.rest(manifests, &size).await?);
        }
        for kind in Kind::ALL.into_iter().filter(|_| size.rounds > 0) {
            say(&format!("{} pods with a probe a second: {}", size.pods, kind.key()));
            let (cost, punctual) = self.probe(kind, false, &size).await?;
            measured.costs.push(cost);
            measured.lateness.extend(punctual);
        }
        if size.rounds > 0 {
            say("the same over HTTP, among a command that hangs and an answer that drips");
            measured.lateness.extend(self.probe(Kind::Http, true, &size).await?.1);
        }
        if size.runs > 0 && !size.idle.is_zero() {
            measured.real = Some(self.real(&size).await?);
        }
        if !size.idle.is_zero() {
            measured.rotated = self.rotate(&size).await?;
        }
        Ok(measured)
    }

    /// An agent at rest with these pods.
    async fn rest(&mut self, manifests: Vec<Value>, size: &Size) -> Result<Idle> {
        let ready = manifests.len();
        let scene = self.come(&manifests, ready).await?;
        tokio::time::sleep(SETTLE_IDLE).await;
        let idle = procfs::watch(scene.agent.pid, size.idle).await?;
        scene.go().await?;
        Ok(idle)
    }

    /// Pods with a probe of this kind a second each, and beside the agent the floor.
    async fn probe(&mut self, kind: Kind, beset: bool, size: &Size) -> Result<(Cost, Option<Punctual>)> {
        let (of_agent, of_floor) = (Target::start(kind).await?, Target::start(kind).await?);
        let mut manifests: Vec<Value> =
            (0..size.pods).map(|number| probed(number, kind, &of_agent)).collect();
        manifests.push(named(pods::manifest(size.pods), FLOOR_POD));
        let ready = manifests.len();
        if beset {
            manifests.extend(besetting(&of_agent));
        }
        let scene = self.come(&manifests, ready).await?;
        let execs = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let (counted, floor_pod) = (Arc::clone(&execs), on_node(FLOOR_POD));
        scene.world.cri.set_hook(move |point| {
            if point.op == Op::ExecSync && point.phase == Phase::Before {
                let (agent, floor) = &*counted;
                let count = if point.subject.pod_name == floor_pod { floor } else { agent };
                count.fetch_add(1, Ordering::Relaxed);
            }
            HookAction::Continue
        });
        let floor = match kind {
            Kind::Exec => {
                let container = scene.world.cri.containers_of(&on_node(FLOOR_POD)).into_iter().next();
                let container = container.context("the floor has no container")?.id;
                let socket = scene.world.site.socket.display().to_string();
                Floor::start(kind, &socket, &container, size.pods)?
            }
            _ => Floor::start(kind, &of_floor.address.to_string(), "", size.pods)?,
        };
        tokio::time::sleep(SETTLE_IDLE).await;

        let sample = || -> Result<[(u64, f64); 2]> {
            let (agent, floor_execs) = &*execs;
            let counts = match kind {
                Kind::Exec => [agent.load(Ordering::Relaxed), floor_execs.load(Ordering::Relaxed)],
                _ => [of_agent.count(), of_floor.count()],
            };
            Ok([
                (counts[0], procfs::cpu_seconds(scene.agent.pid)?),
                (counts[1], procfs::cpu_seconds(floor.pid)?),
            ])
        };
        let rounds = size.rounds.max(1);
        let time = size.idle.max(Duration::from_secs(5)) / u32::try_from(rounds)?;
        of_agent.take_log();
        of_floor.take_log();
        let mut cost = Cost { kind, rounds: vec![] };
        for _ in 0..rounds {
            self.bench.note_load();
            let (began, before) = (Instant::now(), sample()?);
            tokio::time::sleep(time).await;
            let after = sample()?;
            let since = |side: usize| (after[side].0 - before[side].0, after[side].1 - before[side].1);
            let seconds = began.elapsed().as_secs_f64();
            cost.rounds.push(Round { seconds, agent: since(0), floor: since(1) });
        }
        let punctual = (kind == Kind::Http).then(|| Punctual {
            beset,
            agent: lateness::of(&of_agent.take_log()),
            floor: lateness::of(&of_floor.take_log()),
        });
        drop(floor);
        scene.world.cri.clear_hook();
        scene.go().await?;
        Ok((cost, punctual))
    }

    /// Commands of the real runtime: those of probes, then the bare calls at the same pace.
    async fn real(&mut self, size: &Size) -> Result<Real> {
        say(&format!("commands of the real runtime, {REAL_CONTAINERS} a second"));
        self.bench.note_load();
        let runtime_dir =
            self.site.socket.parent().map(PathBuf::from).context("the runtime's socket has no folder")?;
        let mut agent = Agent::start(&self.site).await?;
        agent.run_manifests(&[shells()], 1, POLL_MANY, LIMIT).await?;
        tokio::time::sleep(SETTLE_IDLE).await;
        let before = (
            probes_made(&mut agent).await?,
            procfs::cpu_seconds(agent.pid)?,
            runtime::cpu_seconds(&runtime_dir)?,
        );
        tokio::time::sleep(size.idle).await;
        let after = (
            probes_made(&mut agent).await?,
            procfs::cpu_seconds(agent.pid)?,
            runtime::cpu_seconds(&runtime_dir)?,
        );
        let of_agent = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
        agent.stop().await?;

        say("the bare calls of the real runtime");
        tokio::time::sleep(SETTLE).await;
        let request = v1::ListContainersRequest::default();
        let containers = self.bench.client.list_containers(request).await?.containers;
        let (began, before) = (Instant::now(), runtime::cpu_seconds(&runtime_dir)?);
        let mut pace =
            tokio::time::interval(Duration::from_secs(1) / u32::try_from(containers.len().max(1))?);
        let mut calls = tokio::task::JoinSet::new();
        let mut made = 0;
        for container in containers.iter().cycle() {
            pace.tick().await;
            if began.elapsed() >= size.idle {
                break;
            }
            let (client, id) = (self.bench.client.clone(), container.id.clone());
            calls.spawn(async move { floor::exec(&client, &id).await });
            made += 1;
        }
        while let Some(called) = calls.join_next().await {
            called??;
        }
        let of_floor = (made, runtime::cpu_seconds(&runtime_dir)? - before);
        let agent = Agent::start(&self.site).await?;
        self.bench.clear(agent).await?;
        Ok(Real { agent: of_agent, floor: of_floor })
    }

    /// A log that is written steadily, then one that is written as fast as it goes.
    async fn rotate(&mut self, size: &Size) -> Result<Vec<Rotated>> {
        let full_speed = size.idle.min(FULL_SPEED);
        let mut rotated = vec![];
        for (rate, time) in [(Some(STEADY), size.idle), (None, full_speed)] {
            say(&format!("a log that is written {} for {} s", words_of(rate), time.as_secs()));
            let mut scene = self.come(&[pods::manifest(0)], 1).await?;
            // Makes the log files among others. A real runtime has them before the agent looks: it looks anew.
            scene.world.furnish()?;
            let log = scene.world.logs().map(|(_, log)| log.to_owned()).next().context("no log")?;
            scene.agent.stop().await?;
            scene.agent = Agent::start(&scene.world.site).await?;
            scene.agent.wait_ready(1, Instant::now(), POLL_MANY, LIMIT).await?;
            tokio::time::sleep(SETTLE).await;
            self.bench.note_load();
            rotated.push(rotation::measure(&scene.world.cri, scene.agent.pid, &log, rate, time).await?);
            scene.go().await?;
        }
        Ok(rotated)
    }

    /// Starts an agent over an empty scripted runtime and has these pods run; so many of them become ready.
    async fn come(&mut self, manifests: &[Value], ready: usize) -> Result<Scene> {
        self.bench.note_load();
        let world = World::make(&self.site)?;
        let hangs = ExecScript { takes: Duration::from_secs(24 * 3600), ..ExecScript::default() };
        world.cri.script_exec(&on_node(HANGING_POD), "main", "", [hangs]);
        let mut agent = Agent::start(&world.site).await?;
        tokio::time::sleep(SETTLE).await;
        agent.run_manifests(manifests, ready, POLL_MANY, LIMIT).await?;
        Ok(Scene { world, agent })
    }
}

impl Scene {
    /// Ends all of it and removes what it wrote.
    async fn go(self) -> Result<()> {
        let Self { world, mut agent } = self;
        agent.remove_manifests()?;
        agent.wait_forgotten(LIMIT).await?;
        agent.stop().await?;
        let dir = world.site.dir.clone();
        drop(world);
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
    }
}

fn words_of(rate: Option<u64>) -> String {
    rate.map_or("at full speed".to_owned(), |rate| format!("with {} MiB a second", rate >> 20))
}

/// What a static pod of this name is called.
fn on_node(name: &str) -> String {
    format!("{name}-{}", pods::NODE_NAME)
}

fn named(mut pod: Value, name: &str) -> Value {
    pod["metadata"]["name"] = json!(name);
    pod
}

/// What a probe of a kind does, for pod number `number`.
fn action(number: usize, kind: Kind, target: &Target) -> Value {
    let (host, port) = (target.address.ip().to_string(), target.address.port());
    let path = format!("/pod/{number}");
    match kind {
        Kind::Http => json!({"httpGet": {"host": host, "port": port, "path": path}}),
        Kind::Https => json!({"httpGet": {"scheme": "HTTPS", "host": host, "port": port, "path": path}}),
        Kind::Tcp => json!({"tcpSocket": {"host": host, "port": port}}),
        Kind::Grpc => json!({"grpc": {"port": port}}),
        Kind::Exec => json!({"exec": {"command": ["true"]}}),
    }
}

fn probe(mut action: Value, period: u32) -> Value {
    action["periodSeconds"] = json!(period);
    action["timeoutSeconds"] = json!(1);
    action
}

/// A pod that is probed every second.
fn probed(number: usize, kind: Kind, target: &Target) -> Value {
    let mut pod = pods::manifest(number);
    pod["spec"]["containers"][0]["readinessProbe"] = probe(action(number, kind, target), 1);
    if kind == Kind::Grpc {
        // Nothing but the pod's address can be asked over gRPC.
        pod["spec"]["hostNetwork"] = json!(true);
    }
    pod
}

/// A pod with all three probes, with the default period.
fn with_three(number: usize, target: &Target) -> Value {
    let mut pod = pods::manifest(number);
    for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
        pod["spec"]["containers"][0][kind] = probe(action(number, Kind::Http, target), 10);
    }
    pod
}

/// Pods whose probes never end by themselves.
fn besetting(target: &Target) -> [Value; 2] {
    let (mut hangs, mut drips) = (named(pods::manifest(0), HANGING_POD), named(pods::manifest(0), "drips"));
    hangs["spec"]["containers"][0]["readinessProbe"] = probe(json!({"exec": {"command": ["hang"]}}), 1);
    let (host, port) = (target.address.ip().to_string(), target.address.port());
    let drip = json!({"httpGet": {"host": host, "port": port, "path": DRIP}});
    drips["spec"]["containers"][0]["readinessProbe"] = probe(drip, 1);
    [hangs, drips]
}

/// A pod of the real runtime with a command a second in each container.
fn shells() -> Value {
    let mut pod = named(pods::manifest(0), "shells");
    let mut container = pod["spec"]["containers"][0].clone();
    container["image"] = json!(BUSYBOX);
    // The first process of a container gets no signal that it does not ask for.
    container["command"] = json!(["sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"]);
    container["readinessProbe"] = probe(json!({"exec": {"command": ["true"]}}), 1);
    let containers = (0..REAL_CONTAINERS).map(|number| {
        let mut container = container.clone();
        container["name"] = json!(format!("shell-{number}"));
        container
    });
    pod["spec"]["containers"] = containers.collect();
    pod
}

/// How many probes the agent has counted.
async fn probes_made(agent: &mut Agent) -> Result<u64> {
    let page = agent.get("/metrics/probes").await?;
    let page = std::str::from_utf8(&page).context("/metrics/probes is no text")?;
    Ok(counted(page))
}

/// All counts of `prober_probe_total` together.
fn counted(page: &str) -> u64 {
    let lines = page.lines().filter(|line| line.starts_with("prober_probe_total{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_probes_are_added() {
        let page = "# TYPE prober_probe_total counter\nprober_probe_total{container=\"a\"} 3\n\
                    prober_probe_total{container=\"b\"} 4\nprober_probe_duration_seconds_count{x=\"y\"} 9\n";
        assert_eq!(counted(page), 7);
    }

    #[tokio::test]
    async fn pods_ask_who_they_are_to_ask() {
        let target = Target::start(Kind::Http).await.unwrap();
        let pod = probed(7, Kind::Http, &target);
        let action = &pod["spec"]["containers"][0]["readinessProbe"];
        assert_eq!((&action["httpGet"]["path"], &action["periodSeconds"]), (&json!("/pod/7"), &json!(1)));
        assert_eq!(action["httpGet"]["port"], json!(target.address.port()));
        let shells = shells();
        let names: Vec<_> =
            shells["spec"]["containers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["shell-0", "shell-1", "shell-2", "shell-3"]);
    }
}
