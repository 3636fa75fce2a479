//! Requests and limits as kernel numbers: what CRI is told for containers and sandboxes, and what the agent
//! writes to pod cgroups itself.
//!
//! Owns the conversions (upstream `kuberuntime_container_linux.go`, `cm/helpers_linux.go`); never touches a
//! cgroup. Sums over containers, the OOM score and cgroup names have a file each.

mod cgroup_names;
mod group;
mod kernel_defaults;
mod memory_qos;
mod node_groups;
mod oom;
mod qos_groups;
mod sums;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

pub use self::cgroup_names::{CgroupDriver, CgroupRoot, cgroup_path, pod_of_group};
pub use self::group::{GroupSettings, GroupWrite, UNBOUNDED_HUGE_PAGES, group_writes};
pub use self::kernel_defaults::{KERNEL_DEFAULTS, KernelDefault};
pub use self::memory_qos::MemoryQos;
pub use self::node_groups::{
    Enforcement, ReservedGroup, all_pods_settings, reservation_problem, reserved_settings,
};
pub use self::oom::oom_score_adjust;
pub use self::qos_groups::{QosFacts, QosGroups, qos_groups};
pub(crate) use self::sums::pod_limits;
pub use self::sums::pod_requests;
use crate::admission::is_critical_pod;
use crate::containers::spec_of;
use crate::qos::{QosClass, pod_qos};
use crate::quantity::{Amount, listed};

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// Shortest quota the kernel takes, in microseconds.
const MIN_QUOTA: i64 = 1000;

/// What is known of the node and the configuration.
#[derive(Clone, Debug)]
pub struct ResourceFacts {
    /// Memory of the node, bytes.
    pub memory_capacity: i64,
    /// Swap of the node, bytes.
    pub swap_capacity: i64,
    /// `cpuCFSQuota`.
    pub cpu_quota: bool,
    /// `cpuCFSQuotaPeriod`, microseconds.
    pub cpu_period: i64,
    /// Whether the unified hierarchy is mounted.
    pub cgroup_v2: bool,
    /// `singleProcessOOMKill`, its default filled in.
    pub single_process_oom_kill: bool,
    /// Whether the kernel can limit swap of a cgroup.
    pub swap_controller: bool,
    /// `memorySwap.swapBehavior: LimitedSwap`.
    pub limited_swap: bool,
    /// Huge page sizes of the node, as the kernel writes them (`2MB`, `1GB`).
    pub huge_page_sizes: Vec<String>,
    /// The gate MemoryQoS; `None` while it is off and without the unified hierarchy.
    pub memory_qos: Option<MemoryQos>,
    /// `podPidsLimit`; 0 and below is none.
    pub pod_pids_limit: i64,
}

impl Default for ResourceFacts {
    /// An unlimited node with cgroup v2 and upstream's configuration defaults.
    fn default() -> Self {
        Self {
            memory_capacity: i64::MAX,
            swap_capacity: 0,
            cpu_quota: true,
            cpu_period: 100_000,
            cgroup_v2: true,
            single_process_oom_kill: false,
            swap_controller: false,
            limited_swap: false,
            huge_page_sizes: Vec::new(),
            memory_qos: None,
            pod_pids_limit: -1,
        }
    }
}

/// Resources as CRI's `LinuxContainerResources` has them. Zero means unset, as there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinuxResources {
    /// CFS period, microseconds.
    pub cpu_period: i64,
    /// CFS quota, microseconds; −1 is none.
    pub cpu_quota: i64,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Memory limit, bytes.
    pub memory_limit: i64,
    /// −1000 to 1000.
    pub oom_score_adj: i64,
    /// Page size and limit in bytes, one for each size of the node.
    pub huge_page_limits: Vec<(String, u64)>,
    /// Files of the unified hierarchy that are set as they are.
    pub unified: BTreeMap<String, String>,
    /// Memory and swap together, bytes (cgroup v1).
    pub memory_swap_limit: i64,
}

/// Shares for thousandths of a CPU.
pub fn cpu_shares(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 { MIN_SHARES } else { scale(milli_cpu, 1024).clamp(MIN_SHARES, MAX_SHARES) }
}

