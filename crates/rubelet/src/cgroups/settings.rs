//! What the groups are computed from: the configuration and the machine, in the form in which core takes them.

use rubelet_config::{FeatureGates, Gate, KubeletConfiguration};
use rubelet_core::cpu_set::CpuSet;
use rubelet_core::node::capacity::{Reservations, ResourceAmounts};
use rubelet_core::quantity::{Amount, Format};
use rubelet_core::resources::{CgroupRoot, Enforcement, MemoryQos, QosFacts, ResourceFacts};
use rubelet_linux::cgroup::CgroupTree;
use tracing::warn;

/// Settings of [`super::Cgroups`].
#[derive(Clone, Debug)]
pub struct CgroupSettings {
    /// Where the tree hangs; the runtime's driver wins over the one named here.
    pub root: CgroupRoot,
    /// Node name, for events.
    pub node_name: String,
    /// What pods' groups are computed from.
    pub facts: ResourceFacts,
    /// What the node has, process IDs as `pid`.
    pub capacity: ResourceAmounts,
    /// What is kept of it.
    pub reservations: Reservations,
    /// `enforceNodeAllocatable`.
    pub enforcement: Enforcement,
    /// What the classes' groups are computed from.
    pub qos: QosFacts,
    /// All CPUs of the machine; `None` while the CPU manager hands them out.
    pub all_cpus: Option<CpuSet>,
}

impl CgroupSettings {
    /// From the configuration and what was found out of the node; `facts` as [`complete_facts`] left them.
    pub fn new(
        config: &KubeletConfiguration,
        (root, node_name): (CgroupRoot, String),
        facts: ResourceFacts,
        (mut capacity, reservations): (ResourceAmounts, Reservations),
        tree: &CgroupTree,
    ) -> Self {
        if let Some(pids) = rubelet_linux::node_facts::pids_left().map(|pids| pids.capacity) {
            capacity.insert("pid".to_owned(), Amount::units(pids, Format::DecimalSi));
        }
        let enforcement = Enforcement::new(
            &config.enforce_node_allocatable,
            &config.system_reserved_cgroup,
            &config.kube_reserved_cgroup,
        );
        let kept = [reservations.system(), reservations.kube()];
        let kept =
            kept.iter().filter_map(|list| list.get("memory")).map(|memory| memory.value()).sum::<i64>();
        let memory = capacity.get("memory").map_or(0, |memory| memory.value());
        let percent = config.qos_reserved.get("memory").filter(|_| gate(config, Gate::QOSReserved));
        let qos = QosFacts {
            huge_page_sizes: tree.page_sizes().iter().filter_map(|size| page_bytes(size)).collect(),
            pods_memory: memory.saturating_sub(kept).max(0),
            reserved_memory_percent: percent.and_then(|text| text.strip_suffix('%')?.parse().ok()),
            memory_qos: facts.memory_qos.as_ref().map(|qos| qos.tiered),
        };
        // The static policy hands out CPUs below; the group of all pods keeps what it has from above it.
        let all_cpus = if config.cpu_manager_policy == "static" { None } else { tree.cpus("/") };
        Self { root, node_name, facts, capacity, reservations, enforcement, qos, all_cpus }
    }
}

/// Adds to the facts what only the tree tells: whether swap and huge pages can be limited, and what follows from the
/// generation. `allocatable_memory` and `swap` in bytes.
pub fn complete_facts(
    facts: &mut ResourceFacts,
    config: &KubeletConfiguration,
    tree: &CgroupTree,
    (allocatable_memory, swap): (i64, u64),
) {
    for missing in tree.missing() {
        warn!("this machine has no cgroup controller {missing}: what it would limit is not limited");
    }
    facts.pod_pids_limit = config.pod_pids_limit;
    facts.swap_controller = tree.limits_swap();
    facts.limited_swap = config.memory_swap.swap_behavior == "LimitedSwap";
    facts.swap_capacity = i64::try_from(swap).unwrap_or(i64::MAX);
    if tree.has("hugetlb") {
        facts.huge_page_sizes = tree.page_sizes().to_vec();
    }
    if gate(config, Gate::MemoryQoS) {
        if tree.is_unified() {
            facts.memory_qos = Some(MemoryQos {
                throttling_factor: config.memory_throttling_factor.unwrap_or(0.9),
                tiered: config.memory_reservation_policy == "TieredReservation",
                allocatable: allocatable_memory,
                page_size: i64::try_from(rustix::param::page_size()).unwrap_or(4096),
            });
        } else {
            warn!("the feature gate MemoryQoS has no effect on cgroup v1");
        }
    }
}

fn gate(config: &KubeletConfiguration, gate: Gate) -> bool {
    FeatureGates::from_settings(&config.feature_gates).0.enabled(gate)
}

/// Bytes of a page size as the kernel writes it (`2MB`).
fn page_bytes(size: &str) -> Option<i64> {
    let units = [("KB", 10), ("MB", 20), ("GB", 30), ("TB", 40)];
    let (unit, shift) = units.into_iter().find(|(unit, _)| size.ends_with(unit))?;
    size.strip_suffix(unit)?.parse::<i64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_read_back() {
        for (text, bytes) in
            [("2MB", Some(2 << 20)), ("1GB", Some(1 << 30)), ("64KB", Some(65536)), ("x", None)]
        {
            assert_eq!(page_bytes(text), bytes, "{text}");
        }
    }
}
