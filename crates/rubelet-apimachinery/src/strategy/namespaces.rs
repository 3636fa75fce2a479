//! Namespaces, and what they decide about the objects in them.
//!
//! After upstream's namespace strategies and storage, and the NamespaceLifecycle admission. Emptying a namespace is a
//! controller's work.

use rubelet_core::validation::field::{Errors, Path};
use rubelet_core::validation::names;
use serde_json::{Value, json};

use super::delete::{DeleteOptions, Deletion, set_finalizers};
use super::rules::Rules;
use super::value::{copy, has, items, set, text, texts};
use super::{Change, checks, meta};
use crate::kinds::{Resource, by_kind};
use crate::status::{self, ApiError};

/// Namespaces that nobody can delete.
const IMMORTAL: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// The finalizer that the namespace controller takes away once the namespace is empty.
pub(crate) const FINALIZER: &str = "kubernetes";
/// The label that says a namespace's name.
pub(crate) const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Whether objects of this resource are namespaces.
pub(crate) fn is_namespace(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "namespaces"
}

/// Refuses to delete the namespaces that have to be there.
pub(crate) fn check_mortal(change: &Change<'_>) -> Result<(), ApiError> {
    if IMMORTAL.contains(&change.name) {
        return Err(status::forbidden(change.resource, change.name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// Objects are made and changed only in namespaces that are there, and made only in those that stay.
pub(crate) fn admit(change: &Change<'_>, object: &Value, create: bool) -> Result<(), ApiError> {
    if !change.resource.namespaced {
        return Ok(());
    }
    let Some(namespaces) = by_kind("v1", "Namespace") else { return Ok(()) };
    let Some(namespace) = change.lookup.get(namespaces, "", change.namespace) else {
        return Err(status::not_found(namespaces, change.namespace));
    };
    if !create || text(&namespace, &["status", "phase"]) != "Terminating" {
        return Ok(());
    }
    let name = text(object, &["metadata", "name"]);
    let why = format!(
        "unable to create new content in namespace {} because it is being terminated",
        change.namespace
    );
    let mut error = status::forbidden(change.resource, name, &why);
    error.details["causes"] = json!([{
        "reason": "NamespaceTerminating",
        "message": format!("namespace {} is being terminated", change.namespace),
        "field": "metadata.namespace",
    }]);
    Err(error)
}

/// The first deletion marks a namespace; later ones wait until it is empty, and then go on as for any object.
pub(crate) fn delete(change: &Change<'_>, old: &Value, options: &DeleteOptions) -> Option<Deletion> {
    if meta::is_deleted(old) {
        let occupied = !items(old, &["spec", "finalizers"]).is_empty();
        return occupied.then(|| Deletion::Unchanged(old.clone()));
    }
    let mut new = old.clone();
    set(&mut new, &["metadata", "deletionTimestamp"], meta::time(change.now));
    set(&mut new, &["status", "phase"], "Terminating");
    set_finalizers(&mut new, options);
    Some(Deletion::Mark(new))
}

/// The rules of namespaces.
pub(crate) struct Namespaces;

impl Rules for Namespaces {
    fn name(&self, name: &str) -> Vec<String> {
        names::dns_label(name)
    }

    fn prepare(&self, change: &Change<'_>, new: &mut Value, old: Option<&Value>) {
        match (old, change.subresource) {
            (None, _) => {
                set(new, &["status"], json!({"phase": "Active"}));
                let mut finalizers: Vec<&str> = texts(new, &["spec", "finalizers"]).collect();
                if !finalizers.contains(&FINALIZER) {
                    finalizers.push(FINALIZER);
                }
                let finalizers = json!(finalizers);
                set(new, &["spec", "finalizers"], finalizers);
            }
            (Some(old), "status") => copy(new, old, &["spec"]),
            (Some(old), "finalize") => copy(new, old, &["status"]),
            (Some(old), _) => {
                copy(new, old, &["spec", "finalizers"]);
                copy(new, old, &["status"]);
            }
        }
        if !has(new, &["spec"]) {
            set(new, &["spec"], json!({}));
        }
        let name = text(new, &["metadata", "name"]).to_owned();
        set(new, &["metadata", "labels", NAME_LABEL], name);
    }

    fn validate(&self, change: &Change<'_>, new: &Value, _: Option<&Value>, errors: &mut Errors) {
        let path = Path::new("spec").child("finalizers");
        for (index, finalizer) in texts(new, &["spec", "finalizers"]).enumerate() {
            let path = if change.subresource == "finalize" { path.index(index) } else { path.clone() };
            errors.invalid_each(&path, finalizer, names::qualified_name(finalizer));
            checks::standard_finalizer(errors, &path, finalizer);
        }
        if change.subresource == "status" {
            let phase = text(new, &["status", "phase"]);
            let path = Path::new("status").child("Phase");
            match meta::is_deleted(new) {
                false if phase != "Active" => {
                    errors.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
                }
                true if phase != "Terminating" => {
                    errors.invalid(
                        &path,
                        phase,
                        "may only be 'Terminating' if `deletionTimestamp` is not empty",
                    );
                }
                _ => {}
            }
        }
    }
}
