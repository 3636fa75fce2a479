//! Measures the agent against the floor, the same CRI calls with nothing around them; and what it costs a control plane.
//!
//! Owns the command line and prints the report. Given a runtime of its own and a built agent by `cargo xtask bench`,
//! which is the way to run it; see docs/benchmarks.md. Nothing depends on this crate and nothing of it is shipped.

mod agent;
mod api;
mod floor;
mod http;
mod local;
mod numbers;
mod plan;
mod pods;
mod probes;
mod procfs;
mod report;
mod runtime;
mod server;
mod volumes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use crate::plan::{Bench, Part, Size};

/// What `cargo xtask bench` tells; every path is absolute.
#[derive(Debug, Parser)]
#[command(name = "rubelet-bench", about = "Measures the agent against the bare CRI calls")]
struct Cli {
    /// Socket of a container runtime that nobody else uses; it must hold no pods.
    #[arg(long)]
    socket: PathBuf,
    /// The agent.
    #[arg(long)]
    agent: PathBuf,
    /// An existing folder for everything that is written.
    #[arg(long)]
    dir: PathBuf,
    /// Cgroup under which pods are put.
    #[arg(long, default_value = "/")]
    cgroup_root: String,
    /// Measure the agent in a cluster instead: what it asks of the API server, and how soon the server knows.
    #[arg(long)]
    api: bool,
    /// Measure `rubelet local` instead: start, pods over its API, what objects cost.
    #[arg(long, conflicts_with = "api")]
    local: bool,
    /// Measure the kubelet API instead: followers of logs, commands, scrapes.
    #[arg(long, conflicts_with_all = ["api", "local"])]
    server: bool,
    /// Measure probes instead: what they cost, how punctual they are; and the rotation of logs.
    #[arg(long, conflicts_with_all = ["api", "local", "server"])]
    probes: bool,
    /// Measure volumes instead: what they add to a start, changes of ConfigMaps, files for a group.
    #[arg(long, conflicts_with_all = ["api", "local", "server", "probes"])]
    volumes: bool,
    /// Fewer repetitions and fewer pods: shows that it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// Pods in the runs with many.
    #[arg(long)]
    pods: Option<usize>,
    /// Runs with one pod, of each side; 0 leaves them out.
    #[arg(long)]
    runs: Option<usize>,
    /// Runs with many pods, of each side; 0 leaves them out.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds that the idle agent is watched; 0 leaves it out.
    #[arg(long)]
    idle: Option<u64>,
    /// Objects in the local API; 0 leaves them out.
    #[arg(long)]
    objects: Option<usize>,
    /// Followers of logs; 0 leaves them out.
    #[arg(long)]
    followers: Option<usize>,
    /// Commands of which is seen what they leave behind; 0 leaves them out.
    #[arg(long)]
    sessions: Option<usize>,
    /// Files that are handed to a group; 0 leaves them out.
    #[arg(long)]
    files: Option<usize>,
    /// Changes of a ConfigMap; 0 leaves them out.
    #[arg(long)]
    changes: Option<usize>,
    /// Log verbosity of the agent. More than 2 costs time that is then measured.
    #[arg(long, default_value_t = 2)]
    verbosity: u8,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(AWAKE) {
        stay_awake();
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((probes::floor::WORD, rest)) = words.split_first().map(|(first, rest)| (first.as_str(), rest))
    {
        return ended(&probes::floor::run(rest));
    }
    ended(&run(&Cli::parse()))
}

fn ended(result: &Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start")?;
    let preset = if cli.quick { Size::quick() } else { Size::full() };
    let size = Size {
        pods: cli.pods.unwrap_or(preset.pods).max(1),
        runs: cli.runs.unwrap_or(preset.runs),
        rounds: cli.rounds.unwrap_or(preset.rounds),
        idle: cli.idle.map_or(preset.idle, Duration::from_secs),
        objects: cli.objects.unwrap_or(preset.objects),
        followers: cli.followers.unwrap_or(preset.followers),
        sessions: cli.sessions.unwrap_or(preset.sessions),
        files: cli.files.unwrap_or(preset.files),
        changes: cli.changes.unwrap_or(preset.changes),
        ..preset
    };
    let site = agent::Site {
        program: cli.agent.clone(),
        places: pods::Places {
            root_dir: cli.dir.join("kubelet"),
            pod_logs_dir: cli.dir.join("pod-logs"),
            manifests: cli.dir.join("manifests"),
            cgroup_root: cli.cgroup_root.clone(),
        },
        dir: cli.dir.clone(),
        socket: cli.socket.clone(),
        verbosity: cli.verbosity,
        control_plane: agent::ControlPlane::None,
        extra: serde_json::Value::Null,
    };
    let parts = [
        (cli.api, Part::ControlPlane),
        (cli.local, Part::Local),
        (cli.server, Part::Server),
        (cli.probes, Part::Probes),
        (cli.volumes, Part::Volumes),
    ];
    let part = parts.into_iter().find(|(wanted, _)| *wanted).map_or(Part::Floor, |(_, part)| part);
    let report = runtime.block_on(async { Bench::new(site, size).await?.run(part).await })?;
    if cli.json {
        println!("{:#}", report.to_json());
    } else {
        print!("{}", report.to_text());
    }
    Ok(())
}

/// Makes this program a process that runs a little now and then, as a program in a container does.
const AWAKE: &str = "stay-awake";

#[expect(clippy::disallowed_methods, reason = "a process that does nothing else may sleep")]
fn stay_awake() -> ! {
    loop {
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The time of day, to compare with what the runtime says of when something was created. Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures the real world and is never simulated")]
fn wall_seconds() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// A progress line, on stderr so that stdout holds only the report.
fn say(line: &str) {
    eprintln!("==> {line}");
}
