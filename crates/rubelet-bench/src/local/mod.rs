//! The local API's part: `rubelet local` as people use it, and what its objects cost.
//!
//! Owns the runs and their order. The process is `server`, seen through the connection of `client`; objects without
//! pods are `objects`; the words are in `report`. Called by the plan of the benchmark, whose floor and cleaning-up it
//! uses.

mod client;
mod objects;
mod report;
mod server;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::agent::{ControlPlane, Site};
use crate::http::free_port;
use crate::plan::{Bench, LIMIT, SETTLE, SETTLE_IDLE, Size};
use crate::procfs::{self, Idle, Memory};
use crate::report::Report;
use crate::{pods, runtime, say};

use objects::Objects;
use server::{Came, Server, Start};

/// Everything that was measured of the local API.
#[derive(Debug)]
struct Measured {
    size: Size,
    binary_bytes: u64,
    /// Starts without any data, with the data of the start before, and with many objects.
    fresh: Vec<Start>,
    known: Vec<Start>,
    filled: Vec<Start>,
    one: Vec<Run>,
    /// Runs with many pods, by how many.
    many: Vec<(usize, Vec<Run>)>,
    /// The process at rest, by how many pods there are.
    idle: Vec<(usize, Idle)>,
    objects: Option<Objects>,
    /// The process at rest among many objects, started anew.
    idle_filled: Option<Idle>,
}

/// One run with pods, from nothing to nothing. Times in seconds.
#[derive(Debug)]
struct Run {
    /// The floor before it.
    floor: f64,
    came: Came,
    /// CPU time of the process meanwhile.
    cpu: f64,
    /// From the first deletion until each was gone.
    gone: Vec<f64>,
    gone_cpu: f64,
}

/// Measures the local API's part.
pub(crate) async fn measure(bench: &mut Bench) -> Result<Report> {
    let data_dir = bench.site.dir.join("local");
    let control_plane = ControlPlane::Local { data_dir: data_dir.clone(), port: free_port().await? };
    let site = Site { control_plane, ..bench.site.clone() };
    let mut part = Part { bench, site };
    let measured = part.measure(&data_dir).await?;
    remove(&data_dir)?;
    Ok(report::report(&measured, part.bench.conditions().await?))
}

/// Memory of the process with so many pods at rest: before these documents of its node were asked for through its API,
/// three times each, and after.
pub(crate) async fn scraped(bench: &mut Bench, count: usize, paths: &[&str]) -> Result<(Memory, Memory)> {
    let data_dir = bench.site.dir.join("local");
    remove(&data_dir)?;
    let control_plane = ControlPlane::Local { data_dir: data_dir.clone(), port: free_port().await? };
    let site = Site { control_plane, ..bench.site.clone() };
    let (server, _) = Server::start(&site).await?;
    let manifests: Vec<Value> = (0..count).map(pods::manifest).collect();
    server.create(&manifests).await?;
    tokio::time::sleep(SETTLE_IDLE).await;
    let before = procfs::memory(server.pid)?;
    for _ in 0..3 {
        for path in paths {
            server.client.get(&format!("/api/v1/nodes/{}/proxy{path}", pods::NODE_NAME)).await?;
        }
        // What was read is not shown again after this.
        tokio::time::sleep(SETTLE + Duration::from_millis(100)).await;
    }
    let after = procfs::memory(server.pid)?;
    let names: Vec<String> =
        manifests.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect();
    server.delete(&names).await?;
    if !runtime::becomes_empty(&bench.client, LIMIT).await? {
        say("the agent does not take its pods away; the benchmark does");
    }
    server.stop().await?;
    bench.make_empty().await?;
    remove(&data_dir)?;
    Ok((before, after))
}

/// The part with its tools.
struct Part<'a> {
    bench: &'a mut Bench,
    site: Site,
}

