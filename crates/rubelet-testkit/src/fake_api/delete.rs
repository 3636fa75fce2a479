//! Deletion: preconditions, grace for pods, finalizers, and what follows an object's end.
//!
//! The rules are those of `rest.BeforeDelete` and the generic store.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::handle::{Call, Reply};
use super::resources::{self, ResourceRef};
use super::selector::Selector;
use super::status::{self, ApiError, bad_request};
use super::store::Key;
use super::{State, meta, restriction, verbs};

/// What a client may say with a deletion.
#[derive(Debug, Default)]
pub(crate) struct DeleteOptions {
    pub grace: Option<i64>,
    pub uid: Option<String>,
    pub version: Option<String>,
}

impl DeleteOptions {
    fn read(call: &Call<'_>) -> Result<Self, ApiError> {
        let body: Value = if call.body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(call.body)
                .map_err(|e| bad_request(format!("error decoding DeleteOptions: {e}")))?
        };
        let text = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
        let in_query = call.request.param("gracePeriodSeconds").and_then(|g| g.parse().ok());
        Ok(Self {
            grace: body["gracePeriodSeconds"].as_i64().or(in_query),
            uid: text("uid"),
            version: text("resourceVersion"),
        })
    }
}

/// DELETE of one object.
pub(crate) fn delete(state: &mut State, call: &Call<'_>, resource: ResourceRef) -> Result<Reply, ApiError> {
    let options = DeleteOptions::read(call)?;
    let key = verbs::key_of(call, resource);
    let object =
        state.store.get(&key).cloned().ok_or_else(|| status::not_found(resource, &call.request.name))?;
    if call.options.restrict {
        let verdict = restriction::admit_delete(state, call, resource, &object);
        verdict.inspect_err(|error| state.violate(call, error))?;
    }
    remove(state, call.now, resource, &key, &options).map(|body| Reply::Object(200, body))
}

/// DELETE of everything a selector picks.
pub(crate) fn delete_collection(
    state: &mut State,
    call: &Call<'_>,
    resource: ResourceRef,
) -> Result<Reply, ApiError> {
    let request = call.request;
    let selector = Selector::parse(
        resource,
        &request.namespace,
        request.param("fieldSelector"),
        request.param("labelSelector"),
    )?;
    let options = DeleteOptions::read(call)?;
    let keys: Vec<Key> =
        state.store.all(resource).filter(|(_, o)| selector.matches(o)).map(|(k, _)| k.clone()).collect();
    let mut items = Vec::new();
    for key in keys {
        items.push(remove(state, call.now, resource, &key, &options)?);
    }
    Ok(Reply::Object(
        200,
        json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
               "metadata": {"resourceVersion": state.store.version().to_string()}, "items": items}),
    ))
}

/// Deletes an object as far as its grace and its finalizers let it; returns the body of the answer.
pub(crate) fn remove(
    state: &mut State,
    now: Timestamp,
    resource: ResourceRef,
    key: &Key,
    options: &DeleteOptions,
) -> Result<Value, ApiError> {
    let old = state.store.get(key).cloned().ok_or_else(|| status::not_found(resource, &key.name))?;
    check_preconditions(resource, &old, options)?;
    let graceful = resource.plural == "pods";
    if graceful && let Some(marked) = mark(&old, now, options) {
        return Ok(match marked {
            // A deletion is under way, and this one asks for nothing sooner.
            Marked::AsItIs => Value::clone(&old),
            Marked::Changed(object) => {
                let stored = state.store.commit(resource, key, Some(object));
                Value::clone(&stored)
            }
        });
    }
    if meta::has_finalizers(&old) || resource.plural == "namespaces" && occupied(state, &key.name) {
        let mut object = Value::clone(&old);
        if !meta::is_deleted(&old) {
            object["metadata"]["deletionTimestamp"] = json!(meta::time(now));
            if let Some(generation) = object["metadata"]["generation"].as_i64().filter(|_| !graceful) {
                object["metadata"]["generation"] = json!(generation + 1);
            }
        }
        object["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        if resource.plural == "namespaces" {
            object["status"]["phase"] = json!("Terminating");
        }
        let stored = if object == *old { old } else { state.store.commit(resource, key, Some(object)) };
        if resource.plural == "namespaces" {
            empty_namespace(state, now, &key.name)?;
        }
        return Ok(Value::clone(&stored));
    }
    let mut last = state.store.commit(resource, key, None);
    after(state, resource, &old);
    if graceful {
        let object = std::sync::Arc::make_mut(&mut last);
        object["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        if !meta::is_deleted(object) {
            object["metadata"]["deletionTimestamp"] = json!(meta::time(now));
        }
        return Ok(Value::clone(&last));
    }
    Ok(status::success(resource, &key.name, meta::uid(&old)))
}

