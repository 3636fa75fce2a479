//! The share of the machine that each container gets: CPUs, memory nodes, devices. Owns the books of CPUs and memory,
//! their checkpoints, and who is asked in which order; never starts or stops anything. What is decided is
//! `rubelet_core`'s (`cpu_manager`, `memory_manager`, `topology_manager`).
//!
//! Workers call [`ContainerManager::allocate`] before anything of a pod is made, [`ContainerManager::adopt`] for one
//! that runs already, [`ContainerManager::share`] for each container, [`ContainerManager::release`] when nothing of the
//! pod runs any more. The task [`ContainerManager::run`] moves containers that run when the shared CPUs change.

mod admit;
mod provider;
mod reconcile;
mod settings;
mod share;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rubelet_core::Pod;
use rubelet_core::containers::regular_containers;
use rubelet_core::cpu_set::CpuSet;
use rubelet_core::ids::{ContainerId, PodUid};
use rubelet_core::lifecycle::ContainersStopped;
use rubelet_core::topology::{HintProvider as _, NumaMask};
use rubelet_cri::RuntimeService;
use rubelet_server::metrics::node::{CPUS_BY_NODE, CPUS_EXCLUSIVE, CPUS_SHARED};
use tokio::sync::{Mutex as AsyncMutex, Notify, OnceCell};
use tracing::{info, warn};

use crate::fs_pool::FsPool;
use crate::metrics::Metrics;
use store::Store;

pub use provider::{ContainerProvider, Unallocated};
pub use settings::{Books, needs_topology, plain_machine};
pub use share::ContainerShare;

/// What a manager is made from.
pub struct ContainerParts {
    /// Books without entries.
    pub books: Books,
    /// Managers of devices and the like, asked before CPUs and memory, in this order.
    pub providers: Vec<Arc<dyn ContainerProvider>>,
    /// The agent's directory, where the checkpoints are.
    pub root_dir: PathBuf,
    /// For the checkpoints.
    pub fs: FsPool,
    /// The runtime.
    pub runtime: Arc<dyn RuntimeService>,
    /// `cpuManagerReconcilePeriod`: the pause before containers that could not be moved are moved again.
    pub period: Duration,
    /// Where it is counted.
    pub metrics: Metrics,
}

/// The handle; cheap to clone.
#[derive(Clone)]
pub struct ContainerManager(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    providers: Vec<Arc<dyn ContainerProvider>>,
    store: Store,
    runtime: Arc<dyn RuntimeService>,
    metrics: Metrics,
    period: Duration,
    /// Whether the CPUs or the memory of any pod are assigned.
    is_static: bool,
    /// What was assigned before this agent began is known.
    restored: OnceCell<()>,
    /// One pod is given its share at a time: what one is offered another could take.
    turn: AsyncMutex<()>,
    /// What pods that are gone had was taken back once: before, there may be less than it seems.
    swept: AtomicBool,
    /// Containers may have to be moved.
    moved: Notify,
}

/// What changes.
struct State {
    books: Books,
    /// Pods that have what they ask for.
    served: BTreeSet<PodUid>,
    /// Memory nodes of containers that ran when the agent began.
    found: BTreeMap<(PodUid, String), NumaMask>,
    /// CPUs that a container's configuration was last made with.
    given: BTreeMap<(PodUid, String), CpuSet>,
    /// CPUs that running containers were last moved to.
    applied: BTreeMap<ContainerId, CpuSet>,
    /// Containers may be pinned by a policy that is not in force any more.
    unpin: bool,
}

