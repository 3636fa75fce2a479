//! PersistentVolumes, PersistentVolumeClaims and StorageClasses.
//!
//! With the admissions that belong to them: the default class of claims, the finalizers that protect what is in use, and
//! that only what can grow is made larger. Binding and provisioning are controllers' work.

use k8s_openapi::api::core::v1::PersistentVolumeClaimSpec;
use rubelet_core::validation::field::{Errors, Json, Path};
use rubelet_core::validation::{names, validate_claim_spec};
use serde_json::{Value, json};

use super::rules::Rules;
use super::value::{at, copy, entries, has, items, remove, set, set_default, text, texts};
use super::{Change, checks, meta};
use crate::kinds::find;
use crate::status::{self, ApiError};

/// Says which class is taken by claims that name none.
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// How claims named their class once.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
/// What a volume's spec says besides where it is.
const NO_SOURCE: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// Keeps an object while it is in use.
fn protect(object: &mut Value, finalizer: &str) {
    let mut finalizers: Vec<String> = texts(object, &["metadata", "finalizers"]).map(str::to_owned).collect();
    if !finalizers.iter().any(|there| there == finalizer) {
        finalizers.push(finalizer.to_owned());
        set(object, &["metadata", "finalizers"], finalizers);
    }
}

fn validate_modes(spec: &Value, path: &Path, errors: &mut Errors) {
    let modes: Vec<&str> = texts(spec, &["accessModes"]).collect();
    for mode in &modes {
        errors.optional_one_of(path, Some(mode), ACCESS_MODES);
    }
    let single = "ReadWriteOncePod";
    if modes.contains(&single) && modes.iter().any(|mode| *mode != single && ACCESS_MODES.contains(mode)) {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// The rules of PersistentVolumes.
pub(crate) struct Volumes;

impl Rules for Volumes {
    fn defaults(&self, volume: &mut Value) {
        set_default(volume, &["spec", "persistentVolumeReclaimPolicy"], "Retain");
        set_default(volume, &["spec", "volumeMode"], "Filesystem");
        set_default(volume, &["status", "phase"], "Pending");
        if has(volume, &["spec", "hostPath"]) && !has(volume, &["spec", "hostPath", "type"]) {
            set(volume, &["spec", "hostPath", "type"], "");
        }
    }

    fn admit(&self, _: &Change<'_>, new: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        if old.is_none() {
            protect(new, "kubernetes.io/pv-protection");
        }
        Ok(())
    }

    fn prepare(&self, change: &Change<'_>, new: &mut Value, old: Option<&Value>) {
        let now = meta::time(change.now);
        match old {
            None => set(new, &["status"], json!({"phase": "Pending", "lastPhaseTransitionTime": now})),
            Some(old) if change.subresource == "status" => {
                copy(new, old, &["spec"]);
                let at = &["status", "lastPhaseTransitionTime"];
                if new["status"]["phase"] == old["status"]["phase"] {
                    if !has(new, at) {
                        copy(new, old, at);
                    }
                } else if !has(new, at) || new["status"][at[1]] == old["status"][at[1]] {
                    set(new, at, now);
                }
            }
            Some(old) => copy(new, old, &["status"]),
        }
    }

    fn validate(&self, change: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        if change.subresource == "status" {
            return;
        }
        let path = Path::new("spec");
        validate_volume(&new["spec"], &path, errors);
        let Some(old) = old else { return };
        if source(&new["spec"]) != source(&old["spec"]) {
            errors.forbidden(
                &path.child("persistentvolumesource"),
                "spec.persistentvolumesource is immutable after creation",
            );
        }
        checks::immutable(
            errors,
            &Path::new("volumeMode"),
            &new["spec"]["volumeMode"],
            &old["spec"]["volumeMode"],
        );
        if has(old, &["spec", "nodeAffinity"]) && new["spec"]["nodeAffinity"] != old["spec"]["nodeAffinity"] {
            let rule = "field is immutable, except for updating from beta label to GA";
            errors.invalid(&Path::new("nodeAffinity"), &Json(&new["spec"]["nodeAffinity"]), rule);
        }
        let class = &["spec", "volumeAttributesClassName"];
        if has(old, class) && !has(new, class) {
            let rule = "update from non-nil value to nil is forbidden";
            errors.forbidden(&path.child("volumeAttributesClassName"), rule);
        }
    }
}

/// Where the volume is; the one change allowed is left out.
fn source(spec: &Value) -> Vec<(String, Value)> {
    sources(spec)
        .map(|(kind, source)| {
            let mut source = source.clone();
            remove(&mut source, &["controllerExpandSecretRef"]);
            (kind.to_owned(), source)
        })
        .collect()
}

fn sources(spec: &Value) -> impl Iterator<Item = (&str, &Value)> {
    entries(spec, &[]).filter(|(field, value)| !NO_SOURCE.contains(field) && !value.is_null())
}

fn validate_volume(spec: &Value, path: &Path, errors: &mut Errors) {
    let modes = path.child("accessModes");
    if items(spec, &["accessModes"]).is_empty() {
        errors.required(&modes, "");
    }
    validate_modes(spec, &modes, errors);
    let capacity = path.child("capacity");
    let amounts: Vec<(&str, &Value)> = entries(spec, &["capacity"]).collect();
    if amounts.is_empty() {
        errors.required(&capacity, "");
    }
    if amounts.iter().all(|(name, _)| *name != "storage") || amounts.len() > 1 {
        errors.unsupported(&capacity, &at(spec, &["capacity"]).to_string(), &["storage"]);
    }
    for (name, quantity) in amounts {
        checks::positive_quantity(errors, &capacity.key(name), quantity);
    }
    let reclaim = spec["persistentVolumeReclaimPolicy"].as_str();
    let reclaim_path = path.child("persistentVolumeReclaimPolicy");
    errors.optional_one_of(&reclaim_path, reclaim, &["Delete", "Recycle", "Retain"]);
    if has(spec, &["nodeAffinity"]) {
        let path = path.child("nodeAffinity").child("required");
        if has(spec, &["nodeAffinity", "required"]) {
            checks::node_selector(errors, &path, at(spec, &["nodeAffinity", "required"]));
        } else {
            errors.required(&path, "must specify required node constraints");
        }
    }
    let mut kinds = sources(spec);
    match kinds.next() {
        None => errors.required(path, "must specify a volume type"),
        Some((kind, source)) => validate_source(spec, kind, source, path, errors),
    }
    for (kind, _) in kinds {
        errors.forbidden(&path.child(kind), "may not specify more than 1 volume type");
    }
    if text(spec, &["hostPath", "path"]).trim_matches('/').is_empty()
        && has(spec, &["hostPath"])
        && reclaim == Some("Recycle")
    {
        errors.forbidden(&reclaim_path, "may not be 'recycle' for a hostPath mount of '/'");
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let class = text(spec, &[field]);
        if !class.is_empty() {
            errors.invalid_each(&path.child(field), class, names::dns_subdomain(class));
        }
    }
    errors.optional_one_of(&path.child("volumeMode"), spec["volumeMode"].as_str(), VOLUME_MODES);
}

/// What the kinds of volumes that a node can mount must say.
fn validate_source(spec: &Value, kind: &str, source: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child(kind);
    let need: &[&str] = match kind {
        "hostPath" | "local" => &["path"],
        "nfs" => &["server", "path"],
        "csi" => &["volumeHandle"],
        _ => &[],
    };
    for field in need {
        if text(source, &[field]).is_empty() {
            errors.required(&at.child(field), "");
        }
    }
    let location = text(source, &["path"]);
    if matches!(kind, "hostPath" | "local") && location.split('/').any(|part| part == "..") {
        errors.invalid(&at.child("path"), location, "must not contain '..'");
    }
    match kind {
        "hostPath" => {
            let known = [
                "",
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ];
            errors.optional_one_of(&at.child("type"), source["type"].as_str(), &known);
        }
        "nfs" if !location.is_empty() && !location.starts_with('/') => {
            errors.invalid(&at.child("path"), location, "must be an absolute path");
        }
        "local" if !has(spec, &["nodeAffinity"]) => {
            errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
        }
        "csi" => checks::csi_driver_name(errors, &at.child("driver"), text(source, &["driver"])),
        _ => {}
    }
}

/// The rules of PersistentVolumeClaims.
pub(crate) struct Claims;

impl Rules for Claims {
    fn defaults(&self, claim: &mut Value) {
        set_default(claim, &["spec", "volumeMode"], "Filesystem");
        set_default(claim, &["status", "phase"], "Pending");
    }

    fn admit(&self, change: &Change<'_>, new: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        if old.is_some() {
            return Ok(());
        }
        protect(new, "kubernetes.io/pvc-protection");
        let named = has(new, &["spec", "storageClassName"])
            || has(new, &["metadata", "annotations", CLASS_ANNOTATION]);
        if !named && let Some(class) = default_class(change) {
            set(new, &["spec", "storageClassName"], class);
        }
        Ok(())
    }

    fn prepare(&self, change: &Change<'_>, new: &mut Value, old: Option<&Value>) {
        match old {
            None => set(new, &["status"], json!({"phase": "Pending"})),
            Some(old) if change.subresource == "status" => return copy(new, old, &["spec"]),
            Some(old) => copy(new, old, &["status"]),
        }
        normalize_sources(new);
    }

    fn validate(&self, change: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        if change.subresource == "status" {
            for (name, quantity) in entries(new, &["status", "capacity"]) {
                checks::quantity(errors, &Path::new("status").child("capacity").key(name), quantity);
            }
            return;
        }
        let path = Path::new("spec");
        match rubelet_core::json::from_value::<PersistentVolumeClaimSpec>(&new["spec"]) {
            Ok(spec) => validate_claim_spec(errors, &spec, &path),
            Err(error) => errors.invalid(&path, &Json(&new["spec"]), error.to_string()),
        }
        for field in ["dataSource", "dataSourceRef"] {
            validate_data_source(&new["spec"][field], &path.child(field), errors);
        }
        if let Some(old) = old {
            validate_claim_change(new, old, &path, errors);
        }
    }

    fn approve(&self, change: &Change<'_>, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let Some(old) = old else { return Ok(()) };
        if requested(new) <= requested(old) {
            return Ok(());
        }
        let refuse = |why: &str| Err(status::forbidden(change.resource, change.name, why));
        if text(old, &["status", "phase"]) != "Bound" {
            return refuse("Only bound persistent volume claims can be expanded");
        }
        let class = match text(new, &["metadata", "annotations", CLASS_ANNOTATION]) {
            "" => text(new, &["spec", "storageClassName"]),
            class => class,
        };
        let grows = find("storage.k8s.io", "v1", "storageclasses")
            .and_then(|classes| change.lookup.get(classes, "", class))
            .is_some_and(|class| class["allowVolumeExpansion"] == true);
        if grows {
            return Ok(());
        }
        refuse(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support \
             resize",
        )
    }
}

