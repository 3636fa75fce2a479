//! What the CPU manager tells the topology manager: from which NUMA nodes a request could be served.
//!
//! Owns upstream's `generateCPUTopologyHints`; assigns nothing.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::CpuManager;
use super::layout::Level;
use super::requests::{exclusive_cpus, pod_exclusive_cpus};
use super::take::fewest;
use crate::containers::{regular_containers, spec_of};
use crate::cpu_set::CpuSet;
use crate::ids::PodUid;
use crate::topology::{Hint, NumaMask, ProviderHints};

/// With more nodes only single ones, pairs and all together are named: their sets would be too many.
const EVERY_SET_OF: u32 = 16;

impl CpuManager {
    /// Hints for one container.
    pub(super) fn container_hints(&self, pod: &Pod, container: &Container) -> ProviderHints {
        let wanted = exclusive_cpus(pod, container);
        if self.options().is_none() || wanted == 0 {
            return ProviderHints::new();
        }
        let uid = uid_of(pod);
        let hints = match self.exclusive(&uid, &container.name) {
            Some(own) if own.len() != wanted => Vec::new(),
            Some(own) => self.hints_among(own, &CpuSet::new(), wanted),
            None => self.hints_among(&self.free(), &self.reusable(pod), wanted),
        };
        named(hints)
    }

    /// Hints for all containers of a pod together.
    pub(super) fn hints_of_pod(&self, pod: &Pod) -> ProviderHints {
        let wanted = pod_exclusive_cpus(pod);
        if self.options().is_none() || wanted == 0 {
            return ProviderHints::new();
        }
        let uid = uid_of(pod);
        let mut own = CpuSet::new();
        for container in regular_containers(spec_of(pod)) {
            let Some(cpus) = self.exclusive(&uid, &container.name) else { continue };
            if cpus.len() != exclusive_cpus(pod, container) {
                return named(Vec::new());
            }
            own = own.union(cpus);
        }
        if own.len() == wanted {
            return named(self.hints_among(&own, &CpuSet::new(), wanted));
        }
        named(self.hints_among(&self.free(), &own, wanted))
    }

    /// Every set of nodes that has enough. Those that `held` is on must be among them. Preferred are the sets of as
    /// few nodes as the request needs on an empty machine.
    fn hints_among(&self, free: &CpuSet, held: &CpuSet, wanted: usize) -> Vec<Hint> {
        let nodes = self.layout.nodes();
        let sizes = nodes.iter().map(|node| self.layout.size(Level::Node, node)).collect();
        let fewest = fewest(sizes, wanted).min(nodes.iter().count());
        let held_on = self.layout.nodes_of(held);
        let available = self.layout.parts(Level::Node, &self.layout.known(&free.union(held)));
        let mut hints: Vec<Hint> = sets_of(nodes)
            .into_iter()
            .filter(|mask| held_on.is_subset(*mask))
            .filter(|mask| {
                let within = available.iter().filter(|node| mask.contains(node.id));
                within.map(|node| node.cpus.len()).sum::<usize>() >= wanted
            })
            .map(|mask| Hint { nodes: Some(mask), preferred: self.is_preferred(mask, fewest) })
            .collect();
        hints.sort_by_key(|hint| hint.nodes.map(|mask| (mask.count(), mask.bits())));
        hints
    }

    fn is_preferred(&self, mask: NumaMask, fewest: usize) -> bool {
        let by_socket = self.options().is_some_and(|options| options.align_by_socket);
        let nodes_per_socket = self.layout.nodes().iter().count().checked_div(self.layout.machine.sockets());
        if let Some(per_socket @ 1..) = nodes_per_socket.filter(|_| by_socket)
            && self.layout.sockets_of(mask).len() == fewest.div_ceil(per_socket)
        {
            return true;
        }
        usize::try_from(mask.count()) == Ok(fewest)
    }
}

fn uid_of(pod: &Pod) -> PodUid {
    PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default())
}

fn named(hints: Vec<Hint>) -> ProviderHints {
    ProviderHints::from([("cpu".to_owned(), Some(hints))])
}

fn sets_of(nodes: NumaMask) -> Vec<NumaMask> {
    if nodes.count() <= EVERY_SET_OF {
        return nodes.subsets().collect();
    }
    let mut sets = vec![nodes];
    for one in nodes.iter() {
        sets.extend(
            nodes.iter().filter(|other| *other >= one).map(|other| NumaMask::from_iter([one, other])),
        );
    }
    sets
}
