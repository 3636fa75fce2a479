//! A machine prepared for questions of assignment: what is inside what, and how large it is.
//!
//! Owns the order in which parts of a machine are used up; takes nothing itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::cpu_set::CpuSet;
use crate::topology::{Cpu, MachineTopology, NumaMask};

/// A kind of part of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Node,
    Socket,
    Cache,
    Core,
}

impl Level {
    /// The part of this kind that a CPU is in.
    pub(super) fn of(self, cpu: &Cpu) -> u32 {
        match self {
            Self::Node => cpu.numa,
            Self::Socket => cpu.socket,
            Self::Cache => cpu.cache,
            Self::Core => cpu.core,
        }
    }
}

/// A part of the machine and its free CPUs, in order.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) id: u32,
    pub(super) cpus: Vec<Cpu>,
}

/// The machine.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) machine: MachineTopology,
    sizes: BTreeMap<(Level, u32), usize>,
    /// The outer of nodes and sockets first.
    outer: [Level; 2],
}

impl Layout {
    pub(super) fn new(machine: MachineTopology) -> Self {
        let mut sizes = BTreeMap::new();
        for cpu in &machine.cpus {
            for level in [Level::Node, Level::Socket, Level::Cache, Level::Core] {
                *sizes.entry((level, level.of(cpu))).or_default() += 1;
            }
        }
        let count = |wanted| sizes.keys().filter(|(level, _)| *level == wanted).count();
        let nodes_outside = count(Level::Socket) >= count(Level::Node);
        let outer = if nodes_outside { [Level::Node, Level::Socket] } else { [Level::Socket, Level::Node] };
        Self { machine, sizes, outer }
    }

    /// Nodes and sockets, those that hold the others first.
    pub(super) fn outer(&self) -> [Level; 2] {
        self.outer
    }

    /// How many CPUs a part has, free or not.
    pub(super) fn size(&self, level: Level, id: u32) -> usize {
        self.sizes.get(&(level, id)).copied().unwrap_or(0)
    }

    /// Nodes that have CPUs.
    pub(super) fn nodes(&self) -> NumaMask {
        self.sizes.keys().filter(|(level, _)| *level == Level::Node).map(|(_, id)| *id).collect()
    }

    /// These CPUs of the machine.
    pub(super) fn known(&self, cpus: &CpuSet) -> Vec<Cpu> {
        cpus.iter().filter_map(|id| self.machine.cpu(id).copied()).collect()
    }

    /// The nodes these CPUs are on.
    pub(super) fn nodes_of(&self, cpus: &CpuSet) -> NumaMask {
        self.known(cpus).iter().map(|cpu| cpu.numa).collect()
    }

    /// Everything in the sockets of these nodes.
    pub(super) fn cpus_of_sockets(&self, nodes: NumaMask) -> CpuSet {
        let sockets = self.sockets_of(nodes);
        self.machine.cpus.iter().filter(|cpu| sockets.contains(&cpu.socket)).map(|cpu| cpu.id).collect()
    }

    /// The sockets of these nodes.
    pub(super) fn sockets_of(&self, nodes: NumaMask) -> BTreeSet<u32> {
        self.machine.cpus.iter().filter(|cpu| nodes.contains(cpu.numa)).map(|cpu| cpu.socket).collect()
    }

    /// CPUs of cores of which all threads are among these.
    pub(super) fn whole_cores(&self, cpus: &CpuSet) -> CpuSet {
        let parts = self.parts(Level::Core, &self.known(cpus));
        let whole = parts.iter().filter(|core| core.cpus.len() == self.size(Level::Core, core.id));
        whole.flat_map(|core| core.cpus.iter().map(|cpu| cpu.id)).collect()
    }

    /// Parts of a kind with their free CPUs, by their number.
    pub(super) fn parts(&self, level: Level, free: &[Cpu]) -> Vec<Part> {
        let mut parts: BTreeMap<u32, Vec<Cpu>> = BTreeMap::new();
        for cpu in free {
            parts.entry(level.of(cpu)).or_default().push(*cpu);
        }
        parts.into_iter().map(|(id, cpus)| Part { id, cpus }).collect()
    }

    /// Parts of a kind in the order in which they are used up: what has the fewest free CPUs first, by the outermost
    /// part they are in, then by the next one, then by themselves; among equals the lower number (upstream
    /// `sortAvailableCores` and its kin).
    pub(super) fn ordered(&self, level: Level, free: &[Cpu]) -> Vec<Part> {
        let mut counts: BTreeMap<(Level, u32), usize> = BTreeMap::new();
        for cpu in free {
            for kind in self.outer.into_iter().filter(|outer| *outer != level).chain([level]) {
                *counts.entry((kind, kind.of(cpu))).or_default() += 1;
            }
        }
        let rank = |kind: Level, cpu: &Cpu| {
            let id = kind.of(cpu);
            (counts.get(&(kind, id)).copied().unwrap_or(0), id)
        };
        let mut parts = self.parts(level, free);
        parts.sort_by_cached_key(|part| {
            let above = self.outer.into_iter().take_while(|outer| *outer != level).chain([level]);
            above.map(|kind| part.cpus.first().map_or((0, 0), |cpu| rank(kind, cpu))).collect::<Vec<_>>()
        });
        parts
    }
}
