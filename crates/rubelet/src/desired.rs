//! What should run: the full sets of all pod sources, merged. Sole owner of the desired state; everyone else
//! reads the watch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use rubelet_apiclient::level::Level;
use rubelet_core::Pod;
use rubelet_core::ids::{PodUid, pod_uid};
use tokio::sync::watch;
use tracing::warn;

/// Where a pod comes from (`kubernetes.io/config.source`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// `staticPodPath`.
    File,
    /// `staticPodURL`.
    Http,
    /// The program this agent is part of.
    Embedder,
    /// The API server.
    Api,
}

impl SourceKind {
    /// Whether its pods are static pods, which the API server only mirrors.
    pub fn is_static(self) -> bool {
        matches!(self, Self::File | Self::Http)
    }
}

/// One desired pod.
#[derive(Clone, Debug)]
pub struct DesiredPod {
    /// The pod, with the identity its source gave it.
    pub pod: Arc<Pod>,
    /// Its source.
    pub source: SourceKind,
    /// Position in order of arrival, over all sources.
    pub arrival: u64,
}

/// The merged desired state.
#[derive(Clone, Debug, Default)]
pub struct DesiredPods {
    /// By UID.
    pub pods: BTreeMap<PodUid, DesiredPod>,
    /// Every source has delivered one full set: only then may absence mean that a pod is not wanted.
    pub complete: bool,
    /// Some source has something that it could not read since this agent started: a pod that only the runtime
    /// knows may be one of its pods.
    pub doubtful: bool,
}

/// Merges sources; cheap to clone.
#[derive(Clone, Debug)]
pub struct PodConfig {
    merged: Arc<Mutex<Merged>>,
    desired: Arc<Level<Arc<DesiredPods>>>,
}

#[derive(Debug, Default)]
struct Merged {
    expected: BTreeSet<SourceKind>,
    sets: BTreeMap<SourceKind, Vec<Arc<Pod>>>,
    doubtful: BTreeSet<SourceKind>,
    arrivals: BTreeMap<PodUid, u64>,
    next: u64,
}

impl PodConfig {
    /// Waits for these sources before it calls the desired state complete.
    pub fn new(expected: impl IntoIterator<Item = SourceKind>) -> Self {
        let merged = Merged { expected: expected.into_iter().collect(), ..Default::default() };
        // Without any source nothing is ever known to be unwanted.
        let desired = DesiredPods::default();
        Self { merged: Arc::new(Mutex::new(merged)), desired: Arc::new(Level::new(Arc::new(desired))) }
    }

    /// Takes one source's full set. `doubtful`: something of it could not be read, and what it said before is not
    /// known either.
    pub fn publish(&self, source: SourceKind, pods: Vec<Arc<Pod>>, doubtful: bool) {
        let mut merged = self.merged.lock().unwrap_or_else(PoisonError::into_inner);
        if doubtful {
            merged.doubtful.insert(source);
        } else {
            merged.doubtful.remove(&source);
        }
        merged.sets.insert(source, pods);
        let desired = merged.merge();
        // Sent under the lock, so that a newer set is never overtaken by an older one.
        self.desired.set(Arc::new(desired));
    }

    /// The desired state, as a level.
    pub fn watch(&self) -> watch::Receiver<Arc<DesiredPods>> {
        self.desired.follow()
    }
}

impl Merged {
    fn merge(&mut self) -> DesiredPods {
        let mut pods: BTreeMap<PodUid, DesiredPod> = BTreeMap::new();
        for (source, set) in &self.sets {
            for pod in set {
                let uid = pod_uid(pod);
                if let Some(earlier) = pods.get(&uid) {
                    warn!(%uid, first = ?earlier.source, second = ?source, "two sources give a pod of the same UID; the first one counts");
                    continue;
                }
                let arrival = *self.arrivals.entry(uid.clone()).or_insert_with(|| {
                    self.next += 1;
                    self.next
                });
                pods.insert(uid, DesiredPod { pod: pod.clone(), source: *source, arrival });
            }
        }
        self.arrivals.retain(|uid, _| pods.contains_key(uid));
        DesiredPods {
            doubtful: !self.doubtful.is_empty(),
            complete: self.expected.iter().all(|source| self.sets.contains_key(source)),
            pods,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(uid.into());
        Arc::new(pod)
    }

    #[test]
    fn complete_only_after_every_source_and_arrival_is_kept() {
        let config = PodConfig::new([SourceKind::File, SourceKind::Http]);
        let watch = config.watch();
        assert!(!watch.borrow().complete);
        config.publish(SourceKind::Http, vec![pod("b")], false);
        assert!(!watch.borrow().complete);
        config.publish(SourceKind::File, vec![pod("a"), pod("b")], true);
        let desired = watch.borrow().clone();
        assert!(desired.complete && desired.doubtful);
        assert_eq!(desired.pods.len(), 2);
        assert!(desired.pods[&PodUid::from("b")].arrival < desired.pods[&PodUid::from("a")].arrival);
        assert_eq!(desired.pods[&PodUid::from("b")].source, SourceKind::File);
        config.publish(SourceKind::File, vec![], false);
        assert_eq!(watch.borrow().pods.len(), 1);
        assert!(!watch.borrow().doubtful);
    }
}
