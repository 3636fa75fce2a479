//! CPUs, caches and NUMA nodes of this machine, from `/sys/devices/system`.
//!
//! Owns the files' names and what to make of those that are missing (virtual machines, kernels without NUMA); assigns
//! nothing. Read once when the agent starts: CPUs that come or go later are seen at the next start, as upstream has it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rubelet_core::cpu_set::CpuSet;
use rubelet_core::topology::{Cpu, MachineTopology, NumaMask, NumaNode};

use crate::node_facts::huge_pages;

/// Where the kernel describes the machine.
const SYSTEM: &str = "/sys/devices/system";

/// A cache of this level or above is shared by several cores; what is below belongs to one.
const SHARED_CACHE: u32 = 3;

/// Reads the machine this runs on.
///
/// # Errors
/// When the online CPUs cannot be told or there are more NUMA nodes than can be told apart.
pub fn read() -> io::Result<MachineTopology> {
    let mut machine = read_below(Path::new(SYSTEM))?;
    // Without NUMA the only node has it all.
    if let [node] = machine.nodes.as_mut_slice()
        && node.memory == 0
    {
        node.memory = crate::facts::machine()?.memory;
        node.huge_pages = pages(Path::new("/sys/kernel/mm/hugepages"));
    }
    Ok(machine)
}

/// Reads a machine from a copy of `/sys/devices/system`.
///
/// # Errors
/// As [`read`].
pub fn read_below(system: &Path) -> io::Result<MachineTopology> {
    let online: CpuSet = read_as(&system.join("cpu/online"))?;
    if online.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no CPU is online"));
    }
    let found = numa_nodes(system)?;
    let places = Places::read(system, &online);
    let first = found.first().map_or(0, |found| found.node.id);
    let cpus = online.iter().map(|id| {
        let home = found.iter().find(|found| found.cpus.contains(id));
        let numa = home.map_or(first, |found| found.node.id);
        Cpu { id, core: places.core(id), socket: places.socket(id), numa, cache: places.cache(id, numa) }
    });
    let cpus = cpus.collect();
    let mut nodes: Vec<NumaNode> = found.into_iter().map(|found| found.node).collect();
    if nodes.is_empty() {
        nodes.push(NumaNode::default());
    }
    Ok(MachineTopology { cpus, nodes })
}

/// A node and its CPUs, online or not.
struct Found {
    node: NumaNode,
    cpus: CpuSet,
}

/// Online nodes in order of their numbers; none where the kernel knows no NUMA.
fn numa_nodes(system: &Path) -> io::Result<Vec<Found>> {
    let dir = system.join("node");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_prefix("node")?.parse::<u32>().ok()) else {
            continue;
        };
        if id >= NumaMask::NODES {
            let problem = format!("NUMA node {id}: only nodes below {} can be told apart", NumaMask::NODES);
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        found.insert(id, numa_node(id, &entry.path()));
    }
    Ok(found.into_values().collect())
}

fn numa_node(id: u32, dir: &Path) -> Found {
    let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let distances = text("distance").split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>();
    let node = NumaNode {
        id,
        memory: memory_total(&text("meminfo")),
        huge_pages: pages(&dir.join("hugepages")),
        distances: distances.unwrap_or_default(),
    };
    Found { node, cpus: read_as(&dir.join("cpulist")).unwrap_or_default() }
}

/// Huge pages by their size in bytes.
fn pages(dir: &Path) -> BTreeMap<u64, u64> {
    huge_pages(dir).into_iter().map(|pages| (pages.page_bytes, pages.count)).collect()
}

