//! The unified hierarchy: which files there are, and what is in them.
//!
//! Values mean what libcontainer's `fs2` and cAdvisor make of them. Parsers are pure; reading goes through
//! [`Reading`], which keeps the files open.

use rubelet_core::stats::usage::{CpuUsage, DeviceIo, MemoryUsage, Pressure};

use super::files::Shape;
use super::parse::{device, limit, lines, number, pairs, signed, value, words};
use super::{Changes, Effort, MachineMemory, Reading, psi};

/// The files of a group, in the order of their numbers.
pub(super) const FILES: [&str; 19] = [
    "cpu.stat",
    "cpu.weight",
    "cpu.max",
    "cpu.pressure",
    "memory.current",
    "memory.stat",
    "memory.swap.current",
    "memory.max",
    "memory.swap.max",
    "memory.peak",
    "memory.min",
    "memory.events",
    "memory.pressure",
    "io.stat",
    "io.pressure",
    "pids.current",
    "pids.max",
    "cgroup.procs",
    "cgroup.threads",
];

const CPU_STAT: usize = 0;
const CPU_WEIGHT: usize = 1;
const CPU_MAX: usize = 2;
const CPU_PRESSURE: usize = 3;
const MEMORY_CURRENT: usize = 4;
const MEMORY_STAT: usize = 5;
const SWAP_CURRENT: usize = 6;
const MEMORY_MAX: usize = 7;
const SWAP_MAX: usize = 8;
const MEMORY_PEAK: usize = 9;
const MEMORY_MIN: usize = 10;
const MEMORY_EVENTS: usize = 11;
const MEMORY_PRESSURE: usize = 12;
const IO_STAT: usize = 13;
const IO_PRESSURE: usize = 14;
const PIDS_CURRENT: usize = 15;
const PIDS_MAX: usize = 16;
/// Its processes.
pub(super) const PROCS: usize = 17;
/// Its threads, where the group has no processes of its own.
pub(super) const THREADS: usize = 18;

/// What can change what a file says.
pub(super) fn changes(file: usize) -> Changes {
    match file {
        CPU_WEIGHT | CPU_MAX | MEMORY_MAX | SWAP_MAX | MEMORY_MIN | PIDS_MAX => Changes::WhenSet,
        MEMORY_PEAK | MEMORY_EVENTS | PIDS_CURRENT | PROCS | THREADS => Changes::WhenRunning,
        // Pressure fades, and what was written goes to a device later, while nothing runs.
        _ => Changes::Always,
    }
}

/// CPU of a group. Every group has the file, so that without it the group is gone.
pub(super) fn cpu(reading: &mut Reading<'_>, effort: Effort) -> Option<CpuUsage> {
    let mut cpu = reading.text(CPU_STAT, Shape::Record).map(cpu_stat)?;
    reading.used = Some(cpu.total);
    if effort == Effort::Everything {
        cpu.shares = reading.text(CPU_WEIGHT, Shape::Record).and_then(number).and_then(shares);
        (cpu.quota, cpu.period) = reading.text(CPU_MAX, Shape::Record).map(cpu_max).unwrap_or_default();
    }
    Some(cpu)
}

/// Memory of a group that is not the root.
pub(super) fn memory(reading: &mut Reading<'_>, effort: Effort) -> Option<MemoryUsage> {
    let usage = reading.text(MEMORY_CURRENT, Shape::Record).and_then(number)?;
    let mut memory = MemoryUsage { usage, working_set: usage, ..MemoryUsage::default() };
    if let Some(text) = reading.text(MEMORY_STAT, Shape::Record) {
        memory_stat(&mut memory, text);
    }
    memory.swap = reading.text(SWAP_CURRENT, Shape::Record).and_then(number);
    memory.limit = reading.text(MEMORY_MAX, Shape::Record).and_then(limit);
    memory.swap_limit = reading.text(SWAP_MAX, Shape::Record).and_then(limit);
    if effort == Effort::Everything {
        memory.max_usage = reading.text(MEMORY_PEAK, Shape::Record).and_then(number);
        memory.soft_limit = reading.text(MEMORY_MIN, Shape::Record).and_then(limit);
        if let Some(text) = reading.text(MEMORY_EVENTS, Shape::Record) {
            memory.failures = value(text, "max");
            memory.oom_kills = value(text, "oom_kill");
        }
    }
    Some(memory)
}

