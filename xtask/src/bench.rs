//! `cargo xtask bench`: the benchmark with everything it needs around it.
//!
//! Owns the release builds, the private containerd and the folder. Never measures anything: that is rubelet-bench's
//! business. Called by the command line.

use anyhow::{Context, Result};

use crate::containerd::{Handle, Version};
use crate::process::{output, run, step};
use crate::suite::xtask;
use crate::{host, programs};

/// What `bench` was asked to do.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchOptions {
    /// The containerd to measure on.
    #[arg(long, value_enum, default_value_t = Version::Installed)]
    containerd: Version,
    /// What rubelet-bench itself takes, after `--`: `--help` lists it.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Builds, starts a containerd, measures, and removes the containerd again.
pub(crate) fn bench(options: &BenchOptions) -> Result<()> {
    host::install_requirements()?;
    let agent = step("building the agent", || programs::build("rubelet", "release"))?;
    let program = step("building the benchmark", || programs::build("rubelet-bench", "release"))?;
    let dir = format!("/tmp/rubelet-bench-{}", std::process::id());
    let version = options.containerd.to_string();
    let started = step("starting a private containerd", || {
        output(&mut xtask(&["containerd", "start", "--version", &version, "--dir", &dir])?)
    });
    let measured = started.and_then(|_| {
        let handle = Handle::load(dir.as_ref()).context("the started containerd left no handle")?;
        // Inside containerd's folder, so that all of it goes with it.
        let place = format!("{dir}/bench");
        output(&mut host::as_root(&["mkdir", "-p", &place])?)?;
        let [program, agent, socket] =
            [&program, &agent, &handle.socket].map(|path| path.display().to_string());
        let mut words = vec![program.as_str(), "--socket", &socket, "--agent", &agent, "--dir", &place];
        words.extend(["--cgroup-root", &handle.cgroup_root]);
        words.extend(options.arguments.iter().map(String::as_str));
        run(&mut host::as_root(&words)?)
    });
    let stopped = output(&mut xtask(&["containerd", "stop", "--dir", &dir])?);
    measured.and(stopped.map(|_| ()))
}
