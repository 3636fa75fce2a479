//! What the status writer remembers of one pod, and what it would send about it next.
//!
//! Owns the choice of the newest known API copy (the watch or the answer to an own request, by resource version)
//! and the memory of what was refused or ignored. Never looks at other pods, clocks or sockets.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use rubelet_core::admission::is_mirror_pod;
use rubelet_core::ids::{PodKey, pod_uid};
use rubelet_core::lifecycle::PodState;
use rubelet_core::mirror;
use rubelet_core::status::patch::{is_urgent, status_patch};
use rubelet_core::status::{IllegalTransition, merge_for_update};
use serde_json::Value;
use tokio::time::Instant;

use super::request::Request;
use crate::api_pods::ApiPodSet;
use crate::table::PodRow;

/// Writes about one pod that are not urgent keep this distance, so that what changes together is told together.
const SPACING: Duration = Duration::from_millis(200);
/// A correction of what someone else wrote over ours waits after the one before: this, doubled up to
/// [`CORRECTION_MAX`].
const CORRECTION_FIRST: Duration = Duration::from_secs(1);
/// A status that replaces a refused one waits no longer than this.
const RETRY_CHANGED: Duration = Duration::from_secs(1);
/// Longest pause between corrections; after twice this time without any they count from the start.
const CORRECTION_MAX: Duration = Duration::from_secs(60);

/// One pod that this node runs or has run.
#[derive(Debug)]
pub(super) struct Entry {
    /// What its worker published last.
    pub row: PodRow,
    /// Its row is gone: nothing of it is left on this node.
    pub removed: bool,
    /// Something changed since it was last decided about.
    pub look: bool,
    /// What is to be told should not wait behind others.
    pub urgent: bool,
    /// A request about it is under way.
    pub under_way: bool,
    /// When the oldest status that the API does not have was published.
    pub since: Option<Instant>,
    /// Not before this, because of a failure.
    pub retry_at: Option<Instant>,
    /// Failures in a row.
    pub failures: u32,
    /// The last failure was everyone's: it is tried again as soon as the server answers anyone.
    pub blameless: bool,
    /// What was last told of its failures.
    pub told: Option<String>,
    /// The server's copy has to be read before anything is written.
    pub unsure: bool,
    /// The copy of the watch when it was last looked at.
    pub seen: Option<Arc<Pod>>,
    /// The copy that an own request brought, while the watch shows an older one.
    answer: Option<Arc<Pod>>,
    /// What was known last of a pod that is gone although the watch may still show it.
    gone: Option<Arc<Pod>>,
    /// The status that the API had last, as far as known.
    settled: Option<Arc<PodStatus>>,
    /// What a write left different: the server does not take it, so it is not sent again.
    ignored: Option<Value>,
    /// A status that the server refuses.
    refused: Option<Arc<PodStatus>>,
    last_write: Option<Instant>,
    corrections: u32,
    last_correction: Option<Instant>,
}

/// What is to be done about one pod.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing until something changes.
    Rest,
    /// It can be forgotten.
    Forget,
    /// Nothing before this.
    Wait(Instant),
    /// This.
    Send(Request),
    /// What was published must not follow what the API holds.
    Illegal {
        /// Why.
        error: IllegalTransition,
        /// The API held another status of this agent before: what it holds now somebody else wrote.
        foreign: bool,
    },
}

impl Entry {
    /// A pod that was just published.
    pub(super) fn new(row: PodRow, removed: bool, now: Instant) -> Self {
        Self {
            row,
            removed,
            look: true,
            urgent: false,
            under_way: false,
            since: Some(now),
            retry_at: None,
            failures: 0,
            blameless: false,
            told: None,
            unsure: false,
            seen: None,
            answer: None,
            gone: None,
            settled: None,
            ignored: None,
            refused: None,
            last_write: None,
            corrections: 0,
            last_correction: None,
        }
    }

    /// Takes a newer row.
    pub(super) fn publish(&mut self, row: PodRow, removed: bool, now: Instant) {
        let says_more = !Arc::ptr_eq(&row.status, &self.row.status) && row.status != self.row.status;
        if says_more {
            self.since.get_or_insert(now);
        }
        if says_more || removed != self.removed {
            self.look = true;
            // A pause was for what was to be said before, unless the server is the reason.
            if self.failures == 0 {
                self.retry_at = None;
            } else if self.refused.is_some() {
                self.retry_at = self.retry_at.map(|at| at.min(now + RETRY_CHANGED));
            }
        }
        // The same status keeps its identity, by which it is known to be settled or refused.
        let status = if says_more { row.status } else { self.row.status.clone() };
        self.row = PodRow { status, ..row };
        self.removed = removed;
    }

