//! Rules about amounts: reservations, enforcement, eviction, NUMA memory, log sizes.

use std::collections::{BTreeMap, BTreeSet};

use rubelet_core::quantity::Amount;

use crate::configuration::KubeletConfiguration;
use crate::duration::GoDuration;
use crate::gate_table::Gate;
use crate::validate::Checks;
use crate::validate::names;

/// The eviction signals; source: eviction `signalToResource`.
const SIGNALS: &[&str] = &[
    "memory.available",
    "allocatableMemory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "containerfs.available",
    "containerfs.inodesFree",
    "pid.available",
];

pub(super) fn check(checks: &mut Checks<'_>) {
    reservations(checks);
    enforcement(checks);
    cgroups(checks);
    eviction(checks);
    numa_memory(checks);
    static_policies(checks);
    let size = &checks.config.container_log_max_size;
    if let Err(error) = Amount::parse(size) {
        checks.refuse("containerLogMaxSize", size, error.to_string());
    }
}

fn reservations(checks: &mut Checks<'_>) {
    let c = checks.config;
    for (field, map) in [("systemReserved", &c.system_reserved), ("kubeReserved", &c.kube_reserved)] {
        for (name, text) in map {
            let field = format!("{field}[{name}]");
            if !["cpu", "memory", "ephemeral-storage", "pid"].contains(&name.as_str()) {
                let message = "cannot be reserved; only cpu, memory, ephemeral-storage and pid can";
                checks.refuse(&field, text, message);
            }
            match Amount::parse(text) {
                Err(error) => checks.refuse(&field, text, error.to_string()),
                Ok(amount) if amount.is_negative() => {
                    checks.refuse(&field, text, "must not be negative");
                }
                Ok(_) => {}
            }
        }
    }
    for (name, text) in &c.qos_reserved {
        let field = format!("qosReserved[{name}]");
        if name != "memory" {
            checks.refuse(&field, text, "only memory can be reserved by QoS");
        }
        let percent = text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok());
        if !percent.is_some_and(|percent| (0..=100).contains(&percent)) {
            checks.refuse(&field, text, "must be a percentage from 0% to 100%");
        }
        checks.needs_gate(&field, text, Gate::QOSReserved);
    }
}

fn enforcement(checks: &mut Checks<'_>) {
    let c = checks.config;
    let levels = &c.enforce_node_allocatable;
    let field = "enforceNodeAllocatable";
    let has = |level: &str| levels.iter().any(|l| l == level);
    for owner in ["system-reserved", "kube-reserved"] {
        let compressible = format!("{owner}-compressible");
        if has(owner) && has(&compressible) {
            let message = format!("cannot be used together with {compressible}");
            checks.refuse(field, owner, message);
        }
    }
    let mut seen = BTreeSet::new();
    for (index, level) in levels.iter().enumerate() {
        let item = format!("{field}[{index}]");
        if !seen.insert(level) {
            checks.refuse(&item, level, "appears twice");
            continue;
        }
        match level.as_str() {
            "pods" => {}
            "system-reserved" | "system-reserved-compressible" => {
                if c.system_reserved_cgroup.is_empty() {
                    checks.refuse(&item, level, "needs systemReservedCgroup");
                }
            }
            "kube-reserved" | "kube-reserved-compressible" => {
                if c.kube_reserved_cgroup.is_empty() {
                    checks.refuse(&item, level, "needs kubeReservedCgroup");
                }
            }
            "none" => {
                if levels.len() > 1 {
                    checks.refuse(&item, level, "must stand alone");
                }
                continue;
            }
            _ => {
                checks.one_of(
                    &item,
                    level,
                    &[
                        "pods",
                        "system-reserved",
                        "system-reserved-compressible",
                        "kube-reserved",
                        "kube-reserved-compressible",
                        "none",
                    ],
                );
                continue;
            }
        }
        if !c.cgroups_per_qos {
            checks.refuse(&item, level, "needs cgroupsPerQOS");
        }
    }
}

