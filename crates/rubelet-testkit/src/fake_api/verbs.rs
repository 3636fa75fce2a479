//! What each verb does to the store: get, list, create, update, patch. Deletion has its own file.
//!
//! Runs under the store's lock, after authorization. Kinds with rules of their own are asked at the marked places.

use serde_json::{Value, json};

use super::handle::{Call, Reply};
use super::resources::{self, ResourceRef};
use super::selector::Selector;
use super::status::{self, ApiError, bad_request};
use super::store::Key;
use super::{State, delete, kinds, meta, normalize, patch, restriction, watch};

/// Carries out a request about a resource the fake serves.
pub(crate) fn dispatch(state: &mut State, call: &Call<'_>, resource: ResourceRef) -> Result<Reply, ApiError> {
    let request = call.request;
    let sub = request.subresource.as_str();
    let known = match sub {
        "" => true,
        "status" => resource.has_status,
        _ => kinds::has_subresource(resource, sub),
    };
    if !known {
        return Err(status::unknown_path());
    }
    match request.verb {
        "get" => get(state, call, resource),
        "list" => list(state, call, resource),
        "watch" => watch::open(state, request, resource).map(|open| Reply::Watch(Box::new(open))),
        "create" if sub.is_empty() && request.name.is_empty() => create(state, call, resource),
        "create" if !sub.is_empty() => kinds::create_subresource(state, call, resource),
        "update" => update(state, call, resource),
        "patch" => patch_object(state, call, resource),
        "delete" if sub.is_empty() => delete::delete(state, call, resource),
        "deletecollection" => delete::delete_collection(state, call, resource),
        _ => Err(status::method_not_allowed(resource)),
    }
}

pub(crate) fn key_of(call: &Call<'_>, resource: ResourceRef) -> Key {
    Key::new(resource, &call.request.namespace, &call.request.name)
}

fn get(state: &State, call: &Call<'_>, resource: ResourceRef) -> Result<Reply, ApiError> {
    let object = state
        .store
        .get(&key_of(call, resource))
        .ok_or_else(|| status::not_found(resource, &call.request.name))?;
    Ok(Reply::Object(200, Value::clone(object)))
}

fn list(state: &mut State, call: &Call<'_>, resource: ResourceRef) -> Result<Reply, ApiError> {
    let request = call.request;
    let selector = Selector::parse(
        resource,
        &request.namespace,
        request.param("fieldSelector"),
        request.param("labelSelector"),
    )?;
    let asked = watch::parse_version(request)?;
    let current = state.store.version();
    let exact = request.param("resourceVersionMatch") == Some("Exact");
    if asked > current {
        let mut error = ApiError::new(
            504,
            "Timeout",
            format!("Timeout: Too large resource version: {asked}, current: {current}"),
        );
        error.details = json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]});
        error.retry_after = Some(1);
        return Err(error);
    }
    if exact && asked < state.store.oldest() {
        return Err(status::expired(asked, state.store.oldest()));
    }
    let (version, mut items) = match request.param("continue") {
        Some(token) => {
            let version = token.parse().map_err(|_| bad_request("continue key is not valid"))?;
            let rest = state.store.snapshot(version).ok_or_else(|| {
                ApiError::new(
                    410,
                    "Expired",
                    "The provided continue parameter is too old to display a consistent list result. You can start a \
                     new list without the continue parameter.",
                )
            })?;
            (version, rest.clone())
        }
        None => {
            let items = state.store.all(resource).map(|(_, object)| object.clone());
            (current, items.filter(|object| selector.matches(object)).collect())
        }
    };
    let mut metadata = json!({"resourceVersion": version.to_string()});
    let limit: usize = request.param("limit").and_then(|l| l.parse().ok()).unwrap_or(0);
    if limit > 0 && items.len() > limit {
        let rest = items.split_off(limit);
        metadata["continue"] = json!(version.to_string());
        metadata["remainingItemCount"] = json!(rest.len());
        state.store.keep_snapshot(version, rest);
    }
    // Items of a list carry neither kind nor version, as a real server's typed lists do not.
    let items: Vec<Value> = items
        .iter()
        .map(|item| {
            let mut item = Value::clone(item);
            if let Some(fields) = item.as_object_mut() {
                fields.remove("kind");
                fields.remove("apiVersion");
            }
            item
        })
        .collect();
    Ok(Reply::Object(
        200,
        json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
               "metadata": metadata, "items": items}),
    ))
}

