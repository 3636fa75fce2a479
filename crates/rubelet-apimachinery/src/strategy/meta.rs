//! The rules that objects of all kinds share: names, what the server alone writes, versions, owners, finalizers.
//!
//! After `rest.BeforeCreate`, `rest.BeforeUpdate`, `ValidateObjectMeta` and the generic store's `Update`. Knows no kind.

use std::collections::BTreeSet;

use rubelet_core::validation::field::{Errors, Json, Path};
use rubelet_core::validation::names;
use serde_json::{Value, json};

use super::value::{at, copy, entries, has, items, remove, set, text, texts};
use super::{Change, Warnings, checks};
use crate::kinds::Resource;
use crate::status::{self, ApiError};

/// All annotations of an object together, keys and values.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;
/// The longest name that is generated, and how much of it is random.
const GENERATED_LENGTH: usize = 63;
const RANDOM_LENGTH: usize = 5;

/// A time as metadata says it: whole seconds.
pub(crate) fn time(at: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// Whether the object is being deleted.
pub(crate) fn is_deleted(object: &Value) -> bool {
    !text(object, &["metadata", "deletionTimestamp"]).is_empty()
}

/// The generation; 0 where there is none.
pub(crate) fn generation(object: &Value) -> i64 {
    at(object, &["metadata", "generation"]).as_i64().unwrap_or(0)
}

/// The namespace of the object is that of the path: one left out is filled in, another is refused.
pub(crate) fn match_namespace(change: &Change<'_>, object: &mut Value) -> Result<(), ApiError> {
    let expected = if change.resource.namespaced { change.namespace } else { "" };
    let given = text(object, &["metadata", "namespace"]);
    if given == expected {
        return Ok(());
    }
    if expected.is_empty() {
        remove(object, &["metadata", "namespace"]);
        return Ok(());
    }
    if !given.is_empty() {
        return Err(status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    set(object, &["metadata", "namespace"], expected);
    Ok(())
}

/// The name of the object is that of the path.
pub(crate) fn match_name(change: &Change<'_>, object: &Value) -> Result<(), ApiError> {
    let (given, expected) = (text(object, &["metadata", "name"]), change.name);
    if given.is_empty() {
        return Err(status::bad_request(format!(
            "the name of the object ({expected} based on URL) was undeterminable: name must be provided"
        )));
    }
    if given != expected {
        return Err(status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({expected})"
        )));
    }
    Ok(())
}

/// Owners that are listed twice are listed once; says so, since it is a client's mistake.
pub(crate) fn dedup_owners(object: &mut Value, warnings: &mut Warnings) {
    let Some(Value::Array(owners)) = object.pointer_mut("/metadata/ownerReferences") else { return };
    // Lists can be as long as a request's body, so none is searched item by item.
    let mut seen = BTreeSet::new();
    let mut doubled = BTreeSet::new();
    owners.retain(|owner| {
        let is_new = seen.insert(owner.to_string());
        if !is_new {
            doubled.insert(owner["uid"].as_str().unwrap_or_default().to_owned());
        }
        is_new
    });
    if !doubled.is_empty() {
        let uids: Vec<String> = doubled.into_iter().collect();
        warnings.push(format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and \
             may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            uids.join(", ")
        ));
    }
}

/// Drops what a client may not say of a new object.
pub(crate) fn wipe(object: &mut Value) {
    for field in [
        "creationTimestamp",
        "uid",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
    ] {
        remove(object, &["metadata", field]);
    }
}

/// Gives a new object its name, its UID and its birth.
pub(crate) fn fill(change: &Change<'_>, object: &mut Value) {
    set(object, &["metadata", "uid"], (change.uid)());
    set(object, &["metadata", "creationTimestamp"], time(change.now));
    let base = text(object, &["metadata", "generateName"]);
    if !base.is_empty() && text(object, &["metadata", "name"]).is_empty() {
        let mut end = base.len().min(GENERATED_LENGTH - RANDOM_LENGTH);
        while !base.is_char_boundary(end) {
            end -= 1;
        }
        let name = format!("{}{}", base.get(..end).unwrap_or_default(), (change.random)(RANDOM_LENGTH));
        set(object, &["metadata", "name"], name);
    }
}

