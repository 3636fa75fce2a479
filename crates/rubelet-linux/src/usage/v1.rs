//! The hierarchies with a controller each: which files there are, and what is in them.
//!
//! Values mean what libcontainer's `fs` and cAdvisor make of them; the figures of a tree (`total_…`) are taken, as with
//! `memory.use_hierarchy`, which is all that newer kernels know. Parsers are pure; reading goes through [`Reading`],
//! which keeps the files open.

use rubelet_core::stats::usage::{CpuUsage, DeviceIo, MemoryUsage};

use super::files::Shape;
use super::parse::{device, limit, lines, number, pairs, signed, value, words};
use super::{Changes, Effort, MachineMemory, Reading};

/// The controllers whose files are read, in the order of [`FILES`]' first members.
pub(super) const CONTROLLERS: [&str; 5] = ["cpuacct", "cpu", "memory", "blkio", "pids"];
const ACCOUNT: usize = 0;
const CPU: usize = 1;
/// Number of the memory controller.
pub(super) const MEMORY: usize = 2;
const IO: usize = 3;
const PIDS: usize = 4;

/// The files of a group, each with its controller, in the order of their numbers.
pub(super) const FILES: [(usize, &str); 26] = [
    (ACCOUNT, "cpuacct.usage"),
    (ACCOUNT, "cpuacct.stat"),
    (CPU, "cpu.stat"),
    (CPU, "cpu.shares"),
    (CPU, "cpu.cfs_quota_us"),
    (CPU, "cpu.cfs_period_us"),
    (MEMORY, "memory.usage_in_bytes"),
    (MEMORY, "memory.stat"),
    (MEMORY, "memory.limit_in_bytes"),
    (MEMORY, "memory.memsw.limit_in_bytes"),
    (MEMORY, "memory.max_usage_in_bytes"),
    (MEMORY, "memory.failcnt"),
    (MEMORY, "memory.kmem.usage_in_bytes"),
    (MEMORY, "memory.soft_limit_in_bytes"),
    (MEMORY, "memory.oom_control"),
    (PIDS, "pids.current"),
    (PIDS, "pids.max"),
    (CPU, "cgroup.procs"),
    (IO, "blkio.bfq.io_service_bytes_recursive"),
    (IO, "blkio.bfq.io_serviced_recursive"),
    (IO, "blkio.io_service_bytes_recursive"),
    (IO, "blkio.io_serviced_recursive"),
    (IO, "blkio.throttle.io_service_bytes_recursive"),
    (IO, "blkio.throttle.io_serviced_recursive"),
    (IO, "blkio.throttle.io_service_bytes"),
    (IO, "blkio.throttle.io_serviced"),
];

const ACCOUNT_USAGE: usize = 0;
const ACCOUNT_STAT: usize = 1;
const CPU_STAT: usize = 2;
const CPU_SHARES: usize = 3;
const CPU_QUOTA: usize = 4;
const CPU_PERIOD: usize = 5;
const MEMORY_USAGE: usize = 6;
const MEMORY_STAT: usize = 7;
const MEMORY_LIMIT: usize = 8;
const SWAP_LIMIT: usize = 9;
const MEMORY_MAX_USAGE: usize = 10;
const MEMORY_FAILURES: usize = 11;
const KERNEL_USAGE: usize = 12;
const SOFT_LIMIT: usize = 13;
const OOM_CONTROL: usize = 14;
const PIDS_CURRENT: usize = 15;
const PIDS_MAX: usize = 16;
/// Its processes.
pub(super) const PROCS: usize = 17;
/// Bytes and operations of block devices, as the I/O schedulers count them; the first that has anything holds.
const IO_FILES: [(usize, usize); 4] = [(18, 19), (20, 21), (22, 23), (24, 25)];

/// What can change what a file says.
pub(super) fn changes(file: usize) -> Changes {
    match file {
        CPU_SHARES | CPU_QUOTA | CPU_PERIOD | MEMORY_LIMIT | SWAP_LIMIT | SOFT_LIMIT | PIDS_MAX => {
            Changes::WhenSet
        }
        // This hierarchy has a group's late writes counted for the root.
        ACCOUNT_STAT
        | CPU_STAT
        | MEMORY_MAX_USAGE
        | MEMORY_FAILURES
        | OOM_CONTROL
        | PIDS_CURRENT
        | PROCS
        | 18.. => Changes::WhenRunning,
        _ => Changes::Always,
    }
}