fn cgroups(checks: &mut Checks<'_>) {
    let c = checks.config;
    if !c.system_cgroups.is_empty() && c.cgroup_root.is_empty() {
        checks.refuse("systemCgroups", &c.system_cgroups, "needs cgroupRoot");
    }
    if c.reserved_system_cpus.is_empty() {
        return;
    }
    let field = "reservedSystemCPUs";
    if !c.system_reserved_cgroup.is_empty() || !c.kube_reserved_cgroup.is_empty() {
        let message = "cannot be used together with systemReservedCgroup or kubeReservedCgroup";
        checks.refuse(field, &c.reserved_system_cpus, message);
    }
    if let Err(why) = names::cpu_set(&c.reserved_system_cpus) {
        checks.refuse(field, &c.reserved_system_cpus, why);
    }
}

fn eviction(checks: &mut Checks<'_>) {
    let c = checks.config;
    for (field, map) in [("evictionHard", &c.eviction_hard), ("evictionSoft", &c.eviction_soft)] {
        for (signal, text) in map {
            let item = format!("{field}[{signal}]");
            known_signal(checks, &item, signal, text);
            match threshold(text) {
                Err(why) => checks.refuse(&item, text, why),
                // 0% and 100% switch a signal off.
                Ok(_) if text == "0%" => {}
                Ok(sign) if sign <= 0 => checks.refuse(&item, text, "must be positive"),
                Ok(_) => {}
            }
        }
    }
    for (signal, text) in &c.eviction_soft {
        if !c.eviction_soft_grace_period.contains_key(signal) && threshold_counts(text) {
            let item = format!("evictionSoft[{signal}]");
            checks.refuse(&item, text, "needs a grace period in evictionSoftGracePeriod");
        }
    }
    for (signal, text) in &c.eviction_soft_grace_period {
        let item = format!("evictionSoftGracePeriod[{signal}]");
        known_signal(checks, &item, signal, text);
        match text.parse::<GoDuration>() {
            Err(error) => checks.refuse(&item, text, format!("not a duration: {error}")),
            Ok(period) if period < GoDuration::ZERO => {
                checks.refuse(&item, text, "must not be negative");
            }
            Ok(_) => {}
        }
    }
    for (signal, text) in &c.eviction_minimum_reclaim {
        let item = format!("evictionMinimumReclaim[{signal}]");
        known_signal(checks, &item, signal, text);
        match threshold(text) {
            Err(why) => checks.refuse(&item, text, why),
            Ok(sign) if sign < 0 || (sign == 0 && text.ends_with('%')) => {
                checks.refuse(&item, text, "must be positive");
            }
            Ok(_) => {}
        }
    }
}

/// Whether a threshold is in force; 0% and 100% switch it off.
fn threshold_counts(text: &str) -> bool {
    text != "0%" && text != "100%"
}

fn known_signal(checks: &mut Checks<'_>, field: &str, signal: &str, text: &str) {
    if !SIGNALS.contains(&signal) {
        let hint = crate::suggest::hint(signal, SIGNALS.iter().copied());
        let message = format!("unknown eviction signal{hint}; known are {}", SIGNALS.join(", "));
        checks.refuse(field, text, message);
    }
}

/// The sign of a threshold, which is a quantity or a percentage.
fn threshold(text: &str) -> Result<i8, String> {
    if let Some(number) = text.strip_suffix('%') {
        return match number.parse::<f64>() {
            Ok(percent) if percent > 100.0 => Err("must not be more than 100%".to_owned()),
            Ok(percent) if percent < 0.0 => Ok(-1),
            Ok(0.0) => Ok(0),
            Ok(percent) if percent.is_finite() => Ok(1),
            _ => Err("not a percentage".to_owned()),
        };
    }
    let amount = Amount::parse(text).map_err(|error| format!("{error}, or a percentage"))?;
    Ok(match (amount.is_negative(), amount.is_zero()) {
        (true, _) => -1,
        (_, true) => 0,
        _ => 1,
    })
}

fn numa_memory(checks: &mut Checks<'_>) {
    let mut seen = BTreeSet::new();
    for (index, reservation) in checks.config.reserved_memory.iter().enumerate() {
        let node = reservation.numa_node;
        for (kind, quantity) in &reservation.limits {
            let field = format!("reservedMemory[{index}].limits[{kind}]");
            if kind != "memory" && !kind.starts_with("hugepages-") {
                let message = "only memory and hugepages-<size> can be reserved per NUMA node";
                checks.refuse(&field, &quantity.0, message);
            }
            if Amount::parse(&quantity.0).is_ok_and(Amount::is_zero) {
                checks.refuse(&field, &quantity.0, "must not be zero");
            }
            if !seen.insert((node, kind)) {
                let message = format!("NUMA node {node} has a reservation of {kind} already");
                checks.refuse(&field, &quantity.0, message);
            }
        }
    }
}

