//! What the agent sets on a cgroup of its own, and which files of which generation that is.
//!
//! Owns the mapping (upstream `cgroupCommon.toResources` with libcontainer's file names); never writes a file.
//! [`crate::resources`] computes the settings, `rubelet_linux::cgroup` writes what [`group_writes`] lists.

use std::collections::BTreeMap;

use super::{cpu_weight, kernel_page_size};
use crate::cpu_set::CpuSet;

/// A huge page limit that is none (upstream `setHugePagesUnbounded`).
pub const UNBOUNDED_HUGE_PAGES: i64 = 1 << 62;

/// Settings of one cgroup. `None` is left as the kernel, or whoever was there before, has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSettings {
    /// Relative weight as shares, 2 to 262144; [`cpu_weight`] of it in the unified hierarchy.
    pub cpu_shares: Option<i64>,
    /// Quota for each period, microseconds; below 0 is none, 0 is left alone.
    pub cpu_quota: Option<i64>,
    /// Period, microseconds.
    pub cpu_period: Option<i64>,
    /// Memory limit, bytes; below 0 is none, 0 is left alone.
    pub memory: Option<i64>,
    /// Processes and threads; 0 and below is no limit.
    pub pids: Option<i64>,
    /// CPUs that may be used.
    pub cpus: Option<CpuSet>,
    /// Limit by page size, bytes each. A size of the machine that is not named is limited to 0.
    pub huge_pages: Option<BTreeMap<i64, i64>>,
    /// Files of the unified hierarchy that are set as they are; no effect in the older one.
    pub unified: BTreeMap<String, String>,
}

/// One file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupWrite {
    /// Controller, as the kernel calls it.
    pub controller: String,
    /// File in the group's directory.
    pub file: String,
    /// What to write.
    pub value: String,
    /// A kernel that has no such file needs none.
    pub optional: bool,
}

impl GroupWrite {
    fn new(file: &str, value: impl ToString) -> Self {
        let controller = file.split('.').next().unwrap_or_default().to_owned();
        Self { controller, file: file.to_owned(), value: value.to_string(), optional: false }
    }
}

/// The files that settings mean, in the order in which they are written. `page_sizes`: huge page sizes of the machine
/// as the kernel writes them (`2MB`).
pub fn group_writes(settings: &GroupSettings, unified: bool, page_sizes: &[String]) -> Vec<GroupWrite> {
    let mut writes = vec![];
    if let Some(shares) = settings.cpu_shares {
        writes.push(if unified {
            GroupWrite::new("cpu.weight", cpu_weight(shares))
        } else {
            GroupWrite::new("cpu.shares", shares)
        });
    }
    quota(settings, unified, &mut writes);
    if let Some(memory) = settings.memory.filter(|memory| *memory != 0) {
        writes.push(match (unified, memory < 0) {
            (true, true) => GroupWrite::new("memory.max", "max"),
            (true, false) => GroupWrite::new("memory.max", memory),
            (false, _) => GroupWrite::new("memory.limit_in_bytes", memory.max(-1)),
        });
    }
    if let Some(pids) = settings.pids {
        let text = if pids > 0 { pids.to_string() } else { "max".to_owned() };
        writes.push(GroupWrite::new("pids.max", text));
    }
    if let Some(cpus) = settings.cpus.as_ref().filter(|cpus| !cpus.is_empty()) {
        writes.push(GroupWrite::new("cpuset.cpus", cpus));
    }
    if let Some(limits) = &settings.huge_pages {
        let named: BTreeMap<String, i64> =
            limits.iter().map(|(size, limit)| (kernel_page_size(*size), *limit)).collect();
        for size in page_sizes {
            let limit = named.get(size).copied().unwrap_or(0).max(0);
            let ending = if unified { "max" } else { "limit_in_bytes" };
            writes.push(GroupWrite::new(&format!("hugetlb.{size}.{ending}"), limit));
            // Pages that are reserved and not touched yet count here, since 5.7.
            let reserved = GroupWrite::new(&format!("hugetlb.{size}.rsvd.{ending}"), limit);
            writes.push(GroupWrite { optional: true, ..reserved });
        }
    }
    if unified {
        writes.extend(settings.unified.iter().map(|(file, value)| GroupWrite::new(file, value)));
    }
    writes
}