fn check_preconditions(resource: ResourceRef, old: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let uid = meta::uid(old);
    if let Some(asked) = options.uid.as_deref().filter(|asked| *asked != uid) {
        let why = format!(
            "the UID in the precondition ({asked}) does not match the UID in record ({uid}). The object might have \
             been deleted and then recreated"
        );
        return Err(status::conflict(resource, meta::name(old), &why));
    }
    let version = meta::version(old);
    if let Some(asked) = options.version.as_deref().filter(|asked| *asked != version) {
        let why = format!(
            "the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record \
             ({version}). The object might have been modified"
        );
        return Err(status::conflict(resource, meta::name(old), &why));
    }
    Ok(())
}

enum Marked {
    AsItIs,
    Changed(Value),
}

/// What a graceful deletion makes of a pod; `None` when it is to go at once.
fn mark(old: &Value, now: Timestamp, options: &DeleteOptions) -> Option<Marked> {
    let asked = options.grace.map(|grace| if grace < 0 { 1 } else { grace });
    let mut new = old.clone();
    if meta::is_deleted(old) {
        let current = meta::deletion_grace(old);
        if current == 0 {
            return None;
        }
        let Some(mut period) = asked.filter(|period| *period < current) else {
            return Some(Marked::AsItIs);
        };
        if period == 0 {
            return None;
        }
        let deadline: Timestamp = old["metadata"]["deletionTimestamp"].as_str()?.parse().ok()?;
        let mut deadline = deadline + SignedDuration::from_secs(period - current);
        if deadline < now {
            deadline = now;
            period = 1;
        }
        new["metadata"]["deletionTimestamp"] = json!(meta::time(deadline));
        new["metadata"]["deletionGracePeriodSeconds"] = json!(period);
        return Some(Marked::Changed(new));
    }
    let unscheduled = old["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let over = matches!(old["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    let mut period =
        asked.or_else(|| old["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or_default();
    if unscheduled || over {
        period = 0;
    }
    if period == 0 {
        return None;
    }
    let period = if period < 0 { 1 } else { period };
    new["metadata"]["deletionTimestamp"] = json!(meta::time(now + SignedDuration::from_secs(period)));
    new["metadata"]["deletionGracePeriodSeconds"] = json!(period);
    if let Some(generation) = old["metadata"]["generation"].as_i64().filter(|g| *g > 0) {
        new["metadata"]["generation"] = json!(generation + 1);
    }
    Some(Marked::Changed(new))
}

fn occupied(state: &State, namespace: &str) -> bool {
    resources::all()
        .iter()
        .filter(|resource| resource.namespaced)
        .any(|resource| state.store.all(resource).any(|(key, _)| key.namespace == namespace))
}

/// Deletes what is in a namespace, as the namespace controller does.
fn empty_namespace(state: &mut State, now: Timestamp, namespace: &str) -> Result<(), ApiError> {
    for resource in resources::all().iter().filter(|resource| resource.namespaced) {
        let keys: Vec<Key> = state
            .store
            .all(resource)
            .filter(|(k, _)| k.namespace == namespace)
            .map(|(k, _)| k.clone())
            .collect();
        for key in keys {
            // The last object's end takes the namespace with it.
            if state.store.get(&key).is_some() {
                remove(state, now, resource, &key, &DeleteOptions::default())?;
            }
        }
    }
    Ok(())
}

/// What an object's end brings about: a namespace that waited for it ends too.
pub(crate) fn after(state: &mut State, resource: ResourceRef, gone: &Value) {
    if !resource.namespaced {
        return;
    }
    let namespaces = resources::named("namespaces");
    let key = Key::new(namespaces, "", meta::namespace(gone));
    let ending = state.store.get(&key).is_some_and(|ns| meta::is_deleted(ns) && !meta::has_finalizers(ns));
    if ending && !occupied(state, &key.name) {
        state.store.commit(namespaces, &key, None);
    }
}
