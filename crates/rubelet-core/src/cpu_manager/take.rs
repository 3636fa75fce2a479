//! Which CPUs of those that are free: packed into as few NUMA nodes, sockets, caches and cores as can be.
//!
//! Owns the choice of upstream's `takeByTopologyNUMAPacked` with one step before it: the NUMA nodes are chosen first,
//! as few as can hold the request, so that what would fit one node is never scattered over the remains of two.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::layout::{Layout, Level, Part};
use crate::cpu_set::CpuSet;
use crate::topology::{Cpu, NumaMask};

/// More sets of nodes than this are not compared one by one.
const COMPARED: usize = 1000;

/// What else matters in a choice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    /// As few last-level caches as can be.
    pub(super) few_caches: bool,
    /// One thread of each core before a second one.
    pub(super) spread_cores: bool,
}

/// So many of these CPUs; `None` when there are fewer.
pub(super) fn packed(layout: &Layout, available: &CpuSet, wanted: usize, wishes: Wishes) -> Option<CpuSet> {
    if wanted == 0 {
        return Some(CpuSet::new());
    }
    let free = layout.known(available);
    if free.len() < wanted {
        return None;
    }
    let mut taker = Taker { layout, free, wanted, taken: CpuSet::new() };
    taker.keep_few_nodes(wishes);
    if wishes.few_caches {
        // Not whole nodes first: a small one that is free as a whole would cost a cache of its own.
        taker.take_by_cache();
    } else {
        for level in layout.outer() {
            taker.take_whole(level);
        }
    }
    if wishes.spread_cores {
        taker.take_spread();
    } else {
        taker.take_cores();
    }
    Some(taker.taken)
}

struct Taker<'a> {
    layout: &'a Layout,
    free: Vec<Cpu>,
    /// How many are still to be taken.
    wanted: usize,
    taken: CpuSet,
}

