//! A private containerd for one test, made and removed by `cargo xtask containerd`.
//!
//! `RUBELET_TEST_CONTAINERD` names the version (`installed` without it), `RUBELET_XTASK` the task runner (the one
//! beside the agent without it).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::wait;

/// A running (or killed) containerd and what its handle says of it.
pub struct Containerd {
    dir: PathBuf,
    /// More arguments of every start.
    arguments: Vec<&'static str>,
    handle: Value,
}

/// The task runner.
pub fn xtask() -> Command {
    let beside = || Path::new(env!("CARGO_BIN_EXE_rubelet")).with_file_name("xtask");
    let program: PathBuf = std::env::var_os("RUBELET_XTASK").map_or_else(beside, PathBuf::from);
    assert!(program.is_file(), "{} is missing: run `cargo build -p xtask`", program.display());
    Command::new(program)
}

/// Runs a command to its end and gives what it printed.
pub fn output(command: &mut Command) -> String {
    let answer = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let told = String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success(), "{command:?} failed: {told}");
    String::from_utf8_lossy(&answer.stdout).into_owned()
}

impl Containerd {
    /// Starts one in `dir`, which is short because a socket is in it, with more arguments for the task runner.
    pub fn start(dir: &Path, arguments: &[&'static str]) -> Self {
        let mut this = Self { dir: dir.to_owned(), arguments: arguments.to_vec(), handle: Value::Null };
        this.restart();
        this
    }

    /// Starts it again in the same folder.
    pub fn restart(&mut self) {
        let version = std::env::var("RUBELET_TEST_CONTAINERD").unwrap_or_else(|_| "installed".to_owned());
        let mut start = xtask();
        start
            .args(["containerd", "start", "--version", &version, "--dir"])
            .arg(&self.dir)
            .args(&self.arguments);
        self.handle = serde_json::from_str(&output(&mut start)).unwrap();
    }

    /// Starts the killed daemon with its configuration and folders as they are now. The caller ends it.
    pub fn spawn_as_it_is(&self) -> Child {
        let tools = Path::new(self.get("ctr")).parent().unwrap();
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.display());
        let log = std::fs::File::options().append(true).open(self.get("log")).unwrap();
        Command::new(tools.join("containerd"))
            .args(["--config", self.get("config")])
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Stops the shim of a container (it does not answer any more), or lets it go on.
    pub fn freeze_shim(&self, id: &str, frozen: bool) {
        let is_shim = |pid: &String| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains("containerd-shim") && line.contains(&format!("-id {id} "))
        };
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().into_string().ok()).filter(is_shim);
        let pid = pids.next().unwrap_or_else(|| panic!("{id} has no shim"));
        output(Command::new("kill").args([if frozen { "-STOP" } else { "-CONT" }, &pid]));
    }

    /// Stops the daemon (it does not answer any more), or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        let pid = self.handle["pid"].as_u64().unwrap().to_string();
        output(Command::new("kill").args([if frozen { "-STOP" } else { "-CONT" }, &pid]));
    }

    /// Kills the daemon; its containers go on.
    pub fn kill(&self) {
        let pid = self.handle["pid"].as_u64().unwrap().to_string();
        output(Command::new("kill").args(["-KILL", &pid]));
        let process = Path::new("/proc").join(pid).join("exe");
        wait::until("containerd to be gone", Duration::from_secs(10), || match process.read_link() {
            Ok(_) => Err("it is there".to_owned()),
            Err(_) => Ok(()),
        });
    }

    /// Does to this containerd what a power cut does: every process of it is gone, and so is what lay in memory.
    pub fn power_cut(&self) {
        self.kill();
        let mark = format!("-address {}", self.get("socket"));
        let is_shim = |pid: &String| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains("containerd-shim") && line.contains(&mark)
        };
        let in_its_cgroup = |pid: &String| {
            let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            cgroups.contains(&format!("{}/", self.get("cgroup_root")))
        };
        wait::until("every process to be gone", Duration::from_secs(20), || {
            let processes = std::fs::read_dir("/proc").unwrap().flatten();
            let names = processes.filter_map(|entry| entry.file_name().into_string().ok());
            let left: Vec<String> = names
                .filter(|name| name.parse::<u32>().is_ok())
                .filter(|pid| is_shim(pid) || in_its_cgroup(pid))
                .collect();
            for pid in &left {
                let _it_may_be_gone =
                    Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status();
            }
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        let state = Path::new(self.get("state"));
        for point in mounts_below(state) {
            output(Command::new("umount").args(["--lazy", &point]));
        }
        std::fs::remove_dir_all(state).unwrap();
    }

    /// A text of the handle.
    pub fn get(&self, key: &str) -> &str {
        self.handle[key].as_str().unwrap_or_else(|| panic!("the handle has no {key}: {}", self.handle))
    }

    /// What `ctr` prints.
    pub fn ctr(&self, arguments: &[&str]) -> String {
        let mut ctr = Command::new(self.get("ctr"));
        ctr.args(["--address", self.get("socket"), "--namespace", self.get("namespace")]).args(arguments);
        output(&mut ctr)
    }

    /// IDs of all containers and sandboxes, sorted.
    pub fn containers(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.ctr(&["containers", "ls", "-q"]).lines().map(str::to_owned).collect();
        ids.sort();
        ids
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Some(pid) = self.handle["pid"].as_u64() {
            // One that a test has left stopped could not end.
            let _it_may_be_gone =
                Command::new("kill").args(["-CONT", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        let stopped = xtask().args(["containerd", "stop", "--dir"]).arg(&self.dir).output();
        if let Ok(answer) = stopped
            && !answer.status.success()
        {
            eprintln!("containerd was not removed: {}", String::from_utf8_lossy(&answer.stderr));
        }
    }
}

/// Mount points below a directory, the deepest first.
pub fn mounts_below(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<String> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| Path::new(point).starts_with(dir))
        .map(str::to_owned)
        .collect();
    points.sort();
    points.reverse();
    points
}
