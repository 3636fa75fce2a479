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
        wait(since, entry.delay, now)
    }

    /// How long the key still has to wait, counted from its last failure: the form for image pulls.
    pub fn wait_since_update(&self, key: &BackoffKey, now: Timestamp) -> Option<Wait> {
        let entry = self.entries.get(key).filter(|entry| !is_stable(now, entry))?;
        wait(entry.last_update, entry.delay, now)
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

/// The wait of `delay` after `since`, if it goes on. A `since` that is further ahead than the delay is long says that the
/// clock was set back: nobody waits for it to come there again.
fn wait(since: Timestamp, delay: Duration, now: Timestamp) -> Option<Wait> {
    let until = later(since, delay);
    (now < until && since <= later(now, delay)).then_some(Wait { until, delay })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::fixtures::{at, pod};

    fn key(name: &str) -> BackoffKey {
        BackoffKey::image(&"u1".into(), name)
    }

    fn crash_loop() -> BackoffTable {
        BackoffTable::new(BackoffPolicy::crash_loop(None, false))
    }

    #[test]
    fn delays_double_from_the_first_restart_to_the_maximum() {
        let mut table = crash_loop();
        let mut now = 0;
        let mut delays = vec![];
        for _ in 0..8 {
            assert_eq!(table.wait_since(&key("a"), at(now), at(now + 300)), None);
            let delay = table.next(key("a"), at(now), at(now)).delay.as_secs();
            delays.push(delay);
            now += i64::try_from(delay).unwrap();
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn the_delay_counts_from_the_end_of_the_last_instance() {
        let mut table = crash_loop();
        let wait = |table: &BackoffTable, ended, now| {
            table.wait_since(&key("a"), at(ended), at(now)).map(|wait| wait.until.as_second())
        };
        assert_eq!(wait(&table, 0, 0), None, "the first restart is immediate");
        table.next(key("a"), at(0), at(0));
        assert_eq!(wait(&table, 5, 5), Some(15));
        assert_eq!(wait(&table, 5, 14), Some(15));
        assert_eq!(wait(&table, 5, 15), None);
        assert_eq!(wait(&table, 600, 601), Some(610));
        assert_eq!(wait(&table, 601, 601), None, "ran for more than ten minutes");
        assert_eq!(table.next(key("a"), at(601), at(601)).delay, Duration::from_secs(10));
    }

    #[test]
    fn pulls_count_from_their_last_failure() {
        let mut table = BackoffTable::new(BackoffPolicy::image_pull());
        assert_eq!(table.wait_since_update(&key("a"), at(0)), None);
        table.next(key("a"), at(0), at(0));
        let until = |now| table.wait_since_update(&key("a"), at(now)).map(|wait| wait.until.as_second());
        assert_eq!([until(0), until(9), until(10)], [Some(10), Some(10), None]);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nobody_wait_for_it() {
        let mut table = crash_loop();
        table.next(key("a"), at(10_000), at(10_000));
        for (now, waits) in [(10_003, true), (9_990, true), (9_989, false), (6_400, false)] {
            assert_eq!(table.wait_since(&key("a"), at(10_000), at(now)).is_some(), waits, "{now}");
            assert_eq!(table.wait_since_update(&key("a"), at(now)).is_some(), waits, "{now}");
        }
    }

    #[test]
    fn configuration_caps_every_delay() {
        let check = |max: Option<u64>, reduced: bool, initial: u64, largest: u64| {
            let policy = BackoffPolicy::crash_loop(max.map(Duration::from_secs), reduced);
            assert_eq!((policy.initial.as_secs(), policy.max.as_secs()), (initial, largest));
        };
        check(None, false, 10, 300);
        check(None, true, 1, 60);
        check(Some(2), false, 2, 2);
        check(Some(120), true, 1, 120);
        let entry = BackoffEntry { delay: Duration::from_secs(300), last_update: at(0) };
        let policy = BackoffPolicy::crash_loop(Some(Duration::from_secs(20)), false);
        let table = BackoffTable::restore(policy, [(key("a"), entry)]);
        assert_eq!(table.get(&key("a")).unwrap().delay, Duration::from_secs(20));
    }

    #[test]
    fn a_new_image_or_size_starts_over_and_a_pod_is_forgotten_whole() {
        let key_of = |fields: serde_json::Value| {
            let mut container = json!({"name": "app", "image": "a"});
            container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let pod = pod(json!({"containers": [container]}));
            BackoffKey::container(&pod, &pod.spec.as_ref().unwrap().containers[0])
        };
        let plain = key_of(json!({}));
        assert_ne!(plain, key_of(json!({"image": "b"})));
        assert_ne!(plain, key_of(json!({"resources": {"limits": {"cpu": "1"}}})));
        assert_eq!(plain, key_of(json!({"command": ["x"]})));
        let mut table = crash_loop();
        table.next(plain.clone(), at(0), at(0));
        table.next(key("image"), at(0), at(0));
        table.forget(&key("image"));
        assert_eq!(table.entries().count(), 1);
        table.prune(at(600));
        assert_eq!(table.entries().count(), 1);
        table.forget_pod(&"u1".into());
        assert_eq!(table.entries().count(), 0);
        table.next(plain, at(0), at(0));
        table.prune(at(601));
        assert_eq!(table.entries().count(), 0);
    }

    #[test]
    fn delays_print_as_in_go() {
        let check =
            |seconds, expected: &str| assert_eq!(format_delay(Duration::from_secs(seconds)), expected);
        check(10, "10s");
        check(80, "1m20s");
        check(300, "5m0s");
        check(3600, "1h0m0s");
    }

    proptest! {
        #[test]
        fn a_journal_changes_nothing(steps in prop::collection::vec((0..3u8, 0..2000i64), 0..40), probe in 0..80_000i64) {
            let mut table = crash_loop();
            let mut now = 0;
            for (name, pause) in steps {
                now += pause;
                let key = key(&name.to_string());
                if table.wait_since(&key, at(now), at(now)).is_none() {
                    let entry = table.next(key, at(now), at(now));
                    prop_assert!(entry.delay >= Duration::from_secs(10) && entry.delay <= MAX_CONTAINER_BACKOFF);
                }
            }
            let text = serde_json::to_string(&table.entries().collect::<Vec<_>>()).unwrap();
            let entries: Vec<(BackoffKey, BackoffEntry)> = serde_json::from_str(&text).unwrap();
            let restored = BackoffTable::restore(BackoffPolicy::crash_loop(None, false), entries);
            prop_assert_eq!(&restored, &table);
            for name in ["0", "1", "2"] {
                if let Some(wait) = table.wait_since(&key(name), at(now), at(probe)) {
                    prop_assert!(wait.until > at(probe));
                    prop_assert!(table.wait_since(&key(name), at(now), wait.until).is_none());
                }
            }
        }
    }
}
