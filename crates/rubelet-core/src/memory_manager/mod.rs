//! Which NUMA nodes the memory of guaranteed containers comes from (`memoryManagerPolicy: Static`).
//!
//! Owns the book of assigned blocks and the choice of nodes (upstream `memorymanager`). It never reads a machine and never
//! writes a cgroup: the shell gives it the machine, keeps its text on disk and tells the runtime the nodes.

mod machine;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::containers::{init_containers, is_sidecar, spec_of};
use crate::ids::PodUid;
use crate::qos::{QosClass, pod_qos};
use crate::quantity::Amount;
use crate::topology::{Hint, HintProvider, MachineTopology, NumaMask, ProviderHints, Unallocatable};

pub use machine::{Block, MachineMemory, MemoryTable, NodeMemory};

/// Most NUMA nodes of which every set is looked at.
const ALL_SETS_UP_TO: usize = 12;

/// Requested bytes by type.
type Requests = BTreeMap<String, u64>;

/// Blocks of containers, by pod.
type Entries = BTreeMap<PodUid, BTreeMap<String, Vec<Block>>>;

/// Why there is no memory manager of this kind on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryManagerError {
    /// No policy has this name.
    #[error("memoryManagerPolicy: unknown policy: {0:?}")]
    Policy(String),
    /// Nothing is kept for the system.
    #[error("memoryManagerPolicy Static: you should specify the system reserved memory")]
    NothingReserved,
    /// A reservation is for a node that is not there.
    #[error(
        "reservedMemory: the configuration references a NUMA node {0} that does not exist on this machine"
    )]
    NoSuchNode(u32),
    /// The reservations of all nodes are not what the whole node keeps.
    #[error(
        "reservedMemory: the total amount {reserved} of type {kind:?} is not equal to the value {kept} determined by Node Allocatable feature"
    )]
    Sum {
        /// The type.
        kind: String,
        /// Sum of `reservedMemory`, bytes.
        reserved: u64,
        /// What kubeReserved, systemReserved and evictionHard keep, bytes.
        kept: u64,
    },
}

/// The book.
#[derive(Clone, Debug, Default)]
pub struct MemoryManager {
    /// The machine with nothing assigned; `None` when the policy is to do nothing.
    machine: Option<MachineMemory>,
    entries: Entries,
}

impl MemoryManager {
    /// Does nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// From the words of the configuration. `reserved`: what is kept for the system, by node and type; `kept`: what the
    /// whole node keeps of each type.
    ///
    /// # Errors
    /// Reservations that make no sense on this machine.
    pub fn new(
        policy: &str,
        machine: &MachineTopology,
        reserved: &BTreeMap<u32, BTreeMap<String, u64>>,
        kept: &BTreeMap<String, u64>,
    ) -> Result<Self, MemoryManagerError> {
        match policy {
            "None" | "" => return Ok(Self::none()),
            "Static" => {}
            other => return Err(MemoryManagerError::Policy(other.to_owned())),
        }
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for (node, kinds) in reserved {
            if !machine.nodes.iter().any(|known| known.id == *node) {
                return Err(MemoryManagerError::NoSuchNode(*node));
            }
            for (kind, bytes) in kinds {
                let sum = sums.entry(kind).or_default();
                *sum = sum.saturating_add(*bytes);
            }
        }
        if sums.get("memory").is_none_or(|sum| *sum == 0) {
            return Err(MemoryManagerError::NothingReserved);
        }
        let kept: BTreeMap<&str, u64> = kept
            .iter()
            .filter(|(kind, _)| is_memory(kind))
            .map(|(kind, sum)| (kind.as_str(), *sum))
            .collect();
        for kind in sums.keys().chain(kept.keys()) {
            let amount = |list: &BTreeMap<&str, u64>| list.get(kind).copied().unwrap_or_default();
            let (reserved, kept) = (amount(&sums), amount(&kept));
            if reserved != kept {
                return Err(MemoryManagerError::Sum { kind: (*kind).to_owned(), reserved, kept });
            }
        }
        Ok(Self { machine: Some(machine::unassigned(machine, reserved)), entries: Entries::new() })
    }