/// Quota for thousandths of a CPU; 0 is none.
pub fn cpu_quota(milli_cpu: i64, period: i64) -> i64 {
    if milli_cpu == 0 { 0 } else { scale(milli_cpu, period).max(MIN_QUOTA) }
}

/// Weight of the unified hierarchy for shares, on the line that the agent's own cgroups use.
pub fn cpu_weight(shares: i64) -> i64 {
    let shares = shares.clamp(MIN_SHARES, MAX_SHARES);
    1 + (shares - MIN_SHARES) * 9999 / (MAX_SHARES - MIN_SHARES)
}

fn scale(milli_cpu: i64, unit: i64) -> i64 {
    let scaled = i128::from(milli_cpu) * i128::from(unit) / 1000;
    i64::try_from(scaled).unwrap_or(i64::MAX)
}

/// Resources of one container. `exclusive_cpus`: CPUs are pinned to it, so that it needs no quota.
pub fn container_resources(
    pod: &Pod,
    container: &Container,
    exclusive_cpus: bool,
    facts: &ResourceFacts,
) -> LinuxResources {
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    // A limit the container does not have is the pod's.
    let of_pod = spec_of(pod).resources.as_ref().and_then(|r| r.limits.as_ref());
    let limit = |name: &str| {
        let own = listed(limits, name).filter(|amount| !amount.is_zero());
        own.or_else(|| listed(of_pod, name)).unwrap_or(Amount::ZERO)
    };
    let mut found = numbers(listed(requests, "cpu"), limit("cpu"), limit("memory"), exclusive_cpus, facts);
    found.oom_score_adj = oom_score_adjust(pod, container, facts.memory_capacity);
    found.huge_page_limits = huge_page_limits(of_pod, limits, &facts.huge_page_sizes);
    set_swap(&mut found, pod, container, facts);
    if let Some(qos) = &facts.memory_qos {
        found.unified.extend(memory_qos::of_container(pod, container, qos));
    }
    found
}

/// Resources of a sandbox without its overhead: what the pod's containers may use together.
pub fn sandbox_resources(pod: &Pod, exclusive_cpus: bool, facts: &ResourceFacts) -> LinuxResources {
    let requests = pod_requests(pod, false);
    let limits = pod_limits(pod, false);
    let limit = |name: &str| limits.get(name).copied().unwrap_or(Amount::ZERO);
    numbers(requests.get("cpu").copied(), limit("cpu"), limit("memory"), exclusive_cpus, facts)
}

/// Resources of a sandbox's own overhead; request and limit are the same.
pub fn sandbox_overhead(pod: &Pod, facts: &ResourceFacts) -> LinuxResources {
    match &spec_of(pod).overhead {
        None => LinuxResources::default(),
        Some(overhead) => {
            let amount = |name: &str| listed(Some(overhead), name).unwrap_or(Amount::ZERO);
            numbers(Some(amount("cpu")), amount("cpu"), amount("memory"), false, facts)
        }
    }
}