/// Reservations that the static CPU and memory policies need to start.
fn static_policies(checks: &mut Checks<'_>) {
    let c = checks.config;
    if c.cpu_manager_policy == "static" && c.reserved_system_cpus.is_empty() {
        let reserved = |map: &BTreeMap<String, String>| {
            map.get("cpu").and_then(|text| Amount::parse(text).ok()).is_some_and(|a| !a.is_zero())
        };
        if !reserved(&c.kube_reserved) && !reserved(&c.system_reserved) {
            let message =
                "needs a cpu reservation: set reservedSystemCPUs, or cpu in kubeReserved or systemReserved";
            checks.refuse("cpuManagerPolicy", "static", message);
        }
    }
    if c.memory_manager_policy == "Static" {
        memory_sum(checks, c);
    }
}

/// The memory reserved on NUMA nodes must add up to what the node keeps back in all.
fn memory_sum(checks: &mut Checks<'_>, c: &KubeletConfiguration) {
    let hard = c.eviction_hard.get("memory.available").map(String::as_str);
    if hard.is_some_and(|text| text.ends_with('%')) {
        // A percentage depends on the machine; the shell checks it.
        return;
    }
    let kept = [
        c.kube_reserved.get("memory").map(String::as_str),
        c.system_reserved.get("memory").map(String::as_str),
        hard,
    ];
    let sum = |texts: &mut dyn Iterator<Item = &str>| {
        texts.filter_map(|text| Amount::parse(text).ok()).fold(Amount::ZERO, Amount::plus)
    };
    let kept = sum(&mut kept.into_iter().flatten());
    let limits = c.reserved_memory.iter().filter_map(|r| r.limits.get("memory"));
    let reserved = sum(&mut limits.map(|quantity| quantity.0.as_str()));
    if !kept.minus(reserved).is_zero() {
        let message = format!(
            "with memoryManagerPolicy Static the memory of all NUMA nodes must add up to kubeReserved + systemReserved + evictionHard memory, which is {}",
            kept.to_quantity().0
        );
        checks.refuse("reservedMemory", reserved.to_quantity().0, message);
    }
}

#[cfg(test)]
mod tests {
    use crate::types::{MemoryReservation, QuantityText};
    use crate::validate::test_support::check;

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn reservation_rules() {
        check(
            |c| {
                c.kube_reserved.extend([pair("cpu", "100m"), pair("gpu", "1")]);
                c.system_reserved.extend([pair("memory", "-1Gi"), pair("pid", "many")]);
                c.qos_reserved.extend([pair("cpu", "150%")]);
            },
            &[
                "systemReserved[memory]: \"-1Gi\": must not be negative",
                "systemReserved[pid]: \"many\": \"many\" is not a quantity: it has to start with a number such as 100m, 1.5 or 2Gi",
                "kubeReserved[gpu]: 1: cannot be reserved; only cpu, memory, ephemeral-storage and pid can",
                "qosReserved[cpu]: \"150%\": only memory can be reserved by QoS",
                "qosReserved[cpu]: \"150%\": must be a percentage from 0% to 100%",
                "qosReserved[cpu]: \"150%\": needs the feature gate QOSReserved, which is off",
            ],
        );
    }

