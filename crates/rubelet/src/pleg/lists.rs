//! How reading the runtime goes, for the node's health; and whose a container is. Asks the runtime nothing.

use std::sync::{MutexGuard, PoisonError};

use rubelet_core::ids::{ContainerId, PodUid, SandboxId};
use rubelet_core::node::lists::ListFacts;
use tokio::time::Instant;

use super::Pleg;

/// When lists and observations succeeded and failed.
#[derive(Debug, Default)]
pub(super) struct ListRecord {
    listed: Option<Instant>,
    observed: Option<Instant>,
    under_way: Option<Instant>,
    took: std::time::Duration,
    failing: Option<(Instant, String)>,
}

impl ListRecord {
    /// A full list begins.
    pub(super) fn begins(&mut self) {
        self.under_way = Some(Instant::now());
    }

    /// It succeeded.
    pub(super) fn succeeded(&mut self) {
        let now = Instant::now();
        self.took = self.under_way.take().map_or(self.took, |began| now - began);
        (self.listed, self.failing) = (Some(now), None);
    }

    /// It failed; says whether that, or why, is news.
    pub(super) fn failed(&mut self, why: &str) -> bool {
        let began = self.under_way.take().unwrap_or_else(Instant::now);
        match &mut self.failing {
            Some((_, known)) if known == why => false,
            Some((_, known)) => {
                why.clone_into(known);
                true
            }
            None => {
                self.failing = Some((began, why.to_owned()));
                true
            }
        }
    }

    /// One pod was read.
    pub(super) fn observed(&mut self) {
        self.observed = Some(Instant::now());
    }
}

/// Whose something in the runtime is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// UID of the pod.
    pub uid: PodUid,
    /// `namespace/name`.
    pub pod: String,
    /// Name of the container, if it is one and has been observed.
    pub container: Option<String>,
}

impl Pleg {
    /// How reading the runtime goes.
    pub fn lists(&self) -> ListFacts {
        let record = self.lists_record();
        let ago = |at: &Instant| at.elapsed();
        ListFacts {
            listed: record.listed.as_ref().map(ago),
            observed: record.observed.as_ref().map(ago),
            under_way: record.under_way.as_ref().map(ago),
            took: record.took,
            failing: record.failing.as_ref().map(|(since, why)| (ago(since), why.clone())),
        }
    }

    /// When the last full list succeeded.
    pub fn last_list(&self) -> Option<Instant> {
        self.lists_record().listed
    }

    /// Whose a container or sandbox of this ID is, as far as it was listed or observed.
    pub fn owner(&self, id: &str) -> Option<Owner> {
        let (container, sandbox) = (ContainerId::from(id), SandboxId::from(id));
        let state = self.state();
        let has = |listed: &rubelet_cri::observe::ListedPod| {
            listed.containers.contains_key(&container) || listed.sandboxes.contains_key(&sandbox)
        };
        let (uid, (listed, _)) = state.seen.iter().find(|(_, (listed, _))| has(listed))?;
        Some(Owner {
            uid: uid.clone(),
            pod: format!("{}/{}", listed.namespace, listed.name),
            container: state.containers.get(&container).map(|(_, known)| known.name.clone()),
        })
    }

    pub(super) fn lists_record(&self) -> MutexGuard<'_, ListRecord> {
        self.shared.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
