//! Where the node of `make run` keeps its things, and what the agent is told.
//!
//! Owns the folder's layout and the agent's configuration file. Never starts anything. Called by the tasks next door.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::containerd::Handle;

/// The sample manifest in the repository, and the name of its pod.
pub(crate) const SAMPLE_FILE: &str = "examples/hello.yaml";
/// Name in that manifest.
pub(crate) const SAMPLE_NAME: &str = "hello";
/// Where the node's API listens; not upstream's 6443, so that a cluster beside it is left alone.
pub(crate) const API_PORT: u16 = 26443;
/// The name the agent gives its node.
pub(crate) const NODE_NAME: &str = "rubelet-dev";
/// Where /pods is asked; not upstream's 10255, so that a kubelet beside it is left alone.
pub(crate) const READ_ONLY_PORT: u16 = 20255;
/// The HTTPS API of the node; upstream's is 10250.
const PORT: u16 = 20250;
/// Where /healthz answers; upstream's is 10248.
const HEALTHZ_PORT: u16 = 20248;

/// The files and folders of the node.
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    pub(crate) containerd: PathBuf,
    pub(crate) agent_root: PathBuf,
    pub(crate) agent_pid: PathBuf,
    pub(crate) agent_log: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) pod_logs: PathBuf,
}

impl Layout {
    /// The layout below the folder for everything made.
    pub(crate) fn new(dev_dir: &Path) -> Self {
        let dir = dev_dir.join("node");
        Self {
            containerd: dir.join("containerd"),
            agent_root: dir.join("kubelet"),
            agent_pid: dir.join("rubelet.pid"),
            agent_log: dir.join("rubelet.log"),
            config: dir.join("config.yaml"),
            data: dir.join("api"),
            kubeconfig: dir.join("kubeconfig"),
            pod_logs: dir.join("pod-logs"),
            dir,
        }
    }

    /// Makes the folders and writes the agent's configuration.
    pub(crate) fn write(&self, runtime: &Handle) -> Result<()> {
        for folder in [&self.agent_root, &self.pod_logs] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        // JSON is YAML, and needs no quoting rules of our own.
        fs::write(&self.config, format!("{:#}\n", self.agent_config(runtime)))?;
        Ok(())
    }

    fn agent_config(&self, runtime: &Handle) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{}", runtime.socket.display()),
            "podLogsDir": self.pod_logs,
            "address": "127.0.0.1",
            "port": PORT,
            "readOnlyPort": READ_ONLY_PORT,
            "healthzPort": HEALTHZ_PORT,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": runtime.cgroup_root,
            // A developer's disk is often rather full, which is no reason to run nothing on it.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 99,
            "failCgroupV1": false,
            "failSwapOn": false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_told_of_its_runtime_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let runtime = Handle {
            version: String::new(),
            pid: 0,
            dir: layout.containerd.clone(),
            socket: "/s".into(),
            ctr: PathBuf::new(),
            runc: PathBuf::new(),
            snapshotter: String::new(),
            bridge: String::new(),
            cgroup_root: "/rubelet-1".to_owned(),
        };
        layout.write(&runtime).unwrap();
        let config: Value = serde_json::from_str(&fs::read_to_string(&layout.config).unwrap()).unwrap();
        assert_eq!(config["containerRuntimeEndpoint"], "unix:///s");
        assert_eq!(config["podLogsDir"], layout.pod_logs.display().to_string());
    }
}
