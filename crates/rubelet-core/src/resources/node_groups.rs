//! The cgroup of all pods and those of what is reserved: what node allocatable means for them.
//!
//! Owns the formulas (upstream `node_container_manager_linux.go`) and the check that no more is reserved than there
//! is. Hard eviction thresholds are no part of it: they are kept free within the limit of all pods.

use std::collections::BTreeMap;

use super::group::GroupSettings;
use super::memory_qos::MIN;
use super::{CgroupDriver, cpu_shares, huge_page_size};
use crate::cpu_set::CpuSet;
use crate::node::capacity::{Reservations, ResourceAmounts};
use crate::quantity::Amount;

/// Name under which process IDs are reserved.
const PIDS: &str = "pid";

/// A group of what is no pod, and how far its reservation is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedGroup {
    /// Whose it is, as events say it: `system` or `kube`.
    pub owner: &'static str,
    /// `systemReservedCgroup` or `kubeReservedCgroup`; it has to be there already.
    pub name: String,
    /// Only CPU weight (`system-reserved-compressible`, `kube-reserved-compressible`).
    pub compressible: bool,
}

impl ReservedGroup {
    /// Its path from the hierarchy's root: with systemd a slice is given by its name alone, and lies in those that its
    /// name begins with.
    pub fn path(&self, driver: CgroupDriver) -> String {
        let name = self.name.trim_matches('/');
        let last = name.rsplit('/').next().unwrap_or_default();
        match last.strip_suffix(".slice").filter(|_| driver == CgroupDriver::Systemd) {
            None => format!("/{name}"),
            Some(slice) => {
                let ends = slice.match_indices('-').map(|(at, _)| at).chain([slice.len()]);
                ends.map(|end| format!("/{}.slice", &slice[..end])).collect()
            }
        }
    }
}

/// What `enforceNodeAllocatable` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enforcement {
    /// `pods`: reservations are taken off the limit of all pods.
    pub pods: bool,
    /// Reserved groups in the order in which they are set.
    pub reserved: Vec<ReservedGroup>,
}

impl Enforcement {
    /// From the configuration's list and the names of the two groups.
    pub fn new(levels: &[String], system_group: &str, kube_group: &str) -> Self {
        let has = |level: &str| levels.iter().any(|found| found == level);
        let mut reserved = vec![];
        for compressible in [false, true] {
            for (owner, name) in [("system", system_group), ("kube", kube_group)] {
                let level = format!("{owner}-reserved{}", if compressible { "-compressible" } else { "" });
                if has(&level) {
                    reserved.push(ReservedGroup { owner, name: name.to_owned(), compressible });
                }
            }
        }
        Self { pods: has("pods"), reserved }
    }
}

/// Settings of the cgroup of all pods. `capacity` with process IDs as `pid`; `cpus`: all CPUs of the machine, unless
/// somebody else hands them out.
pub fn all_pods_settings(
    capacity: &ResourceAmounts,
    reservations: &Reservations,
    enforcement: &Enforcement,
    cpus: Option<CpuSet>,
) -> GroupSettings {
    let reserved = [reservations.system(), reservations.kube()];
    let left: ResourceAmounts = capacity
        .iter()
        .map(|(name, amount)| {
            let kept = reserved.iter().filter_map(|list| list.get(name).copied());
            let kept = if enforcement.pods { kept.fold(Amount::ZERO, Amount::plus) } else { Amount::ZERO };
            let left = amount.minus(kept);
            (name.clone(), if left.is_negative() { Amount::ZERO } else { left })
        })
        .collect();
    GroupSettings { cpus, ..settings(&left, false) }
}

/// Settings of a reserved group. `memory_qos`: the gate is on and the hierarchy unified.
pub fn reserved_settings(
    group: &ReservedGroup,
    reservations: &Reservations,
    memory_qos: bool,
) -> GroupSettings {
    let list = if group.owner == "system" { reservations.system() } else { reservations.kube() };
    let mut settings = settings(list, group.compressible);
    if let Some(memory) = settings.memory.filter(|_| memory_qos) {
        settings.unified.insert(MIN.to_owned(), memory.to_string());
    }
    settings
}

fn settings(amounts: &ResourceAmounts, compressible: bool) -> GroupSettings {
    let mut settings = GroupSettings {
        cpu_shares: amounts.get("cpu").map(|cpu| cpu_shares(cpu.milli_value())),
        ..GroupSettings::default()
    };
    if compressible {
        return settings;
    }
    settings.memory = amounts.get("memory").map(|memory| memory.value());
    settings.pids = amounts.get(PIDS).map(|pids| pids.value());
    let pages = amounts.iter().filter_map(|(name, amount)| Some((huge_page_size(name)?, amount.value())));
    settings.huge_pages = Some(pages.collect::<BTreeMap<_, _>>());
    settings
}

