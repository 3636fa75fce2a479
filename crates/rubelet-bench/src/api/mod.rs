//! The control plane's part: what the agent costs an API server, and how soon the server knows what is so.
//!
//! Owns the runs and their order. The server is this process's own (`cluster`), what it was asked is counted by
//! `requests`, when containers began is told by the pods of `moments`, the words are in `report`. Called by the plan
//! of the benchmark, whose floor and cleaning-up it uses.

pub(crate) mod cluster;
mod moments;
mod report;
mod requests;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::agent::{ControlPlane, Process, Site};
use crate::plan::{Bench, LIMIT, SETTLE, SETTLE_IDLE, Size};
use crate::procfs::{self, Idle};
use crate::report::Report;
use crate::{pods, runtime, say};

use cluster::Cluster;
use moments::Moment;
use requests::Tally;

/// How long after the last pod is ready or gone its requests are still counted: events come after statuses.
const AFTERWORD: Duration = Duration::from_secs(2);

/// Everything that was measured of the control plane.
#[derive(Debug)]
struct Measured {
    size: Size,
    /// Starts of the agent on a node nobody knew.
    fresh: Vec<NodeStart>,
    /// Starts of the agent on a node that was given up.
    known: Vec<NodeStart>,
    one: Vec<Run>,
    many: Vec<Run>,
    idle_empty: Option<(Idle, Tally)>,
    idle_many: Option<(Idle, Tally)>,
    /// Pods one after the other.
    in_turn: Vec<Moment>,
    /// Pods at once.
    at_once: Vec<Moment>,
    /// What the server refused.
    refused: Vec<String>,
}

/// One start of the agent.
#[derive(Debug)]
struct NodeStart {
    /// From the start of the process until the API had Ready, seconds.
    ready: f64,
    /// Requests until then.
    requests: Tally,
}

/// One run with pods, from nothing to nothing. Times in seconds.
#[derive(Debug)]
struct Run {
    /// The floor before it.
    floor: f64,
    /// From the first binding until each pod was said to be Ready, in the order they came.
    ready: Vec<f64>,
    /// CPU time of the agent until the last was, and the [`AFTERWORD`].
    cpu: f64,
    /// Requests of the same time.
    start: Tally,
    /// Status writes of each pod until Ready.
    writes: Vec<usize>,
    /// From the first deletion until each pod was gone, in the order they went.
    gone: Vec<f64>,
    /// CPU time of the agent until the last was, and the [`AFTERWORD`].
    end_cpu: f64,
    /// Requests of the same time.
    end: Tally,
}

/// Measures the control plane's part.
pub(crate) async fn measure(bench: &mut Bench) -> Result<Report> {
    let dir = bench.site.dir.join("cluster");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let cluster = Cluster::start(&dir).await?;
    let control_plane = ControlPlane::Cluster(cluster.kubeconfig());
    let site = Site { control_plane, ..bench.site.clone() };
    let mut part = Part { bench, cluster, site };
    let measured = part.measure().await?;
    Ok(report::report(&measured, part.bench.conditions().await?))
}

/// The part with its tools.
struct Part<'a> {
    bench: &'a mut Bench,
    cluster: Cluster,
    /// The agent with its cluster.
    site: Site,
}

