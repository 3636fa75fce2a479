//! What the parts of the agent are set to: values of the configuration and facts about the machine, brought into the
//! form in which each part takes them. Nothing is read or made here but the facts that a check asks for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rubelet_config::{FeatureGates, Gate, KubeletConfiguration};
use rubelet_core::admission;
use rubelet_core::backoff::BackoffPolicy;
use rubelet_core::node::info::go_arch;
use rubelet_core::pulled_images::VerificationPolicy;
use rubelet_core::quantity::Amount;
use rubelet_core::resize::ResizeGates;
use rubelet_core::resources::{CgroupDriver, CgroupRoot, ResourceFacts};
use rubelet_cri::{
    ContainerdContent, CriClient, Deadlines, EndpointError, ImageService, PullWatch, RuntimeService,
};
use rubelet_linux::facts::MachineFacts;

use crate::allocation::ResizeSettings;
use crate::clock::Clock;
use crate::fs_pool::FsPool;
use crate::images::PullLimits;
use crate::metrics::Metrics;
use crate::pulled_images::PulledImages;
use crate::services::NodeSettings;
use crate::tracing_export;

use super::StartError;

/// Pulls at a time when the configuration does not say: upstream would pull one image after another.
const PARALLEL_PULLS: usize = 5;

/// The two services of a runtime, which may be one object.
pub(super) type RuntimeServices = (Arc<dyn RuntimeService>, Arc<dyn ImageService>);
/// What tells how far downloads are.
pub(super) type Downloads = Arc<dyn PullWatch>;

/// Whether an agent of this configuration may run on this machine; for whoever starts something else beside it first.
///
/// # Errors
/// As [`KubeletBuilder::build`], which asks the same.
pub fn check_machine(config: &KubeletConfiguration) -> Result<(), StartError> {
    suits(config, &rubelet_linux::facts::machine().map_err(StartError::Machine)?)
}

pub(super) fn suits(config: &KubeletConfiguration, machine: &MachineFacts) -> Result<(), StartError> {
    let refused = |why: &str| Err(StartError::Setting(why.to_owned()));
    if !machine.cgroup_v2 && config.fail_cgroup_v1 {
        return refused(
            "this machine uses cgroup v1, which the configuration refuses: set failCgroupV1: false to use it anyway",
        );
    }
    if !machine.cgroup_v2 && config.single_process_oom_kill == Some(false) {
        return refused("singleProcessOOMKill must not be set to false on a machine that uses cgroup v1");
    }
    if machine.swap_in_use && config.fail_swap_on {
        return refused(
            "running with swap on is not supported: turn swap off, or set failSwapOn: false (/proc/swaps lists what is \
             in use)",
        );
    }
    Ok(())
}

pub(super) fn ip(field: &str, text: &str) -> Result<IpAddr, StartError> {
    text.parse().map_err(|_| StartError::Setting(format!("{field}: {text:?} is not an IP address")))
}

pub(super) fn port(number: i32) -> Result<u16, StartError> {
    u16::try_from(number).map_err(|_| StartError::Setting(format!("{number} is not a port")))
}

/// The runtime's services and, where it can tell, what it is downloading.
pub(super) fn connect(
    config: &KubeletConfiguration,
) -> Result<(RuntimeServices, Option<Downloads>), StartError> {
    let deadlines = Deadlines::with_request(config.runtime_request_timeout.to_std());
    let client = |endpoint| {
        let client = CriClient::new(endpoint, deadlines)?;
        Ok::<_, EndpointError>(Arc::new(match config.tracing {
            Some(_) => client.with_metadata(tracing_export::fill_metadata),
            None => client,
        }))
    };
    let runtime = client(&config.container_runtime_endpoint)?;
    if config.image_service_endpoint.is_empty()
        || config.image_service_endpoint == config.container_runtime_endpoint
    {
        let downloads = Arc::new(ContainerdContent::new(&runtime));
        return Ok(((runtime.clone(), runtime), Some(downloads)));
    }
    let images = client(&config.image_service_endpoint)?;
    let downloads = Arc::new(ContainerdContent::new(&images));
    Ok(((runtime, images), Some(downloads)))
}

pub(super) fn pull_limits(config: &KubeletConfiguration) -> PullLimits {
    let parallel = match config.max_parallel_image_pulls {
        Some(limit) => usize::try_from(limit).unwrap_or(1),
        None if config.serialize_image_pulls => 1,
        None => PARALLEL_PULLS,
    };
    PullLimits {
        parallel,
        qps: f64::from(config.registry_pull_qps),
        burst: u32::try_from(config.registry_burst).unwrap_or(1),
    }
}

