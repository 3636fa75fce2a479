//! The tests' side: objects put in, changed and looked at without a request, faults ordered, records read.
//!
//! What is done here passes no authorization and leaves no record, but goes through the same rules of the store, so
//! that watches see it as they would see another client.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use k8s_openapi::{Metadata, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::delete::{self, DeleteOptions};
use super::fault::{Fault, FaultHandle, Outage};
use super::handle::Call;
use super::request::{ApiRequest, User};
use super::resources::{self, ResourceRef};
use super::store::{Key, WatchItem};
use super::{FakeApi, RecordedRequest, Signing, State, Violation, csr, meta, subresources, verbs, watch};

/// An object the admin side handles: any k8s-openapi type with metadata.
pub trait Object: Resource + Serialize + DeserializeOwned + Clone {}

impl<T: Resource + Metadata + Serialize + DeserializeOwned + Clone> Object for T {}

fn resource_of<T: Resource>() -> ResourceRef {
    resources::by_kind(T::API_VERSION, T::KIND)
        .unwrap_or_else(|| panic!("the fake API serves no {} {}", T::API_VERSION, T::KIND))
}

fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone())
        .unwrap_or_else(|e| panic!("stored object is undecodable: {e}\n{value:#}"))
}

impl FakeApi {
    /// Runs a request of the cluster's administrator, without authorization or a record.
    fn as_admin<R>(
        &self,
        verb: &'static str,
        resource: ResourceRef,
        subresource: &str,
        object: &Value,
        run: impl FnOnce(&mut State, &Call<'_>) -> R,
    ) -> R {
        let user = User::named("admin");
        let request = ApiRequest {
            user: user.name.clone(),
            verb,
            group: resource.group.to_owned(),
            resource: resource.plural.to_owned(),
            subresource: subresource.to_owned(),
            namespace: if resource.namespaced { meta::namespace(object).to_owned() } else { String::new() },
            name: meta::name(object).to_owned(),
            path: String::new(),
            query: BTreeMap::new(),
            version: resource.version.to_owned(),
        };
        let call = Call {
            options: &self.inner.options,
            user: &user,
            request: &request,
            body: &Bytes::new(),
            headers: &HeaderMap::new(),
            now: (self.inner.options.now)(),
        };
        run(&mut self.inner.state(), &call)
    }

    fn untyped<T: Object>(object: &T) -> (ResourceRef, Value) {
        let resource = resource_of::<T>();
        let mut value = serde_json::to_value(object).unwrap_or_else(|e| panic!("undecodable object: {e}"));
        if resource.namespaced && meta::namespace(&value).is_empty() {
            value["metadata"]["namespace"] = json!("default");
        }
        (resource, value)
    }

    /// Creates an object, and its namespace if that is missing; panics where a real server would refuse.
    pub fn create<T: Object>(&self, object: &T) -> T {
        let (resource, value) = Self::untyped(object);
        read(&self.create_untyped(resource, value))
    }

    fn create_untyped(&self, resource: ResourceRef, value: Value) -> Value {
        if resource.namespaced {
            self.ensure_namespace(meta::namespace(&value));
        }
        let created = self.as_admin("create", resource, "", &value.clone(), |state, call| {
            verbs::store_new(state, call, resource, value)
        });
        created.unwrap_or_else(|e| panic!("admin create: {}", e.message))
    }

    /// Creates an object given as JSON.
    pub fn create_json(&self, object: &Value) -> Value {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let resource = resources::by_kind(text("apiVersion"), text("kind"))
            .unwrap_or_else(|| panic!("the fake API serves no {} {}", text("apiVersion"), text("kind")));
        let mut object = object.clone();
        if resource.namespaced && meta::namespace(&object).is_empty() {
            object["metadata"]["namespace"] = json!("default");
        }
        self.create_untyped(resource, object)
    }

    /// Stores JSON as it is, without defaults, validation or a UID of its own: objects that no client can decode.
    pub fn put_raw(&self, object: &Value) {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let resource = resources::by_kind(text("apiVersion"), text("kind"))
            .unwrap_or_else(|| panic!("the fake API serves no {} {}", text("apiVersion"), text("kind")));
        let key = Key::new(resource, meta::namespace(object), meta::name(object));
        self.inner.state().store.commit(resource, &key, Some(object.clone()));
    }

    /// Creates the object, or makes the stored one like it (spec, data, labels, annotations; not status).
    pub fn apply<T: Object>(&self, object: &T) -> T {
        let (resource, value) = Self::untyped(object);
        let key = Key::new(resource, meta::namespace(&value), meta::name(&value));
        if self.inner.state().store.get(&key).is_none() {
            return self.create(object);
        }
        read(&self.replace(resource, "", value))
    }

    /// Replaces the status of a stored object, as its controller would.
    pub fn update_status<T: Object>(&self, object: &T) -> T {
        let (resource, value) = Self::untyped(object);
        read(&self.replace(resource, "status", value))
    }

    /// Changes a stored object by a function; panics if there is none.
    pub fn modify<T: Object>(&self, namespace: &str, name: &str, change: impl FnOnce(&mut T)) -> T {
        let mut object: T = self
            .get(namespace, name)
            .unwrap_or_else(|| panic!("no {} {namespace}/{name} to modify", T::KIND));
        change(&mut object);
        let (resource, value) = Self::untyped(&object);
        read(&self.replace(resource, "", value))
    }

    /// Changes the status part of a stored object by a function; panics if there is none.
    pub fn modify_status<T: Object>(&self, namespace: &str, name: &str, change: impl FnOnce(&mut T)) -> T {
        let mut object: T = self
            .get(namespace, name)
            .unwrap_or_else(|| panic!("no {} {namespace}/{name} to modify", T::KIND));
        change(&mut object);
        let (resource, value) = Self::untyped(&object);
        read(&self.replace(resource, "status", value))
    }

    fn replace(&self, resource: ResourceRef, sub: &str, mut value: Value) -> Value {
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
        let key = Key::new(resource, meta::namespace(&value), meta::name(&value));
        let replaced = self.as_admin("update", resource, sub, &value.clone(), |state, call| {
            let old = state.store.get(&key).cloned();
            let old = old.unwrap_or_else(|| panic!("no {} {}/{}", key.plural, key.namespace, key.name));
            verbs::replace(state, call, resource, &old, value)
        });
        replaced.unwrap_or_else(|e| panic!("admin update: {}", e.message))
    }

    /// Deletes an object with its own grace period. Says whether it was there.
    pub fn delete<T: Object>(&self, namespace: &str, name: &str) -> bool {
        self.remove::<T>(namespace, name, None)
    }

    /// Deletes an object with a grace period in seconds; 0 removes it at once. Says whether it was there.
    pub fn delete_with_grace<T: Object>(&self, namespace: &str, name: &str, seconds: i64) -> bool {
        self.remove::<T>(namespace, name, Some(seconds))
    }

    fn remove<T: Object>(&self, namespace: &str, name: &str, grace: Option<i64>) -> bool {
        let resource = resource_of::<T>();
        let options = DeleteOptions { grace, ..DeleteOptions::default() };
        let now = (self.inner.options.now)();
        let key = Key::new(resource, namespace, name);
        delete::remove(&mut self.inner.state(), now, resource, &key, &options).is_ok()
    }

    /// The object, if it is there; `namespace` is ignored for kinds without.
    pub fn get<T: Object>(&self, namespace: &str, name: &str) -> Option<T> {
        let key = Key::new(resource_of::<T>(), namespace, name);
        self.inner.state().store.get(&key).map(|object| read(object))
    }

    /// All objects of a kind in a namespace.
    pub fn list<T: Object>(&self, namespace: &str) -> Vec<T> {
        let state = self.inner.state();
        let all = state.store.all(resource_of::<T>());
        all.filter(|(key, _)| key.namespace == namespace || key.namespace.is_empty())
            .map(|(_, o)| read(o))
            .collect()
    }

    /// All objects of a kind.
    pub fn list_all<T: Object>(&self) -> Vec<T> {
        self.inner.state().store.all(resource_of::<T>()).map(|(_, object)| read(object)).collect()
    }

    /// Every version of an object ever stored, oldest first.
    pub fn history<T: Object>(&self, uid: &str) -> Vec<T> {
        self.inner.state().store.versions_of(uid).iter().map(|object| read(object)).collect()
    }

    /// Binds a pod to a node, as the scheduler does.
    pub fn bind(&self, namespace: &str, pod: &str, node: &str) {
        let resource = resources::named("pods");
        let key = Key::new(resource, namespace, pod);
        let now = (self.inner.options.now)();
        let bound = subresources::assign(&mut self.inner.state(), now, resource, &key, node);
        bound.unwrap_or_else(|e| panic!("admin bind: {}", e.message));
    }

    /// The resource version of the latest change, to wait on.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.state().store.changes()
    }

