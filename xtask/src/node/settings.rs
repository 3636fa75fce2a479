//! Where the node of `make run` keeps its things, and what the agent is told.
//!
//! Owns the folder's layout and the agent's configuration file. Never starts anything. Called by the tasks next door.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::containerd::Handle;
use crate::host;

/// The sample manifest in the folder of static pods, and the name of its pod.
pub(crate) const SAMPLE_FILE: &str = "hello.yaml";
/// Name in that manifest; the pod has the node's name behind it.
pub(crate) const SAMPLE_NAME: &str = "hello";
/// The name the agent gives its node.
pub(crate) const NODE_NAME: &str = "rubelet-dev";
/// Where /pods is asked; not upstream's 10255, so that a kubelet beside it is left alone.
pub(crate) const READ_ONLY_PORT: u16 = 20255;
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
    pub(crate) manifests: PathBuf,
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
            manifests: dir.join("manifests"),
            pod_logs: dir.join("pod-logs"),
            dir,
        }
    }

    /// Makes the folders, writes the agent's configuration, and puts the sample there when no manifest is.
    pub(crate) fn write(&self, runtime: &Handle) -> Result<()> {
        for folder in [&self.agent_root, &self.manifests, &self.pod_logs] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        // JSON is YAML, and needs no quoting rules of our own.
        fs::write(&self.config, format!("{:#}\n", self.agent_config(runtime)))?;
        if fs::read_dir(&self.manifests)?.next().is_none() {
            let sample = host::repository().join("examples/hello.yaml");
            fs::copy(&sample, self.manifests.join(SAMPLE_FILE))
                .with_context(|| format!("cannot copy {}", sample.display()))?;
        }
        Ok(())
    }

    fn agent_config(&self, runtime: &Handle) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{}", runtime.socket.display()),
            "staticPodPath": self.manifests,
            "podLogsDir": self.pod_logs,
            "address": "127.0.0.1",
            "readOnlyPort": READ_ONLY_PORT,
            "healthzPort": HEALTHZ_PORT,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": runtime.cgroup_root,
            "failCgroupV1": false,
            "failSwapOn": false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_filled_once_and_a_persons_manifests_stay() {
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
        let sample = layout.manifests.join(SAMPLE_FILE);
        fs::write(&sample, "mine").unwrap();
        layout.write(&runtime).unwrap();
        assert_eq!(fs::read_to_string(&sample).unwrap(), "mine");
        let config: Value = serde_json::from_str(&fs::read_to_string(&layout.config).unwrap()).unwrap();
        assert_eq!(config["containerRuntimeEndpoint"], "unix:///s");
        assert_eq!(config["staticPodPath"], layout.manifests.display().to_string());
    }
}
