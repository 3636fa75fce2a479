//! What a group is set to, and how much memory it uses; read when somebody asks.

use std::fs;

use super::CgroupTree;

/// A memory limit from which on it is none: the kernel rounds the largest number down to a page.
const NO_LIMIT: i64 = i64::MAX - (1 << 20);

/// What a group's files say. `None` is what is not there, or not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupReading {
    /// Relative weight as shares; in the unified hierarchy what its weight comes to.
    pub cpu_shares: Option<i64>,
    /// Quota, microseconds; `None` without one.
    pub cpu_quota: Option<i64>,
    /// Period, microseconds.
    pub cpu_period: Option<i64>,
    /// Memory limit, bytes.
    pub memory_limit: Option<i64>,
    /// Memory used, bytes.
    pub memory_usage: Option<i64>,
    /// Limit of processes and threads.
    pub pids_limit: Option<i64>,
}

impl CgroupTree {
    /// Reads a group; one that is not there says nothing.
    pub fn read(&self, group: &str) -> GroupReading {
        let text =
            |controller: &str, file: &str| fs::read_to_string(self.dir(group, controller)?.join(file)).ok();
        let number = |controller: &str, file: &str| text(controller, file)?.trim().parse::<i64>().ok();
        let pids_limit = number("pids", "pids.max");
        if self.is_unified() {
            let max = text("cpu", "cpu.max").unwrap_or_default();
            let mut max = max.split_whitespace().map(|word| word.parse::<i64>().ok());
            return GroupReading {
                cpu_shares: number("cpu", "cpu.weight").map(shares_of_weight),
                cpu_quota: max.next().flatten(),
                cpu_period: max.next().flatten(),
                memory_limit: number("memory", "memory.max"),
                memory_usage: number("memory", "memory.current"),
                pids_limit,
            };
        }
        GroupReading {
            cpu_shares: number("cpu", "cpu.shares"),
            cpu_quota: number("cpu", "cpu.cfs_quota_us").filter(|quota| *quota >= 0),
            cpu_period: number("cpu", "cpu.cfs_period_us"),
            memory_limit: number("memory", "memory.limit_in_bytes").filter(|limit| *limit < NO_LIMIT),
            memory_usage: number("memory", "memory.usage_in_bytes"),
            pids_limit,
        }
    }
}

/// The inverse of core's line (upstream `cpuWeightToCPUShares`).
fn shares_of_weight(weight: i64) -> i64 {
    (weight.clamp(1, 10_000) - 1) * 262_142 / 9999 + 2
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn both_generations_say_the_same() {
        let v2 = tempfile::tempdir().unwrap();
        write(v2.path(), "cgroup.controllers", "cpu memory pids");
        write(v2.path(), "g/cpu.weight", "39\n");
        write(v2.path(), "g/cpu.max", "50000 100000\n");
        write(v2.path(), "g/memory.max", "1048576\n");
        write(v2.path(), "g/memory.current", "4096\n");
        write(v2.path(), "g/pids.max", "7\n");
        let v1 = tempfile::tempdir().unwrap();
        write(v1.path(), "cpu/g/cpu.shares", "998\n");
        write(v1.path(), "cpu/g/cpu.cfs_quota_us", "50000\n");
        write(v1.path(), "cpu/g/cpu.cfs_period_us", "100000\n");
        write(v1.path(), "memory/g/memory.limit_in_bytes", "1048576\n");
        write(v1.path(), "memory/g/memory.usage_in_bytes", "4096\n");
        write(v1.path(), "pids/g/pids.max", "7\n");
        let expected = GroupReading {
            cpu_shares: Some(998),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory_limit: Some(1 << 20),
            memory_usage: Some(4096),
            pids_limit: Some(7),
        };
        for root in [v1.path(), v2.path()] {
            assert_eq!(CgroupTree::find(root).unwrap().read("/g"), expected);
        }
        write(v2.path(), "g/cpu.max", "max 100000\n");
        write(v2.path(), "g/memory.max", "max\n");
        write(v1.path(), "cpu/g/cpu.cfs_quota_us", "-1\n");
        write(v1.path(), "memory/g/memory.limit_in_bytes", "9223372036854771712\n");
        for root in [v1.path(), v2.path()] {
            let found = CgroupTree::find(root).unwrap().read("/g");
            assert_eq!((found.cpu_quota, found.memory_limit), (None, None));
        }
        assert_eq!(CgroupTree::find(v1.path()).unwrap().read("/none"), GroupReading::default());
    }

    proptest! {
        #[test]
        fn any_content_is_survived(weight in ".*", max in ".*", limit in any::<i64>()) {
            let root = tempfile::tempdir().unwrap();
            write(root.path(), "cgroup.controllers", "cpu memory");
            write(root.path(), "g/cpu.weight", &weight);
            write(root.path(), "g/cpu.max", &max);
            write(root.path(), "g/memory.max", &limit.to_string());
            let _ = CgroupTree::find(root.path()).unwrap().read("/g");
        }
    }
}