impl Part<'_> {
    async fn measure(&mut self) -> Result<Measured> {
        let Size { pods, runs, rounds, idle, starts, .. } = self.bench.size.clone();
        say("warming up");
        self.bench.floor(1, 1).await?;

        let (mut fresh, mut known) = (vec![], vec![]);
        // The first start brings the program into memory and is not counted.
        for start in 0..=starts {
            say(&format!("start {start} of {starts}"));
            self.cluster.forget_node();
            let new = self.start_and_stop().await?;
            let old = self.start_and_stop().await?;
            self.bench.make_empty().await?;
            if start > 0 {
                fresh.push(new);
                known.push(old);
            }
        }

        let mut one = vec![];
        for run in 1..=runs {
            say(&format!("one pod, run {run} of {runs}"));
            one.push(self.run(1, None).await?.0);
        }

        let mut idle_empty = None;
        if !idle.is_zero() {
            say(&format!("idle without pods, {} s", idle.as_secs()));
            let agent = self.start_agent().await?;
            idle_empty = Some(self.watch_idle(&agent, idle).await?);
            self.clear(agent).await?;
        }

        let (mut many, mut idle_many) = (vec![], None);
        for round in 1..=rounds {
            say(&format!("{pods} pods, round {round} of {rounds}"));
            let watched = (round == rounds && !idle.is_zero()).then_some(idle);
            let (run, idle) = self.run(pods, watched).await?;
            many.push(run);
            idle_many = idle;
        }

        let in_turn = if runs == 0 { vec![] } else { self.in_turn(pods).await? };
        let at_once = if rounds == 0 { vec![] } else { self.at_once(pods).await? };
        Ok(Measured {
            size: self.bench.size.clone(),
            fresh,
            known,
            one,
            many,
            idle_empty,
            idle_many,
            in_turn,
            at_once,
            refused: self.cluster.refused(),
        })
    }

    async fn start_and_stop(&mut self) -> Result<NodeStart> {
        self.bench.note_load();
        tokio::time::sleep(SETTLE).await;
        let (agent, start) = self.start_counted().await?;
        agent.stop().await?;
        Ok(start)
    }

    /// Starts the agent and waits until its node is Ready: anew, or for the first time.
    async fn start_counted(&mut self) -> Result<(Process, NodeStart)> {
        self.cluster.give_node_up();
        self.cluster.forget().await;
        let mut agent = Process::start(&self.site).await?;
        let ready_at = self.cluster.wait_node_ready(&mut agent, LIMIT).await?;
        let until = self.cluster.requests().partition_point(|request| request.at <= ready_at);
        let requests = Tally::of(&self.cluster.requests()[..until], None);
        let start = NodeStart { ready: ready_at - agent.began_at, requests };
        Ok((agent, start))
    }

    /// An agent that is over its start.
    async fn start_agent(&mut self) -> Result<Process> {
        let (agent, _) = self.start_counted().await?;
        tokio::time::sleep(SETTLE).await;
        Ok(agent)
    }

    /// The floor, then so many pods at once through the API until they are gone; between, at rest for a time.
    async fn run(&mut self, count: usize, idle: Option<Duration>) -> Result<(Run, Option<(Idle, Tally)>)> {
        let floor = self.bench.floor(count, count).await?.0.total;
        self.bench.note_load();
        let mut agent = self.start_agent().await?;
        let manifests: Vec<Value> = (0..count).map(pods::manifest).collect();
        let names: Vec<String> =
            manifests.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect();
        self.cluster.create(&manifests);

        self.cluster.forget().await;
        let cpu = procfs::cpu_seconds(agent.pid)?;
        let began_at = self.cluster.bind(&names);
        let ready = since(began_at, self.cluster.wait_ready(&mut agent, count, LIMIT).await?);
        tokio::time::sleep(AFTERWORD).await;
        let cpu = procfs::cpu_seconds(agent.pid)? - cpu;
        let start = self.cluster.tally().await;
        let writes = requests::writes_until_ready(self.cluster.requests());

        let mut seen = None;
        if let Some(time) = idle {
            say(&format!("idle with {count} pods, {} s", time.as_secs()));
            seen = Some(self.watch_idle(&agent, time).await?);
        }

        self.cluster.forget().await;
        let end_cpu = procfs::cpu_seconds(agent.pid)?;
        let began_at = self.cluster.delete(&names);
        let gone = since(began_at, self.cluster.wait_gone(&mut agent, count, LIMIT).await?);
        tokio::time::sleep(AFTERWORD).await;
        let end_cpu = procfs::cpu_seconds(agent.pid)? - end_cpu;
        let end = self.cluster.tally().await;
        self.clear(agent).await?;
        Ok((Run { floor, ready, cpu, start, writes, gone, end_cpu, end }, seen))
    }

    /// Lets the agent come to rest and watches it and its requests.
    async fn watch_idle(&mut self, agent: &Process, time: Duration) -> Result<(Idle, Tally)> {
        tokio::time::sleep(SETTLE_IDLE).await;
        self.cluster.forget().await;
        let idle = procfs::watch(agent.pid, time).await?;
        Ok((idle, self.cluster.tally().await))
    }

    /// Pods one after the other: each comes when the one before is gone.
    async fn in_turn(&mut self, count: usize) -> Result<Vec<Moment>> {
        say(&format!("how soon the API knows: {count} pods one after the other"));
        let mut agent = self.start_agent().await?;
        let mut moments = vec![];
        for number in 0..count {
            moments.extend(self.tell(&mut agent, &[format!("turn-{number:03}")]).await?);
        }
        self.clear(agent).await?;
        Ok(moments)
    }

    /// Pods at once.
    async fn at_once(&mut self, count: usize) -> Result<Vec<Moment>> {
        say(&format!("how soon the API knows: {count} pods at once"));
        let mut agent = self.start_agent().await?;
        let names: Vec<String> = (0..count).map(|number| format!("once-{number:03}")).collect();
        let moments = self.tell(&mut agent, &names).await?;
        self.clear(agent).await?;
        Ok(moments)
    }

    /// Runs telling pods from nothing to nothing.
    async fn tell(&mut self, agent: &mut Process, names: &[String]) -> Result<Vec<Moment>> {
        let share = self.site.dir.join("share");
        fs::create_dir_all(&share).with_context(|| format!("cannot create {}", share.display()))?;
        let manifests: Vec<Value> = names.iter().map(|name| moments::manifest(name, &share)).collect();
        self.bench.note_load();
        self.cluster.create(&manifests);
        self.cluster.forget().await;
        self.cluster.bind(names);
        self.cluster.wait_ready(agent, names.len(), LIMIT).await?;
        let ready: BTreeMap<String, f64> = requests::pods_ready(self.cluster.requests())
            .into_iter()
            .map(|(name, at)| (name.to_owned(), at))
            .collect();
        let moments = moments::read(&self.bench.client, &share, &ready).await?;
        self.cluster.forget().await;
        self.cluster.delete(names);
        self.cluster.wait_gone(agent, names.len(), LIMIT).await?;
        Ok(moments)
    }

    /// Ends an agent whose pods are gone, and leaves nothing of it but the node.
    async fn clear(&mut self, agent: Process) -> Result<()> {
        if !runtime::becomes_empty(&self.bench.client, LIMIT).await? {
            say("the agent does not take its pods away; the benchmark does");
        }
        agent.stop().await?;
        self.bench.make_empty().await
    }
}

fn since(began_at: f64, times: Vec<f64>) -> Vec<f64> {
    times.into_iter().map(|at| at - began_at).collect()
}
