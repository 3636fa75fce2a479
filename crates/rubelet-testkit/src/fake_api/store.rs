//! The objects, their versions and who watches them: the truth of the fake API.
//!
//! Every change goes through [`State::commit`], which gives it the next resource version, keeps it in the history and
//! tells the watches. It judges nothing: rules are applied before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::resources::ResourceRef;
use super::selector::Selector;

/// Where an object lives. Ordered as lists are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub group: &'static str,
    pub plural: &'static str,
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub(crate) fn new(resource: ResourceRef, namespace: &str, name: &str) -> Self {
        let namespace = if resource.namespaced { namespace.to_owned() } else { String::new() };
        Self { group: resource.group, plural: resource.plural, namespace, name: name.to_owned() }
    }
}

/// One change, as watches see it.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub version: u64,
    pub resource: ResourceRef,
    pub before: Option<Arc<Value>>,
    pub after: Option<Arc<Value>>,
}

impl Change {
    /// What a watch with this selector is told of the change: the event type and the object.
    pub(crate) fn seen_by(&self, selector: &Selector) -> Option<(&'static str, Value)> {
        let before = self.before.as_deref().filter(|o| selector.matches(o));
        let after = self.after.as_deref().filter(|o| selector.matches(o));
        match (before, after) {
            (None, None) => None,
            (None, Some(new)) => Some(("ADDED", new.clone())),
            (Some(_), Some(new)) => Some(("MODIFIED", new.clone())),
            (Some(old), None) => {
                // The object as it was when it was last selected, with the version at which it left.
                let mut gone = old.clone();
                gone["metadata"]["resourceVersion"] = json!(self.version.to_string());
                Some(("DELETED", gone))
            }
        }
    }
}

/// What a watch stream is told.
#[derive(Debug, Clone)]
pub(crate) enum WatchItem {
    Event(&'static str, Value),
    /// Bytes as they are, whatever they mean.
    Raw(Vec<u8>),
    /// The stream ends as if the server had closed it.
    End,
    /// The connection breaks.
    Reset,
}

/// An open watch.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub id: u64,
    pub user: String,
    pub resource: ResourceRef,
    pub selector: Selector,
    /// Events up to this version are not for this watch.
    pub from: u64,
    /// Told nothing any more: the other end believes in a connection that is no more.
    pub silent: bool,
    pub sender: mpsc::UnboundedSender<WatchItem>,
}

/// The part of the server that changes.
#[derive(Debug)]
pub(crate) struct Store {
    version: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    log: VecDeque<Change>,
    log_limit: usize,
    /// Watches from before this version get 410.
    oldest: u64,
    versions: BTreeMap<String, Vec<Arc<Value>>>,
    watchers: Vec<Watcher>,
    next_watch: u64,
    next_id: u64,
    /// Lists that clients are still reading page by page, by the version they are of.
    snapshots: BTreeMap<u64, Vec<Arc<Value>>>,
    changed: tokio::sync::watch::Sender<u64>,
}

/// The first version: like on a real server, versions do not begin at nought.
const FIRST_VERSION: u64 = 100;

impl Store {
    pub(crate) fn new(log_limit: usize) -> Self {
        Self {
            version: FIRST_VERSION,
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            log_limit,
            oldest: FIRST_VERSION,
            versions: BTreeMap::new(),
            watchers: Vec::new(),
            next_watch: 0,
            next_id: 0,
            snapshots: BTreeMap::new(),
            changed: tokio::sync::watch::Sender::new(FIRST_VERSION),
        }
    }

    /// The version of the latest change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The oldest version a watch can still resume from.
    pub(crate) fn oldest(&self) -> u64 {
        self.oldest
    }

    pub(crate) fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// All objects of a resource, in list order.
    pub(crate) fn all(&self, resource: ResourceRef) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let first = Key {
            group: resource.group,
            plural: resource.plural,
            namespace: String::new(),
            name: String::new(),
        };
        self.objects
            .range(first..)
            .take_while(|(key, _)| key.group == resource.group && key.plural == resource.plural)
    }

    /// Every version of an object ever stored, the last one before its deletion included.
    pub(crate) fn versions_of(&self, uid: &str) -> Vec<Arc<Value>> {
        self.versions.get(uid).cloned().unwrap_or_default()
    }

    /// A number nobody else gets, for UIDs and generated names.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Stores an object (or, with `None`, removes it) and tells everyone. Returns the object as stored or removed.
    pub(crate) fn commit(&mut self, resource: ResourceRef, key: &Key, new: Option<Value>) -> Arc<Value> {
        self.version += 1;
        let before = self.objects.get(key).cloned();
        let after = new.map(|mut object| {
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            Arc::new(object)
        });
        match &after {
            Some(object) => {
                self.objects.insert(key.clone(), object.clone());
                let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
                self.versions.entry(uid).or_default().push(object.clone());
            }
            None => {
                self.objects.remove(key);
            }
        }
        let change = Change { version: self.version, resource, before: before.clone(), after: after.clone() };
        self.watchers.retain(|w| !w.sender.is_closed());
        for watcher in
            self.watchers.iter().filter(|w| !w.silent && w.resource == resource && w.from < change.version)
        {
            if let Some((kind, object)) = change.seen_by(&watcher.selector) {
                // A watch whose stream is gone is forgotten at the next change.
                let _ = watcher.sender.send(WatchItem::Event(kind, object));
            }
        }
        self.log.push_back(change);
        while self.log.len() > self.log_limit {
            if let Some(forgotten) = self.log.pop_front() {
                self.oldest = forgotten.version;
            }
        }
        self.changed.send_replace(self.version);
        after.or(before).unwrap_or_default()
    }

    /// Forgets what happened so far: watches and continued lists from before get 410.
    pub(crate) fn compact(&mut self) {
        self.log.clear();
        self.snapshots.clear();
        self.oldest = self.version;
    }

    /// The changes after a version that the log still has.
    pub(crate) fn since(&self, resource: ResourceRef, version: u64) -> impl Iterator<Item = &Change> {
        self.log.iter().filter(move |change| change.resource == resource && change.version > version)
    }

    pub(crate) fn add_watcher(
        &mut self,
        user: &str,
        resource: ResourceRef,
        selector: Selector,
        from: u64,
    ) -> (u64, mpsc::UnboundedSender<WatchItem>, mpsc::UnboundedReceiver<WatchItem>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.next_watch += 1;
        let id = self.next_watch;
        let user = user.to_owned();
        self.watchers.push(Watcher {
            id,
            user,
            resource,
            selector,
            from,
            silent: false,
            sender: sender.clone(),
        });
        (id, sender, receiver)
    }

    pub(crate) fn remove_watcher(&mut self, id: u64) {
        self.watchers.retain(|w| w.id != id);
    }

    pub(crate) fn watchers(&self) -> &[Watcher] {
        &self.watchers
    }

    pub(crate) fn watchers_mut(&mut self) -> &mut [Watcher] {
        &mut self.watchers
    }

    /// Keeps the rest of a list for a client that reads it in pages.
    pub(crate) fn keep_snapshot(&mut self, version: u64, rest: Vec<Arc<Value>>) {
        self.snapshots.insert(version, rest);
        while self.snapshots.len() > 16 {
            self.snapshots.pop_first();
        }
    }

    pub(crate) fn snapshot(&self, version: u64) -> Option<&Vec<Arc<Value>>> {
        self.snapshots.get(&version)
    }
}
