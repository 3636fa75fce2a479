//! Being told by the kernel that memory runs short, instead of looking all the time.
//!
//! Owns the descriptors: thresholds on the usage of a control group (`cgroup.event_control`, cgroup v1), events of a
//! group (`memory.events`, v2), and pressure stall triggers of the machine and of a group. Each is a hint that says
//! *look now*; what is true is read by whoever is told. Where the kernel has none of these, or does not let this
//! process have them, there are no hints, and whoever waits has to look by the clock. Called by the eviction task.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::task::Poll;

use rubelet_core::node::pressure::Observation;
use rustix::event::EventfdFlags;
use rustix::fs::{Mode, OFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What a stall trigger waits for: tasks that stand still for memory for a tenth of a window. The window is two
/// seconds because a process without CAP_SYS_RESOURCE can only have multiples of that.
const STALL: &[u8] = b"some 200000 2000000\0";
/// Most bytes of a file of a control group.
const FILE_LIMIT: usize = 16 << 10;

/// Descriptors that become ready when memory runs short.
#[derive(Debug)]
pub struct MemoryTriggers {
    mount: PathBuf,
    unified: bool,
    /// Thresholds of groups: the descriptor counts how often one was crossed.
    thresholds: Vec<AsyncFd<OwnedFd>>,
    /// Those that are ready when something exceptional happens.
    priority: Vec<AsyncFd<OwnedFd>>,
}

/// A crossing to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// The control group, as a path below the hierarchy's root.
    pub group: String,
    /// Usage in bytes, page cache included, at which to tell.
    pub usage: u64,
}

impl MemoryTriggers {
    /// Triggers below the mount of control groups, none of them set yet.
    pub fn new(mount: &Path) -> Self {
        let unified = mount.join("cgroup.controllers").exists();
        Self { mount: mount.to_owned(), unified, thresholds: vec![], priority: vec![] }
    }

    /// Has the machine's stalls and those of `group` told of, as far as the kernel does that; returns how many triggers
    /// there are. Must be called inside a runtime.
    pub fn watch_stalls(&mut self, group: &str) -> usize {
        let mut places = vec![PathBuf::from("/proc/pressure/memory")];
        if self.unified {
            places.push(self.dir(group).join("memory.pressure"));
            if let Ok(events) = open(&self.dir(group).join("memory.events"), OFlags::RDONLY)
                && let Ok(events) = register(events, Interest::PRIORITY)
            {
                self.priority.push(events);
            }
        }
        for place in places {
            if let Ok(trigger) = stall_trigger(&place) {
                self.priority.push(trigger);
            }
        }
        self.priority.len()
    }

    /// Has these crossings told of instead of those before. Only cgroup v1 can do that: elsewhere nothing is set, and 0
    /// is returned. Must be called inside a runtime. May block on the file system of control groups for a moment.
    pub fn set_crossings(&mut self, crossings: &[Crossing]) -> usize {
        // A descriptor that is closed takes its registration with it.
        self.thresholds.clear();
        if self.unified {
            return 0;
        }
        for crossing in crossings {
            if let Ok(descriptor) = self.crossing(crossing) {
                self.thresholds.push(descriptor);
            }
        }
        self.thresholds.len()
    }

    fn crossing(&self, crossing: &Crossing) -> io::Result<AsyncFd<OwnedFd>> {
        let dir = self.dir(&crossing.group);
        let usage = open(&dir.join("memory.usage_in_bytes"), OFlags::RDONLY)?;
        let told = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let control = open(&dir.join("cgroup.event_control"), OFlags::WRONLY)?;
        let line = format!("{} {} {}", told.as_raw_fd(), usage.as_raw_fd(), crossing.usage);
        rustix::io::write(&control, line.as_bytes())?;
        register(told, Interest::READABLE)
    }

    /// Waits until something was told; for ever when nothing is watched. Cancel-safe: a descriptor stays ready until it
    /// was seen here.
    pub async fn told(&self) {
        poll_fn(|context| {
            for descriptor in &self.thresholds {
                if let Poll::Ready(Ok(mut guard)) = descriptor.poll_read_ready(context) {
                    let _crossed_how_often = rustix::io::read(descriptor.get_ref(), &mut [0; 8]);
                    guard.clear_ready();
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
    }

    /// Waits until a stall or an event of a group was told; for ever when nothing is watched. Cancel-safe, as
    /// [`Self::told`].
    pub async fn stalled(&self) {
        if self.priority.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.priority.iter().map(|descriptor| {
            Box::pin(async move {
                match descriptor.ready(Interest::PRIORITY).await {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(_) => std::future::pending().await,
                }
            })
        });
        let _the_first = futures::future::select_all(waits).await;
    }

    /// How much of a group's memory limit its working set leaves (upstream's `allocatableMemory.available` when the
    /// group is that of all pods), and its usage with page cache; `None` without a limit or a group.
    pub fn group_memory(&self, group: &str) -> Option<GroupMemory> {
        let dir = self.dir(group);
        let number = |file: &str| read(&dir.join(file)).ok()?.trim().parse::<u64>().ok();
        let (usage, limit, cache) = if self.unified {
            ("memory.current", "memory.max", "inactive_file ")
        } else {
            ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file ")
        };
        let (usage, limit) = (number(usage)?, number(limit)?);
        // Without a limit cgroup v1 tells the largest number of whole pages.
        if limit >= 1 << 62 {
            return None;
        }
        let stat = read(&dir.join("memory.stat")).unwrap_or_default();
        let inactive = stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse::<u64>().ok());
        let working_set = usage.saturating_sub(inactive.unwrap_or(0));
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let available = signed(limit).saturating_sub(signed(working_set));
        Some(GroupMemory { left: Observation { available, capacity: signed(limit) }, usage })
    }

    /// Usage of a group with its page cache.
    pub fn usage(&self, group: &str) -> Option<u64> {
        let file = if self.unified { "memory.current" } else { "memory.usage_in_bytes" };
        read(&self.dir(group).join(file)).ok()?.trim().parse().ok()
    }

    fn dir(&self, group: &str) -> PathBuf {
        let root = if self.unified { self.mount.clone() } else { self.mount.join("memory") };
        let parts = group.split('/').filter(|part| !part.is_empty() && *part != "." && *part != "..");
        parts.fold(root, |dir, part| dir.join(part))
    }
}

/// Memory of a control group that has a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupMemory {
    /// What its working set leaves of the limit.
    pub left: Observation,
    /// What it uses, page cache included, bytes.
    pub usage: u64,
}

/// A trigger lives as long as its descriptor.
fn stall_trigger(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let trigger = open(path, OFlags::RDWR | OFlags::NONBLOCK)?;
    rustix::io::write(&trigger, STALL)?;
    register(trigger, Interest::PRIORITY)
}

fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?)
}

