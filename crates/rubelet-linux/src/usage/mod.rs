//! What control groups, networks and file systems use, read cheaply and only when asked.
//!
//! [`Groups`] reads control groups of either generation through files that it keeps open; the rest are functions that
//! read once. Nothing here runs by itself, decides what belongs to which pod, or remembers a reading. Everything may
//! block for a moment: called by the shell's collector on threads that may.

mod devices;
mod files;
mod machine;
mod network;
mod parse;
mod processes;
mod psi;
mod space;
mod v1;
mod v2;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rubelet_core::stats::usage::{GroupUsage, ProcessUsage};

pub use devices::Mounts;
pub use machine::{MachineMemory, boot_time, machine_pressure, machine_usage};
pub use network::{network_of, node_network};
pub use space::{Space, TreeWalk, directory_usage, file_space, file_system, files_space};

use self::devices::DeviceNames;
use self::files::{Kept, Lasts, NoText, Shape, Slot};
use self::processes::{Census, Counter, processes};

/// How much of a control group is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// CPU time and memory, with the memory limits.
    CpuAndMemory,
    /// Pressure and the number of processes too.
    Summary,
    /// All limits, block devices, threads and descriptors too.
    Everything,
}

/// Reads control groups. Each file costs the kernel about a page while it is open, so that their number is bounded.
#[derive(Debug)]
pub struct Groups {
    layout: Layout,
    kept: Kept,
    groups: BTreeMap<String, Group>,
    names: DeviceNames,
    counter: Counter,
    booted_at: Option<Timestamp>,
}

/// Where the hierarchies are.
#[derive(Debug)]
enum Layout {
    /// One for all controllers.
    Unified(PathBuf),
    /// One for each; `None` for a controller that is not there.
    Split(Box<[Option<PathBuf>; v1::CONTROLLERS.len()]>),
}

/// What is kept of a group.
#[derive(Debug, Default)]
struct Group {
    slots: Vec<Slot>,
    created_at: Option<Timestamp>,
    census: Census,
}

/// What can change what a file of a group says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Changes {
    /// Anything, any time.
    Always,
    /// Processes of the group or below it, while they run; what does so from outside is found out a minute later.
    WhenRunning,
    /// Whoever sets limits, which is found out a minute later.
    WhenSet,
}

/// One reading of a group: gives out the texts of its files.
struct Reading<'a> {
    layout: &'a Layout,
    kept: &'a mut Kept,
    slots: &'a mut Vec<Slot>,
    path: &'a str,
    second: i64,
    /// CPU time that the group has used; `None` before it is known.
    used: Option<u64>,
    /// A file said that the group is removed.
    gone: bool,
}

impl Reading<'_> {
    fn text(&mut self, file: usize, shape: Shape) -> Option<&[u8]> {
        let Self { layout, kept, slots, path, second, used, gone } = self;
        let changes = match layout {
            Layout::Unified(_) => v2::changes(file),
            Layout::Split(_) => v1::changes(file),
        };
        let lasts = match (changes, used) {
            (Changes::Always, _) | (Changes::WhenRunning, None) => Lasts::Never,
            (Changes::WhenRunning, Some(used)) => Lasts::While(*used),
            (Changes::WhenSet, _) => Lasts::While(0),
        };
        match kept.text(slots.get_mut(file)?, shape, lasts, *second, || layout.file(path, file)) {
            Ok(text) => Some(text),
            Err(NoText::Missing) => None,
            Err(NoText::Gone) => {
                *gone = true;
                None
            }
        }
    }
}

