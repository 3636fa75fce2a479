//! Giving one pod its share: hints are gathered, merged, and everyone allocates near what came of it (upstream's scopes
//! of the topology manager).

use k8s_openapi::api::core::v1::Container;
use rubelet_core::Pod;
use rubelet_core::containers::regular_containers;
use rubelet_core::cpu_manager::{CpuPolicy, exclusive_cpus};
use rubelet_core::ids::PodUid;
use rubelet_core::topology::{Hint, HintProvider as _, ProviderHints, Unallocatable};
use rubelet_core::topology_manager::{Merged, TopologyManager, TopologyPolicy, TopologyScope};
use tokio::time::Instant;

use super::{ContainerManager, Unallocated};

/// The boundary of one NUMA node, in metrics.
const NUMA_NODE: &str = "numa_node";
/// The boundary of whole cores.
const PHYSICAL_CPU: &str = "physical_cpu";
/// The boundary of one last-level cache.
const UNCORE_CACHE: &str = "uncore_cache";

impl ContainerManager {
    /// Gives a pod its share before anything of it is made. Changes nothing for one that has it.
    ///
    /// # Errors
    /// [`Unallocated`]; what the pod has got by then is its own until it is released.
    pub async fn allocate(&self, pod: &Pod) -> Result<(), Unallocated> {
        let Some(uid) = pod.metadata.uid.as_deref().map(PodUid::from) else { return Ok(()) };
        let metrics = &self.0.metrics.node;
        if self.state().served.contains(&uid) {
            return Ok(());
        }
        self.ready().await?;
        metrics.topology_requests.inc();
        if !self.concerns(pod) {
            self.state().served.insert(uid);
            metrics.topology_duration.observe(0.0);
            return Ok(());
        }
        let began = Instant::now();
        let turn = self.0.turn.lock().await;
        let had = self.has_any(&uid);
        let outcome = self.admit(pod).await;
        metrics.topology_duration.observe(began.elapsed().as_secs_f64() * 1000.0);
        let changed = match &outcome {
            Ok(()) => {
                self.state().served.insert(uid.clone());
                true
            }
            // What it had from before belongs to it until it has ended, and so does what it has while it waits.
            Err(Unallocated::Rejected(_)) if !had => self.take_back(&uid),
            Err(_) => true,
        };
        if changed {
            self.save().await;
            self.0.moved.notify_one();
        }
        drop(turn);
        match outcome {
            Err(Unallocated::Rejected(problem)) if !self.is_settled() => {
                Err(Unallocated::Waiting(format!("{problem}; what pods had that are gone is not known yet")))
            }
            Err(Unallocated::Rejected(problem)) => {
                metrics.topology_errors.inc();
                Err(Unallocated::Rejected(problem))
            }
            outcome => outcome,
        }
    }

    /// Whether anybody has anything to do for a pod.
    fn concerns(&self, pod: &Pod) -> bool {
        if self.0.providers.iter().any(|provider| provider.concerns(pod)) {
            return true;
        }
        let state = self.state();
        let pins = state.books.cpus.policy() != CpuPolicy::None
            && pod
                .spec
                .as_ref()
                .is_some_and(|spec| regular_containers(spec).any(|c| exclusive_cpus(pod, c) > 0));
        pins || state.books.memory.concerns(pod)
    }

    fn has_any(&self, uid: &PodUid) -> bool {
        let state = self.state();
        state.books.cpus.assignments().contains_key(uid) || state.books.memory.has(uid)
    }

    /// Whether everything that is assigned is some known pod's: before the first sweep pods that are gone may have some.
    fn is_settled(&self) -> bool {
        let state = self.state();
        self.0.swept.load(std::sync::atomic::Ordering::Relaxed)
            || state
                .books
                .cpus
                .assignments()
                .keys()
                .chain(state.books.memory.pods())
                .all(|uid| state.served.contains(uid))
    }