/// A new object has no version yet.
pub(crate) fn check_no_version(object: &Value) -> Result<(), ApiError> {
    match text(object, &["metadata", "resourceVersion"]) {
        "" | "0" => Ok(()),
        // kube-apiserver has no better code for it either.
        _ => Err(ApiError::new(500, "", "resourceVersion should not be set on objects to be created")),
    }
}

/// The object is still the one that the client means: UID and resource version, if given, are those of the stored one.
pub(crate) fn check_version(
    change: &Change<'_>,
    overwrites: bool,
    new: &mut Value,
    old: &Value,
) -> Result<(), ApiError> {
    let (given, stored) = (text(new, &["metadata", "uid"]), text(old, &["metadata", "uid"]));
    if !given.is_empty() && given != stored {
        return Err(uid_conflict(change, given, stored));
    }
    let stored = text(old, &["metadata", "resourceVersion"]);
    match text(new, &["metadata", "resourceVersion"]) {
        "" | "0" if overwrites => copy(new, old, &["metadata", "resourceVersion"]),
        "" | "0" => {
            let mut errors = Errors::default();
            let path = Path::new("metadata").child("resourceVersion");
            errors.invalid(&path, &0i64, "must be specified for an update");
            // kube-apiserver names the resource here, where everywhere else it names the kind.
            let named = Resource { kind: change.resource.plural, ..*change.resource };
            return Err(status::invalid_fields(&named, change.name, &errors.0));
        }
        given if given != stored => return Err(status::modified(change.resource, change.name)),
        _ => {}
    }
    Ok(())
}

/// An update or a deletion of an object that has been deleted and made again since.
fn uid_conflict(change: &Change<'_>, given: &str, stored: &str) -> ApiError {
    let Change { resource, namespace, name, .. } = change;
    let below = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{}/{below}{name}, ResourceVersion: 0, \
         AdditionalErrorMsg: Precondition failed: UID in precondition: {given}, UID in object meta: {stored}",
        resource.plural
    );
    status::conflict(resource, name, &why)
}

/// Takes over from the stored object what an update cannot change.
pub(crate) fn keep(new: &mut Value, old: &Value) {
    for field in ["generation", "uid", "creationTimestamp"] {
        copy(new, old, &["metadata", field]);
    }
    remove(new, &["metadata", "selfLink"]);
    if is_deleted(old) {
        copy(new, old, &["metadata", "deletionTimestamp"]);
        if !has(new, &["metadata", "deletionGracePeriodSeconds"]) {
            copy(new, old, &["metadata", "deletionGracePeriodSeconds"]);
        }
    }
}

/// A status write that may not touch metadata at all, besides who manages what (`ResetObjectMetaForStatus`).
pub(crate) fn keep_for_status(new: &mut Value, old: &Value) {
    for field in [
        "deletionTimestamp",
        "generation",
        "selfLink",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
    ] {
        copy(new, old, &["metadata", field]);
    }
}

/// The generation of a new object, or of one whose desired state has changed.
pub(crate) fn count_generation(new: &mut Value, old: Option<&Value>, changed: bool) {
    match old {
        None => set(new, &["metadata", "generation"], 1),
        Some(old) if changed => set(new, &["metadata", "generation"], generation(old) + 1),
        Some(_) => {}
    }
}

/// Every broken rule of a new object's metadata, or of an updated one's.
pub(crate) fn validate(
    resource: &Resource,
    name_rule: impl Fn(&str) -> Vec<String>,
    new: &Value,
    old: Option<&Value>,
    errors: &mut Errors,
) {
    let path = Path::new("metadata");
    let metadata = &new["metadata"];
    match old {
        None => validate_names(&path, metadata, &name_rule, errors),
        Some(old) => validate_change(&path, metadata, &old["metadata"], errors),
    }
    if resource.namespaced {
        match text(metadata, &["namespace"]) {
            "" => errors.required(&path.child("namespace"), ""),
            namespace => {
                errors.invalid_each(&path.child("namespace"), namespace, names::dns_label(namespace));
            }
        }
    }
    checks::labels(errors, &path.child("labels"), &metadata["labels"]);
    validate_annotations(&path.child("annotations"), metadata, errors);
    validate_owners(&path.child("ownerReferences"), metadata, errors);
    validate_finalizers(&path.child("finalizers"), metadata, errors);
}