impl Taker<'_> {
    /// Takes as many of these as are wanted, in their order.
    fn take(&mut self, cpus: &[Cpu]) {
        let cpus = cpus.get(..self.wanted).unwrap_or(cpus);
        for cpu in cpus {
            self.taken.insert(cpu.id);
        }
        self.wanted -= cpus.len();
        self.free.retain(|cpu| !self.taken.contains(cpu.id));
    }

    /// Gives up all nodes but the few that the request goes into.
    fn keep_few_nodes(&mut self, wishes: Wishes) {
        let nodes = self.layout.parts(Level::Node, &self.free);
        let fewest = fewest(nodes.iter().map(|node| node.cpus.len()).collect(), self.wanted);
        if fewest == nodes.len() {
            return;
        }
        let chosen = if combinations(nodes.len(), fewest) <= COMPARED {
            self.best_nodes(&nodes, fewest, wishes)
        } else {
            // Too many to compare: the largest ones, which are as few.
            let mut largest: Vec<&Part> = nodes.iter().collect();
            largest.sort_by_key(|node| (Reverse(node.cpus.len()), node.id));
            Some(largest.iter().take(fewest).map(|node| node.id).collect())
        };
        if let Some(chosen) = chosen {
            self.free.retain(|cpu| chosen.contains(cpu.numa));
        }
    }

    /// The best set of that many nodes: few sockets, few caches where wished, whole cores, a tight fit, sockets that
    /// are in use already, low numbers.
    fn best_nodes(&self, nodes: &[Part], count: usize, wishes: Wishes) -> Option<NumaMask> {
        let all: NumaMask = nodes.iter().map(|node| node.id).collect();
        let sets = combinations_of(&all.iter().collect::<Vec<_>>(), count);
        let fitting = sets.into_iter().filter_map(|set| {
            let mask: NumaMask = set.into_iter().collect();
            let within: Vec<Cpu> = self.free.iter().copied().filter(|cpu| mask.contains(cpu.numa)).collect();
            (within.len() >= self.wanted).then_some((mask, within))
        });
        let judged = fitting.map(|(mask, within)| {
            let sockets: BTreeSet<u32> = within.iter().map(|cpu| cpu.socket).collect();
            let caches = if wishes.few_caches {
                let sizes = self.layout.parts(Level::Cache, &within);
                fewest(sizes.iter().map(|cache| cache.cpus.len()).collect(), self.wanted)
            } else {
                0
            };
            let broken = if wishes.spread_cores { 0 } else { self.broken_cores(&within) };
            let beside = self.free.iter().filter(|cpu| sockets.contains(&cpu.socket)).count();
            ((sockets.len(), caches, broken, within.len(), beside, mask), mask)
        });
        judged.min_by_key(|(key, _)| *key).map(|(_, mask)| mask)
    }

    /// How many of the CPUs that could come in whole cores would not.
    fn broken_cores(&self, within: &[Cpu]) -> usize {
        let threads = self.layout.machine.threads_per_core().max(1);
        let cores = self.layout.parts(Level::Core, within);
        let whole = cores.iter().filter(|core| core.cpus.len() == self.layout.size(Level::Core, core.id));
        let in_whole: usize = whole.map(|core| core.cpus.len()).sum();
        (self.wanted - self.wanted % threads).saturating_sub(in_whole)
    }

    /// Takes parts that are free as a whole, while they are wanted as a whole.
    fn take_whole(&mut self, level: Level) {
        for part in self.layout.ordered(level, &self.free) {
            if part.cpus.len() <= self.wanted && part.cpus.len() == self.layout.size(level, part.id) {
                self.take(&part.cpus);
            }
        }
    }

    /// Fills the largest caches until what remains fits one, then that one: the fewest caches there can be.
    fn take_by_cache(&mut self) {
        while self.wanted > 0 {
            let caches = self.layout.ordered(Level::Cache, &self.free);
            let fits = caches.iter().filter(|cache| cache.cpus.len() >= self.wanted);
            // The sort is stable: among equals the order of use decides.
            if let Some(tightest) =
                fits.min_by_key(|cache| (self.broken_cores(&cache.cpus), cache.cpus.len()))
            {
                let rest = Wishes::default();
                let within = tightest.cpus.iter().map(|cpu| cpu.id).collect();
                let chosen = packed(self.layout, &within, self.wanted, rest).unwrap_or_default();
                self.take(&self.layout.known(&chosen));
                return;
            }
            let Some(largest) = caches.iter().min_by_key(|cache| Reverse(cache.cpus.len())) else { return };
            self.take(&largest.cpus);
        }
    }

    /// Whole cores, then threads of cores that are in use already.
    fn take_cores(&mut self) {
        self.take_whole(Level::Core);
        for core in self.layout.ordered(Level::Core, &self.free) {
            self.take(&core.cpus);
        }
    }

    /// A thread of each core of a socket before a second one.
    fn take_spread(&mut self) {
        for socket in self.layout.ordered(Level::Socket, &self.free) {
            let mut ranked: Vec<(usize, Cpu)> = Vec::with_capacity(socket.cpus.len());
            for core in self.layout.parts(Level::Core, &socket.cpus) {
                ranked.extend(core.cpus.into_iter().enumerate());
            }
            ranked.sort_by_key(|(rank, cpu)| (*rank, cpu.id));
            self.take(&ranked.into_iter().map(|(_, cpu)| cpu).collect::<Vec<_>>());
        }
    }
}

/// How many of parts of these sizes hold so many at the least.
pub(super) fn fewest(mut sizes: Vec<usize>, wanted: usize) -> usize {
    sizes.sort_unstable_by_key(|size| Reverse(*size));
    let mut held = 0;
    let needed = sizes.iter().take_while(|size| {
        let more = held < wanted;
        held += **size;
        more
    });
    needed.count()
}

/// How many sets of so many of so many there are, capped.
fn combinations(of: usize, count: usize) -> usize {
    let count = count.min(of - count.min(of));
    (0..count).fold(1_usize, |product, step| product.saturating_mul(of - step) / (step + 1))
}

/// Every choice of so many of these, in the order of the list.
pub(super) fn combinations_of(items: &[u32], count: usize) -> Vec<Vec<u32>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, first) in items.iter().enumerate() {
        let rest = items.get(at + 1..).unwrap_or_default();
        if rest.len() + 1 < count {
            break;
        }
        for mut others in combinations_of(rest, count - 1) {
            others.insert(0, *first);
            all.push(others);
        }
    }
    all
}
