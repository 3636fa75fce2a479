//! What is special below pods: binding and eviction, and the streams that only the node can serve.

use http::{Request, Response};
use rubelet_apimachinery::kinds::{self, Resource};
use rubelet_apimachinery::status::{self, ApiError, Cause, bad_request};
use rubelet_apimachinery::strategy;
use rubelet_apimachinery::strategy::pods::Eviction;
use serde_json::{Value, json};

use super::delete;
use super::dispatch::Call;
use super::lookup;
use super::options::WriteOptions;
use super::write::{self, Write, Written};
use super::{Operation, encode, respond};
use crate::node::{Body, Endpoint};
use crate::store::Transaction;

/// The node's endpoint behind a subresource, if it is one of those.
pub(crate) fn endpoint(subresource: &str) -> Option<Endpoint> {
    match subresource {
        "log" => Some(Endpoint::Log),
        "exec" => Some(Endpoint::Exec),
        "attach" => Some(Endpoint::Attach),
        "portforward" => Some(Endpoint::PortForward),
        _ => None,
    }
}

/// Lets the node serve a stream of a pod.
pub(crate) async fn stream(call: Call, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let Some(endpoint) = endpoint(&call.info.subresource) else { return Err(status::unknown_path()) };
    let query = &call.info.query;
    if query.has("dryRun") && endpoint != Endpoint::Log {
        return Err(bad_request("dryRun is not supported"));
    }
    let name = &call.info.name;
    if endpoint == Endpoint::Log {
        check_log_options(&call)?;
    }
    let pod = {
        let snapshot = call.api.store().snapshot().map_err(lookup::failed)?;
        let record = lookup::record(&snapshot, call.resource, call.namespace(), name)?
            .ok_or_else(|| status::not_found(call.resource, name))?;
        encode::decode(&record.bytes)?
    };
    if endpoint != Endpoint::PortForward {
        check_container(&pod, name, query.text("container").unwrap_or_default())?;
    }
    let bound = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if bound.is_empty() {
        if endpoint == Endpoint::Log {
            // There is nothing to be had yet, which upstream calls no content.
            return Ok(respond::text(204, ""));
        }
        return Err(bad_request(format!("pod {name} does not have a host assigned")));
    }
    match &call.api.inner.node {
        Some((node, streams)) if node == bound => {
            let streams = streams.clone();
            Ok(streams.serve(endpoint, pod, request).await)
        }
        _ => Err(status::internal(format!(
            "error dialing backend: the pod is on node {bound}, which this API does not reach"
        ))),
    }
}

fn containers<'a>(pod: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    pod["spec"][field].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str())
}

