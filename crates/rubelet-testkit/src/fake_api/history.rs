//! Every state of every object that was ever stored, as the store told of it.
//!
//! A watcher of each kind, asked after each write: what is stored is not kept twice for long, and compaction takes
//! nothing from here.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use rubelet_apimachinery::kinds::{self, Resource, Served};
use rubelet_localapi::store::{Event, EventKind, Store, Watcher};
use serde_json::Value;

/// Follows the store.
pub(crate) struct History {
    store: Store,
    followed: Vec<Watcher>,
    /// Up to where it was followed.
    revision: u64,
    /// States by kind and by the revision at which the object came to be.
    states: BTreeMap<String, BTreeMap<u64, Vec<Bytes>>>,
}

impl History {
    /// Of a store that is empty.
    pub(crate) fn new(store: &Store) -> Self {
        let revision = store.revision();
        let stored = kinds::all().iter().filter(|kind| {
            std::ptr::eq(*kind, kind.stored_as()) && matches!(kind.served, Served::Stored | Served::OnRequest)
        });
        let follow = |kind: &'static Resource| {
            let followed = store.watch(&kind.qualified(), None, None, revision);
            followed.unwrap_or_else(|e| panic!("cannot follow {}: {e}", kind.plural))
        };
        Self {
            followed: stored.map(follow).collect(),
            store: store.clone(),
            revision,
            states: BTreeMap::new(),
        }
    }

    /// What has changed since the last time, in the order of the changes.
    pub(crate) fn follow(&mut self) -> Vec<Arc<Event>> {
        let current = self.store.revision();
        if current == self.revision {
            return Vec::new();
        }
        self.revision = current;
        let mut events = Vec::new();
        for watcher in &mut self.followed {
            while let Some(told) = watcher.next().now_or_never() {
                match told {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(e) => panic!("a change was missed: {e}"),
                }
            }
        }
        events.sort_by_key(|event| event.revision);
        for event in events.iter().filter(|event| event.kind != EventKind::Deleted) {
            let of_kind = self.states.entry(event.key.resource.clone()).or_default();
            of_kind.entry(event.created).or_default().push(event.bytes.clone());
        }
        events
    }

    /// All states of the object with this UID, oldest first.
    pub(crate) fn of(&self, resource: &Resource, uid: &str) -> &[Bytes] {
        let is = |states: &&Vec<Bytes>| {
            let first: Option<Value> = states.first().and_then(|bytes| serde_json::from_slice(bytes).ok());
            first.is_some_and(|object| object["metadata"]["uid"] == uid)
        };
        let of_kind = self.states.get(&resource.qualified());
        of_kind.and_then(|objects| objects.values().rev().find(is)).map(Vec::as_slice).unwrap_or_default()
    }
}
