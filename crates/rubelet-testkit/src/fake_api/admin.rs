//! The tests' side: objects put in, changed and looked at, faults ordered, records read.
//!
//! What is done here is a request of the cluster's administrator to the engine, with all its rules, that meets no fault
//! and leaves no record.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use http::{Method, Request, header};
use http_body_util::BodyExt;
use k8s_openapi::{Metadata, Resource};
use rubelet_apimachinery::User;
use rubelet_apimachinery::kinds;
use rubelet_apimachinery::status::ApiError;
use rubelet_localapi::store::{Key, Record};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::fault::{Fault, FaultHandle, Outage};
use super::request::ApiRequest;
use super::watch::Item;
use super::{FakeApi, RecordedRequest, Signing, Violation, body, csr};

/// An object the admin side handles: any k8s-openapi type with metadata.
pub trait Object: Resource + Serialize + DeserializeOwned + Clone {}

impl<T: Resource + Metadata + Serialize + DeserializeOwned + Clone> Object for T {}

/// One kind of object.
type Kind = &'static kinds::Resource;

fn kind(api_version: &str, kind: &str) -> Kind {
    kinds::by_kind(api_version, kind).unwrap_or_else(|| panic!("the fake API serves no {api_version} {kind}"))
}

fn kind_of<T: Resource>() -> Kind {
    kind(T::API_VERSION, T::KIND)
}

/// A kind by its plural name, for code that names one.
pub(crate) fn named(plural: &str) -> Kind {
    let found = kinds::all().iter().find(|kind| kind.plural == plural);
    found.unwrap_or_else(|| panic!("the fake API serves no {plural}"))
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> T {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|e| panic!("stored object is undecodable: {e}\n{}", String::from_utf8_lossy(bytes)))
}

fn typed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap_or_else(|e| panic!("stored object is undecodable: {e}"))
}

fn untyped<T: Object>(object: &T) -> (Kind, Value) {
    let kind = kind_of::<T>();
    let value = serde_json::to_value(object).unwrap_or_else(|e| panic!("undecodable object: {e}"));
    (kind, placed(kind, value))
}

/// The object in its namespace, which is `default` when it names none.
fn placed(kind: Kind, mut object: Value) -> Value {
    if kind.namespaced && namespace(&object).is_empty() {
        object["metadata"]["namespace"] = json!("default");
    }
    object
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

fn key(kind: Kind, namespace: &str, name: &str) -> Key {
    Key::new(kind.stored_as().qualified(), if kind.namespaced { namespace } else { "" }, name)
}

/// What is done in this process is done when it is asked for.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap_or_else(|| panic!("the engine waits"))
}