/// Nanoseconds of a clock tick, which is a hundredth of a second on Linux.
const TICK: u64 = 10_000_000;

/// CPU of a group.
pub(super) fn cpu(reading: &mut Reading<'_>, effort: Effort) -> Option<CpuUsage> {
    let total = reading.text(ACCOUNT_USAGE, Shape::Record).and_then(number)?;
    reading.used = Some(total);
    let mut cpu = CpuUsage { total, ..CpuUsage::default() };
    if effort == Effort::Everything {
        if let Some(text) = reading.text(ACCOUNT_STAT, Shape::Record) {
            account_stat(&mut cpu, text);
        }
        cpu.shares = reading.text(CPU_SHARES, Shape::Record).and_then(number);
        let quota = reading.text(CPU_QUOTA, Shape::Record).and_then(signed);
        cpu.quota = quota.filter(|quota| *quota >= 0);
        cpu.period = reading.text(CPU_PERIOD, Shape::Record).and_then(number);
        // Without a quota there are no periods.
        if cpu.quota.is_some()
            && let Some(text) = reading.text(CPU_STAT, Shape::Record)
        {
            cpu_stat(&mut cpu, text);
        }
    }
    Some(cpu)
}

/// Memory of a group; the root's limits are the machine's.
pub(super) fn memory(
    reading: &mut Reading<'_>,
    effort: Effort,
    root: Option<&MachineMemory>,
) -> Option<MemoryUsage> {
    let usage = reading.text(MEMORY_USAGE, Shape::Record).and_then(number)?;
    let mut memory = MemoryUsage { usage, working_set: usage, ..MemoryUsage::default() };
    if let Some(text) = reading.text(MEMORY_STAT, Shape::Record) {
        memory_stat(&mut memory, text);
    }
    match root {
        Some(machine) => (memory.limit, memory.swap_limit) = (machine.total, machine.swap_total),
        None => {
            memory.limit = reading.text(MEMORY_LIMIT, Shape::Record).and_then(limit);
            memory.swap_limit = reading.text(SWAP_LIMIT, Shape::Record).and_then(limit);
        }
    }
    if effort == Effort::Everything {
        memory.max_usage = reading.text(MEMORY_MAX_USAGE, Shape::Record).and_then(number);
        memory.failures = reading.text(MEMORY_FAILURES, Shape::Record).and_then(number);
        memory.kernel = reading.text(KERNEL_USAGE, Shape::Record).and_then(number);
        memory.soft_limit = reading.text(SOFT_LIMIT, Shape::Record).and_then(limit);
        let control = reading.text(OOM_CONTROL, Shape::Record);
        memory.oom_kills = control.and_then(|text| value(text, "oom_kill"));
    }
    Some(memory)
}

/// Block devices of a group; names are empty.
pub(super) fn devices(reading: &mut Reading<'_>) -> Vec<DeviceIo> {
    for (bytes, operations) in IO_FILES {
        let mut devices = Vec::new();
        if let Some(text) = reading.text(bytes, Shape::Record) {
            add_io(&mut devices, text, |io| (&mut io.read_bytes, &mut io.written_bytes));
        }
        if devices.is_empty() {
            continue;
        }
        if let Some(text) = reading.text(operations, Shape::Record) {
            add_io(&mut devices, text, |io| (&mut io.reads, &mut io.writes));
        }
        devices.sort_by_key(|io| (io.major, io.minor));
        return devices;
    }
    Vec::new()
}

/// Threads, and the most there may be.
pub(super) fn threads(reading: &mut Reading<'_>) -> (Option<u64>, Option<u64>) {
    let threads = reading.text(PIDS_CURRENT, Shape::Record).and_then(number);
    (threads, reading.text(PIDS_MAX, Shape::Record).and_then(limit))
}

fn account_stat(cpu: &mut CpuUsage, text: &[u8]) {
    cpu.user = value(text, "user").unwrap_or(0).saturating_mul(TICK);
    cpu.system = value(text, "system").unwrap_or(0).saturating_mul(TICK);
}

fn cpu_stat(cpu: &mut CpuUsage, text: &[u8]) {
    for (key, value) in pairs(text) {
        let value = Some(value);
        match key {
            b"nr_periods" => cpu.periods = value,
            b"nr_throttled" => cpu.throttled_periods = value,
            b"throttled_time" => cpu.throttled = value,
            b"nr_bursts" => cpu.burst_periods = value,
            b"burst_time" => cpu.burst = value,
            _ => {}
        }
    }
}

