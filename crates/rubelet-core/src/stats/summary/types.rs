//! The objects of stats/v1alpha1, in the order of their fields upstream and with what upstream leaves out left out.
//! Called by `summary`; `resource` tells the same figures.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::stats::usage::{Psi, PsiLine};

/// A metav1.Time: whole seconds, null when unknown. A reading at the epoch is one that nobody made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::stats) struct Time(Option<Timestamp>);

impl Time {
    /// Milliseconds since the epoch.
    pub(in crate::stats) fn milliseconds(self) -> Option<i64> {
        self.0.map(Timestamp::as_millisecond)
    }
}

impl From<Timestamp> for Time {
    fn from(at: Timestamp) -> Self {
        Self((at > Timestamp::UNIX_EPOCH).then_some(at))
    }
}

impl From<Option<Timestamp>> for Time {
    fn from(at: Option<Timestamp>) -> Self {
        at.map(Self::from).unwrap_or_default()
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.and_then(|at| Timestamp::from_second(at.as_second()).ok()) {
            Some(at) => serializer.collect_str(&at),
            None => serializer.serialize_none(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeStats<'a> {
    pub(super) node_name: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) system_containers: Vec<ContainerStats<'a>>,
    pub(super) start_time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu: Option<CpuStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<MemoryStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) io: Option<IoStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) network: Option<NetworkStats<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fs: Option<FsStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) runtime: Option<RuntimeStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rlimit: Option<RlimitStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) swap: Option<SwapStats>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RlimitStats {
    pub(super) time: Time,
    #[serde(rename = "maxpid")]
    pub(super) max_pid: i64,
    #[serde(rename = "curproc")]
    pub(super) running: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RuntimeStats {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image_fs: Option<FsStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) container_fs: Option<FsStats>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStats<'a> {
    pub(super) pod_ref: PodReference<'a>,
    pub(super) start_time: Time,
    pub(super) containers: Vec<ContainerStats<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu: Option<CpuStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<MemoryStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) io: Option<IoStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) network: Option<NetworkStats<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(rename = "volume")]
    pub(super) volume_stats: Vec<VolumeStats<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "ephemeral-storage")]
    pub(super) ephemeral_storage: Option<FsStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "process_stats")]
    pub(super) process_stats: Option<ProcessStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) swap: Option<SwapStats>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodReference<'a> {
    pub(super) name: &'a str,
    pub(super) namespace: &'a str,
    pub(super) uid: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerStats<'a> {
    pub(super) name: &'a str,
    pub(super) start_time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu: Option<CpuStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<MemoryStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) io: Option<IoStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rootfs: Option<FsStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) logs: Option<FsStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) swap: Option<SwapStats>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProcessStats {
    #[serde(rename = "process_count")]
    pub(super) process_count: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NetworkStats<'a> {
    pub(super) time: Time,
    #[serde(flatten)]
    pub(super) default: InterfaceStats<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) interfaces: Vec<InterfaceStats<'a>>,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InterfaceStats<'a> {
    pub(super) name: &'a str,
    pub(super) rx_bytes: u64,
    pub(super) rx_errors: u64,
    pub(super) tx_bytes: u64,
    pub(super) tx_errors: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VolumeStats<'a> {
    #[serde(flatten)]
    pub(super) fs: FsStats,
    pub(super) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pvc_ref: Option<PvcReference<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) volume_health_stats: Option<VolumeHealthStats>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VolumeHealthStats {
    pub(super) abnormal: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PvcReference<'a> {
    pub(super) name: &'a str,
    pub(super) namespace: &'a str,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FsStats {
    pub(super) time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) capacity_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) inodes_free: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) inodes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) inodes_used: Option<u64>,
}

/// CPU time.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::stats) struct CpuStats {
    pub(in crate::stats) time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::stats) usage_nano_cores: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::stats) usage_core_nano_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::stats) psi: Option<PsiStats>,
}

/// Memory.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::stats) struct MemoryStats {
    pub(in crate::stats) time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::stats) available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::stats) usage_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::stats) working_set_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::stats) rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::stats) page_faults: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::stats) major_page_faults: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::stats) psi: Option<PsiStats>,
}

/// Swap.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::stats) struct SwapStats {
    pub(in crate::stats) time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::stats) swap_available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::stats) swap_usage_bytes: Option<u64>,
}

/// Block devices.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::stats) struct IoStats {
    pub(in crate::stats) time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::stats) psi: Option<PsiStats>,
}

/// Pressure on one resource.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::stats) struct PsiStats {
    pub(in crate::stats) full: PsiData,
    pub(in crate::stats) some: PsiData,
}

/// One line of pressure.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::stats) struct PsiData {
    pub(in crate::stats) total: u64,
    #[serde(serialize_with = "go_float")]
    pub(in crate::stats) avg10: f64,
    #[serde(serialize_with = "go_float")]
    pub(in crate::stats) avg60: f64,
    #[serde(serialize_with = "go_float")]
    pub(in crate::stats) avg300: f64,
}

impl From<Psi> for PsiStats {
    fn from(psi: Psi) -> Self {
        Self { full: psi.full.into(), some: psi.some.into() }
    }
}

impl From<PsiLine> for PsiData {
    fn from(line: PsiLine) -> Self {
        Self { total: line.total, avg10: line.avg10, avg60: line.avg60, avg300: line.avg300 }
    }
}

/// Writes a number as Go does: without a point when it is whole.
fn go_float<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    let whole = value.fract() == 0.0 && value.abs() < 1e15;
    if whole { serializer.serialize_i64(*value as i64) } else { serializer.serialize_f64(*value) }
}
