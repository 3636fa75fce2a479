//! Where a container or pod goes on the machine, once every provider of resources has said what it could do.
//!
//! Owns the policies and the merging of hints (upstream `topologymanager`). It never reads a machine and never assigns
//! anything: the shell gathers hints, asks here, and has the providers allocate near the answer.

mod merge;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::topology::{Hint, MachineTopology, NumaMask, ProviderHints, Unallocatable};
use merge::Merging;

/// Most NUMA nodes that are supported unless an option says otherwise.
const MOST_NODES: u32 = 8;

/// `topologyManagerPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopologyPolicy {
    /// Nobody is asked; each provider does as it likes.
    #[default]
    None,
    /// The best place there is, whatever it is.
    BestEffort,
    /// Only as few nodes as the request needs.
    Restricted,
    /// Only one node.
    SingleNumaNode,
}

/// `topologyManagerScope`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopologyScope {
    /// Each container for itself.
    #[default]
    Container,
    /// All containers of a pod in one place.
    Pod,
}

impl TopologyScope {
    /// The configuration's word, and that of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Pod => "pod",
        }
    }
}

/// Why there is no topology manager of this kind on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyManagerError {
    /// Neither policy nor scope has this name.
    #[error("{field}: unknown value {value:?}")]
    Unknown {
        /// The field.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// An option that does not exist, or a value it cannot have.
    #[error("topologyManagerPolicyOptions[{name}]: bad value {value:?}")]
    Option {
        /// The option.
        name: String,
        /// What it says.
        value: String,
    },
    /// The machine has more NUMA nodes than hints are worked out for.
    #[error(
        "topologyManagerPolicy: unsupported on machines with more than {most} NUMA nodes, this one has {has}"
    )]
    TooManyNodes {
        /// How many there may be.
        most: u32,
        /// How many there are.
        has: usize,
    },
}

/// What came of merging hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Where to allocate.
    pub hint: Hint,
    /// Whether the policy allows it.
    pub admit: bool,
}

/// The policy at work on one machine.
#[derive(Clone, Debug, Default)]
pub struct TopologyManager {
    policy: TopologyPolicy,
    scope: TopologyScope,
    nodes: NumaMask,
    /// Distances between nodes; empty unless `prefer-closest-numa-nodes` is on.
    distances: BTreeMap<(u32, u32), u64>,
}

impl TopologyManager {
    /// From the words of the configuration.
    ///
    /// # Errors
    /// Words that mean nothing, or a machine with too many NUMA nodes. With policy `none` neither is looked at, as
    /// upstream.
    pub fn new(
        policy: &str,
        scope: &str,
        options: &BTreeMap<String, String>,
        machine: &MachineTopology,
    ) -> Result<Self, TopologyManagerError> {
        let unknown = |field, value: &str| TopologyManagerError::Unknown { field, value: value.to_owned() };
        let policy = match policy {
            "none" | "" => return Ok(Self { nodes: machine.all_nodes(), ..Self::default() }),
            "best-effort" => TopologyPolicy::BestEffort,
            "restricted" => TopologyPolicy::Restricted,
            "single-numa-node" => TopologyPolicy::SingleNumaNode,
            other => return Err(unknown("topologyManagerPolicy", other)),
        };
        let scope = match scope {
            "container" | "" => TopologyScope::Container,
            "pod" => TopologyScope::Pod,
            other => return Err(unknown("topologyManagerScope", other)),
        };
        let (mut closest, mut most) = (false, MOST_NODES);
        for (name, value) in options {
            let bad = || TopologyManagerError::Option { name: name.clone(), value: value.clone() };
            match name.as_str() {
                "prefer-closest-numa-nodes" => closest = go_bool(value).ok_or_else(bad)?,
                "max-allowable-numa-nodes" => {
                    most = value.parse().ok().filter(|most| *most >= MOST_NODES).ok_or_else(bad)?;
                }
                _ => return Err(bad()),
            }
        }
        if u32::try_from(machine.nodes.len()).map_or(true, |has| has > most) {
            return Err(TopologyManagerError::TooManyNodes { most, has: machine.nodes.len() });
        }
        let mut distances = BTreeMap::new();
        for node in machine.nodes.iter().filter(|_| closest) {
            for (other, distance) in machine.nodes.iter().zip(&node.distances) {
                distances.insert((node.id, other.id), u64::from(*distance));
            }
        }
        Ok(Self { policy, scope, nodes: machine.all_nodes(), distances })
    }

    /// NUMA nodes of the machine.
    pub fn nodes(&self) -> NumaMask {
        self.nodes
    }

    /// The policy.
    pub fn policy(&self) -> TopologyPolicy {
        self.policy
    }

    /// Whether containers are placed one by one or with their pod. Without a policy it means nothing.
    pub fn scope(&self) -> TopologyScope {
        self.scope
    }

    /// Whether what is admitted is on one NUMA node for certain (upstream `IsAlignmentGuaranteed`).
    pub fn guarantees_alignment(&self) -> bool {
        self.policy == TopologyPolicy::SingleNumaNode
    }

    /// The best place for one request, from what each provider says of it.
    pub fn merge(&self, providers: &[ProviderHints]) -> Merged {
        if self.policy == TopologyPolicy::None {
            return Merged { hint: Hint { nodes: None, preferred: false }, admit: true };
        }
        let mut lists = merge::lists(providers);
        if self.policy == TopologyPolicy::SingleNumaNode {
            for list in &mut lists {
                list.retain(|hint| hint.preferred && hint.nodes.is_none_or(|nodes| nodes.count() == 1));
            }
        }
        // On one node distances mean nothing.
        let closest = !self.distances.is_empty() && self.policy != TopologyPolicy::SingleNumaNode;
        let merging = Merging { nodes: self.nodes, distances: closest.then_some(&self.distances) };
        let mut hint = merging.best(&lists);
        if self.policy == TopologyPolicy::SingleNumaNode && hint.nodes == Some(self.nodes) {
            hint.nodes = None;
        }
        Merged { hint, admit: self.policy == TopologyPolicy::BestEffort || hint.preferred }
    }

    /// The rejection of a pod whose best place the policy does not allow.
    pub fn rejection() -> Unallocatable {
        Unallocatable {
            reason: "TopologyAffinityError",
            message: "Resources cannot be allocated with Topology locality".to_owned(),
        }
    }
}

/// A boolean as Go's `strconv.ParseBool` reads it.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