    /// Waits until `ready` says something of the server, looking again at each change.
    pub async fn wait_for<R>(&self, mut ready: impl FnMut(&Self) -> Option<R>) -> R {
        let mut changes = self.changes();
        loop {
            if let Some(result) = ready(self) {
                return result;
            }
            // The server outlives its own watch.
            let _ = changes.changed().await;
        }
    }

    /// Forgets the history that watches resume from: what is older gets 410 Gone.
    pub fn compact(&self) {
        self.inner.state().store.compact();
    }

    /// Orders a fault.
    pub fn fail(&self, fault: Fault) -> FaultHandle {
        self.inner.state().faults.add(fault)
    }

    /// Breaks or mends the whole server; open watches break or go silent with it.
    pub fn outage(&self, outage: Outage) {
        let mut state = self.inner.state();
        state.outage = outage;
        match outage {
            Outage::None => {}
            Outage::Refuse => {
                tell_watches(&state, "", &WatchItem::Reset);
                self.inner.gate.cut();
            }
            Outage::Hang => {
                watch::silence(&mut state, |_| true);
                self.inner.gate.freeze();
            }
        }
    }

    /// How long every request waits before it is looked at.
    pub fn latency(&self, latency: Duration) {
        self.inner.state().latency = latency;
    }

    /// Ends the open watches of a resource (of all with ""), as a server that restarts does.
    pub fn close_watches(&self, plural: &str) {
        tell_watches(&self.inner.state(), plural, &WatchItem::End);
    }

