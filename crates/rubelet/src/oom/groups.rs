//! What control groups count of kills, for where the kernel's log cannot be read. The group of a container goes with it,
//! its counter too; the pod's group stays, and in the unified hierarchy counts what happened below it. What the groups
//! that are still there count themselves is not of those that are gone. Asked when a container has ended.

use std::path::Path;
use std::sync::Arc;

use rubelet_core::ids::{ContainerId, PodUid};
use rubelet_core::oom::container_of;
use rubelet_linux::oom_events::OomCounters;
use tracing::debug;

use super::GroupOf;
use crate::fs_pool::FsPool;

/// Counters of pods' groups.
pub(super) struct Counters {
    counters: Arc<OomCounters>,
    fs: FsPool,
    group_of: GroupOf,
}

impl Counters {
    /// `None` where counters of groups say nothing of those that are gone: then the runtime's word is all there is.
    pub(super) fn new(mount: &Path, fs: FsPool, group_of: GroupOf) -> Option<Self> {
        let counters = OomCounters::find(mount).filter(OomCounters::count_trees)?;
        Some(Self { counters: Arc::new(counters), fs, group_of })
    }

    /// What a pod's group counted with all that were ever in it, and what the groups that are there count, without those
    /// of the containers that have `ended`.
    pub(super) async fn read(&self, pod: &PodUid, ended: Vec<ContainerId>) -> Option<(u64, u64)> {
        let group = (self.group_of)(pod).filter(|group| !group.is_empty())?;
        let counters = self.counters.clone();
        let read = move || {
            // The parts before the whole: a kill in between counts as one of an ended container at worst until the
            // next reading, never twice.
            let children = counters.children(&group).into_iter();
            let others = children.filter(|child| container_of(child).is_none_or(|id| !ended.contains(&id)));
            let others = others.filter_map(|child| counters.kills(&child)).sum();
            Ok(counters.kills(&group).map(|tree| (tree, others)))
        };
        let answer = self.fs.run(format!("read the OOM counters of pod {pod}"), read).await;
        answer.inspect_err(|error| debug!("no OOM counters: {error}")).ok().flatten()
    }
}
