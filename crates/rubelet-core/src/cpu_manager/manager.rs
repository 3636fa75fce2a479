//! The book of CPUs: who has which, and what everybody else shares.
//!
//! Owns the invariants: no CPU belongs to containers of two pods, a reserved CPU is never given away, what a pod holds
//! is never more than it needs at one time, and all of it comes back with the pod. Called by the container manager.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::distribute::distributed;
use super::layout::{Layout, Level};
use super::requests::exclusive_cpus;
use super::take::{Wishes, packed};
use super::{Assignments, CpuPolicy, OptionsError, StaticOptions, checkpoint};
use crate::containers::{init_containers, is_sidecar, spec_of};
use crate::cpu_set::CpuSet;
use crate::ids::PodUid;
use crate::topology::{Hint, HintProvider, MachineTopology, NumaMask, ProviderHints, Unallocatable};

/// CPUs that are never given to one container alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReservedCpus {
    /// These (`reservedSystemCPUs`); when there are any, `count` says nothing.
    pub explicit: CpuSet,
    /// So many: kubeReserved and systemReserved together, rounded up to whole CPUs.
    pub count: usize,
}

/// Why the policy cannot work on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuManagerError {
    /// Nothing is reserved, so that the shared pool could become empty.
    #[error("the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero")]
    NothingReserved,
    /// More is reserved than there is.
    #[error("unable to reserve the required amount of CPUs: {wanted} of {available}")]
    TooManyReserved {
        /// How many are to be reserved.
        wanted: usize,
        /// How many CPUs there are.
        available: usize,
    },
    /// Reserved CPUs that are not there.
    #[error("reserved CPUs {0} are not online")]
    UnknownReserved(CpuSet),
    /// Options that do not suit the machine.
    #[error(transparent)]
    Options(#[from] OptionsError),
}

/// Where CPUs are looked for, one after the other.
#[derive(Clone, Copy)]
enum Near {
    /// Where the topology manager wants them.
    Wish,
    /// On the nodes of those that are chosen already.
    Nodes,
    /// In their sockets.
    Sockets,
    Anywhere,
}

/// Numbers for the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// The shared pool without reserved CPUs, thousandths of a CPU (`cpu_manager_shared_pool_size_millicores`).
    pub shared_pool_millis: u64,
    /// CPUs given away (`cpu_manager_exclusive_cpu_allocation_count`).
    pub exclusive: u64,
    /// CPUs given away, by NUMA node; every node that has CPUs (`cpu_manager_allocation_per_numa`).
    pub exclusive_by_node: BTreeMap<u32, u64>,
}

/// Who has which CPUs.
#[derive(Clone, Debug)]
pub struct CpuManager {
    pub(super) layout: Layout,
    pub(super) policy: CpuPolicy,
    pub(super) reserved: CpuSet,
    /// No entry is empty, neither of a pod nor of a container.
    pub(super) assigned: Assignments,
    /// What all others run on; follows from the rest.
    shared: CpuSet,
    /// Pods whose CPUs were guessed from what runs, until their specs are seen.
    pub(super) guessed: BTreeSet<PodUid>,
}

impl CpuManager {
    /// A book without entries.
    ///
    /// # Errors
    /// When the policy cannot work with this reservation or on this machine.
    pub fn new(
        machine: MachineTopology,
        policy: CpuPolicy,
        reserved: &ReservedCpus,
    ) -> Result<Self, CpuManagerError> {
        let CpuPolicy::Static(options) = policy else { return Ok(Self::none(machine)) };
        options.check(&machine)?;
        let all = machine.all_cpus();
        let missing = reserved.explicit.difference(&all);
        if !missing.is_empty() {
            return Err(CpuManagerError::UnknownReserved(missing));
        }
        let layout = Layout::new(machine);
        let chosen = if reserved.explicit.is_empty() {
            let short = CpuManagerError::TooManyReserved { wanted: reserved.count, available: all.len() };
            if reserved.count == 0 {
                return Err(CpuManagerError::NothingReserved);
            }
            take(&layout, options, &all, reserved.count).ok_or(short)?
        } else {
            reserved.explicit.clone()
        };
        Ok(Self::with(layout, policy, chosen))
    }

    /// The book of the policy none, which never has an entry.
    pub fn none(machine: MachineTopology) -> Self {
        Self::with(Layout::new(machine), CpuPolicy::None, CpuSet::new())
    }

    fn with(layout: Layout, policy: CpuPolicy, reserved: CpuSet) -> Self {
        let (assigned, guessed) = (Assignments::new(), BTreeSet::new());
        let mut manager = Self { layout, policy, reserved, assigned, shared: CpuSet::new(), guessed };
        manager.refresh();
        manager
    }

    /// Options of the static policy; `None` under the policy none.
    pub(super) fn options(&self) -> Option<StaticOptions> {
        match self.policy {
            CpuPolicy::None => None,
            CpuPolicy::Static(options) => Some(options),
        }
    }

    /// Which policy it follows.
    pub fn policy(&self) -> CpuPolicy {
        self.policy
    }