impl Groups {
    /// Groups below a mount like `/sys/fs/cgroup`, with at most `limit` files kept open. Nothing is opened yet.
    pub fn new(mount: &Path, limit: usize) -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Self {
            layout: Layout::find(mount),
            kept: Kept::new(limit),
            groups: BTreeMap::new(),
            names: DeviceNames::default(),
            counter: Counter::new(kernel),
            booted_at: boot_time(),
        }
    }

    /// A new round of readings begins: what is bounded by round may be spent anew.
    pub fn begin(&mut self) {
        self.counter.begin();
    }

    /// Reads a group by its path below the hierarchy's root, `/` being the root; `None` when it is not there.
    pub fn read(&mut self, path: &str, effort: Effort, at: Timestamp) -> Option<GroupUsage> {
        if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
            return None;
        }
        // A group of the same name may have come after one that is gone: its files are opened anew.
        for _ in 0..2 {
            let (usage, gone) = self.read_open(path, effort, at);
            if usage.is_some() && !gone {
                return usage;
            }
            self.forget(path);
            if !gone {
                break;
            }
        }
        None
    }

    fn read_open(&mut self, path: &str, effort: Effort, at: Timestamp) -> (Option<GroupUsage>, bool) {
        self.know(path);
        let Self { layout, kept, groups, names, counter, .. } = self;
        let Some(group) = groups.get_mut(path) else { return (None, false) };
        let second = at.as_second();
        let is_root = path == "/";
        let slots = &mut group.slots;
        let mut reading = Reading { layout, kept, slots, path, second, used: None, gone: false };
        let machine = if is_root { MachineMemory::read() } else { MachineMemory::default() };
        let unified = matches!(layout, Layout::Unified(_));
        let (cpu, memory) = if unified {
            let cpu = v2::cpu(&mut reading, effort);
            let memory = match (is_root, &cpu) {
                (true, _) => v2::root_memory(&mut reading, &machine),
                (false, Some(_)) => v2::memory(&mut reading, effort),
                (false, None) => None,
            };
            (cpu, memory)
        } else {
            let cpu = v1::cpu(&mut reading, effort);
            (cpu, v1::memory(&mut reading, effort, is_root.then_some(&machine)))
        };
        if cpu.is_none() && memory.is_none() {
            return (None, reading.gone);
        }
        let mut usage = GroupUsage {
            at,
            path: path.to_owned(),
            created_at: group.created_at,
            cpu,
            memory,
            ..GroupUsage::default()
        };
        if effort >= Effort::Summary {
            if unified {
                usage.pressure = v2::pressure(&mut reading);
            }
            if is_root && usage.pressure == rubelet_core::stats::usage::Pressure::default() {
                usage.pressure = machine_pressure();
            }
            let (mut found, pids) = read_processes(&mut reading);
            if effort == Effort::Everything {
                let threads = if unified { v2::threads(&mut reading) } else { v1::threads(&mut reading) };
                (found.threads, found.threads_max) = threads;
                counter.count(&mut found, &mut group.census, &pids, reading.used, second);
                usage.devices = if unified { v2::devices(&mut reading) } else { v1::devices(&mut reading) };
                for io in &mut usage.devices {
                    io.device = names.name(io.major, io.minor);
                }
            }
            usage.processes = Some(found);
        }
        (Some(usage), reading.gone)
    }

    /// A process of the group itself; `None` when there is none.
    pub fn process_of(&mut self, path: &str, at: Timestamp) -> Option<i32> {
        for _ in 0..2 {
            self.know(path);
            let Self { layout, kept, groups, .. } = self;
            let slots = &mut groups.get_mut(path)?.slots;
            let second = at.as_second();
            let mut reading = Reading { layout, kept, slots, path, second, used: None, gone: false };
            let (_, pids) = read_processes(&mut reading);
            if !reading.gone {
                return pids.first().copied();
            }
            self.forget(path);
        }
        None
    }

    /// Makes room for a group.
    fn know(&mut self, path: &str) {
        let Self { layout, groups, booted_at, .. } = self;
        if !groups.contains_key(path) {
            let slots = std::iter::repeat_with(Slot::default).take(layout.files()).collect();
            let created_at = layout.created_at(path).map(|made| made.max(booted_at.unwrap_or(made)));
            groups.insert(path.to_owned(), Group { slots, created_at, ..Group::default() });
        }
    }

    /// Names of the groups right below a group; none when it is not there.
    pub fn children(&self, path: &str) -> Vec<String> {
        let dirs = self.layout.dirs(path);
        let entries = dirs.iter().find_map(|dir| std::fs::read_dir(dir).ok());
        let entries = entries.into_iter().flatten().flatten();
        let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        groups.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// The group this process is in: that of the unified hierarchy, or systemd's, or that of CPU and memory where they
    /// are the same (upstream `getContainer`).
    pub fn own_group(&self) -> Option<String> {
        let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        own_group(&text, matches!(self.layout, Layout::Unified(_)))
    }

    /// Closes the files of groups that are not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        let old: Vec<String> = self.groups.keys().filter(|path| !keep(path)).cloned().collect();
        for path in old {
            self.forget(&path);
        }
    }

    /// Closes every file and forgets every group.
    pub fn close(&mut self) {
        self.retain(|_| false);
        self.kept.shrink();
        self.names.clear();
    }

    /// Files that are open.
    pub fn open_files(&self) -> usize {
        self.kept.open()
    }

    fn forget(&mut self, path: &str) {
        if let Some(mut group) = self.groups.remove(path) {
            group.slots.iter_mut().for_each(|slot| self.kept.close(slot));
        }
    }
}

