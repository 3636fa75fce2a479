//! POSTs to subresources of pods: eviction and binding.

use serde_json::{Value, json};

use super::State;
use super::delete::{self, DeleteOptions};
use super::handle::{Call, Reply};
use super::meta;
use super::resources::ResourceRef;
use super::restriction;
use super::status::{self, ApiError, bad_request};
use super::verbs;

/// The body, which is an Eviction or a Binding.
fn body(call: &Call<'_>) -> Result<Value, ApiError> {
    serde_json::from_slice(call.body).map_err(|e| bad_request(format!("error decoding the body: {e}")))
}

fn done() -> Reply {
    Reply::Object(
        201,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    )
}

/// POST to `pods/{name}/eviction`: a deletion that disruption budgets could refuse.
pub(crate) fn evict(state: &mut State, call: &Call<'_>, resource: ResourceRef) -> Result<Reply, ApiError> {
    let eviction = body(call)?;
    let key = verbs::key_of(call, resource);
    let pod = state.store.get(&key).cloned().ok_or_else(|| status::not_found(resource, &key.name))?;
    if call.options.restrict {
        let verdict = restriction::admit_eviction(call, resource, &pod);
        verdict.inspect_err(|error| state.violate(call, error))?;
    }
    let options = &eviction["deleteOptions"];
    let text = |field: &str| options["preconditions"][field].as_str().map(str::to_owned);
    let options = DeleteOptions {
        grace: options["gracePeriodSeconds"].as_i64(),
        uid: text("uid"),
        version: text("resourceVersion"),
    };
    delete::remove(state, call.now, resource, &key, &options)?;
    Ok(done())
}

/// POST to `pods/{name}/binding`: what the scheduler does.
pub(crate) fn bind(state: &mut State, call: &Call<'_>, resource: ResourceRef) -> Result<Reply, ApiError> {
    let binding = body(call)?;
    let key = verbs::key_of(call, resource);
    let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
    assign(state, call.now, resource, &key, &node)?;
    Ok(done())
}

/// Gives a pod its node.
pub(crate) fn assign(
    state: &mut State,
    now: jiff::Timestamp,
    resource: ResourceRef,
    key: &super::store::Key,
    node: &str,
) -> Result<(), ApiError> {
    let stored = state.store.get(key).ok_or_else(|| status::not_found(resource, &key.name))?;
    let mut pod = Value::clone(stored);
    let bound = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !bound.is_empty() {
        let why = format!("pod {} is already assigned to node \"{bound}\"", key.name);
        return Err(status::conflict(resource, &key.name, &why));
    }
    if meta::is_deleted(&pod) {
        let why = format!("pod {} is being deleted, cannot be assigned to a host", key.name);
        return Err(status::conflict(resource, &key.name, &why));
    }
    pod["spec"]["nodeName"] = json!(node);
    let mut conditions: Vec<Value> =
        super::references::items(&pod["status"], "conditions").cloned().collect();
    conditions.retain(|condition| condition["type"] != "PodScheduled");
    conditions.push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": meta::time(now)}));
    pod["status"]["conditions"] = json!(conditions);
    state.store.commit(resource, key, Some(pod));
    Ok(())
}