/// The numbers that containers and sandboxes share (upstream `calculateLinuxResources`).
fn numbers(
    cpu_request: Option<Amount>,
    cpu_limit: Amount,
    memory_limit: Amount,
    exclusive_cpus: bool,
    facts: &ResourceFacts,
) -> LinuxResources {
    let mut found = LinuxResources {
        // A request that is not given is the limit.
        cpu_shares: cpu_shares(cpu_request.unwrap_or(cpu_limit).milli_value()),
        memory_limit: memory_limit.value(),
        ..LinuxResources::default()
    };
    if facts.cpu_quota {
        found.cpu_period = facts.cpu_period;
        found.cpu_quota =
            if exclusive_cpus { -1 } else { cpu_quota(cpu_limit.milli_value(), facts.cpu_period) };
    }
    if facts.cgroup_v2 && !facts.single_process_oom_kill {
        found.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    found
}

fn set_swap(found: &mut LinuxResources, pod: &Pod, container: &Container, facts: &ResourceFacts) {
    if !facts.swap_controller {
        return;
    }
    if !facts.cgroup_v2 {
        found.memory_swap_limit = found.memory_limit;
        return;
    }
    found.unified.insert("memory.swap.max".to_owned(), allowed_swap(pod, container, facts).to_string());
}

/// Swap a container may use: the share of the node's swap that it requests of the node's memory. Only burstable
/// pods that are not critical have any, and of these only containers that may use more than they request.
fn allowed_swap(pod: &Pod, container: &Container, facts: &ResourceFacts) -> i64 {
    let resources = container.resources.as_ref();
    let amount = |list| listed(list, "memory").unwrap_or(Amount::ZERO);
    let request = amount(resources.and_then(|r| r.requests.as_ref()));
    let limit = amount(resources.and_then(|r| r.limits.as_ref()));
    let swaps = facts.limited_swap
        && !is_critical_pod(pod)
        && pod_qos(pod) == QosClass::Burstable
        && request != limit
        && facts.memory_capacity > 0
        && request.value() <= facts.memory_capacity;
    if !swaps {
        return 0;
    }
    let share =
        i128::from(request.value()) * i128::from(facts.swap_capacity) / i128::from(facts.memory_capacity);
    i64::try_from(share).unwrap_or(i64::MAX)
}

type ResourceList = BTreeMap<String, Quantity>;

/// A limit for each page size of the node: the container's, else the pod's, else 0.
fn huge_page_limits(
    of_pod: Option<&ResourceList>,
    own: Option<&ResourceList>,
    sizes: &[String],
) -> Vec<(String, u64)> {
    let mut limits: BTreeMap<String, u64> = BTreeMap::new();
    for list in [of_pod, own].into_iter().flatten() {
        for name in list.keys() {
            if let (Some(size), Some(amount)) = (huge_page_size(name), listed(Some(list), name)) {
                limits.insert(kernel_page_size(size), u64::try_from(amount.value()).unwrap_or(0));
            }
        }
    }
    sizes.iter().map(|size| (size.clone(), limits.get(size).copied().unwrap_or(0))).collect()
}

/// Page size in bytes of a resource called `hugepages-<size>`.
fn huge_page_size(resource: &str) -> Option<i64> {
    let size = Amount::parse(resource.strip_prefix("hugepages-")?).ok()?.value();
    (size > 0).then_some(size)
}

/// A page size as the kernel writes it: `2MB`, `1GB`.
fn kernel_page_size(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["B", "KB", "MB", "GB", "TB", "PB"];
    let (mut size, mut unit) = (bytes, 0);
    while unit + 1 < UNITS.len() && size % 1024 == 0 {
        size /= 1024;
        unit += 1;
    }
    format!("{size}{}", UNITS[unit])
}

/// Settings of a pod's own cgroup, overhead included (upstream `ResourceConfigForPod`): a limit is only set when
/// every container has one. `exclusive_cpus`: CPUs are pinned to containers of it, so that it needs no quota.
pub fn pod_group_settings(pod: &Pod, facts: &ResourceFacts, exclusive_cpus: bool) -> GroupSettings {
    let requests = pod_requests(pod, true);
    let limits = pod_limits(pod, true);
    let of = |sums: &BTreeMap<String, Amount>, name: &str| sums.get(name).copied().unwrap_or(Amount::ZERO);
    let qos = pod_qos(pod);
    let declared = |name| match qos {
        QosClass::Guaranteed => true,
        QosClass::Burstable => sums::limit_is_declared(pod, name),
        QosClass::BestEffort => false,
    };
    let milli_limit = of(&limits, "cpu").milli_value();
    let quota = match facts.cpu_quota && !exclusive_cpus {
        true => cpu_quota(milli_limit, facts.cpu_period),
        false => -1,
    };
    let mut huge_pages = BTreeMap::new();
    for (name, amount) in &requests {
        if let Some(size) = huge_page_size(name) {
            *huge_pages.entry(size).or_insert(0) += amount.value();
        }
    }
    let requested = of(&requests, "memory").value();
    GroupSettings {
        cpu_shares: Some(match qos {
            QosClass::BestEffort => MIN_SHARES,
            _ => cpu_shares(of(&requests, "cpu").milli_value()),
        }),
        cpu_quota: declared("cpu").then_some(quota),
        cpu_period: declared("cpu").then_some(facts.cpu_period),
        memory: declared("memory").then(|| of(&limits, "memory").value()),
        pids: (facts.pod_pids_limit > 0).then_some(facts.pod_pids_limit),
        cpus: None,
        huge_pages: Some(huge_pages),
        unified: facts.memory_qos.as_ref().map(|m| memory_qos::of_pod(qos, requested, m)).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