fn read_processes(reading: &mut Reading<'_>) -> (ProcessUsage, Vec<i32>) {
    let unified = matches!(reading.layout, Layout::Unified(_));
    let file = if unified { v2::PROCS } else { v1::PROCS };
    let mut found = reading.text(file, Shape::List).map(processes);
    if found.is_none() && unified {
        // A threaded group has no list of processes.
        found = reading.text(v2::THREADS, Shape::List).map(processes);
    }
    let (processes, pids) = found.unwrap_or_default();
    (ProcessUsage { processes, ..ProcessUsage::default() }, pids)
}

impl Layout {
    fn find(mount: &Path) -> Self {
        if mount.join("cgroup.controllers").exists() {
            return Self::Unified(mount.to_owned());
        }
        Self::Split(Box::new(v1::CONTROLLERS.map(|controller| {
            let dir = mount.join(controller);
            dir.is_dir().then_some(dir).or_else(|| {
                // Mounted together with others and without a link of its own.
                let entries = std::fs::read_dir(mount).ok()?.flatten();
                let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
                let name = names.find(|name| name.split(',').any(|part| part == controller))?;
                Some(mount.join(name))
            })
        })))
    }

    fn files(&self) -> usize {
        match self {
            Self::Unified(_) => v2::FILES.len(),
            Self::Split(_) => v1::FILES.len(),
        }
    }

    /// The path of a group's file.
    fn file(&self, group: &str, file: usize) -> Option<String> {
        let (root, name) = match self {
            Self::Unified(root) => (root, v2::FILES.get(file)?),
            Self::Split(roots) => {
                let (controller, name) = v1::FILES.get(file)?;
                (roots.get(*controller)?.as_ref()?, name)
            }
        };
        Some(format!("{}{}/{name}", root.to_str()?, group.trim_end_matches('/')))
    }

    /// The directories of a group, memory's first.
    fn dirs(&self, group: &str) -> Vec<PathBuf> {
        let below = |root: &PathBuf| root.join(group.trim_start_matches('/'));
        match self {
            Self::Unified(root) => vec![below(root)],
            Self::Split(roots) => {
                let memory = roots.get(v1::MEMORY).into_iter();
                memory.chain(roots.iter()).flatten().map(below).collect()
            }
        }
    }

    /// When a group was made: the least of the times on its directory and on a file in it that hardly changes (cAdvisor
    /// `GetSpec`).
    fn created_at(&self, group: &str) -> Option<Timestamp> {
        let file = match self {
            Self::Unified(_) => "cgroup.events",
            Self::Split(_) => "cgroup.clone_children",
        };
        let dirs = self.dirs(group);
        let paths = dirs.iter().flat_map(|dir| [dir.clone(), dir.join(file)]);
        let times = paths.filter_map(|path| Timestamp::try_from(path.metadata().ok()?.modified().ok()?).ok());
        times.min()
    }
}

fn own_group(text: &str, unified: bool) -> Option<String> {
    let group = |controller: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            controllers.split(',').any(|found| found == controller).then(|| path.to_owned())
        })
    };
    if unified {
        return group("");
    }
    let (cpu, memory) = (group("cpu")?, group("memory")?);
    (cpu == memory).then(|| group("name=systemd").unwrap_or(cpu))
}

#[cfg(test)]
mod tests;
