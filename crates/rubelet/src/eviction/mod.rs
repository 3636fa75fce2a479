//! Keeps the node alive when memory, disk or process IDs run short: looks, wins back what nobody needs, evicts.
//!
//! One task. It looks every ten seconds, the more often the nearer a threshold comes, and at once when the kernel tells
//! that memory runs short; a look at rest is four small files. What follows from a look is decided by
//! `rubelet_core::eviction`; here it is carried out: conditions are published (a watch that the node's status and
//! admission follow), reclaim is asked of `clean_up`, pods are given to `PodKills`. What pods use is read only when
//! somebody has to go, or to hold pods to limits of their own while disks fill. Never evicts before every source of pods
//! has delivered: which pods are critical is in their specs.

mod look;
mod pass;
mod storage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rubelet_config::{GoDuration, KubeletConfiguration};
use rubelet_core::eviction::{
    Book, EvictionConfig, REST, ThresholdMaps, Trend, judge, next_look, thresholds,
};
use rubelet_core::ids::PodUid;
use rubelet_core::lifecycle::PodState;
use rubelet_core::node::pressure::{Pressures, Signal};
use rubelet_core::stats::usage::PodUsage;
use rubelet_cri::ImageService;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::debug;

use self::look::{Eyes, Look};
use self::storage::LocalStorage;
use crate::node_agent::NodeProbe;
use crate::services::Services;
use crate::stats::Collector;

/// How long a pod may take to end before it is counted on no longer (upstream `podCleanupTimeout`).
const LEAVES_WITHIN: Duration = Duration::from_secs(30);
/// Time between two victims when no number of them would be enough.
const HOPELESS_PAUSE: Duration = REST;

/// What is published: `None` before the first look.
pub type PressureView = watch::Receiver<Option<Pressures>>;

/// What the configuration says of eviction.
pub fn eviction_config(config: &KubeletConfiguration) -> EvictionConfig {
    let grace = |(signal, text): (&String, &String)| {
        let grace = text.parse::<GoDuration>().ok()?;
        Some((signal.clone(), grace.to_std()))
    };
    let maps = ThresholdMaps {
        hard: &config.eviction_hard,
        soft: &config.eviction_soft,
        soft_grace: &config.eviction_soft_grace_period.iter().filter_map(grace).collect(),
        min_reclaim: &config.eviction_minimum_reclaim,
        pods_limited: config.enforce_node_allocatable.iter().any(|group| group == "pods"),
    };
    EvictionConfig {
        thresholds: thresholds(maps),
        transition_period: config.eviction_pressure_transition_period.to_std(),
        max_pod_grace: u64::try_from(config.eviction_max_pod_grace_period).unwrap_or(0),
        local_storage: config.local_storage_capacity_isolation,
    }
}

/// What the task works with.
pub struct EvictionParts {
    /// Settings.
    pub config: EvictionConfig,
    /// The agent's parts.
    pub services: Arc<Services>,
    /// What pods use.
    pub usage: Collector,
    /// How to look at the machine.
    pub probe: Arc<dyn NodeProbe>,
    /// Asked where images are.
    pub images: Arc<dyn ImageService>,
    /// Where control groups are mounted.
    pub cgroup_mount: PathBuf,
    /// Where the node's pressures are published.
    pub pressures: watch::Sender<Option<Pressures>>,
}

/// A pod that was evicted and has not ended yet.
struct Leaving {
    usage: PodUsage,
    since: Instant,
}

/// The task.
pub struct Eviction {
    config: EvictionConfig,
    services: Arc<Services>,
    usage: Collector,
    eyes: Eyes,
    pressures: watch::Sender<Option<Pressures>>,
    book: Book,
    trend: Trend,
    looked_at: Option<Instant>,
    /// Bounded by the pods that were alive at the last reading.
    leaving: BTreeMap<PodUid, Leaving>,
    /// When the next victim may go for a shortage that none will end.
    hopeless_until: Option<Instant>,
    storage: LocalStorage,
    /// What was last written to the log of each signal.
    told: BTreeMap<Signal, Instant>,
}

