//! The agent as a process: its configuration, start, static pods, what it reports of them, and its end.
//!
//! Sees the agent only as an operator does: manifests in, `/pods` and `/healthz` out. Called by the plans of the
//! benchmark.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::http::{Connection, free_port};
use crate::pods::{self, NODE_NAME, Places};
use crate::wall_seconds;

/// How long the agent may take to answer for the first time, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a starting agent is asked for its health.
const HEALTH_POLL: Duration = Duration::from_millis(1);

/// The agent's folder and program.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// The binary.
    pub(crate) program: PathBuf,
    /// Everything the benchmark writes.
    pub(crate) dir: PathBuf,
    /// What is configured.
    pub(crate) places: Places,
    /// The runtime's socket.
    pub(crate) socket: PathBuf,
    /// `-v`.
    pub(crate) verbosity: u8,
    /// Where the agent's API server is.
    pub(crate) control_plane: ControlPlane,
    /// What is configured beside the rest: fields of a KubeletConfiguration.
    pub(crate) extra: serde_json::Value,
}

/// Where the agent's API server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ControlPlane {
    /// Nowhere: the agent is standalone.
    None,
    /// Where this kubeconfig says, which has a certificate.
    Cluster(PathBuf),
    /// In the agent's own process: `rubelet local`.
    Local {
        /// Where it keeps everything.
        data_dir: PathBuf,
        /// Where it listens on loopback.
        port: u16,
    },
}

/// The agent's process, which nobody has asked anything yet. It is killed when this is dropped without
/// [`Process::stop`].
pub(crate) struct Process {
    child: Child,
    /// Its number.
    pub(crate) pid: u32,
    /// When it was started.
    began: Instant,
    /// The same by the clock on the wall, seconds since 1970.
    pub(crate) began_at: f64,
    port: u16,
    healthz_port: u16,
    read_only_port: u16,
    log: PathBuf,
}

/// A running agent that answers.
pub(crate) struct Agent {
    process: Process,
    /// Its process.
    pub(crate) pid: u32,
    /// Where the kubelet API is.
    pub(crate) port: u16,
    /// From the start of the process to the first good answer of `/healthz`, seconds.
    pub(crate) start_to_healthz: f64,
    pods: Connection,
    site: Site,
}

/// How one run of the agent went.
#[derive(Clone, Debug)]
pub(crate) struct AgentRun {
    /// From the first manifest's rename until every pod was seen Running and Ready, seconds.
    pub(crate) total: f64,
    /// From the first rename until each pod was first seen Running and Ready, seconds, in the order they came.
    pub(crate) each: Vec<f64>,
    /// When the first manifest was renamed, seconds since 1970.
    pub(crate) began_at: f64,
}

impl Process {
    /// Starts the agent.
    pub(crate) async fn start(site: &Site) -> Result<Self> {
        let (port, healthz_port, read_only_port) =
            (free_port().await?, free_port().await?, free_port().await?);
        for dir in [&site.places.root_dir, &site.places.pod_logs_dir, &site.places.manifests] {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let config = site.dir.join("config.yaml");
        // JSON is YAML.
        fs::write(&config, site.config(port, healthz_port, read_only_port).to_string())?;
        let log = site.log();
        let output = fs::File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(&site.program);
        if let ControlPlane::Local { data_dir, port } = &site.control_plane {
            command.arg("local").arg("--data-dir").arg(data_dir).args(["--secure-port", &port.to_string()]);
        }
        command
            .arg("--config")
            .arg(&config)
            .arg("--root-dir")
            .arg(&site.places.root_dir)
            .args(["--hostname-override", NODE_NAME])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        if !matches!(site.control_plane, ControlPlane::Local { .. }) {
            command.arg("--cert-dir").arg(site.places.root_dir.join("pki"));
        }
        if let ControlPlane::Cluster(kubeconfig) = &site.control_plane {
            command.arg("--kubeconfig").arg(kubeconfig);
        }
        let (began_at, began) = (wall_seconds(), Instant::now());
        let child = command.spawn().with_context(|| format!("cannot start {}", site.program.display()))?;
        let pid = child.id().context("the agent has no process")?;
        Ok(Self { child, pid, began, began_at, port, healthz_port, read_only_port, log })
    }

    /// When it was started.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Fails when the process has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the agent ended with {status}; see {}", self.log.display()),
            None => Ok(()),
        }
    }

    /// Ends the agent as an operator would; containers go on.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid =
            i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw).context("no such pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.context("the agent does not end")??;
        Ok(())
    }
}