    /// Whether it does anything at all.
    pub fn is_static(&self) -> bool {
        self.machine.is_some()
    }

    /// Whether memory of this pod is assigned: it is a guaranteed one without resources of its own as a whole.
    pub fn concerns(&self, pod: &Pod) -> bool {
        self.is_static() && pod_qos(pod) == QosClass::Guaranteed && spec_of(pod).resources.is_none()
    }

    /// Pods of which something is assigned.
    pub fn pods(&self) -> impl Iterator<Item = &PodUid> {
        self.entries.keys()
    }

    /// Whether anything of a pod is assigned.
    pub fn has(&self, uid: &PodUid) -> bool {
        self.entries.contains_key(uid)
    }

    /// What is assigned to a container, by type.
    pub fn blocks(&self, uid: &PodUid, container: &str) -> &[Block] {
        let blocks = self.entries.get(uid).and_then(|containers| containers.get(container));
        blocks.map(Vec::as_slice).unwrap_or_default()
    }

    /// The nodes a container's memory comes from; `None` says nothing about them.
    pub fn nodes(&self, uid: &PodUid, container: &str) -> Option<NumaMask> {
        let mask = self.blocks(uid, container).iter().fold(NumaMask::default(), |mask, b| mask.or(b.mask()));
        (!mask.is_empty()).then_some(mask)
    }

    /// What can be assigned on each node, assigned or not.
    pub fn allocatable(&self) -> Vec<Block> {
        let nodes = self.machine.iter().flatten();
        let of_node = |(id, node): (&u32, &NodeMemory)| {
            let id = *id;
            let tables = node.memory.clone().into_iter().filter(|(_, table)| table.allocatable > 0);
            tables.map(move |(kind, table)| Block { nodes: vec![id], kind, size: table.allocatable })
        };
        nodes.flat_map(of_node).collect()
    }

    /// Nodes as they are with everything that is assigned.
    pub fn machine(&self) -> MachineMemory {
        let mut machine = self.machine.clone().unwrap_or_default();
        for block in self.entries.values().flat_map(BTreeMap::values).flatten() {
            machine::assign(&mut machine, block);
        }
        machine
    }

    /// A container that runs, on these nodes, and of which the book has nothing: it is entered as it is.
    pub fn adopt(&mut self, pod: &Pod, container: &Container, nodes: NumaMask) {
        let Some(uid) = uid_of(pod) else { return };
        let known = self.machine.iter().flatten().map(|(node, _)| *node).collect();
        let nodes = nodes.and(known);
        if !self.concerns(pod) || nodes.is_empty() || !self.blocks(&uid, &container.name).is_empty() {
            return;
        }
        self.enter(pod, &uid, container, nodes);
    }

    /// Enters what a container asks for, and gives what it takes over from init containers back.
    fn enter(&mut self, pod: &Pod, uid: &PodUid, container: &Container, mask: NumaMask) {
        let requests = requests(container);
        let pod_entries = self.entries.entry(uid.clone()).or_default();
        for (kind, size) in &requests {
            let mut left = *size;
            for init in reusable(pod, container) {
                let blocks = pod_entries.get_mut(&init.name).map(Vec::as_mut_slice).unwrap_or_default();
                for block in blocks.iter_mut().filter(|block| block.kind == *kind && block.mask() == mask) {
                    let taken = left.min(block.size);
                    block.size -= taken;
                    left -= taken;
                }
            }
        }
        let block = |(kind, size)| Block { nodes: mask.iter().collect(), kind, size };
        pod_entries.insert(container.name.clone(), requests.into_iter().map(block).collect());
    }

