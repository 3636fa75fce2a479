//! The few facts about processes that tell whose they are. Reads `/proc` and cgroup directories; every answer may be
//! outdated by the time it is there, so that callers hold a process before they believe what they read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How deep cgroups below a container's are followed.
const DEPTH: usize = 8;

/// A line of `/proc/<pid>/stat`, as far as it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) state: u8,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    /// Ticks since boot.
    pub(super) start: u64,
}

impl Stat {
    /// Reads the line; the name in it may hold anything.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let pid = line.split_once(' ')?.0.parse().ok()?;
        let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let mut number = || fields.next()?.parse().ok();
        let (parent, group, session) = (number()?, number()?, number()?);
        // The 22nd field; the session is the sixth.
        let start = fields.nth(15)?.parse().ok()?;
        Some(Self { pid, state, parent, group, session, start })
    }

    pub(super) fn leads_its_session(&self) -> bool {
        self.session == self.pid && self.group == self.pid
    }

    pub(super) fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

pub(super) fn stat(pid: i32) -> io::Result<Stat> {
    let line = fs::read(format!("/proc/{pid}/stat"))?;
    Stat::parse(&String::from_utf8_lossy(&line)).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The words of a process' command line.
pub(super) fn cmdline(pid: i32) -> io::Result<Vec<Vec<u8>>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline"))?;
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    Ok(bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
}

/// What identifies the PID namespace of a process.
pub(super) fn pid_namespace(pid: i32) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid"))
}

/// Where a process of a container comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It is in the container's PID namespace and its parent is not: it was put there.
    Outside,
    /// Anything else, or not known.
    Inside,
}

pub(super) fn origin(seen: &Stat, container: &Path) -> Origin {
    let own = pid_namespace(seen.pid);
    let parent = pid_namespace(seen.parent);
    match (own, parent) {
        (Ok(own), Ok(parent)) if own == container && parent != container => Origin::Outside,
        _ => Origin::Inside,
    }
}

/// Ticks since boot, the unit and the axis of start times.
pub(super) fn now_in_ticks() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/uptime")?;
    let (seconds, hundredths) = text
        .split_ascii_whitespace()
        .next()
        .and_then(|uptime| uptime.split_once('.'))
        .and_then(|(whole, part)| Some((whole.parse::<u64>().ok()?, part.parse::<u64>().ok()?)))
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((seconds * 100 + hundredths) * rustix::param::clock_ticks_per_second() / 100)
}

pub(super) fn ticks(duration: Duration) -> u64 {
    let per_second = u128::from(rustix::param::clock_ticks_per_second());
    u64::try_from(duration.as_millis() * per_second / 1000).unwrap_or(u64::MAX)
}

/// The directory of the cgroup that carries a container's ID in its name and that a process is in or below.
pub(super) fn cgroup_of(mount: &Path, container_id: &str, pid: i32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    cgroup_dirs(mount, container_id, &text).into_iter().find(|dir| dir.join("cgroup.procs").exists())
}

/// Where the cgroup may be, by the lines of `/proc/<pid>/cgroup`.
pub(super) fn cgroup_dirs(mount: &Path, container_id: &str, text: &str) -> Vec<PathBuf> {
    if container_id.len() < 8 {
        return vec![];
    }
    let mut dirs = vec![];
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let Some(end) = path.find(container_id).map(|start| {
            let rest = &path[start..];
            start + rest.find('/').unwrap_or(rest.len())
        }) else {
            continue;
        };
        let relative = path[..end].trim_start_matches('/');
        if relative.split('/').any(|part| part == "..") {
            continue;
        }
        let root = match controllers {
            "" => mount.to_owned(),
            controllers => {
                let first = controllers.split(',').next().unwrap_or_default();
                mount.join(first.strip_prefix("name=").unwrap_or(first))
            }
        };
        dirs.push(root.join(relative));
    }
    dirs
}

/// The processes in a cgroup and those below it; `None` when there are more than `most`.
pub(super) fn pids_below(cgroup: &Path, most: usize) -> io::Result<Option<Vec<i32>>> {
    let mut pids = vec![];
    let mut left = vec![(cgroup.to_owned(), 0)];
    while let Some((dir, depth)) = left.pop() {
        match fs::read_to_string(dir.join("cgroup.procs")) {
            Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
            // Groups come and go, and a threaded one does not tell.
            Err(error) if depth == 0 => return Err(error),
            Err(_) => continue,
        }
        if pids.len() > most {
            return Ok(None);
        }
        if depth < DEPTH {
            let below =
                fs::read_dir(&dir)?.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
            left.extend(below.map(|entry| (entry.path(), depth + 1)));
        }
        if left.len() > most {
            return Ok(None);
        }
    }
    Ok(Some(pids))
}
