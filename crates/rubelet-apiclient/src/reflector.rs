//! A watch with a store: the objects of one collection, always at hand. For Services, RuntimeClasses and the own Node.
//!
//! Owns the store and its task; never decides anything about what is in it. An object that changes into something
//! that cannot be decoded keeps its last good value here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Service;
use tokio::sync::watch as level;
use tokio::task::AbortHandle;

use crate::level::Level;
use crate::watch::{self, BadObject, Update, WatchProblem, WatchSpec, Watched};

/// Namespace (empty for cluster-scoped types) and name.
pub type Key = (String, String);

/// The store of one collection. Clones share it; the watch ends with the last one.
pub struct Reflector<K> {
    shared: Arc<Shared<K>>,
    task: Arc<AbortOnDrop>,
}

impl<K> Clone for Reflector<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), task: self.task.clone() }
    }
}

/// Ends a task with its last owner.
pub(crate) struct AbortOnDrop(pub(crate) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Shared<K> {
    state: Mutex<State<K>>,
    /// Zero before the first full set, then growing with each change.
    revision: Level<u64>,
    /// Why the store may be out of date.
    problem: level::Sender<Option<WatchProblem>>,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    bad: BTreeMap<Key, BadObject>,
}

impl<K: Watched> Reflector<K> {
    /// Starts the watch as a task of the current runtime.
    pub fn start(client: kube::Client, spec: WatchSpec<K>) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { objects: BTreeMap::new(), bad: BTreeMap::new() }),
            revision: Level::new(0),
            problem: level::Sender::new(None),
        });
        let sink = shared.clone();
        let task =
            tokio::spawn(async move { watch::run(client, spec, move |update| sink.take(update)).await });
        Self { shared, task: Arc::new(AbortOnDrop(task.abort_handle())) }
    }

    /// Ends the watch, whoever has the store: it stays as it is. For a program that stops, whose server may stop first.
    pub fn end(&self) {
        self.task.0.abort();
    }

    /// One object; the namespace is empty for cluster-scoped types.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.shared.state().objects.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.state().objects.values().cloned().collect()
    }

    /// Objects that exist but cannot be decoded. Where one could be decoded before, `get` gives that value still.
    pub fn bad(&self) -> Vec<BadObject> {
        self.shared.state().bad.values().cloned().collect()
    }

    /// Why the store may be out of date, if it may.
    pub fn problem(&self) -> level::Receiver<Option<WatchProblem>> {
        self.shared.problem.subscribe()
    }

    /// Whether the store has held a full set. It stays true: later outages leave the last known state.
    pub fn is_synced(&self) -> bool {
        self.shared.revision.get() > 0
    }

    /// Waits for the first full set.
    pub async fn synced(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.revision.follow().wait_for(|revision| *revision > 0).await;
    }

    /// A level that changes with the store: 0 before the first full set.
    pub fn changes(&self) -> level::Receiver<u64> {
        self.shared.revision.follow()
    }
}

impl<K> Shared<K> {
    fn state(&self) -> MutexGuard<'_, State<K>> {
        // Every change to the state is complete when the lock is released, so a panic elsewhere leaves it sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Watched> Shared<K> {
    fn take(&self, update: Update<K>) {
        match update {
            Update::Problem(problem) => {
                tracing::warn!(resource = K::URL_PATH_SEGMENT, "{problem}");
                self.problem.send_replace(Some(problem));
            }
            Update::Recovered => {
                tracing::info!(resource = K::URL_PATH_SEGMENT, "watch is up to date again");
                self.problem.send_replace(None);
            }
            update => {
                if self.state().apply(update) {
                    self.revision.update(|revision| *revision += 1);
                }
            }
        }
    }
}

impl<K: Watched> State<K> {
    /// Whether the objects changed.
    fn apply(&mut self, update: Update<K>) -> bool {
        match update {
            Update::Set { items, bad } => {
                let mut before = std::mem::take(&mut self.objects);
                let bad_before = std::mem::take(&mut self.bad);
                for bad in bad {
                    let key = (bad.namespace.clone(), bad.name.clone());
                    if let Some(last) = before.remove(&key) {
                        self.objects.insert(key.clone(), last);
                    }
                    if bad_before.get(&key) != Some(&bad) {
                        warn_bad::<K>(&bad);
                    }
                    self.bad.insert(key, bad);
                }
                self.objects.extend(items.into_iter().map(|item| (key_of(&*item), item)));
                true
            }
            Update::Applied(object) => {
                let key = key_of(&*object);
                self.bad.remove(&key);
                self.objects.insert(key, object);
                true
            }
            Update::Deleted { object } => {
                let key = key_of(&*object);
                self.bad.remove(&key);
                self.objects.remove(&key).is_some()
            }
            Update::Bad(bad) => {
                warn_bad::<K>(&bad);
                self.bad.insert((bad.namespace.clone(), bad.name.clone()), bad);
                false
            }
            Update::BadDeleted(bad) => {
                let key = (bad.namespace, bad.name);
                self.bad.remove(&key);
                self.objects.remove(&key).is_some()
            }
            Update::Problem(_) | Update::Recovered => false,
        }
    }
}

fn key_of<K: Watched>(object: &K) -> Key {
    let metadata = object.metadata();
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn warn_bad<K: Watched>(bad: &BadObject) {
    tracing::warn!(resource = K::URL_PATH_SEGMENT, "ignoring {bad}");
}

/// For [`WatchSpec::with_clean`]: of a Service, what service variables are made from and nothing else.
pub fn trim_service(service: &mut Service) {
    let metadata = std::mem::take(&mut service.metadata);
    service.metadata.name = metadata.name;
    service.metadata.namespace = metadata.namespace;
    service.metadata.uid = metadata.uid;
    service.metadata.resource_version = metadata.resource_version;
    service.status = None;
    if let Some(spec) = &mut service.spec {
        let before = std::mem::take(spec);
        spec.cluster_ip = before.cluster_ip;
        spec.ports = before.ports;
    }
}

#[cfg(test)]
mod tests;
