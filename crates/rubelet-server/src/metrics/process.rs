//! What every program tells of its process: CPU time, memory, file descriptors, age. Read from `/proc/self` when a page
//! is made; what cannot be read is left out.

use std::fs;

use super::families::collected;
use super::render::Collected;

collected! {
    /// Seconds of CPU time that this process has used.
    CPU_SECONDS: Counter "process_cpu_seconds_total" Unmarked;
    /// Files that this process has open.
    OPEN_FDS: Gauge "process_open_fds" Unmarked;
    /// The most files that this process may have open.
    MAX_FDS: Gauge "process_max_fds" Unmarked;
    /// Bytes of address space of this process.
    VIRTUAL_MEMORY: Gauge "process_virtual_memory_bytes" Unmarked;
    /// The most address space that this process may have, bytes.
    VIRTUAL_MEMORY_MAX: Gauge "process_virtual_memory_max_bytes" Unmarked;
    /// Bytes of this process that are in memory.
    RESIDENT_MEMORY: Gauge "process_resident_memory_bytes" Unmarked;
    /// When this process began, seconds since 1970.
    START_TIME: Gauge "process_start_time_seconds" Alpha;
    /// Tasks of the agent that are alive: what goroutines are to a kubelet in Go, whose name dashboards ask for.
    GOROUTINES: Gauge "go_goroutines" Unmarked;
}

/// Tells all of it.
pub(super) fn collect(out: &mut Collected) {
    let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
    if let Some(stat) = stat {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as f64;
        out.tell(&CPU_SECONDS, &[], stat.cpu_ticks as f64 / ticks);
        out.tell(&VIRTUAL_MEMORY, &[], stat.virtual_bytes as f64);
        out.tell(&RESIDENT_MEMORY, &[], stat.resident_pages as f64 * page);
    }
    tell_start(out);
    if let Some(open) = open_files() {
        out.tell(&OPEN_FDS, &[], open as f64);
    }
    let limit =
        |resource| rustix::process::getrlimit(resource).current.map_or(UNLIMITED, |limit| limit as f64);
    out.tell(&MAX_FDS, &[], limit(rustix::process::Resource::Nofile));
    out.tell(&VIRTUAL_MEMORY_MAX, &[], limit(rustix::process::Resource::As));
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        out.tell(&GOROUTINES, &[], runtime.metrics().num_alive_tasks() as f64);
    }
}

/// Files that this process has open. There may be thousands, of control groups, so that they are not looked at one by
/// one where the kernel tells how many there are (6.2 and later).
fn open_files() -> Option<u64> {
    let told = fs::metadata("/proc/self/fd").ok()?.len();
    if told > 0 {
        return Some(told);
    }
    // One of them is the directory itself.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64)
}

/// How Prometheus' client for Go tells that there is no limit.
const UNLIMITED: f64 = u64::MAX as f64;

/// Tells only when the process began: what the pages of probes and service levels have too.
pub(super) fn tell_start(out: &mut Collected) {
    if let Some(start) = start_time() {
        out.tell(&START_TIME, &[], start);
    }
}

/// Seconds from 1970 to the beginning of this process.
fn start_time() -> Option<f64> {
    let stat = Stat::parse(&fs::read_to_string("/proc/self/stat").ok()?)?;
    let boot = boot_seconds(&fs::read_to_string("/proc/stat").ok()?)?;
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    Some(boot + stat.start_ticks as f64 / ticks)
}

/// When the machine started, by `/proc/stat`.
fn boot_seconds(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Fields of `/proc/self/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name in parentheses may hold anything; what follows begins with field 3.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)?.checked_add(field(15)?)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let check = |text: &str, expected: Option<Stat>| assert_eq!(Stat::parse(text), expected, "{text}");
        let stat = || Stat { cpu_ticks: 12, start_ticks: 22, virtual_bytes: 23, resident_pages: 24 };
        let rest = "S 1 1 1 0 -1 0 0 0 0 0 5 7 0 0 20 0 9 0 22 23 24 0";
        check(&format!("1 (a) {rest}"), Some(stat()));
        check(&format!("1 (a) b ) (x) {rest}"), Some(stat()));
        check("1 (a) S 1 1", None);
        check("", None);
        assert_eq!(boot_seconds("cpu 1\nbtime 1700000000\n"), Some(1.7e9));
        assert_eq!(boot_seconds("cpu 1\n"), None);
    }

    #[test]
    fn this_process_began_and_uses_memory() {
        let text = fs::read_to_string("/proc/self/stat").unwrap();
        assert!(Stat::parse(&text).unwrap().resident_pages > 0);
        assert!(start_time().unwrap() > 1.6e9);
    }

    proptest! {
        #[test]
        fn any_text_is_borne(text in ".{0,200}") {
            let _ = (Stat::parse(&text), boot_seconds(&text));
        }
    }
}
