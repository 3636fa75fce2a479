//! The text of `memory_manager_state`, as upstream writes and reads it, its checksum included.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::machine::{Block, MachineMemory, NodeMemory};
use super::{Entries, MemoryManager};
use crate::ids::PodUid;

/// The name of the static policy in the file.
const POLICY: &str = "Static";

/// The file (upstream `MemoryManagerCheckpointV1`). Fields in this order.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    #[serde(rename = "policyName")]
    policy: String,
    #[serde(rename = "machineState", default)]
    machine: Option<BTreeMap<u32, NodeMemory>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
    /// Of pods with resources as a whole: only written by an upstream kubelet with the gate PodLevelResourceManagers.
    #[serde(rename = "podEntries", default, skip_serializing)]
    pods: Option<BTreeMap<String, PodEntry>>,
    #[serde(default)]
    checksum: u64,
}

#[derive(Serialize, Deserialize)]
struct PodEntry {
    #[serde(rename = "memoryBlocks", default)]
    blocks: Vec<Block>,
}

impl MemoryManager {
    /// The text of the file.
    pub fn state(&self) -> String {
        let entries = self.entries.iter().map(|(uid, of)| (uid.to_string(), of.clone())).collect();
        let policy = if self.is_static() { POLICY } else { "None" }.to_owned();
        let mut file = Checkpoint { policy, machine: Some(self.machine()), entries, pods: None, checksum: 0 };
        file.checksum = checksum(&file).into();
        serde_json::to_string(&file).unwrap_or_default()
    }

    /// Takes over what a file says; the problems it has. What cannot be used is left out, never refused: pods that run
    /// are entered anew as they are found.
    pub fn restore(&mut self, text: &[u8]) -> Vec<String> {
        let Some(machine) = &self.machine else { return vec![] };
        let file: Checkpoint = match serde_json::from_slice(text) {
            Ok(file) => file,
            Err(error) => return vec![format!("it is not readable: {error}")],
        };
        if file.checksum != 0 && file.checksum != u64::from(checksum(&file)) {
            return vec!["its checksum is wrong".to_owned()];
        }
        if file.policy != POLICY {
            // Nothing is assigned under another policy.
            return vec![format!("it is of policy {:?}", file.policy)];
        }
        let mut problems = vec![];
        let mut entries = Entries::new();
        for (uid, containers) in file.entries {
            for (container, blocks) in containers {
                match blocks.iter().find_map(|block| unusable(machine, block)) {
                    Some(problem) => problems.push(format!("container {container} of pod {uid}: {problem}")),
                    None => {
                        let uid = PodUid::from(uid.as_str());
                        entries.entry(uid).or_default().insert(container, blocks);
                    }
                }
            }
        }
        self.entries = entries;
        if file.machine.is_some_and(|told| !same_machine(&told, machine)) {
            problems.push("the machine or what is reserved of it has changed since".to_owned());
        }
        problems
    }
}

/// Why a block cannot be on this machine.
fn unusable(machine: &MachineMemory, block: &Block) -> Option<String> {
    if block.nodes.is_empty() {
        return Some("its memory is on no NUMA node".to_owned());
    }
    block.nodes.iter().find_map(|id| match machine.get(id) {
        None => Some(format!("NUMA node {id} does not exist")),
        Some(node) if !node.memory.contains_key(&block.kind) => {
            Some(format!("NUMA node {id} has no {}", block.kind))
        }
        Some(_) => None,
    })
}

/// Whether two machines have the same memory, whatever is assigned.
fn same_machine(told: &MachineMemory, own: &MachineMemory) -> bool {
    let totals = |machine: &MachineMemory| -> Vec<(u32, String, u64, u64)> {
        let tables = machine.iter().flat_map(|(id, node)| node.memory.iter().map(move |table| (id, table)));
        tables.map(|(id, (kind, table))| (*id, kind.clone(), table.total, table.system_reserved)).collect()
    };
    totals(told) == totals(own)
}

/// FNV-1a of what Go's dump printer makes of the structure (upstream `checksum.New`).
fn checksum(file: &Checkpoint) -> u32 {
    dump(file).bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn dump(file: &Checkpoint) -> String {
    let blocks = |blocks: &[Block]| {
        list(blocks.iter().map(|block| {
            let nodes = list(block.nodes.iter().map(ToString::to_string));
            format!(
                "{{NUMAAffinity:([]int){nodes} Type:(v1.ResourceName){} Size:(uint64){}}}",
                block.kind, block.size
            )
        }))
    };
    let machine = file.machine.as_ref().map_or_else(
        || "<nil>".to_owned(),
        |machine| {
            map(machine.iter().map(|(id, node)| {
                let tables = map(node.memory.iter().map(|(kind, table)| {
                    let text = format!(
                        "<*>{{TotalMemSize:(uint64){} SystemReserved:(uint64){} Allocatable:(uint64){} Reserved:(uint64){} Free:(uint64){}}}",
                        table.total, table.system_reserved, table.allocatable, table.reserved, table.free
                    );
                    (kind.clone(), text)
                }));
                let cells = list(node.cells.iter().map(ToString::to_string));
                let text = format!(
                    "<*>{{NumberOfAssignments:(int){} MemoryMap:(map[v1.ResourceName]*state.MemoryTable){tables} Cells:([]int){cells}}}",
                    node.assignments
                );
                (id.to_string(), text)
            }))
        },
    );
    let entries = map(file.entries.iter().map(|(uid, containers)| {
        (uid.clone(), map(containers.iter().map(|(name, of)| (name.clone(), blocks(of)))))
    }));
    let mut text = format!(
        "(*state.MemoryManagerCheckpoint){{PolicyName:(string){} MachineState:(state.NUMANodeMap){machine} Entries:(state.ContainerMemoryAssignments){entries} ",
        file.policy
    );
    if let Some(pods) = &file.pods {
        let pods = map(pods.iter().map(|(uid, of)| {
            (uid.clone(), format!("{{MemoryBlocks:([]state.Block){}}}", blocks(&of.blocks)))
        }));
        // Writing to a string cannot fail.
        let _ = write!(text, "PodEntries:(state.PodMemoryAssignments){pods} ");
    }
    text.push_str("Checksum:(checksum.Checksum)0}");
    text
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(" "))
}

fn map(items: impl Iterator<Item = (String, String)>) -> String {
    let items: Vec<String> = items.map(|(key, value)| format!("{key}:{value}")).collect();
    format!("map[{}]", items.join(" "))
}
