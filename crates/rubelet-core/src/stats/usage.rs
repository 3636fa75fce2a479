//! One reading of the node: its control groups, networks and file systems, and which pod each belongs to.
//!
//! Written by the shell's collector from what `rubelet-linux` and the runtime read; read by everything that makes a
//! document of it. Counters only grow while their control group lives. What the kernel does not tell is `None`, never
//! zero.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;

use crate::Pod;

/// CPU time and its limits of a control group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CpuUsage {
    /// CPU time used, nanoseconds.
    pub total: u64,
    /// The part spent in user mode, nanoseconds.
    pub user: u64,
    /// The part spent in the kernel, nanoseconds.
    pub system: u64,
    /// CFS periods that have passed while a quota was set.
    pub periods: Option<u64>,
    /// CFS periods in which the group was throttled.
    pub throttled_periods: Option<u64>,
    /// Time it was throttled, nanoseconds.
    pub throttled: Option<u64>,
    /// CFS periods in which it used more than its quota.
    pub burst_periods: Option<u64>,
    /// Time it used beyond its quota, nanoseconds.
    pub burst: Option<u64>,
    /// Its shares, as cgroup v1 counts them (v2 weights are translated as cAdvisor does).
    pub shares: Option<u64>,
    /// Its quota in a period, microseconds; `None` without one.
    pub quota: Option<i64>,
    /// Its period, microseconds.
    pub period: Option<u64>,
}

/// Memory and its limits of a control group, in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryUsage {
    /// In use, caches included.
    pub usage: u64,
    /// The most that was ever in use.
    pub max_usage: Option<u64>,
    /// Page cache.
    pub cache: Option<u64>,
    /// Anonymous memory.
    pub rss: Option<u64>,
    /// `usage` without inactive file pages, at least 0: what the eviction and scheduling side look at.
    pub working_set: u64,
    /// Mapped files.
    pub mapped_file: Option<u64>,
    /// Memory of the kernel for the group.
    pub kernel: Option<u64>,
    /// Active file pages.
    pub active_file: Option<u64>,
    /// Inactive file pages.
    pub inactive_file: Option<u64>,
    /// Swap in use; `None` where swap is not accounted.
    pub swap: Option<u64>,
    /// How often a limit was hit.
    pub failures: Option<u64>,
    /// Page faults of the group itself.
    pub page_faults: Option<u64>,
    /// Major page faults of the group itself.
    pub major_page_faults: Option<u64>,
    /// Page faults with the groups below it.
    pub tree_page_faults: Option<u64>,
    /// Major page faults with the groups below it.
    pub tree_major_page_faults: Option<u64>,
    /// Processes killed because memory ran out; of a container in all its instances that are remembered.
    pub oom_kills: Option<u64>,
    /// The limit; `None` when there is none.
    pub limit: Option<u64>,
    /// The soft limit (v1) or protected memory (v2 `memory.min`, as cAdvisor); `None` when there is
    /// none.
    pub soft_limit: Option<u64>,
    /// The limit of swap; `None` when there is none.
    pub swap_limit: Option<u64>,
}

/// What one block device did for a control group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceIo {
    /// Its name below `/dev`, with `/dev/`; empty when it has none.
    pub device: String,
    /// Its number.
    pub major: u64,
    /// Its number.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// One line of pressure stall information: the share of time in which tasks waited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PsiLine {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last 60 seconds.
    pub avg60: f64,
    /// Percent of the last 300 seconds.
    pub avg300: f64,
    /// Time in total, microseconds.
    pub total: u64,
}

/// Pressure on one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Psi {
    /// At least one task waited.
    pub some: PsiLine,
    /// All tasks waited.
    pub full: PsiLine,
}

/// Pressure on a control group, or the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// On CPU time.
    pub cpu: Option<Psi>,
    /// On memory.
    pub memory: Option<Psi>,
    /// On block devices.
    pub io: Option<Psi>,
}

