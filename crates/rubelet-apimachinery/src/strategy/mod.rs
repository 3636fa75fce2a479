//! What the server makes of an object before it is stored: defaults, what it fills in, what it refuses.
//!
//! One file for what all kinds share (`meta`), one folder or file for each kind with rules of its own. Called inside the
//! store's transaction, so what is looked up is what the decision is stored against.
//!
//! [`create`] and [`update`] take decoded objects in normal form (`decode::conform`) and leave them ready to be stored,
//! but for managedFields and the resource version. [`delete`] says what is to be stored, if anything.

pub mod builtin;
mod checks;
mod config;
mod csi;
mod delete;
mod endpoints;
mod events;
mod meta;
mod namespaces;
mod nodes;
pub mod ownership;
pub mod pods;
mod priority_classes;
mod requests;
mod rules;
mod runtime_classes;
mod services;
#[cfg(test)]
mod tests;
pub(crate) mod value;
mod volumes;

use jiff::Timestamp;
use rubelet_core::validation::field::Errors;
use serde_json::Value;

pub use self::delete::{DeleteOptions, Deletion, FOREGROUND, ORPHAN, Propagation};
use self::rules::{Plain, Rules};
pub use self::value::text;
use crate::kinds::Resource;
use crate::status::{self, ApiError};
use crate::user::User;

/// What a rule may look up: the stored objects as of the transaction.
pub trait Lookup {
    /// One object; `namespace` is empty for those without.
    fn get(&self, resource: &'static Resource, namespace: &str, name: &str) -> Option<Value>;
    /// All objects of a resource, of all namespaces when `namespace` is empty.
    fn list(&self, resource: &'static Resource, namespace: &str) -> Vec<Value>;
}

/// A request that is about to change an object.
pub struct Change<'a> {
    /// The kind of object.
    pub resource: &'static Resource,
    /// The subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// The namespace of the path; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// The name in the path; empty for a create.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a User,
    /// When.
    pub now: Timestamp,
    /// What is there.
    pub lookup: &'a dyn Lookup,
    /// Random text of this many characters of Kubernetes' alphabet for generated names.
    pub random: &'a dyn Fn(usize) -> String,
    /// A new UID.
    pub uid: &'a dyn Fn() -> String,
    /// What this server is set up as.
    pub settings: &'a Settings,
}

/// What a server is set up as, where rules depend on it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Cluster IPs of Services are taken from this IPv4 network: address and prefix length.
    pub service_network: (std::net::Ipv4Addr, u8),
    /// What `kube-root-ca.crt` says, PEM.
    pub root_ca: String,
}

/// What a rule wants said to the client, each as a Warning header.
pub type Warnings = Vec<String>;

/// The object as it is stored, besides what the store itself says (`resourceVersion`).
pub type Object = Value;

/// The rules of a kind.
fn rules(resource: &Resource) -> &'static dyn Rules {
    match (resource.group, resource.plural) {
        ("", "configmaps") => &config::ConfigMaps,
        ("", "endpoints") => &endpoints::Endpoints,
        ("" | "events.k8s.io", "events") => &events::Events,
        ("", "namespaces") => &namespaces::Namespaces,
        ("", "nodes") => &nodes::Nodes,
        ("", "persistentvolumeclaims") => &volumes::Claims,
        ("", "persistentvolumes") => &volumes::Volumes,
        ("", "pods") => &rules::Pods,
        ("", "secrets") => &config::Secrets,
        ("", "services") => &services::Services,
        ("certificates.k8s.io", "certificatesigningrequests") => &requests::SigningRequests,
        ("coordination.k8s.io", "leases") => &nodes::Leases,
        ("discovery.k8s.io", "endpointslices") => &endpoints::Slices,
        ("node.k8s.io", "runtimeclasses") => &runtime_classes::RuntimeClasses,
        ("policy", "poddisruptionbudgets") => &requests::DisruptionBudgets,
        ("resource.k8s.io", "resourceclaims") => &requests::ResourceClaims,
        ("resource.k8s.io", "resourceslices") => &requests::ResourceSlices,
        ("scheduling.k8s.io", "priorityclasses") => &priority_classes::PriorityClasses,
        ("storage.k8s.io", "csidrivers") => &csi::Drivers,
        ("storage.k8s.io", "csinodes") => &csi::Nodes,
        ("storage.k8s.io", "storageclasses") => &volumes::StorageClasses,
        ("storage.k8s.io", "volumeattachments") => &csi::Attachments,
        _ => &Plain,
    }
}

fn is_pod(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "pods"
}

/// Fills in what clients may leave out. [`create`] and [`update`] do it too: this is for those who must know before who
/// owns what is filled in (`managed_fields::track`). Doing it again changes nothing.
pub fn defaults(resource: &Resource, object: &mut Value) {
    value::open(object);
    rules(resource).defaults(object);
    if is_pod(resource) {
        pods::defaults(object);
    }
}