/// The object of the body, checked to be of the resource's kind and at the place of the path.
pub(crate) fn decode(call: &Call<'_>, resource: ResourceRef) -> Result<Value, ApiError> {
    let mut object: Value = serde_json::from_slice(call.body)
        .map_err(|e| bad_request(format!("couldn't get version/kind; json parse error: {e}")))?;
    check_place(call, resource, &mut object)?;
    Ok(object)
}

fn check_place(call: &Call<'_>, resource: ResourceRef, object: &mut Value) -> Result<(), ApiError> {
    if !object.is_object() || !object.get("metadata").is_none_or(Value::is_object) {
        return Err(bad_request("the body is no object with metadata"));
    }
    for (field, expected) in [("kind", resource.kind.to_owned()), ("apiVersion", resource.api_version())] {
        match object.get(field).and_then(Value::as_str) {
            None | Some("") => object[field] = json!(expected),
            Some(found) if found == expected => {}
            Some(found) => {
                return Err(bad_request(format!(
                    "{} in version \"{}\" cannot be handled as a {}: {field} is {found:?}",
                    resource.kind, resource.version, resource.kind
                )));
            }
        }
    }
    if resource.namespaced {
        let namespace = &call.request.namespace;
        match object["metadata"].get("namespace").and_then(Value::as_str) {
            None | Some("") => object["metadata"]["namespace"] = json!(namespace),
            Some(found) if found == namespace => {}
            Some(found) => {
                return Err(bad_request(format!(
                    "the namespace of the provided object does not match the namespace sent on the request \
                     ({found} and {namespace})"
                )));
            }
        }
    }
    Ok(())
}

fn create(state: &mut State, call: &Call<'_>, resource: ResourceRef) -> Result<Reply, ApiError> {
    let object = decode(call, resource)?;
    if let Some(reply) = kinds::answer_without_storing(state, call, resource, &object)? {
        return Ok(reply);
    }
    let stored = store_new(state, call, resource, object)?;
    Ok(Reply::Object(201, stored))
}

/// Creates an object, by the rules of its kind.
pub(crate) fn store_new(
    state: &mut State,
    call: &Call<'_>,
    resource: ResourceRef,
    mut object: Value,
) -> Result<Value, ApiError> {
    meta::begin(state, call.now, &mut object);
    let name = meta::name(&object).to_owned();
    let namespace = meta::namespace(&object).to_owned();
    if name.is_empty() {
        let cause =
            ("metadata.name".to_owned(), "Required value: name or generateName is required".to_owned());
        return Err(status::invalid(resource, &name, &[cause]));
    }
    if !meta::version(&object).is_empty() {
        let why = "resourceVersion should not be set on objects to be created";
        return Err(ApiError::new(500, "InternalError", why));
    }
    admit_to_namespace(state, resource, &namespace)?;
    if let Err(error) = kinds::prepare_create(state, call, resource, &mut object) {
        if error.code == 403 && call.user.node().is_some() {
            state.violate(call, &error);
        }
        return Err(error);
    }
    if call.options.restrict {
        let verdict = restriction::admit_create(state, call, resource, &object);
        verdict.inspect_err(|error| state.violate(call, error))?;
    }
    kinds::validate_create(resource, &object)?;
    let key = Key::new(resource, &namespace, &name);
    if state.store.get(&key).is_some() {
        return Err(status::already_exists(resource, &name));
    }
    meta::manage(&mut object, &call.manager(), "", call.now);
    normalize::normalize(resource.kind, &mut object);
    let stored = state.store.commit(resource, &key, Some(object));
    kinds::after_create(state, call, resource, &stored);
    Ok(Value::clone(&stored))
}