impl Agent {
    /// Starts the agent and waits for its first good health.
    pub(crate) async fn start(site: &Site) -> Result<Self> {
        let mut process = Process::start(site).await?;
        let mut start_to_healthz = None;
        let pods = loop {
            if start_to_healthz.is_none()
                && let Ok(mut connection) = Connection::open(process.healthz_port).await
                && connection.get("/healthz").await.is_ok()
            {
                start_to_healthz = Some(process.began.elapsed().as_secs_f64());
            }
            // The other port is opened a little later.
            if start_to_healthz.is_some()
                && let Ok(connection) = Connection::open(process.read_only_port).await
            {
                break connection;
            }
            process.must_run()?;
            if process.began.elapsed() > PATIENCE {
                bail!("the agent does not answer; see {}", site.log().display());
            }
            tokio::time::sleep(HEALTH_POLL).await;
        };
        let start_to_healthz = start_to_healthz.unwrap_or_default();
        let (pid, port) = (process.pid, process.port);
        Ok(Self { pid, port, process, start_to_healthz, pods, site: site.clone() })
    }

    /// Opens the connection anew: the agent closes one over which nothing was asked for some seconds.
    async fn reconnect(&mut self) -> Result<()> {
        self.pods =
            Connection::open(self.process.read_only_port).await.context("the agent's read-only port")?;
        Ok(())
    }

    /// Puts so many manifests into the directory at once and waits until all of their pods are ready.
    pub(crate) async fn run_pods(
        &mut self,
        count: usize,
        poll: Duration,
        limit: Duration,
    ) -> Result<AgentRun> {
        let manifests: Vec<_> = (0..count).map(pods::manifest).collect();
        self.run_manifests(&manifests, count, poll, limit).await
    }

    /// The same with manifests of one's own, and until so many of their pods are ready.
    pub(crate) async fn run_manifests(
        &mut self,
        manifests: &[serde_json::Value],
        ready: usize,
        poll: Duration,
        limit: Duration,
    ) -> Result<AgentRun> {
        let staging = self.site.dir.join("staging");
        fs::create_dir_all(&staging)?;
        let files: Vec<_> = manifests
            .iter()
            .enumerate()
            .map(|(number, manifest)| {
                let name = pods::file_name(number);
                fs::write(staging.join(&name), manifest.to_string())?;
                Ok((staging.join(&name), self.site.places.manifests.join(&name)))
            })
            .collect::<Result<Vec<_>>>()?;
        self.reconnect().await?;
        let (began_at, began) = (wall_seconds(), Instant::now());
        for (from, to) in &files {
            fs::rename(from, to)?;
        }
        let each = self.wait_ready(ready, began, poll, limit).await?;
        Ok(AgentRun { total: each.last().copied().unwrap_or_default(), each, began_at })
    }