/// The records of pulled images, unless their gate is off.
pub(super) fn pulled_images(
    config: &KubeletConfiguration,
    gates: &FeatureGates,
    (root_dir, fs, clock, metrics): (&Path, &FsPool, &Clock, &Metrics),
) -> Result<PulledImages, StartError> {
    if !gates.enabled(Gate::KubeletEnsureSecretPulledImages) {
        return Ok(PulledImages::disabled());
    }
    let word = config.image_pull_credentials_verification_policy.as_str();
    let policy = VerificationPolicy::parse(word, &config.preloaded_images_verification_allowlist);
    let policy = policy
        .map_err(|error| crate::logging::chain(&error))
        .and_then(|policy| policy.ok_or_else(|| format!("there is no such policy: {word:?}")))
        .map_err(|why| StartError::Setting(format!("imagePullCredentialsVerificationPolicy: {why}")))?;
    Ok(PulledImages::new(root_dir, policy, fs.clone(), clock.clone(), metrics.clone()))
}

pub(super) fn node_settings(
    config: &KubeletConfiguration,
    machine: &MachineFacts,
    name: &str,
    ips: Vec<IpAddr>,
    (root_dir, container_logs_dir): (PathBuf, PathBuf),
    allocatable: BTreeMap<String, Amount>,
) -> NodeSettings {
    let gates = rubelet_config::FeatureGates::from_settings(&config.feature_gates).0;
    let crash_loop_max = config.crash_loop_back_off.max_container_restart_period.map(|max| max.to_std());
    // What is no address is left out, as upstream does; the configuration has warned of it.
    let cluster_dns = config.cluster_dns.iter().filter_map(|server| server.parse().ok()).collect();
    NodeSettings {
        name: name.to_owned(),
        ips,
        root_dir,
        pod_logs_dir: PathBuf::from(&config.pod_logs_dir),
        container_logs_dir,
        sync_frequency: config.sync_frequency.to_std(),
        stream_idle_timeout: config.streaming_connection_idle_timeout.to_std(),
        crash_loop: BackoffPolicy::crash_loop(
            crash_loop_max,
            gates.enabled(Gate::ReduceDefaultCrashLoopBackOffDecay),
        ),
        seccomp_default: config.seccomp_default,
        cgroups: CgroupRoot {
            root: if config.cgroup_root.is_empty() { "/".to_owned() } else { config.cgroup_root.clone() },
            per_qos: config.cgroups_per_qos,
            driver: if config.cgroup_driver == "systemd" {
                CgroupDriver::Systemd
            } else {
                CgroupDriver::Cgroupfs
            },
        },
        resources: ResourceFacts {
            memory_capacity: i64::try_from(machine.memory).unwrap_or(i64::MAX),
            cpu_quota: config.cpu_cfs_quota,
            cpu_period: i64::try_from(config.cpu_cfs_quota_period.to_std().as_micros()).unwrap_or(100_000),
            cgroup_v2: machine.cgroup_v2,
            single_process_oom_kill: config.single_process_oom_kill.unwrap_or(!machine.cgroup_v2),
            ..Default::default()
        },
        allocatable,
        selinux: machine.selinux,
        thermal_throttle_paths: machine.thermal_throttle_paths.clone(),
        cluster_domain: config.cluster_domain.clone(),
        cluster_dns,
        expects_cluster_dns: true,
        resolv_conf: config.resolv_conf.clone(),
    }
}

/// What resizes in place depend on.
pub(super) fn resize_settings(config: &KubeletConfiguration, gates: &FeatureGates) -> ResizeSettings {
    ResizeSettings {
        gates: ResizeGates {
            init_containers: gates.enabled(Gate::InPlacePodVerticalScalingInitContainers),
            pod_level: gates.enabled(Gate::InPlacePodLevelResourcesVerticalScaling),
            exclusive_cpus: gates.enabled(Gate::InPlacePodVerticalScalingExclusiveCPUs),
            exclusive_memory: gates.enabled(Gate::InPlacePodVerticalScalingExclusiveMemory),
        },
        static_cpus: config.cpu_manager_policy == "static",
        static_memory: config.memory_manager_policy == "Static",
    }
}

/// What admission needs to know of the node.
pub(super) fn admission_facts(
    config: &KubeletConfiguration,
    machine: &MachineFacts,
    node: &NodeSettings,
    labels: &BTreeMap<String, String>,
) -> admission::NodeFacts {
    admission::NodeFacts {
        name: node.name.clone(),
        labels: [
            ("kubernetes.io/hostname", node.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", go_arch()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        // Those it registers itself with, for as long as its Node cannot be read.
        .chain(labels.clone())
        .collect(),
        taints: vec![],
        allocatable: node.allocatable.clone(),
        kernel: machine.kernel,
        allowed_unsafe_sysctls: config.allowed_unsafe_sysctls.clone(),
        pressure: admission::NodePressure::default(),
        supplemental_groups_policy: false,
        apparmor: machine.apparmor,
        shutting_down: false,
    }
}
