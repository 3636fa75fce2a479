//! Devices of plugins: which there are, who has which. Carries out what `rubelet_core::devices` decides: hears plugins,
//! asks them, keeps the checkpoint, tells the Node, statuses and the podresources API.
//!
//! Owns the order of these and the one turn in which devices are given. The container manager asks it for each container
//! ([`ContainerProvider`]); plugins are spoken to by `rubelet_plugins::device`. It never ends or starts a container.

mod checkpoint;
mod listing;
mod pod_resources;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, PodStatus};
use rubelet_core::Pod;
use rubelet_core::devices::{Count, DeviceBook, Need};
use rubelet_core::ids::{PodUid, pod_uid};
use rubelet_core::topology::{Hint, NumaMask, ProviderHints, Unallocatable};
use rubelet_plugins::PluginHandler;
use rubelet_plugins::device::{AllocateError, DevicePlugins, encode};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{info, warn};

pub(crate) use pod_resources::{PodResourcesSource, serve_pod_resources};

use self::checkpoint::CheckpointFile;
use crate::container_manager::{ContainerProvider, ContainerShare, Unallocated};
use crate::fs_pool::FsPool;
use crate::metrics::Metrics;
use crate::pod_wakes::PodWakes;

/// Folder of device plugins and of the checkpoint, in the root directory.
pub(crate) const FOLDER: &str = "device-plugins";

/// What devices are kept with.
pub struct DeviceParts {
    /// NUMA nodes of the machine.
    pub nodes: NumaMask,
    /// Where the checkpoint is written.
    pub fs: FsPool,
    /// Wakes pods that wait for a plugin, or whose device has fallen ill.
    pub wakes: PodWakes,
    /// Whether statuses tell how devices are (gate ResourceHealthStatus).
    pub tells_health: bool,
    /// Where it is counted.
    pub metrics: Metrics,
}

/// The devices of the node; cheap to clone.
#[derive(Clone)]
pub struct Devices {
    state: Arc<State>,
    plugins: DevicePlugins,
}

/// What is known of devices, and whoever wants to hear of it. Plugins speak to it (`listing`).
struct State {
    parts: DeviceParts,
    /// Moments are counted from here.
    born: Instant,
    book: Mutex<DeviceBook>,
    /// Pods that wait for a plugin: bounded by the pods there are.
    waiting: Mutex<BTreeSet<PodUid>>,
    file: CheckpointFile,
    /// Something changed that the task has to see to: the file, or when a plugin is given up.
    news: Notify,
    /// Counts changes of what the Node tells.
    told: watch::Sender<u64>,
    /// Held by whoever gives devices: what is chosen is free until it is given.
    turn: tokio::sync::Mutex<()>,
}

impl State {
    fn book(&self) -> MutexGuard<'_, DeviceBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<PodUid>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.born.elapsed()
    }

    /// Has pods that wait for a plugin ask again.
    fn wake_waiting(&self) {
        for uid in std::mem::take(&mut *self.waiting()) {
            self.parts.wakes.wake(&uid);
        }
    }

    /// The book is other than the file.
    fn changed(&self) {
        self.file.is_old();
        self.news.notify_one();
    }

    async fn save(&self) {
        self.file.save(&self.parts.fs, || self.book().checkpoint()).await;
    }
}

impl Devices {
    /// The devices of a node with this root directory, with what an earlier run has written down.
    pub async fn load(root_dir: &Path, parts: DeviceParts) -> Self {
        let folder = root_dir.join(FOLDER);
        let file = CheckpointFile::new(&folder);
        let mut book = DeviceBook::new(parts.nodes);
        if let Some(checkpoint) = file.load(&parts.fs).await {
            book.restore(checkpoint, Duration::ZERO);
        }
        Self::with(&folder, file, book, parts)
    }

    /// A node's devices of which nothing was written down.
    #[cfg(test)]
    pub(crate) fn unknown(root_dir: &Path, parts: DeviceParts) -> Self {
        let folder = root_dir.join(FOLDER);
        let book = DeviceBook::new(parts.nodes);
        Self::with(&folder, CheckpointFile::new(&folder), book, parts)
    }

    fn with(folder: &Path, file: CheckpointFile, book: DeviceBook, parts: DeviceParts) -> Self {
        let state = Arc::new(State {
            parts,
            born: Instant::now(),
            book: Mutex::new(book),
            waiting: Mutex::default(),
            file,
            news: Notify::new(),
            told: watch::Sender::new(0),
            turn: tokio::sync::Mutex::default(),
        });
        let plugins = DevicePlugins::new(folder.to_owned(), state.clone());
        Self { state, plugins }
    }

    /// Takes device plugins that register in the folder of all plugins.
    pub fn handler(&self) -> Arc<dyn PluginHandler> {
        Arc::new(self.plugins.clone())
    }