    /// Takes a newer view of the API.
    pub(super) fn observe(&mut self, api: &ApiPodSet) {
        let target = self.target(api).cloned();
        let same = match (&target, &self.seen) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        let uid_of = |pod: &Option<Arc<Pod>>| pod.as_deref().map(pod_uid);
        if uid_of(&target) != uid_of(&self.seen) {
            // What is known of another object says nothing of this one.
            (self.answer, self.gone, self.settled, self.ignored, self.refused) =
                (None, None, None, None, None);
            (self.corrections, self.last_correction) = (0, None);
            self.unsure = false;
        }
        let newer_than = |known: &Option<Arc<Pod>>| match (&target, known) {
            (Some(new), Some(known)) => is_newer(new, known),
            _ => true,
        };
        if newer_than(&self.gone) {
            self.gone = None;
        }
        self.look |= self.answer.is_none() || newer_than(&self.answer);
        self.seen = target;
        self.drop_old_answer();
    }

    /// Once the watch has caught up the answer is of no use.
    fn drop_old_answer(&mut self) {
        if let (Some(seen), Some(answer)) = (&self.seen, &self.answer)
            && !is_newer(answer, seen)
        {
            self.answer = None;
        }
    }

    /// The pod in the API that shows this one: itself, or the mirror made of exactly this static pod.
    fn target<'a>(&self, api: &'a ApiPodSet) -> Option<&'a Arc<Pod>> {
        let target = api.reported(&self.row.pod)?;
        (pod_uid(target) == pod_uid(&self.row.pod) || mirror::shows(target, &self.row.pod)).then_some(target)
    }

    /// The newest copy that is known, unless it is gone.
    fn base(&self) -> Option<Arc<Pod>> {
        let seen = self.seen.as_ref().filter(|_| self.gone.is_none())?;
        Some(self.answer.as_ref().unwrap_or(seen).clone())
    }

    /// Namespace and name, which are the same in the API.
    pub(super) fn key(&self) -> PodKey {
        PodKey::of(&self.row.pod)
    }

    /// Whether what is to be told is urgent, by the newest copy.
    pub(super) fn weigh(&mut self) {
        let empty = PodStatus::default();
        self.urgent = self.removed
            || self
                .base()
                .is_some_and(|base| is_urgent(base.status.as_ref().unwrap_or(&empty), &self.row.status));
    }

    /// The earliest time for the next request.
    pub(super) fn due(&self) -> Option<Instant> {
        let spaced = self.last_write.filter(|_| !self.urgent).map(|last| last + SPACING);
        self.retry_at.max(spaced)
    }

    /// What to do next. `synced`: what the watch does not show is not there. `wall` is the time for stamps.
    pub(super) fn step(&mut self, synced: bool, now: Instant, wall: Timestamp) -> Step {
        let Some(base) = self.base() else {
            return if self.removed && synced { Step::Forget } else { Step::Rest };
        };
        if self.unsure {
            return Step::Send(Request::Read);
        }
        let refused = self.refused.as_ref().is_some_and(|refused| Arc::ptr_eq(refused, &self.row.status));
        let mut illegal = None;
        if !(refused && self.removed) {
            match status_patch(&self.row.pod, &base, &self.row.status, wall) {
                Ok(Some(patch)) if !self.is_ignored(&patch["status"]) => {
                    return match self.correction(now) {
                        Some(at) => Step::Wait(at),
                        None => Step::Send(Request::Patch(patch)),
                    };
                }
                Ok(_) => self.settle(self.row.status.clone()),
                Err(error) => illegal = Some(error),
            }
        }
        let ended = self.removed && matches!(self.row.state, PodState::Finished { .. });
        if ended && base.metadata.deletion_timestamp.is_some() && !is_mirror_pod(&base) {
            return Step::Send(Request::Delete(pod_uid(&base)));
        }
        match illegal {
            Some(error) => Step::Illegal { error, foreign: self.is_foreign_end(wall) },
            None => Step::Rest,
        }
    }

    /// Whether the end that the API shows cannot be ours: what it had of us last could go on. Of a time before this
    /// agent started nothing is known.
    fn is_foreign_end(&self, wall: Timestamp) -> bool {
        self.settled.as_ref().is_some_and(|settled| {
            merge_for_update(&self.row.pod, settled, &self.row.status, false, wall).is_ok()
        })
    }

    /// Whether a patch holds nothing but what the server did not take before.
    fn is_ignored(&self, patch: &Value) -> bool {
        self.ignored.as_ref().is_some_and(|ignored| without(patch, ignored).is_none())
    }

    /// If the API had this status already and someone wrote over it: when it may be corrected, if that is later
    /// than now.
    fn correction(&mut self, now: Instant) -> Option<Instant> {
        if !self.settled.as_ref().is_some_and(|settled| Arc::ptr_eq(settled, &self.row.status)) {
            return None;
        }
        let Some(last) = self.last_correction else {
            self.last_correction = Some(now);
            return None;
        };
        if now.duration_since(last) > 2 * CORRECTION_MAX {
            self.corrections = 0;
        }
        let pause = CORRECTION_FIRST.saturating_mul(1 << self.corrections.min(10)).min(CORRECTION_MAX);
        if last + pause > now {
            return Some(last + pause);
        }
        self.corrections += 1;
        self.last_correction = Some(now);
        None
    }

    /// The API has this status. Nothing newer than it waits any more.
    fn settle(&mut self, status: Arc<PodStatus>) {
        if Arc::ptr_eq(&status, &self.row.status) {
            self.since = None;
        }
        self.settled = Some(status);
    }

    /// A PATCH with `body` that told `sent` was answered with this copy.
    pub(super) fn written(
        &mut self,
        sent: Arc<PodStatus>,
        body: &Value,
        copy: Arc<Pod>,
        now: Instant,
        wall: Timestamp,
    ) {
        // What is left although it was sent is not taken; the rest of what is left is someone else's doing.
        let left = status_patch(&self.row.pod, &copy, &sent, wall).ok().flatten();
        self.ignored = left.and_then(|left| match without(&left["status"], &body["status"]) {
            None => Some(left["status"].clone()),
            Some(news) => without(&left["status"], &news),
        });
        self.last_write = Some(now);
        self.refused = None;
        self.settle(sent);
        self.read(copy);
    }

    /// This copy was read or answered.
    pub(super) fn read(&mut self, copy: Arc<Pod>) {
        self.unsure = false;
        if self.seen.as_ref().is_some_and(|seen| seen.metadata.uid != copy.metadata.uid) {
            // Another pod has taken the name.
            self.vanish();
        } else {
            self.answer = Some(copy);
            self.drop_old_answer();
        }
    }

    /// The server does not know the pod any more.
    pub(super) fn vanish(&mut self) {
        self.gone = self.base();
        self.since = None;
        self.unsure = false;
    }

    /// The server refuses this status.
    pub(super) fn refuse(&mut self, sent: Arc<PodStatus>) {
        self.refused = Some(sent);
    }
}