    /// All online CPUs.
    pub fn all_cpus(&self) -> CpuSet {
        self.layout.machine.all_cpus()
    }

    /// Reserved CPUs.
    pub fn reserved(&self) -> &CpuSet {
        &self.reserved
    }

    /// CPUs that containers could be given, now or later; none under the policy none (podresources).
    pub fn allocatable(&self) -> CpuSet {
        if self.options().is_some() { self.all_cpus().difference(&self.reserved) } else { CpuSet::new() }
    }

    /// Who has which.
    pub fn assignments(&self) -> &Assignments {
        &self.assigned
    }

    /// What containers without CPUs of their own run on. With `strict-cpu-reservation` it may become empty.
    pub fn shared_pool(&self) -> &CpuSet {
        &self.shared
    }

    /// CPUs that are a container's alone.
    pub fn exclusive(&self, uid: &PodUid, container: &str) -> Option<&CpuSet> {
        self.assigned.get(uid)?.get(container)
    }

    /// Whether some container of the pod has CPUs of its own.
    pub fn pod_has_exclusive(&self, uid: &PodUid) -> bool {
        self.assigned.contains_key(uid)
    }

    /// What the cpuset of a container is to be; `None` under the policy none, which leaves cpusets alone.
    ///
    /// Where nothing is left to share, it is the reserved CPUs: an empty cpuset would be every CPU, those of others
    /// too.
    pub fn cpus(&self, uid: &PodUid, container: &str) -> Option<CpuSet> {
        self.options()?;
        let shared = if self.shared.is_empty() { &self.reserved } else { &self.shared };
        Some(self.exclusive(uid, container).unwrap_or(shared).clone())
    }

    /// Whether these are within one last-level cache (`container_aligned_compute_resources_count`).
    pub fn is_cache_aligned(&self, cpus: &CpuSet) -> bool {
        self.layout.parts(Level::Cache, &self.layout.known(cpus)).len() <= 1
    }

    /// The text of the checkpoint `cpu_manager_state`, to be written after every change before it takes effect.
    pub fn state(&self) -> String {
        // Upstream's policy none never touches its book: the shared pool stays empty.
        let none = CpuSet::new();
        let shared = if self.options().is_some() { &self.shared } else { &none };
        checkpoint::written(self.policy.as_str(), shared, &self.assigned)
    }

    /// Numbers for the metrics.
    pub fn figures(&self) -> Figures {
        let exclusive = self.exclusive_cpus();
        let mut by_node: BTreeMap<u32, u64> = self.layout.nodes().iter().map(|node| (node, 0)).collect();
        for cpu in self.layout.known(&exclusive) {
            *by_node.entry(cpu.numa).or_default() += 1;
        }
        let count = |cpus: &CpuSet| u64::try_from(cpus.len()).unwrap_or(u64::MAX);
        let free = self.shared.difference(&self.reserved);
        let shared_pool_millis = if self.options().is_some() { count(&free) * 1000 } else { 0 };
        Figures { shared_pool_millis, exclusive: count(&exclusive), exclusive_by_node: by_node }
    }

    /// Takes back what pods have that are not among these.
    pub fn retain(&mut self, keep: impl Fn(&PodUid) -> bool) {
        self.assigned.retain(|uid, _| keep(uid));
        self.guessed.retain(|uid| keep(uid));
        self.refresh();
    }

    /// All CPUs that are somebody's.
    pub(super) fn exclusive_cpus(&self) -> CpuSet {
        self.assigned.values().flat_map(BTreeMap::values).flat_map(CpuSet::iter).collect()
    }

    /// Computes the shared pool anew.
    pub(super) fn refresh(&mut self) {
        let mut shared = self.all_cpus().difference(&self.exclusive_cpus());
        if self.options().is_some_and(|options| options.strict_reservation) {
            shared = shared.difference(&self.reserved);
        }
        self.shared = shared;
    }

    /// CPUs that can be given away now. Where only whole cores are given, those of cores that are free as a whole.
    pub(super) fn free(&self) -> CpuSet {
        let free = self.shared.difference(&self.reserved);
        if self.options().is_some_and(|options| options.full_cores_only) {
            self.layout.whole_cores(&free)
        } else {
            free
        }
    }

    /// What init containers of the pod held that have ended by the time another container is to start: not what its
    /// sidecars and app containers have.
    pub(super) fn reusable(&self, pod: &Pod) -> CpuSet {
        let Some(own) = pod.metadata.uid.as_deref().and_then(|uid| self.assigned.get(&PodUid::from(uid)))
        else {
            return CpuSet::new();
        };
        let ends = |name: &str| {
            init_containers(spec_of(pod)).iter().any(|init| init.name == name && !is_sidecar(init))
        };
        let (mut held, mut in_use) = (CpuSet::new(), CpuSet::new());
        for (name, cpus) in own {
            let set = if ends(name) { &mut held } else { &mut in_use };
            *set = set.union(cpus);
        }
        held.difference(&in_use)
    }

