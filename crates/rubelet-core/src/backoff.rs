//! Exponential back-off per key: restarts of crash-looping containers and image pulls.
//!
//! The rules are those of upstream `flowcontrol.Backoff` as the kubelet sets it up: the first restart is
//! immediate, then the delay starts at the initial value and doubles to the maximum, counted from the end of
//! the last instance; an entry that has seen no update for ten minutes before that end starts over. Entries
//! are values that the journal keeps, so that a restart of the agent changes no delay.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};

use crate::ids::PodUid;

/// After this long without an update an entry counts as stable and starts over.
pub const STABLE_AFTER: Duration = Duration::from_secs(600);
/// Largest delay that may be configured for containers (`crashLoopBackOff.maxContainerRestartPeriod`).
pub const MAX_CONTAINER_BACKOFF: Duration = Duration::from_secs(300);

/// What a back-off is about. Ordered by pod, so that all of a pod's entries can be dropped together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BackoffKey {
    /// UID of the pod.
    pub pod_uid: String,
    /// What within the pod: every field whose change starts the back-off over.
    pub subject: String,
}

impl BackoffKey {
    /// Key of a container's restarts: pod name, namespace and UID, container name, image and resources
    /// (upstream `GetBackoffKey`), so that a new image or size starts without delay.
    pub fn container(pod: &Pod, container: &Container) -> Self {
        let resources =
            container.resources.as_ref().and_then(|r| serde_json::to_string(r).ok()).unwrap_or_default();
        let subject = [
            pod.metadata.name.as_deref().unwrap_or_default(),
            pod.metadata.namespace.as_deref().unwrap_or_default(),
            &container.name,
            container.image.as_deref().unwrap_or_default(),
            &resources,
        ]
        .join("/");
        Self { pod_uid: pod.metadata.uid.clone().unwrap_or_default(), subject }
    }

    /// Key of pulls of one image for one pod.
    pub fn image(pod_uid: &PodUid, image: &str) -> Self {
        Self { pod_uid: pod_uid.as_str().to_owned(), subject: image.to_owned() }
    }
}

/// State of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackoffEntry {
    /// Current delay.
    pub delay: Duration,
    /// When the delay was last set.
    pub last_update: Timestamp,
}

/// Initial and largest delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// First delay.
    pub initial: Duration,
    /// Largest delay.
    pub max: Duration,
}

impl BackoffPolicy {
    /// Restarts: 10 s doubling to 300 s, or 1 s doubling to 60 s with the feature gate
    /// ReduceDefaultCrashLoopBackOffDecay; a configured maximum wins over both and also caps the first delay.
    pub fn crash_loop(configured_max: Option<Duration>, reduced_decay: bool) -> Self {
        let (initial, max) = if reduced_decay { (1, 60) } else { (10, 300) };
        let max = configured_max.unwrap_or(Duration::from_secs(max));
        Self { initial: Duration::from_secs(initial).min(max), max }
    }

    /// Image pulls: 10 s doubling to 300 s.
    pub fn image_pull() -> Self {
        Self::crash_loop(None, false)
    }
}

/// Back-off of many keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackoffTable {
    policy: BackoffPolicy,
    entries: BTreeMap<BackoffKey, BackoffEntry>,
}

/// A key that has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Not before this time.
    pub until: Timestamp,
    /// Length of the back-off.
    pub delay: Duration,
}

impl BackoffTable {
    /// An empty table.
    pub fn new(policy: BackoffPolicy) -> Self {
        Self { policy, entries: BTreeMap::new() }
    }

    /// A table with entries from the journal. Delays above the policy's maximum are cut to it.
    pub fn restore(
        policy: BackoffPolicy,
        entries: impl IntoIterator<Item = (BackoffKey, BackoffEntry)>,
    ) -> Self {
        let cut = |entry: BackoffEntry| BackoffEntry { delay: entry.delay.min(policy.max), ..entry };
        Self { policy, entries: entries.into_iter().map(|(key, entry)| (key, cut(entry))).collect() }
    }

    /// All entries in key order, for the journal.
    pub fn entries(&self) -> impl Iterator<Item = (&BackoffKey, &BackoffEntry)> {
        self.entries.iter()
    }

    /// The entry of a key.
    pub fn get(&self, key: &BackoffKey) -> Option<&BackoffEntry> {
        self.entries.get(key)
    }

    /// How long the key still has to wait, counted from `since` (a container: the end of its last instance).
    /// `None` means that it may start now.
    pub fn wait_since(&self, key: &BackoffKey, since: Timestamp, now: Timestamp) -> Option<Wait> {
        let entry = self.entries.get(key).filter(|entry| !is_stable(since, entry))?;
        let until = later(since, entry.delay);
        (now < until).then_some(Wait { until, delay: entry.delay })
    }

    /// How long the key still has to wait, counted from its last failure: the form for image pulls.
    pub fn wait_since_update(&self, key: &BackoffKey, now: Timestamp) -> Option<Wait> {
        let entry = self.entries.get(key).filter(|entry| !is_stable(now, entry))?;
        let until = later(entry.last_update, entry.delay);
        (now < until).then_some(Wait { until, delay: entry.delay })
    }

    /// Moves the key to its next delay and returns the entry for the journal. A container calls it right
    /// before a start that replaces an instance which ended at `since`; a pull calls it after a failure, with
    /// `now` twice.
    pub fn next(&mut self, key: BackoffKey, since: Timestamp, now: Timestamp) -> BackoffEntry {
        let delay = match self.entries.get(&key) {
            Some(entry) if !is_stable(since, entry) => entry.delay.saturating_mul(2).min(self.policy.max),
            _ => self.policy.initial,
        };
        let entry = BackoffEntry { delay, last_update: now };
        self.entries.insert(key, entry);
        entry
    }

    /// Forgets one key.
    pub fn forget(&mut self, key: &BackoffKey) {
        self.entries.remove(key);
    }

    /// Forgets every key of a pod.
    pub fn forget_pod(&mut self, pod_uid: &PodUid) {
        self.entries.retain(|key, _| key.pod_uid != pod_uid.as_str());
    }

    /// Drops entries that would start over anyway.
    pub fn prune(&mut self, now: Timestamp) {
        self.entries.retain(|_, entry| !is_stable(now, entry));
    }
}

/// Whether an entry is so old, seen from `moment`, that it starts over.
fn is_stable(moment: Timestamp, entry: &BackoffEntry) -> bool {
    moment > later(entry.last_update, STABLE_AFTER)
}

/// `moment` plus `delay`, at most the end of time.
fn later(moment: Timestamp, delay: Duration) -> Timestamp {
    moment.saturating_add(delay).unwrap_or(Timestamp::MAX)
}

/// A delay as Go prints it, without a fraction of a second: `10s`, `1m20s`, `5m0s`.
pub fn format_delay(delay: Duration) -> String {
    let seconds = delay.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}
