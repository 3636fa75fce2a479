//! What the node has and what pods may request of it.
//!
//! Owns capacity, reservations and the subtraction (upstream `CapacityFromMachineInfo`,
//! `GetNodeAllocatableReservation` and the setter `MachineInfo`). Never reads the machine: the shell brings
//! [`CapacityFacts`]. Called by [`super::status`] and by the shell for admission and the downward API.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeStatus;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::pressure::{Signal, Threshold};
use crate::devices::Count;
use crate::quantity::{Amount, Format};

/// Resource amounts by resource name.
pub type ResourceAmounts = BTreeMap<String, Amount>;

/// Pages of one huge page size that the kernel has set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HugePages {
    /// Size of one page in bytes.
    pub page_bytes: u64,
    /// Number of pages.
    pub count: u64,
}

/// What capacity is computed from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapacityFacts {
    /// Online logical CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Huge pages by size, sizes without pages included.
    pub huge_pages: Vec<HugePages>,
    /// Size in bytes of the file system that holds the root directory; `None` when it is unknown, or ephemeral
    /// storage is not accounted.
    pub ephemeral_storage_bytes: Option<u64>,
    /// `maxPods`.
    pub max_pods: i32,
    /// `podsPerCore`; 0 is no such limit.
    pub pods_per_core: i32,
}

/// What is kept from pods: for the system, for Kubernetes daemons, and as the distance to hard eviction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reservations {
    system: ResourceAmounts,
    kube: ResourceAmounts,
    eviction_hard: Vec<Threshold>,
}

impl Reservations {
    /// From the configuration's texts; what is no quantity counts as nothing (validation has refused it).
    ///
    /// `reserved_system_cpus` is the number of CPUs in `reservedSystemCPUs`: any replaces `cpu` of both
    /// reservations. `eviction_hard` is empty when `--experimental-allocatable-ignore-eviction` is set.
    pub fn new(
        kube: &BTreeMap<String, String>,
        system: &BTreeMap<String, String>,
        reserved_system_cpus: u32,
        eviction_hard: &BTreeMap<String, String>,
    ) -> Self {
        let amounts = |texts: &BTreeMap<String, String>| -> ResourceAmounts {
            texts.iter().filter_map(|(name, text)| Some((name.clone(), Amount::parse(text).ok()?))).collect()
        };
        let (mut kube, mut system) = (amounts(kube), amounts(system));
        if reserved_system_cpus > 0 {
            kube.remove("cpu");
            let cpus = Amount::units(i64::from(reserved_system_cpus), Format::DecimalSi);
            system.insert("cpu".to_owned(), cpus);
        }
        Self { system, kube, eviction_hard: Threshold::parse_all(eviction_hard, &BTreeMap::new()) }
    }

    /// What is kept for the system.
    pub fn system(&self) -> &ResourceAmounts {
        &self.system
    }

    /// What is kept for Kubernetes daemons.
    pub fn kube(&self) -> &ResourceAmounts {
        &self.kube
    }

    /// What is kept of each resource in `capacity`; a resource of which nothing is kept is left out.
    pub fn of(&self, capacity: &ResourceAmounts) -> ResourceAmounts {
        capacity
            .iter()
            .filter_map(|(name, amount)| {
                let signal = match name.as_str() {
                    "memory" => Some(Signal::MemoryAvailable),
                    "ephemeral-storage" => Some(Signal::NodeFsAvailable),
                    _ => None,
                };
                let distance =
                    self.eviction_hard.iter().rev().find(|threshold| Some(threshold.signal) == signal);
                let kept = [
                    self.system.get(name).copied(),
                    self.kube.get(name).copied(),
                    distance.map(|threshold| threshold.value.of(amount.value())),
                ]
                .into_iter()
                .flatten()
                .fold(Amount::ZERO, Amount::plus);
                (!kept.is_zero()).then(|| (name.clone(), kept))
            })
            .collect()
    }
}

/// The number of CPUs in a list such as `0-1,4` (`reservedSystemCPUs`); what is no number counts as nothing.
pub fn count_cpus(list: &str) -> u32 {
    let mut cpus = std::collections::BTreeSet::new();
    for item in list.split(',').map(str::trim) {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) {
            // The kernel knows no more than some thousands of CPUs; a wild range must not fill the memory.
            cpus.extend(first..=last.min(first.saturating_add(1 << 16)));
        }
    }
    u32::try_from(cpus.len()).unwrap_or(u32::MAX)
}