/// Processes of a control group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessUsage {
    /// Processes.
    pub processes: u64,
    /// Threads.
    pub threads: Option<u64>,
    /// The most threads there may be; `None` without a limit.
    pub threads_max: Option<u64>,
    /// Open file descriptors of all its processes.
    pub file_descriptors: Option<u64>,
    /// The sockets among them.
    pub sockets: Option<u64>,
    /// The first process's soft limit of open files; `None` when unlimited or unknown.
    pub soft_limit_open_files: Option<u64>,
    /// What its tasks are doing; `None` when nobody looked.
    pub tasks: Option<TaskStates>,
}

/// Tasks of a control group by state (the state letter in `/proc/<pid>/stat`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TaskStates {
    /// `S`, `I`.
    pub sleeping: u64,
    /// `R`.
    pub running: u64,
    /// `T`, `t`.
    pub stopped: u64,
    /// `D`.
    pub uninterruptible: u64,
    /// Those that wait for a block device; the kernel tells only where delay accounting is on.
    pub waiting_for_io: u64,
}

/// One control group at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupUsage {
    /// When it was read.
    pub at: Timestamp,
    /// Its path below the root of the hierarchy, `/` for the root.
    pub path: String,
    /// When it was made, if that can be told.
    pub created_at: Option<Timestamp>,
    /// CPU time.
    pub cpu: Option<CpuUsage>,
    /// CPU use since an earlier reading, in nanoseconds of CPU time a second; `None` before there are two readings.
    pub nanocores: Option<u64>,
    /// Memory.
    pub memory: Option<MemoryUsage>,
    /// Block devices, by number.
    pub devices: Vec<DeviceIo>,
    /// Processes.
    pub processes: Option<ProcessUsage>,
    /// Pressure, where the kernel tells.
    pub pressure: Pressure,
}

/// One network interface of a pod, or of the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InterfaceUsage {
    /// Its name.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Received packets that were dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Packets that were dropped instead of sent.
    pub tx_dropped: u64,
}

/// A network namespace at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkUsage {
    /// When it was read.
    pub at: Timestamp,
    /// Its interfaces but the loopback, the default one (`eth0`, or the one with the default route) first.
    pub interfaces: Vec<InterfaceUsage>,
}

/// A file system, or the part of one that something uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FsUsage {
    /// When it was read.
    pub at: Timestamp,
    /// Bytes free for everybody.
    pub available: Option<u64>,
    /// Bytes in all.
    pub capacity: Option<u64>,
    /// Bytes used by what is asked about.
    pub used: Option<u64>,
    /// Inodes free.
    pub inodes_free: Option<u64>,
    /// Inodes in all.
    pub inodes: Option<u64>,
    /// Inodes used by what is asked about.
    pub inodes_used: Option<u64>,
    /// The device it is on as mounted, with `/dev/` (cAdvisor's `device` label); empty when unknown.
    pub device: String,
}

/// What the kernel counted for a block device, as `/proc/diskstats` has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiskCounters {
    /// Reads completed.
    pub reads: u64,
    /// Reads merged with others.
    pub reads_merged: u64,
    /// Sectors read, of 512 bytes.
    pub sectors_read: u64,
    /// Time spent reading, milliseconds.
    pub read_ms: u64,
    /// Writes completed.
    pub writes: u64,
    /// Writes merged with others.
    pub writes_merged: u64,
    /// Sectors written, of 512 bytes.
    pub sectors_written: u64,
    /// Time spent writing, milliseconds.
    pub write_ms: u64,
    /// Operations under way.
    pub in_progress: u64,
    /// Time in which something was under way, milliseconds.
    pub io_ms: u64,
    /// The same, weighted by how much was under way, milliseconds.
    pub weighted_io_ms: u64,
}

/// A file system of the node, which `/metrics/cadvisor` tells of under the root control group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilesystemUsage {
    /// Its size and what is used of it; `device` tells it from others.
    pub fs: FsUsage,
    /// What its block device did; `None` when it has none.
    pub disk: Option<DiskCounters>,
}

/// One running container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerUsage {
    /// Its name in the pod.
    pub name: String,
    /// Its ID in the runtime.
    pub id: String,
    /// Its image, as the runtime names it.
    pub image: String,
    /// How many instances there were before it.
    pub attempt: u32,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// Its control group; `None` when it could not be found or read.
    pub group: Option<GroupUsage>,
    /// Its writable layer, and the file system that holds it.
    pub rootfs: Option<FsUsage>,
    /// Its log files, and the file system that holds them.
    pub logs: Option<FsUsage>,
}

