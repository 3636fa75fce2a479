//! The books of CPUs and memory as the configuration and the machine want them.

use std::collections::BTreeMap;

use rubelet_config::{FeatureGates, Gate, KubeletConfiguration};
use rubelet_core::cpu_manager::{CpuManager, CpuPolicy, ReservedCpus, StaticOptions};
use rubelet_core::memory_manager::MemoryManager;
use rubelet_core::node::capacity::ResourceAmounts;
use rubelet_core::quantity::Amount;
use rubelet_core::topology::{MachineTopology, NumaNode};
use rubelet_core::topology_manager::TopologyManager;

use crate::logging::chain;

/// Who decides over what.
#[derive(Clone, Debug)]
pub struct Books {
    /// CPUs.
    pub cpus: CpuManager,
    /// Memory.
    pub memory: MemoryManager,
    /// Where they meet.
    pub topology: TopologyManager,
    /// Containers with CPUs of their own have no quota (gate DisableCPUQuotaWithExclusiveCPUs).
    pub no_quota: bool,
}

impl Books {
    /// Books that assign nothing.
    pub fn none() -> Self {
        Self {
            cpus: CpuManager::none(MachineTopology::default()),
            memory: MemoryManager::none(),
            topology: TopologyManager::default(),
            no_quota: true,
        }
    }

    /// From the configuration. `kept` is what the node keeps from pods of each resource.
    ///
    /// # Errors
    /// What cannot be on this machine, in words.
    pub fn new(
        config: &KubeletConfiguration,
        machine: MachineTopology,
        kept: &ResourceAmounts,
    ) -> Result<Self, String> {
        let topology = TopologyManager::new(
            &config.topology_manager_policy,
            &config.topology_manager_scope,
            &config.topology_manager_policy_options,
            &machine,
        )
        .map_err(|problem| chain(&problem))?;
        let memory = MemoryManager::new(
            &config.memory_manager_policy,
            &machine,
            &reserved_memory(config),
            &bytes(kept),
        )
        .map_err(|problem| chain(&problem))?;
        let cpus = match config.cpu_manager_policy.as_str() {
            "static" => {
                let options = StaticOptions::parse(&config.cpu_manager_policy_options)
                    .map_err(|problem| format!("cpuManagerPolicyOptions: {}", chain(&problem)))?;
                let explicit = config
                    .reserved_system_cpus
                    .parse()
                    .map_err(|problem| format!("reservedSystemCPUs: {}", chain(&problem)))?;
                // Whole CPUs: what is reserved of one is reserved.
                let count = kept.get("cpu").map_or(0, |cpus| usize::try_from(cpus.value()).unwrap_or(0));
                CpuManager::new(machine, CpuPolicy::Static(options), &ReservedCpus { explicit, count })
                    .map_err(|problem| format!("cpuManagerPolicy static: {}", chain(&problem)))?
            }
            _ => CpuManager::none(machine),
        };
        let gates = FeatureGates::from_settings(&config.feature_gates).0;
        Ok(Self { cpus, memory, topology, no_quota: gates.enabled(Gate::DisableCPUQuotaWithExclusiveCPUs) })
    }
}

/// Whether any of it needs to know the machine.
pub fn needs_topology(config: &KubeletConfiguration) -> bool {
    config.cpu_manager_policy == "static"
        || config.memory_manager_policy == "Static"
        || !matches!(config.topology_manager_policy.as_str(), "none" | "")
}

/// A machine of which only the memory is known: one node.
pub fn plain_machine(memory: u64) -> MachineTopology {
    MachineTopology { cpus: vec![], nodes: vec![NumaNode { memory, ..NumaNode::default() }] }
}

fn reserved_memory(config: &KubeletConfiguration) -> BTreeMap<u32, BTreeMap<String, u64>> {
    let mut reserved: BTreeMap<u32, BTreeMap<String, u64>> = BTreeMap::new();
    for reservation in &config.reserved_memory {
        // A negative number is a node that is not there.
        let node = u32::try_from(reservation.numa_node).unwrap_or(u32::MAX);
        let kinds = reserved.entry(node).or_default();
        for (kind, quantity) in &reservation.limits {
            let amount = Amount::parse(&quantity.0).map_or(0, Amount::value);
            kinds.insert(kind.clone(), u64::try_from(amount).unwrap_or(0));
        }
    }
    reserved
}

fn bytes(amounts: &ResourceAmounts) -> BTreeMap<String, u64> {
    let bytes = |(name, amount): (&String, &Amount)| {
        let bytes = u64::try_from(amount.value()).ok().filter(|bytes| *bytes > 0)?;
        Some((name.clone(), bytes))
    };
    amounts.iter().filter_map(bytes).collect()
}
