//! Everything kube-apiserver does to Pods: defaults, the admission plugins of a default cluster, validation, what each
//! path may change, binding, eviction, the grace of deletions; and where the scheduler would put them.
//!
//! Metadata that all kinds share (names, UIDs, versions, namespaces) is the caller's, `strategy`'s. The words and the
//! rules of a pod by itself are `rubelet_core::validation`'s, which static pods share. Pure: what is looked up comes with
//! the [`Change`].
//!
//! Not here: PodSecurity labels, NodeRestriction, LimitRanger and ResourceQuota (the API has neither kind), and mountable
//! secrets of service accounts (`kubernetes.io/enforce-mountable-secrets`, deprecated).

mod bind;
mod compare;
mod condition;
mod ephemeral;
mod evict;
mod fresh;
mod normal;
mod priority;
mod resize;
mod runtime_class;
pub mod schedule;
mod service_account;
mod state;
mod tolerations;
mod topology;
mod update;
mod warnings;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use rubelet_core::validation::field::{Errors, FieldError};
use rubelet_core::validation::names;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::bind::bind;
pub use self::evict::{Eviction, evict};
use super::{Change, Warnings, meta};
use crate::decode;
use crate::schema::Type;
use crate::status::{self, ApiError};

/// Makes a new pod what is stored, from one that has its metadata: defaults, admission, first status, validation.
///
/// # Errors
/// 403 when a plugin refuses it, 422 with every broken rule.
pub fn create(change: &Change<'_>, new: &mut Value) -> Result<Warnings, ApiError> {
    let mut pod: Pod = read(new)?;
    normal::apply(&mut pod);
    service_account::admit(change, &mut pod)?;
    priority::admit_new(change, &mut pod)?;
    tolerations::admit(&mut pod);
    runtime_class::admit(change, &mut pod)?;
    topology::admit(change, &mut pod);
    let mut warnings = fresh::prepare(change, &mut pod);
    write(new, &pod)?;
    set(new, "status", written(&pod.status)?);
    let mut errors = Errors::default();
    meta::validate(change.resource, names::dns_subdomain, new, None, &mut errors);
    errors.0.extend(rubelet_core::validation::validate_pod(&pod));
    refuse(change, name_of(&pod), errors.0)?;
    warnings.extend(warnings::of_new(&pod));
    runtime_class::check_overhead(change, &pod)?;
    Ok(warnings)
}

/// Fills in what clients may leave out of a pod. What cannot be read as one stays as it is, to be refused later.
pub(crate) fn defaults(new: &mut Value) {
    let Ok(mut pod) = read::<Pod>(new) else { return };
    normal::apply(&mut pod);
    if let Ok(spec) = written(&pod.spec) {
        new["spec"] = spec;
    }
}

/// Makes an updated pod what is stored; what the path of the change may not touch stays as it was.
///
/// # Errors
/// 403 when a plugin refuses it, 422 with every broken rule.
pub fn update(change: &Change<'_>, new: &mut Value, old: &Value) -> Result<Warnings, ApiError> {
    if !new.is_object() || !new["metadata"].is_object() {
        return Err(status::bad_request("the object has no metadata"));
    }
    match change.subresource {
        "status" => state::update(change, new, old),
        "ephemeralcontainers" => ephemeral::update(change, new, old),
        "resize" => resize::update(change, new, old),
        _ => update::update(change, new, old),
    }
}

/// Seconds a deletion gives the pod (upstream `CheckGracefulDelete`): what is asked for, else what the pod says. A pod
/// that is on no node or has ended goes at once, which is 0; a negative number counts as 1.
pub fn deletion(old: &Value, asked: Option<i64>) -> i64 {
    let own = || old["spec"]["terminationGracePeriodSeconds"].as_i64();
    let seconds = asked.or_else(own).unwrap_or(0);
    let bound = old["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let ended = matches!(old["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    match seconds {
        _ if !bound || ended => 0,
        negative if negative < 0 => 1,
        seconds => seconds,
    }
}

/// An object as its type has it. Types of fields have been checked before, so that it fails only for what is no object
/// at all.
fn read<T: DeserializeOwned>(value: &Value) -> Result<T, ApiError> {
    rubelet_core::json::from_value(value).map_err(|error| status::bad_request(error.to_string()))
}

fn written<T: Serialize>(value: &T) -> Result<Value, ApiError> {
    rubelet_core::json::to_value(value).map_err(status::internal)
}

/// Puts back what rules of pods change: the spec and, of the metadata, labels, annotations and the generation.
fn write(object: &mut Value, pod: &Pod) -> Result<(), ApiError> {
    // The types write texts that are empty and that Go leaves out.
    let spec = written(&pod.spec)?;
    let spec = match Type::named("io.k8s.api.core.v1.PodSpec") {
        Some(t) => decode::conform(t, spec)?.0,
        None => spec,
    };
    set(object, "spec", spec);
    let metadata = [
        ("labels", written(&pod.metadata.labels)?),
        ("annotations", written(&pod.metadata.annotations)?),
        ("generation", written(&pod.metadata.generation)?),
    ];
    for (field, value) in metadata {
        set(&mut object["metadata"], field, value);
    }
    Ok(())
}

/// Sets a field, or takes it away where the value is null or an empty map.
fn set(object: &mut Value, field: &str, value: Value) {
    let Some(fields) = object.as_object_mut() else { return };
    if value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty) {
        fields.remove(field);
    } else {
        fields.insert(field.to_owned(), value);
    }
}

/// Makes a field of `new` what it is in `old`, absence included.
fn keep(new: &mut Value, old: &Value, field: &str) {
    set(new, field, old.get(field).cloned().unwrap_or_default());
}

/// What a write through a subresource leaves of the metadata (upstream `ResetObjectMetaForStatus`).
fn keep_metadata(new: &mut Value, old: &Value) {
    let fields =
        ["deletionTimestamp", "generation", "labels", "annotations", "finalizers", "ownerReferences"];
    for field in fields {
        keep(&mut new["metadata"], &old["metadata"], field);
    }
}

/// Counts an update that changes the spec.
fn count_generation(new: &mut Pod, old: &Pod) {
    let before = old.metadata.generation.unwrap_or(0);
    let changed = !compare::same_specs(spec(new), spec(old));
    new.metadata.generation = Some(before + i64::from(changed)).filter(|generation| *generation != 0);
}

/// 422 with all errors; each is told once.
fn refuse(change: &Change<'_>, name: &str, errors: Vec<FieldError>) -> Result<(), ApiError> {
    let mut told: Vec<FieldError> = Vec::new();
    for error in errors {
        if !told.contains(&error) {
            told.push(error);
        }
    }
    if told.is_empty() { Ok(()) } else { Err(status::invalid_fields(change.resource, name, &told)) }
}

fn forbidden(change: &Change<'_>, pod: &Pod, why: &str) -> ApiError {
    status::forbidden(change.resource, name_of(pod), why)
}

fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().or(pod.metadata.generate_name.as_deref()).unwrap_or_default()
}

/// The spec, which every pod that went through [`normal::apply`] has.
fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// Whether the pod shows a static one; plugins leave its spec alone.
fn is_mirror(pod: &Pod) -> bool {
    let key = rubelet_core::static_pod::CONFIG_MIRROR_ANNOTATION;
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(key))
}

/// How upstream prints the path of an error that is about no field.
const WHOLE: &str = "[]";

/// The text of an optional field; absent is empty.
fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests;