    #[test]
    fn enforcement_rules() {
        let levels = |list: &[&str]| list.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
        check(
            |c| c.enforce_node_allocatable = levels(&["pods", "pods", "kube-reserved", "bogus"]),
            &[
                "enforceNodeAllocatable[1]: \"pods\": appears twice",
                "enforceNodeAllocatable[2]: \"kube-reserved\": needs kubeReservedCgroup",
                "enforceNodeAllocatable[3]: \"bogus\": must be one of \"pods\", \"system-reserved\", \"system-reserved-compressible\", \"kube-reserved\", \"kube-reserved-compressible\", \"none\"",
            ],
        );
        check(
            |c| c.enforce_node_allocatable = levels(&["none", "pods"]),
            &["enforceNodeAllocatable[0]: \"none\": must stand alone"],
        );
        check(|c| c.enforce_node_allocatable = levels(&["none"]), &[]);
        check(|c| c.cgroups_per_qos = false, &["enforceNodeAllocatable[0]: \"pods\": needs cgroupsPerQOS"]);
        check(
            |c| {
                c.system_reserved_cgroup = "/s".into();
                c.enforce_node_allocatable = levels(&["system-reserved", "system-reserved-compressible"]);
            },
            &[
                "enforceNodeAllocatable: \"system-reserved\": cannot be used together with system-reserved-compressible",
            ],
        );
        check(
            |c| {
                c.system_cgroups = "/sys".into();
                c.reserved_system_cpus = "0-".into();
                c.kube_reserved_cgroup = "/k".into();
            },
            &[
                "systemCgroups: \"/sys\": needs cgroupRoot",
                "reservedSystemCPUs: \"0-\": cannot be used together with systemReservedCgroup or kubeReservedCgroup",
                "reservedSystemCPUs: \"0-\": \"0-\" is neither a CPU number nor a range such as 0-3",
            ],
        );
    }

    #[test]
    fn eviction_rules() {
        check(
            |c| {
                c.eviction_hard.extend([
                    pair("memory.available", "100Mi"),
                    pair("nodefs.available", "0%"),
                    pair("nodefs.inodesFree", "101%"),
                    pair("imagefs.available", "0"),
                    pair("memory.free", "1Gi"),
                ]);
                c.eviction_soft.extend([pair("memory.available", "200Mi"), pair("pid.available", "5%")]);
                c.eviction_soft_grace_period.extend([pair("memory.available", "90")]);
                c.eviction_minimum_reclaim.extend([pair("nodefs.available", "0%")]);
            },
            &[
                "evictionHard[imagefs.available]: 0: must be positive",
                "evictionHard[memory.free]: \"1Gi\": unknown eviction signal; known are memory.available, allocatableMemory.available, nodefs.available, nodefs.inodesFree, imagefs.available, imagefs.inodesFree, containerfs.available, containerfs.inodesFree, pid.available",
                "evictionHard[nodefs.inodesFree]: \"101%\": must not be more than 100%",
                "evictionSoft[pid.available]: \"5%\": needs a grace period in evictionSoftGracePeriod",
                "evictionSoftGracePeriod[memory.available]: 90: not a duration: missing unit after \"90\"; units are ns, us, ms, s, m, h",
                "evictionMinimumReclaim[nodefs.available]: \"0%\": must be positive",
            ],
        );
    }

    #[test]
    fn numa_rules() {
        let reservation = |node, kind: &str, text: &str| MemoryReservation {
            numa_node: node,
            limits: [(kind.to_owned(), QuantityText(text.to_owned()))].into(),
        };
        check(
            |c| {
                c.reserved_memory = vec![
                    reservation(0, "memory", "1Gi"),
                    reservation(0, "memory", "0"),
                    reservation(1, "cpu", "1"),
                ];
            },
            &[
                "reservedMemory[1].limits[memory]: 0: must not be zero",
                "reservedMemory[1].limits[memory]: 0: NUMA node 0 has a reservation of memory already",
                "reservedMemory[2].limits[cpu]: 1: only memory and hugepages-<size> can be reserved per NUMA node",
            ],
        );
        check(
            |c| {
                c.memory_manager_policy = "Static".into();
                c.kube_reserved.extend([pair("memory", "1Gi")]);
                c.eviction_hard.extend([pair("memory.available", "100Mi")]);
                c.reserved_memory = vec![reservation(0, "memory", "1Gi")];
            },
            &[
                "reservedMemory: \"1Gi\": with memoryManagerPolicy Static the memory of all NUMA nodes must add up to kubeReserved + systemReserved + evictionHard memory, which is 1124Mi",
            ],
        );
        check(
            |c| c.cpu_manager_policy = "static".into(),
            &[
                "cpuManagerPolicy: \"static\": needs a cpu reservation: set reservedSystemCPUs, or cpu in kubeReserved or systemReserved",
            ],
        );
    }
}