/// What the node has.
pub fn capacity(facts: &CapacityFacts) -> ResourceAmounts {
    let binary = |bytes: u64| Amount::units(i64::try_from(bytes).unwrap_or(i64::MAX), Format::BinarySi);
    let pods = if facts.pods_per_core > 0 {
        let by_cores = i64::from(facts.cpus) * i64::from(facts.pods_per_core);
        by_cores.min(i64::from(facts.max_pods))
    } else {
        i64::from(facts.max_pods)
    };
    let mut capacity = ResourceAmounts::from([
        ("cpu".to_owned(), Amount::units(i64::from(facts.cpus), Format::DecimalSi)),
        ("memory".to_owned(), binary(facts.memory_bytes)),
        ("pods".to_owned(), Amount::units(pods, Format::DecimalSi)),
    ]);
    if let Some(bytes) = facts.ephemeral_storage_bytes {
        capacity.insert("ephemeral-storage".to_owned(), binary(bytes));
    }
    for pages in &facts.huge_pages {
        let name = format!("hugepages-{}", binary(pages.page_bytes));
        capacity.insert(name, binary(pages.page_bytes.saturating_mul(pages.count)));
    }
    capacity
}

/// What pods may request: capacity without what is kept, and memory without huge pages; never below zero.
pub fn allocatable(capacity: &ResourceAmounts, reserved: &ResourceAmounts) -> ResourceAmounts {
    let mut allocatable: ResourceAmounts = capacity
        .iter()
        .map(|(name, amount)| {
            let kept = reserved.get(name).copied().unwrap_or(Amount::ZERO);
            (name.clone(), not_negative(amount.minus(kept)))
        })
        .collect();
    let huge = capacity.iter().filter(|(name, _)| is_huge_pages(name)).map(|(_, amount)| *amount);
    if let Some(memory) = allocatable.get_mut("memory") {
        *memory = huge.fold(*memory, |left, pages| not_negative(left.minus(pages)));
    }
    allocatable
}

/// Capacity and allocatable of a node at once, for admission.
pub fn node_allocatable(facts: &CapacityFacts, reservations: &Reservations) -> ResourceAmounts {
    let capacity = capacity(facts);
    allocatable(&capacity, &reservations.of(&capacity))
}

/// Writes capacity and allocatable into a status. Resources of others (extended resources that somebody has
/// added) stay; what equals the present value keeps the present text, so that nothing changes for its looks.
pub(super) fn write(status: &mut NodeStatus, own: &ResourceAmounts, reservations: &Reservations) {
    let capacity = status.capacity.get_or_insert_default();
    for (name, amount) in own {
        set(capacity, name, *amount);
    }
    let all: ResourceAmounts = capacity
        .iter()
        .filter_map(|(name, quantity)| Some((name.clone(), Amount::of(quantity).ok()?)))
        .collect();
    let allocatable_list = status.allocatable.get_or_insert_default();
    allocatable_list.retain(|name, _| all.contains_key(name) || !is_extended(name));
    for (name, amount) in allocatable(&all, &reservations.of(own)) {
        set(allocatable_list, &name, amount);
    }
}

pub(super) fn set(list: &mut BTreeMap<String, Quantity>, name: &str, amount: Amount) {
    if list.get(name).and_then(|present| Amount::of(present).ok()) != Some(amount) {
        list.insert(name.to_owned(), amount.to_quantity());
    }
}

/// Writes what device plugins offer; a resource whose plugin is gone is told as none.
pub(super) fn write_devices(status: &mut NodeStatus, counts: &BTreeMap<String, Count>) {
    for (name, count) in counts {
        let amount = |count| Amount::units(count, Format::DecimalSi);
        set(status.capacity.get_or_insert_default(), name, amount(count.capacity));
        set(status.allocatable.get_or_insert_default(), name, amount(count.allocatable));
    }
}

