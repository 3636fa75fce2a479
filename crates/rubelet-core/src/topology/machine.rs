//! CPUs, cores, sockets, caches and NUMA nodes of a machine, as values.

use std::collections::{BTreeMap, BTreeSet};

use super::NumaMask;
use crate::cpu_set::CpuSet;

/// A logical CPU and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub id: u32,
    /// Its core; unique on the machine, whatever the kernel calls it within its socket.
    pub core: u32,
    /// Its socket.
    pub socket: u32,
    /// Its NUMA node.
    pub numa: u32,
    /// Its last-level cache; unique on the machine. Equal to the NUMA node where the kernel tells none.
    pub cache: u32,
}

/// A NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaNode {
    /// Its number, 0 to 63.
    pub id: u32,
    /// Memory, bytes.
    pub memory: u64,
    /// Huge pages: how many there are, by size in bytes.
    pub huge_pages: BTreeMap<u64, u64>,
    /// Distance to each node, in order of their numbers; empty when unknown.
    pub distances: Vec<u32>,
}

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineTopology {
    /// Online CPUs in order of their numbers.
    pub cpus: Vec<Cpu>,
    /// NUMA nodes in order of their numbers; one at least.
    pub nodes: Vec<NumaNode>,
}

impl MachineTopology {
    /// All online CPUs.
    pub fn all_cpus(&self) -> CpuSet {
        self.cpus.iter().map(|cpu| cpu.id).collect()
    }

    /// All NUMA nodes.
    pub fn all_nodes(&self) -> NumaMask {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// What is known of one CPU.
    pub fn cpu(&self, id: u32) -> Option<&Cpu> {
        let at = self.cpus.binary_search_by_key(&id, |cpu| cpu.id).ok()?;
        self.cpus.get(at)
    }

    /// CPUs of these NUMA nodes.
    pub fn cpus_of(&self, nodes: NumaMask) -> CpuSet {
        self.cpus.iter().filter(|cpu| nodes.contains(cpu.numa)).map(|cpu| cpu.id).collect()
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.cpus.iter().map(|cpu| cpu.core).collect::<BTreeSet<_>>().len()
    }

    /// How many sockets there are.
    pub fn sockets(&self) -> usize {
        self.cpus.iter().map(|cpu| cpu.socket).collect::<BTreeSet<_>>().len()
    }

    /// Threads of a core, of the first one; 0 without CPUs.
    pub fn threads_per_core(&self) -> usize {
        self.cpus.len().checked_div(self.cores()).unwrap_or(0)
    }
}
