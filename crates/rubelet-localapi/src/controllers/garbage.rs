//! Objects whose owners are gone, and owners that wait for their dependents: carries out what
//! `rubelet_apimachinery::strategy::ownership` decides.
//!
//! Keeps in memory only who has owners at all, which on a node of its own are few.

use std::collections::{BTreeMap, BTreeSet};

use rubelet_apimachinery::Resource;
use rubelet_apimachinery::kinds::{self, Served};
use rubelet_apimachinery::strategy::ownership::{self, Fate, Owner};
use rubelet_apimachinery::strategy::{FOREGROUND, ORPHAN, Propagation};
use serde_json::{Value, json};
use tracing::warn;

use super::client::{Client, Failure};
use super::feeds::followed;
use super::queue::Queue;
use super::{Seen, text};

/// Where an object is: the table's row of its resource, namespace, name.
type Place = (usize, String, String);

/// The garbage collector.
pub(crate) struct Garbage {
    client: Client,
    /// Owner's UID → who has it.
    dependents: BTreeMap<String, BTreeSet<Place>>,
    /// The other way round.
    owners: BTreeMap<Place, BTreeSet<String>>,
    /// Resources of which not all has been told yet. Until it has been, nobody knows who depends on whom.
    untold: BTreeSet<usize>,
    /// Owners that wait for their dependents, or for those to be released.
    waiting: BTreeSet<Place>,
    /// What is to be looked at then.
    held: BTreeSet<Place>,
    queue: Queue<Place>,
}

fn row(resource: &'static Resource) -> usize {
    kinds::all().iter().position(|r| std::ptr::eq(r, resource)).unwrap_or(usize::MAX)
}

fn place(resource: &'static Resource, object: &Value) -> Place {
    let part = |key: &str| text(object, &["metadata", key]).to_owned();
    (row(resource), part("namespace"), part("name"))
}

