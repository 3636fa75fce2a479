//! The control groups of pods: made before the sandbox, set to what the pod may use, ended and removed with it.
//!
//! Owns the groups from `kubepods` down to each pod's; those of containers are the runtime's. Workers ask for their
//! pod's group and wait for it; the classes' groups, the limit of all pods and reserved groups are one task's
//! ([`task`]), which looks when a pod begins or ends, and each minute in case somebody else wrote to them. What a group
//! is set to is core's decision; who writes it is behind [`writer::CgroupWriter`]. A simulated node has no groups.

mod kernel;
mod settings;
pub mod systemd;
mod task;
pub mod writer;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rubelet_core::Pod;
use rubelet_core::ids::PodUid;
use rubelet_core::lifecycle::{ContainersStopped, PodState};
use rubelet_core::qos::{QosClass, pod_qos};
use rubelet_core::resources::{
    CgroupRoot, GroupSettings, QosGroups, all_pods_settings, cgroup_path, pod_group_settings, pod_of_group,
    qos_groups,
};
use rubelet_linux::cgroup::{CgroupTree, GroupReading};
use rubelet_linux::fs_pool::FsError;
use rubelet_server::metrics::Metrics;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

pub use self::kernel::settle as settle_kernel;
pub use self::settings::{CgroupSettings, complete_facts};
use self::writer::{CgroupWriter, WriteError};
use crate::events::EventRecorder;
use crate::fs_pool::FsPool;
use crate::runtime_monitor::RuntimeState;
use crate::table::PodTable;

/// How long what is left in a group is killed before the pod's end is tried again.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Why a pod's group is not as it is to be.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// It could not be made.
    #[error("failed to create container for {group}")]
    Make {
        /// The group.
        group: String,
        /// Why.
        #[source]
        source: WriteError,
    },
    /// It could not be set.
    #[error("failed to set the resources of {group}")]
    Set {
        /// The group.
        group: String,
        /// Why.
        #[source]
        source: WriteError,
    },
    /// It could not be removed.
    #[error("failed to delete {group}")]
    Remove {
        /// The group.
        group: String,
        /// Why.
        #[source]
        source: WriteError,
    },
    /// What runs in it could not be ended.
    #[error("failed to kill all the processes attached to {group}")]
    Kill {
        /// The group.
        group: String,
        /// Why, if the kernel refused; they may just not have ended yet.
        #[source]
        source: Option<FsError>,
    },
}

/// What the groups are made with.
pub struct CgroupParts {
    /// Settings.
    pub settings: CgroupSettings,
    /// The mounted hierarchies.
    pub tree: CgroupTree,
    /// Who writes.
    pub writer: Arc<dyn CgroupWriter>,
    /// Where blocking work goes.
    pub fs: FsPool,
    /// What the pods are.
    pub table: PodTable,
    /// Which driver the runtime uses.
    pub runtime_state: watch::Receiver<RuntimeState>,
    /// Events of the node.
    pub events: EventRecorder,
    /// What is counted.
    pub metrics: Metrics,
}

/// The groups of pods; cheap to clone.
#[derive(Clone)]
pub struct Cgroups(Option<Arc<Shared>>);

/// Says whether a pod has CPUs of its own.
type ExclusiveCpus = Box<dyn Fn(&PodUid) -> bool + Send + Sync>;

struct Shared {
    parts: CgroupParts,
    /// The root for which the groups above pods are there.
    ready: Mutex<Option<CgroupRoot>>,
    /// A pod began or ended.
    news: Notify,
    exclusive: OnceLock<ExclusiveCpus>,
}

impl Cgroups {
    /// The groups of this machine.
    pub fn new(parts: CgroupParts) -> Self {
        let (ready, news, exclusive) = (Mutex::default(), Notify::new(), OnceLock::new());
        Self(Some(Arc::new(Shared { parts, ready, news, exclusive })))
    }

    /// A node without groups of its own: a simulated one.
    pub fn none() -> Self {
        Self(None)
    }

    /// From now on `has` says which pods have CPUs of their own; said once.
    pub fn exclusive_cpus_by(&self, has: impl Fn(&PodUid) -> bool + Send + Sync + 'static) {
        if let Some(shared) = &self.0 {
            let _said_before = shared.exclusive.set(Box::new(has));
        }
    }

    /// The shared part and the root, on a node whose pods have groups.
    fn with_tree(&self) -> Option<(&Shared, CgroupRoot)> {
        let shared = self.0.as_deref()?;
        let root = shared.root();
        root.per_qos.then_some((shared, root))
    }

    /// What a pod's group is to be set to; nothing where pods have none.
    pub fn pod_settings(&self, pod: &Pod, uid: &PodUid) -> GroupSettings {
        match self.with_tree() {
            Some((shared, _)) => shared.pod_settings(pod, uid),
            None => GroupSettings::default(),
        }
    }