fn validate_names(
    path: &Path,
    metadata: &Value,
    name_rule: &impl Fn(&str) -> Vec<String>,
    errors: &mut Errors,
) {
    let generate = text(metadata, &["generateName"]);
    if !generate.is_empty() {
        errors.invalid_each(&path.child("generateName"), generate, name_rule(&masked(generate)));
    }
    match text(metadata, &["name"]) {
        "" => errors.required(&path.child("name"), "name or generateName is required"),
        name => {
            let mut broken = name_rule(name);
            if broken.is_empty() {
                broken = checks::path_segment(name);
            }
            errors.invalid_each(&path.child("name"), name, broken);
        }
    }
}

/// What follows replaces a dash at the end, so a letter is looked at in its place.
fn masked(generate: &str) -> String {
    match generate.strip_suffix('-').and_then(|rest| rest.char_indices().next_back()) {
        Some((at, _)) => format!("{}a", generate.get(..at).unwrap_or_default()),
        None => generate.to_owned(),
    }
}

fn validate_change(path: &Path, new: &Value, old: &Value, errors: &mut Errors) {
    if has(old, &["deletionTimestamp"]) {
        let before: BTreeSet<&str> = texts(old, &["finalizers"]).collect();
        let added: BTreeSet<&str> = texts(new, &["finalizers"]).filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let listed: Vec<String> = added.iter().map(|finalizer| format!("{finalizer:?}")).collect();
            errors.forbidden(
                &path.child("finalizers"),
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    listed.join(", ")
                ),
            );
        }
    }
    for field in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        checks::immutable(errors, &path.child(field), &new[field], &old[field]);
    }
}

fn validate_annotations(path: &Path, metadata: &Value, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in entries(metadata, &["annotations"]) {
        errors.invalid_each(path, key, names::qualified_name(&key.to_lowercase()));
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > ANNOTATIONS_LIMIT {
        errors.too_long(path, ANNOTATIONS_LIMIT);
    }
}

fn validate_owners(path: &Path, metadata: &Value, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    let mut is_told = false;
    let owners = &metadata["ownerReferences"];
    for owner in items(metadata, &["ownerReferences"]) {
        for (field, rule) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, &[field]).is_empty() {
                errors.invalid(&path.child(field), "", rule);
            }
        }
        let (api_version, kind) = (text(owner, &["apiVersion"]), text(owner, &["kind"]));
        if api_version == "v1" && kind == "Event" {
            errors.invalid(path, &Json(owner), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner["controller"] == json!(true) {
            let this = format!("{kind}/{}", text(owner, &["name"]));
            match &controller {
                None => controller = Some(this),
                // Shows the whole list, so once is enough however many there are.
                Some(_) if is_told => {}
                Some(first) => {
                    is_told = true;
                    errors.invalid(
                        path,
                        &Json(owners),
                        format!(
                            "Only one reference can have Controller set to true. Found \"true\" in references for \
                             {first} and {this}"
                        ),
                    );
                }
            }
        }
    }
}

fn validate_finalizers(path: &Path, metadata: &Value, errors: &mut Errors) {
    for (index, finalizer) in texts(metadata, &["finalizers"]).enumerate() {
        errors.invalid_each(path, finalizer, names::qualified_name(finalizer));
        checks::standard_finalizer(errors, &path.index(index), finalizer);
    }
    let both = ["foregroundDeletion", "orphan"]
        .iter()
        .all(|finalizer| texts(metadata, &["finalizers"]).any(|there| there == *finalizer));
    if both {
        let rule = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid(path, &Json(&metadata["finalizers"]), rule);
    }
}
