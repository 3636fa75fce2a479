//! The processes of a control group: how many, and what they have open.
//!
//! Descriptors are counted when the group has run since. Counting sockets takes a look at every one of them, so it is done for each group every few minutes
//! only, and for no more descriptors in one round than a bound allows; the last count is told in between.

use std::io;

use rubelet_core::stats::usage::ProcessUsage;
use rustix::fs::{Dir, Mode, OFlags, readlinkat, stat};

use super::parse::{lines, number, words};

/// How long a count of sockets, and the limit of open files, are good, in seconds.
const COUNT_SECONDS: i64 = 120;
/// Descriptors that are looked at in one round.
const ROUND: usize = 2000;
/// Descriptors of one group that are looked at; a group that has more is not told of.
const GROUP: usize = 4096;
/// Processes of one group whose descriptors are counted; those of a group that has more are not told of.
const PROCESSES: usize = 1024;

/// What is remembered of a group's processes.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Its descriptors, and the CPU time it had used by then.
    descriptors: Option<(u64, u64)>,
    counted_at: Option<i64>,
    sockets: Option<u64>,
    soft_limit: Option<u64>,
}

/// Counts, within bounds.
#[derive(Debug)]
pub(super) struct Counter {
    links_left: usize,
    /// The kernel tells the number of descriptors as the size of their directory (6.2 and later).
    tells_descriptors: bool,
}

impl Counter {
    pub(super) fn new(kernel: (u32, u32)) -> Self {
        Self { links_left: ROUND, tells_descriptors: kernel >= (6, 2) }
    }

    /// A new round begins.
    pub(super) fn begin(&mut self) {
        self.links_left = ROUND;
    }

    /// What these processes, the first ones of a group, have open. `used` is the CPU time of the group: as long as that
    /// is the same they cannot have opened or closed anything.
    pub(super) fn count(
        &mut self,
        usage: &mut ProcessUsage,
        census: &mut Census,
        pids: &[i32],
        used: Option<u64>,
        second: i64,
    ) {
        if usage.processes > PROCESSES as u64 {
            *census = Census::default();
            return;
        }
        let old =
            census.counted_at.is_none_or(|at| second.saturating_sub(at) >= COUNT_SECONDS || second < at);
        let known = census.descriptors.filter(|(_, by)| Some(*by) == used && !old);
        let descriptors = known.map_or_else(
            || pids.iter().filter_map(|pid| self.descriptors(*pid)).sum(),
            |(descriptors, _)| descriptors,
        );
        usage.file_descriptors = Some(descriptors);
        census.descriptors = used.map(|used| (descriptors, used));
        if old && self.links_left > 0 {
            *census = Census {
                descriptors: census.descriptors,
                counted_at: Some(second),
                sockets: self.sockets(pids),
                soft_limit: pids.first().and_then(|pid| soft_limit_of(*pid)),
            };
        }
        usage.sockets = census.sockets;
        usage.soft_limit_open_files = census.soft_limit;
    }

    /// Open descriptors of a process; `None` when it has ended.
    fn descriptors(&self, pid: i32) -> Option<u64> {
        let path = format!("/proc/{pid}/fd");
        if self.tells_descriptors {
            return u64::try_from(stat(path.as_str()).ok()?.st_size).ok();
        }
        // `.` and `..` are no descriptors.
        let entries = u64::try_from(open_dir(&path).ok()?.take(GROUP).count()).ok()?;
        Some(entries.saturating_sub(2))
    }

    /// Sockets of processes; `None` when they have too many descriptors.
    fn sockets(&mut self, pids: &[i32]) -> Option<u64> {
        let (mut sockets, mut looked_at) = (0, 0);
        for pid in pids {
            let Ok(mut dir) = open_dir(&format!("/proc/{pid}/fd")) else { continue };
            while let Some(Ok(entry)) = dir.next() {
                if entry.file_name().to_bytes().starts_with(b".") {
                    continue;
                }
                looked_at += 1;
                self.links_left = self.links_left.saturating_sub(1);
                if looked_at > GROUP {
                    return None;
                }
                let Ok(fd) = dir.fd() else { continue };
                let target = readlinkat(fd, entry.file_name(), Vec::with_capacity(64));
                sockets += u64::from(target.is_ok_and(|target| target.to_bytes().starts_with(b"socket:")));
            }
        }
        Some(sockets)
    }
}

/// How many processes a list names, and the first of them, as many as are looked at.
pub(super) fn processes(text: &[u8]) -> (u64, Vec<i32>) {
    let all = || lines(text).filter_map(number).filter_map(|pid| i32::try_from(pid).ok());
    (all().count() as u64, all().filter(|pid| *pid > 0).take(PROCESSES).collect())
}

fn open_dir(path: &str) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Dir::new(rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty())?)?)
}

fn soft_limit_of(pid: i32) -> Option<u64> {
    soft_limit(&std::fs::read(format!("/proc/{pid}/limits")).ok()?)
}

/// The soft limit of open files in `/proc/<pid>/limits`.
fn soft_limit(text: &[u8]) -> Option<u64> {
    let limits = lines(text).find_map(|line| line.strip_prefix(b"Max open files"))?;
    number(words(limits).next()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_and_limits() {
        assert_eq!(processes(b"12\n7\nodd\n0\n"), (3, vec![12, 7]));
        assert_eq!(processes(b""), (0, vec![]));
        let limits = b"Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 524288               files     \n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(soft_limit(b"Max open files   unlimited  unlimited  files\n"), None);
        assert_eq!(soft_limit(b"Max open files"), None);
    }

    #[test]
    fn sockets_of_this_process_are_counted_now_and_then() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut counter = Counter::new((6, 2));
        let mut census = Census::default();
        let mut count = |counter: &mut Counter, second| {
            let mut usage = ProcessUsage { processes: 1, ..ProcessUsage::default() };
            counter.count(&mut usage, &mut census, &[own], None, second);
            usage
        };
        let before = count(&mut counter, 1000);
        let sockets: Vec<_> = (0..5).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        assert_eq!(count(&mut counter, 1100).sockets, before.sockets);
        counter.links_left = 0;
        assert_eq!(count(&mut counter, 1200).sockets, before.sockets, "the round's bound is reached");
        counter.begin();
        let after = count(&mut counter, 1200);
        assert_eq!(after.sockets.unwrap(), before.sockets.unwrap() + 5);
        assert!(after.soft_limit_open_files.is_some() && after.file_descriptors.unwrap() >= 5);
        drop(sockets);
        // Older kernels have their directories counted.
        let counted = Counter::new((5, 10)).descriptors(own).unwrap();
        assert!(counted >= 3, "{counted}");
        assert_eq!(Counter::new((5, 10)).descriptors(i32::MAX), None);
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (processes(&bytes), soft_limit(&bytes));
        }
    }
}
