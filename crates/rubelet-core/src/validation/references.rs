//! Volumes and claims that refer to other objects: Secrets, ConfigMaps, claims, CSI drivers, tokens.
//!
//! Owns how a reference has to look; whether the object exists is found out when the pod starts.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    CSIVolumeSource, EphemeralVolumeSource, KeyToPath, PersistentVolumeClaimSpec, Pod, PodSpec,
    ProjectedVolumeSource, Volume,
};

use super::field::{Errors, Json, Path};
use super::volumes::{downward_file, local_path, mode};
use super::{names, scheduling, text};
use crate::quantity::Amount;
use crate::static_pod::CONFIG_MIRROR_ANNOTATION;

const SHORTEST_TOKEN_SECONDS: i64 = 600;
const LONGEST_TOKEN_SECONDS: i64 = 1 << 32;

/// One volume source that refers to an object.
pub(super) fn source(errors: &mut Errors, volume: &Volume, kind: &str, path: &Path) {
    match kind {
        "secret" => {
            let Some(secret) = &volume.secret else { return };
            errors.required_text(&path.child("secretName"), text(&secret.secret_name));
            mode(errors, secret.default_mode, &path.child("defaultMode"));
            keys(errors, secret.items.as_deref().unwrap_or_default(), &path.child("items"));
        }
        "configMap" => {
            let Some(config_map) = &volume.config_map else { return };
            errors.required_text(&path.child("name"), &config_map.name);
            mode(errors, config_map.default_mode, &path.child("defaultMode"));
            keys(errors, config_map.items.as_deref().unwrap_or_default(), &path.child("items"));
        }
        "persistentVolumeClaim" => {
            let name = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.as_str());
            errors.required_text(&path.child("claimName"), name.unwrap_or_default());
        }
        "csi" => {
            if let Some(driver) = &volume.csi {
                csi(errors, driver, path);
            }
        }
        "ephemeral" => {
            if let Some(ephemeral) = &volume.ephemeral {
                template(errors, ephemeral, path);
            }
        }
        _ => {}
    }
}

fn keys(errors: &mut Errors, items: &[KeyToPath], path: &Path) {
    for (index, item) in items.iter().enumerate() {
        key(errors, item, &path.index(index));
    }
}

fn key(errors: &mut Errors, item: &KeyToPath, path: &Path) {
    errors.required_text(&path.child("key"), &item.key);
    errors.required_text(&path.child("path"), &item.path);
    local_path(errors, &item.path, &path.child("path"));
    mode(errors, item.mode, &path.child("mode"));
}

fn csi(errors: &mut Errors, source: &CSIVolumeSource, path: &Path) {
    let driver = path.child("driver");
    if source.driver.is_empty() {
        errors.required(&driver, "");
    } else {
        if source.driver.len() > 63 {
            errors.too_long(&driver, 63);
        }
        errors.invalid_each(&driver, &source.driver, names::dns_subdomain(&source.driver.to_lowercase()));
    }
    if let Some(secret) = &source.node_publish_secret_ref {
        match secret.name.as_str() {
            "" => errors.required(&path.child("nodePublishSecretRef").child("name"), ""),
            name => errors.invalid_each(&path.child("name"), name, names::dns_subdomain(name)),
        }
    }
}

fn template(errors: &mut Errors, source: &EphemeralVolumeSource, path: &Path) {
    let path = path.child("volumeClaimTemplate");
    let Some(template) = &source.volume_claim_template else { return errors.required(&path, "") };
    if let Some(metadata) = &template.metadata {
        scheduling::labels(errors, metadata.labels.as_ref(), &path.child("metadata").child("labels"));
        let unsupported = [
            ("name", metadata.name.is_some()),
            ("generateName", metadata.generate_name.is_some()),
            ("namespace", metadata.namespace.is_some()),
            ("ownerReferences", metadata.owner_references.is_some()),
            ("finalizers", metadata.finalizers.is_some()),
        ];
        for (field, _) in unsupported.into_iter().filter(|(_, set)| *set) {
            errors.forbidden(&path.child("metadata").child(field), "cannot be set");
        }
    }
    validate_claim_spec(errors, &template.spec, &path.child("spec"));
}

