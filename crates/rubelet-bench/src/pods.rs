//! The pod that everything is measured with: its manifest for the agent, and the CRI configurations that the agent
//! makes of it, for the floor.
//!
//! Decoding, identity, paths and translation are the agent's own functions, so that the runtime has the same work in
//! both. Never calls the runtime. Called by the plan of the benchmark.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rubelet_core::Pod;
use rubelet_core::ids::PodUid;
use rubelet_core::paths::{PodPaths, pod_paths};
use rubelet_core::qos::pod_qos;
use rubelet_core::resources::{CgroupDriver, CgroupRoot, ResourceFacts, cgroup_path};
use rubelet_core::security::{ImageUser, SecurityFacts, UserNamespaceFacts};
use rubelet_core::static_pod::{self, NodeIdentity, Origin};
use rubelet_cri::translate::{self, ContainerInputs, DeviceInputs, SandboxFacts};
use rubelet_cri::v1;
use rubelet_linux::facts::MachineFacts;
use serde_json::{Value, json};

/// Name of the node.
pub(crate) const NODE_NAME: &str = "bench";
/// The workload: it waits for a signal and ends at once on it, so that taking pods away takes no grace period.
pub(crate) const IMAGE: &str = "rubelet.local/pause:1";
/// The agent's default `clusterDomain`.
const CLUSTER_DOMAIN: &str = "";

/// Where things lie, for the agent and for the floor.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// `--root-dir`.
    pub(crate) root_dir: PathBuf,
    /// `podLogsDir`.
    pub(crate) pod_logs_dir: PathBuf,
    /// `staticPodPath`.
    pub(crate) manifests: PathBuf,
    /// `cgroupRoot`.
    pub(crate) cgroup_root: String,
}

/// What the runtime is asked for one pod.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The pod's directories.
    pub(crate) paths: PodPaths,
    /// The file for the termination message, which has to be there before the container is.
    pub(crate) termination_file: PathBuf,
    /// The pod's cgroup.
    pub(crate) cgroup: String,
    /// For RunPodSandbox and CreateContainer.
    pub(crate) sandbox: v1::PodSandboxConfig,
    /// For CreateContainer. Its image is what ImageStatus answers.
    pub(crate) container: v1::ContainerConfig,
}

/// File name of pod number `number`.
pub(crate) fn file_name(number: usize) -> String {
    format!("pod-{number:03}.json")
}

/// The manifest of pod number `number`.
pub(crate) fn manifest(number: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("pod-{number:03}"), "namespace": "default", "labels": {"app": "bench"}},
        "spec": {
            "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["127.0.0.1"]},
            "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "main",
                "image": IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "resources": {"requests": {"cpu": "1m", "memory": "4Mi"}, "limits": {"memory": "64Mi"}},
            }],
        },
    })
}

/// Pod number `number` as the agent decodes it from its file.
pub(crate) fn decode(number: usize, places: &Places) -> Result<Pod> {
    let origin = Origin::File(places.manifests.join(file_name(number)).display().to_string());
    let node = NodeIdentity { name: NODE_NAME.to_owned() };
    let mut pod =
        static_pod::decode(manifest(number), &origin, &node).context("the benchmark's own pod")?.pod;
    static_pod::mark(&mut pod, "file", jiff::Timestamp::UNIX_EPOCH);
    Ok(pod)
}

/// What the agent asks the runtime for that pod.
pub(crate) fn asked(pod: &Pod, places: &Places, machine: &MachineFacts) -> Result<Asked> {
    let paths = pod_paths(&places.root_dir, &places.pod_logs_dir, pod)?;
    let uid = PodUid::new(pod.metadata.uid.clone().unwrap_or_default());
    let root = CgroupRoot { root: places.cgroup_root.clone(), per_qos: true, driver: CgroupDriver::Cgroupfs };
    let cgroup = cgroup_path(&root, pod_qos(pod), Some(&uid));
    let (dns, _events) = rubelet_core::dns::pod_dns(pod, &rubelet_core::dns::DnsFacts::default());
    let resources = ResourceFacts {
        memory_capacity: i64::try_from(machine.memory).unwrap_or(i64::MAX),
        cgroup_v2: machine.cgroup_v2,
        single_process_oom_kill: !machine.cgroup_v2,
        ..ResourceFacts::default()
    };
    let security = SecurityFacts {
        seccomp_root: places.root_dir.join("seccomp").display().to_string(),
        seccomp_default: false,
        thermal_throttle_paths: machine.thermal_throttle_paths.clone(),
        volume_groups: vec![],
        user_namespace: UserNamespaceFacts { supported: false, handler: String::new(), range: None },
    };
    let sandbox = translate::sandbox_config(
        pod,
        &SandboxFacts {
            attempt: 0,
            dns: &dns,
            cluster_domain: CLUSTER_DOMAIN,
            log_directory: &paths.logs,
            cgroup_parent: &cgroup,
            exclusive_cpus: false,
            security: &security,
            resources: &resources,
        },
    )?;
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first()).context("no container")?;
    let termination_file = paths.termination_log(&container.name, 1)?;
    let hosts = translate::hosts_mount(&paths.hosts_file(), machine.selinux);
    let termination = translate::termination_mount(container, &termination_file, machine.selinux);
    let mounts: Vec<v1::Mount> = [hosts].into_iter().chain(termination).collect();
    let container = translate::container_config(
        pod,
        container,
        &ContainerInputs {
            restart_count: 0,
            image_ref: "",
            image_user: &ImageUser::Unset,
            env: &[],
            mounts: &mounts,
            devices: &DeviceInputs::default(),
            target: None,
            exclusive_cpus: false,
            security: &security,
            resources: &resources,
        },
    )?;
    Ok(Asked { paths, termination_file, cgroup, sandbox, container })
}

/// Makes the files that the configurations name. The agent does this too; in the floor it is not measured.
pub(crate) fn make_files(asked: &Asked) -> Result<()> {
    let parent = asked.termination_file.parent().unwrap_or(Path::new("/"));
    for dir in [parent, &asked.paths.dir, &asked.paths.logs] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    for file in [&asked.termination_file, &asked.paths.hosts_file()] {
        std::fs::write(file, "").with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_is_valid_and_its_calls_are_complete() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
            root_dir: dir.path().join("kubelet"),
            pod_logs_dir: dir.path().join("logs"),
            manifests: dir.path().join("manifests"),
            cgroup_root: "/bench".to_owned(),
        };
        let machine = rubelet_linux::facts::machine().unwrap();
        let pods: Vec<Pod> = (0..2).map(|number| decode(number, &places).unwrap()).collect();
        assert_ne!(pods[0].metadata.uid, pods[1].metadata.uid);
        let asked = asked(&pods[0], &places, &machine).unwrap();
        assert!(asked.cgroup.starts_with("/bench/kubepods/burstable/pod"), "{}", asked.cgroup);
        assert_eq!(asked.container.mounts.len(), 2, "hosts file and termination message");
        make_files(&asked).unwrap();
        for mount in &asked.container.mounts {
            assert!(Path::new(&mount.host_path).is_file(), "{}", mount.host_path);
        }
    }
}
