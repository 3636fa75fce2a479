//! Critical pods that do not fit: others end for them, and they begin when those have ended.
//!
//! Who goes is decided by `rubelet_core::preemption`. A pod that waits has no worker yet; each turn of the loop judges
//! it again, and newcomers that are not critical count it as if it ran.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rubelet_core::Pod;
use rubelet_core::admission::{Insufficient, NodeFacts, Rejection, insufficient, is_critical_pod};
use rubelet_core::ids::{PodKey, PodUid, pod_uid};
use rubelet_core::kill::effective_grace;
use rubelet_core::lifecycle::PodState;
use rubelet_core::preemption::{MESSAGE, REASON, victims};
use tokio::time::Instant;
use tracing::info;

use super::SyncLoop;
use crate::desired::DesiredPod;
use crate::events::EventSubject;
use crate::pod_kills::PodKill;

/// The least time that victims are waited for (upstream `minTimeout` of its kill function).
const LEAST_PATIENCE: Duration = Duration::from_secs(10);

/// A critical pod that waits for others to end.
pub(super) struct Preempting {
    pub(super) pod: Arc<Pod>,
    /// Those that end.
    victims: BTreeSet<PodUid>,
    /// From then on the pod begins whether they have ended or not: it must not depend on one that hangs.
    until: Instant,
}

impl Preempting {
    /// Whether a pod counts as gone for the one that waits.
    pub(super) fn is_given_up(&self, uid: &PodUid) -> bool {
        self.victims.contains(uid) && Instant::now() >= self.until
    }
}

impl SyncLoop {
    /// Makes room for a critical pod that was refused for want of resources alone: it waits from now on.
    ///
    /// # Errors
    /// The rejection, when it is no such pod or nobody's end would make room.
    pub(super) fn preempt(
        &mut self,
        uid: &PodUid,
        wanted: &DesiredPod,
        rejection: Rejection,
    ) -> Result<(), Rejection> {
        let Some(first) = rejection.insufficient.first().filter(|_| is_critical_pod(&wanted.pod)) else {
            return Err(rejection);
        };
        if let Some(waiting) = self.preempting.get(uid)
            && waiting.victims.iter().any(|victim| self.workers.contains_key(victim))
        {
            return Ok(());
        }
        let others: Vec<(PodUid, Arc<Pod>)> = self.neighbours(uid, wanted);
        let (leaving, staying): (Vec<_>, Vec<_>) = others.into_iter().partition(|(other, _)| {
            let row = self.services.table.get(other);
            row.is_some_and(|row| !matches!(row.state, PodState::Syncing | PodState::WaitingForPredecessor))
        });
        let pods: Vec<&Pod> = staying.iter().map(|(_, pod)| &**pod).collect();
        let missing = missing(&wanted.pod, &pods, &self.admission);
        let chosen = victims(&wanted.pod, &pods, &missing).map_err(|no_room| {
            let text =
                format!("Unexpected error while attempting to recover from admission failure: {no_room}");
            Rejection { reason: "UnexpectedAdmissionError".to_owned(), message: text, insufficient: vec![] }
        })?;
        let subject = EventSubject::pod(&wanted.pod);
        let mut ending: BTreeSet<PodUid> = leaving.iter().map(|(uid, _)| uid.clone()).collect();
        let mut patience = LEAST_PATIENCE;
        let mut names: Vec<String> = leaving.iter().map(|(_, pod)| PodKey::of(pod).to_string()).collect();
        for place in chosen {
            let Some((victim, pod)) = staying.get(place) else { continue };
            self.services.events.warning(&EventSubject::pod(pod), REASON, MESSAGE);
            self.services.metrics.pods.preemptions.with([&first.resource]).inc();
            self.services.kills.request(PodKill {
                uid: victim.clone(),
                reason: REASON,
                message: MESSAGE.to_owned(),
                grace: None,
                disruption: true,
            });
            patience = patience.max(Duration::from_secs(effective_grace(None, pod, None)).mul_f64(1.5));
            names.push(PodKey::of(pod).to_string());
            ending.insert(victim.clone());
        }
        let text = format!("Waits for pods to end so that there is room for it: {}", names.join(", "));
        info!(pod = %PodKey::of(&wanted.pod), "{text}");
        self.services.events.normal(&subject, "Waiting", text);
        let until = Instant::now() + patience;
        self.preempting.insert(uid.clone(), Preempting { pod: wanted.pod.clone(), victims: ending, until });
        Ok(())
    }

    /// When waiting pods have to be judged again though nobody ended.
    pub(super) fn patience_ends(&self) -> impl Iterator<Item = Instant> {
        let now = Instant::now();
        self.preempting.values().map(|waiting| waiting.until).filter(move |until| *until > now)
    }

    /// Pods that wait for room and that this one must leave it to.
    pub(super) fn promised_room(&self, pod: &Pod) -> Vec<Arc<Pod>> {
        if is_critical_pod(pod) {
            return vec![];
        }
        let own = pod_uid(pod);
        let others = self.preempting.iter().filter(|(uid, _)| **uid != own);
        others.map(|(_, waiting)| waiting.pod.clone()).collect()
    }
}

/// What is missing beside those that stay.
fn missing(pod: &Pod, staying: &[&Pod], node: &NodeFacts) -> Vec<Insufficient> {
    insufficient(pod, staying.iter().copied(), node)
}
