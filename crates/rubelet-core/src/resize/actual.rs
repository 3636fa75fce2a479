//! What the runtime says a container has, and how that is told in the API (upstream `convertContainerStatusResources`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{PodAllocation, ResizeGates, Settings, allocated_pod};
use crate::containers::spec_of;
use crate::quantity::{Amount, Format, listed};
use crate::resources::{ResourceFacts, container_resources, pod_limits, pod_requests};

/// Smallest shares; requests at or below so many thousandths cannot be told apart.
const MIN_SHARES: i64 = 2;
/// Smallest limit of CPU the kernel knows, thousandths: the shortest quota in the default period.
const MIN_MILLI_CPU_LIMIT: i64 = 10;

/// Resources of a container as the runtime reports them; zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActualResources {
    /// Shares.
    pub cpu_shares: i64,
    /// Quota, microseconds; not above zero is none.
    pub cpu_quota: i64,
    /// Period, microseconds.
    pub cpu_period: i64,
    /// Memory limit, bytes.
    pub memory_limit: i64,
}

/// Whether a container has what was allocated to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Matches {
    Yes,
    No,
}

impl ActualResources {
    /// Whether these are the numbers the container would be created with now.
    pub(super) fn compare(&self, pod: &Pod, container: &Container, facts: &ResourceFacts) -> Matches {
        let wanted = container_resources(pod, container, false, facts);
        let quota = |quota: i64| quota.max(0);
        // One with exclusive CPUs has no quota.
        let quota_fits = self.cpu_quota == -1 || quota(self.cpu_quota) == quota(wanted.cpu_quota);
        let fits = self.cpu_shares == wanted.cpu_shares
            && quota_fits
            && self.memory_limit.max(0) == wanted.memory_limit;
        if fits { Matches::Yes } else { Matches::No }
    }

    /// The settings that led to these numbers. Requests of memory leave no trace: they are taken as wanted.
    pub(super) fn settings(&self, wanted: Settings) -> Settings {
        Settings {
            cpu_request: self.cpu_request().unwrap_or(0),
            cpu_limit: self.cpu_limit().unwrap_or(0),
            memory_request: wanted.memory_request,
            memory_limit: self.memory_limit.max(0),
        }
    }

    /// Requested CPU, thousandths.
    fn cpu_request(&self) -> Option<i64> {
        // Rounded up, as shares were rounded down.
        (self.cpu_shares > 0).then(|| (self.cpu_shares.saturating_mul(1000) + 1023) / 1024)
    }

    /// Limit of CPU, thousandths.
    fn cpu_limit(&self) -> Option<i64> {
        (self.cpu_quota > 0 && self.cpu_period > 0)
            .then(|| self.cpu_quota.saturating_mul(1000) / self.cpu_period)
    }
}

/// `resources` of a running container's status: what was allocated, with the values the runtime reports in its place;
/// where it reports none, those it was last told.
pub fn reported_resources(
    allocated: &ResourceRequirements,
    actual: Option<&ActualResources>,
    actuated: Option<&ResourceRequirements>,
) -> ResourceRequirements {
    let mut resources = allocated.clone();
    let told = actuated.unwrap_or(allocated);
    let cpu = |milli: i64| Amount::milli(milli, Format::DecimalSi);
    let bytes = |value: i64| Amount::units(value, Format::BinarySi);
    if let Some(limits) = &mut resources.limits {
        let of = |name: &str| listed(told.limits.as_ref(), name);
        let milli = match actual {
            Some(actual) => actual.cpu_limit().map(cpu),
            None => of("cpu"),
        };
        put(limits, "cpu", milli, MIN_MILLI_CPU_LIMIT);
        let memory = match actual {
            Some(actual) => Some(actual.memory_limit).filter(|limit| *limit > 0).map(bytes),
            None => of("memory"),
        };
        put(limits, "memory", memory, 0);
    }
    if let Some(requests) = &mut resources.requests {
        let of = |name: &str| listed(told.requests.as_ref(), name);
        let milli = match actual {
            Some(actual) => actual.cpu_request().map(cpu),
            None => of("cpu"),
        };
        put(requests, "cpu", milli, MIN_SHARES);
        put(requests, "memory", of("memory").filter(|amount| !amount.is_zero()), 0);
    }
    resources
}

/// Writes a value where it differs from what stands there in more than its form. Two that the kernel cannot tell apart,
/// because both are at or below `floor` thousandths, do not differ.
fn put(list: &mut BTreeMap<String, Quantity>, name: &str, value: Option<Amount>, floor: i64) {
    let Some(value) = value else { return };
    let stands = listed(Some(list), name);
    let small = |amount: Amount| floor > 0 && amount.milli_value() <= floor;
    let same = stands.is_some_and(|stands| stands == value);
    if same || small(value) && small(stands.unwrap_or(Amount::ZERO)) {
        return;
    }
    list.insert(name.to_owned(), value.to_quantity());
}

/// `resources` and `allocatedResources` of a pod's status (KEP-5419): what the pod as a whole has by what the runtime
/// was told, and what was allocated. `None` for both when the pod names no resources at all.
pub fn reported_pod_resources(
    pod: &Pod,
    actuated: Option<&PodAllocation>,
    gates: ResizeGates,
) -> (Option<ResourceRequirements>, Option<BTreeMap<String, Quantity>>) {
    if !gates.pod_level {
        return (spec_of(pod).resources.clone(), None);
    }
    let list = |sums: BTreeMap<String, Amount>| -> Option<BTreeMap<String, Quantity>> {
        let list: BTreeMap<_, _> = sums.into_iter().map(|(name, sum)| (name, sum.to_quantity())).collect();
        (!list.is_empty()).then_some(list)
    };
    let allocated = list(pod_requests(pod, true));
    // Containers that have not been created yet get what was allocated.
    let behind = actuated.and_then(|actuated| {
        let own = actuated.pod.clone().or_else(|| spec_of(pod).resources.clone());
        allocated_pod(pod, &PodAllocation { pod: own, ..actuated.clone() }, gates)
    });
    let has = behind.as_ref().unwrap_or(pod);
    let (requests, limits) = (list(pod_requests(has, true)), list(pod_limits(has, true)));
    if requests.is_none() && limits.is_none() {
        return (spec_of(pod).resources.clone(), allocated);
    }
    (Some(ResourceRequirements { requests, limits, ..ResourceRequirements::default() }), allocated)
}
