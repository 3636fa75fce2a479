//! A private containerd: its own root, state, socket, network and cgroup, beside the machine's own and apart from it.
//!
//! Owns the folder it is given and everything in it; a started one is described by [`Handle`], kept there as
//! `containerd.json`. Never touches the machine's containerd. Called by `cargo xtask containerd`, by `make run` and
//! by `make test`; the node tests read the handle.

mod config;
mod network;
mod teardown;
mod versions;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::images::{self, Archives};
use crate::process::{command, is_alive, need_program, output, say, step};
use crate::{host, wait};

pub(crate) use teardown::{bring_down, unmount_below};
pub(crate) use versions::Version;

/// The containerd namespace of everything that came through CRI.
pub(crate) const NAMESPACE: &str = "k8s.io";
/// The longest path a unix socket can have.
const SOCKET_PATH_MAX: usize = 107;

/// A running private containerd, as `containerd.json` keeps it. Field names are the contract with the node tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handle {
    /// What `containerd --version` calls itself, such as `1.6.20~ds1`.
    pub(crate) version: String,
    /// The daemon.
    pub(crate) pid: u32,
    /// Its folder.
    pub(crate) dir: PathBuf,
    /// The CRI socket, a path without `unix://`.
    pub(crate) socket: PathBuf,
    /// Its `ctr`, of the same version.
    pub(crate) ctr: PathBuf,
    /// The runc it uses.
    pub(crate) runc: PathBuf,
    /// The snapshotter in use.
    pub(crate) snapshotter: String,
    /// The bridge of its pods.
    pub(crate) bridge: String,
    /// A cgroup of its own at the top of every hierarchy, for the agent's `cgroupRoot`.
    pub(crate) cgroup_root: String,
}

impl Handle {
    /// The daemon's standing configuration.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// Where runc keeps the state of the containers.
    pub(crate) fn runc_root(&self) -> PathBuf {
        runc_root(&self.dir).join(NAMESPACE)
    }

    /// Whether the daemon lives; a pid that another program got does not count.
    pub(crate) fn is_running(&self) -> bool {
        is_alive(self.pid, &self.config_file().display().to_string())
    }