/// The newest class that is marked as default; the first by name of those of one age.
fn default_class(change: &Change<'_>) -> Option<String> {
    let classes = change.lookup.list(find("storage.k8s.io", "v1", "storageclasses")?, "");
    let is_default = |class: &&Value| {
        DEFAULT_CLASS.iter().any(|annotation| text(class, &["metadata", "annotations", annotation]) == "true")
    };
    let age = |class: &Value| text(class, &["metadata", "creationTimestamp"]).to_owned();
    let name = |class: &Value| text(class, &["metadata", "name"]).to_owned();
    let newest = classes
        .iter()
        .filter(is_default)
        .min_by(|a, b| age(b).cmp(&age(a)).then_with(|| name(a).cmp(&name(b))))?;
    Some(name(newest))
}

fn requested(claim: &Value) -> rubelet_core::quantity::Amount {
    let quantity = at(claim, &["spec", "resources", "requests", "storage"]);
    checks::amount(quantity).unwrap_or(rubelet_core::quantity::Amount::ZERO)
}

/// The old and the new field for what a volume is filled with say the same.
fn normalize_sources(claim: &mut Value) {
    let simple = at(claim, &["spec", "dataSourceRef", "namespace"]).is_null();
    match (has(claim, &["spec", "dataSource"]), has(claim, &["spec", "dataSourceRef"])) {
        (true, false) => {
            let source = claim["spec"]["dataSource"].clone();
            set(claim, &["spec", "dataSourceRef"], source);
        }
        (false, true) if simple => {
            let source = claim["spec"]["dataSourceRef"].clone();
            let group = text(&source, &["apiGroup"]);
            let copied = match text(&source, &["kind"]) {
                "PersistentVolumeClaim" => group.is_empty(),
                "VolumeSnapshot" => group == "snapshot.storage.k8s.io",
                _ => false,
            };
            if copied {
                set(claim, &["spec", "dataSource"], source);
            }
        }
        _ => {}
    }
}

