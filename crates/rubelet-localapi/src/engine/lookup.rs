//! Objects and the store: under which key they are kept, in which form, and how the rules see them.
//!
//! Events are one store with two faces: objects of `events.k8s.io` are turned into their core form on the way in and
//! back on the way out.

use std::cell::RefCell;

use rubelet_apimachinery::events;
use rubelet_apimachinery::kinds::Resource;
use rubelet_apimachinery::selector::Selector;
use rubelet_apimachinery::status::{self, ApiError};
use rubelet_apimachinery::strategy::Lookup;
use serde_json::{Value, json};

use super::encode;
use crate::store::{Key, Objects, Record, Snapshot, Store, StoreError, Transaction, WriteError};

/// The key of an object.
pub(crate) fn key(resource: &'static Resource, namespace: &str, name: &str) -> Key {
    Key::new(resource.stored_as().qualified(), namespace, name)
}

/// The answer to a failure of the store.
pub(crate) fn failed(error: StoreError) -> ApiError {
    tracing::error!(%error, "the store failed");
    match error {
        StoreError::Closed { .. } => {
            let mut error = ApiError::new(503, "ServiceUnavailable", "the server is shutting down");
            error.retry_after = Some(1);
            error
        }
        other => status::internal(other),
    }
}

/// An object of the path's resource in the form in which it is stored.
pub(crate) fn to_stored(resource: &'static Resource, object: Value) -> Value {
    if is_stored_form(resource) { object } else { events::to_core(object) }
}

/// Whether objects are stored in the form of this resource.
pub(crate) fn is_stored_form(resource: &'static Resource) -> bool {
    std::ptr::eq(resource, resource.stored_as())
}

/// A stored object in the form of the path's resource.
pub(crate) fn from_stored(resource: &'static Resource, object: Value) -> Value {
    if is_stored_form(resource) || object["kind"] == "Status" { object } else { events::to_events(object) }
}

/// An object as it is stored, from a snapshot.
pub(crate) fn record(
    snapshot: &Snapshot,
    resource: &'static Resource,
    namespace: &str,
    name: &str,
) -> Result<Option<Record>, ApiError> {
    snapshot.get(&key(resource, namespace, name)).map_err(failed)
}

/// The objects of a resource after the given one, of all namespaces when `namespace` is empty.
pub(crate) fn objects(
    snapshot: &Snapshot,
    resource: &'static Resource,
    namespace: &str,
    after: Option<(&str, &str)>,
) -> Result<Objects, ApiError> {
    let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
    snapshot.list(&resource.stored_as().qualified(), namespace, after).map_err(failed)
}

/// Whether a selector can pick the object of a key; most that it cannot are told without decoding them.
pub(crate) fn may_match(selector: &Selector, key: &Key) -> bool {
    selector.exact_name().is_none_or(|name| name == key.name)
        && selector.exact_namespace().is_none_or(|namespace| namespace == key.namespace)
}

/// How many [`objects`] would give.
pub(crate) fn count(
    snapshot: &Snapshot,
    resource: &'static Resource,
    namespace: &str,
    after: Option<(&str, &str)>,
) -> Result<u64, ApiError> {
    let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
    snapshot.count(&resource.stored_as().qualified(), namespace, after).map_err(failed)
}

/// The first objects (all when `limit` is 0) that a selector picks, in the form of the resource.
pub(crate) fn pick(
    snapshot: &Snapshot,
    resource: &'static Resource,
    namespace: &str,
    selector: &Selector,
    limit: usize,
) -> Result<Vec<Value>, ApiError> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut picked = Vec::new();
    for entry in objects(snapshot, resource, namespace, None)? {
        if picked.len() >= limit {
            break;
        }
        let (key, record) = entry.map_err(failed)?;
        if !may_match(selector, &key) {
            continue;
        }
        let object = encode::decode(&record.bytes)?;
        if selector.matches(&object) {
            picked.push(from_stored(resource, object));
        }
    }
    Ok(picked)
}

/// An object as it is stored, within a transaction.
pub(crate) fn get(
    tx: &mut Transaction<'_>,
    resource: &'static Resource,
    namespace: &str,
    name: &str,
) -> Result<Option<Value>, ApiError> {
    let record = tx.get(&key(resource, namespace, name)).map_err(failed)?;
    record.map(|record| encode::decode(&record.bytes)).transpose()
}

/// Stores an object in its stored form; it learns its version.
pub(crate) fn put(
    tx: &mut Transaction<'_>,
    resource: &'static Resource,
    namespace: &str,
    name: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    object["metadata"]["resourceVersion"] = json!(tx.next_revision().to_string());
    tx.put(key(resource, namespace, name), encode::object(object)).map_err(failed)?;
    Ok(())
}

/// Removes an object; gives its last state, with the version of its end.
pub(crate) fn remove(
    tx: &mut Transaction<'_>,
    resource: &'static Resource,
    namespace: &str,
    name: &str,
    mut last: Value,
) -> Result<Value, ApiError> {
    last["metadata"]["resourceVersion"] = json!(tx.next_revision().to_string());
    tx.delete(&key(resource, namespace, name), encode::object(&last)).map_err(failed)?;
    Ok(last)
}

/// Runs a write; errors of the store and panics become answers.
pub(crate) async fn in_transaction<T: Send + 'static>(
    store: &Store,
    job: impl FnOnce(&mut Transaction<'_>) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    store.write(job).await.map_err(|error| match error {
        WriteError::Rejected(error) => error,
        WriteError::Store(error) => failed(error),
        WriteError::Panicked { message } => {
            tracing::error!(message, "a write made the API panic; this is a bug");
            status::internal("the request could not be carried out")
        }
    })
}

/// What may be looked up outside of a write: the newest objects. Costs nothing until something is.
pub struct Shown<'a>(pub(crate) &'a Store);

impl<'a> Shown<'a> {
    /// What this store holds.
    pub fn new(store: &'a Store) -> Self {
        Self(store)
    }
}

impl Lookup for Shown<'_> {
    fn get(&self, resource: &'static Resource, namespace: &str, name: &str) -> Option<Value> {
        let record = record(&self.0.snapshot().ok()?, resource, namespace, name).ok()??;
        encode::decode(&record.bytes).ok()
    }

    fn list(&self, resource: &'static Resource, namespace: &str) -> Vec<Value> {
        let Ok(snapshot) = self.0.snapshot() else { return Vec::new() };
        let Ok(objects) = objects(&snapshot, resource, namespace, None) else { return Vec::new() };
        objects.filter_map(|entry| encode::decode(&entry.ok()?.1.bytes).ok()).collect()
    }
}

/// What the rules may look up while a write is being decided: the objects as of the transaction.
pub(crate) struct Seen<'a, 't>(RefCell<&'a mut Transaction<'t>>);

impl<'a, 't> Seen<'a, 't> {
    pub(crate) fn new(tx: &'a mut Transaction<'t>) -> Self {
        Self(RefCell::new(tx))
    }
}

// A file that cannot be read fails the whole write, whatever the rules make of finding nothing.
impl Lookup for Seen<'_, '_> {
    fn get(&self, resource: &'static Resource, namespace: &str, name: &str) -> Option<Value> {
        get(&mut self.0.borrow_mut(), resource, namespace, name).ok()?
    }

    fn list(&self, resource: &'static Resource, namespace: &str) -> Vec<Value> {
        let tx = self.0.borrow();
        let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        let Ok(objects) = tx.list(&resource.stored_as().qualified(), namespace, None) else {
            return Vec::new();
        };
        objects.filter_map(|entry| encode::decode(&entry.ok()?.1.bytes).ok()).collect()
    }
}
