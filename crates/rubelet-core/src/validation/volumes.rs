//! Volumes and their mounts: exactly one source each, paths that stay inside, names that exist.
//!
//! Owns the rules of sources that a node can serve without the API, and of mounts; sources that refer to API objects
//! are in `references`, those of kinds that drivers stand in for in `disks`. Of sources that nobody serves any more only
//! their presence is looked at.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, HostPathVolumeSource, Volume, VolumeMount,
};

use super::field::{Errors, Path};
use super::{Facts, disks, env, names, references, text};
use crate::quantity::Amount;

/// Pod fields that a downward API file may show, beside single labels and annotations.
const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

const MODE_RULE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Checks all volumes; returns those that are valid, by name, for the mounts to refer to.
pub(super) fn validate<'a>(
    errors: &mut Errors,
    volumes: &'a [Volume],
    path: &Path,
) -> BTreeMap<&'a str, &'a Volume> {
    let mut valid = BTreeMap::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let before = errors.0.len();
        source(errors, volume, &path);
        match volume.name.as_str() {
            "" => errors.required(&path.child("name"), ""),
            name => errors.invalid_each(&path.child("name"), name, names::dns_label(name)),
        }
        if valid.contains_key(volume.name.as_str()) {
            errors.duplicate(&path.child("name"), &volume.name);
        }
        if errors.0.len() == before {
            valid.insert(volume.name.as_str(), volume);
        }
    }
    valid
}

fn source(errors: &mut Errors, volume: &Volume, path: &Path) {
    // Upstream's order decides which of several sources counts as the first.
    let present = [
        ("emptyDir", volume.empty_dir.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("secret", volume.secret.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephFS", volume.cephfs.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("projected", volume.projected.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
    ];
    let mut present = present.into_iter().filter(|(_, present)| *present).map(|(kind, _)| kind);
    match present.next() {
        None => errors.required(path, "must specify a volume type"),
        Some(kind) => {
            one_source(errors, volume, kind, &path.child(kind));
            disks::source(errors, volume, kind, &path.child(kind), path);
        }
    }
    for kind in present {
        errors.forbidden(&path.child(kind), "may not specify more than 1 volume type");
    }
}

fn one_source(errors: &mut Errors, volume: &Volume, kind: &str, path: &Path) {
    if let ("emptyDir", Some(dir)) = (kind, &volume.empty_dir) {
        let limit = dir.size_limit.as_ref().and_then(|limit| Amount::of(limit).ok());
        if limit.is_some_and(Amount::is_negative) {
            errors.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
    } else if let ("hostPath", Some(host_path)) = (kind, &volume.host_path) {
        validate_host_path(errors, host_path, path);
    } else if let ("nfs", Some(nfs)) = (kind, &volume.nfs) {
        if nfs.server.is_empty() {
            errors.required(&path.child("server"), "");
        }
        if nfs.path.is_empty() {
            errors.required(&path.child("path"), "");
        }
        if !nfs.path.starts_with('/') {
            errors.invalid(&path.child("path"), &nfs.path, "must be an absolute path");
        }
    } else if let ("downwardAPI", Some(downward)) = (kind, &volume.downward_api) {
        mode(errors, downward.default_mode, &path.child("defaultMode"));
        for file in downward.items.iter().flatten() {
            // Upstream points at the volume, not at the item.
            downward_file(errors, file, path);
        }
    } else if let ("projected", Some(projected)) = (kind, &volume.projected) {
        references::projected(errors, projected, path);
    } else if let ("image", Some(image)) = (kind, &volume.image) {
        if text(&image.reference).is_empty() {
            errors.required(&path.child("reference"), "");
        }
        let policies = &["Always", "IfNotPresent", "Never"];
        errors.one_of(&path.child("pullPolicy"), image.pull_policy.as_deref(), policies);
    } else if let ("gitRepo", Some(repository)) = (kind, &volume.git_repo) {
        if repository.repository.is_empty() {
            errors.required(&path.child("repository"), "");
        }
        descending(errors, text(&repository.directory), &path.child("directory"));
    } else {
        references::source(errors, volume, kind, path);
    }
}

fn validate_host_path(errors: &mut Errors, host_path: &HostPathVolumeSource, path: &Path) {
    if host_path.path.is_empty() {
        return errors.required(&path.child("path"), "");
    }
    no_backsteps(errors, &host_path.path, &path.child("path"));
    errors.optional_one_of(&path.child("type"), host_path.type_.as_deref(), HOST_PATH_TYPES);
}

pub(super) fn downward_file(errors: &mut Errors, file: &DownwardAPIVolumeFile, path: &Path) {
    if file.path.is_empty() {
        errors.required(&path.child("path"), "");
    }
    local_path(errors, &file.path, &path.child("path"));
    if let Some(selector) = &file.field_ref {
        env::field_selector(errors, selector, FILE_FIELDS, &path.child("fieldRef"));
        if file.resource_field_ref.is_some() {
            let rule = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.invalid(path, "resource", rule);
        }
    } else if let Some(selector) = &file.resource_field_ref {
        env::resource_selector(errors, selector, true, &path.child("resourceFieldRef"));
    } else {
        errors.required(path, "one of fieldRef and resourceFieldRef is required");
    }
    mode(errors, file.mode, &path.child("mode"));
}

pub(super) fn mode(errors: &mut Errors, mode: Option<i32>, path: &Path) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(path, &mode, MODE_RULE);
    }
}

/// A relative path that never steps up.
fn descending(errors: &mut Errors, target: &str, path: &Path) {
    if target.starts_with('/') {
        errors.invalid(path, target, "must be a relative path");
    }
    no_backsteps(errors, target, path);
}

/// A path without `..` between its slashes.
pub(super) fn no_backsteps(errors: &mut Errors, target: &str, path: &Path) {
    if target.split('/').any(|part| part == "..") {
        errors.invalid(path, target, "must not contain '..'");
    }
}

/// A relative path that keeps clear of the names that atomic updates need.
pub(super) fn local_path(errors: &mut Errors, target: &str, path: &Path) {
    descending(errors, target, path);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.invalid(path, target, "must not start with '..'");
    }
}

