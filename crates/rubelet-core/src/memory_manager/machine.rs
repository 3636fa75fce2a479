//! Memory of NUMA nodes, and how much of it is left once blocks of it are assigned.
//!
//! Owns the arithmetic (upstream `state.NUMANodeMap`). What is free is always worked out from the blocks, never kept
//! beside them: the two cannot disagree.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::quantity::{Amount, Format};
use crate::topology::{MachineTopology, NumaMask};

/// Memory of one type on one node, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryTable {
    /// What the node has.
    pub total: u64,
    /// What is kept for the system (`reservedMemory`).
    #[serde(rename = "systemReserved")]
    pub system_reserved: u64,
    /// What can be assigned.
    pub allocatable: u64,
    /// What is assigned.
    pub reserved: u64,
    /// What is not.
    pub free: u64,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMemory {
    /// How many blocks are on it.
    #[serde(rename = "numberOfAssignments")]
    pub assignments: u64,
    /// By type: `memory` and `hugepages-<size>`.
    #[serde(rename = "memoryMap")]
    pub memory: BTreeMap<String, MemoryTable>,
    /// The node and those it is in a group with: blocks that span several nodes do not mix with others.
    pub cells: Vec<u32>,
}

/// All nodes, by number.
pub type MachineMemory = BTreeMap<u32, NodeMemory>;

/// Memory of one type that is assigned to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The nodes it comes from.
    #[serde(rename = "numaAffinity")]
    pub nodes: Vec<u32>,
    /// `memory` or `hugepages-<size>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes.
    pub size: u64,
}

impl Block {
    /// Its nodes as a set.
    pub fn mask(&self) -> NumaMask {
        self.nodes.iter().copied().collect()
    }
}

/// A machine of which nothing is assigned. `reserved`: what is kept for the system, by node and type.
pub(super) fn unassigned(
    machine: &MachineTopology,
    reserved: &BTreeMap<u32, BTreeMap<String, u64>>,
) -> MachineMemory {
    let table = |node: u32, kind: &str, total: u64, elsewhere: u64| {
        let system_reserved =
            reserved.get(&node).and_then(|kinds| kinds.get(kind)).copied().unwrap_or_default();
        let allocatable = total.saturating_sub(system_reserved).saturating_sub(elsewhere);
        MemoryTable { total, system_reserved, allocatable, reserved: 0, free: allocatable }
    };
    let node = |node: &crate::topology::NumaNode| {
        let mut memory = BTreeMap::new();
        let mut huge = 0_u64;
        for (size, count) in &node.huge_pages {
            let total = size.saturating_mul(*count);
            huge = huge.saturating_add(total);
            let kind = huge_pages(*size);
            memory.insert(kind.clone(), table(node.id, &kind, total, 0));
        }
        memory.insert("memory".to_owned(), table(node.id, "memory", node.memory, huge));
        (node.id, NodeMemory { assignments: 0, memory, cells: vec![node.id] })
    };
    machine.nodes.iter().map(node).collect()
}

/// The name of huge pages of a size.
fn huge_pages(bytes: u64) -> String {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    format!("hugepages-{}", Amount::units(bytes, Format::BinarySi))
}

/// Takes a block from its nodes, the first ones first. More than there is takes all there is.
pub(super) fn assign(machine: &mut MachineMemory, block: &Block) {
    let mut left = block.size;
    for id in &block.nodes {
        let Some(node) = machine.get_mut(id) else { continue };
        node.assignments += 1;
        node.cells.clone_from(&block.nodes);
        let Some(table) = node.memory.get_mut(&block.kind) else { continue };
        let taken = left.min(table.free);
        table.free -= taken;
        table.reserved += taken;
        left -= taken;
    }
}

/// The sum over some nodes of one figure of one type.
pub(super) fn sum(
    machine: &MachineMemory,
    mask: NumaMask,
    kind: &str,
    figure: fn(&MemoryTable) -> u64,
) -> u64 {
    let tables = mask.iter().filter_map(|node| machine.get(&node)?.memory.get(kind));
    tables.map(figure).fold(0, u64::saturating_add)
}

/// Whether a block on these nodes goes with those that are there: nodes are used alone or always in the same group.
pub(super) fn mixes(machine: &MachineMemory, mask: NumaMask) -> bool {
    mask.iter().filter_map(|node| machine.get(&node)).filter(|node| node.assignments > 0).all(|node| {
        let group: NumaMask = node.cells.iter().copied().collect();
        group == mask
    })
}