/// Memory of the root, which has no `memory.current`: anonymous memory and page cache, and the machine's limits.
pub(super) fn root_memory(reading: &mut Reading<'_>, machine: &MachineMemory) -> Option<MemoryUsage> {
    let text = reading.text(MEMORY_STAT, Shape::Record)?;
    let mut memory = MemoryUsage::default();
    memory_stat(&mut memory, text);
    memory.usage = memory.rss.unwrap_or(0).saturating_add(memory.cache.unwrap_or(0));
    memory.working_set = memory.usage.saturating_sub(memory.inactive_file.unwrap_or(0));
    memory.swap = machine.swap_used;
    memory.limit = machine.total;
    memory.swap_limit = machine.swap_total;
    Some(memory)
}

/// Pressure of a group.
pub(super) fn pressure(reading: &mut Reading<'_>) -> Pressure {
    Pressure {
        cpu: reading.text(CPU_PRESSURE, Shape::Record).and_then(psi::pressure),
        memory: reading.text(MEMORY_PRESSURE, Shape::Record).and_then(psi::pressure),
        io: reading.text(IO_PRESSURE, Shape::Record).and_then(psi::pressure),
    }
}

/// Block devices of a group; names are empty.
pub(super) fn devices(reading: &mut Reading<'_>) -> Vec<DeviceIo> {
    reading.text(IO_STAT, Shape::Record).map(io_stat).unwrap_or_default()
}

/// Threads, and the most there may be.
pub(super) fn threads(reading: &mut Reading<'_>) -> (Option<u64>, Option<u64>) {
    let threads = reading.text(PIDS_CURRENT, Shape::Record).and_then(number);
    (threads, reading.text(PIDS_MAX, Shape::Record).and_then(limit))
}

fn cpu_stat(text: &[u8]) -> CpuUsage {
    let mut cpu = CpuUsage::default();
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    for (key, value) in pairs(text) {
        match key {
            b"usage_usec" => cpu.total = nanoseconds(value),
            b"user_usec" => cpu.user = nanoseconds(value),
            b"system_usec" => cpu.system = nanoseconds(value),
            b"nr_periods" => cpu.periods = Some(value),
            b"nr_throttled" => cpu.throttled_periods = Some(value),
            b"throttled_usec" => cpu.throttled = Some(nanoseconds(value)),
            b"nr_bursts" => cpu.burst_periods = Some(value),
            b"burst_usec" => cpu.burst = Some(nanoseconds(value)),
            _ => {}
        }
    }
    cpu
}

/// From 1–10000 to 2–262144 (cAdvisor `convertCPUWeightToCPULimit`).
fn shares(weight: u64) -> Option<u64> {
    (1..=10_000).contains(&weight).then(|| 2 + (weight - 1) * 262_142 / 9_999)
}

fn cpu_max(text: &[u8]) -> (Option<i64>, Option<u64>) {
    let mut words = words(text);
    (words.next().and_then(signed), words.next().and_then(number))
}

fn memory_stat(memory: &mut MemoryUsage, text: &[u8]) {
    for (key, value) in pairs(text) {
        let value = Some(value);
        match key {
            b"anon" => memory.rss = value,
            b"file" => memory.cache = value,
            b"kernel" => memory.kernel = value,
            b"file_mapped" => memory.mapped_file = value,
            b"inactive_file" => memory.inactive_file = value,
            b"active_file" => memory.active_file = value,
            // This hierarchy counts those of the groups below in any case.
            b"pgfault" => (memory.page_faults, memory.tree_page_faults) = (value, value),
            b"pgmajfault" => (memory.major_page_faults, memory.tree_major_page_faults) = (value, value),
            _ => {}
        }
    }
    memory.working_set = memory.usage.saturating_sub(memory.inactive_file.unwrap_or(0));
}

