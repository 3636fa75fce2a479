//! `make test`: everything that CI runs, in the order in which mistakes are cheapest to hear of.
//!
//! Owns which checks there are. Nothing is skipped silently: what cannot run fails with what to do about it. Called
//! by people, and by .ci/run on CI.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::containerd::Version;
use crate::process::{command, find_program, output, run, say, step};
use crate::{host, programs, tidy};

/// What `test` was asked to do.
#[derive(Debug, clap::Args)]
pub(crate) struct TestOptions {
    /// Leave out the tests that need root and a container runtime.
    #[arg(long)]
    no_node: bool,
    /// Run only those.
    #[arg(long, conflicts_with = "no_node")]
    only_node: bool,
    /// The containerd versions the node tests run on.
    #[arg(long = "containerd", value_enum, default_values_t = [Version::V1_6, Version::V2])]
    versions: Vec<Version>,
}

/// Runs all of it; the first failure ends it.
pub(crate) fn test(options: &TestOptions) -> Result<()> {
    if !options.no_node {
        host::install_requirements()?;
        output(&mut host::as_root(&["true"])?)
            .context("the node tests need root; `cargo xtask test --no-node` leaves them out")?;
    }
    let nextest = output(command(["cargo", "nextest", "--version"]).current_dir(host::repository())).is_ok();
    if !options.only_node {
        without_node(nextest)?;
    }
    if options.no_node {
        say("the node tests were left out, as asked");
        return Ok(());
    }
    for version in &options.versions {
        node_tests(*version, nextest)?;
    }
    if let Some(version) = options.versions.last() {
        library_example(*version)?;
    }
    two_commands()
}

/// What needs neither root nor a container runtime.
fn without_node(nextest: bool) -> Result<()> {
    cargo("formatting", &["fmt", "--all", "--check"])?;
    step("tidy", tidy::check)?;
    if find_program("cargo-deny").is_some() {
        cargo("licences and sources", &["deny", "--all-features", "check", "licenses", "bans", "sources"])?;
    } else {
        say("cargo-deny is not installed: licences are not checked here");
    }
    cargo("lints", &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"])?;
    if !nextest {
        return cargo("tests", &["test", "--workspace"]);
    }
    cargo("tests", &["nextest", "run", "--workspace", "--profile", "ci"])?;
    cargo("documentation tests", &["test", "--workspace", "--doc"])
}

fn cargo(what: &str, arguments: &[&str]) -> Result<()> {
    step(what, || run(command(["cargo"]).args(arguments).current_dir(host::repository())))
}

/// This program, as root.
pub(crate) fn xtask(arguments: &[&str]) -> Result<Command> {
    let own = own_program()?;
    // The second process has to find cargo's tools where this one does.
    let path = format!("PATH={}", std::env::var("PATH").unwrap_or_default());
    host::as_root(&[&["env", &path, own.as_str()], arguments].concat())
}

fn own_program() -> Result<String> {
    Ok(std::env::current_exe().context("cannot find this program")?.display().to_string())
}

/// The scenarios of crates/rubelet/tests/node on one containerd version. Each test starts a containerd of its own.
fn node_tests(version: Version, nextest: bool) -> Result<()> {
    let version = version.to_string();
    // One start ahead of the tests: it fetches the version, and tells a machine's fault from a test's.
    step(&format!("checking containerd {version}"), || {
        let dir = format!("/tmp/rubelet-check-{}", std::process::id());
        let checked =
            output(&mut xtask(&["containerd", "start", "--check", "--version", &version, "--dir", &dir])?);
        let stopped = output(&mut xtask(&["containerd", "stop", "--dir", &dir])?);
        checked.and(stopped).map(|_| ())
    })?;
    // The tests mostly wait for containers; how many run at a time is bounded by their group in nextest's settings.
    let mut words: Vec<&str> = if nextest {
        vec!["cargo", "nextest", "run", "--profile", "ci", "--test-threads", "4"]
    } else {
        vec!["cargo", "test"]
    };
    words.extend(["--package", "rubelet", "--features", "node-tests", "--test", "node"]);
    step(&format!("node tests on containerd {version}"), || {
        let mut command = command(&words);
        command.current_dir(host::repository());
        command.env("RUBELET_TEST_CONTAINERD", &version).env("RUBELET_XTASK", own_program()?);
        if !host::is_root() {
            // Built by the person who runs it, run by root.
            let target =
                format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", std::env::consts::ARCH.to_uppercase());
            command.env(target, "sudo --preserve-env");
        }
        run(&mut command)
    })
}

/// The example of the library, on a containerd of its own.
fn library_example(version: Version) -> Result<()> {
    step("the library's example", || {
        let example = programs::example("rubelet", "node_and_pod")?;
        let dir = format!("/tmp/rubelet-example-{}", std::process::id());
        let version = version.to_string();
        let started = output(&mut xtask(&["containerd", "start", "--version", &version, "--dir", &dir])?)?;
        let runtime: Value = serde_json::from_str(&started).context("containerd start printed no JSON")?;
        let text = |key: &str| runtime[key].as_str().unwrap_or_default().to_owned();
        let files = format!("{dir}/example");
        let ran = output(&mut host::as_root(&[
            &example.display().to_string(),
            "--runtime",
            &text("endpoint"),
            "--image",
            &text("busybox_image"),
            "--cgroup-root",
            &text("cgroup_root"),
            "--dir",
            &files,
        ])?);
        let stopped = output(&mut xtask(&["containerd", "stop", "--dir", &dir])?);
        let printed = ran?;
        stopped?;
        if !printed.contains("ended with exit code 0") {
            bail!("the example did not come to its end:\n{printed}");
        }
        Ok(())
    })
}

/// `make run` and `make stop` as a newcomer has them, in a folder of their own.
fn two_commands() -> Result<()> {
    let dir = PathBuf::from(format!("/tmp/rubelet-run-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let ran = step("make run and make stop", || {
        let first = up_and_down(&dir, &["up", "--detach", "--profile", "dev"]);
        // A second `make run` beside the first one must find it and change nothing.
        let second = first.and_then(|()| up_and_down(&dir, &["up", "--detach", "--profile", "dev"]));
        let down = up_and_down(&dir, &["down"]);
        second.and(down)
    });
    if ran.is_ok() && dir.join("node").exists() {
        bail!("make stop left {} behind", dir.join("node").display());
    }
    let _not_there_after_a_clean_stop = fs::remove_dir_all(&dir);
    ran
}

fn up_and_down(dir: &Path, arguments: &[&str]) -> Result<()> {
    run(command([own_program()?]).args(arguments).env("RUBELET_DEV_DIR", dir))
}