    /// Breaks the connections of the open watches of a resource (of all with "").
    pub fn reset_watches(&self, plural: &str) {
        tell_watches(&self.inner.state(), plural, &WatchItem::Reset);
    }

    /// Tells the open watches of a resource (of all with "") 410 Gone, and ends them.
    pub fn expire_watches(&self, plural: &str) {
        let state = self.inner.state();
        let version = state.store.version();
        tell_watches(&state, plural, &watch::expiry(version, version + 1));
        tell_watches(&state, plural, &WatchItem::End);
    }

    /// Sends bytes that are no event to the open watches of a resource (to all with "").
    pub fn garble_watches(&self, plural: &str) {
        tell_watches(&self.inner.state(), plural, &watch::garbage());
    }

    /// Makes the open watches of a resource (all with "") go silent without an end.
    pub fn silence_watches(&self, plural: &str) {
        let mut state = self.inner.state();
        let ids: Vec<u64> = state
            .store
            .watchers()
            .iter()
            .filter(|w| plural.is_empty() || w.resource.plural == plural)
            .map(|w| w.id)
            .collect();
        watch::silence(&mut state, |id| ids.contains(&id));
    }

    /// The open watches, as `user resource`.
    pub fn watches(&self) -> Vec<String> {
        let state = self.inner.state();
        state.store.watchers().iter().map(|w| format!("{} {}", w.user, w.resource.plural)).collect()
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.inner.state().requests.clone()
    }

    /// The requests since the last call, which are forgotten with it.
    pub fn take_requests(&self) -> Vec<RecordedRequest> {
        std::mem::take(&mut self.inner.state().requests)
    }

    /// How many requests there were so far, by `verb resource/subresource`.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for record in &self.inner.state().requests {
            *counts.entry(record.summary()).or_default() += 1;
        }
        counts
    }

    /// What was refused by authorization or NodeRestriction so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.inner.state().violations.clone()
    }

    /// What happens to certificate requests from now on, and the longest a certificate lasts.
    pub fn signing(&self, mode: Signing, lifetime: Duration) {
        let mut state = self.inner.state();
        state.signer.mode = mode;
        state.signer.lifetime = lifetime;
    }

    /// Approves a certificate request, which is then signed.
    pub fn approve(&self, name: &str) {
        csr::approve(&mut self.inner.state(), (self.inner.options.now)(), name);
    }

    /// Denies a certificate request.
    pub fn deny(&self, name: &str, why: &str) {
        csr::deny(&mut self.inner.state(), (self.inner.options.now)(), name, why);
    }

    /// The cluster's certificate authority, in PEM.
    pub fn ca_pem(&self) -> String {
        self.inner.state().signer.ca((self.inner.options.now)()).pem.clone()
    }

    /// Makes sure a namespace is there.
    pub fn ensure_namespace(&self, name: &str) {
        let namespaces = resources::named("namespaces");
        if self.inner.state().store.get(&Key::new(namespaces, "", name)).is_some() {
            return;
        }
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
                               "status": {"phase": "Active"}});
        self.create_untyped(namespaces, namespace);
    }
}

fn tell_watches(state: &State, plural: &str, item: &WatchItem) {
    let told = state.store.watchers().iter().filter(|w| plural.is_empty() || w.resource.plural == plural);
    for watcher in told.filter(|w| !w.silent) {
        // A stream that is gone needs no telling.
        let _ = watcher.sender.send(item.clone());
    }
}

impl RecordedRequest {
    /// `verb resource/subresource`, as [`FakeApi::counts`] groups requests.
    pub fn summary(&self) -> String {
        let ApiRequest { verb, resource, subresource, path, .. } = &self.request;
        if resource.is_empty() {
            format!("{verb} {path}")
        } else if subresource.is_empty() {
            format!("{verb} {resource}")
        } else {
            format!("{verb} {resource}/{subresource}")
        }
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}
