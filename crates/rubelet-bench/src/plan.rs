//! What is measured, in which order.
//!
//! Floor and agent take turns, so that what else the machine does weighs on both; after every run everything is taken
//! away and the runtime is empty before the next. Owns the runs; the arithmetic is in `numbers`, the words are in
//! `report`; the other parts have plans of their own in `api`, `local`,
//! `server`, `probes` and `volumes`. Called by `main`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rubelet_cri::CriClient;
use rubelet_linux::facts::MachineFacts;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::agent::{Agent, AgentRun, Site};
use crate::floor::{self, FloorRun};
use crate::pods::{self, Asked};
use crate::procfs::{self, Idle};
use crate::report::{self, Report};
use crate::{api, local, probes, runtime, say, server, volumes};

/// Rest before every run. The agent has done its first list and is over its start.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);
/// Rest before the agent is watched idle.
pub(crate) const SETTLE_IDLE: Duration = Duration::from_secs(8);
/// How often one pod is looked for. Each look costs the agent a little.
const POLL_ONE: Duration = Duration::from_millis(2);
/// How often many pods are looked for: the answer is long, and 100 ms are little of what it takes.
pub(crate) const POLL_MANY: Duration = Duration::from_millis(100);
/// How often pods that run already are looked for after a restart of the agent.
const POLL_ADOPTION: Duration = Duration::from_millis(10);
/// How long pods may take to come, or to go.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    /// Pods in the runs with many.
    pub(crate) pods: usize,
    /// Runs with one pod, of each side.
    pub(crate) runs: usize,
    /// Runs with many pods, of each side.
    pub(crate) rounds: usize,
    /// How long the idle agent is watched.
    pub(crate) idle: Duration,
    /// Starts of the agent in a cluster, of each sort.
    pub(crate) starts: usize,
    /// Pods created at once through the local API, besides `pods`.
    pub(crate) bursts: &'static [usize],
    /// Objects in the local API.
    pub(crate) objects: usize,
    /// How often one object of the local API is asked for, and changed in each way.
    pub(crate) asks: usize,
    /// Followers of logs.
    pub(crate) followers: usize,
    /// Commands of which is seen what they leave behind.
    pub(crate) sessions: usize,
    /// Files that are handed to a group.
    pub(crate) files: usize,
    /// Changes of a ConfigMap.
    pub(crate) changes: usize,
    /// More pods than `pods`, of a scripted runtime.
    pub(crate) many_pods: usize,
    /// Other concurrencies the floor is measured at, for comparison, and how often.
    pub(crate) other_floors: (&'static [usize], usize),
}

impl Size {
    /// For results.
    pub(crate) fn full() -> Self {
        Self {
            pods: 100,
            runs: 10,
            rounds: 3,
            idle: Duration::from_secs(60),
            starts: 5,
            bursts: &[10, 50],
            objects: 10_000,
            asks: 500,
            followers: 1000,
            sessions: 1000,
            files: 1_000_000,
            changes: 500,
            many_pods: 500,
            other_floors: (&[8, 16, 32], 1),
        }
    }

    /// To see that it works.
    pub(crate) fn quick() -> Self {
        Self {
            pods: 10,
            runs: 3,
            rounds: 1,
            idle: Duration::from_secs(5),
            starts: 2,
            bursts: &[],
            objects: 1_000,
            asks: 50,
            followers: 100,
            sessions: 50,
            files: 20_000,
            changes: 50,
            many_pods: 0,
            other_floors: (&[4], 1),
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The agent alone against the bare calls.
    Floor,
    /// The agent in a cluster.
    ControlPlane,
    /// The agent with an API of its own.
    Local,
    /// The kubelet API of the agent.
    Server,
    /// Probes, and the rotation of logs.
    Probes,
    /// Volumes.
    Volumes,
}

/// One run of each side: the two of a pair were made one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// The bare calls.
    pub(crate) floor: FloorRun,
    /// When the runtime created the first sandbox of the floor, seconds since 1970.
    pub(crate) floor_sandbox_at: f64,
    /// The agent.
    pub(crate) agent: AgentRun,
    /// When the runtime created the first sandbox of the agent.
    pub(crate) agent_sandbox_at: f64,
    /// CPU time of the agent during its run, seconds.
    pub(crate) agent_cpu: f64,
}

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) size: Size,
    pub(crate) binary_bytes: u64,
    /// Seconds from the start of the process to the first good health, without pods.
    pub(crate) starts: Vec<f64>,
    pub(crate) one: Vec<Pair>,
    pub(crate) many: Vec<Pair>,
    /// The floor with many pods at other concurrencies: how many at once, seconds of each run.
    pub(crate) other_floors: Vec<(usize, Vec<f64>)>,
    pub(crate) idle_empty: Option<Idle>,
    pub(crate) idle_many: Option<Idle>,
    /// An agent that was started among the running pods.
    pub(crate) adoption: Option<Adoption>,
}