fn read(path: &Path) -> io::Result<String> {
    let file = open(path, OFlags::RDONLY)?;
    let mut buffer = vec![0; FILE_LIMIT];
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match rustix::io::read(&file, rest)? {
            0 => break,
            more => length += more,
        }
    }
    buffer.truncate(length);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

#[allow(unsafe_code, reason = "registering a descriptor promises that it stays open")]
fn register(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd always answers with the same descriptor, and the AsyncFd owns it, so that it stays open until
    // it is deregistered.
    unsafe { AsyncFd::register_with_interest(descriptor, interest) }.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(mount: &Path, path: &str, text: &str) {
        let path = mount.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn memory_of_a_group_before_the_unified_hierarchy() {
        let mount = tempfile::tempdir().unwrap();
        write(mount.path(), "memory/kubepods/memory.usage_in_bytes", "900\n");
        write(mount.path(), "memory/kubepods/memory.limit_in_bytes", "1000\n");
        write(mount.path(), "memory/kubepods/memory.stat", "inactive_file 1\ntotal_inactive_file 300\n");
        let triggers = MemoryTriggers::new(mount.path());
        let left = Observation { available: 400, capacity: 1000 };
        assert_eq!(triggers.group_memory("/kubepods"), Some(GroupMemory { left, usage: 900 }));
        assert_eq!(triggers.group_memory("/../kubepods").unwrap().usage, 900);
        assert_eq!(triggers.group_memory("/none"), None);
        write(mount.path(), "memory/kubepods/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(triggers.group_memory("/kubepods"), None);
        for nonsense in ["", "x\n", "-1\n", "\u{fffd}"] {
            write(mount.path(), "memory/kubepods/memory.limit_in_bytes", nonsense);
            assert_eq!(triggers.group_memory("/kubepods"), None, "{nonsense:?}");
        }
    }

    #[test]
    fn memory_of_a_group_of_the_unified_hierarchy() {
        let mount = tempfile::tempdir().unwrap();
        write(mount.path(), "cgroup.controllers", "memory\n");
        write(mount.path(), "kubepods/memory.current", "900\n");
        write(mount.path(), "kubepods/memory.max", "1000\n");
        write(mount.path(), "kubepods/memory.stat", "anon 5\ninactive_file 2000\n");
        let triggers = MemoryTriggers::new(mount.path());
        assert_eq!(triggers.group_memory("kubepods").unwrap().left.available, 1000);
        assert_eq!(triggers.usage("kubepods"), Some(900));
        write(mount.path(), "kubepods/memory.max", "max\n");
        assert_eq!(triggers.group_memory("kubepods"), None);
    }

    /// A control group of this test's own.
    struct Group(PathBuf);

    impl Group {
        fn make() -> Option<(Self, String)> {
            let name = format!("rubelet-trigger-{}", std::process::id());
            let dir = Path::new("/sys/fs/cgroup/memory").join(&name);
            fs::create_dir(&dir).ok()?;
            Some((Self(dir), name))
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let _it_stays_in_vain = fs::remove_dir(&self.0);
        }
    }

    #[tokio::test]
    async fn a_crossing_is_told_at_once() {
        let Some((group, name)) = Group::make() else { return };
        let mut triggers = MemoryTriggers::new(Path::new("/sys/fs/cgroup"));
        assert_eq!(triggers.set_crossings(&[Crossing { group: "none".into(), usage: 1 }]), 0);
        let usage = 8 << 20;
        assert_eq!(triggers.set_crossings(&[Crossing { group: name.clone(), usage }]), 1);
        // A child whose memory is counted there; it joins before it takes any.
        let script = format!(
            "echo $$ > {}/cgroup.procs; head -c 40000000 /dev/zero | tail >/dev/null",
            group.0.display()
        );
        let mut child = tokio::process::Command::new("sh").args(["-c", &script]).spawn().unwrap();
        triggers.told().await;
        child.wait().await.unwrap();
        // A new set takes the place of the old one.
        assert_eq!(triggers.set_crossings(&[]), 0);
    }

    #[tokio::test]
    async fn stalls_are_watched_where_the_kernel_lets_us() {
        let mut triggers = MemoryTriggers::new(Path::new("/sys/fs/cgroup"));
        let watched = triggers.watch_stalls("/");
        assert!(watched <= 3);
        let waits = tokio::time::timeout(std::time::Duration::from_millis(20), triggers.stalled());
        let _told_or_not = waits.await;
    }
}
