//! Where kinds differ: what the server fills in, refuses and does by itself for each of them.
//!
//! A switchboard; the rules of pods, certificates and tokens are in their own files.

use serde_json::{Value, json};

use super::State;
use super::handle::{Call, Reply};
use super::resources::ResourceRef;
use super::status::{self, ApiError};

/// Subresources besides `status`.
pub(crate) fn has_subresource(resource: ResourceRef, sub: &str) -> bool {
    matches!(
        (resource.plural, sub),
        ("pods", "eviction" | "binding" | "ephemeralcontainers" | "resize")
            | ("serviceaccounts", "token")
            | ("certificatesigningrequests", "approval")
            | ("namespaces", "finalize")
    )
}

/// POST to a subresource.
pub(crate) fn create_subresource(
    _state: &mut State,
    _call: &Call<'_>,
    resource: ResourceRef,
) -> Result<Reply, ApiError> {
    Err(status::method_not_allowed(resource))
}

/// Reviews are answered, not stored.
pub(crate) fn answer_without_storing(
    _state: &mut State,
    _call: &Call<'_>,
    _resource: ResourceRef,
    _object: &Value,
) -> Result<Option<Reply>, ApiError> {
    Ok(None)
}

/// Fills in what the server decides at creation.
pub(crate) fn prepare_create(
    _state: &mut State,
    _call: &Call<'_>,
    resource: ResourceRef,
    object: &mut Value,
) -> Result<(), ApiError> {
    if resource.plural == "pods" {
        object["metadata"]["generation"] = json!(1);
        object["status"] = json!({"phase": "Pending"});
    }
    Ok(())
}

/// Refuses what the kind's validation refuses.
pub(crate) fn validate_create(_resource: ResourceRef, _object: &Value) -> Result<(), ApiError> {
    Ok(())
}

/// Takes over from the stored object what this path cannot change.
pub(crate) fn prepare_update(
    _call: &Call<'_>,
    resource: ResourceRef,
    sub: &str,
    old: &Value,
    new: &mut Value,
) -> Result<(), ApiError> {
    if !resource.has_status {
        return Ok(());
    }
    let kept: &[&str] = if sub == "status" { &["spec"] } else { &["status"] };
    for part in kept {
        match old.get(*part) {
            Some(value) => new[*part] = value.clone(),
            None => {
                if let Some(fields) = new.as_object_mut() {
                    fields.remove(*part);
                }
            }
        }
    }
    if resource.plural == "pods" && sub.is_empty() && new["spec"] != old["spec"] {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        new["metadata"]["generation"] = json!(generation + 1);
    }
    Ok(())
}

/// Refuses what the kind's update validation refuses.
pub(crate) fn validate_update(
    _resource: ResourceRef,
    _sub: &str,
    _old: &Value,
    _new: &Value,
) -> Result<(), ApiError> {
    Ok(())
}

/// What the server (or a controller) does once the object is there.
pub(crate) fn after_create(_state: &mut State, _call: &Call<'_>, _resource: ResourceRef, _stored: &Value) {}

/// What the server (or a controller) does after a change.
pub(crate) fn after_update(_state: &mut State, _call: &Call<'_>, _resource: ResourceRef, _stored: &Value) {}