/// A path below the node's folder of profiles.
pub(super) fn profile_path(errors: &mut Errors, target: &str, path: &Path) {
    descending(errors, target, path);
}

/// Mounts and block devices of a container.
pub(super) fn mounts(errors: &mut Errors, facts: &Facts<'_>, container: &Container, path: &Path) {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    let list = path.child("volumeMounts");
    let mut taken = BTreeSet::new();
    for (index, mount) in mounts.iter().enumerate() {
        let path = list.index(index);
        if mount.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        if !facts.volumes.contains_key(mount.name.as_str()) {
            errors.not_found(&path.child("name"), &mount.name);
        }
        if mount.mount_path.is_empty() {
            errors.required(&path.child("mountPath"), "");
        }
        if !taken.insert(mount.mount_path.as_str()) {
            errors.invalid(&path.child("mountPath"), &mount.mount_path, "must be unique");
        }
        if devices.iter().any(|device| device.name == mount.name) {
            errors.invalid(&path.child("name"), &mount.name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|device| device.device_path == mount.mount_path) {
            let rule = "must not already exist as a path in volumeDevices";
            errors.invalid(&path.child("mountPath"), &mount.mount_path, rule);
        }
        mount_options(errors, container, mount, &list, &path);
    }

    let list = path.child("volumeDevices");
    let mut names = BTreeSet::new();
    let mut paths = BTreeSet::new();
    for (index, device) in devices.iter().enumerate() {
        let path = list.index(index);
        let (name, device_path) = (device.name.as_str(), device.device_path.as_str());
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        if names.contains(name) {
            errors.invalid(&path.child("name"), name, "must be unique");
        }
        match facts.volumes.get(name) {
            None => errors.not_found(&path.child("name"), name),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => {
                let rule =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&path.child("name"), name, rule);
            }
            Some(_) => {}
        }
        if device_path.is_empty() {
            errors.required(&path.child("devicePath"), "");
        }
        if paths.contains(device_path) {
            errors.invalid(&path.child("devicePath"), device_path, "must be unique");
        }
        if device_path.split('/').any(|part| part == "..") {
            errors.invalid(&path.child("devicePath"), device_path, "can not contain backsteps ('..')");
        } else {
            paths.insert(device_path);
        }
        if mounts.iter().any(|mount| mount.name == name) {
            errors.invalid(&path.child("name"), name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| mount.mount_path == device_path) {
            let rule = "must not already exist as a path in volumeMounts";
            errors.invalid(&path.child("devicePath"), device_path, rule);
        }
        if !name.is_empty() {
            names.insert(name);
        }
    }
}

/// Sub-paths, propagation and recursive read-only. Upstream points at the list for most of these.
fn mount_options(errors: &mut Errors, container: &Container, mount: &VolumeMount, list: &Path, path: &Path) {
    let (sub_path, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
    if !sub_path.is_empty() {
        descending(errors, sub_path, &list.child("subPath"));
    }
    if !expression.is_empty() {
        if !sub_path.is_empty() {
            let rule = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&path.child("subPathExpr"), expression, rule);
        }
        descending(errors, expression, &list.child("subPathExpr"));
    }
    let propagation = mount.mount_propagation.as_deref();
    let list_path = list.child("mountPropagation");
    errors.optional_one_of(&list_path, propagation, &["Bidirectional", "HostToContainer", "None"]);
    let privileged = container.security_context.as_ref().and_then(|context| context.privileged) == Some(true);
    if propagation == Some("Bidirectional") && !privileged {
        let rule = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(&list_path, rule);
    }
    let list_path = list.child("recursiveReadOnly");
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                errors.forbidden(&list_path, "may only be specified when readOnly is true");
            }
            if propagation.is_some_and(|propagation| propagation != "None") {
                let rule = "may only be specified when mountPropagation is None or not specified";
                errors.forbidden(&list_path, rule);
            }
        }
        Some(other) => errors.unsupported(&list_path, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}
