//! Whether a pod keeps the rules of the API.
//!
//! Owns upstream's `ValidatePodCreate` and what it shares with updates, in upstream's wording, with the feature
//! gates at their defaults for 1.36. Reports every broken rule, never just the first. Takes defaulted pods and
//! never changes them. `static_pod` calls it for pods that never pass an API server, and our own API server for
//! all others.
//!
//! Left out: trust bundles and pod certificates (their gates are off), Windows host processes, and the details of
//! volume sources that nobody serves any more.

mod annotations;
mod containers;
mod disks;
mod env;
mod ephemeral;
pub mod field;
mod handlers;
pub mod names;
mod network;
mod references;
mod resources;
mod scheduling;
mod security;
mod systems;
mod volumes;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use annotations::APPARMOR_CONTAINER;
pub(crate) use field::{Errors, Path};
pub use field::{FieldError, Reason};
pub use references::validate_claim_spec;
pub use scheduling::validate_tolerations;

/// All annotations of an object together, keys and values.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// Every rule a new, defaulted pod breaks, in the order of its fields.
pub fn validate_pod(pod: &Pod) -> Vec<FieldError> {
    let mut errors = Errors(validate_metadata_and_spec(pod));
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    if spec.ephemeral_containers.as_ref().is_some_and(|ephemeral| !ephemeral.is_empty()) {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    if gated && !text(&spec.node_name).is_empty() {
        errors
            .forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
    annotations::agree_with_fields(&mut errors, pod, spec, &path);
    errors.0
}

/// Every rule a defaulted pod breaks that hold for its whole life (upstream `validatePodMetadataAndSpec`).
pub fn validate_metadata_and_spec(pod: &Pod) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let path = Path::new("metadata");
    metadata(&mut errors, &pod.metadata, &path);
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    annotations::validate(&mut errors, pod, spec, &path.child("annotations"));
    let path = Path::new("spec");
    validate_spec(&mut errors, pod, spec, &path);
    references::tokens_need_an_account(&mut errors, spec, &path);
    errors.0
}

/// What rules about one part of a pod need to know of the rest.
struct Facts<'a> {
    spec: &'a PodSpec,
    /// Volumes that are valid themselves, by name.
    volumes: BTreeMap<&'a str, &'a Volume>,
    grace_seconds: Option<i64>,
    host_users: bool,
}

/// The text of an optional field; absent is empty, as in Go.
fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

fn metadata(errors: &mut Errors, metadata: &ObjectMeta, path: &Path) {
    let name = text(&metadata.name);
    let generate_name = text(&metadata.generate_name);
    if !generate_name.is_empty() {
        // What is generated replaces a dash at the end, so upstream looks at the rest with a letter in its place.
        let masked = match generate_name.strip_suffix('-').and_then(|rest| rest.char_indices().next_back()) {
            Some((at, _)) => format!("{}a", &generate_name[..at]),
            None => generate_name.to_owned(),
        };
        errors.invalid_each(&path.child("generateName"), generate_name, names::dns_subdomain(&masked));
    }
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        errors.invalid_each(&path.child("name"), name, names::dns_subdomain(name));
    }
    match text(&metadata.namespace) {
        "" => errors.required(&path.child("namespace"), ""),
        namespace => errors.invalid_each(&path.child("namespace"), namespace, names::dns_label(namespace)),
    }
    if let Some(generation) = metadata.generation.filter(|generation| *generation < 0) {
        errors.invalid(&path.child("generation"), &generation, "must be greater than or equal to 0");
    }
    scheduling::labels(errors, metadata.labels.as_ref(), &path.child("labels"));
    let annotations_path = path.child("annotations");
    let mut size = 0;
    for (key, value) in metadata.annotations.iter().flatten() {
        errors.invalid_each(&annotations_path, key, names::qualified_name(&key.to_lowercase()));
        size += key.len() + value.len();
    }
    if size > ANNOTATIONS_LIMIT {
        errors.too_long(&annotations_path, ANNOTATIONS_LIMIT);
    }
    for owner in metadata.owner_references.iter().flatten() {
        let path = path.child("ownerReferences");
        let fields = [
            ("apiVersion", &owner.api_version, "version must not be empty"),
            ("kind", &owner.kind, "must not be empty"),
            ("name", &owner.name, "must not be empty"),
            ("uid", &owner.uid, "must not be empty"),
        ];
        for (field, value, rule) in fields.into_iter().filter(|(_, value, _)| value.is_empty()) {
            errors.invalid(&path.child(field), value, rule);
        }
    }
    for (index, finalizer) in metadata.finalizers.iter().flatten().enumerate() {
        let path = path.child("finalizers");
        errors.invalid_each(&path, finalizer, names::qualified_name(finalizer));
        if !finalizer.contains('/')
            && !matches!(finalizer.as_str(), "kubernetes" | "orphan" | "foregroundDeletion")
        {
            let rule = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path.index(index), finalizer, rule);
        }
    }
}

