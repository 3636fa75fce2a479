//! Events are forgotten after an hour, as kube-apiserver forgets them (`--event-ttl`), and up to five minutes later.
//!
//! Keeps nothing of an Event: there can be many, and all that matters is when to look through them next.

use std::time::Duration;

use jiff::Timestamp;
use rubelet_apimachinery::Resource;
use rubelet_apimachinery::partial;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::warn;

use super::client::{Client, Failure};
use super::queue::Queue;
use super::{Seen, core, text};
use crate::store::StoreError;

/// How long an Event is kept after its last change.
const LIFETIME: Duration = Duration::from_secs(3600);
/// How long it is at least from one look through all Events to the next.
const REST: Duration = Duration::from_secs(300);
/// How many Events are read, and deleted, at a time.
const PAGE: usize = 64;

/// Namespace and name of an Event.
type Place = (String, String);

/// Forgets Events.
pub(crate) struct Expiry {
    client: Client,
    /// When Events are looked through.
    queue: Queue<()>,
}

/// Some of the Events, looked through.
#[derive(Default)]
struct Looked {
    /// Where those are that are old by now, and their versions.
    old: Vec<(Place, String)>,
    /// When the first of the others will be.
    next: Option<Duration>,
    /// The last of them, if there may be more.
    last: Option<Place>,
}

impl Expiry {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, queue: Queue::default() }
    }

    pub(crate) fn queue(&mut self) -> &mut Queue<()> {
        &mut self.queue
    }

    /// Takes note of an Event.
    pub(crate) fn see(&mut self, resource: &'static Resource, seen: &Seen) {
        if let ("events", Seen::Object { object, deleted: false }) = (resource.plural, seen) {
            let left = self.left(object);
            self.queue.add_at((), Instant::now() + left.max(REST));
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

    /// Deletes all Events that are old by now.
    pub(crate) async fn work(&mut self, (): ()) {
        let (mut after, mut next) = (None, None);
        loop {
            let looked = match self.look(after) {
                Ok(looked) => looked,
                Err(problem) => {
                    warn!("old events are not forgotten: {problem}");
                    return self.queue.add_at((), Instant::now() + REST);
                }
            };
            for ((namespace, name), version) in looked.old {
                let options = json!({"kind": "DeleteOptions", "apiVersion": "v1",
                    "preconditions": {"resourceVersion": version}});
                match self.client.delete(core("events"), &namespace, &name, &options).await {
                    Ok(()) | Err(Failure::NotFound) => {}
                    // To be looked at again.
                    Err(_) => next = Some(Duration::ZERO),
                }
            }
            next = next.into_iter().chain(looked.next).min();
            after = looked.last;
            if after.is_none() {
                break;
            }
            tokio::task::yield_now().await;
        }
        if let Some(next) = next {
            self.queue.add_at((), Instant::now() + next.max(REST));
        }
    }

    /// Looks through the Events after the one at `after`, some at a time.
    fn look(&self, after: Option<Place>) -> Result<Looked, StoreError> {
        let mut looked = Looked::default();
        let after = after.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        let snapshot = self.client.api().store().snapshot()?;
        let mut read = 0;
        for entry in snapshot.list(&core("events").qualified(), None, after)?.take(PAGE) {
            let (key, record) = entry?;
            read += 1;
            let place = (key.namespace, key.name);
            looked.last = Some(place.clone());
            let Ok(event) = partial::without_managed_fields(&record.bytes) else { continue };
            let left = self.left(&event);
            if left.is_zero() {
                looked.old.push((place, text(&event, &["metadata", "resourceVersion"]).to_owned()));
            } else {
                looked.next = looked.next.into_iter().chain([left]).min();
            }
        }
        if read < PAGE {
            looked.last = None;
        }
        Ok(looked)
    }
}