/// What a claim asks for (upstream `ValidatePersistentVolumeClaimSpec`): the same for claims of their own and for
/// those that a pod brings.
pub fn validate_claim_spec(errors: &mut Errors, spec: &PersistentVolumeClaimSpec, path: &Path) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let modes_path = path.child("accessModes");
    if modes.is_empty() {
        errors.required(&modes_path, "at least 1 access mode is required");
    }
    scheduling::selector(errors, spec.selector.as_ref(), &path.child("selector"));
    let known = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    for mode in modes {
        errors.optional_one_of(&modes_path, Some(mode), &known);
    }
    let single = modes.iter().any(|mode| mode == "ReadWriteOncePod");
    if single && modes.iter().any(|mode| mode != "ReadWriteOncePod" && known.contains(&mode.as_str())) {
        errors.forbidden(&modes_path, "may not use ReadWriteOncePod with other access modes");
    }
    let requested = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("storage"));
    let storage = path.child("resources").key("storage");
    match requested.map(Amount::of) {
        None => errors.required(&storage, ""),
        Some(Ok(amount)) if amount.is_zero() || amount.is_negative() => {
            errors.invalid(&storage, &amount.to_string(), "must be greater than zero");
        }
        Some(Ok(_)) => {}
        Some(Err(error)) => errors.invalid(&storage, "", error.to_string()),
    }
    let classes = [
        ("storageClassName", &spec.storage_class_name),
        ("volumeAttributesClassName", &spec.volume_attributes_class_name),
    ];
    for (field, class) in classes {
        if let Some(class) = class.as_deref().filter(|class| !class.is_empty()) {
            errors.invalid_each(&path.child(field), class, names::dns_subdomain(class));
        }
    }
    let volume_mode = spec.volume_mode.as_deref();
    errors.optional_one_of(&path.child("volumeMode"), volume_mode, &["Block", "Filesystem"]);
}

/// Claims of one name: those that ephemeral volumes bring, and those that volumes refer to.
pub(super) fn claims_of_volumes(errors: &mut Errors, pod: &Pod, spec: &PodSpec, path: &Path) {
    let Some(name) = pod.metadata.name.as_deref().filter(|name| !name.is_empty()) else { return };
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let mut made = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate().filter(|(_, volume)| volume.ephemeral.is_some()) {
        let claim = format!("{name}-{}", volume.name);
        if !volume.name.is_empty() {
            for rule in names::dns_subdomain(&claim) {
                let detail = format!("PVC name {claim:?}: {rule}");
                errors.invalid(&path.index(index).child("name"), &volume.name, detail);
            }
        }
        made.insert(claim);
    }
    for (index, volume) in volumes.iter().enumerate() {
        let Some(claim) = &volume.persistent_volume_claim else { continue };
        if made.contains(&claim.claim_name) {
            let path = path.index(index).child("persistentVolumeClaim").child("claimName");
            let rule = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid(&path, &claim.claim_name, rule);
        }
    }
}

