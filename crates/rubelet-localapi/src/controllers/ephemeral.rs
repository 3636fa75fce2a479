//! The claims of pods' `ephemeral` volumes: made when the pod is, gone with it by its owner reference.

use rubelet_apimachinery::Resource;
use rubelet_apimachinery::binding::{self, PodClaim};
use serde_json::Value;
use tracing::warn;

use super::client::{Client, Failure};
use super::events::{Kind, Recorder};
use super::queue::Queue;
use super::{Seen, core, text};

/// Namespace and name of a pod.
type Place = (String, String);

/// Makes claims.
pub(crate) struct Ephemeral {
    client: Client,
    recorder: Recorder,
    queue: Queue<Place>,
}

impl Ephemeral {
    pub(crate) fn new(client: Client, recorder: Recorder) -> Self {
        Self { client, recorder, queue: Queue::default() }
    }

    pub(crate) fn queue(&mut self) -> &mut Queue<Place> {
        &mut self.queue
    }

    /// Takes note of a change.
    pub(crate) fn see(&mut self, resource: &'static Resource, seen: &Seen) {
        let Seen::Object { object, deleted } = seen else { return };
        let namespace = text(object, &["metadata", "namespace"]).to_owned();
        match (resource.plural, deleted) {
            // From the moment it has started on, a pod has what it needs.
            ("pods", false)
                if is_to_start(object) && binding::claims_of(object).any(|claim| claim.ephemeral) =>
            {
                self.queue.add((namespace, text(object, &["metadata", "name"]).to_owned()));
            }
            // One that somebody deleted under a pod is made again.
            ("persistentvolumeclaims", true) => {
                let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
                for pod in owners.filter(|owner| owner["kind"] == "Pod" && owner["controller"] == true) {
                    self.queue.add((namespace.clone(), text(pod, &["name"]).to_owned()));
                }
            }
            _ => {}
        }
    }

    /// Makes the claims of one pod.
    pub(crate) async fn work(&mut self, place: Place) {
        match self.make(&place).await {
            Ok(()) | Err(Failure::NotFound) => self.queue.done(&place),
            Err(Failure::Conflict) => self.queue.retry(place),
            Err(Failure::Other(message)) => {
                warn!("a volume of the pod {}/{} has no claim: {message}", place.0, place.1);
                self.queue.retry(place);
            }
        }
    }

    async fn make(&self, (namespace, name): &Place) -> Result<(), Failure> {
        let Some(pod) = self.client.get(core("pods"), namespace, name).await? else { return Ok(()) };
        if pod["metadata"].get("deletionTimestamp").is_some() {
            return Ok(());
        }
        let mut failed = None;
        for claim in binding::claims_of(&pod).filter(|claim| claim.ephemeral) {
            if let Err(problem) = self.make_one(&pod, namespace, &claim).await {
                let message = format!("ephemeral volume {}: {problem}", text(claim.volume, &["name"]));
                self.recorder.tell(&pod, Kind::Warning, "FailedBinding", &message).await;
                failed = Some(problem);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn make_one(&self, pod: &Value, namespace: &str, claim: &PodClaim<'_>) -> Result<(), Failure> {
        let claims = core("persistentvolumeclaims");
        match self.client.get(claims, namespace, &claim.name).await? {
            Some(present) if binding::is_made_for(&present, pod) => Ok(()),
            Some(present) => Err(Failure::Other(binding::not_made_for(&present, pod))),
            None => self.client.create(claims, namespace, &binding::new_claim(claim, pod)).await.map(|_| ()),
        }
    }
}

fn is_to_start(pod: &Value) -> bool {
    pod["metadata"].get("deletionTimestamp").is_none() && text(pod, &["status", "startTime"]).is_empty()
}
