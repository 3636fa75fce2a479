//! The agent's own metrics: `/metrics`, `/metrics/probes` and `/metrics/slis`, with upstream's names, labels and types.
//!
//! A small registry of our own instead of a library: what the node's figures are written with
//! (`rubelet_core::stats::exposition`) writes these too, a histogram is one word for each bucket, nothing is copied
//! into another model before it is written, and a family without samples leaves no trace. Counted values are atomics
//! in typed fields (`metrics.pods.started.inc()`); values that somebody else owns are asked for when a page is made
//! ([`Metrics::collect_with`]): there is no task and no timer here.
//!
//! - `pods`, `node`: what there is, a line for each metric
//! - `cells`: counters, gauges, histograms, and one for each set of labels
//! - `families`, `desc`, `buckets`: how a line becomes a cell with a name
//! - `process`: this process
//! - `http`: requests to this node's API
//! - `render`: a page
//!
//! `docs/metrics.md` tells which of upstream's metrics are missing and why; a test holds it to `catalogue.txt`.

mod buckets;
mod cells;
mod desc;
mod devices;
mod families;
mod http;
pub mod node;
pub mod pods;
mod process;
mod render;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use rubelet_core::stats::usage::NodeUsage;

pub use cells::{Counter, Gauge, Histogram, Vector};
pub use desc::{Desc, Kind, Stability};
pub use devices::DeviceMetrics;
pub use families::Metric;
pub use http::{RequestInFlight, ServerType};
pub use node::{ApiMetrics, NodeMetrics, RuntimeMetrics, ServerMetrics};
pub use pods::{ImageMetrics, PodMetrics, ProbeMetrics};
pub use render::Collected;

use crate::node::Check;
use families::Family;
use node::SliMetrics;

/// Tells values when `/metrics` is asked for. Must not block: it runs while somebody waits for the page.
pub type Collect = Arc<dyn Fn(&mut Collected) + Send + Sync>;

/// All metrics of one agent; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    groups: Arc<Groups>,
}

/// The metrics that are counted, by who counts them.
pub struct Groups {
    /// Pods and containers.
    pub pods: PodMetrics,
    /// Images.
    pub images: ImageMetrics,
    /// Device plugins and what is told of devices.
    pub devices: DeviceMetrics,
    /// The container runtime.
    pub runtime: RuntimeMetrics,
    /// The way to the API server.
    pub api: ApiMetrics,
    /// The node.
    pub node: NodeMetrics,
    /// The node's own API.
    pub server: ServerMetrics,
    /// Probes; a page of their own.
    pub probes: ProbeMetrics,
    slis: SliMetrics,
    collect: Mutex<Vec<Collect>>,
}

impl std::ops::Deref for Metrics {
    type Target = Groups;
    fn deref(&self) -> &Groups {
        &self.groups
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics of an agent that has just begun.
    pub fn new() -> Self {
        Self {
            groups: Arc::new(Groups {
                pods: PodMetrics::new(),
                images: ImageMetrics::new(),
                devices: DeviceMetrics::new(),
                runtime: RuntimeMetrics::new(),
                api: ApiMetrics::new(),
                node: NodeMetrics::new(),
                server: ServerMetrics::new(),
                probes: ProbeMetrics::new(),
                slis: SliMetrics::new(),
                collect: Mutex::default(),
            }),
        }
    }

    /// Has `collect` asked for its values whenever `/metrics` is. What is told must not be counted by a field too.
    pub fn collect_with(&self, collect: impl Fn(&mut Collected) + Send + Sync + 'static) {
        self.collect.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(collect));
    }

    /// The page of `/metrics`. `usage` is where the sizes of volumes and logs come from; without it they are left out.
    pub fn render_kubelet(&self, usage: Option<&NodeUsage>) -> String {
        let mut collected = Collected::default();
        process::collect(&mut collected);
        if let Some(usage) = usage {
            pods::tell_usage(usage, &mut collected);
        }
        // Copied, so that nobody who wants to add one waits for those who tell.
        let collect = self.collect.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for collect in collect {
            collect(&mut collected);
        }
        render::render(&self.kubelet_families(), collected)
    }

    /// The page of `/metrics/probes`.
    pub fn render_probes(&self) -> String {
        let mut collected = Collected::default();
        process::tell_start(&mut collected);
        render::render(&self.probes.families(), collected)
    }

    /// The page of `/metrics/slis`, with what was last found by [`Self::observe_checks`].
    pub fn render_slis(&self) -> String {
        let mut collected = Collected::default();
        process::tell_start(&mut collected);
        render::render(&self.slis.families(), collected)
    }

    /// Counts the results of health checks; `kind` is the page they were made for (`healthz`). Called whenever they
    /// are made, and before [`Self::render_slis`], so that the page says something where nobody asks for the checks.
    pub fn observe_checks(&self, checks: &[Check], kind: &str) {
        for check in checks {
            let (value, status) = if check.problem.is_none() { (1.0, "success") } else { (0.0, "error") };
            self.slis.healthcheck.with([check.name, kind]).set(value);
            self.slis.healthchecks.with([check.name, kind, status]).inc();
        }
    }

    /// Drops what was counted of health checks.
    pub fn reset_slis(&self) {
        self.slis.healthcheck.retain(|_| false);
        self.slis.healthchecks.retain(|_| false);
    }

    /// Drops what was counted of the probes of a pod that is gone.
    pub fn forget_probes(&self, namespace: &str, pod: &str, uid: &str) {
        self.probes.total.retain(|labels| &*labels[5] != uid);
        self.probes.duration.retain(|labels| &*labels[3] != namespace || &*labels[2] != pod);
    }

    fn kubelet_families(&self) -> Vec<&dyn Family> {
        [
            self.pods.families(),
            self.images.families(),
            self.devices.families(),
            self.runtime.families(),
            self.api.families(),
            self.node.families(),
            self.server.families(),
        ]
        .concat()
    }
}