/// The sources of a projected volume.
pub(super) fn projected(errors: &mut Errors, projected: &ProjectedVolumeSource, path: &Path) {
    mode(errors, projected.default_mode, &path.child("defaultMode"));
    let mut taken = BTreeSet::new();
    for (index, source) in projected.sources.iter().flatten().enumerate() {
        let source_path = path.child("sources").index(index);
        let mut count = 0;
        let listed = [
            ("secret", source.secret.as_ref().map(|s| (s.name.as_str(), s.items.as_deref()))),
            ("configMap", source.config_map.as_ref().map(|c| (c.name.as_str(), c.items.as_deref()))),
        ];
        for (kind, found) in listed {
            let Some((name, items)) = found else { continue };
            count += 1;
            let kind_path = source_path.child(kind);
            errors.required_text(&kind_path.child("name"), name);
            for (index, item) in items.unwrap_or_default().iter().enumerate() {
                key(errors, item, &kind_path.child("items").index(index));
                if !item.path.is_empty() && !taken.insert(item.path.clone()) {
                    errors.invalid(path, name, "conflicting duplicate paths");
                }
            }
        }
        if let Some(downward) = &source.downward_api {
            count += 1;
            for file in downward.items.iter().flatten() {
                downward_file(errors, file, &source_path.child("downwardAPI"));
                if !file.path.is_empty() && !taken.insert(file.path.clone()) {
                    errors.invalid(path, &file.path, "conflicting duplicate paths");
                }
            }
        }
        if let Some(token) = &source.service_account_token {
            count += 1;
            let seconds_path = source_path.child("serviceAccountToken").child("expirationSeconds");
            let seconds = token.expiration_seconds.unwrap_or_default();
            if seconds < SHORTEST_TOKEN_SECONDS {
                errors.invalid(&seconds_path, &seconds, "may not specify a duration less than 10 minutes");
            }
            if seconds > LONGEST_TOKEN_SECONDS {
                errors.invalid(
                    &seconds_path,
                    &seconds,
                    "may not specify a duration larger than 2^32 seconds",
                );
            }
            // Upstream points at the volume, not at the source.
            match token.path.as_str() {
                "" => errors.required(&path.child("path"), ""),
                file => local_path(errors, file, &path.child("path")),
            }
        }
        count += usize::from(source.cluster_trust_bundle.is_some());
        count += usize::from(source.pod_certificate.is_some());
        if count > 1 {
            errors.forbidden(&source_path, "may not specify more than 1 volume type per source");
        }
    }
}

/// A token is somebody's: without a service account there can be none.
pub(super) fn tokens_need_an_account(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    if !spec.service_account_name.as_deref().unwrap_or_default().is_empty() {
        return;
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for (source, _) in sources.enumerate().filter(|(_, source)| source.service_account_token.is_some()) {
            let path = path.child("volumes").index(index).child("projected").child("sources").index(source);
            let rule = "must not be specified when serviceAccountName is not set";
            errors.forbidden(&path.child("serviceAccountToken"), rule);
        }
    }
}

/// The resource claims of a pod (KEP-4381).
pub(super) fn resource_claims(errors: &mut Errors, pod: &Pod, spec: &PodSpec, path: &Path) {
    let annotations = pod.metadata.annotations.as_ref();
    let mirror = annotations.is_some_and(|annotations| annotations.contains_key(CONFIG_MIRROR_ANNOTATION));
    let mut seen = BTreeSet::new();
    for (index, claim) in spec.resource_claims.iter().flatten().enumerate() {
        if mirror {
            // How upstream prints the path of no field.
            errors.forbidden(&Path::new("[]"), "static pods do not support resource claims");
            continue;
        }
        let path = path.index(index);
        let name_path = path.child("name");
        if claim.name.is_empty() {
            errors.required(&name_path, "");
        } else if !seen.insert(claim.name.as_str()) {
            errors.duplicate(&name_path, &claim.name);
        } else {
            errors.invalid_each(&name_path, &claim.name, names::dns_label(&claim.name));
        }
        match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => {
                let rule =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.invalid(&path, &Json(claim), rule);
            }
            (None, None) => {
                let rule = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.invalid(&path, &Json(claim), rule);
            }
            _ => {}
        }
        let references = [
            ("resourceClaimName", &claim.resource_claim_name),
            ("resourceClaimTemplateName", &claim.resource_claim_template_name),
        ];
        for (field, reference) in references {
            if let Some(reference) = reference {
                errors.invalid_each(&path.child(field), reference, names::dns_subdomain(reference));
            }
        }
    }
}