    /// Takes registrations, gives up plugins that do not come back and keeps the checkpoint, until dropped. At rest it
    /// waits for either.
    pub async fn run(self) {
        let serving = async {
            if let Err(error) = self.plugins.clone().serve().await {
                warn!("device plugins cannot register: {error}");
            }
            std::future::pending::<()>().await;
        };
        let keeping = async {
            loop {
                self.state.save().await;
                let next = self.state.book().next_expiry().map(|at| self.state.born + at);
                let expiry = async {
                    match next {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                // Both arms keep their news: a permit stays in the Notify, and what is due stays in the book.
                tokio::select! {
                    biased;
                    () = self.state.news.notified() => {}
                    () = expiry => self.expire(),
                }
            }
        };
        tokio::join!(serving, keeping);
    }

    fn expire(&self) {
        let state = &self.state;
        let gone = state.book().expire(state.now());
        for resource in gone {
            info!(resource, "its device plugin did not come back: the node has none of it any more");
            state.told.send_modify(|version| *version += 1);
            state.changed();
        }
        state.wake_waiting();
    }

    /// What the Node tells of devices, by resource.
    pub fn counts(&self) -> BTreeMap<String, Count> {
        self.state.book().counts()
    }

    /// Changes whenever [`Self::counts`] may have.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.state.told.subscribe()
    }

    /// Writes into a status how the devices of containers are (`allocatedResourcesStatus`).
    pub fn tell_health(&self, uid: &PodUid, status: &mut PodStatus) {
        if !self.state.parts.tells_health {
            return;
        }
        let book = self.state.book();
        for container in status.container_statuses.iter_mut().flatten() {
            let health = book.health(uid, &container.name);
            if !health.is_empty() {
                container.allocated_resources_status.get_or_insert_default().extend(health);
            }
        }
    }

    /// Gives a container what it asks for of one resource, if it has not got it.
    async fn give(
        &self,
        pod: &Pod,
        container: &Container,
        wish: (&str, usize),
        affinity: &Hint,
    ) -> Result<(), Unallocated> {
        let (state, uid) = (&self.state, pod_uid(pod));
        let wait = |text: String| {
            state.waiting().insert(uid.clone());
            Err(Unallocated::Waiting(text))
        };
        let refused = |problem: String| Err(Unallocated::Rejected(Unallocatable::unexpected(problem)));
        let resource = wish.0;
        let need = state.book().need(pod, container, wish, affinity, state.now());
        let choice = match need {
            Ok(Need::Nothing) => return Ok(()),
            Ok(Need::Wait(text)) => return wait(text),
            Ok(Need::Choose(choice)) => choice,
            Err(refusal) => return refused(refusal.to_string()),
        };
        let Some(plugin) = self.plugins.get(resource) else {
            return wait(format!("waiting for the device plugin of {resource}, which has gone"));
        };
        let preferred =
            match choice.ask.clone().filter(|_| plugin.options().get_preferred_allocation_available) {
                None => Vec::new(),
                // What it would rather give is a wish: a plugin that does not say it gets none.
                Some(ask) => plugin
                    .preferred(ask.available, ask.must_include, ask.size)
                    .await
                    .unwrap_or_else(|problem| {
                        warn!(
                            resource,
                            problem, "a device plugin does not say which devices it would rather give"
                        );
                        Vec::new()
                    }),
            };
        let ids = choice.settle(&preferred);
        let began = Instant::now();
        let answer = plugin.allocate(ids.clone()).await;
        state.parts.metrics.devices.alloc_duration.with([resource]).observe(began.elapsed().as_secs_f64());
        let answer = match answer {
            Ok(answer) => answer,
            Err(AllocateError::Lost(problem)) => {
                return wait(format!(
                    "waiting for the device plugin of {resource}, which has gone: {problem}"
                ));
            }
            Err(AllocateError::Refused(problem)) => return refused(problem),
        };
        state.book().commit((&uid, &container.name), resource, &ids, encode(&answer));
        state.changed();
        Ok(())
    }
}

impl ContainerProvider for Devices {
    fn concerns(&self, pod: &Pod) -> bool {
        self.state.book().concerns(pod)
    }

    fn hints(&self, pod: &Pod, container: &Container) -> ProviderHints {
        self.state.book().hints(pod, container)
    }

    fn pod_hints(&self, pod: &Pod) -> ProviderHints {
        self.state.book().pod_hints(pod)
    }

    fn allocate<'a>(
        &'a self,
        pod: &'a Pod,
        container: &'a Container,
        affinity: Hint,
    ) -> BoxFuture<'a, Result<(), Unallocated>> {
        async move {
            let _turn = self.state.turn.lock().await;
            let wishes = self.state.book().wishes(pod, container);
            for (resource, count) in &wishes {
                self.give(pod, container, (resource, *count), &affinity).await?;
            }
            // On the disk before anything of the container is made: nobody else gets its devices after a restart.
            self.state.save().await;
            Ok(())
        }
        .boxed()
    }

    fn share(&self, uid: &PodUid, container: &str) -> ContainerShare {
        share::of_container(&self.state.book(), uid, container)
    }

    fn before_start<'a>(&'a self, uid: &'a PodUid, container: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let wanted: Vec<(String, Vec<String>)> = {
                let book = self.state.book();
                let asks = |resource: &str| book.options(resource).is_some_and(|options| options.pre_start);
                let had = book.of_container(uid, container).filter(|(resource, _)| asks(resource));
                let ids = |ids: BTreeSet<&str>| ids.into_iter().map(str::to_owned).collect();
                had.map(|(resource, had)| (resource.to_owned(), ids(had.id_set()))).collect()
            };
            for (resource, ids) in wanted {
                let plugin = self.plugins.get(&resource);
                let plugin = plugin.ok_or_else(|| format!("endpoint {resource} has been stopped"))?;
                plugin.pre_start(ids).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn release(&self, uid: &PodUid) {
        self.state.waiting().remove(uid);
        if self.state.book().release(uid) {
            self.state.changed();
        }
    }

    fn sweep(&self, known: &dyn Fn(&PodUid) -> bool) {
        self.state.waiting().retain(known);
        if !self.state.book().retain(known).is_empty() {
            self.state.changed();
        }
    }
}