impl ContainerManager {
    /// A manager that has asked nobody yet.
    pub fn new(parts: ContainerParts) -> Self {
        let ContainerParts { books, providers, root_dir, fs, runtime, period, metrics } = parts;
        let pins = books.cpus.policy().as_str() != "none";
        let is_static = pins || books.memory.is_static();
        let state = State {
            books,
            served: BTreeSet::new(),
            found: BTreeMap::new(),
            given: BTreeMap::new(),
            applied: BTreeMap::new(),
            unpin: false,
        };
        let manager = Self(Arc::new(Shared {
            state: Mutex::new(state),
            providers,
            store: Store::new(root_dir, fs),
            runtime,
            metrics,
            period,
            is_static,
            restored: OnceCell::new(),
            turn: AsyncMutex::new(()),
            swept: AtomicBool::new(false),
            moved: Notify::new(),
        }));
        manager.tell_figures();
        manager
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how CPUs are divided whenever metrics are asked for.
    fn tell_figures(&self) {
        let shared = Arc::downgrade(&self.0);
        self.0.metrics.collect_with(move |page| {
            let Some(shared) = shared.upgrade() else { return };
            let figures = Self(shared).state().books.cpus.figures();
            // A page has no use for more digits than a number of CPUs has.
            let number = |count: u64| u32::try_from(count).map_or(f64::MAX, f64::from);
            page.tell(&CPUS_SHARED, &[], number(figures.shared_pool_millis));
            page.tell(&CPUS_EXCLUSIVE, &[], number(figures.exclusive));
            for (node, count) in figures.exclusive_by_node {
                page.tell(&CPUS_BY_NODE, &[&node.to_string()], number(count));
            }
        });
    }

    /// Reads what was assigned before this agent began, once.
    async fn ready(&self) -> Result<(), Unallocated> {
        let restoring = self.0.restored.get_or_try_init(|| async {
            let stored = self.0.store.load().await;
            let running = match self.0.is_static {
                true => store::running(&*self.0.runtime).await?,
                false => vec![],
            };
            self.restore(&stored, running);
            Ok::<(), rubelet_cri::CriError>(())
        });
        let restored = restoring.await.map(drop);
        restored.map_err(|error| Unallocated::Waiting(format!("cannot tell which CPUs are in use: {error}")))
    }

    fn restore(
        &self,
        stored: &store::Stored,
        running: Vec<(rubelet_core::cpu_manager::RunningContainer, NumaMask)>,
    ) {
        let mut state = self.state();
        for (container, nodes) in &running {
            if !nodes.is_empty() {
                state.found.insert((container.uid.clone(), container.container.clone()), *nodes);
            }
        }
        let running: Vec<_> = running.into_iter().map(|(container, _)| container).collect();
        let restored = state.books.cpus.restore(stored.cpus.as_deref(), &running);
        state.unpin = restored.unpin;
        for problem in restored.problems {
            warn!("cpu_manager_state: {problem}");
        }
        if let Some(text) = &stored.memory {
            for problem in state.books.memory.restore(text) {
                warn!("memory_manager_state: {problem}; what runs is kept as it is");
            }
        }
    }

    /// Writes the checkpoints.
    async fn save(&self) {
        if !self.0.is_static && self.0.restored.get().is_none() {
            return;
        }
        let (cpus, memory) = {
            let state = self.state();
            (state.books.cpus.state(), state.books.memory.state())
        };
        self.0.store.save(cpus, memory).await;
    }

    /// Takes up a pod that runs already, with these containers. It is never rejected: what it cannot have it goes without.
    /// Call once before anything else of the pod.
    pub async fn adopt(&self, pod: &Pod, running: &BTreeSet<&str>) {
        if !self.0.is_static || self.ready().await.is_err() {
            return;
        }
        let Some(uid) = pod.metadata.uid.as_deref().map(PodUid::from) else { return };
        let problems = {
            let mut state = self.state();
            let problems = state.books.cpus.adopt(pod, running);
            if let Some(spec) = &pod.spec {
                for container in regular_containers(spec) {
                    let found = state.found.remove(&(uid.clone(), container.name.clone()));
                    if let Some(nodes) = found {
                        state.books.memory.adopt(pod, container, nodes);
                    }
                }
            }
            state.served.insert(uid);
            problems
        };
        for problem in problems {
            warn!("{problem}");
        }
        self.save().await;
        self.0.moved.notify_one();
    }

    /// What a container of a pod gets.
    pub fn share(&self, uid: &PodUid, container: &str) -> ContainerShare {
        let mut share = {
            let mut state = self.state();
            let cpus = state.books.cpus.cpus(uid, container);
            if let Some(cpus) = &cpus {
                state.given.insert((uid.clone(), container.to_owned()), cpus.clone());
            }
            ContainerShare {
                exclusive_cpus: state.books.no_quota && state.books.cpus.exclusive(uid, container).is_some(),
                cpus,
                memory_nodes: state.books.memory.nodes(uid, container),
                ..ContainerShare::default()
            }
        };
        for provider in &self.0.providers {
            share.add(provider.share(uid, container));
        }
        share
    }

    /// Whether a container of the pod has CPUs of its own and no quota: its pod then has none either.
    pub fn has_exclusive_cpus(&self, uid: &PodUid) -> bool {
        let state = self.state();
        state.books.no_quota && state.books.cpus.pod_has_exclusive(uid)
    }

    /// The CPUs that are a container's own; none for one that shares (podresources).
    pub fn cpus(&self, uid: &PodUid, container: &str) -> CpuSet {
        self.state().books.cpus.exclusive(uid, container).cloned().unwrap_or_default()
    }

    /// CPUs that containers could have for their own (podresources).
    pub fn allocatable_cpus(&self) -> CpuSet {
        self.state().books.cpus.allocatable()
    }

    /// The memory of a container: type, bytes and nodes (podresources).
    pub fn memory(&self, uid: &PodUid, container: &str) -> Vec<(String, u64, NumaMask)> {
        let state = self.state();
        let blocks = state.books.memory.blocks(uid, container).iter();
        blocks.map(|block| (block.kind.clone(), block.size, block.mask())).collect()
    }

    /// Memory that can be assigned: type, bytes and node (podresources).
    pub fn allocatable_memory(&self) -> Vec<(String, u64, NumaMask)> {
        let blocks = self.state().books.memory.allocatable();
        blocks.into_iter().map(|block| (block.kind.clone(), block.size, block.mask())).collect()
    }

    /// Right before the runtime starts an instance of the container.
    ///
    /// # Errors
    /// Why it cannot start.
    pub async fn before_start(&self, uid: &PodUid, container: &str) -> Result<(), String> {
        let stale = {
            let state = self.state();
            let given = state.given.get(&(uid.clone(), container.to_owned()));
            given.is_some_and(|given| state.books.cpus.cpus(uid, container).as_ref() != Some(given))
        };
        if stale {
            // The shared CPUs changed while it was made.
            self.0.moved.notify_one();
        }
        for provider in &self.0.providers {
            provider.before_start(uid, container).await?;
        }
        Ok(())
    }

    /// Takes back what a pod has: nothing of it runs.
    pub async fn release(&self, proof: &ContainersStopped) {
        if self.take_back(proof.uid()) {
            self.save().await;
            self.0.moved.notify_one();
        }
        for provider in &self.0.providers {
            provider.release(proof.uid());
        }
    }

    /// Takes CPUs and memory of a pod back; whether it had any.
    fn take_back(&self, uid: &PodUid) -> bool {
        let mut state = self.state();
        state.served.remove(uid);
        state.given.retain(|(of, _), _| of != uid);
        state.found.retain(|(of, _), _| of != uid);
        let before = (state.books.cpus.assignments().contains_key(uid), state.books.memory.has(uid));
        state.books.cpus.release(uid);
        state.books.memory.release(uid);
        before != (false, false)
    }

    /// Takes back what pods have that are gone: those that are not among `known`, which is complete.
    pub async fn sweep(&self, known: impl Fn(&PodUid) -> bool) {
        let gone: Vec<PodUid> = {
            let state = self.state();
            let pods = state.books.cpus.assignments().keys().chain(state.books.memory.pods());
            let gone: BTreeSet<&PodUid> = pods.filter(|uid| !known(uid)).collect();
            gone.into_iter().cloned().collect()
        };
        for uid in &gone {
            info!(%uid, "CPUs and memory of a pod that is gone are taken back");
            self.take_back(uid);
        }
        self.0.swept.store(true, Ordering::Relaxed);
        if !gone.is_empty() {
            self.save().await;
            self.0.moved.notify_one();
        }
        for provider in &self.0.providers {
            provider.sweep(&known);
        }
    }
}
