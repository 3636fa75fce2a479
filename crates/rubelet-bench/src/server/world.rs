//! Pods without a runtime: the project's scripted one answers for containers that are real control groups with real
//! processes, networks and log files, made here.
//!
//! For more pods than a machine can start containers for, and for logs of which this program knows when each line was
//! written. Containers run a little twice a second, sandboxes sleep. What the agent reads of a pod is the kernel's own;
//! what it hears of it is short: IDs are, and there is one interface. Called by the plans of this part and of the
//! probes'.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use jiff::Timestamp;
use rubelet_testkit::ScriptedCri;
use rubelet_testkit::scripted::RuntimeKind;
use rubelet_testkit::scripted::server::{self, CriServer};

use crate::agent::{ControlPlane, Site};
use crate::pods::Places;
use crate::wall_seconds;

/// A network of its own with one interface, then nothing, for ever.
const SANDBOX: &str = "ip link add eth0 type dummy 2>/dev/null; exec sleep infinity";

/// The scripted runtime and what it answers for. Dropping it ends the processes and removes the control groups.
pub(crate) struct World {
    /// The runtime.
    pub(crate) cri: ScriptedCri,
    _server: CriServer,
    /// Where an agent of this world lives.
    pub(crate) site: Site,
    hierarchies: Vec<PathBuf>,
    /// Sandboxes and containers that are there, by ID.
    made: BTreeMap<String, Child>,
    /// Log files of the pods, by the name of the pod.
    logs: BTreeMap<String, PathBuf>,
}

impl World {
    /// An empty one, below the folders and control groups of `base`.
    pub(crate) fn make(base: &Site) -> Result<Self> {
        let dir = base.dir.join("scripted");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let now = Timestamp::from_second(wall_seconds() as i64)?;
        let cri = ScriptedCri::starting_at(RuntimeKind::Containerd2, now);
        let socket = dir.join("cri.sock");
        let server = server::serve(&cri, &socket).context("cannot serve the scripted runtime")?;
        let hierarchies = rubelet_linux::cgroup::hierarchies(Path::new(rubelet_linux::cgroup::MOUNT));
        let cgroup_root = format!("{}/scripted", base.places.cgroup_root.trim_end_matches('/'));
        for root in &hierarchies {
            let group = root.join(cgroup_root.trim_start_matches('/'));
            fs::create_dir_all(&group).with_context(|| format!("cannot create {}", group.display()))?;
        }
        let places = Places {
            root_dir: dir.join("kubelet"),
            pod_logs_dir: dir.join("pod-logs"),
            manifests: dir.join("manifests"),
            cgroup_root,
        };
        let site = Site { dir, places, socket, control_plane: ControlPlane::None, ..base.clone() };
        Ok(Self { cri, _server: server, site, hierarchies, made: BTreeMap::new(), logs: BTreeMap::new() })
    }

    /// Gives every container that the agent has started, and has none yet, its group, process and log file.
    pub(crate) fn furnish(&mut self) -> Result<()> {
        for running in self.cri.running_containers() {
            let sandbox =
                self.cri.sandbox_config(&running.sandbox_id).context("a container without a sandbox")?;
            let parent = sandbox.linux.map(|linux| linux.cgroup_parent).unwrap_or_default();
            if !self.made.contains_key(&running.sandbox_id) {
                let process = start(&["unshare", "--net", "--", "sh", "-c", SANDBOX])?;
                self.enter(&parent, &running.sandbox_id, process)?;
            }
            if !self.made.contains_key(&running.subject.id) {
                let own = std::env::current_exe().context("cannot find this program")?;
                let process = start(&[&own.display().to_string(), crate::AWAKE])?;
                self.enter(&parent, &running.subject.id, process)?;
            }
            let pod = &running.subject.pod_name;
            for status in self.cri.containers_of(pod) {
                let log = PathBuf::from(status.log_path);
                fs::create_dir_all(log.parent().unwrap_or(Path::new("/")))?;
                fs::File::options().create(true).append(true).open(&log)?;
                self.logs.insert(pod.clone(), log);
            }
        }
        Ok(())
    }

    /// Names and log files of the pods that were furnished.
    pub(crate) fn logs(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.logs.iter().map(|(pod, log)| (pod.as_str(), log.as_path()))
    }

    /// Puts a process into a new group below the pod's.
    fn enter(&mut self, parent: &str, id: &str, process: Child) -> Result<()> {
        let pid = process.id().to_string();
        self.made.insert(id.to_owned(), process);
        for root in &self.hierarchies {
            let group = root.join(parent.trim_start_matches('/')).join(id);
            fs::create_dir_all(&group).with_context(|| format!("cannot create {}", group.display()))?;
            let entered = fs::write(group.join("cgroup.procs"), &pid);
            // A group of the first generation that was given no CPUs takes nobody in.
            if !group.join("cpuset.cpus").exists() {
                entered.with_context(|| format!("cannot enter {}", group.display()))?;
            }
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for process in self.made.values_mut() {
            let _ended_already = process.kill();
            let _status = process.wait();
        }
        let root = &self.site.places.cgroup_root;
        if let Err(error) = rubelet_linux::cgroup::remove(&self.hierarchies, root) {
            crate::say(&format!("control groups at {root} are left over: {error}"));
        }
    }
}

fn start(words: &[&str]) -> Result<Child> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("cannot start {}", words[0]))
}
