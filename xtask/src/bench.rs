//! `cargo xtask bench`: the agent against the bare CRI calls, on a containerd of its own.
//!
//! Has the agent and the measuring program (`rubelet-bench`) built for release, starts a private containerd, runs the
//! program, and removes everything that was made. Never measures anything itself. Called by people and by CI, see
//! docs/benchmarks.md.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};

use crate::containerd::{self, Version, last_lines};
use crate::process::{say, step};
use crate::{host, images, programs};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchOptions {
    /// The containerd to run on.
    #[arg(long, value_enum, default_value_t = Version::V2)]
    containerd: Version,
    /// Measure the agent in a cluster instead, with the project's own API server: requests, times until the API knows.
    #[arg(long)]
    api: bool,
    /// Measure `rubelet local` instead: start, pods over its API, what objects cost, memory.
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
    /// Fewer repetitions and pods, about a minute: shows that it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Pods in the runs with many.
    #[arg(long)]
    pods: Option<u32>,
    /// Runs with one pod, of each side; 0 leaves them out.
    #[arg(long)]
    runs: Option<u32>,
    /// Runs with many pods, of each side; 0 leaves them out.
    #[arg(long)]
    rounds: Option<u32>,
    /// Seconds that the idle agent is watched; 0 leaves it out.
    #[arg(long)]
    idle: Option<u32>,
    /// Objects in the local API; 0 leaves them out.
    #[arg(long)]
    objects: Option<u32>,
    /// Followers of logs; 0 leaves them out.
    #[arg(long)]
    followers: Option<u32>,
    /// Commands of which is seen what they leave behind; 0 leaves them out.
    #[arg(long)]
    sessions: Option<u32>,
    /// Files that are handed to a group; 0 leaves them out.
    #[arg(long)]
    files: Option<u32>,
    /// Changes of a ConfigMap; 0 leaves them out.
    #[arg(long)]
    changes: Option<u32>,
    /// Measure this agent instead of building one.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// A measuring program that is built already: what a second start through sudo is given.
    #[arg(long, hide = true)]
    program: Option<PathBuf>,
}

/// Builds what is needed, measures, and cleans up.
pub(crate) fn bench(options: &BenchOptions) -> Result<()> {
    let (Some(agent), Some(program)) = (&options.agent, &options.program) else { return prepare(options) };
    let asked_to_end = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        // Ctrl-C ends the measuring program and its agent; this program lives on to clean up.
        signal_hook::flag::register(signal, Arc::clone(&asked_to_end)).context("cannot wait for Ctrl-C")?;
    }
    let dir = host::dev_dir().join("bench");
    let runtime_dir = dir.join("containerd");
    // What an earlier run left when it was killed is not measured on.
    containerd::bring_down(&runtime_dir)?;
    let measured = measure(options, agent, program, &dir, &runtime_dir);
    step("removing everything", || {
        containerd::bring_down(&runtime_dir)?;
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
    })?;
    measured
}

/// What needs no root: packages (through sudo), the programs, the images. Then the rest, as root.
fn prepare(options: &BenchOptions) -> Result<()> {
    host::install_requirements()?;
    let agent = match &options.agent {
        Some(given) => given.canonicalize().with_context(|| format!("cannot find {}", given.display()))?,
        None => step("building the agent for release", || programs::build("rubelet", "release"))?,
    };
    let program = step("building the measuring program", || programs::build("rubelet-bench", "release"))?;
    step("building the images", || images::build(&images::default_dir()))?;
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut words: Vec<String> = vec![];
    if !host::is_root() {
        words.extend(["env".to_owned(), format!("RUBELET_DEV_DIR={}", host::dev_dir().display())]);
    }
    words.extend([own.display().to_string(), "bench".to_owned()]);
    words.extend(["--agent".to_owned(), agent.display().to_string()]);
    words.extend(["--program".to_owned(), program.display().to_string()]);
    words.extend(["--containerd".to_owned(), options.containerd.to_string()]);
    words.extend(passed_on(options));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // The second start takes this one's place, so that Ctrl-C and the exit code are its own.
    let error = host::as_root(&words)?.exec();
    Err(error).context("cannot start the second half")
}

/// The options that the measuring program has too.
fn passed_on(options: &BenchOptions) -> Vec<String> {
    let flags = [
        ("--api", options.api),
        ("--local", options.local),
        ("--server", options.server),
        ("--probes", options.probes),
        ("--volumes", options.volumes),
        ("--quick", options.quick),
        ("--json", options.json),
    ];
    let numbers = [
        ("--pods", options.pods),
        ("--runs", options.runs),
        ("--rounds", options.rounds),
        ("--idle", options.idle),
        ("--objects", options.objects),
        ("--followers", options.followers),
        ("--sessions", options.sessions),
        ("--files", options.files),
        ("--changes", options.changes),
    ];
    let flags = flags.into_iter().filter(|(_, wanted)| *wanted).map(|(flag, _)| flag.to_owned());
    let numbers = numbers.into_iter().filter_map(|(flag, number)| Some(format!("{flag}={}", number?)));
    flags.chain(numbers).collect()
}

fn measure(
    options: &BenchOptions,
    agent: &Path,
    program: &Path,
    dir: &Path,
    runtime_dir: &Path,
) -> Result<()> {
    let archives = images::archives_in(&images::default_dir());
    let runtime = step("starting a private containerd", || {
        containerd::start(options.containerd, runtime_dir, Some(&archives))
    })?;
    let work = dir.join("work");
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let status = Command::new(program)
        .arg("--socket")
        .arg(&runtime.socket)
        .arg("--agent")
        .arg(agent)
        .arg("--dir")
        .arg(&work)
        .arg("--cgroup-root")
        .arg(&runtime.cgroup_root)
        .args(passed_on(options))
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if !status.success() {
        bail!(
            "the measuring program ended with {status}; the end of the agent's log:\n{}",
            last_lines(&work.join("agent.log"), 20)
        );
    }
    say("measured; docs/benchmarks.md says what the lines mean");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: BenchOptions,
    }

    fn check(words: &[&str], wanted: &[&str]) {
        let line = Line::try_parse_from([&["bench"], words].concat()).unwrap();
        assert_eq!(passed_on(&line.options), wanted);
    }

    #[test]
    fn what_both_programs_know_is_passed_on_and_the_rest_is_not() {
        check(&[], &[]);
        check(&["--quick", "--containerd", "1.6", "--agent", "/a"], &["--quick"]);
        check(&["--quick", "--api"], &["--api", "--quick"]);
        check(&["--objects", "5", "--local"], &["--local", "--objects=5"]);
        check(&["--sessions", "5", "--server"], &["--server", "--sessions=5"]);
        check(&["--probes", "--rounds", "2"], &["--probes", "--rounds=2"]);
        check(&["--volumes", "--files", "9", "--changes", "0"], &["--volumes", "--files=9", "--changes=0"]);
        check(&["--json", "--idle", "0", "--pods", "5"], &["--json", "--pods=5", "--idle=0"]);
    }
}
