//! How long pods take to start (`kubelet_pod_start_sli_duration_seconds` and its like): passes what the API source
//! and workers see on to `rubelet_core::startup_latency`, and counts what comes out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rubelet_core::Pod;
use rubelet_core::ids::PodUid;
use rubelet_core::startup_latency::Startups;

use super::Metrics;

/// Handle; cheap to clone. Remembers pods that are starting.
#[derive(Clone, Default)]
pub struct StartupLatency {
    metrics: Metrics,
    startups: Arc<Mutex<Startups>>,
    /// Whether a pod with a network of its own has been counted.
    network_seen: Arc<AtomicBool>,
}

impl StartupLatency {
    /// Counts into these metrics.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, ..Self::default() }
    }

    /// The API shows a pod like this, now.
    pub fn seen(&self, pod: &Pod, now: Timestamp) {
        let Some(times) = self.lock().seen(pod, now) else { return };
        let pods = &self.metrics.pods;
        pods.start_total_duration.observe(times.total.as_secs_f64());
        if let Some(indicator) = times.indicator {
            pods.start_sli_duration.observe(indicator.as_secs_f64());
            if times.own_network && !self.network_seen.swap(true, Ordering::Relaxed) {
                pods.first_network_start_sli.set(indicator.as_secs_f64());
            }
        }
    }

    /// An image of a pod was pulled, which took this long with waiting and ended at `end`.
    pub fn pulled(&self, uid: &PodUid, took: Duration, end: Timestamp) {
        let took = SignedDuration::try_from(took).unwrap_or(SignedDuration::MAX);
        let begin = end.checked_sub(took).unwrap_or(Timestamp::MIN);
        self.lock().pulled(uid, begin, end);
    }

    /// A pod is gone.
    pub fn forget(&self, uid: &PodUid) {
        self.lock().forget(uid);
    }

    /// No pods are there but these.
    pub fn keep(&self, known: impl Fn(&PodUid) -> bool) {
        self.lock().keep(known);
    }

    fn lock(&self) -> MutexGuard<'_, Startups> {
        self.startups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, running: bool, host_network: bool) -> Pod {
        let mut value = serde_json::json!({
            "metadata": { "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "containers": [{ "name": "a" }], "hostNetwork": host_network },
        });
        if running {
            value["status"] = serde_json::json!({ "phase": "Running", "startTime": "2026-01-01T00:00:01Z",
                "containerStatuses": [{ "name": "a", "image": "", "imageID": "", "ready": true,
                    "restartCount": 0, "state": { "running": { "startedAt": "2026-01-01T00:00:02Z" } } }] });
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_first_pod_with_a_network_is_told_by_itself() {
        let metrics = Metrics::new();
        let latency = StartupLatency::new(metrics.clone());
        let at = |second: i64| Timestamp::from_second(1_767_225_600 + second).unwrap();
        for (uid, host_network, second) in [("a", true, 5), ("b", false, 7), ("c", false, 9)] {
            latency.seen(&pod(uid, false, host_network), at(0));
            latency.pulled(&PodUid::from(uid), Duration::from_secs(2), at(4));
            latency.seen(&pod(uid, true, host_network), at(second));
        }
        assert_eq!(metrics.pods.start_total_duration.sum(), 21.0);
        assert_eq!(metrics.pods.start_sli_duration.sum(), 15.0);
        assert_eq!(metrics.pods.first_network_start_sli.get(), Some(5.0));
    }
}