    /// What init containers before this one had on exactly these nodes, and leave to it.
    fn reusable(&self, pod: &Pod, container: Option<&Container>, mask: NumaMask, kind: &str) -> u64 {
        let (Some(uid), Some(container)) = (uid_of(pod), container) else { return 0 };
        reusable(pod, container)
            .flat_map(|init| self.blocks(&uid, &init.name))
            .filter(|block| block.kind == kind && block.mask() == mask)
            .fold(0, |sum, block| sum.saturating_add(block.size))
    }

    /// Sets of nodes that have enough left. Those with as few nodes as an empty machine would need are preferred.
    fn places(&self, pod: &Pod, container: Option<&Container>, requests: &Requests) -> Vec<Hint> {
        let machine = self.machine();
        let mut fewest = u32::MAX;
        let mut found = Vec::new();
        for mask in sets_of(machine.keys().copied()) {
            let enough = |figure: fn(&MemoryTable) -> u64, extra: &dyn Fn(&str) -> u64| {
                requests.iter().all(|(kind, size)| {
                    machine::sum(&machine, mask, kind, figure).saturating_add(extra(kind)) >= *size
                })
            };
            if !enough(|table| table.allocatable, &|_| 0) {
                continue;
            }
            fewest = fewest.min(mask.count());
            let reusable = |kind: &str| self.reusable(pod, container, mask, kind);
            if machine::mixes(&machine, mask) && enough(|table| table.free, &reusable) {
                found.push(mask);
            }
        }
        let hint = |nodes: NumaMask| Hint { nodes: Some(nodes), preferred: nodes.count() == fewest };
        found.into_iter().map(hint).collect()
    }

    fn hints_for(&self, pod: &Pod, container: Option<&Container>, requests: Requests) -> ProviderHints {
        let Some(uid) = uid_of(pod).filter(|_| !requests.is_empty()) else { return ProviderHints::new() };
        let present = match container {
            Some(container) => self.nodes(&uid, &container.name),
            None => {
                let containers = self.entries.get(&uid).into_iter().flatten();
                containers.map(|(name, _)| name).find_map(|name| self.nodes(&uid, name))
            }
        };
        // What runs stays where it is.
        let hints = match present {
            Some(nodes) => vec![Hint { nodes: Some(nodes), preferred: true }],
            None => self.places(pod, container, &requests),
        };
        requests.into_keys().map(|kind| (kind, Some(hints.clone()))).collect()
    }

    /// The nodes to take for a request, near what the topology manager said.
    fn choose(
        &self,
        pod: &Pod,
        container: &Container,
        requests: &Requests,
        affinity: &Hint,
    ) -> Result<NumaMask, Unallocatable> {
        let failed = |what: &str| Unallocatable::unexpected(format!("[memorymanager] {what}"));
        let places = self.places(pod, Some(container), requests);
        let best = |places: &mut dyn Iterator<Item = &Hint>| {
            let key = |hint: &&Hint| hint.nodes.map(|nodes| (!hint.preferred, nodes.count(), nodes.bits()));
            places.min_by_key(key).copied()
        };
        let Some(wanted) = affinity.nodes else {
            let found = best(&mut places.iter()).ok_or_else(|| {
                failed(
                    "failed to get the default NUMA affinity, no NUMA nodes with enough memory is available",
                )
            })?;
            if affinity.preferred && !found.preferred {
                return Err(failed("failed to find the default preferred hint"));
            }
            return Ok(found.nodes.unwrap_or_default());
        };
        let machine = self.machine();
        let enough = |(kind, size): (&String, &u64)| {
            let free = machine::sum(&machine, wanted, kind, |table| table.free);
            free.saturating_add(self.reusable(pod, Some(container), wanted, kind)) >= *size
        };
        if requests.iter().all(enough) {
            return match machine::mixes(&machine, wanted) {
                true => Ok(wanted),
                false => Err(failed("preferred hint violates NUMA node allocation")),
            };
        }
        // What others could agree on may be less than what memory needs.
        let wider = |hint: &&Hint| hint.nodes.is_some_and(|nodes| wanted.is_subset(nodes));
        let found = best(&mut places.iter().filter(wider))
            .ok_or_else(|| failed("failed to find NUMA nodes to extend the current topology hint"))?;
        if affinity.preferred && !found.preferred {
            return Err(failed("failed to find the extended preferred hint"));
        }
        Ok(found.nodes.unwrap_or_default())
    }
}

