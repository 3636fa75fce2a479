//! What the kernel says of the agent's process: memory, CPU time, how often it was woken.
//!
//! Reads `/proc` and does the arithmetic; never touches the process but to begin counting anew. Called while the agent is idle and while it starts
//! pods.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::time::Instant;

/// How often threads are counted during an interval: one that lives shorter than this is missed.
const SAMPLE: Duration = Duration::from_secs(1);

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Memory {
    /// Pages in memory, shared ones in full (`VmRSS`).
    pub(crate) rss_kib: u64,
    /// Pages in memory, shared ones by share (`Pss`).
    pub(crate) pss_kib: u64,
    /// Of those, the process's own data: heap and stacks (`RssAnon`).
    pub(crate) rss_anon_kib: u64,
    /// The most that was in memory at any time (`VmHWM`).
    pub(crate) peak_kib: u64,
}

/// A process at rest, over an interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Idle {
    /// Length of the interval, seconds.
    pub(crate) seconds: f64,
    /// CPU time over the interval, in percent of one core. The kernel counts in steps of 10 ms.
    pub(crate) cpu_percent: f64,
    /// Voluntary context switches a second, over all threads: each is a sleep that ended, so a wake-up.
    pub(crate) wakeups_per_second: f64,
    /// Threads at the end.
    pub(crate) threads: usize,
    /// Memory at the end.
    pub(crate) memory: Memory,
}

/// CPU time of a process with its finished threads, in seconds (user and system).
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = read(pid, "stat")?;
    let ticks = cpu_ticks(&stat).with_context(|| format!("/proc/{pid}/stat is not understood: {stat:?}"))?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The memory of a process now.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let status = read(pid, "status")?;
    let rollup = read(pid, "smaps_rollup")?;
    let kib = |text: &str, key: &str| field(text, key).with_context(|| format!("no {key} for process {pid}"));
    Ok(Memory {
        rss_kib: kib(&status, "VmRSS")?,
        pss_kib: kib(&rollup, "Pss")?,
        rss_anon_kib: kib(&status, "RssAnon")?,
        peak_kib: kib(&status, "VmHWM")?,
    })
}

/// Lets the most that a process had in memory be counted from now on (`clear_refs` in proc(5)).
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("cannot write {path}"))
}

/// Descriptors that a process has open.
pub(crate) fn open_files(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd")).context("has the agent ended?")?.count())
}

/// Watches a process for a while.
pub(crate) async fn watch(pid: u32, time: Duration) -> Result<Idle> {
    let began = Instant::now();
    let (cpu, mut last) = (cpu_seconds(pid)?, switches(pid)?);
    let mut woken = 0;
    while began.elapsed() < time {
        tokio::time::sleep(SAMPLE.min(time.saturating_sub(began.elapsed()))).await;
        let now = switches(pid)?;
        woken += new_switches(&last, &now);
        last = now;
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Idle {
        seconds,
        cpu_percent: (cpu_seconds(pid)? - cpu) / seconds * 100.0,
        wakeups_per_second: woken as f64 / seconds,
        threads: last.len(),
        memory: memory(pid)?,
    })
}

/// Load of the machine over the last minute.
pub(crate) fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    fs::read_to_string(&path).with_context(|| format!("cannot read {}: has the agent ended?", path.display()))
}

/// Voluntary context switches by thread.
fn switches(pid: u32) -> Result<BTreeMap<String, u64>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("has the agent ended?")?;
    let count = |task: &fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        Some((task.file_name().to_string_lossy().into_owned(), field(&status, "voluntary_ctxt_switches")?))
    };
    // A thread that ended since it was listed is left out.
    Ok(tasks.flatten().filter_map(|task| count(&task)).collect())
}

/// Switches between two counts; a thread that is new brings all of its own.
fn new_switches(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> u64 {
    now.iter().map(|(thread, count)| count.saturating_sub(before.get(thread).copied().unwrap_or(0))).sum()
}

/// The number in a line `key: number …`.
fn field(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// User and system time out of a `stat` line; the program's name may hold blanks and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "VmRSS:\t  5120 kB\nRssAnon:\t 1024 kB\nnonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t9\n";
        assert_eq!(field(status, "VmRSS"), Some(5120));
        assert_eq!(field(status, "voluntary_ctxt_switches"), Some(9));
        assert_eq!(field(status, "Rss"), None);
    }

    #[test]
    fn cpu_time_is_read_behind_a_nasty_name() {
        assert_eq!(cpu_ticks("42 (a) b 1 2) S 1 2 3 4 5 6 7 8 9 10 120 30 0 0 20"), Some(150));
        assert_eq!(cpu_ticks("42 (a) S 1"), None);
    }

    #[test]
    fn new_threads_count_in_full_and_ended_ones_not_at_all() {
        let counts = |pairs: &[(&str, u64)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        let (before, now) = (counts(&[("1", 10), ("2", 5)]), counts(&[("1", 13), ("3", 4)]));
        assert_eq!(new_switches(&before, &now), 7);
    }

    #[test]
    fn this_process_can_be_read() {
        let own = std::process::id();
        let memory = memory(own).unwrap();
        assert!(memory.rss_kib >= memory.rss_anon_kib && memory.peak_kib >= memory.rss_anon_kib);
        assert!(cpu_seconds(own).unwrap() >= 0.0);
        assert!(open_files(own).unwrap() > 2);
    }
}