impl Garbage {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            dependents: BTreeMap::new(),
            owners: BTreeMap::new(),
            untold: followed().map(row).collect(),
            waiting: BTreeSet::new(),
            held: BTreeSet::new(),
            queue: Queue::default(),
        }
    }

    pub(crate) fn queue(&mut self) -> &mut Queue<Place> {
        &mut self.queue
    }

    /// Takes note of a change.
    pub(crate) fn see(&mut self, resource: &'static Resource, seen: &Seen) {
        let (object, deleted) = match seen {
            Seen::Object { object, deleted } => (object, deleted),
            Seen::Anew => return self.forget(row(resource)),
            Seen::Complete => {
                self.untold.remove(&row(resource));
                if self.untold.is_empty() {
                    for place in std::mem::take(&mut self.held) {
                        self.queue.add(place);
                    }
                }
                return;
            }
        };
        let place = place(resource, object);
        let uid = text(object, &["metadata", "uid"]);
        let owners: BTreeSet<String> =
            if *deleted { BTreeSet::new() } else { ownership::owners(object).map(str::to_owned).collect() };
        self.index(&place, owners);
        let waits = !*deleted && (ownership::is_waiting(object) || ownership::is_orphaning(object));
        if waits {
            self.waiting.insert(place.clone());
        } else {
            self.waiting.remove(&place);
        }
        if *deleted || ownership::is_waiting(object) {
            for dependent in self.dependents.get(uid).cloned().unwrap_or_default() {
                self.queue.add(dependent);
            }
        }
        if *deleted {
            // A dependent that went may have been what its owners waited for; they are looked at when it is.
            for owner in ownership::owners(object) {
                self.wake_owner(object, owner);
            }
        } else if waits || self.owners.contains_key(&place) {
            self.queue.add(place);
        }
    }

    /// What is known of the objects of a resource counts no longer. Owners among them may have gone, and dependents that
    /// owners wait for: whoever has owners or waits is looked at afterwards.
    fn forget(&mut self, row: usize) {
        self.untold.insert(row);
        self.held.extend(self.owners.keys().cloned());
        let places: Vec<Place> = self.owners.keys().filter(|place| place.0 == row).cloned().collect();
        for place in places {
            self.index(&place, BTreeSet::new());
        }
        self.held.extend(self.waiting.iter().cloned());
    }

    fn wake_owner(&mut self, dependent: &Value, uid: &str) {
        let references = dependent["metadata"]["ownerReferences"].as_array();
        for reference in references.into_iter().flatten().filter(|r| r["uid"] == uid) {
            if let Some(resource) =
                kinds::by_kind(text(reference, &["apiVersion"]), text(reference, &["kind"]))
            {
                let namespace =
                    if resource.namespaced { text(dependent, &["metadata", "namespace"]) } else { "" };
                self.queue.add((row(resource), namespace.to_owned(), text(reference, &["name"]).to_owned()));
            }
        }
    }

    fn index(&mut self, place: &Place, owners: BTreeSet<String>) {
        for old in self.owners.remove(place).unwrap_or_default() {
            if let Some(dependents) = self.dependents.get_mut(&old) {
                dependents.remove(place);
                if dependents.is_empty() {
                    self.dependents.remove(&old);
                }
            }
        }
        if owners.is_empty() {
            return;
        }
        for owner in &owners {
            self.dependents.entry(owner.clone()).or_default().insert(place.clone());
        }
        self.owners.insert(place.clone(), owners);
    }

    /// Looks at one object.
    pub(crate) async fn work(&mut self, place: Place) {
        if !self.untold.is_empty() {
            self.held.insert(place);
            return;
        }
        match self.settle(&place).await {
            Ok(()) | Err(Failure::NotFound) => self.queue.done(&place),
            Err(Failure::Conflict) => self.queue.retry(place),
            Err(problem) => {
                warn!("{}/{} cannot be collected: {problem}", place.1, place.2);
                self.queue.retry(place);
            }
        }
    }

    async fn settle(&self, (row, namespace, name): &Place) -> Result<(), Failure> {
        let Some(resource) =
            kinds::all().get(*row).filter(|r| matches!(r.served, Served::Stored | Served::OnRequest))
        else {
            return Ok(());
        };
        let Some(object) = self.client.get(resource, namespace, name).await? else { return Ok(()) };
        let uid = text(&object, &["metadata", "uid"]);
        let dependents = self.dependents.get(uid);
        if ownership::is_orphaning(&object) {
            return self.orphan(resource, &object, dependents).await;
        }
        if ownership::is_waiting(&object) {
            return self.release_when_free(resource, &object, dependents).await;
        }
        let mut states = BTreeMap::new();
        for reference in object["metadata"]["ownerReferences"].as_array().into_iter().flatten() {
            let state = self.owner(reference, namespace).await?;
            states.insert(text(reference, &["uid"]).to_owned(), state);
        }
        let known =
            |reference: &Value| states.get(text(reference, &["uid"])).copied().unwrap_or(Owner::There);
        match ownership::fate(&object, known, dependents.is_some()) {
            Fate::Keep => Ok(()),
            Fate::Release(uids) => {
                self.client.replace(resource, "", &ownership::release(&object, &uids)).await.map(|_| ())
            }
            Fate::Remove(propagation) => {
                let policy = match propagation {
                    Propagation::Background => "Background",
                    Propagation::Foreground => "Foreground",
                    Propagation::Orphan => "Orphan",
                };
                let options = json!({
                    "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy,
                    "preconditions": {"uid": uid, "resourceVersion": object["metadata"]["resourceVersion"]},
                });
                self.client.delete(resource, namespace, name, &options).await
            }
        }
    }

    async fn owner(&self, reference: &Value, namespace: &str) -> Result<Owner, Failure> {
        let kind = kinds::by_kind(text(reference, &["apiVersion"]), text(reference, &["kind"]));
        let Some(resource) = kind.filter(|r| matches!(r.served, Served::Stored)) else {
            // Nobody here can say whether it is there: nothing is deleted on a guess.
            return Ok(Owner::There);
        };
        let scope = if resource.namespaced { namespace } else { "" };
        let found = self.client.get(resource, scope, text(reference, &["name"])).await?;
        Ok(ownership::owner(reference, found.as_ref()))
    }

    /// Takes the owner away from its dependents, then lets it go.
    async fn orphan(
        &self,
        resource: &'static Resource,
        owner: &Value,
        dependents: Option<&BTreeSet<Place>>,
    ) -> Result<(), Failure> {
        let uid = text(owner, &["metadata", "uid"]).to_owned();
        for (row, namespace, name) in dependents.into_iter().flatten() {
            let Some(kind) = kinds::all().get(*row) else { continue };
            if let Some(dependent) = self.client.get(kind, namespace, name).await? {
                self.client
                    .replace(kind, "", &ownership::release(&dependent, std::slice::from_ref(&uid)))
                    .await?;
            }
        }
        let freed = ownership::without_finalizer(owner, ORPHAN);
        self.client.replace(resource, "", &freed).await.map(|_| ())
    }

    /// Lets an owner go that waits, once no dependent is left that blocks it.
    async fn release_when_free(
        &self,
        resource: &'static Resource,
        owner: &Value,
        dependents: Option<&BTreeSet<Place>>,
    ) -> Result<(), Failure> {
        let uid = text(owner, &["metadata", "uid"]);
        for (row, namespace, name) in dependents.into_iter().flatten() {
            let Some(kind) = kinds::all().get(*row) else { continue };
            if self.client.get(kind, namespace, name).await?.is_some_and(|d| ownership::blocks(&d, uid)) {
                return Ok(());
            }
        }
        let freed = ownership::without_finalizer(owner, FOREGROUND);
        self.client.replace(resource, "", &freed).await.map(|_| ())
    }
}