impl HintProvider for MemoryManager {
    fn hints(&self, pod: &Pod, container: &Container) -> ProviderHints {
        match self.concerns(pod) {
            true => self.hints_for(pod, Some(container), requests(container)),
            false => ProviderHints::new(),
        }
    }

    fn pod_hints(&self, pod: &Pod) -> ProviderHints {
        match self.concerns(pod) {
            true => self.hints_for(pod, None, pod_requests(pod)),
            false => ProviderHints::new(),
        }
    }

    fn allocate(&mut self, pod: &Pod, container: &Container, affinity: &Hint) -> Result<(), Unallocatable> {
        let (Some(uid), true) = (uid_of(pod), self.concerns(pod)) else { return Ok(()) };
        let requests = requests(container);
        if requests.is_empty() || !self.blocks(&uid, &container.name).is_empty() {
            return Ok(());
        }
        let nodes = self.choose(pod, container, &requests, affinity)?;
        self.enter(pod, &uid, container, nodes);
        Ok(())
    }

    fn release(&mut self, uid: &PodUid) {
        self.entries.remove(uid);
    }
}

fn uid_of(pod: &Pod) -> Option<PodUid> {
    pod.metadata.uid.as_deref().map(PodUid::from)
}

fn is_memory(kind: &str) -> bool {
    kind == "memory" || kind.starts_with("hugepages-")
}

/// What one container asks for.
fn requests(container: &Container) -> Requests {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let amounts = requests.into_iter().flatten().filter(|(kind, _)| is_memory(kind));
    let bytes = |(kind, quantity): (&String, _)| {
        let bytes = u64::try_from(Amount::of(quantity).ok()?.value()).ok()?;
        (bytes > 0).then(|| (kind.clone(), bytes))
    };
    amounts.filter_map(bytes).collect()
}

/// What all containers of a pod need at any one time: init containers run before the others, sidecars with them.
fn pod_requests(pod: &Pod) -> Requests {
    let spec = spec_of(pod);
    let (mut running, mut peak) = (Requests::new(), Requests::new());
    let add = |sums: &mut Requests, container: &Container| {
        for (kind, size) in requests(container) {
            let sum = sums.entry(kind).or_default();
            *sum = sum.saturating_add(size);
        }
    };
    let raise = |peak: &mut Requests, to: &Requests| {
        for (kind, size) in to {
            let most = peak.entry(kind.clone()).or_default();
            *most = (*most).max(*size);
        }
    };
    for init in init_containers(spec) {
        if is_sidecar(init) {
            add(&mut running, init);
            continue;
        }
        let mut meanwhile = running.clone();
        add(&mut meanwhile, init);
        raise(&mut peak, &meanwhile);
    }
    for container in &spec.containers {
        add(&mut running, container);
    }
    raise(&mut peak, &running);
    peak
}

/// Init containers that have ended for good when this container begins.
fn reusable<'a>(pod: &'a Pod, container: &'a Container) -> impl Iterator<Item = &'a Container> {
    let before = init_containers(spec_of(pod)).iter().take_while(|init| init.name != container.name);
    before.filter(|init| !is_sidecar(init))
}

/// Sets of nodes worth looking at: all of them on any machine with a reasonable number of nodes, else runs of neighbours.
fn sets_of(nodes: impl Iterator<Item = u32>) -> Vec<NumaMask> {
    let nodes: Vec<u32> = nodes.collect();
    if nodes.len() <= ALL_SETS_UP_TO {
        return nodes.into_iter().collect::<NumaMask>().subsets().collect();
    }
    let run = |length: usize| nodes.windows(length).map(|run| run.iter().copied().collect());
    (1..=nodes.len()).flat_map(run).collect()
}