fn quota(settings: &GroupSettings, unified: bool, writes: &mut Vec<GroupWrite>) {
    let (quota, period) = (settings.cpu_quota.unwrap_or(0), settings.cpu_period.unwrap_or(0));
    if unified {
        if quota != 0 || period != 0 {
            let text = if quota > 0 { quota.to_string() } else { "max".to_owned() };
            let period = if period == 0 { 100_000 } else { period };
            writes.push(GroupWrite::new("cpu.max", format!("{text} {period}")));
        }
        return;
    }
    if period != 0 {
        writes.push(GroupWrite::new("cpu.cfs_period_us", period));
    }
    if quota != 0 {
        writes.push(GroupWrite::new("cpu.cfs_quota_us", quota.max(-1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(settings: &GroupSettings, v1: &str, v2: &str) {
        for (unified, expected) in [(false, v1), (true, v2)] {
            let sizes = ["2MB".to_owned(), "1GB".to_owned()];
            let found: Vec<String> = group_writes(settings, unified, &sizes)
                .into_iter()
                .map(|write| {
                    assert!(write.file.starts_with(&write.controller), "{write:?}");
                    let optional = if write.optional { "?" } else { "" };
                    format!("{}{optional}={}", write.file, write.value)
                })
                .collect();
            assert_eq!(found.join(", "), expected, "unified: {unified}");
        }
    }

    #[test]
    fn nothing_set_is_nothing_written() {
        check(&GroupSettings::default(), "", "");
        check(&GroupSettings { memory: Some(0), cpu_quota: Some(0), ..Default::default() }, "", "");
    }

    #[test]
    fn every_setting_has_its_files() {
        check(
            &GroupSettings {
                cpu_shares: Some(1024),
                cpu_quota: Some(50_000),
                cpu_period: Some(100_000),
                memory: Some(1 << 30),
                pids: Some(100),
                cpus: Some([0, 1, 3].into()),
                ..Default::default()
            },
            "cpu.shares=1024, cpu.cfs_period_us=100000, cpu.cfs_quota_us=50000, memory.limit_in_bytes=1073741824, \
             pids.max=100, cpuset.cpus=0-1,3",
            "cpu.weight=39, cpu.max=50000 100000, memory.max=1073741824, pids.max=100, cpuset.cpus=0-1,3",
        );
    }

    #[test]
    fn no_limit_is_said_so() {
        check(
            &GroupSettings {
                cpu_quota: Some(-1),
                cpu_period: Some(50_000),
                memory: Some(-1),
                pids: Some(0),
                ..Default::default()
            },
            "cpu.cfs_period_us=50000, cpu.cfs_quota_us=-1, memory.limit_in_bytes=-1, pids.max=max",
            "cpu.max=max 50000, memory.max=max, pids.max=max",
        );
        check(
            &GroupSettings { cpu_quota: Some(2000), ..Default::default() },
            "cpu.cfs_quota_us=2000",
            "cpu.max=2000 100000",
        );
    }

    #[test]
    fn huge_pages_of_every_size_of_the_machine() {
        check(
            &GroupSettings { huge_pages: Some([(2 << 20, 4 << 20)].into()), ..Default::default() },
            "hugetlb.2MB.limit_in_bytes=4194304, hugetlb.2MB.rsvd.limit_in_bytes?=4194304, \
             hugetlb.1GB.limit_in_bytes=0, hugetlb.1GB.rsvd.limit_in_bytes?=0",
            "hugetlb.2MB.max=4194304, hugetlb.2MB.rsvd.max?=4194304, hugetlb.1GB.max=0, hugetlb.1GB.rsvd.max?=0",
        );
    }

    #[test]
    fn unified_files_are_for_the_unified_hierarchy() {
        let unified = [("memory.low".to_owned(), "5".to_owned())].into();
        check(&GroupSettings { unified, ..Default::default() }, "", "memory.low=5");
    }
}