    /// The group of a pod that is known, as a path from the hierarchy's root.
    pub fn pod_group(&self, uid: &PodUid) -> Option<String> {
        let (shared, root) = self.with_tree()?;
        let row = shared.parts.table.get(uid)?;
        Some(cgroup_path(&root, pod_qos(&row.pod), Some(uid)))
    }

    /// Makes a pod's group, and those above it that are not there, and sets it as the pod says.
    ///
    /// # Errors
    /// When the kernel refuses something of it; the pod is not to run in a group without its limits.
    pub async fn ensure_pod(&self, pod: &Pod, uid: &PodUid) -> Result<(), CgroupError> {
        let Some((shared, root)) = self.with_tree() else { return Ok(()) };
        shared.ensure_above(&root).await?;
        let group = cgroup_path(&root, pod_qos(pod), Some(uid));
        let settings = shared.pod_settings(pod, uid);
        shared.make(group, &settings).await?;
        shared.news.notify_one();
        Ok(())
    }

    /// Sets what is given of a pod's group, and leaves the rest.
    ///
    /// # Errors
    /// When the kernel refuses something of it; the rest is set.
    pub async fn set_pod(
        &self,
        pod: &Pod,
        uid: &PodUid,
        settings: &GroupSettings,
    ) -> Result<(), CgroupError> {
        let Some((shared, root)) = self.with_tree() else { return Ok(()) };
        let group = cgroup_path(&root, pod_qos(pod), Some(uid));
        let set = shared.set(&group, settings).await;
        shared.news.notify_one();
        set.map_err(|source| CgroupError::Set { group, source })
    }

    /// What a pod's group is set to, and what it uses; nothing where it is not there.
    pub async fn read_pod(&self, pod: &Pod, uid: &PodUid) -> GroupReading {
        let Some((shared, root)) = self.with_tree() else { return GroupReading::default() };
        shared.read(&cgroup_path(&root, pod_qos(pod), Some(uid))).await
    }

    /// Ends what runs in a pod's group although none of its containers does: what the runtime lost, or never knew of.
    ///
    /// # Errors
    /// When something still runs after some seconds.
    pub async fn kill_left(&self, proof: &ContainersStopped, pod: &Pod) -> Result<(), CgroupError> {
        let Some((shared, root)) = self.with_tree() else { return Ok(()) };
        shared.kill_left(&cgroup_path(&root, pod_qos(pod), Some(proof.uid()))).await
    }

    /// Ends what is left in a pod's group and removes it.
    ///
    /// # Errors
    /// When something in it does not end, or the kernel refuses.
    pub async fn remove_pod(
        &self,
        proof: &ContainersStopped,
        pod: &Pod,
        uid: &PodUid,
    ) -> Result<(), CgroupError> {
        let Some((shared, root)) = self.with_tree() else { return Ok(()) };
        if proof.uid() != uid {
            return Ok(());
        }
        let group = cgroup_path(&root, pod_qos(pod), Some(uid));
        shared.kill_left(&group).await?;
        let removed = shared.remove(&group).await;
        shared.news.notify_one();
        removed.map_err(|source| CgroupError::Remove { group, source })
    }

    /// Removes groups of pods that nobody knows and in which nothing runs. Those in which something runs are told of:
    /// it may be what a runtime has forgotten.
    pub async fn sweep(&self, known: impl Fn(&PodUid) -> bool) {
        let Some((shared, root)) = self.with_tree() else { return };
        for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
            let above = cgroup_path(&root, class, None);
            for name in shared.children(&above).await {
                let Some(uid) = pod_of_group(root.driver, &name).filter(|uid| !known(uid)) else { continue };
                let group = format!("{above}/{name}");
                match shared.is_populated(&group).await {
                    Ok(false) => match shared.remove(&group).await {
                        Ok(()) => info!(%uid, "removed the control group of a pod that is gone"),
                        Err(error) => warn!("{}", crate::logging::chain(&error)),
                    },
                    Ok(true) => {
                        warn!(%uid, "something runs in {group}, the control group of a pod that is gone")
                    }
                    Err(error) => warn!("{}", crate::logging::chain(&error)),
                }
            }
        }
    }

    /// Keeps the groups above pods as they are to be; never ends.
    pub async fn run(self) {
        match self.0 {
            Some(shared) => task::run(&shared).await,
            None => std::future::pending().await,
        }
    }
}

impl Shared {
    /// The tree's root, with the driver the runtime told.
    fn root(&self) -> CgroupRoot {
        self.parts.runtime_state.borrow().cgroup_root(&self.parts.settings.root)
    }

    fn pod_settings(&self, pod: &Pod, uid: &PodUid) -> GroupSettings {
        let exclusive = self.exclusive.get().is_some_and(|has| has(uid));
        pod_group_settings(pod, &self.parts.settings.facts, exclusive)
    }