/// What is the matter with reservations larger than the node, in upstream's words; `None` when all is well.
pub fn reservation_problem(capacity: &ResourceAmounts, reservations: &Reservations) -> Option<String> {
    let too_much: Vec<String> = reservations
        .of(capacity)
        .into_iter()
        .filter_map(|(name, kept)| {
            let has = *capacity.get(&name)?;
            has.minus(kept).is_negative().then(|| {
                format!(
                    "Resource {name:?} has a reservation of {kept} but capacity of {has}. \
                     Expected capacity >= reservation."
                )
            })
        })
        .collect();
    (!too_much.is_empty()).then(|| format!("invalid Node Allocatable configuration. {}", too_much.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn amounts(pairs: &[(&str, &str)]) -> ResourceAmounts {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), Amount::parse(text).unwrap())).collect()
    }

    fn reservations() -> Reservations {
        Reservations::new(
            &texts(&[("cpu", "250m"), ("memory", "100Mi"), ("pid", "100")]),
            &texts(&[("cpu", "250m"), ("memory", "156Mi"), ("pid", "900"), ("hugepages-2Mi", "2Mi")]),
            0,
            &texts(&[("memory.available", "300Mi")]),
        )
    }

    fn capacity() -> ResourceAmounts {
        amounts(&[
            ("cpu", "2"),
            ("memory", "1Gi"),
            ("pid", "4000"),
            ("hugepages-2Mi", "8Mi"),
            ("pods", "110"),
        ])
    }

    fn levels(list: &[&str]) -> Enforcement {
        let list: Vec<String> = list.iter().map(|level| (*level).to_owned()).collect();
        Enforcement::new(&list, "/sys", "/kube")
    }

    #[test]
    fn pods_get_what_is_not_reserved_and_eviction_thresholds_are_theirs() {
        let found = all_pods_settings(&capacity(), &reservations(), &levels(&["pods"]), Some([0, 1].into()));
        assert_eq!(
            found,
            GroupSettings {
                cpu_shares: Some(1536),
                memory: Some(768 << 20),
                pids: Some(3000),
                cpus: Some([0, 1].into()),
                huge_pages: Some([(2 << 20, 6 << 20)].into()),
                ..Default::default()
            }
        );
        let found = all_pods_settings(&capacity(), &reservations(), &levels(&["none"]), None);
        assert_eq!((found.cpu_shares, found.memory, found.pids), (Some(2048), Some(1 << 30), Some(4000)));
        assert_eq!(found.cpus, None);
    }

    #[test]
    fn reserved_groups_in_order_and_as_far_as_asked() {
        let found = levels(&["kube-reserved", "pods", "system-reserved-compressible"]);
        let kube = ReservedGroup { owner: "kube", name: "/kube".into(), compressible: false };
        let system = ReservedGroup { owner: "system", name: "/sys".into(), compressible: true };
        assert_eq!(found.reserved, [kube.clone(), system.clone()]);
        let settings = reserved_settings(&kube, &reservations(), true);
        assert_eq!(
            (settings.cpu_shares, settings.memory, settings.pids),
            (Some(256), Some(100 << 20), Some(100))
        );
        assert_eq!(settings.unified["memory.min"], (100 << 20).to_string());
        let settings = reserved_settings(&system, &reservations(), true);
        assert_eq!(settings, GroupSettings { cpu_shares: Some(256), ..Default::default() });
    }

    #[test]
    fn slices_are_found_by_their_names() {
        use CgroupDriver::{Cgroupfs, Systemd};
        for (name, driver, path) in [
            ("system.slice", Systemd, "/system.slice"),
            ("/podruntime-x.slice", Systemd, "/podruntime.slice/podruntime-x.slice"),
            ("/a.slice/a-b.slice", Systemd, "/a.slice/a-b.slice"),
            ("/a-b.slice", Cgroupfs, "/a-b.slice"),
            ("system/kubelet", Cgroupfs, "/system/kubelet"),
        ] {
            let group = ReservedGroup { owner: "kube", name: name.into(), compressible: false };
            assert_eq!(group.path(driver), path);
        }
    }

    #[test]
    fn more_reserved_than_there_is_is_told_with_its_numbers() {
        assert_eq!(reservation_problem(&capacity(), &reservations()), None);
        let large =
            Reservations::new(&texts(&[("memory", "900Mi")]), &texts(&[("memory", "1Gi")]), 0, &texts(&[]));
        assert_eq!(
            reservation_problem(&capacity(), &large).unwrap(),
            "invalid Node Allocatable configuration. Resource \"memory\" has a reservation of 1924Mi but capacity of \
             1Gi. Expected capacity >= reservation."
        );
    }
}
