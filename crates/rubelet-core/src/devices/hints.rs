//! Where requests for devices could be served from (upstream `devicemanager/topology_hints.go`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{DeviceBook, Resource};
use crate::ids::pod_uid;
use crate::topology::{Hint, NumaMask, ProviderHints};

/// With devices on more NUMA nodes than this no hints are made: there are as many sets of nodes as bits of a number with
/// so many.
const MOST_NODES: u32 = 12;

impl DeviceBook {
    /// Where what one container asks for could come from.
    pub fn hints(&self, pod: &Pod, container: &Container) -> ProviderHints {
        let uid = pod_uid(pod);
        let hints = |(resource, size): (String, usize)| {
            let Some(known) = self.resources.get(&resource).filter(|known| self.is_alignable(known)) else {
                return (resource, None);
            };
            let had = self.of_container(&uid, &container.name).find(|(name, _)| **name == resource);
            let had = had.map(|(_, allocation)| allocation.id_set()).filter(|had| had.len() == size);
            let healthy: BTreeSet<&str> = known.healthy().collect();
            if let Some(had) = had.filter(|had| had.is_subset(&healthy)) {
                let list = self.sets_of_nodes(known, &had, &BTreeSet::new(), size);
                return (resource, Some(list));
            }
            let reusable = self.reusable(pod, container, &resource);
            let reusable: BTreeSet<&str> =
                reusable.iter().map(String::as_str).filter(|id| healthy.contains(id)).collect();
            let used = self.in_use(&resource, (&uid, &container.name));
            let available: BTreeSet<&str> = healthy.difference(&used).copied().collect();
            let list = self.sets_of_nodes(known, &available, &reusable, size);
            (resource, Some(list))
        };
        self.wishes(pod, container).into_iter().map(hints).collect()
    }

    /// Where what the whole pod asks for could come from.
    pub fn pod_hints(&self, pod: &Pod) -> ProviderHints {
        let uid = pod_uid(pod);
        let hints = |(resource, size): (String, usize)| {
            let Some(known) = self.resources.get(&resource).filter(|known| self.is_alignable(known)) else {
                return (resource, None);
            };
            let containers = self.pods.get(&uid).into_iter().flatten();
            let had = containers.filter_map(|(_, resources)| resources.get(&resource));
            let had: BTreeSet<&str> = had.flat_map(super::Allocation::ids).collect();
            let healthy: BTreeSet<&str> = known.healthy().collect();
            let available = if had.len() == size && had.is_subset(&healthy) {
                had
            } else {
                // What the pod has it would give back; no container is called like this.
                let used = self.in_use(&resource, (&uid, ""));
                healthy.into_iter().filter(|id| had.contains(id) || !used.contains(id)).collect()
            };
            let list = self.sets_of_nodes(known, &available, &BTreeSet::new(), size);
            (resource, Some(list))
        };
        self.pod_wishes(pod).into_iter().map(hints).collect()
    }

    fn is_alignable(&self, known: &Resource) -> bool {
        known.is_here() && known.is_aligned() && self.nodes_with(known).count() <= MOST_NODES
    }

    /// Nodes that have devices of it.
    fn nodes_with(&self, known: &Resource) -> NumaMask {
        known.devices.values().fold(NumaMask::default(), |all, device| all.or(device.nodes))
    }

    /// Every set of nodes that has enough of `available` and all of `reusable`; preferred are those as small as the
    /// request could ever need. None where there are too few.
    fn sets_of_nodes(
        &self,
        known: &Resource,
        available: &BTreeSet<&str>,
        reusable: &BTreeSet<&str>,
        size: usize,
    ) -> Vec<Hint> {
        if available.len() + reusable.difference(available).count() < size {
            return Vec::new();
        }
        let nodes = self.nodes_with(known);
        let at = |id: &&str| known.devices.get(*id).map_or(NumaMask::default(), |device| device.nodes);
        let touches = |set: NumaMask, of: NumaMask| !set.and(of).is_empty();
        let mut sets: Vec<NumaMask> = nodes.subsets().collect();
        sets.sort_by_key(|set| (set.count(), set.bits()));
        let holds = |set: NumaMask| {
            let reused: Vec<NumaMask> = reusable.iter().map(at).filter(|at| !at.is_empty()).collect();
            let fresh = available.difference(reusable).filter(|id| touches(set, at(id))).count();
            reused.iter().all(|at| touches(set, *at)) && reused.len() + fresh >= size
        };
        let could = |set: &&NumaMask| {
            known.devices.values().filter(|device| touches(**set, device.nodes)).count() >= size
        };
        let fewest = sets.iter().find(could).map_or(nodes.count(), |set| set.count());
        let hint = |set: &NumaMask| Hint { nodes: Some(*set), preferred: set.count() == fewest };
        sets.iter().filter(|set| holds(**set)).map(hint).collect()
    }
}
