//! What a pod worker works with: the runtime, the seams to the node, and the node's settings. Made once by
//! the wiring in `kubelet.rs`; workers hold it behind an `Arc` and change nothing in it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rubelet_core::backoff::BackoffPolicy;
use rubelet_cri::RuntimeService;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::events::EventRecorder;
use crate::fs_pool::FsPool;
use crate::images::ImageManager;
use crate::journal::Journal;
use crate::pleg::Pleg;
use crate::runtime_monitor::RuntimeConditions;
use crate::table::PodTable;

/// Settings and facts of the node that pods are built from.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Node name.
    pub name: String,
    /// Node addresses, primary family first.
    pub ips: Vec<IpAddr>,
    /// `--root-dir`.
    pub root_dir: PathBuf,
    /// `podLogsDir`.
    pub pod_logs_dir: PathBuf,
    /// Directory of the per-container log symlinks; upstream's is fixed to `/var/log/containers`.
    pub container_logs_dir: PathBuf,
    /// `syncFrequency`.
    pub sync_frequency: Duration,
    /// Crash-loop back-off.
    pub crash_loop: BackoffPolicy,
    /// `seccompDefault`.
    pub seccomp_default: bool,
    /// `cgroupsPerQOS`.
    pub cgroups_per_qos: bool,
    /// Root below which pod cgroups lie, `/` by default.
    pub cgroup_root: String,
    /// Whether the runtime's cgroup driver is systemd.
    pub systemd_cgroups: bool,
    /// Whether the node runs cgroup v2.
    pub cgroup_v2: bool,
    /// `cpuCFSQuota`.
    pub cpu_cfs_quota: bool,
    /// `cpuCFSQuotaPeriod`.
    pub cpu_cfs_quota_period: Duration,
    /// `clusterDomain`.
    pub cluster_domain: String,
    /// `clusterDNS`.
    pub cluster_dns: Vec<String>,
    /// `resolvConf`; empty disables the node's DNS settings.
    pub resolv_conf: String,
    /// Memory of the node in bytes.
    pub memory_capacity: u64,
    /// Logical CPUs of the node.
    pub cpus: u32,
}

/// What workers share.
pub struct Services {
    /// Wall clock.
    pub clock: Clock,
    /// The container runtime.
    pub runtime: Arc<dyn RuntimeService>,
    /// Images and pulls.
    pub images: ImageManager,
    /// Observation.
    pub pleg: Pleg,
    /// Events.
    pub events: EventRecorder,
    /// Durable records.
    pub journal: Journal,
    /// File system work.
    pub fs: FsPool,
    /// What is published.
    pub table: PodTable,
    /// The runtime's conditions.
    pub conditions: watch::Receiver<RuntimeConditions>,
    /// The node.
    pub node: NodeSettings,
}