    /// A `ctr` command on this daemon.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.ctr);
        command.arg("--address").arg(&self.socket).args(["--namespace", NAMESPACE]).args(arguments);
        command
    }

    /// The handle as the CLI prints it.
    pub(crate) fn to_json(&self) -> Value {
        let path = |path: &Path| path.display().to_string();
        json!({
            "version": self.version,
            "pid": self.pid,
            "dir": path(&self.dir),
            "socket": path(&self.socket),
            "endpoint": format!("unix://{}", self.socket.display()),
            "namespace": NAMESPACE,
            "root": path(&self.dir.join("root")),
            "state": path(&self.dir.join("state")),
            "config": path(&self.config_file()),
            "log": path(&log_file(&self.dir)),
            "cni_conf_dir": path(&network::conf_dir(&self.dir)),
            "ctr": path(&self.ctr),
            "runc": path(&self.runc),
            "runc_root": path(&self.runc_root()),
            "snapshotter": self.snapshotter,
            "bridge": self.bridge,
            "cgroup_root": self.cgroup_root,
            "pause_image": images::PAUSE,
            "busybox_image": images::BUSYBOX,
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Some(Self {
            version: text("version")?,
            pid: u32::try_from(value["pid"].as_u64()?).ok()?,
            dir: text("dir")?.into(),
            socket: text("socket")?.into(),
            ctr: text("ctr")?.into(),
            runc: text("runc")?.into(),
            snapshotter: text("snapshotter")?,
            bridge: text("bridge")?,
            cgroup_root: text("cgroup_root")?,
        })
    }

    /// The handle that an earlier start left in `dir`, running or not.
    pub(crate) fn load(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(handle_file(dir)).ok()?;
        Self::from_json(&serde_json::from_str(&text).ok()?)
    }
}

fn handle_file(dir: &Path) -> PathBuf {
    dir.join("containerd.json")
}

fn log_file(dir: &Path) -> PathBuf {
    dir.join("containerd.log")
}

fn runc_root(dir: &Path) -> PathBuf {
    dir.join("state/runc")
}

/// Six characters that are the same for the same folder and differ between folders: names and subnets grow from it.
fn tag(dir: &Path) -> String {
    let hash = Sha256::digest(dir.display().to_string().as_bytes());
    hash.iter().take(3).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Starts a containerd of that version in `dir` with our images in it, or finds the one that runs there already.
pub(crate) fn start(version: Version, dir: &Path, archives: Option<&Archives>) -> Result<Handle> {
    start_with(version, dir, archives, false)
}

/// The same, with control groups of containers that systemd makes when `systemd_cgroups`.
pub(crate) fn start_with(
    version: Version,
    dir: &Path,
    archives: Option<&Archives>,
    systemd_cgroups: bool,
) -> Result<Handle> {
    if !host::is_root() {
        bail!("starting a containerd needs root");
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let dir = dir.canonicalize()?;
    let handle = match Handle::load(&dir).filter(Handle::is_running) {
        Some(running) => running,
        None => launch(&dir, &versions::provide(version)?, systemd_cgroups)?,
    };
    wait_until_ready(&handle)?;
    if missing_image(&handle)?.is_some() {
        match archives {
            Some(archives) => import(&handle, archives)?,
            None => import(&handle, &images::build(&images::default_dir())?)?,
        }
    }
    Ok(handle)
}

/// Starts the daemon and leaves its handle, so that it can be stopped even when this program is interrupted.
fn launch(dir: &Path, programs: &versions::Programs, systemd_cgroups: bool) -> Result<Handle> {
    let socket = dir.join("containerd.sock");
    if socket.as_os_str().len() > SOCKET_PATH_MAX - ".ttrpc".len() {
        bail!("{} is too long for a socket: choose a shorter folder (RUBELET_DEV_DIR)", socket.display());
    }
    let tag = tag(dir);
    let bridge = format!("rblt{tag}");
    let snapshotter = if host::overlay_works(dir) { "overlayfs" } else { "native" };
    if snapshotter == "native" {
        say("overlayfs does not work here: falling back to the native snapshotter, which copies files");
    }
    let plugins = host::cni_plugins().context("the CNI plugins are not installed")?;
    network::write(dir, &tag, &bridge)?;
    let settings = config::Settings {
        dir: dir.to_path_buf(),
        runc: programs.runc.clone(),
        snapshotter: snapshotter.to_owned(),
        restrict_oom_score_adj: !host::can_lower_oom_score(),
        cni_conf_dir: network::conf_dir(dir),
        cni_bin_dir: plugins,
        runc_root: runc_root(dir),
        systemd_cgroups,
    };
    let file = dir.join("config.toml");
    fs::write(&file, settings.render(programs.line()?))?;
    let cgroup_root = format!("/rubelet-{tag}");
    teardown::create_cgroup_root(&cgroup_root)?;
    let log = fs::File::options().create(true).append(true).open(log_file(dir))?;
    let path = std::env::join_paths(
        [programs.folder.clone()]
            .into_iter()
            .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from)),
    )?;
    // A process group of its own: Ctrl-C is for the program that waits in front, not for the runtime.
    let mut child = Command::new(&programs.containerd)
        .arg("--config")
        .arg(&file)
        .env("PATH", path)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", programs.containerd.display()))?;
    let handle = Handle {
        version: programs.version.clone(),
        pid: child.id(),
        dir: dir.to_path_buf(),
        socket,
        ctr: programs.ctr.clone(),
        runc: programs.runc.clone(),
        snapshotter: snapshotter.to_owned(),
        bridge,
        cgroup_root,
    };
    fs::write(handle_file(dir), format!("{:#}\n", handle.to_json()))?;
    // For a moment after its start a process has no command line, by which everybody else will know it.
    wait::until("containerd to start", Duration::from_secs(10), || match child.try_wait()? {
        Some(status) => bail!("containerd ended with {status}:\n{}", last_lines(&log_file(dir), 15)),
        None => Ok(handle.is_running().then_some(())),
    })?;
    Ok(handle)
}

/// Waits until the CRI plugin runs; an early exit is reported with the end of the log.
fn wait_until_ready(handle: &Handle) -> Result<()> {
    wait::until("containerd to answer", Duration::from_secs(60), || {
        if !handle.is_running() {
            bail!("containerd ended; its last words:\n{}", last_lines(&log_file(&handle.dir), 15));
        }
        if !handle.socket.exists() {
            return Ok(None);
        }
        let Ok(plugins) = output(&mut handle.ctr(&["plugins", "ls"])) else { return Ok(None) };
        if cri_plugin_failed(&plugins) {
            bail!("containerd's CRI plugin failed; see {}:\n{plugins}", log_file(&handle.dir).display());
        }
        Ok(Some(()))
    })
}

/// Whether a row of `ctr plugins ls` says that the CRI plugin is in error.
fn cri_plugin_failed(plugins: &str) -> bool {
    let rows = plugins.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut cri =
        rows.filter(|row| row.first() == Some(&"io.containerd.grpc.v1") && row.get(1) == Some(&"cri"));
    cri.any(|row| row.last() == Some(&"error"))
}

/// The end of a text file, for an error message.
pub(crate) fn last_lines(file: &Path, count: usize) -> String {
    let text = fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Makes the images known to the daemon.
fn import(handle: &Handle, archives: &Archives) -> Result<()> {
    for archive in &archives.0 {
        let path = archive.path.display().to_string();
        output(&mut handle.ctr(&["images", "import", "--snapshotter", &handle.snapshotter, &path]))
            .with_context(|| format!("cannot import {}", archive.image))?;
    }
    match missing_image(handle)? {
        Some(image) => bail!("{image} was imported but is not listed"),
        None => Ok(()),
    }
}

/// One of our images that the daemon does not know.
fn missing_image(handle: &Handle) -> Result<Option<&'static str>> {
    let known = output(&mut handle.ctr(&["images", "ls", "-q"]))?;
    Ok([images::PAUSE, images::BUSYBOX].into_iter().find(|image| !known.lines().any(|line| line == *image)))
}

/// Runs a container of our workload image and checks what it says: the least a containerd must be able to do.
pub(crate) fn check(handle: &Handle) -> Result<()> {
    step(&format!("checking that containerd {} runs a container", handle.version), || {
        let said = output(&mut handle.ctr(&[
            "run",
            "--rm",
            "--snapshotter",
            &handle.snapshotter,
            "--runc-binary",
            &handle.runc.display().to_string(),
            "--runc-root",
            &runc_root(&handle.dir).display().to_string(),
            images::BUSYBOX,
            "xtask-check",
            "sh",
            "-c",
            "id -u; cat /etc/passwd | head -n 1",
        ]))?;
        if said != "0\nroot:x:0:0:root:/root:/bin/sh\n" {
            bail!("the container said {said:?}");
        }
        Ok(())
    })
}

/// The version word of `containerd --version`.
fn containerd_version(containerd: &Path) -> Result<String> {
    let line = output(command([containerd]).arg("--version"))?;
    let word = line.split_whitespace().nth(2).context("containerd does not say its version")?;
    Ok(word.trim_start_matches('v').to_owned())
}

/// The machine's own containerd, for a start without a wanted version.
fn installed() -> Result<PathBuf> {
    need_program("containerd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_survives_its_file() {
        let handle = Handle {
            version: "1.6.20".to_owned(),
            pid: 42,
            dir: "/x".into(),
            socket: "/x/containerd.sock".into(),
            ctr: "/usr/bin/ctr".into(),
            runc: "/usr/sbin/runc".into(),
            snapshotter: "overlayfs".to_owned(),
            bridge: "rblt000000".to_owned(),
            cgroup_root: "/rubelet-000000".to_owned(),
        };
        assert_eq!(Handle::from_json(&handle.to_json()), Some(handle.clone()));
        assert_eq!(Handle::from_json(&json!({"pid": 42})), None);
        assert_eq!(handle.to_json()["endpoint"], "unix:///x/containerd.sock");
    }

    #[test]
    fn a_failed_cri_plugin_is_seen_and_others_are_not() {
        let row = |id: &str, status: &str| format!("io.containerd.grpc.v1  {id}  linux/amd64  {status}\n");
        assert!(!cri_plugin_failed(&(row("cri", "ok") + &row("btrfs", "error"))));
        assert!(cri_plugin_failed(&row("cri", "error")));
    }

    #[test]
    fn tags_differ_between_folders_and_fit_into_an_interface_name() {
        assert_ne!(tag(Path::new("/a")), tag(Path::new("/b")));
        assert!(format!("rblt{}", tag(Path::new("/a"))).len() <= 15);
    }

    #[test]
    fn the_last_lines_of_a_log_are_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        assert_eq!(last_lines(&log, 2), "");
        fs::write(&log, "one\ntwo\nthree\n").unwrap();
        assert_eq!(last_lines(&log, 2), "two\nthree");
    }
}