    /// Chooses CPUs: those that the pod holds already first, near `nodes` first.
    fn choose(
        &self,
        options: StaticOptions,
        wanted: usize,
        nodes: Option<NumaMask>,
        reusable: &CpuSet,
    ) -> Option<CpuSet> {
        let (mut taken, pool) = if wanted <= reusable.len() {
            (CpuSet::new(), reusable.clone())
        } else {
            (reusable.clone(), self.free())
        };
        for stage in [Near::Wish, Near::Nodes, Near::Sockets, Near::Anywhere] {
            let beside = self.layout.nodes_of(&taken);
            let within = match (stage, nodes) {
                (Near::Anywhere, _) => None,
                (Near::Wish, None) => continue,
                (Near::Wish, Some(nodes)) if options.align_by_socket => {
                    Some(self.layout.cpus_of_sockets(nodes))
                }
                (Near::Wish, Some(nodes)) => Some(self.layout.machine.cpus_of(nodes)),
                (Near::Nodes, _) => Some(self.layout.machine.cpus_of(beside)),
                (Near::Sockets, _) => Some(self.layout.cpus_of_sockets(beside)),
            };
            let pool =
                within.map_or_else(|| pool.clone(), |within| pool.intersection(&within)).difference(&taken);
            let share = pool.len().min(wanted - taken.len());
            taken = taken.union(&take(&self.layout, options, &pool, share)?);
        }
        (taken.len() == wanted).then_some(taken)
    }

    /// Assigns to one container; `None` for one that shares.
    pub(super) fn assign(
        &mut self,
        pod: &Pod,
        container: &Container,
        nodes: Option<NumaMask>,
    ) -> Result<Option<CpuSet>, Unallocatable> {
        let Some(options) = self.options() else { return Ok(None) };
        let wanted = exclusive_cpus(pod, container);
        let Some(uid) = pod.metadata.uid.as_deref().map(PodUid::from).filter(|_| wanted > 0) else {
            return Ok(None);
        };
        if let Some(own) = self.exclusive(&uid, &container.name) {
            return Ok(Some(own.clone()));
        }
        let reusable = self.reusable(pod);
        let available = self.free().len() + reusable.len();
        if options.full_cores_only {
            self.check_cores(wanted, available)?;
        }
        let chosen = self.choose(options, wanted, nodes, &reusable).ok_or_else(|| {
            Unallocatable::unexpected(format_args!(
                "not enough cpus available to satisfy request: requested={wanted}, available={available}"
            ))
        })?;
        if options.full_cores_only && self.layout.whole_cores(&chosen) != chosen {
            // Cores of several sizes whose sum does not make up the request.
            return Err(smt_error(self.not_enough_cores(wanted, available)));
        }
        self.assigned.entry(uid).or_default().insert(container.name.clone(), chosen.clone());
        self.refresh();
        Ok(Some(chosen))
    }

    fn check_cores(&self, wanted: usize, available: usize) -> Result<(), Unallocatable> {
        let threads = self.layout.machine.threads_per_core().max(1);
        if !wanted.is_multiple_of(threads) {
            let per_core = format!("requested {wanted} cpus not multiple cpus per core = {threads}");
            return Err(smt_error(per_core));
        }
        if wanted > available {
            return Err(smt_error(self.not_enough_cores(wanted, available)));
        }
        Ok(())
    }

    fn not_enough_cores(&self, wanted: usize, available: usize) -> String {
        let threads = self.layout.machine.threads_per_core();
        format!(
            "not enough free physical CPUs: available physical CPUs = {available}, requested CPUs = {wanted}, CPUs per core = {threads}"
        )
    }
}

/// Upstream's `SMTAlignmentError`.
fn smt_error(why: String) -> Unallocatable {
    Unallocatable { reason: "SMTAlignmentError", message: format!("SMT Alignment Error: {why}") }
}

/// So many of these CPUs as the options have it.
fn take(layout: &Layout, options: StaticOptions, available: &CpuSet, wanted: usize) -> Option<CpuSet> {
    let wishes =
        Wishes { few_caches: options.prefer_few_caches, spread_cores: options.distribute_across_cores };
    if options.distribute_across_nodes {
        let group = if options.full_cores_only { layout.machine.threads_per_core() } else { 1 };
        return distributed(layout, available, wanted, group, wishes);
    }
    packed(layout, available, wanted, wishes)
}

impl HintProvider for CpuManager {
    fn hints(&self, pod: &Pod, container: &Container) -> ProviderHints {
        self.container_hints(pod, container)
    }

    fn pod_hints(&self, pod: &Pod) -> ProviderHints {
        self.hints_of_pod(pod)
    }

    fn allocate(&mut self, pod: &Pod, container: &Container, affinity: &Hint) -> Result<(), Unallocatable> {
        self.assign(pod, container, affinity.nodes).map(|_| ())
    }

    fn release(&mut self, uid: &PodUid) {
        self.guessed.remove(uid);
        if self.assigned.remove(uid).is_some() {
            self.refresh();
        }
    }
}