fn admit_to_namespace(state: &State, resource: ResourceRef, namespace: &str) -> Result<(), ApiError> {
    if !resource.namespaced {
        return Ok(());
    }
    let namespaces = resources::named("namespaces");
    let found = state
        .store
        .get(&Key::new(namespaces, "", namespace))
        .ok_or_else(|| status::not_found(namespaces, namespace))?;
    if meta::is_deleted(found) {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = status::forbidden(resource, "", &why);
        error.details["causes"] = json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace",
            "message": format!("namespace {namespace} is being terminated")}]);
        return Err(error);
    }
    Ok(())
}

fn update(state: &mut State, call: &Call<'_>, resource: ResourceRef) -> Result<Reply, ApiError> {
    let object = decode(call, resource)?;
    let name = meta::name(&object);
    if name != call.request.name {
        return Err(bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.request.name
        )));
    }
    let Some(old) = state.store.get(&key_of(call, resource)).cloned() else {
        if matches!(resource.plural, "leases" | "events") && call.request.subresource.is_empty() {
            return store_new(state, call, resource, object).map(|o| Reply::Object(201, o));
        }
        return Err(status::not_found(resource, &call.request.name));
    };
    let needs_version = matches!(
        resource.plural,
        "leases" | "csinodes" | "csidrivers" | "runtimeclasses" | "volumeattachments"
    );
    if needs_version && meta::version(&object).is_empty() {
        let cause = (
            "metadata.resourceVersion".to_owned(),
            "Invalid value: 0: must be specified for an update".to_owned(),
        );
        return Err(status::invalid(resource, &call.request.name, &[cause]));
    }
    replace(state, call, resource, &old, object).map(|stored| Reply::Object(200, stored))
}

fn patch_object(state: &mut State, call: &Call<'_>, resource: ResourceRef) -> Result<Reply, ApiError> {
    let old = state
        .store
        .get(&key_of(call, resource))
        .cloned()
        .ok_or_else(|| status::not_found(resource, &call.request.name))?;
    let mut patched = patch::apply(resource.kind, &old, call.content_type(), call.body)?;
    check_place(call, resource, &mut patched)?;
    if meta::name(&patched) != call.request.name {
        return Err(bad_request("the name of the object does not match the name on the URL"));
    }
    replace(state, call, resource, &old, patched).map(|stored| Reply::Object(200, stored))
}

/// Puts `new` in the place of `old`: conflicts, the rules of the kind, and nothing at all when nothing changes.
pub(crate) fn replace(
    state: &mut State,
    call: &Call<'_>,
    resource: ResourceRef,
    old: &Value,
    mut new: Value,
) -> Result<Value, ApiError> {
    let name = meta::name(old).to_owned();
    let sub = call.request.subresource.as_str();
    let (uid, new_uid) = (meta::uid(old), meta::uid(&new));
    if !new_uid.is_empty() && new_uid != uid {
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: /registry/{}/{}/{name}, ResourceVersion: 0, \
             AdditionalErrorMsg: Precondition failed: UID in precondition: {new_uid}, UID in object meta: {uid}",
            resource.plural,
            meta::namespace(old),
        );
        return Err(status::conflict(resource, &name, &why));
    }
    let asked = meta::version(&new);
    if !asked.is_empty() && asked != "0" && asked != meta::version(old) {
        return Err(status::modified(resource, &name));
    }
    meta::keep(old, &mut new);
    kinds::prepare_update(call, resource, sub, old, &mut new)?;
    if call.options.restrict {
        let verdict = restriction::admit_update(state, call, resource, old, &new);
        verdict.inspect_err(|error| state.violate(call, error))?;
    }
    kinds::validate_update(resource, sub, old, &new)?;
    normalize::normalize(resource.kind, &mut new);
    if new == *old {
        return Ok(new);
    }
    meta::manage(&mut new, &call.manager(), sub, call.now);
    let key = Key::new(resource, meta::namespace(old), &name);
    let stored = state.store.commit(resource, &key, Some(new));
    if meta::is_deleted(&stored) && !meta::has_finalizers(&stored) && meta::deletion_grace(&stored) == 0 {
        state.store.commit(resource, &key, None);
        delete::after(state, resource, &stored);
    } else {
        kinds::after_update(state, call, resource, &stored);
    }
    Ok(Value::clone(&stored))
}
