//! Wins room back before anybody is evicted: images that nothing needs, and dead containers and sandboxes of pods that
//! have ended.
//!
//! [`CleanUp`] is the node's one hand on these: the clean-up's own task, which keeps the file system of images below its
//! threshold, and eviction, which asks when the node is short, take turns. What may go is decided by
//! `rubelet_core::image_gc` and `rubelet_core::container_gc`, on fresh lists, before anything is removed; what pods are
//! about to need is looked at again before each removal. Never touches what runs, nor leftovers of pods that live: those
//! are their workers'.
//!
//! - `uses`: what containers, sandboxes and pods need of images
//! - `images`: one round of removing images, and the disk they lie on
//! - `containers`: one round of removing dead containers
//! - `task`: when the clean-up looks by itself; at rest that is one look at the disk every five minutes

mod containers;
mod images;
mod task;
mod uses;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rubelet_config::{KubeletConfiguration, KubeletFlags};
use rubelet_core::container_gc::DeadPolicy;
use rubelet_core::ids::PodUid;
use rubelet_core::image_gc::{ImageBook, ImagePolicy};
use rubelet_cri::{ImageService, RuntimeService};
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::desired::DesiredPods;
use crate::events::{EventRecorder, EventSubject};
use crate::fs_pool::FsPool;
use crate::metrics::Metrics;
use crate::pleg::Pleg;
use crate::pulled_images::PulledImages;
use crate::table::PodTable;

pub use rubelet_core::image_gc::Need;

/// What was won back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Images that were removed.
    pub images: u32,
    /// Containers that were removed.
    pub containers: u32,
    /// Sandboxes that were removed.
    pub sandboxes: u32,
    /// Bytes of the images, as the runtime counts them; layers that other images have too stay on the disk.
    pub bytes: u64,
    /// What could not be done, for people.
    pub problems: Vec<String>,
}

/// What could be won back, before anything is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimable {
    /// Images that may go now.
    pub images: u32,
    /// Their bytes, as the runtime counts them.
    pub image_bytes: u64,
    /// Dead containers of pods that have ended.
    pub containers: u32,
}

/// When what goes.
#[derive(Clone, Debug)]
pub struct CleanUpSettings {
    /// Images.
    pub images: ImagePolicy,
    /// Dead containers of pods that have ended.
    pub dead: DeadPolicy,
    /// Node name, for events.
    pub node_name: String,
    /// `podLogsDir`.
    pub pod_logs_dir: PathBuf,
    /// Directory of the per-container log symlinks.
    pub container_logs_dir: PathBuf,
}

impl CleanUpSettings {
    /// From the configuration and the deprecated flags.
    pub fn new(
        config: &KubeletConfiguration,
        flags: &KubeletFlags,
        node_name: &str,
        (pod_logs_dir, container_logs_dir): (PathBuf, PathBuf),
    ) -> Self {
        let percent = |value: i32| u8::try_from(value.clamp(0, 100)).unwrap_or(100);
        let images = ImagePolicy {
            high_percent: percent(config.image_gc_high_threshold_percent),
            low_percent: percent(config.image_gc_low_threshold_percent),
            min_age: config.image_minimum_gc_age.to_std(),
            max_age: Some(config.image_maximum_gc_age.to_std()).filter(|age| !age.is_zero()),
        };
        let limit = |value: i32| usize::try_from(value).ok();
        let dead = DeadPolicy {
            min_age: flags.minimum_container_ttl_duration.to_std(),
            per_container: limit(flags.maximum_dead_containers_per_container),
            in_all: limit(flags.maximum_dead_containers),
        };
        Self { images, dead, node_name: node_name.to_owned(), pod_logs_dir, container_logs_dir }
    }
}

/// What the clean-up works with.
pub struct CleanUpParts {
    /// Its settings.
    pub settings: CleanUpSettings,
    /// Wall clock.
    pub clock: Clock,
    /// File system work.
    pub fs: FsPool,
    /// The runtime.
    pub runtime: Arc<dyn RuntimeService>,
    /// Its images.
    pub images: Arc<dyn ImageService>,
    /// What is there.
    pub pleg: Pleg,
    /// What the pods are.
    pub table: PodTable,
    /// What is wanted.
    pub desired: watch::Receiver<Arc<DesiredPods>>,
    /// Events of the node.
    pub events: EventRecorder,
    /// Where removals are counted.
    pub metrics: Metrics,
    /// Records of pulls, which go with their images.
    pub pulled: PulledImages,
}

/// Handle; cheap to clone.
#[derive(Clone)]
pub struct CleanUp(Arc<Shared>);

struct Shared {
    parts: CleanUpParts,
    node: EventSubject,
    /// Ages count from here.
    started: Instant,
    /// Held for one round of images.
    images: Mutex<ImageState>,
    /// Held for one round of containers: ended pods that were looked at.
    containers: Mutex<BTreeSet<PodUid>>,
    /// An image was pulled.
    pulled: Notify,
}

/// What lasts from one round to the next.
#[derive(Default)]
struct ImageState {
    book: ImageBook,
    /// Where the runtime keeps images.
    mountpoint: Option<PathBuf>,
    /// The last round failed.
    failed: bool,
    /// When it was last told that there is no room, as long as there is none.
    told_full: Option<Instant>,
}

impl CleanUp {
    /// A clean-up that has looked at nothing yet.
    pub fn new(parts: CleanUpParts) -> Self {
        Self(Arc::new(Shared {
            node: EventSubject::node(&parts.settings.node_name),
            parts,
            started: Instant::now(),
            images: Mutex::default(),
            containers: Mutex::default(),
            pulled: Notify::new(),
        }))
    }

    /// Removes images that nothing needs, those unused for longest first, until `need` is met or none is left that may
    /// go. Waits for a round under way. Without complete knowledge of what is wanted nothing is removed.
    pub async fn images(&self, need: Need) -> Freed {
        let mut state = self.0.images.lock().await;
        self.0.free_images(&mut state, Some(need)).await.0
    }

    /// Removes every dead container and sandbox of pods that have ended, their logs with them.
    pub async fn containers(&self) -> Freed {
        self.0.free_containers(true).await
    }

    /// What [`Self::images`] and [`Self::containers`] could win back now. Removes nothing.
    pub async fn reclaimable(&self) -> Reclaimable {
        let mut state = self.0.images.lock().await;
        let images = match self.0.see(&mut state).await {
            Ok(()) => state.book.plan(&self.0.parts.settings.images, Some(Need::All), self.0.age()).remove,
            Err(_) => vec![],
        };
        drop(state);
        let containers = self.0.dead(true).await.containers.len();
        Reclaimable {
            images: u32::try_from(images.len()).unwrap_or(u32::MAX),
            image_bytes: images.iter().fold(0, |sum, removal| sum.saturating_add(removal.image.size)),
            containers: u32::try_from(containers).unwrap_or(u32::MAX),
        }
    }

    /// An image was pulled: it is entered in the book, and the disk is looked at, soon.
    pub fn image_pulled(&self) {
        self.0.pulled.notify_one();
    }

    /// Looks by itself, for ever.
    pub(crate) async fn run(self) {
        self.0.run().await;
    }
}

impl Shared {
    /// How long the clean-up has been there.
    fn age(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests;