impl Eviction {
    /// A task that has not looked yet.
    pub fn new(parts: EvictionParts) -> Self {
        let EvictionParts { config, services, usage, probe, images, cgroup_mount, pressures } = parts;
        let watches_images = config.thresholds.iter().any(|threshold| threshold.signal.is_image_fs());
        let eyes = Eyes::new(&services, probe, images, cgroup_mount, watches_images);
        Self {
            storage: LocalStorage::new(services.table.clone()),
            config,
            services,
            usage,
            eyes,
            pressures,
            book: Book::default(),
            trend: Trend::default(),
            looked_at: None,
            leaving: BTreeMap::new(),
            hopeless_until: None,
            told: BTreeMap::new(),
        }
    }

    /// Runs until dropped.
    pub async fn run(mut self) {
        if self.config.thresholds.is_empty() && !self.config.local_storage {
            self.pressures.send_replace(Some(Pressures::default()));
            return std::future::pending().await;
        }
        loop {
            let pause = self.round().await;
            self.wait(pause).await;
        }
    }

    /// Looks once and does what follows. Returns how long the next look can wait.
    async fn round(&mut self) -> Duration {
        let Some(look) = self.eyes.look().await else {
            debug!("the node could not be looked at");
            return REST;
        };
        let now = self.services.clock.now();
        let (book, judged) = judge(&self.config, &look.observations, &self.book, now);
        self.book = book;
        self.pressures.send_if_modified(|known| known.replace(judged.pressures) != Some(judged.pressures));
        let passed = self.looked_at.map_or(Duration::ZERO, |at| at.elapsed());
        self.trend = self.trend.after(&look.observations, passed);
        self.looked_at = Some(Instant::now());
        self.eyes.set_crossings(&self.config, &look).await;
        self.forget_ended();
        let mut pause = next_look(&self.config, &look.observations, &self.trend);
        if let Some(change) = judged.changes_in {
            pause = pause.min(change.max(Duration::from_millis(100)));
        }
        if self.config.local_storage {
            pause = pause.min(self.hold_to_limits(&look).await);
        }
        if !judged.due.is_empty() {
            let acted = self.act(&look, &judged.due).await;
            // Who is still to end is waited for beside the clock; where nothing could be done, nothing new is to be
            // learnt soon.
            if !acted && self.leaving.is_empty() {
                pause = REST;
            }
        }
        pause
    }

    /// Waits for the time, for the kernel, or for a pod that was evicted to have ended.
    async fn wait(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut changes = self.services.table.changes();
        loop {
            let leaves = !self.leaving.is_empty();
            // Every arm is cancel-safe: descriptors stay ready, a watch keeps its news, a sleep holds nothing.
            tokio::select! {
                biased;
                () = self.eyes.told() => return,
                Ok(()) = changes.changed(), if leaves => {
                    if self.forget_ended() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    /// Forgets victims that have ended, or are counted on no longer; says whether there were any.
    fn forget_ended(&mut self) -> bool {
        let before = self.leaving.len();
        let table = &self.services.table;
        self.leaving.retain(|uid, leaving| {
            let row = table.get(uid);
            // What it wrote to memory or disk is given back with its volumes, a moment after its containers.
            let ended = row.is_none_or(|row| matches!(row.state, PodState::Finished { .. }));
            !ended && leaving.since.elapsed() < LEAVES_WITHIN
        });
        self.leaving.len() < before
    }

    /// Whether a pod may still be told to go.
    fn stays(&self, uid: &PodUid) -> bool {
        let row = self.services.table.get(uid);
        !self.leaving.contains_key(uid) && row.is_some_and(|row| matches!(row.state, PodState::Syncing))
    }
}

/// What a look has of a signal.
fn observed(look: &Look, signal: Signal) -> Option<rubelet_core::node::pressure::Observation> {
    look.observations.get(&signal).copied()
}
