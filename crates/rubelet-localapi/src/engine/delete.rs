//! DELETE of one object and of many.

use std::sync::Arc;

use http::Response;
use rubelet_apimachinery::decode::{self, Media};
use rubelet_apimachinery::selector::Selector;
use rubelet_apimachinery::status::{self, ApiError, Cause, bad_request};
use rubelet_apimachinery::strategy::{self, DeleteOptions, Deletion, Propagation};
use serde_json::{Value, json};

use super::dispatch::Call;
use super::media;
use super::options::{ListOptions, WriteOptions, dry_run, invalid_options};
use super::request::quoted;
use super::write::{Write, Written};
use super::{Operation, body, encode, lookup, respond};
use crate::node::Body;
use crate::store::Transaction;

/// How many objects one transaction of a deletecollection deletes.
const BATCH: usize = 200;

/// What a deletion says: what the rules decide by, and whether it is only tried.
pub(crate) struct Wish {
    pub(crate) options: DeleteOptions,
    pub(crate) dry_run: bool,
}

/// Reads the options of a deletion from its body or, when it has none, from its query.
async fn wish(call: &Call, body: Body) -> Result<Wish, ApiError> {
    let bytes = body::read(&call.headers, body).await?;
    if bytes.is_empty() {
        let query = &call.info.query;
        let said = json!({
            "dryRun": query.all("dryRun").collect::<Vec<_>>(),
            "gracePeriodSeconds": query.number("gracePeriodSeconds")?,
            "propagationPolicy": query.text("propagationPolicy"),
            "orphanDependents": query.flag("orphanDependents"),
        });
        return read_wish(&said);
    }
    let read = match media::body_encoding(&call.headers)? {
        Media::Json => decode::json(&bytes).map(|read| read.value),
        Media::Yaml => decode::yaml(&bytes).map(|read| read.value),
        Media::Protobuf => decode::protobuf(&bytes),
    };
    read_wish(&read.map_err(|error| bad_request(error.to_string()))?)
}