/// An agent that is started among running pods.
#[derive(Debug)]
pub(crate) struct Adoption {
    /// From its start to its first good health, seconds.
    pub(crate) start_to_healthz: f64,
    /// From its start until all pods are seen Running and Ready, seconds.
    pub(crate) start_to_ready: f64,
    /// It at rest, later.
    pub(crate) idle: Option<Idle>,
}

/// The benchmark with its tools.
pub(crate) struct Bench {
    pub(crate) site: Site,
    pub(crate) size: Size,
    pub(crate) client: CriClient,
    machine: MachineFacts,
    asked: Vec<Asked>,
    /// Load of the machine, looked at before every run.
    loads: Vec<f64>,
    starts: Vec<f64>,
}

impl Bench {
    /// Connects to the runtime and prepares the calls of every pod.
    pub(crate) async fn new(site: Site, size: Size) -> Result<Self> {
        let client = runtime::connect(&site.socket).await?;
        runtime::must_be_empty(&client).await?;
        let machine = rubelet_linux::facts::machine().context("cannot read facts about this machine")?;
        let asked = (0..size.pods.max(1))
            .map(|number| pods::asked(&pods::decode(number, &site.places)?, &site.places, &machine))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { site, size, client, machine, asked, loads: vec![], starts: vec![] })
    }

    /// Measures a part. Whatever happens, also when asked to end, the runtime is emptied at the end.
    pub(crate) async fn run(mut self, part: Part) -> Result<Report> {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // Dropping the measurement ends the agent; both signals are kept until they are taken.
        let report = tokio::select! {
            report = self.report(part) => report,
            _ = terminate.recv() => Err(anyhow!("asked to end")),
            _ = interrupt.recv() => Err(anyhow!("asked to end")),
        };
        let emptied = runtime::empty(&self.client).await;
        self.remove_files()?;
        let report = report?;
        emptied?;
        Ok(report)
    }

    async fn report(&mut self, part: Part) -> Result<Report> {
        match part {
            Part::Floor => Ok(Report::of(&self.measure().await?, self.conditions().await?)),
            Part::ControlPlane => api::measure(self).await,
            Part::Local => local::measure(self).await,
            Part::Server => server::measure(self).await,
            Part::Probes => probes::measure(self).await,
            Part::Volumes => volumes::measure(self).await,
        }
    }

    /// What the numbers were measured on.
    pub(crate) async fn conditions(&self) -> Result<Vec<(&'static str, String)>> {
        Ok(report::conditions(runtime::version(&self.client).await?, &self.machine, &self.loads))
    }

    /// Notes the load of the machine before a run.
    pub(crate) fn note_load(&mut self) {
        self.loads.extend(procfs::load());
    }

    async fn measure(&mut self) -> Result<Measured> {
        let Size { pods, runs, rounds, idle, other_floors, .. } = self.size.clone();
        let binary_bytes = fs::metadata(&self.site.program)?.len();
        say("warming up");
        self.floor(1, 1).await?;

        let mut one = vec![];
        for run in 1..=runs {
            say(&format!("one pod, run {run} of {runs}"));
            let (floor, floor_sandbox_at) = self.floor(1, 1).await?;
            let (agent, pair) = self.agent(1, POLL_ONE, (floor, floor_sandbox_at)).await?;
            self.clear(agent).await?;
            one.push(pair);
        }

        let idle_empty = match idle.is_zero() {
            true => None,
            false => {
                say(&format!("idle without pods, {} s", idle.as_secs()));
                let agent = self.start_agent().await?;
                let seen = watch_idle(&agent, idle).await?;
                self.clear(agent).await?;
                seen
            }
        };

        let mut floors = vec![];
        let (concurrencies, repeats) = if rounds == 0 { ([].as_slice(), 0) } else { other_floors };
        for at_once in concurrencies {
            let mut totals = vec![];
            for _ in 0..repeats {
                say(&format!("floor of {pods} pods, {at_once} at once"));
                totals.push(self.floor(pods, *at_once).await?.0.total);
            }
            floors.push((*at_once, totals));
        }

        let mut many = vec![];
        let (mut idle_many, mut adoption) = (None, None);
        for round in 1..=rounds {
            say(&format!("{pods} pods, round {round} of {rounds}"));
            let floor = self.floor(pods, pods).await?;
            let (mut agent, pair) = self.agent(pods, POLL_MANY, floor).await?;
            say(&format!("floor {:.2} s, agent {:.2} s", pair.floor.total, pair.agent.total));
            many.push(pair);
            if round == rounds {
                say(&format!("idle with {pods} pods, {} s", idle.as_secs()));
                idle_many = watch_idle(&agent, idle).await?;
                say("starting the agent again among the pods");
                agent.stop().await?;
                let began = Instant::now();
                agent = Agent::start(&self.site).await?;
                let known = agent.wait_ready(pods, began, POLL_ADOPTION, LIMIT).await?;
                adoption = Some(Adoption {
                    start_to_healthz: agent.start_to_healthz,
                    start_to_ready: known.last().copied().unwrap_or_default(),
                    idle: watch_idle(&agent, idle).await?,
                });
            }
            self.clear(agent).await?;
        }

        Ok(Measured {
            size: self.size.clone(),
            binary_bytes,
            starts: self.starts.clone(),
            one,
            many,
            other_floors: floors,
            idle_empty,
            idle_many,
            adoption,
        })
    }

    /// One run of the floor, with everything taken away after it. Returns when the first sandbox was created, too.
    pub(crate) async fn floor(&mut self, pods: usize, at_once: usize) -> Result<(FloorRun, f64)> {
        self.note_load();
        for asked in &self.asked[..pods] {
            pods::make_files(asked)?;
        }
        // The runtime has rested as long before a run of the agent.
        tokio::time::sleep(SETTLE).await;
        let run = floor::run(&self.client, &self.asked[..pods], at_once).await?;
        let sandbox_at = self.first_sandbox().await?;
        self.make_empty().await?;
        Ok((run, sandbox_at))
    }

    /// One run of the agent, whose pods stay; with the run of the floor before it this is a pair.
    async fn agent(&mut self, pods: usize, poll: Duration, floor: (FloorRun, f64)) -> Result<(Agent, Pair)> {
        self.note_load();
        let mut agent = self.start_agent().await?;
        tokio::time::sleep(SETTLE).await;
        let cpu = procfs::cpu_seconds(agent.pid)?;
        let run = agent.run_pods(pods, poll, LIMIT).await?;
        let agent_cpu = procfs::cpu_seconds(agent.pid)? - cpu;
        let (floor, floor_sandbox_at) = floor;
        let agent_sandbox_at = self.first_sandbox().await?;
        Ok((agent, Pair { floor, floor_sandbox_at, agent: run, agent_sandbox_at, agent_cpu }))
    }

    async fn start_agent(&mut self) -> Result<Agent> {
        let agent = Agent::start(&self.site).await?;
        self.starts.push(agent.start_to_healthz);
        Ok(agent)
    }

    /// When the runtime created its oldest sandbox, seconds since 1970.
    async fn first_sandbox(&self) -> Result<f64> {
        let sandboxes = runtime::sandboxes(&self.client).await?;
        let first =
            sandboxes.iter().map(|sandbox| sandbox.created_at).min().context("no sandbox is there")?;
        Ok(first as f64 / 1e9)
    }

    /// Has the agent take its pods away, ends it, and leaves nothing of either.
    pub(crate) async fn clear(&mut self, mut agent: Agent) -> Result<()> {
        agent.remove_manifests()?;
        if !runtime::becomes_empty(&self.client, LIMIT).await? {
            say("the agent does not take its pods away; the benchmark does");
        }
        agent.wait_forgotten(LIMIT).await?;
        agent.stop().await?;
        self.make_empty().await
    }

    /// Takes away what is left of a run.
    pub(crate) async fn make_empty(&self) -> Result<()> {
        runtime::empty(&self.client).await?;
        runtime::becomes_empty(&self.client, LIMIT).await?;
        self.remove_files()
    }

    fn remove_files(&self) -> Result<()> {
        let places = &self.site.places;
        let [staging, share] = ["staging", "share"].map(|dir| self.site.dir.join(dir));
        // What an agent that was ended too early left mounted.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for point in mounts_below(&mounts, &places.root_dir) {
            rubelet_linux::mounts::unmount(point)
                .with_context(|| format!("cannot unmount {}", point.display()))?;
        }
        for dir in [&places.root_dir, &places.pod_logs_dir, &places.manifests, &staging, &share] {
            match fs::remove_dir_all(dir) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.with_context(|| format!("cannot remove {}", dir.display()))?,
            }
        }
        let hierarchies = rubelet_linux::cgroup::hierarchies(Path::new(rubelet_linux::cgroup::MOUNT));
        for asked in &self.asked {
            rubelet_linux::cgroup::remove(&hierarchies, &asked.cgroup)
                .with_context(|| format!("cannot remove cgroup {}", asked.cgroup))?;
        }
        Ok(())
    }
}

/// The mount points below a folder, the youngest first. A path with blanks in it is not found: the agent makes none.
fn mounts_below<'a>(mounts: &'a str, dir: &Path) -> Vec<&'a Path> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    let mut below: Vec<&Path> = points.filter(|point| point.starts_with(dir)).collect();
    below.reverse();
    below
}

/// Lets the agent come to rest and watches it, unless no time is given for it.
async fn watch_idle(agent: &Agent, time: Duration) -> Result<Option<Idle>> {
    if time.is_zero() {
        return Ok(None);
    }
    tokio::time::sleep(SETTLE_IDLE).await;
    procfs::watch(agent.pid, time).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_folder_come_off_in_turn() {
        let mounts = "tmpfs /b/kubelet/pods/1 tmpfs rw 0 0\n/dev/x /b/kubeletish ext4 rw 0 0\ntmpfs /b/kubelet/pods/1/in tmpfs rw 0 0\n";
        let wanted = ["/b/kubelet/pods/1/in", "/b/kubelet/pods/1"].map(Path::new);
        assert_eq!(mounts_below(mounts, Path::new("/b/kubelet")), wanted);
    }
}
