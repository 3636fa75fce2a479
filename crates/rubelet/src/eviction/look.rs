//! How the task sees the node: what is left of memory, disks and process IDs, how disks are laid out, and what the
//! kernel tells by itself.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rubelet_core::eviction::{EvictionConfig, Layout};
use rubelet_core::node::pressure::{Observations, Signal};
use rubelet_core::qos::QosClass;
use rubelet_core::resources::{CgroupRoot, cgroup_path};
use rubelet_cri::{ImageService, v1};
use rubelet_linux::memory_trigger::{Crossing, MemoryTriggers};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::fs_pool::FsPool;
use crate::node_agent::{NodeProbe, Usage};
use crate::runtime_monitor::RuntimeState;
use crate::services::Services;

/// How long one question to the image service may take before it counts as unanswered.
const IMAGE_FS_LIMIT: Duration = Duration::from_secs(1);
/// How long a disk may take to say how full it is.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// How long crossings are good: what is page cache changes.
const CROSSINGS_FRESH: Duration = Duration::from_secs(10);

/// The node at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) observations: Observations,
    pub(super) layout: Layout,
    /// Usage of the groups whose crossings are to be told, page cache included.
    usages: Vec<(Signal, String, u64)>,
}

/// Looks.
pub(super) struct Eyes {
    probe: Arc<dyn NodeProbe>,
    images: Arc<dyn ImageService>,
    fs: FsPool,
    runtime_state: watch::Receiver<RuntimeState>,
    root_dir: PathBuf,
    cgroups: CgroupRoot,
    watches_images: bool,
    /// Where images and writable layers are, once the runtime has told.
    places: Option<Places>,
    /// `None` in a simulation, which has no kernel to ask.
    triggers: Option<Arc<MemoryTriggers>>,
    stalls_of: Option<String>,
    mount: PathBuf,
    crossings_at: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Places {
    images: PathBuf,
    containers: PathBuf,
}

impl Eyes {
    pub(super) fn new(
        services: &Services,
        probe: Arc<dyn NodeProbe>,
        images: Arc<dyn ImageService>,
        mount: PathBuf,
        watches_images: bool,
    ) -> Self {
        let real = !services.clock.is_simulated();
        Self {
            probe,
            images,
            fs: services.fs.clone(),
            runtime_state: services.runtime_state.clone(),
            root_dir: services.node.root_dir.clone(),
            cgroups: services.node.cgroups.clone(),
            watches_images,
            places: None,
            triggers: real.then(|| Arc::new(MemoryTriggers::new(&mount))),
            stalls_of: None,
            mount,
            crossings_at: None,
        }
    }

    /// The group of all pods.
    fn pods_group(&self) -> String {
        let root = self.runtime_state.borrow().cgroup_root(&self.cgroups);
        cgroup_path(&root, QosClass::Guaranteed, None)
    }

    /// Looks at the node; `None` when its disks do not answer.
    pub(super) async fn look(&mut self) -> Option<Look> {
        let asked = self.runtime_state.borrow().info.is_some();
        if self.watches_images && self.places.is_none() && asked {
            self.places = self.find_places().await;
        }
        let (probe, root_dir, places) = (self.probe.clone(), self.root_dir.clone(), self.places.clone());
        let (triggers, group) = (self.triggers.clone(), self.pods_group());
        let look = move || {
            let usage = probe.usage(&root_dir, places.as_ref().map(|places| places.images.as_path()));
            let mut look = Look {
                observations: observations(&usage),
                layout: places.map(|places| layout(&root_dir, &places)).unwrap_or_default(),
                usages: vec![],
            };
            let Some(triggers) = triggers else { return Ok(look) };
            if let Some(usage) = triggers.usage("") {
                look.usages.push((Signal::MemoryAvailable, String::new(), usage));
            }
            if let Some(memory) = triggers.group_memory(&group).filter(|_| !group.is_empty()) {
                look.observations.insert(Signal::AllocatableMemoryAvailable, memory.left);
                look.usages.push((Signal::AllocatableMemoryAvailable, group, memory.usage));
            }
            Ok(look)
        };
        let answer = timeout(LOOK_LIMIT, self.fs.run("look at the node", look)).await;
        match answer {
            Ok(Ok(look)) => Some(look),
            Ok(Err(error)) => {
                debug!("{}", crate::logging::chain(&error));
                None
            }
            Err(_) => None,
        }
    }