fn memory_stat(memory: &mut MemoryUsage, text: &[u8]) {
    for (key, value) in pairs(text) {
        let value = Some(value);
        match key {
            b"total_cache" => memory.cache = value,
            b"total_rss" => memory.rss = value,
            b"total_swap" => memory.swap = value,
            b"total_mapped_file" => memory.mapped_file = value,
            b"total_inactive_file" => memory.inactive_file = value,
            b"total_active_file" => memory.active_file = value,
            b"pgfault" => memory.page_faults = value,
            b"pgmajfault" => memory.major_page_faults = value,
            b"total_pgfault" => memory.tree_page_faults = value,
            b"total_pgmajfault" => memory.tree_major_page_faults = value,
            _ => {}
        }
    }
    memory.working_set = memory.usage.saturating_sub(memory.inactive_file.unwrap_or(0));
}

/// Adds what lines like `8:0 Read 124` say; sums of all devices and other operations are passed over.
fn add_io(devices: &mut Vec<DeviceIo>, text: &[u8], target: impl Fn(&mut DeviceIo) -> (&mut u64, &mut u64)) {
    for line in lines(text) {
        let mut words = words(line);
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        let (operation, amount) = (words.next(), words.next().and_then(number));
        let Some(amount) = amount else { continue };
        let found = devices.iter().position(|io| io.major == major && io.minor == minor);
        let index = found.unwrap_or_else(|| {
            devices.push(DeviceIo { major, minor, ..DeviceIo::default() });
            devices.len() - 1
        });
        let (read, written) = target(&mut devices[index]);
        match operation {
            Some(b"Read") => *read = amount,
            Some(b"Write") => *written = amount,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cpu_files() {
        let mut cpu = CpuUsage::default();
        account_stat(&mut cpu, b"user 12\nsystem 3\n");
        cpu_stat(&mut cpu, b"nr_periods 4\nnr_throttled 2\nthrottled_time 99\nnr_bursts 1\nburst_time 5\n");
        assert_eq!((cpu.user, cpu.system), (120_000_000, 30_000_000));
        assert_eq!((cpu.periods, cpu.throttled_periods, cpu.throttled), (Some(4), Some(2), Some(99)));
        assert_eq!((cpu.burst_periods, cpu.burst), (Some(1), Some(5)));
    }

    #[test]
    fn memory_counts_the_tree() {
        let mut memory = MemoryUsage { usage: 1000, ..MemoryUsage::default() };
        memory_stat(
            &mut memory,
            b"cache 1\nrss 2\npgfault 5\npgmajfault 6\ninactive_file 9\ntotal_cache 10\ntotal_rss 20\ntotal_swap 0\ntotal_mapped_file 4\ntotal_inactive_file 100\ntotal_active_file 7\ntotal_pgfault 50\ntotal_pgmajfault 60\n",
        );
        assert_eq!((memory.cache, memory.rss, memory.swap), (Some(10), Some(20), Some(0)));
        assert_eq!((memory.working_set, memory.inactive_file), (900, Some(100)));
        assert_eq!((memory.page_faults, memory.tree_page_faults), (Some(5), Some(50)));
        let mut memory = MemoryUsage { usage: 1, ..MemoryUsage::default() };
        memory_stat(&mut memory, b"total_inactive_file 2\n");
        assert_eq!((memory.working_set, memory.swap), (0, None));
    }

    #[test]
    fn devices_have_bytes_and_operations() {
        let mut devices = Vec::new();
        let bytes = b"8:16 Read 10\n8:16 Write 20\n8:16 Sync 30\n8:16 Total 30\n8:0 Read 1\nTotal 31\n";
        add_io(&mut devices, bytes, |io| (&mut io.read_bytes, &mut io.written_bytes));
        add_io(&mut devices, b"8:16 Read 2\n8:16 Write 3\n8:0 Write\n", |io| (&mut io.reads, &mut io.writes));
        let numbers: Vec<_> = devices
            .iter()
            .map(|io| (io.minor, io.read_bytes, io.written_bytes, io.reads, io.writes))
            .collect();
        assert_eq!(numbers, [(16, 10, 20, 2, 3), (0, 1, 0, 0, 0)]);
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut cpu = CpuUsage::default();
            account_stat(&mut cpu, &bytes);
            cpu_stat(&mut cpu, &bytes);
            memory_stat(&mut MemoryUsage::default(), &bytes);
            add_io(&mut Vec::new(), &bytes, |io| (&mut io.reads, &mut io.writes));
        }
    }
}