impl Part<'_> {
    async fn measure(&mut self, data_dir: &Path) -> Result<Measured> {
        let Size { pods, runs, rounds, idle, starts, bursts, objects, .. } = self.bench.size.clone();
        say("warming up");
        self.bench.floor(1, 1).await?;
        // The first start brings the program into memory and is not counted.
        self.start_and_stop(data_dir, true).await?;

        let (mut fresh, mut known) = (vec![], vec![]);
        for start in 1..=starts {
            say(&format!("start {start} of {starts}"));
            fresh.push(self.start_and_stop(data_dir, true).await?);
            known.push(self.start_and_stop(data_dir, false).await?);
        }

        let mut one = vec![];
        for run in 1..=runs {
            say(&format!("one pod, run {run} of {runs}"));
            one.push(self.run(1, None).await?.0);
        }

        let mut rests = vec![];
        if !idle.is_zero() {
            say(&format!("idle without pods, {} s", idle.as_secs()));
            let (server, _) = Server::start(&self.site).await?;
            rests.push((0, watch_idle(&server, idle).await?));
            server.stop().await?;
        }
        let mut many = vec![];
        let mut counts: Vec<usize> = bursts.iter().copied().filter(|count| *count < pods).collect();
        counts.push(pods);
        for count in counts.into_iter().filter(|_| rounds > 0) {
            let mut of_count = vec![];
            for round in 1..=rounds {
                say(&format!("{count} pods, round {round} of {rounds}"));
                let watched = (round == rounds && !idle.is_zero()).then_some(idle);
                let (run, rest) = self.run(count, watched).await?;
                of_count.push(run);
                rests.extend(rest.map(|rest| (count, rest)));
            }
            many.push((count, of_count));
        }
        let (seen, filled, idle_filled) = match objects {
            0 => (None, vec![], None),
            _ => self.objects(data_dir, objects, starts, idle).await?,
        };
        Ok(Measured {
            size: self.bench.size.clone(),
            binary_bytes: fs::metadata(&self.site.program)?.len(),
            fresh,
            known,
            filled,
            one,
            many,
            idle: rests,
            objects: seen,
            idle_filled,
        })
    }

    async fn start_and_stop(&mut self, data_dir: &Path, anew: bool) -> Result<Start> {
        if anew {
            remove(data_dir)?;
        }
        self.bench.note_load();
        tokio::time::sleep(SETTLE).await;
        let (server, start) = Server::start(&self.site).await?;
        server.stop().await?;
        Ok(start)
    }

    /// The floor, then so many pods at once through the API until they are gone; between, at rest for a time.
    async fn run(&mut self, count: usize, idle: Option<Duration>) -> Result<(Run, Option<Idle>)> {
        let floor = self.bench.floor(count, count).await?.0.total;
        self.bench.note_load();
        let (server, _) = Server::start(&self.site).await?;
        tokio::time::sleep(SETTLE).await;
        let manifests: Vec<Value> = (0..count).map(pods::manifest).collect();
        let names: Vec<String> =
            manifests.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect();
        let cpu = procfs::cpu_seconds(server.pid)?;
        let came = server.create(&manifests).await?;
        let cpu = procfs::cpu_seconds(server.pid)? - cpu;
        let mut rest = None;
        if let Some(time) = idle {
            say(&format!("idle with {count} pods, {} s", time.as_secs()));
            rest = Some(watch_idle(&server, time).await?);
        }
        let gone_cpu = procfs::cpu_seconds(server.pid)?;
        let gone = server.delete(&names).await?;
        let gone_cpu = procfs::cpu_seconds(server.pid)? - gone_cpu;
        if !runtime::becomes_empty(&self.bench.client, LIMIT).await? {
            say("the agent does not take its pods away; the benchmark does");
        }
        server.stop().await?;
        self.bench.make_empty().await?;
        Ok((Run { floor, came, cpu, gone, gone_cpu }, rest))
    }

    /// Many objects, on a store of their own; then starts among them.
    async fn objects(
        &mut self,
        data_dir: &Path,
        count: usize,
        starts: usize,
        idle: Duration,
    ) -> Result<(Option<Objects>, Vec<Start>, Option<Idle>)> {
        remove(data_dir)?;
        self.bench.note_load();
        let (server, _) = Server::start(&self.site).await?;
        let single = self.bench.size.asks.min(count);
        let mut seen = objects::measure(&server.access, server.pid, &self.site.dir, count, single).await?;
        server.stop().await?;
        let store = data_dir.join("store");
        seen.store_bytes = fs::read_dir(&store)
            .with_context(|| format!("cannot read {}", store.display()))?
            .map(|entry| Ok(entry?.metadata()?.len()))
            .sum::<Result<u64>>()?;
        let mut filled = vec![];
        for start in 1..=starts {
            say(&format!("start {start} of {starts} among {count} objects"));
            filled.push(self.start_and_stop(data_dir, false).await?);
        }
        let mut rest = None;
        if !idle.is_zero() {
            say(&format!("idle with {count} objects, {} s", idle.as_secs()));
            let (server, _) = Server::start(&self.site).await?;
            rest = Some(watch_idle(&server, idle).await?);
            server.stop().await?;
        }
        Ok((Some(seen), filled, rest))
    }
}

/// Lets the process come to rest and watches it.
async fn watch_idle(server: &Server, time: Duration) -> Result<Idle> {
    tokio::time::sleep(SETTLE_IDLE).await;
    procfs::watch(server.pid, time).await
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("cannot remove {}", dir.display())),
    }
}