    async fn admit(&self, pod: &Pod) -> Result<(), Unallocated> {
        let Some(spec) = &pod.spec else { return Ok(()) };
        let topology = self.state().books.topology.clone();
        let of_pod = match topology.scope() {
            TopologyScope::Pod if topology.policy() != TopologyPolicy::None => {
                Some(self.merged(&topology, TopologyScope::Pod, &self.pod_hints(pod))?)
            }
            _ => None,
        };
        for container in regular_containers(spec) {
            let place = match of_pod {
                Some(place) => place,
                None if topology.policy() == TopologyPolicy::None => Hint { nodes: None, preferred: false },
                None => self.merged(&topology, TopologyScope::Container, &self.hints(pod, container))?,
            };
            for provider in &self.0.providers {
                provider.allocate(pod, container, place).await?;
            }
            self.allocate_own(pod, container, place)?;
            if of_pod.is_none() && topology.guarantees_alignment() {
                self.0.metrics.node.aligned.with([TopologyScope::Container.as_str(), NUMA_NODE]).inc();
            }
        }
        if of_pod.is_some() && topology.guarantees_alignment() {
            self.0.metrics.node.aligned.with([TopologyScope::Pod.as_str(), NUMA_NODE]).inc();
        }
        Ok(())
    }

    /// The best place, if the policy allows it.
    fn merged(
        &self,
        topology: &TopologyManager,
        scope: TopologyScope,
        hints: &[ProviderHints],
    ) -> Result<Hint, Unallocatable> {
        let Merged { hint, admit } = topology.merge(hints);
        if admit {
            return Ok(hint);
        }
        if topology.guarantees_alignment() {
            self.0.metrics.node.misaligned.with([scope.as_str(), NUMA_NODE]).inc();
        }
        Err(TopologyManager::rejection())
    }

    fn hints(&self, pod: &Pod, container: &Container) -> Vec<ProviderHints> {
        let mut hints: Vec<_> = self.0.providers.iter().map(|one| one.hints(pod, container)).collect();
        let state = self.state();
        hints.extend([state.books.cpus.hints(pod, container), state.books.memory.hints(pod, container)]);
        hints
    }

    fn pod_hints(&self, pod: &Pod) -> Vec<ProviderHints> {
        let mut hints: Vec<_> = self.0.providers.iter().map(|one| one.pod_hints(pod)).collect();
        let state = self.state();
        hints.extend([state.books.cpus.pod_hints(pod), state.books.memory.pod_hints(pod)]);
        hints
    }

    /// CPUs and memory of one container.
    fn allocate_own(&self, pod: &Pod, container: &Container, place: Hint) -> Result<(), Unallocatable> {
        let metrics = &self.0.metrics.node;
        let mut state = self.state();
        let options = match state.books.cpus.policy() {
            CpuPolicy::Static(options) if exclusive_cpus(pod, container) > 0 => Some(options),
            _ => None,
        };
        let scope = TopologyScope::Container.as_str();
        let allocated = state.books.cpus.allocate(pod, container, &place);
        if let Some(options) = options {
            metrics.cpu_requests.inc();
            if allocated.is_err() {
                metrics.cpu_errors.inc();
            }
            if options.full_cores_only {
                let aligned = if allocated.is_ok() { &metrics.aligned } else { &metrics.misaligned };
                aligned.with([scope, PHYSICAL_CPU]).inc();
            }
            let uid = PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default());
            let own = state.books.cpus.exclusive(&uid, &container.name);
            if options.prefer_few_caches
                && let Some(own) = own
            {
                let one_cache = state.books.cpus.is_cache_aligned(own);
                let aligned = if one_cache { &metrics.aligned } else { &metrics.misaligned };
                aligned.with([scope, UNCORE_CACHE]).inc();
            }
        }
        allocated?;
        if state.books.memory.concerns(pod) {
            metrics.memory_requests.inc();
            let allocated = state.books.memory.allocate(pod, container, &place);
            if allocated.is_err() {
                metrics.memory_errors.inc();
            }
            allocated?;
        }
        Ok(())
    }
}