/// Bytes from lines such as `Node 0 MemTotal:  32894520 kB`; 0 when there is none.
fn memory_total(meminfo: &str) -> u64 {
    let kib = meminfo.lines().find_map(|line| {
        let (_, rest) = line.split_once("MemTotal:")?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kib.unwrap_or(0).saturating_mul(1024)
}

/// What the kernel tells of each CPU.
struct Places<'a> {
    online: &'a CpuSet,
    cpus: BTreeMap<u32, Place>,
}

#[derive(Default)]
struct Place {
    socket: Option<u32>,
    core: Option<u32>,
    /// Threads of its core.
    siblings: CpuSet,
    /// CPUs that share its last-level cache; empty when it has none that is shared or the kernel does not tell.
    cache: CpuSet,
}

impl<'a> Places<'a> {
    fn read(system: &Path, online: &'a CpuSet) -> Self {
        let cpus = online.iter().map(|id| (id, Place::read(&system.join(format!("cpu/cpu{id}")))));
        Self { online, cpus: cpus.collect() }
    }

    /// The lowest online CPU of a set, which names it.
    fn lowest(&self, cpus: &CpuSet) -> Option<u32> {
        cpus.iter().find(|cpu| self.online.contains(*cpu))
    }

    fn get(&self, id: u32) -> &Place {
        static UNKNOWN: std::sync::LazyLock<Place> = std::sync::LazyLock::new(Place::default);
        self.cpus.get(&id).unwrap_or(&UNKNOWN)
    }

    /// Virtual machines of some architectures say -1: one socket.
    fn socket(&self, id: u32) -> u32 {
        self.get(id).socket.unwrap_or(0)
    }

    /// The core, named by its lowest thread.
    fn core(&self, id: u32) -> u32 {
        let place = self.get(id);
        if place.siblings.contains(id) {
            return self.lowest(&place.siblings).unwrap_or(id);
        }
        // Without lists: whatever has the same number in the same socket.
        let same =
            |other: &Place| other.core.is_some() && (other.core, other.socket) == (place.core, place.socket);
        self.cpus.iter().find(|(_, other)| same(other)).map_or(id, |(first, _)| *first)
    }

    /// The last-level cache, named by its lowest CPU. Where no CPU has one that is known, the node stands for it.
    fn cache(&self, id: u32, numa: u32) -> u32 {
        if self.cpus.values().all(|place| place.cache.is_empty()) {
            return numa;
        }
        let own = self.get(id);
        if own.cache.contains(id) {
            return self.lowest(&own.cache).unwrap_or(id);
        }
        // Some have one and this has not, as small cores of some machines: those of its kind are together.
        let first = self.cpus.iter().find(|(_, place)| place.cache.is_empty() && place.socket == own.socket);
        first.map_or(id, |(first, _)| *first)
    }
}

impl Place {
    fn read(dir: &Path) -> Self {
        let topology = dir.join("topology");
        let siblings = ["core_cpus_list", "thread_siblings_list"];
        Self {
            socket: read_as(&topology.join("physical_package_id")).ok(),
            core: read_as(&topology.join("core_id")).ok(),
            siblings: siblings.iter().find_map(|name| read_as(&topology.join(name)).ok()).unwrap_or_default(),
            cache: last_cache(&dir.join("cache")).unwrap_or_default(),
        }
    }
}

/// CPUs of the highest cache that is shared among cores.
fn last_cache(dir: &Path) -> Option<CpuSet> {
    let indexes: BTreeSet<PathBuf> = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    let levels = indexes.into_iter().filter_map(|index| {
        let level: u32 = read_as(&index.join("level")).ok()?;
        let cpus: CpuSet = read_as(&index.join("shared_cpu_list")).ok()?;
        (level >= SHARED_CACHE).then_some((level, cpus))
    });
    levels.max_by_key(|(level, _)| *level).map(|(_, cpus)| cpus)
}

/// A file of one value.
fn read_as<T: FromStr>(path: &Path) -> io::Result<T> {
    let text = fs::read_to_string(path)?;
    let bad = || {
        let problem = format!("{}: {:?} was not expected", path.display(), text.trim());
        io::Error::new(io::ErrorKind::InvalidData, problem)
    };
    text.trim().parse().map_err(|_| bad())
}