/// The container must be there; one need not be named where there is but one.
fn check_container(pod: &Value, name: &str, container: &str) -> Result<(), ApiError> {
    let all: Vec<&str> = ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| containers(pod, field))
        .collect();
    if !container.is_empty() {
        if all.contains(&container) {
            return Ok(());
        }
        return Err(bad_request(format!("container {container} is not valid for pod {name}")));
    }
    match containers(pod, "containers").count() {
        0 => Err(bad_request(format!("a container name must be specified for pod {name}"))),
        1 => Ok(()),
        _ => Err(bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

/// The options of a log must be ones that can be meant (`ValidatePodLogOptions`).
fn check_log_options(call: &Call) -> Result<(), ApiError> {
    let query = &call.info.query;
    let mut causes = Vec::new();
    let mut add = |field: &str, reason, message: String| {
        causes.push(Cause { field: field.to_owned(), reason, message });
    };
    if let Some(lines) = query.number("tailLines")?.filter(|lines| *lines < 0) {
        let message = format!("Invalid value: {lines}: must be greater than or equal to 0");
        add("tailLines", "FieldValueInvalid", message);
    }
    let seconds = query.number("sinceSeconds")?;
    if let Some(bytes) = query.number("limitBytes")?.filter(|bytes| *bytes < 1) {
        add("limitBytes", "FieldValueInvalid", format!("Invalid value: {bytes}: must be greater than 0"));
    }
    match (seconds, query.text("sinceTime")) {
        (Some(_), Some(_)) => {
            let message = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified";
            add("", "FieldValueForbidden", message.to_owned());
        }
        (Some(seconds), None) if seconds < 1 => {
            add(
                "sinceSeconds",
                "FieldValueInvalid",
                format!("Invalid value: {seconds}: must be greater than 0"),
            );
        }
        _ => {}
    }
    if let Some(time) = query.text("sinceTime")
        && time.parse::<jiff::Timestamp>().is_err()
    {
        return Err(bad_request(format!("parsing time {time:?} as RFC 3339 failed")));
    }
    let stream = query.text("stream").unwrap_or("All");
    if !matches!(stream, "All" | "Stdout" | "Stderr") {
        let message =
            format!("Unsupported value: {stream:?}: supported values: \"All\", \"Stderr\", \"Stdout\"");
        add("stream", "FieldValueNotSupported", message);
    } else if stream != "All" && query.has("tailLines") {
        let message = "Forbidden: `tailLines` and specific `stream` are mutually exclusive for now";
        add("", "FieldValueForbidden", message.to_owned());
    }
    if causes.is_empty() {
        return Ok(());
    }
    let named = Resource { kind: "PodLogOptions", ..*call.resource };
    Err(status::invalid(&named, &call.info.name, &causes))
}

/// POST to `pods/{name}/binding` and `pods/{name}/eviction`.
pub(crate) async fn create(call: Call, body: Body) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::read(&call.info.query, "CreateOptions", false)?;
    let Some(sub) = call.subresource else { return Err(status::unknown_path()) };
    let kind = (sub.api_version, sub.kind);
    let (object, warnings) = write::decoded(&call, body, kind, options.validation).await?;
    check_namespace(&object, call.namespace())?;
    let mut write = Write::of(&call, options);
    let written = if sub.name == "binding" {
        write.run(move |write, tx| bind(write, tx, &object)).await?
    } else {
        write.options.dry_run |= delete::read_wish(&object["deleteOptions"])?.dry_run;
        write.run(move |write, tx| evict(write, tx, &object)).await?
    };
    let mut response = respond::value(written.code, &written.object, call.accepted);
    respond::warn(&mut response, &warnings);
    Ok(response)
}

/// POST to `bindings`, the old way of binding a pod.
pub(crate) async fn create_binding(call: Call, body: Body) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::read(&call.info.query, "CreateOptions", false)?;
    let (object, warnings) = write::decoded(&call, body, ("v1", "Binding"), options.validation).await?;
    check_namespace(&object, call.namespace())?;
    let mut write = Write::of(&call, options);
    write.name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    write.resource = kinds::find("", "v1", "pods").ok_or_else(status::unknown_path)?;
    write.subresource = "binding";
    let written = write.run(move |write, tx| bind(write, tx, &object)).await?;
    let mut response = respond::value(written.code, &written.object, call.accepted);
    respond::warn(&mut response, &warnings);
    Ok(response)
}

fn check_namespace(object: &Value, namespace: &str) -> Result<(), ApiError> {
    let given = object["metadata"]["namespace"].as_str().unwrap_or_default();
    if given.is_empty() || given == namespace {
        return Ok(());
    }
    Err(bad_request("the namespace of the provided object does not match the namespace sent on the request"))
}

fn done() -> Written {
    let object =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Written { code: 201, object, warnings: Vec::new() }
}

fn stored(write: &Write, tx: &mut Transaction<'_>) -> Result<Value, ApiError> {
    lookup::get(tx, write.resource, &write.namespace, &write.name)?
        .ok_or_else(|| status::not_found(write.resource, &write.name))
}

/// Gives a pod its node.
fn bind(write: &Write, tx: &mut Transaction<'_>, binding: &Value) -> Result<Written, ApiError> {
    let old = stored(write, tx)?;
    let mut binding = binding.clone();
    let mut pod = write.decide(tx, |change| {
        write.admit(change, Operation::Create(&mut binding))?;
        strategy::pods::bind(change, &old, &binding)
    })?;
    if !write.options.dry_run {
        lookup::put(tx, write.resource, &write.namespace, &write.name, &mut pod)?;
    }
    Ok(done())
}

/// Evicts a pod: a deletion that disruption budgets can refuse.
fn evict(write: &Write, tx: &mut Transaction<'_>, eviction: &Value) -> Result<Written, ApiError> {
    let old = stored(write, tx)?;
    let mut eviction = eviction.clone();
    let Eviction { mut pod, budget, options } = write.decide(tx, |change| {
        write.admit(change, Operation::Create(&mut eviction))?;
        strategy::pods::evict(change, &old, &eviction)
    })?;
    let mut options = delete::read_wish(&options)?.options;
    if !write.options.dry_run {
        if let Some(mut budget) = budget {
            let budgets =
                kinds::find("policy", "v1", "poddisruptionbudgets").ok_or_else(status::unknown_path)?;
            let name = budget["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            lookup::put(tx, budgets, &write.namespace, &name, &mut budget)?;
        }
        if pod != old {
            lookup::put(tx, write.resource, &write.namespace, &write.name, &mut pod)?;
        }
    }
    // The preconditions held for the pod as it was; what has changed since is the eviction's own doing.
    options.resource_version = None;
    delete::remove(write, tx, &options)?;
    Ok(done())
}
