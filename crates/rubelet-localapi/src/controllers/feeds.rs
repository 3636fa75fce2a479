//! Everything that changes, as the controllers hear of it: what is there, then each change.
//!
//! A feed that fell behind the store's log begins anew: whoever keeps something of what it was told forgets it and is
//! told again, since nobody says what went in between.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, SelectAll, StreamExt as _};
use rubelet_apimachinery::Resource;
use rubelet_apimachinery::kinds::{self, Served};
use rubelet_apimachinery::partial;
use serde_json::Value;
use tracing::warn;

use crate::store::{Event, EventKind, SnapshotError, Store, StoreError, WatchError, Watcher};

/// What a controller is told.
#[derive(Debug, Clone)]
pub(crate) enum Seen {
    /// All there is of the resource is told from here on: what was told before counts no longer.
    Anew,
    /// An object as it is now, or as it was when it was deleted; without its `managedFields`.
    Object {
        /// The object.
        object: Arc<Value>,
        /// Whether it is gone.
        deleted: bool,
    },
    /// What is there has been told; from here on changes are.
    Complete,
}

/// How long to wait when the store cannot be read: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How many objects of a list are held at a time.
const PAGE: usize = 64;

type Told = (&'static Resource, Seen);

/// All feeds as one.
pub(crate) struct Feeds(SelectAll<BoxStream<'static, Told>>);

/// What is followed: every resource that is stored.
pub(crate) fn followed() -> impl Iterator<Item = &'static Resource> {
    kinds::all().iter().filter(|r| r.served == Served::Stored && std::ptr::eq(*r, r.stored_as()))
}

impl Feeds {
    /// Follows every stored resource.
    pub(crate) fn new(store: &Store) -> Self {
        let feeds = followed().map(|resource| {
            stream::unfold(Feed::new(store.clone(), resource), |mut feed| async move {
                let seen = feed.next().await?;
                Some(((feed.resource, seen), feed))
            })
            .boxed()
        });
        Self(stream::select_all(feeds))
    }

    /// The next change; `None` when the store is closed. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        self.0.next().await
    }
}

struct Feed {
    store: Store,
    resource: &'static Resource,
    watcher: Option<Watcher>,
    /// While what is there is being told.
    listing: Option<Listing>,
    waiting: VecDeque<Seen>,
    pause: Duration,
}

/// A list being told: the revision it is of, and the last object of it that was read.
struct Listing {
    revision: u64,
    after: Option<(String, String)>,
}

impl Feed {
    fn new(store: Store, resource: &'static Resource) -> Self {
        Self { store, resource, watcher: None, listing: None, waiting: VecDeque::new(), pause: PAUSE.0 }
    }

    async fn next(&mut self) -> Option<Seen> {
        loop {
            if let Some(seen) = self.waiting.pop_front() {
                return Some(seen);
            }
            if let Some(listing) = self.listing.take() {
                match self.page(listing) {
                    Ok(()) => {}
                    Err(SnapshotError::Store(problem)) => self.hold(problem).await,
                    // So slow that the list is forgotten before its end.
                    Err(_) => self.watcher = None,
                }
                continue;
            }
            let Some(watcher) = &mut self.watcher else {
                match self.begin() {
                    Ok(()) => return Some(Seen::Anew),
                    Err(WatchError::Store(problem)) => self.hold(problem).await,
                    // Too old already.
                    Err(_) => {}
                }
                continue;
            };
            match watcher.next().await {
                Ok(Some(event)) => {
                    if let Some(seen) = told(&event) {
                        return Some(seen);
                    }
                }
                Ok(None) => return None,
                Err(WatchError::Store(problem)) => self.hold(problem).await,
                Err(_) => self.watcher = None,
            }
        }
    }

    /// Waits, and begins again.
    async fn hold(&mut self, problem: StoreError) {
        warn!("{} cannot be read: {problem}", self.resource.qualified());
        self.watcher = None;
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE.1);
    }

    fn begin(&mut self) -> Result<(), WatchError> {
        let revision = self.store.snapshot()?.revision();
        self.watcher = Some(self.store.watch(&self.resource.qualified(), None, None, revision)?);
        self.listing = Some(Listing { revision, after: None });
        Ok(())
    }

    /// Reads some more of a list. No snapshot is held while it is told.
    fn page(&mut self, mut listing: Listing) -> Result<(), SnapshotError> {
        let snapshot = self.store.snapshot_at(listing.revision)?;
        let after = listing.after.take();
        let after = after.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        let mut read = 0;
        for entry in snapshot.list(&self.resource.qualified(), None, after)?.take(PAGE) {
            let (key, record) = entry?;
            read += 1;
            if let Ok(object) = partial::without_managed_fields(&record.bytes) {
                self.waiting.push_back(Seen::Object { object: Arc::new(object), deleted: false });
            }
            listing.after = Some((key.namespace, key.name));
        }
        if read < PAGE {
            self.waiting.push_back(Seen::Complete);
            self.pause = PAUSE.0;
        } else {
            self.listing = Some(listing);
        }
        Ok(())
    }
}

fn told(event: &Event) -> Option<Seen> {
    let object = Arc::new(partial::without_managed_fields(&event.bytes).ok()?);
    Some(Seen::Object { object, deleted: event.kind == EventKind::Deleted })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{Key, LogLimits, RecentLimits, StoreOptions};

    async fn write(store: &Store, name: &str, gone: bool) {
        let key = Key::new("configmaps", "ns", name);
        let bytes = json!({"metadata": {"namespace": "ns", "name": name}}).to_string().into_bytes();
        let done = store.write(move |tx| {
            if gone {
                tx.delete(&key, bytes)?;
            } else {
                tx.put(key, bytes)?;
            }
            Ok::<(), StoreError>(())
        });
        done.await.unwrap();
    }

    /// What is told until nothing is.
    async fn hear(feed: &mut Feed) -> Vec<String> {
        let mut heard = Vec::new();
        while let Ok(seen) = tokio::time::timeout(Duration::from_millis(1), feed.next()).await {
            heard.push(match seen.unwrap() {
                Seen::Anew => "anew".to_owned(),
                Seen::Complete => "complete".to_owned(),
                Seen::Object { object, deleted } => {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    format!("{}{name}", if deleted { "-" } else { "" })
                }
            });
        }
        heard
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_that_fell_behind_begins_anew() {
        let now = Arc::new(|| jiff::Timestamp::UNIX_EPOCH);
        let log = LogLimits { changes: 8, ..LogLimits::default() };
        let recent = RecentLimits { events: 4, ..RecentLimits::default() };
        let store = Store::in_memory(StoreOptions { log, recent, ..StoreOptions::new(now) }).unwrap();
        for at in 0..PAGE + 1 {
            write(&store, &format!("c{at:03}"), false).await;
        }
        let resource = kinds::find("", "v1", "configmaps").unwrap();
        let mut feed = Feed::new(store.clone(), resource);
        let heard = hear(&mut feed).await;
        assert_eq!((heard.len(), &*heard[0], &*heard[PAGE + 2]), (PAGE + 3, "anew", "complete"));
        write(&store, "c000", true).await;
        assert_eq!(hear(&mut feed).await, ["-c000"]);
        for at in 1..PAGE {
            write(&store, &format!("c{at:03}"), true).await;
        }
        store.compact_to(store.revision()).await.unwrap();
        assert_eq!(hear(&mut feed).await, ["anew", "c064", "complete"]);
    }
}
