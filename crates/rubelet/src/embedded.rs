//! Pods of the program that the agent is part of: run one, watch it, delete it.
//!
//! Owns the set that is published as [`SourceKind::Embedder`]; decides nothing about pods. A pod that is to end stays in
//! the set until its worker has finished, so that nothing of it is forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rubelet_core::ids::{PodUid, pod_uid};
use rubelet_core::lifecycle::PodState;
use rubelet_core::validation::{FieldError, validate_pod};
use rubelet_core::{defaults, qos};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::desired::{PodConfig, SourceKind};
use crate::table::PodTable;

/// Why a pod is not run.
#[derive(Debug, thiserror::Error)]
pub enum RunPodError {
    /// Fields that break the API's rules; all of them are listed.
    #[error("invalid pod: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<FieldError>),
    /// There is another pod of this UID, or of this name in this namespace.
    #[error("there is a pod {namespace}/{name} already: delete it first")]
    Exists {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The agent was not built with [`crate::KubeletBuilder::embedded`].
    #[error("this agent takes no pods of its program: build it with `embedded()`")]
    NotEmbedded,
    /// The machine gives no random numbers for a UID.
    #[error("cannot make a UID for the pod")]
    Uid(#[source] std::io::Error),
}

/// The program's pods; cheap to clone.
#[derive(Clone)]
pub(crate) struct EmbeddedPods {
    set: Arc<Mutex<BTreeMap<PodUid, Arc<Pod>>>>,
    config: PodConfig,
    table: PodTable,
    clock: Clock,
    enabled: bool,
}

impl EmbeddedPods {
    /// Publishes to `config`, if the agent takes pods of its program at all.
    pub(crate) fn new(config: PodConfig, table: PodTable, clock: Clock, enabled: bool) -> Self {
        Self { set: Arc::default(), config, table, clock, enabled }
    }

    fn set(&self) -> MutexGuard<'_, BTreeMap<PodUid, Arc<Pod>>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Published under the lock, so that a newer set is never overtaken by an older one.
    fn publish(&self, set: &BTreeMap<PodUid, Arc<Pod>>) {
        self.config.publish(SourceKind::Embedder, set.values().cloned().collect(), false);
    }

    /// Makes the set what the caller says.
    pub(crate) fn replace(&self, pods: Vec<Arc<Pod>>) {
        let mut set = self.set();
        *set = pods.iter().map(|pod| (pod_uid(pod), pod.clone())).collect();
        self.config.publish(SourceKind::Embedder, pods, false);
    }

    pub(crate) fn run(&self, mut pod: Pod) -> Result<RunningPod, RunPodError> {
        if !self.enabled {
            return Err(RunPodError::NotEmbedded);
        }
        let metadata = &mut pod.metadata;
        metadata.namespace.get_or_insert_with(|| "default".to_owned());
        if metadata.uid.as_deref().unwrap_or_default().is_empty() {
            metadata.uid = Some(rubelet_linux::process::random_uuid().map_err(RunPodError::Uid)?);
        }
        metadata.creation_timestamp.get_or_insert_with(|| Time(self.clock.now()));
        defaults::apply(&mut pod);
        let problems = validate_pod(&pod);
        if !problems.is_empty() {
            return Err(RunPodError::Invalid(problems));
        }
        let class = qos::compute_qos(&pod).as_str().to_owned();
        let status = pod.status.get_or_insert_default();
        status.phase.get_or_insert_with(|| "Pending".to_owned());
        status.qos_class = Some(class);
        let (uid, pod) = (pod_uid(&pod), Arc::new(pod));
        // Seen from before the pod is known, so that no change of it is missed.
        let changes = self.table.changes();
        let mut set = self.set();
        let is_taken = |other: &Arc<Pod>| {
            other.metadata.name == pod.metadata.name && other.metadata.namespace == pod.metadata.namespace
        };
        if set.contains_key(&uid) || set.values().any(is_taken) {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            return Err(RunPodError::Exists {
                namespace: text(&pod.metadata.namespace),
                name: text(&pod.metadata.name),
            });
        }
        set.insert(uid.clone(), pod.clone());
        self.publish(&set);
        drop(set);
        Ok(RunningPod { pods: self.clone(), uid, pod, changes })
    }

    /// Asks for a pod's end; less grace than was asked for before only shortens it.
    fn mark_deleted(&self, uid: &PodUid, grace: Option<Duration>) {
        let mut set = self.set();
        let Some(pod) = set.get_mut(uid) else { return };
        let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        let asked = grace.map_or(own, |grace| i64::try_from(grace.as_secs()).unwrap_or(i64::MAX));
        let metadata = &mut Arc::make_mut(pod).metadata;
        let seconds = metadata.deletion_grace_period_seconds.map_or(asked, |before| before.min(asked));
        metadata.deletion_grace_period_seconds = Some(seconds);
        metadata.deletion_timestamp.get_or_insert_with(|| Time(self.clock.now()));
        self.publish(&set);
    }

    fn forget(&self, uid: &PodUid) {
        let mut set = self.set();
        if set.remove(uid).is_some() {
            self.publish(&set);
        }
    }
}

/// A pod that was given to the agent. Dropping this leaves the pod as it is.
pub struct RunningPod {
    pods: EmbeddedPods,
    uid: PodUid,
    pod: Arc<Pod>,
    changes: watch::Receiver<u64>,
}

impl std::fmt::Debug for RunningPod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningPod").field("uid", &self.uid).finish_non_exhaustive()
    }
}

impl RunningPod {
    /// The pod as it is run: with its UID and all defaults.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// The newest status; `None` before the agent has looked at the pod, and after its end.
    pub fn status(&self) -> Option<Arc<PodStatus>> {
        self.pods.table.get(&self.uid).map(|row| row.status)
    }

    /// Waits until the status is as `condition` wants it. Cancel-safe.
    ///
    /// Never ends when that never comes: put a timeout around it.
    pub async fn wait_for(&mut self, mut condition: impl FnMut(&PodStatus) -> bool) -> Arc<PodStatus> {
        loop {
            // Marked as seen before it is read, so that a change in between is looked at again.
            self.changes.mark_unchanged();
            if let Some(status) = self.status()
                && condition(&status)
            {
                return status;
            }
            if self.changes.changed().await.is_err() {
                // The agent is gone and nothing will change any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until all containers are ready. Cancel-safe.
    pub async fn wait_ready(&mut self) -> Arc<PodStatus> {
        self.wait_for(|status| {
            status
                .conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        })
        .await
    }

    /// Ends the pod and waits until nothing of it is left; gives its last status. `grace` is the time its containers
    /// have after the signal, rounded down to seconds; the pod's own when `None`.
    ///
    /// Not undone when this future is dropped: the pod ends all the same.
    pub async fn delete(mut self, grace: Option<Duration>) -> Option<Arc<PodStatus>> {
        self.pods.mark_deleted(&self.uid, grace);
        let mut last = self.status();
        loop {
            self.changes.mark_unchanged();
            match self.pods.table.get(&self.uid) {
                Some(row) if matches!(row.state, PodState::Finished { .. }) => {
                    last = Some(row.status);
                    self.pods.forget(&self.uid);
                }
                Some(row) => last = Some(row.status),
                None => {
                    self.pods.forget(&self.uid);
                    return last;
                }
            }
            if self.changes.changed().await.is_err() {
                return last;
            }
        }
    }
}
