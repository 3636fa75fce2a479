//! Volume sources of once built-in kinds, which drivers stand in for: what a node needs of them has to be there.

use k8s_openapi::api::core::v1::{AzureDiskVolumeSource, Volume};

use super::field::{Errors, Path};

const PARTITION_RULE: &str = "must be between 1 and 255, inclusive";
const CACHING: &[&str] = &["None", "ReadOnly", "ReadWrite"];
const DISK_KINDS: &[&str] = &["Dedicated", "Managed", "Shared"];
const MANAGED_URI: &str =
    "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
const BLOB_URI: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";

/// One source of such a kind. `path` ends with the kind, `volume_path` is that of the volume.
pub(super) fn source(errors: &mut Errors, volume: &Volume, kind: &str, path: &Path, volume_path: &Path) {
    match kind {
        "gcePersistentDisk" => {
            let Some(disk) = &volume.gce_persistent_disk else { return };
            // Upstream's path is not the field's name.
            let path = volume_path.child("persistentDisk");
            errors.required_text(&path.child("pdName"), &disk.pd_name);
            partition(errors, disk.partition, &path);
        }
        "awsElasticBlockStore" => {
            let Some(disk) = &volume.aws_elastic_block_store else { return };
            errors.required_text(&path.child("volumeID"), &disk.volume_id);
            partition(errors, disk.partition, path);
        }
        "azureFile" => {
            let Some(share) = &volume.azure_file else { return };
            errors.required_text(&path.child("secretName"), &share.secret_name);
            errors.required_text(&path.child("shareName"), &share.share_name);
        }
        "azureDisk" => {
            if let Some(disk) = &volume.azure_disk {
                azure_disk(errors, disk, path);
            }
        }
        "cinder" => {
            let Some(disk) = &volume.cinder else { return };
            errors.required_text(&path.child("volumeID"), &disk.volume_id);
            if let Some(secret) = &disk.secret_ref {
                errors.required_text(&path.child("secretRef").child("name"), &secret.name);
            }
        }
        "vsphereVolume" => {
            let Some(disk) = &volume.vsphere_volume else { return };
            errors.required_text(&path.child("volumePath"), &disk.volume_path);
        }
        "portworxVolume" => {
            let Some(disk) = &volume.portworx_volume else { return };
            errors.required_text(&path.child("volumeID"), &disk.volume_id);
        }
        _ => {}
    }
}

fn partition(errors: &mut Errors, partition: Option<i32>, path: &Path) {
    if let Some(partition) = partition.filter(|partition| !(0..=255).contains(partition)) {
        errors.invalid(&path.child("partition"), &partition, PARTITION_RULE);
    }
}

fn azure_disk(errors: &mut Errors, disk: &AzureDiskVolumeSource, path: &Path) {
    errors.required_text(&path.child("diskName"), &disk.disk_name);
    errors.required_text(&path.child("diskURI"), &disk.disk_uri);
    errors.optional_one_of(&path.child("cachingMode"), disk.caching_mode.as_deref(), CACHING);
    errors.optional_one_of(&path.child("kind"), disk.kind.as_deref(), DISK_KINDS);
    let (begins, like) = match disk.kind.as_deref() {
        None => return,
        Some("Managed") => ("/subscriptions/", MANAGED_URI),
        Some(_) => ("https://", BLOB_URI),
    };
    if !disk.disk_uri.starts_with(begins) {
        errors.unsupported(&path.child("diskURI"), &disk.disk_uri, &[like]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_kind_needs_its_disk() {
        let check = |kind: &str, source: Value, expected: &[&str]| {
            let volume: Volume = serde_json::from_value(json!({"name": "v", kind: source})).unwrap();
            let (mut errors, path) = (Errors::default(), Path::new("v"));
            super::source(&mut errors, &volume, kind, &path.child(kind), &path);
            let found: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        };
        let range = "must be between 1 and 255, inclusive";
        check(
            "gcePersistentDisk",
            json!({"pdName": "", "partition": 256}),
            &[
                "v.persistentDisk.pdName: Required value",
                &format!("v.persistentDisk.partition: Invalid value: 256: {range}"),
            ],
        );
        check("gcePersistentDisk", json!({"pdName": "d", "partition": 255}), &[]);
        check(
            "awsElasticBlockStore",
            json!({"volumeID": "", "partition": -1}),
            &[
                "v.awsElasticBlockStore.volumeID: Required value",
                &format!("v.awsElasticBlockStore.partition: Invalid value: -1: {range}"),
            ],
        );
        check(
            "azureFile",
            json!({"secretName": "", "shareName": ""}),
            &["v.azureFile.secretName: Required value", "v.azureFile.shareName: Required value"],
        );
        let managed =
            format!("v.azureDisk.diskURI: Unsupported value: \"x\": supported values: {MANAGED_URI:?}");
        let blob = format!("v.azureDisk.diskURI: Unsupported value: \"x\": supported values: {BLOB_URI:?}");
        check("azureDisk", json!({"diskName": "d", "diskURI": "x", "kind": "Managed"}), &[&managed]);
        check("azureDisk", json!({"diskName": "d", "diskURI": "x", "kind": "Shared"}), &[&blob]);
        check("azureDisk", json!({"diskName": "d", "diskURI": "/subscriptions/1", "kind": "Managed"}), &[]);
        check(
            "azureDisk",
            json!({"diskName": "", "diskURI": "", "cachingMode": "Much"}),
            &[
                "v.azureDisk.diskName: Required value",
                "v.azureDisk.diskURI: Required value",
                "v.azureDisk.cachingMode: Unsupported value: \"Much\": supported values: \"None\", \"ReadOnly\", \
                 \"ReadWrite\"",
            ],
        );
        check(
            "cinder",
            json!({"volumeID": "", "secretRef": {"name": ""}}),
            &["v.cinder.volumeID: Required value", "v.cinder.secretRef.name: Required value"],
        );
        check("vsphereVolume", json!({"volumePath": ""}), &["v.vsphereVolume.volumePath: Required value"]);
        check("portworxVolume", json!({"volumeID": ""}), &["v.portworxVolume.volumeID: Required value"]);
        check("portworxVolume", json!({"volumeID": "p"}), &[]);
    }
}