    /// Puts one manifest into the directory and waits until its pod, the only one, is ready.
    pub(crate) async fn run_manifest(&mut self, manifest: &serde_json::Value, limit: Duration) -> Result<()> {
        self.reconnect().await?;
        let file = self.site.places.manifests.join("pod.json");
        fs::write(&file, manifest.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
        self.wait_ready(1, Instant::now(), Duration::from_millis(50), limit).await?;
        Ok(())
    }

    /// Waits until so many pods are seen ready; returns when each was first seen so, in seconds since `began`.
    pub(crate) async fn wait_ready(
        &mut self,
        count: usize,
        began: Instant,
        poll: Duration,
        limit: Duration,
    ) -> Result<Vec<f64>> {
        let (mut seen, mut each) = (BTreeSet::new(), vec![]);
        loop {
            let asked = Instant::now();
            let list = self.pods.get("/pods").await?;
            let at = began.elapsed().as_secs_f64();
            for name in ready_pods(&list)? {
                if seen.insert(name) {
                    each.push(at);
                }
            }
            if each.len() >= count {
                return Ok(each);
            }
            if began.elapsed() > limit {
                bail!(
                    "{} of {count} pods are ready after {} s; see {}",
                    each.len(),
                    limit.as_secs(),
                    self.site.log().display()
                );
            }
            tokio::time::sleep(poll.saturating_sub(asked.elapsed())).await;
        }
    }

    /// Waits until the agent reports no pod any more: it has finished with all of them.
    pub(crate) async fn wait_forgotten(&mut self, limit: Duration) -> Result<()> {
        self.reconnect().await?;
        let began = Instant::now();
        while !serde_json::from_slice::<PodList>(&self.pods.get("/pods").await?)?.items.is_empty() {
            if began.elapsed() > limit {
                bail!("the agent still reports pods that are gone");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// The body of a good answer of the read-only port.
    pub(crate) async fn get(&mut self, path: &str) -> Result<bytes::Bytes> {
        self.reconnect().await?;
        self.pods.get(path).await
    }

    /// Takes every manifest away.
    pub(crate) fn remove_manifests(&self) -> Result<()> {
        remove_files(&self.site.places.manifests)
    }

    /// Ends the agent as an operator would; containers go on.
    pub(crate) async fn stop(self) -> Result<()> {
        self.process.stop().await
    }
}

impl Site {
    /// What the agent says.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// Where the local API writes the kubeconfig of the machine's owner.
    pub(crate) fn kubeconfig_path(&self) -> Option<PathBuf> {
        match &self.control_plane {
            ControlPlane::Local { data_dir, .. } => Some(data_dir.join("admin.conf")),
            ControlPlane::None | ControlPlane::Cluster(_) => None,
        }
    }

    fn config(&self, port: u16, healthz_port: u16, read_only_port: u16) -> serde_json::Value {
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{}", self.socket.display()),
            "staticPodPath": self.places.manifests,
            "podLogsDir": self.places.pod_logs_dir,
            "address": "127.0.0.1",
            "port": port,
            "readOnlyPort": read_only_port,
            "healthzPort": healthz_port,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.places.cgroup_root,
            "failCgroupV1": false,
            "failSwapOn": false,
            "maxPods": 1000,
            "logging": {"verbosity": self.verbosity},
        });
        if self.control_plane != ControlPlane::None {
            // A node that is short of disk, as this machine may be from other work, would refuse pods.
            config["evictionHard"] = json!({"memory.available": "1Mi"});
        }
        for (key, value) in self.extra.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        config
    }
}

fn remove_files(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// As much of a PodList as is needed: it is read often.
#[derive(Deserialize)]
struct PodList {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

/// Names of the pods that are Running and Ready.
fn ready_pods(list: &[u8]) -> Result<Vec<String>> {
    let list: PodList = serde_json::from_slice(list).context("/pods is not understood")?;
    let ready = |item: &Item| {
        let is_ready = |c: &Condition| c.r#type == "Ready" && c.status == "True";
        item.status.phase == "Running" && item.status.conditions.iter().any(is_ready)
    };
    Ok(list.items.into_iter().filter(ready).map(|item| item.metadata.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_running_and_ready_counts() {
        let pod = |name: &str, phase: &str, ready: &str| {
            json!({"metadata": {"name": name}, "spec": {},
                   "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}})
        };
        let list = json!({"items": [
            pod("a", "Running", "True"),
            pod("b", "Running", "False"),
            pod("c", "Pending", "True"),
            {"metadata": {"name": "d"}},
        ]});
        assert_eq!(ready_pods(list.to_string().as_bytes()).unwrap(), ["a"]);
        assert!(ready_pods(b"garbage").is_err());
    }
}
