//! `cargo xtask vm`: tests inside a machine of their own, emulated in software: cgroup v2 with all its controllers, and
//! systemd with its bus, on hosts that have neither.
//!
//! Owns how the machine is put together and run. Its system disk is a small Debian made once by `debootstrap`
//! ([`root`]); a second disk carries the tests, at the path they have here. Both are thrown away after a run. Nothing of
//! the host is mounted in it and it has no network. Called by people and by `cargo xtask test`.

mod root;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{command, output, step};
use crate::{host, images};

/// What the tests in the machine print last, before what they ended with.
const OVER: &str = "RUBELET-VM-EXIT ";
/// Which tests those are that depend on the generation of cgroups or on systemd.
const TESTS: [&str; 2] = ["cgroups", "vm_"];
/// How long the machine may take for everything; software emulation is some ten times slower than the host.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// What `vm` was asked to do.
#[derive(Debug, clap::Args)]
pub(crate) struct VmOptions {
    /// Parts of names of node tests; without any, those that depend on cgroups or systemd.
    tests: Vec<String>,
    /// How many tests run at a time.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Memory of the machine, MiB.
    #[arg(long, default_value_t = 4096)]
    memory: u32,
}

/// Runs tests in the machine; fails when one of them does.
pub(crate) fn vm(options: &VmOptions) -> Result<()> {
    host::install_requirements()?;
    host::install_vm_requirements()?;
    let dir = host::cache_dir().join("vm");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let system = root::provide(&dir)?;
    let tests = step("building the tests", node_tests)?;
    let own = std::env::current_exe().context("cannot find this program")?;
    let archives = images::build(&images::default_dir())?;
    let run = tempfile::tempdir_in(&dir).context("cannot make a folder for the run")?;
    let disk = run.path().join("tests.img");
    step("filling the disk with the tests", || {
        let tree = run.path().join("tree");
        put(&tree, &own)?;
        put(&tree, &tests)?;
        put(&tree, &tests.with_file_name("../rubelet"))?;
        for archive in &archives.0 {
            put(&tree, &archive.path)?;
        }
        put(&tree, &images::pause_source())?;
        fs::write(tree.join("run.sh"), script(&own, &tests, options))?;
        root::make_disk(&tree, &disk, "2G")
    })?;
    step("tests in a machine of their own", || boot(&system, &disk, options.memory))
}

/// The program with the node tests.
fn node_tests() -> Result<PathBuf> {
    let mut build = command([
        "cargo",
        "test",
        "--no-run",
        "--package",
        "rubelet",
        "--features",
        "node-tests,vm-tests",
        "--test",
        "node",
    ]);
    build.args(["--message-format", "json-render-diagnostics"]).current_dir(host::repository());
    let built = output(&mut build)?;
    let mut programs = built.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == "node";
        message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
    });
    programs.next_back().context("cargo built no node tests")
}

/// Copies a file into a tree that is to become a disk, below the place it has in the repository. It keeps its time:
/// what is older than what it is made of would be made again.
fn put(tree: &Path, file: &Path) -> Result<()> {
    let file = file.canonicalize().with_context(|| format!("{} is missing", file.display()))?;
    let place = file.strip_prefix(host::repository()).with_context(|| {
        format!("{} is outside of the repository: the machine could not find it", file.display())
    })?;
    let to = tree.join(place);
    fs::create_dir_all(to.parent().unwrap_or(tree))?;
    output(command(["cp", "--preserve=mode,timestamps"]).arg(&file).arg(&to))?;
    Ok(())
}

/// What the machine runs, as the tests' only way to say how they ended.
fn script(own: &Path, tests: &Path, options: &VmOptions) -> String {
    let filters = if options.tests.is_empty() { TESTS.join(" ") } else { options.tests.join(" ") };
    let (xtask, program) = (own.display(), tests.display());
    let threads = options.threads;
    format!(
        "export RUBELET_XTASK={xtask} RUBELET_TEST_CONTAINERD=installed RUST_BACKTRACE=0\n\
         export RUBELET_DEV_DIR=/var/tmp/dev\n\
         uname -rv; uptime\n\
         {program} --test-threads {threads} --color never --show-output {filters}\n\
         echo \"{OVER}$?\"\n"
    )
}

/// Boots the machine and waits until the tests are over.
fn boot(system: &root::System, tests: &Path, memory: u32) -> Result<()> {
    let drive = |id: &str, file: &Path| {
        // What is written goes into a temporary file that is gone with the machine.
        let drive = format!("if=none,id={id},file={},format=raw,snapshot=on", file.display());
        ["-drive".to_owned(), drive, "-device".to_owned(), format!("nvme,serial={id},drive={id}")]
    };
    let mut machine =
        command(["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]);
    machine
        .args(["-m", &memory.to_string(), "-kernel"])
        .arg(&system.kernel)
        .args(["-append", "console=ttyS0 root=/dev/nvme0n1 rw quiet psi=1 mitigations=off swapaccount=1"])
        .args(drive("system", &system.disk))
        .args(drive("tests", tests))
        .args(["-nographic", "-no-reboot", "-net", "none"]);
    let child = machine.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    let mut machine = Machine(child.context("cannot start qemu-system-x86_64")?);
    let console = machine.0.stdout.take().context("no console")?;
    let (lines, heard) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    let watch = crate::wait::Stopwatch::start();
    loop {
        let left = LIMIT.saturating_sub(watch.elapsed());
        let Ok(line) = heard.recv_timeout(left) else {
            bail!("the machine fell silent, or took longer than {} minutes", LIMIT.as_secs() / 60);
        };
        if let Some(code) = line.split(OVER).nth(1) {
            return if code.trim() == "0" { Ok(()) } else { Err(anyhow::anyhow!("tests failed, see above")) };
        }
        eprintln!("{line}");
    }
}

/// A machine that does not outlive its run.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A unit that runs the tests once everything else is up.
fn unit(repository: &Path) -> String {
    let at = repository.display();
    format!(
        "[Unit]\nDescription=tests\nAfter=dbus.service systemd-logind.service\n\
         [Service]\nType=oneshot\nDelegate=yes\nStandardOutput=file:/dev/console\nStandardError=file:/dev/console\n\
         ExecStartPre=/bin/mkdir -p {at}\nExecStartPre=/bin/mount -o rw /dev/nvme1n1 {at}\n\
         ExecStart=/bin/sh {at}/run.sh\nExecStopPost=/bin/systemctl poweroff --force --force\n\
         [Install]\nWantedBy=multi-user.target\n"
    )
}

/// Puts the unit into a system, and keeps the login prompt off the console.
fn prepare(system: &Path) -> Result<()> {
    let units = system.join("etc/systemd/system");
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    fs::write(units.join("rubelet-tests.service"), unit(&host::repository()))?;
    let wanted = units.join("multi-user.target.wants/rubelet-tests.service");
    let _made_before = fs::remove_file(&wanted);
    symlink("../rubelet-tests.service", wanted)?;
    for masked in ["serial-getty@ttyS0.service", "getty.target", "systemd-timesyncd.service"] {
        let unit = units.join(masked);
        let _made_before = fs::remove_file(&unit);
        symlink("/dev/null", unit)?;
    }
    Ok(())
}