impl FakeApi {
    /// Sends a request of the cluster's administrator.
    fn ask(&self, method: Method, path: &str, object: Option<&Value>) -> Result<Value, ApiError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, "admin")
            .body(body::to_engine(object.map(Value::to_string).unwrap_or_default().into()))
            .unwrap_or_else(|e| panic!("no request {path}: {e}"));
        let response = at_once(self.inner.engine.handle(User::admin(), request));
        let code = response.status();
        let bytes = at_once(response.into_body().collect());
        let bytes = bytes.unwrap_or_else(|e| panic!("the engine cut an answer off: {e}")).to_bytes();
        self.settle();
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if code.is_success() {
            return Ok(answer);
        }
        Err(ApiError::new(code.as_u16(), "", answer["message"].as_str().unwrap_or_default()))
    }

    fn record_of(&self, kind: Kind, namespace: &str, name: &str) -> Option<Record> {
        let snapshot = self.inner.engine.store().snapshot();
        let found = snapshot.and_then(|snapshot| snapshot.get(&key(kind, namespace, name)));
        found.unwrap_or_else(|e| panic!("the store fails: {e}"))
    }

    /// A stored object, if it is there.
    pub(crate) fn read(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        self.record_of(kind, namespace, name).map(|record| read(&record.bytes))
    }

    fn all<T: Object>(&self, namespace: Option<&str>) -> Vec<T> {
        let kind = kind_of::<T>();
        let namespace = namespace.filter(|_| kind.namespaced);
        let snapshot = self.inner.engine.store().snapshot();
        let found = snapshot.and_then(|s| s.list(&kind.stored_as().qualified(), namespace, None)?.collect());
        let found: Vec<(Key, Record)> = found.unwrap_or_else(|e| panic!("the store fails: {e}"));
        found.iter().map(|(_, record)| read(&record.bytes)).collect()
    }

    /// Creates an object, and its namespace if that is missing; panics where a real server would refuse.
    pub fn create<T: Object>(&self, object: &T) -> T {
        let (kind, value) = untyped(object);
        typed(self.make(kind, &value))
    }

    /// Creates an object given as JSON.
    pub fn create_json(&self, object: &Value) -> Value {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let kind = kind(text("apiVersion"), text("kind"));
        self.make(kind, &placed(kind, object.clone()))
    }

    fn make(&self, kind: Kind, object: &Value) -> Value {
        if kind.namespaced {
            self.ensure_namespace(namespace(object));
        }
        let made = self.ask(Method::POST, &kind.path(namespace(object), "", ""), Some(object));
        made.unwrap_or_else(|e| panic!("admin create: {}", e.message))
    }

    /// Stores JSON as it is, without defaults, validation or a UID of its own: objects that no client can decode.
    pub fn put_raw(&self, object: &Value) {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let kind = kind(text("apiVersion"), text("kind"));
        let key = key(kind, namespace(object), name(object));
        let mut object = object.clone();
        let written = at_once(self.inner.engine.store().write(move |tx| {
            object["metadata"]["resourceVersion"] = json!(tx.next_revision().to_string());
            tx.put(key, object.to_string())
        }));
        written.unwrap_or_else(|e| panic!("the store fails: {e}"));
        self.settle();
    }

    /// Creates the object, or makes the stored one like it (spec, data, labels, annotations; not status).
    pub fn apply<T: Object>(&self, object: &T) -> T {
        let (kind, value) = untyped(object);
        if self.record_of(kind, namespace(&value), name(&value)).is_none() {
            return self.create(object);
        }
        typed(self.replace(kind, "", value))
    }

    /// Replaces the status of a stored object, as its controller would.
    pub fn update_status<T: Object>(&self, object: &T) -> T {
        let (kind, value) = untyped(object);
        typed(self.replace(kind, "status", value))
    }

    /// Changes a stored object by a function; panics if there is none.
    pub fn modify<T: Object>(&self, namespace: &str, name: &str, change: impl FnOnce(&mut T)) -> T {
        self.modify_part("", namespace, name, change)
    }

    /// Changes the status part of a stored object by a function; panics if there is none.
    pub fn modify_status<T: Object>(&self, namespace: &str, name: &str, change: impl FnOnce(&mut T)) -> T {
        self.modify_part("status", namespace, name, change)
    }

    fn modify_part<T: Object>(
        &self,
        part: &str,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut T),
    ) -> T {
        let mut object: T = self
            .get(namespace, name)
            .unwrap_or_else(|| panic!("no {} {namespace}/{name} to modify", T::KIND));
        change(&mut object);
        let (kind, value) = untyped(&object);
        typed(self.replace(kind, part, value))
    }

    /// Puts an object in the place of the stored one, whatever version that has.
    pub(crate) fn replace(&self, kind: Kind, part: &str, mut object: Value) -> Value {
        let path = kind.path(namespace(&object), name(&object), part);
        let stored = self.read(kind, namespace(&object), name(&object));
        let stored = stored.unwrap_or_else(|| panic!("nothing to replace at {path}"));
        object["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
        let replaced = self.ask(Method::PUT, &path, Some(&object));
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
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": grace});
        match self.ask(Method::DELETE, &kind_of::<T>().path(namespace, name, ""), Some(&options)) {
            Ok(_) => true,
            Err(error) if error.code == 404 => false,
            Err(error) => panic!("admin delete: {}", error.message),
        }
    }

    /// The object, if it is there; `namespace` is ignored for kinds without.
    pub fn get<T: Object>(&self, namespace: &str, name: &str) -> Option<T> {
        self.record_of(kind_of::<T>(), namespace, name).map(|record| read(&record.bytes))
    }

    /// All objects of a kind in a namespace.
    pub fn list<T: Object>(&self, namespace: &str) -> Vec<T> {
        self.all(Some(namespace))
    }

    /// All objects of a kind.
    pub fn list_all<T: Object>(&self) -> Vec<T> {
        self.all(None)
    }

    /// Every version of an object ever stored, oldest first.
    pub fn history<T: Object>(&self, uid: &str) -> Vec<T> {
        self.inner.state().history.of(kind_of::<T>(), uid).iter().map(|bytes| read(bytes)).collect()
    }

    /// Binds a pod to a node, as the scheduler does.
    pub fn bind(&self, namespace: &str, pod: &str, node: &str) {
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
                             "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        let bound = self.ask(Method::POST, &named("pods").path(namespace, pod, "binding"), Some(&binding));
        bound.unwrap_or_else(|e| panic!("admin bind: {}", e.message));
    }

    /// The resource version of the latest change, to wait on.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.changed.subscribe()
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
        let store = self.inner.engine.store();
        at_once(store.compact_to(store.revision())).unwrap_or_else(|e| panic!("admin compact: {e}"));
    }

    /// Orders a fault.
    pub fn fail(&self, fault: Fault) -> FaultHandle {
        self.inner.state().faults.add(fault)
    }

    /// Breaks or mends the whole server; open watches break or go silent with it.
    pub fn outage(&self, outage: Outage) {
        self.inner.state().outage = outage;
        match outage {
            Outage::None => {}
            Outage::Refuse => {
                self.tell_watches("", &[Item::Reset]);
                self.inner.gate.cut();
            }
            Outage::Hang => {
                self.tell_watches("", &[Item::Silence]);
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
        self.tell_watches(plural, &[Item::End]);
    }

    /// Breaks the connections of the open watches of a resource (of all with "").
    pub fn reset_watches(&self, plural: &str) {
        self.tell_watches(plural, &[Item::Reset]);
    }

    /// Tells the open watches of a resource (of all with "") 410 Gone, and ends them.
    pub fn expire_watches(&self, plural: &str) {
        let version = self.inner.engine.store().revision();
        self.tell_watches(plural, &[Item::expiry(version), Item::End]);
    }

    /// Sends bytes that are no event to the open watches of a resource (to all with "").
    pub fn garble_watches(&self, plural: &str) {
        self.tell_watches(plural, &[Item::garbage()]);
    }

    /// Makes the open watches of a resource (all with "") go silent without an end.
    pub fn silence_watches(&self, plural: &str) {
        self.tell_watches(plural, &[Item::Silence]);
    }

    fn tell_watches(&self, plural: &str, items: &[Item]) {
        let state = self.inner.state();
        for open in state.watches.values().filter(|w| plural.is_empty() || w.resource == plural) {
            open.tell(items.iter().cloned());
        }
    }

    /// The open watches, as `user resource`.
    pub fn watches(&self) -> Vec<String> {
        let state = self.inner.state();
        state.watches.values().map(|open| format!("{} {}", open.user, open.resource)).collect()
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

    /// Lets a user do more than its name implies, as a role would: `what` is a resource, with its subresource after a
    /// slash, such as `nodes/metrics`.
    pub fn grant(&self, user: &str, verb: &str, what: &str) {
        self.inner.nodes.grant(user, verb, what);
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
        csr::approve(self, name);
    }

    /// Denies a certificate request.
    pub fn deny(&self, name: &str, why: &str) {
        csr::deny(self, name, why);
    }

    /// The cluster's certificate authority, in PEM.
    pub fn ca_pem(&self) -> String {
        self.inner.state().signer.ca(self.inner.now()).pem().to_owned()
    }

    /// Makes sure a namespace is there.
    pub fn ensure_namespace(&self, name: &str) {
        if self.record_of(named("namespaces"), "", name).is_none() {
            self.create_json(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        }
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
