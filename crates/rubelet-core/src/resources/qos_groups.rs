//! The cgroups of the QoS classes: what their pods request together, and what is kept for the others.
//!
//! Owns the formulas (upstream `qos_container_manager_linux.go`); the shell brings the pods that count and writes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::group::{GroupSettings, UNBOUNDED_HUGE_PAGES};
use super::memory_qos::{LOW, MIN};
use super::{MIN_SHARES, cpu_shares, pod_requests};
use crate::qos::{QosClass, pod_qos};

/// What is known of the node and the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QosFacts {
    /// Huge page sizes of the machine, bytes: the classes themselves limit none.
    pub huge_page_sizes: Vec<i64>,
    /// Memory that all pods may use, bytes.
    pub pods_memory: i64,
    /// `qosReserved: {memory: n%}`.
    pub reserved_memory_percent: Option<i64>,
    /// MemoryQoS in the unified hierarchy, and whether it is tiered.
    pub memory_qos: Option<bool>,
}

/// Settings of the classes. Guaranteed pods live in the group of all pods, which has more settings of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QosGroups {
    /// The group of all pods.
    pub guaranteed: GroupSettings,
    /// `burstable`.
    pub burstable: GroupSettings,
    /// `besteffort`.
    pub best_effort: GroupSettings,
    /// Memory that guaranteed pods are protected with, bytes (`kubelet_memory_qos_node_memory_min_bytes`).
    pub memory_min: i64,
    /// Memory that burstable pods are protected with, bytes (`kubelet_memory_qos_node_memory_low_bytes`).
    pub memory_low: i64,
}

/// What the classes are to be set to while these pods are there.
pub fn qos_groups<'a>(pods: impl Iterator<Item = &'a Pod>, facts: &QosFacts) -> QosGroups {
    let (mut burstable_cpu, mut burstable_memory, mut guaranteed_memory) = (0_i64, 0_i64, 0_i64);
    for pod in pods {
        let class = pod_qos(pod);
        if class == QosClass::BestEffort {
            continue;
        }
        let requests = pod_requests(pod, true);
        let memory = requests.get("memory").map_or(0, |memory| memory.value());
        if class == QosClass::Burstable {
            let cpu = requests.get("cpu").map_or(0, |cpu| cpu.milli_value());
            burstable_cpu = burstable_cpu.saturating_add(cpu);
            burstable_memory = burstable_memory.saturating_add(memory);
        } else {
            guaranteed_memory = guaranteed_memory.saturating_add(memory);
        }
    }
    let huge_pages: BTreeMap<i64, i64> =
        facts.huge_page_sizes.iter().map(|size| (*size, UNBOUNDED_HUGE_PAGES)).collect();
    let class = |shares| GroupSettings {
        cpu_shares: Some(shares),
        huge_pages: Some(huge_pages.clone()),
        ..GroupSettings::default()
    };
    let mut groups = QosGroups {
        burstable: class(cpu_shares(burstable_cpu)),
        best_effort: class(MIN_SHARES),
        ..QosGroups::default()
    };
    if let Some(tiered) = facts.memory_qos {
        if tiered {
            (groups.memory_min, groups.memory_low) = (guaranteed_memory, burstable_memory);
        }
        // A parent has to be protected with what is promised below it.
        let all = groups.memory_min.saturating_add(groups.memory_low);
        groups.guaranteed.unified.insert(MIN.to_owned(), all.to_string());
        groups.burstable.unified.insert(LOW.to_owned(), groups.memory_low.to_string());
    }
    if let Some(percent) = facts.reserved_memory_percent.filter(|_| facts.pods_memory > 0) {
        let part = |request: i64| {
            let part = i128::from(request) * i128::from(percent) / 100;
            i64::try_from(part).unwrap_or(i64::MAX)
        };
        // A limit of zero or less would be none: the least there is keeps the class from growing.
        let burstable = facts.pods_memory.saturating_sub(part(guaranteed_memory)).max(1);
        let best_effort = burstable.saturating_sub(part(burstable_memory)).max(1);
        groups.burstable.memory = Some(burstable);
        groups.best_effort.memory = Some(best_effort);
    }
    groups
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MIB: i64 = 1 << 20;

    fn pod(requests: Value, limits: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "a", "resources": {"requests": requests, "limits": limits}}]}}))
        .unwrap()
    }

    fn pods() -> Vec<Pod> {
        let both = json!({"cpu": "1", "memory": "100Mi"});
        vec![
            pod(both.clone(), both),
            pod(json!({"cpu": "500m", "memory": "60Mi"}), json!({})),
            pod(json!({"cpu": "250m", "memory": "40Mi"}), json!({})),
            pod(json!({}), json!({})),
        ]
    }

    #[test]
    fn burstable_is_worth_what_its_pods_request_and_best_effort_the_least() {
        let facts = QosFacts { huge_page_sizes: vec![2 << 20], ..Default::default() };
        let found = qos_groups(pods().iter(), &facts);
        assert_eq!(found.burstable.cpu_shares, Some(768));
        assert_eq!(found.best_effort.cpu_shares, Some(2));
        assert_eq!(found.burstable.huge_pages, Some([(2 << 20, 1 << 62)].into()));
        assert_eq!(found.guaranteed, GroupSettings::default());
        assert_eq!((found.burstable.memory, found.best_effort.memory), (None, None));
        assert_eq!(qos_groups([].iter(), &facts).burstable.cpu_shares, Some(2));
    }

    #[test]
    fn memory_is_protected_by_class() {
        let find = |tiered| {
            let facts = QosFacts { memory_qos: Some(tiered), ..Default::default() };
            let found = qos_groups(pods().iter(), &facts);
            let value = |group: &GroupSettings, file: &str| group.unified[file].parse::<i64>().unwrap() / MIB;
            (value(&found.guaranteed, MIN), value(&found.burstable, LOW), found.memory_min / MIB)
        };
        assert_eq!(find(true), (200, 100, 100));
        assert_eq!(find(false), (0, 0, 0));
    }

    #[test]
    fn memory_is_kept_for_those_who_requested_it() {
        let find = |percent| {
            let facts = QosFacts {
                pods_memory: 300 * MIB,
                reserved_memory_percent: Some(percent),
                ..Default::default()
            };
            let found = qos_groups(pods().iter(), &facts);
            (found.burstable.memory.unwrap() / MIB, found.best_effort.memory.unwrap() / MIB)
        };
        assert_eq!(find(100), (200, 100));
        assert_eq!(find(50), (250, 200));
        assert_eq!(find(0), (300, 300));
    }
}