    async fn find_places(&self) -> Option<Places> {
        let question = self.images.image_fs_info(v1::ImageFsInfoRequest {});
        let answer = timeout(IMAGE_FS_LIMIT, question).await.ok()?.ok()?;
        let place = |of: Vec<v1::FilesystemUsage>| {
            let path = of.into_iter().find_map(|fs| Some(PathBuf::from(fs.fs_id?.mountpoint)))?;
            Some(path).filter(|path| path.is_absolute())
        };
        let images = place(answer.image_filesystems)?;
        let containers = place(answer.container_filesystems).unwrap_or_else(|| images.clone());
        Some(Places { images, containers })
    }

    /// Has the kernel tell when memory gets half-way to a threshold, and when it gets there.
    pub(super) async fn set_crossings(&mut self, config: &EvictionConfig, look: &Look) {
        if self.crossings_at.is_some_and(|at| at.elapsed() < CROSSINGS_FRESH) {
            return;
        }
        let (Some(_), group) = (&self.triggers, self.pods_group()) else { return };
        self.crossings_at = Some(Instant::now());
        let mut crossings = Vec::new();
        for threshold in &config.thresholds {
            let usage = look.usages.iter().find(|(signal, ..)| *signal == threshold.signal);
            let observation = super::observed(look, threshold.signal);
            let Some(((_, group, usage), observation)) = usage.zip(observation) else { continue };
            let limit = threshold.value.of(observation.capacity).value();
            let Ok(left) = u64::try_from(observation.available.saturating_sub(limit)) else { continue };
            for more in [left / 2, left.saturating_add(1)] {
                crossings.push(Crossing { group: group.clone(), usage: usage.saturating_add(more) });
            }
        }
        let known = self.stalls_of.as_ref() == Some(&group);
        // One that a look still holds, which hangs, is left to it.
        let kept = self.triggers.take().and_then(|triggers| Arc::try_unwrap(triggers).ok()).filter(|_| known);
        let watches = kept.is_none();
        let mut fresh = kept.unwrap_or_else(|| MemoryTriggers::new(&self.mount));
        if watches {
            let stalls = fresh.watch_stalls(&group);
            debug!(stalls, "the kernel tells of stalls");
            self.stalls_of = Some(group);
        }
        fresh.set_crossings(&crossings);
        self.triggers = Some(Arc::new(fresh));
    }

    /// Waits until the kernel tells something; for ever when it tells nothing. Cancel-safe.
    pub(super) async fn told(&self) {
        let Some(triggers) = &self.triggers else { return std::future::pending().await };
        // Both arms are cancel-safe: descriptors stay ready until they were seen.
        tokio::select! {
            biased;
            () = triggers.told() => {}
            () = triggers.stalled() => {}
        }
    }
}

fn observations(usage: &Usage) -> Observations {
    let mut seen = Observations::new();
    let mut add = |signal, observation| {
        if let Some(observation) = observation {
            seen.insert(signal, observation);
        }
    };
    add(Signal::MemoryAvailable, usage.memory);
    add(Signal::PidAvailable, usage.pids);
    add(Signal::NodeFsAvailable, usage.node_fs.map(|fs| fs.bytes));
    add(Signal::NodeFsInodesFree, usage.node_fs.and_then(|fs| fs.inodes));
    add(Signal::ImageFsAvailable, usage.image_fs.map(|fs| fs.bytes));
    add(Signal::ImageFsInodesFree, usage.image_fs.and_then(|fs| fs.inodes));
    seen
}

fn layout(root_dir: &Path, places: &Places) -> Layout {
    let device = |path: &Path| std::fs::metadata(path).ok().map(|found| found.dev());
    let (node, images) = (device(root_dir), device(&places.images));
    let containers = device(&places.containers);
    Layout {
        image_fs: images.is_some() && images != node,
        split: images.is_some() && containers.is_some() && containers != images,
    }
}