fn validate_spec(errors: &mut Errors, pod: &Pod, spec: &PodSpec, path: &Path) {
    if spec.termination_grace_period_seconds.is_none() {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes =
        volumes::validate(errors, spec.volumes.as_deref().unwrap_or_default(), &path.child("volumes"));
    let facts = Facts {
        spec,
        volumes,
        grace_seconds: spec.termination_grace_period_seconds,
        host_users: spec.host_users.unwrap_or(true),
    };
    references::claims_of_volumes(errors, pod, spec, &path.child("volumes"));
    references::resource_claims(errors, pod, spec, &path.child("resourceClaims"));
    containers::validate(errors, &facts, path);
    ephemeral::validate(errors, &facts, path);
    resources::pod_level(errors, spec, path);
    network::host_network_ports(errors, spec, path);
    errors.one_of(
        &path.child("restartPolicy"),
        spec.restart_policy.as_deref(),
        &["Always", "OnFailure", "Never"],
    );
    errors.one_of(
        &path.child("dnsPolicy"),
        spec.dns_policy.as_deref(),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    scheduling::labels(errors, spec.node_selector.as_ref(), &path.child("nodeSelector"));
    security::pod(errors, spec, path);
    scheduling::validate(errors, spec, path);
    network::validate(errors, spec, path);
    plain_names(errors, spec, path);
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let rule = names::range(1, i64::from(i32::MAX));
        errors.invalid(&path.child("activeDeadlineSeconds"), &seconds, rule);
    }
    errors.optional_one_of(
        &path.child("preemptionPolicy"),
        spec.preemption_policy.as_deref(),
        &["PreemptLowerPriority", "Never"],
    );
    if let Some(overhead) = &spec.overhead {
        resources::overhead(errors, overhead, &path.child("overhead"));
    }
    if let Some(os) = &spec.os {
        match os.name.as_str() {
            "" => errors.required(&path.child("os").child("name"), ""),
            name => errors.optional_one_of(&path.child("os"), Some(name), &["linux", "windows"]),
        }
        systems::validate(errors, spec, path);
    }
    env::file_key_volumes(errors, &facts, path);
}

/// Names of other things: service account, node, classes.
fn plain_names(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    type Rule = fn(&str) -> Vec<String>;
    let names: [(&str, &Option<String>, Rule); 6] = [
        ("serviceAccountName", &spec.service_account_name, names::dns_subdomain),
        ("nodeName", &spec.node_name, names::dns_subdomain),
        ("hostname", &spec.hostname, names::dns_label),
        ("subdomain", &spec.subdomain, names::dns_label),
        ("priorityClassName", &spec.priority_class_name, names::dns_subdomain),
        ("runtimeClassName", &spec.runtime_class_name, names::dns_subdomain),
    ];
    for (field, name, rule) in names {
        let set = if field == "runtimeClassName" { name.is_some() } else { !text(name).is_empty() };
        if set {
            errors.invalid_each(&path.child(field), text(name), rule(text(name)));
        }
    }
}

#[cfg(test)]
mod tests;
