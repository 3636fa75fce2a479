//! What a pod worker works with: the runtime, the seams to the node, and the node's settings. Made once by
//! the wiring in `kubelet.rs`; workers hold it behind an `Arc` and change nothing in it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rubelet_core::backoff::BackoffPolicy;
use rubelet_core::downward::DownwardFacts;
use rubelet_core::node::addresses::host_ips;
use rubelet_core::quantity::Amount;
use rubelet_core::resources::{CgroupRoot, ResourceFacts};
use rubelet_cri::RuntimeService;
use rubelet_volumes::Volumes;
use tokio::sync::watch;

use crate::allocation::Allocations;
use crate::api_objects::ApiObjects;
use crate::cgroups::Cgroups;
use crate::clean_up::CleanUp;
use crate::clock::Clock;
use crate::container_manager::ContainerManager;
use crate::devices::Devices;
use crate::dra::Claims;
use crate::events::EventRecorder;
use crate::eviction::PressureView;
use crate::fs_pool::FsPool;
use crate::images::ImageManager;
use crate::journal::Journal;
use crate::log_rotation::LogRotation;
use crate::metrics::{Metrics, StartupLatency};
use crate::node_view::NodeView;
use crate::pleg::Pleg;
use crate::pod_kills::PodKills;
use crate::pod_wakes::PodWakes;
use crate::prober::Prober;
use crate::pull_credentials::PullCredentials;
use crate::pulled_images::PulledImages;
use crate::runtime_monitor::RuntimeState;
use crate::table::PodTable;
use crate::user_namespaces::UserNamespaces;

/// Settings and facts of the node that pods are built from.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Node name.
    pub name: String,
    /// Addresses of the machine, primary family first; workers ask [`Services::node_ips`].
    pub ips: Vec<IpAddr>,
    /// `--root-dir`.
    pub root_dir: PathBuf,
    /// `podLogsDir`.
    pub pod_logs_dir: PathBuf,
    /// Directory of the per-container log symlinks; upstream's is fixed to `/var/log/containers`.
    pub container_logs_dir: PathBuf,
    /// `syncFrequency`.
    pub sync_frequency: Duration,
    /// `streamingConnectionIdleTimeout`.
    pub stream_idle_timeout: Duration,
    /// Crash-loop back-off.
    pub crash_loop: BackoffPolicy,
    /// `seccompDefault`.
    pub seccomp_default: bool,
    /// Where the tree of pod cgroups hangs; the runtime's driver wins over the one named here.
    pub cgroups: CgroupRoot,
    /// What container resources are computed from.
    pub resources: ResourceFacts,
    /// Allocatable resources: what a missing limit counts as in the downward API.
    pub allocatable: BTreeMap<String, Amount>,
    /// Whether SELinux is enabled.
    pub selinux: bool,
    /// Files that are masked in containers besides the fixed list: `thermal_throttle` of each CPU that has it.
    pub thermal_throttle_paths: Vec<String>,
    /// `clusterDomain`.
    pub cluster_domain: String,
    /// `clusterDNS`.
    pub cluster_dns: Vec<IpAddr>,
    /// Whether pods that want a cluster's DNS and get the node's are told of it.
    pub expects_cluster_dns: bool,
    /// `resolvConf`; empty disables the node's DNS settings.
    pub resolv_conf: String,
}

/// What workers share.
pub struct Services {
    /// Wall clock.
    pub clock: Clock,
    /// The container runtime.
    pub runtime: Arc<dyn RuntimeService>,
    /// Images and pulls.
    pub images: ImageManager,
    /// Who may use images that are there.
    pub pulled: PulledImages,
    /// Wins room back.
    pub clean_up: CleanUp,
    /// Credentials for pulls.
    pub pull_credentials: PullCredentials,
    /// Observation.
    pub pleg: Pleg,
    /// Asks containers how they are.
    pub prober: Prober,
    /// Keeps container logs within their limits.
    pub logs: LogRotation,
    /// Events.
    pub events: EventRecorder,
    /// Durable records.
    pub journal: Journal,
    /// File system work.
    pub fs: FsPool,
    /// Volumes.
    pub volumes: Volumes,
    /// Devices of plugins.
    pub devices: Devices,
    /// What containers get of the machine: CPUs, memory nodes, devices.
    pub containers: ContainerManager,
    /// Control groups of pods.
    pub cgroups: Cgroups,
    /// ResourceClaims of pods.
    pub claims: Claims,
    /// What the node is short of.
    pub pressures: PressureView,
    /// Whether the node is shutting down.
    pub shutting_down: watch::Receiver<bool>,
    /// What pods were given of CPU and memory, and which resizes wait.
    pub allocations: Allocations,
    /// Pods that are to end for the node's sake.
    pub kills: PodKills,
    /// Pods that may try their volumes again.
    pub wakes: PodWakes,
    /// Objects of the API; `None` on a node without one.
    pub api: Option<ApiObjects>,
    /// ID ranges of pods with user namespaces.
    pub user_namespaces: UserNamespaces,
    /// What is published.
    pub table: PodTable,
    /// The runtime's own state.
    pub runtime_state: watch::Receiver<RuntimeState>,
    /// The node's object in the API, when there is one.
    pub own_node: NodeView,
    /// The node.
    pub node: NodeSettings,
    /// What is counted.
    pub metrics: Metrics,
    /// How long pods take to start.
    pub startups: StartupLatency,
}

impl Services {
    /// What the downward API tells of the node and of a pod with these addresses.
    pub fn downward(&self, pod_ips: Vec<String>) -> DownwardFacts {
        DownwardFacts {
            host_ips: self.node_ips().iter().map(ToString::to_string).collect(),
            pod_ips,
            node_allocatable: self.node.allocatable.clone(),
        }
    }

    /// Addresses of the node, primary family first: what its object in the API says, else what the machine has.
    pub fn node_ips(&self) -> Vec<IpAddr> {
        let told = self.own_node.get().and_then(|node| Some(host_ips(node.status.as_ref()?)));
        told.filter(|ips| !ips.is_empty()).unwrap_or_else(|| self.node.ips.clone())
    }
}