/// Whether a resource may be one of a device plugin's (upstream `IsExtendedResourceName`).
pub fn is_extended_resource_name(name: &str) -> bool {
    is_extended(name) && crate::validation::names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether a resource is huge pages of some size.
pub(super) fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether a resource is one that Kubernetes does not know itself (upstream `IsExtendedResourceName`).
pub(super) fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

fn not_negative(amount: Amount) -> Amount {
    if amount.is_negative() { Amount::ZERO } else { amount }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GI: u64 = 1 << 30;

    fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn show(amounts: &ResourceAmounts) -> String {
        let parts: Vec<String> = amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
        parts.join(" ")
    }

    fn facts() -> CapacityFacts {
        CapacityFacts {
            cpus: 2,
            memory_bytes: 24_689_904 * 1024,
            ephemeral_storage_bytes: Some(51_097_096 * 1024),
            max_pods: 110,
            ..Default::default()
        }
    }

    #[track_caller]
    fn check(facts: &CapacityFacts, reservations: &Reservations, has: &str, gives: &str) {
        assert_eq!(show(&capacity(facts)), has);
        assert_eq!(show(&node_allocatable(facts, reservations)), gives);
    }

    #[test]
    fn reservations_and_thresholds_are_taken_off() {
        check(
            &facts(),
            &Reservations::default(),
            "cpu=2 ephemeral-storage=51097096Ki memory=24689904Ki pods=110",
            "cpu=2 ephemeral-storage=51097096Ki memory=24689904Ki pods=110",
        );
        // 10 % is a single-precision number upstream, which shows in the last digits.
        check(
            &facts(),
            &Reservations::new(
                &texts(&[("cpu", "100m"), ("memory", "100Mi"), ("ephemeral-storage", "1Gi")]),
                &texts(&[("cpu", "100m"), ("pid", "1000")]),
                0,
                &texts(&[
                    ("memory.available", "100Mi"),
                    ("nodefs.available", "10%"),
                    ("imagefs.available", "15%"),
                ]),
            ),
            "cpu=2 ephemeral-storage=51097096Ki memory=24689904Ki pods=110",
            "cpu=1800m ephemeral-storage=46017341772 memory=24485104Ki pods=110",
        );
    }

    #[test]
    fn reserved_cpus_replace_both_reservations() {
        let reservations = Reservations::new(
            &texts(&[("cpu", "500m")]),
            &texts(&[("cpu", "700m")]),
            count_cpus("0"),
            &texts(&[]),
        );
        assert_eq!(node_allocatable(&facts(), &reservations)["cpu"].to_string(), "1");
        for (list, count) in
            [("", 0), ("0-1,4", 3), ("0-1, 1", 2), ("x", 0), ("3-1", 0), ("0-4294967295", 65537)]
        {
            assert_eq!(count_cpus(list), count, "{list:?}");
        }
    }

    #[test]
    fn huge_pages_are_a_resource_and_no_memory() {
        let mut facts = facts();
        facts.memory_bytes = 8 * GI;
        facts.huge_pages = vec![
            HugePages { page_bytes: 2 << 20, count: 512 },
            HugePages { page_bytes: GI, count: 0 },
            HugePages { page_bytes: 64 << 10, count: 16 },
        ];
        check(
            &facts,
            &Reservations::new(&texts(&[]), &texts(&[("memory", "1Gi")]), 0, &texts(&[])),
            "cpu=2 ephemeral-storage=51097096Ki hugepages-1Gi=0 hugepages-2Mi=1Gi hugepages-64Ki=1Mi memory=8Gi pods=110",
            "cpu=2 ephemeral-storage=51097096Ki hugepages-1Gi=0 hugepages-2Mi=1Gi hugepages-64Ki=1Mi memory=6143Mi pods=110",
        );
    }

    #[test]
    fn pods_follow_the_cores_and_nothing_is_negative() {
        let mut facts = facts();
        facts.pods_per_core = 10;
        assert_eq!(capacity(&facts)["pods"].to_string(), "20");
        facts.pods_per_core = 100;
        assert_eq!(capacity(&facts)["pods"].to_string(), "110");
        let all = Reservations::new(&texts(&[("memory", "1Ti"), ("cpu", "3")]), &texts(&[]), 0, &texts(&[]));
        let left = node_allocatable(&facts, &all);
        assert_eq!((left["memory"].to_string(), left["cpu"].to_string()), ("0".to_owned(), "0".to_owned()));
    }

    #[test]
    fn resources_of_others_stay_and_equal_values_keep_their_text() {
        let quantity = |text: &str| Quantity(text.to_owned());
        let mut status = NodeStatus {
            capacity: Some(
                [("example.com/dongle".into(), quantity("4")), ("cpu".into(), quantity("2000m"))].into(),
            ),
            allocatable: Some([("example.com/gone".into(), quantity("1"))].into()),
            ..Default::default()
        };
        write(&mut status, &capacity(&facts()), &Reservations::default());
        let capacity = status.capacity.unwrap();
        assert_eq!(capacity["example.com/dongle"].0, "4");
        assert_eq!(capacity["cpu"].0, "2000m");
        let allocatable = status.allocatable.unwrap();
        assert_eq!(allocatable["example.com/dongle"].0, "4");
        assert!(!allocatable.contains_key("example.com/gone"));
    }

    proptest! {
        #[test]
        fn allocatable_is_between_zero_and_capacity(memory in 0_u64..1 << 50, kept in 0_i64..1 << 50, pages in 0_u64..1 << 20) {
            let facts = CapacityFacts {
                memory_bytes: memory,
                huge_pages: vec![HugePages { page_bytes: 2 << 20, count: pages }],
                ..facts()
            };
            let reservations = Reservations::new(&texts(&[("memory", &kept.to_string())]), &texts(&[]), 0, &texts(&[]));
            let has = capacity(&facts);
            for (name, amount) in node_allocatable(&facts, &reservations) {
                prop_assert!(!amount.is_negative() && amount <= has[&name]);
            }
        }
    }
}
