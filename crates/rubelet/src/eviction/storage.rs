//! Holds pods to their own limits of local storage.
//!
//! Nothing is measured while no pod has limits, or while no disk gets fuller (but for a look a minute: one pod may fill
//! what another one has just freed). Volumes with limits are measured at that moment; logs and layers are as the
//! collector has them. Measuring takes at most a twentieth of the time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rubelet_core::Pod;
use rubelet_core::eviction::local::{Limited, exceeded, limited};
use rubelet_core::eviction::{IMMEDIATE_GRACE, REST};
use rubelet_core::ids::{PodUid, pod_uid};
use rubelet_core::node::pressure::Signal;
use rubelet_core::stats::usage::{NodeUsage, PodUsage};
use rubelet_server::node::Extent;
use tokio::time::Instant;

use super::look::Look;
use super::{Eviction, observed};
use crate::table::PodTable;

/// Without any sign pods with limits are measured so often.
const FORCED: Duration = Duration::from_secs(60);
/// While disks get fuller, so often.
const BUSY: Duration = Duration::from_secs(2);
/// What a disk may lose without anybody being measured.
const NOISE: i64 = 1 << 20;
/// Measuring is followed by a pause so many times as long.
const SHARE: u32 = 20;

/// What is remembered between two looks.
pub(super) struct LocalStorage {
    table: PodTable,
    /// The version of the table that `limited` is of.
    version: Option<u64>,
    limited: Vec<(Arc<Pod>, Limited)>,
    /// What was left of each disk when pods were last measured.
    left: BTreeMap<Signal, i64>,
    not_before: Option<Instant>,
    forced_at: Option<Instant>,
}

impl LocalStorage {
    pub(super) fn new(table: PodTable) -> Self {
        Self {
            table,
            version: None,
            limited: vec![],
            left: BTreeMap::new(),
            not_before: None,
            forced_at: None,
        }
    }

    /// Learns which pods have limits, if the table has changed.
    fn learn(&mut self) {
        let version = *self.table.changes().borrow();
        if self.version == Some(version) {
            return;
        }
        self.version = Some(version);
        let rows = self.table.snapshot().into_values();
        self.limited = rows.filter_map(|row| Some((row.pod.clone(), limited(&row.pod)?))).collect();
    }

    /// Whether a disk has got fuller since pods were last measured.
    fn fuller(&self, look: &Look) -> bool {
        DISKS.iter().any(|signal| {
            let now = observed(look, *signal).map(|observation| observation.available);
            match (now, self.left.get(signal)) {
                (Some(now), Some(before)) => before.saturating_sub(now) > NOISE,
                (now, before) => now.is_some() != before.is_some(),
            }
        })
    }

    fn note(&mut self, look: &Look) {
        let left = |signal: &Signal| Some((*signal, observed(look, *signal)?.available));
        self.left = DISKS.iter().filter_map(left).collect();
    }
}

/// What pods fill.
const DISKS: [Signal; 2] = [Signal::NodeFsAvailable, Signal::ImageFsAvailable];

impl Eviction {
    /// Evicts pods beyond limits of their own. Returns how long the next look can wait.
    pub(super) async fn hold_to_limits(&mut self, look: &Look) -> Duration {
        self.storage.learn();
        if self.storage.limited.is_empty() {
            return REST;
        }
        let now = Instant::now();
        if let Some(wait) = self.storage.not_before.filter(|at| *at > now) {
            return (wait - now).min(REST);
        }
        let forced = self.storage.forced_at.is_none_or(|at| at <= now);
        let fuller = self.storage.fuller(look);
        if !forced && !fuller {
            return REST;
        }
        self.storage.note(look);
        self.storage.forced_at = Some(now + FORCED);
        self.measure(look).await;
        let pause = (now.elapsed() * SHARE).clamp(BUSY, FORCED);
        self.storage.not_before = Some(Instant::now() + pause);
        if fuller { pause.min(REST) } else { REST }
    }

    async fn measure(&mut self, look: &Look) {
        let limited = self.storage.limited.clone();
        let limited = limited.into_iter().filter(|(pod, _)| self.stays(&pod_uid(pod)));
        let limited: Vec<(Arc<Pod>, Limited)> = limited.collect();
        // Logs and layers cost a question to the runtime: only when somebody has a limit of them.
        let reading: Option<Arc<NodeUsage>> = if limited.iter().any(|(_, limits)| limits.storage) {
            Some(self.usage.usage(Extent::Summary).await)
        } else {
            None
        };
        let by_uid: BTreeMap<PodUid, &PodUsage> =
            reading.iter().flat_map(|reading| &reading.pods).map(|pod| (pod_uid(&pod.pod), pod)).collect();
        let mut beyond = Vec::new();
        for (pod, limits) in limited {
            let mut fresh = self.usage.measure(&pod, &limits.volumes).await;
            let usage = by_uid.get(&pod_uid(&pod)).copied();
            if limits.storage {
                // The pod's limit is of all its volumes together.
                let names = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
                let dirs =
                    names.filter(|volume| volume.empty_dir.is_some() && !fresh.contains_key(&volume.name));
                let dirs: Vec<String> = dirs.map(|volume| volume.name.clone()).collect();
                fresh.append(&mut self.usage.measure(&pod, &dirs).await);
            }
            if let Some(found) = exceeded(&pod, usage, &fresh, look.layout) {
                let usage = usage.cloned().unwrap_or_else(|| PodUsage {
                    pod: pod.clone(),
                    status: Arc::default(),
                    sandbox_id: String::new(),
                    sandbox_image: String::new(),
                    started_at: None,
                    group: None,
                    sandbox_group: None,
                    network: None,
                    containers: vec![],
                    volumes: vec![],
                    other_ephemeral: None,
                });
                beyond.push((usage, found));
            }
        }
        for (usage, found) in beyond {
            // It did it to itself: that is no disruption.
            self.evict(usage, found.signal, found.message, BTreeMap::new(), IMMEDIATE_GRACE, false);
        }
    }
}
