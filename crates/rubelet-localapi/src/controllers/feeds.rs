//! Everything that changes, as the controllers hear of it: what is there, then each change.
//!
//! A feed that fell behind the store's log begins again with what is there, so nothing is missed for good; that an
//! object went in between is then told by nobody, and every controller looks again at what it waits for.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, SelectAll, StreamExt as _};
use rubelet_apimachinery::Resource;
use rubelet_apimachinery::kinds::{self, Served};
use serde_json::Value;
use tracing::warn;

use crate::store::{Event, EventKind, Store, StoreError, Watcher};

/// What a controller is told.
#[derive(Debug, Clone)]
pub(crate) enum Seen {
    /// An object as it is now, or as it was when it was deleted.
    Object {
        /// The object.
        object: Arc<Value>,
        /// Whether it is gone.
        deleted: bool,
    },
    /// What is there has been told; from here on changes are.
    Complete,
}

/// How long to wait when the store cannot be read.
const PAUSE: Duration = Duration::from_secs(1);

type Told = (&'static Resource, Seen);

/// All feeds as one.
pub(crate) struct Feeds(SelectAll<BoxStream<'static, Told>>);

impl Feeds {
    /// Follows every stored resource.
    pub(crate) fn new(store: &Store) -> Self {
        let stored =
            kinds::all().iter().filter(|r| r.served == Served::Stored && std::ptr::eq(*r, r.stored_as()));
        let feeds = stored.map(|resource| {
            let feed = Feed { store: store.clone(), resource, watcher: None, waiting: Vec::new() };
            stream::unfold(feed, |mut feed| async move {
                let seen = feed.next().await?;
                Some(((feed.resource, seen), feed))
            })
            .boxed()
        });
        Self(stream::select_all(feeds))
    }

    /// The next change; `None` when the store is closed.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        self.0.next().await
    }
}

struct Feed {
    store: Store,
    resource: &'static Resource,
    watcher: Option<Watcher>,
    /// Objects of the list that were not told yet, the last one first.
    waiting: Vec<Seen>,
}

impl Feed {
    async fn next(&mut self) -> Option<Seen> {
        loop {
            if let Some(seen) = self.waiting.pop() {
                return Some(seen);
            }
            let Some(watcher) = &mut self.watcher else {
                if let Err(problem) = self.begin() {
                    warn!("{} cannot be read: {problem}", self.resource.qualified());
                    tokio::time::sleep(PAUSE).await;
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
                Err(_) => self.watcher = None,
            }
        }
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        let name = self.resource.qualified();
        let snapshot = self.store.snapshot()?;
        let mut waiting = vec![Seen::Complete];
        for entry in snapshot.list(&name, None, None)? {
            let (_, record) = entry?;
            if let Ok(object) = serde_json::from_slice(&record.bytes) {
                waiting.push(Seen::Object { object: Arc::new(object), deleted: false });
            }
        }
        // Too old already: the next call begins again.
        self.watcher = self.store.watch(&name, None, None, snapshot.revision()).ok();
        self.waiting = waiting;
        Ok(())
    }
}

fn told(event: &Event) -> Option<Seen> {
    let object = Arc::new(event.object()?.clone());
    Some(Seen::Object { object, deleted: event.kind == EventKind::Deleted })
}