/// Whether one copy of an object is newer than another. Resource versions of one resource count up (KEP-5504);
/// where they are no numbers, what differs is taken for newer.
fn is_newer(copy: &Pod, than: &Pod) -> bool {
    let version = |pod: &Pod| pod.metadata.resource_version.as_deref().and_then(|text| text.parse().ok());
    match (version(copy), version(than)) {
        (Some(copy), Some(than)) => u128::gt(&copy, &than),
        _ => copy.metadata.resource_version != than.metadata.resource_version,
    }
}

/// The part of one status patch that another does not hold: fields with another value, conditions that are not the
/// same. `None` when nothing is left.
fn without(patch: &Value, other: &Value) -> Option<Value> {
    let mut left = serde_json::Map::new();
    for (field, change) in patch.as_object().into_iter().flatten() {
        let known = other.get(field);
        if let (Some(changes), "conditions") = (change.as_array(), field.as_str()) {
            let known = known.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let news: Vec<Value> = changes.iter().filter(|entry| !known.contains(entry)).cloned().collect();
            if !news.is_empty() {
                left.insert(field.clone(), Value::Array(news));
            }
        } else if known != Some(change) {
            left.insert(field.clone(), change.clone());
        }
    }
    (!left.is_empty()).then_some(Value::Object(left))
}