fn io_stat(text: &[u8]) -> Vec<DeviceIo> {
    let mut devices: Vec<DeviceIo> = lines(text).filter_map(io_line).collect();
    devices.sort_by_key(|io| (io.major, io.minor));
    devices
}

/// A device without figures has done nothing for the group.
fn io_line(line: &[u8]) -> Option<DeviceIo> {
    let mut words = words(line);
    let (major, minor) = device(words.next()?)?;
    let mut io = DeviceIo { major, minor, ..DeviceIo::default() };
    let mut any = false;
    for word in words {
        let Some(equals) = word.iter().position(|byte| *byte == b'=') else { continue };
        let Some(value) = number(&word[equals + 1..]) else { continue };
        let target = match &word[..equals] {
            b"rbytes" => &mut io.read_bytes,
            b"wbytes" => &mut io.written_bytes,
            b"rios" => &mut io.reads,
            b"wios" => &mut io.writes,
            _ => continue,
        };
        *target = value;
        any = true;
    }
    any.then_some(io)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cpu_files() {
        let cpu = cpu_stat(
            b"usage_usec 5\nuser_usec 3\nsystem_usec 2\nnice_usec 0\nnr_periods 7\nnr_throttled 1\nthrottled_usec 9\nnr_bursts 0\nburst_usec 4\n",
        );
        assert_eq!((cpu.total, cpu.user, cpu.system), (5000, 3000, 2000));
        assert_eq!((cpu.periods, cpu.throttled_periods, cpu.throttled), (Some(7), Some(1), Some(9000)));
        assert_eq!((cpu.burst_periods, cpu.burst), (Some(0), Some(4000)));
        // Without the controller there are no periods.
        assert_eq!(cpu_stat(b"usage_usec 5\n").periods, None);
        let check = |weight, expected| assert_eq!(shares(weight), expected, "{weight}");
        check(0, None);
        check(1, Some(2));
        check(39, Some(998));
        check(100, Some(2597));
        check(10_000, Some(262_144));
        check(10_001, None);
        assert_eq!(cpu_max(b"max 100000\n"), (None, Some(100_000)));
        assert_eq!(cpu_max(b"50000 100000\n"), (Some(50_000), Some(100_000)));
        assert_eq!(cpu_max(b""), (None, None));
    }

    #[test]
    fn the_working_set_is_never_less_than_nothing() {
        let mut memory = MemoryUsage { usage: 100, ..MemoryUsage::default() };
        memory_stat(
            &mut memory,
            b"anon 30\nfile 60\ninactive_file 40\nactive_file 20\npgfault 3\npgmajfault 1\n",
        );
        assert_eq!((memory.working_set, memory.rss, memory.cache), (60, Some(30), Some(60)));
        assert_eq!((memory.page_faults, memory.tree_major_page_faults), (Some(3), Some(1)));
        assert_eq!(memory.kernel, None);
        memory_stat(&mut memory, b"inactive_file 101\n");
        assert_eq!(memory.working_set, 0);
    }

    #[test]
    fn devices_are_those_that_did_something() {
        let devices = io_stat(
            b"254:0 \n8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:0 rbytes=7 wbytes=x\nodd\n",
        );
        let numbers: Vec<_> =
            devices.iter().map(|io| (io.major, io.minor, io.read_bytes, io.writes)).collect();
        assert_eq!(numbers, [(8, 0, 7, 0), (8, 16, 1, 4)]);
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (cpu_stat(&bytes), cpu_max(&bytes), io_stat(&bytes));
            memory_stat(&mut MemoryUsage::default(), &bytes);
        }
    }
}
