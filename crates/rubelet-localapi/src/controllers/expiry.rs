//! Events are forgotten after an hour, as kube-apiserver forgets them (`--event-ttl`).

use std::time::Duration;

use jiff::Timestamp;
use rubelet_apimachinery::Resource;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::client::{Client, Failure};
use super::queue::Queue;
use super::{Seen, core, text};

/// How long an Event is kept after its last change.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Namespace and name of an Event.
type Place = (String, String);

/// Forgets Events.
pub(crate) struct Expiry {
    client: Client,
    queue: Queue<Place>,
}

impl Expiry {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, queue: Queue::default() }
    }

    pub(crate) fn queue(&mut self) -> &mut Queue<Place> {
        &mut self.queue
    }

    /// Takes note of an Event.
    pub(crate) fn see(&mut self, resource: &'static Resource, seen: &Seen) {
        if let ("events", Seen::Object { object, deleted: false }) = (resource.plural, seen) {
            let place = (
                text(object, &["metadata", "namespace"]).to_owned(),
                text(object, &["metadata", "name"]).to_owned(),
            );
            let left = self.left(object);
            self.queue.add_at(place, Instant::now() + left);
        }
    }

    /// How much longer an Event is kept.
    fn left(&self, event: &Value) -> Duration {
        let last = [
            ["lastTimestamp"].as_slice(),
            &["series", "lastObservedTime"],
            &["eventTime"],
            &["metadata", "creationTimestamp"],
        ]
        .iter()
        .filter_map(|path| text(event, path).parse::<Timestamp>().ok())
        .max();
        let age = last.map_or(0, |last| self.client.api().now().as_second() - last.as_second());
        LIFETIME.saturating_sub(Duration::from_secs(u64::try_from(age).unwrap_or(0)))
    }

    /// Deletes an Event that is old by now.
    pub(crate) async fn work(&mut self, (namespace, name): Place) {
        let events = core("events");
        let done = match self.client.get(events, &namespace, &name).await {
            Ok(Some(event)) => {
                let left = self.left(&event);
                if !left.is_zero() {
                    self.queue.add_at((namespace, name), Instant::now() + left);
                    return;
                }
                let options = json!({"kind": "DeleteOptions", "apiVersion": "v1",
                    "preconditions": {"resourceVersion": event["metadata"]["resourceVersion"]}});
                self.client.delete(events, &namespace, &name, &options).await
            }
            Ok(None) => Ok(()),
            Err(problem) => Err(problem),
        };
        match done {
            Ok(()) | Err(Failure::NotFound) => self.queue.done(&(namespace, name)),
            Err(_) => self.queue.retry((namespace, name)),
        }
    }
}