fn validate_data_source(source: &Value, path: &Path, errors: &mut Errors) {
    if source.is_null() {
        return;
    }
    for field in ["name", "kind"] {
        if text(source, &[field]).is_empty() {
            errors.required(&path.child(field), "");
        }
    }
    let (group, kind) = (text(source, &["apiGroup"]), text(source, &["kind"]));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        errors.invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
    if !group.is_empty() {
        errors.invalid_each(&path.child("apiGroup"), group, names::dns_subdomain(group));
    }
}

fn validate_claim_change(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    let (mut after, mut before) = (new["spec"].clone(), old["spec"].clone());
    if text(&before, &["volumeName"]).is_empty() {
        copy(&mut before, &after, &["volumeName"]);
    }
    if !has(&before, &["storageClassName"]) {
        let annotated = at(old, &["metadata", "annotations", CLASS_ANNOTATION]);
        if annotated.is_null() || after["storageClassName"] == *annotated {
            copy(&mut before, &after, &["storageClassName"]);
        }
    }
    if text(new, &["status", "phase"]) == "Bound" {
        for changing in [&["resources", "requests", "storage"][..], &["volumeAttributesClassName"]] {
            copy(&mut after, &before, changing);
        }
    }
    if after != before {
        errors.forbidden(
            path,
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    if requested(new) < requested(old) {
        let capacity = checks::amount(at(old, &["status", "capacity", "storage"]));
        if capacity.is_some_and(|capacity| requested(new) <= capacity) {
            let path = path.child("resources").child("requests").child("storage");
            errors.forbidden(&path, "field can not be less than status.capacity");
        }
    }
    checks::immutable(
        errors,
        &Path::new("volumeMode"),
        &new["spec"]["volumeMode"],
        &old["spec"]["volumeMode"],
    );
}

/// The rules of StorageClasses.
pub(crate) struct StorageClasses;

impl Rules for StorageClasses {
    fn defaults(&self, class: &mut Value) {
        set_default(class, &["reclaimPolicy"], "Delete");
        set_default(class, &["volumeBindingMode"], "Immediate");
    }

    fn validate(&self, _: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        let provisioner = text(new, &["provisioner"]);
        if provisioner.is_empty() {
            errors.required(&Path::new("provisioner"), "");
        } else {
            checks::qualified(errors, &Path::new("provisioner"), &provisioner.to_lowercase());
        }
        let parameters: Vec<(&str, &Value)> = entries(new, &["parameters"]).collect();
        let path = Path::new("parameters");
        if parameters.len() > 512 {
            errors.too_long(&path, 512);
        } else {
            let size: usize =
                parameters.iter().map(|(k, v)| k.len() + v.as_str().unwrap_or_default().len()).sum();
            if parameters.iter().any(|(key, _)| key.is_empty()) {
                errors.invalid(&path, "", "field can not be empty.");
            }
            if size > 256 * 1024 {
                errors.too_long(&path, 256 * 1024);
            }
        }
        let reclaim = new["reclaimPolicy"].as_str();
        errors.optional_one_of(&Path::new("reclaimPolicy"), reclaim, &["Delete", "Retain"]);
        let binding = new["volumeBindingMode"].as_str();
        errors.one_of(&Path::new("volumeBindingMode"), binding, &["Immediate", "WaitForFirstConsumer"]);
        let Some(old) = old else { return };
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            checks::immutable(errors, &Path::new(field), &new[field], &old[field]);
        }
    }
}