/// Reads `DeleteOptions` (`ValidateDeleteOptions`). Nothing at all is read as none.
///
/// # Errors
/// 400 for what is of another type, 422 for what is none of the known values or contradicts itself.
pub(crate) fn read_wish(said: &Value) -> Result<Wish, ApiError> {
    let kind = said["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "DeleteOptions") {
        return Err(bad_request(format!("no kind {} is registered for deletions", quoted(kind))));
    }
    let preconditions = &said["preconditions"];
    type Is = fn(&Value) -> bool;
    let typed: [(&Value, Is); 8] = [
        (said, Value::is_object),
        (&said["gracePeriodSeconds"], Value::is_i64),
        (&said["orphanDependents"], Value::is_boolean),
        (&said["propagationPolicy"], Value::is_string),
        (&said["dryRun"], Value::is_array),
        (preconditions, Value::is_object),
        (&preconditions["uid"], Value::is_string),
        (&preconditions["resourceVersion"], Value::is_string),
    ];
    if typed.iter().any(|(value, is)| !value.is_null() && !is(value)) {
        return Err(bad_request("the body of the request is not a DeleteOptions object"));
    }
    let mut causes = Vec::new();
    let policy = said["propagationPolicy"].as_str();
    let orphan_dependents = said["orphanDependents"].as_bool();
    let propagation = policy.and_then(Propagation::parse);
    let mut add = |reason, why: &str| {
        let text = format!("{}: {why}", quoted(policy.unwrap_or_default()));
        let message = if reason == "FieldValueInvalid" {
            format!("Invalid value: {text}")
        } else {
            format!("Unsupported value: {text}")
        };
        causes.push(Cause { field: "propagationPolicy".into(), reason, message });
    };
    if policy.is_some() && orphan_dependents.is_some() {
        add("FieldValueInvalid", "orphanDependents and deletionPropagation cannot be both set");
    }
    if policy.is_some() && propagation.is_none() {
        let why = "supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"";
        add("FieldValueNotSupported", why);
    }
    let values = said["dryRun"].as_array().into_iter().flatten();
    let dry_run = dry_run(values.map(|value| value.as_str().unwrap_or_default()), &mut causes);
    if !causes.is_empty() {
        return Err(invalid_options("DeleteOptions", &causes));
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let options = DeleteOptions {
        grace_period_seconds: said["gracePeriodSeconds"].as_i64(),
        propagation,
        orphan_dependents,
        uid: text(&preconditions["uid"]),
        resource_version: text(&preconditions["resourceVersion"]),
    };
    Ok(Wish { options, dry_run })
}

/// Deletes an object as far as its grace and its finalizers let it.
///
/// Gives the answer's body: the object when it stays for now or its kind says so, else a `Status`.
pub(crate) fn remove(
    write: &Write,
    tx: &mut Transaction<'_>,
    options: &DeleteOptions,
) -> Result<Value, ApiError> {
    let (resource, name) = (write.resource, &*write.name);
    let dry_run = write.options.dry_run;
    let old = lookup::get(tx, resource, &write.namespace, name)?
        .ok_or_else(|| status::not_found(resource, name))?;
    let decided = write.decide(tx, |change| {
        write.admit(change, Operation::Delete(&old))?;
        strategy::delete(change, &old, options)
    });
    match decided? {
        Deletion::Unchanged(object) => Ok(lookup::from_stored(resource, object)),
        Deletion::Mark(mut object) => {
            if !dry_run {
                lookup::put(tx, resource, &write.namespace, name, &mut object)?;
            }
            Ok(lookup::from_stored(resource, object))
        }
        Deletion::Remove(last) => {
            let uid = old["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            let mut last = last.unwrap_or(old);
            if !dry_run {
                last = lookup::remove(tx, resource, &write.namespace, name, last)?;
            }
            if strategy::returns_deleted(resource) {
                return Ok(lookup::from_stored(resource, last));
            }
            Ok(status::success(resource, name, &uid))
        }
    }
}

/// DELETE of one object.
pub(crate) async fn delete(call: Call, body: Body) -> Result<Response<Body>, ApiError> {
    let Wish { options, dry_run } = wish(&call, body).await?;
    let orphan = options.orphan_dependents;
    let write = Write::of(&call, WriteOptions { dry_run, ..WriteOptions::default() });
    let written = write
        .run(move |write, tx| {
            let object = remove(write, tx, &options)?;
            // Whether it is gone is seen by whether it can still be read.
            let stays = lookup::get(tx, write.resource, &write.namespace, &write.name)?.is_some();
            // The old way of asking for dependents to go as well is told that they are not gone yet.
            let code = if stays && orphan == Some(false) { 202 } else { 200 };
            Ok(Written { code, object, warnings: Vec::new() })
        })
        .await?;
    let query = &call.info.query;
    respond::object(written.code, call.resource, written.object, call.accepted, query, call.api.now())
}

/// DELETE of everything that a selector picks.
pub(crate) async fn collection(call: Call, body: Body) -> Result<Response<Body>, ApiError> {
    let Wish { options, dry_run } = wish(&call, body).await?;
    let options = Arc::new(options);
    let list = ListOptions::read(&call.info.query, false)?;
    let selector = Selector::parse(call.resource, &list.fields, &list.labels)?;
    let (picked, version) = {
        let snapshot = call.api.store().snapshot().map_err(lookup::failed)?;
        let picked = lookup::pick(&snapshot, call.resource, call.namespace(), &selector, list.limit)?;
        (picked, snapshot.revision().to_string())
    };
    let write = Write::of(&call, WriteOptions { dry_run, ..WriteOptions::default() });
    for batch in picked.chunks(BATCH) {
        let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        // A selection over all namespaces does not exist: paths of collections are within one.
        let names: Vec<String> = batch.iter().map(name).collect();
        let options = options.clone();
        let deleted = write.clone().run(move |write, tx| {
            let mut write = write.clone();
            for name in names {
                write.name = name;
                // Others delete as well; what is gone is gone.
                match remove(&write, tx, &options) {
                    Err(error) if error.code != 404 => return Err(error),
                    _ => {}
                }
            }
            Ok(Written { code: 200, object: Value::Null, warnings: Vec::new() })
        });
        deleted.await?;
    }
    let items: Vec<Value> = picked
        .into_iter()
        .map(|mut object| {
            if let Some(fields) = object.as_object_mut() {
                fields.remove("kind");
                fields.remove("apiVersion");
            }
            object
        })
        .collect();
    let list = json!({"kind": format!("{}List", call.resource.kind), "apiVersion": call.resource.api_version(),
                      "metadata": {"resourceVersion": version}, "items": items});
    let bytes = encode::write(&list, call.accepted);
    Ok(respond::answer(200, call.accepted.content_type(), body::whole(bytes)))
}