/// One volume of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeUsage {
    /// Its name in the pod.
    pub name: String,
    /// Namespace and name of the claim it is of.
    pub claim: Option<(String, String)>,
    /// What it uses.
    pub fs: FsUsage,
    /// Whether its CSI driver says that something is wrong with it; `None` when it does not tell.
    pub abnormal: Option<bool>,
    /// Whether its space is part of the node's ephemeral storage (emptyDir on disk, ConfigMap, Secret and the like).
    pub ephemeral: bool,
}

/// One pod of which something runs.
#[derive(Clone, Debug)]
pub struct PodUsage {
    /// The pod as desired and admitted.
    pub pod: Arc<Pod>,
    /// The status last published.
    pub status: Arc<PodStatus>,
    /// ID of its sandbox in the runtime; empty when there is none.
    pub sandbox_id: String,
    /// Image of its sandbox, when the runtime tells.
    pub sandbox_image: String,
    /// When its sandbox was made.
    pub started_at: Option<Timestamp>,
    /// The pod's control group.
    pub group: Option<GroupUsage>,
    /// The control group of its sandbox.
    pub sandbox_group: Option<GroupUsage>,
    /// Its network; `None` for a pod in the node's network.
    pub network: Option<NetworkUsage>,
    /// Its running containers, by name.
    pub containers: Vec<ContainerUsage>,
    /// Its volumes that tell what they use.
    pub volumes: Vec<VolumeUsage>,
    /// Files of the pod on the node that are no volume: its hosts file and what is beside it.
    pub other_ephemeral: Option<FsUsage>,
}

/// A part of the node that is no pod.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemGroup {
    /// `kubelet`, `runtime`, `misc` or `pods`.
    pub name: &'static str,
    /// Its control group.
    pub group: GroupUsage,
}

/// What is known of the machine, and does not change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineUsage {
    /// Logical CPUs.
    pub cpus: u64,
    /// Physical cores.
    pub physical_cores: u64,
    /// Sockets.
    pub sockets: u64,
    /// Memory, bytes.
    pub memory: u64,
    /// Swap, bytes.
    pub swap: u64,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// System UUID.
    pub system_uuid: String,
    /// Boot ID.
    pub boot_id: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Name and version of the operating system.
    pub os: String,
}

/// The node at one moment.
#[derive(Clone, Debug, Default)]
pub struct NodeUsage {
    /// Its name.
    pub node_name: String,
    /// The machine.
    pub machine: MachineUsage,
    /// When the machine started.
    pub boot_time: Option<Timestamp>,
    /// The root control group; its memory is the machine's.
    pub root: GroupUsage,
    /// Bytes of memory that pods can still get before pressure (capacity − working set).
    pub memory_available: Option<u64>,
    /// Swap of the machine: used and available, bytes.
    pub swap: Option<(u64, u64)>,
    /// The node's own network.
    pub network: Option<NetworkUsage>,
    /// The file system of `--root-dir`.
    pub fs: Option<FsUsage>,
    /// Every file system on a device of the node, by device (only for `/metrics/cadvisor`).
    pub filesystems: Vec<FilesystemUsage>,
    /// The file system of images; `used` is what images use.
    pub image_fs: Option<FsUsage>,
    /// The file system of writable layers; `used` is what they use.
    pub container_fs: Option<FsUsage>,
    /// Process IDs: the most there may be, and how many are in use.
    pub pids: Option<(i64, i64)>,
    /// The kubelet, the runtime and what else runs on the node.
    pub system: Vec<SystemGroup>,
    /// Groups that belong to no pod and are told of all the same: QoS classes, and the slices of the system, by path.
    pub other_groups: Vec<GroupUsage>,
    /// Pods of which something runs, by namespace and name.
    pub pods: Vec<PodUsage>,
    /// What could not be read: a text for each. What ended while it was read is no problem: it is left out silently,
    /// because the scrape errors of `/metrics/resource` and `/metrics/cadvisor` are 1 while this has anything.
    pub problems: Vec<String>,
}