    /// What the classes are to be set to with the pods there are now.
    fn classes(&self) -> QosGroups {
        let rows = self.parts.table.snapshot();
        let active =
            rows.values().filter(|row| matches!(row.state, PodState::Syncing | PodState::Terminating { .. }));
        qos_groups(active.map(|row| &*row.pod), &self.parts.settings.qos)
    }

    fn all_pods(&self, root: &CgroupRoot) -> GroupSettings {
        let settings = &self.parts.settings;
        // Where the agent itself is confined, so are its pods.
        let above = self.parts.tree.cpus(&root.root);
        let cpus = settings.all_cpus.clone().map(|all| match &above {
            Some(above) => all.intersection(above),
            None => all,
        });
        all_pods_settings(&settings.capacity, &settings.reservations, &settings.enforcement, cpus)
    }

    /// Makes the groups above pods, once for a root.
    async fn ensure_above(&self, root: &CgroupRoot) -> Result<(), CgroupError> {
        let mut ready = self.ready.lock().await;
        if ready.as_ref() == Some(root) {
            return Ok(());
        }
        let all = cgroup_path(root, QosClass::Guaranteed, None);
        self.make(all.clone(), &GroupSettings::default()).await?;
        // What the kernel refuses of it is told by the task, which tries again.
        if let Err(error) = self.set(&all, &self.all_pods(root)).await {
            debug!("{}", crate::logging::chain(&error));
        }
        let classes = self.classes();
        for (class, settings) in
            [(QosClass::Burstable, &classes.burstable), (QosClass::BestEffort, &classes.best_effort)]
        {
            // Limits are the task's; a class without them can take pods.
            let settings = GroupSettings { memory: None, ..settings.clone() };
            self.make(cgroup_path(root, class, None), &settings).await?;
        }
        *ready = Some(root.clone());
        Ok(())
    }

    async fn make(&self, group: String, settings: &GroupSettings) -> Result<(), CgroupError> {
        let made = self.counted("create", self.parts.writer.make(&group, settings)).await;
        made.map_err(|source| CgroupError::Make { group, source })
    }

    async fn set(&self, group: &str, settings: &GroupSettings) -> Result<(), WriteError> {
        self.counted("update", self.parts.writer.set(group, settings)).await
    }

    async fn remove(&self, group: &str) -> Result<(), WriteError> {
        self.counted("destroy", self.parts.writer.remove(group)).await
    }

    async fn counted<T>(&self, operation: &str, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let done = work.await;
        self.parts.metrics.node.cgroup_duration.with([operation]).observe_duration(began.elapsed());
        done
    }

    async fn read(&self, group: &str) -> GroupReading {
        let (tree, group) = (self.parts.tree.clone(), group.to_owned());
        let read = self.parts.fs.run(format!("read cgroup {group}"), move || Ok(tree.read(&group)));
        read.await.inspect_err(|error| debug!("{}", crate::logging::chain(error))).unwrap_or_default()
    }

    async fn children(&self, group: &str) -> Vec<String> {
        let (tree, group) = (self.parts.tree.clone(), group.to_owned());
        let work = move || Ok(tree.children(&group).into_iter().collect());
        self.parts.fs.run("list cgroups of pods", work).await.unwrap_or_default()
    }

    async fn is_populated(&self, group: &str) -> Result<bool, FsError> {
        let (tree, owned) = (self.parts.tree.clone(), group.to_owned());
        self.parts.fs.run(format!("read cgroup {group}"), move || Ok(tree.is_populated(&owned))).await
    }

    async fn kill_left(&self, group: &str) -> Result<(), CgroupError> {
        let failed = |source| CgroupError::Kill { group: group.to_owned(), source };
        let began = Instant::now();
        let mut pause = Duration::from_millis(5);
        let mut told = false;
        while self.is_populated(group).await.map_err(|error| failed(Some(error)))? {
            if began.elapsed() > KILL_LIMIT {
                return Err(failed(None));
            }
            if !std::mem::replace(&mut told, true) {
                info!(group, "killing what runs in the control group of a pod whose containers have ended");
            }
            let (tree, owned) = (self.parts.tree.clone(), group.to_owned());
            let killed = self.parts.fs.run(format!("kill cgroup {group}"), move || tree.kill(&owned));
            killed.await.map_err(|error| failed(Some(error)))?;
            // What was killed takes a moment to be gone.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
        Ok(())
    }
}

/// The kernel settings of this machine.
pub const SYSCTLS: &str = "/proc/sys";

/// The tree of this machine, unless it is simulated or has none.
pub fn machine_tree(simulated: bool) -> Option<CgroupTree> {
    if simulated {
        return None;
    }
    CgroupTree::find(Path::new(rubelet_linux::cgroup::MOUNT))
        .inspect_err(|error| warn!("pods get no control groups of the agent's: {error}"))
        .ok()
}

#[cfg(test)]
mod tests;