/// Makes a new object ready to be stored: defaults, admission, name, UID, what the kind fills in.
///
/// A generated name may exist already; the caller then calls again with the object as it came. For a PUT that creates,
/// `change.name` is the name in the path.
///
/// # Errors
/// 400 for a namespace or name that does not fit the path, 403 and 404 by admission, 422 with every broken rule.
pub fn create(change: &Change<'_>, object: &mut Value) -> Result<Warnings, ApiError> {
    let rules = rules(change.resource);
    let mut warnings = Warnings::new();
    value::open(object);
    meta::match_namespace(change, object)?;
    if !change.name.is_empty() {
        meta::match_name(change, object)?;
    }
    meta::dedup_owners(object, &mut warnings);
    meta::wipe(object);
    rules.defaults(object);
    namespaces::admit(change, object, true)?;
    rules.admit(change, object, None)?;
    meta::fill(change, object);
    if is_pod(change.resource) {
        warnings.extend(pods::create(change, object)?);
        meta::check_no_version(object)?;
        value::remove(object, &["metadata", "resourceVersion"]);
        return Ok(warnings);
    }
    rules.allocate(change, object, None)?;
    rules.prepare(change, object, None);
    let mut errors = Errors::default();
    meta::validate(change.resource, |name| rules.name(name), object, None, &mut errors);
    rules.validate(change, object, None, &mut errors);
    let name = value::text(object, &["metadata", "name"]);
    if !errors.0.is_empty() {
        return Err(status::invalid_fields(change.resource, name, &errors.0));
    }
    rules.approve(change, object, None)?;
    meta::check_no_version(object)?;
    value::remove(object, &["metadata", "resourceVersion"]);
    warnings.extend(rules.warnings(object, None));
    Ok(warnings)
}

/// Makes the new state of an object ready to be stored in the place of the old one: by a PUT or a patch, of the object
/// or, as `change.subresource` says, of a part of it. See [`removed_by_update`] for what then follows.
///
/// # Errors
/// 400 for a namespace or name that does not fit the path, 409 when the object has changed since the client read it, 403
/// and 404 by admission, 422 with every broken rule.
pub fn update(change: &Change<'_>, new: &mut Value, old: &Value) -> Result<Warnings, ApiError> {
    let rules = rules(change.resource);
    let whole = change.subresource.is_empty();
    let mut warnings = Warnings::new();
    value::open(new);
    meta::match_namespace(change, new)?;
    meta::match_name(change, new)?;
    meta::check_version(change, rules.overwrites(), new, old)?;
    meta::dedup_owners(new, &mut warnings);
    rules.defaults(new);
    namespaces::admit(change, new, false)?;
    if whole {
        rules.admit(change, new, Some(old))?;
    }
    meta::keep(new, old);
    if whole {
        rules.allocate(change, new, Some(old))?;
    }
    rules.prepare(change, new, Some(old));
    let mut errors = Errors::default();
    meta::validate(change.resource, |name| rules.name(name), new, Some(old), &mut errors);
    rules.validate(change, new, Some(old), &mut errors);
    if !errors.0.is_empty() {
        return Err(status::invalid_fields(change.resource, change.name, &errors.0));
    }
    if is_pod(change.resource) {
        warnings.extend(pods::update(change, new, old)?);
        return Ok(warnings);
    }
    if whole {
        rules.approve(change, new, Some(old))?;
    }
    warnings.extend(rules.warnings(new, Some(old)));
    Ok(warnings)
}

/// What a deletion makes of a stored object: nothing, a mark, or its end.
///
/// # Errors
/// 403 for what may not be deleted, 409 when the object is not the one that the client means.
pub fn delete(change: &Change<'_>, old: &Value, options: &DeleteOptions) -> Result<Deletion, ApiError> {
    delete::delete(change, rules(change.resource), old, options)
}

/// Whether an update has taken away the last thing a deleted object waited for, so that it is to be removed instead of
/// stored. The client still gets the object.
pub fn removed_by_update(resource: &Resource, new: &Value, old: &Value) -> bool {
    delete::removed_by_update(resource, new, old)
}

/// Whether a PUT to a name that is not there makes the object, instead of being answered with 404.
pub fn created_by_update(resource: &Resource) -> bool {
    rules(resource).created_by_update()
}

/// Whether a deletion that ends the object is answered with it, instead of a `Status`.
pub fn returns_deleted(resource: &Resource) -> bool {
    matches!(
        (resource.group, resource.plural),
        (
            "",
            "namespaces"
                | "persistentvolumeclaims"
                | "persistentvolumes"
                | "pods"
                | "serviceaccounts"
                | "services"
        ) | ("resource.k8s.io" | "storage.k8s.io", _)
    )
}
