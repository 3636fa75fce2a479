//! Old kinds by rows: `driver handle [attributes] modes`, and what else is not as usual.

use k8s_openapi::api::core::v1::Volume;
use serde_json::{Value, json};

use super::*;
use crate::fixtures::pod;

fn told(found: Result<CsiVolume, SourceError>) -> String {
    let volume = match found {
        Ok(volume) => volume,
        Err(error) => return format!("error: {error}"),
    };
    assert!(volume.migrated && !volume.inline);
    let attributes: Vec<String> =
        volume.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut text = format!("{} {} [{}]", volume.driver, volume.handle, attributes.join(","));
    let secret = |name: &str, secret: &Option<SecretPlace>| {
        secret.as_ref().map(|place| format!(" {name}={}/{}", place.namespace, place.name)).unwrap_or_default()
    };
    text += &volume.access_modes.iter().map(|mode| format!(" {mode}")).collect::<String>();
    text += &if volume.fs_type.is_empty() { String::new() } else { format!(" fs={}", volume.fs_type) };
    text += &secret("stage", &volume.stage_secret);
    text += &secret("publish", &volume.publish_secret);
    text += &secret("expand", &volume.expand_secret);
    text += if volume.read_only { " ro" } else { "" };
    text
}

fn persistent(source: &Value, metadata: &Value) -> PersistentVolume {
    let mut spec = json!({"claimRef": {"namespace": "shop", "name": "c"}});
    for (key, value) in source.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

#[test]
fn a_persistent_volume_is_its_drivers() {
    let check = |source: Value, metadata: Value, expected: &str| {
        let object = persistent(&source, &metadata);
        assert!(is_migrated(object.spec.as_ref().unwrap()));
        let found = migrated("pv", &object).unwrap();
        if let Ok(volume) = &found {
            assert_eq!(volume.spec_name, "pv");
        }
        assert_eq!(told(found), expected);
    };
    let ebs = |id: &str| json!({"awsElasticBlockStore": {"volumeID": id, "fsType": "xfs", "partition": 2, "readOnly": true}});
    check(ebs("vol-1"), json!({}), "ebs.csi.aws.com vol-1 [partition=2] fs=xfs");
    check(ebs("aws://us-east-1a/vol-1"), json!({}), "ebs.csi.aws.com vol-1 [partition=2] fs=xfs");
    check(ebs("aws:///vol-1/"), json!({}), "ebs.csi.aws.com vol-1 [partition=2] fs=xfs");
    let invalid = "error: awsElasticBlockStore: Invalid format for AWS volume";
    for id in ["aws://vol-1", "aws://", "aws://z/vol-1/x", "aws://z/disk"] {
        check(ebs(id), json!({}), &format!("{invalid} ({id})"));
    }

    let gce = |modes: Value| json!({"gcePersistentDisk": {"pdName": "d"}, "accessModes": modes});
    let (zone, beta) = (ZONES[0], ZONES[1]);
    let rwo = || gce(json!(["ReadWriteOnce"]));
    let of = |place: &str, mode: &str| {
        format!("pd.csi.storage.gke.io projects/UNSPECIFIED/{place}/disks/d [partition=]{mode}")
    };
    check(rwo(), json!({}), &of("zones/UNSPECIFIED", " ReadWriteOnce"));
    check(rwo(), json!({"labels": {zone: ""}}), &of("zones/UNSPECIFIED", " ReadWriteOnce"));
    check(rwo(), json!({"labels": {zone: "us-a-b"}}), &of("zones/us-a-b", " ReadWriteOnce"));
    check(rwo(), json!({"labels": {zone: "x", beta: "us-a-b"}}), &of("zones/us-a-b", " ReadWriteOnce"));
    let two = |zones: &str| json!({"labels": {zone: zones}});
    check(rwo(), two("us-a-b__us-a-c"), &of("regions/us-a", " ReadWriteOnce"));
    let failed = "error: gcePersistentDisk: failed to get region from zones:";
    check(
        rwo(),
        two("us-a-b__us-c-b"),
        &format!("{failed} multiple or no regions gotten from zones, got: us-a-b us-c-b"),
    );
    let format = "zone in unexpected format, expected: {locale}-{region}-{zone}, got:";
    check(rwo(), two("us-a-b__x"), &format!("{failed} {format} x"));
    let modes = [
        (json!(["ReadWriteMany"]), " ReadWriteOnce"),
        (json!(["ReadOnlyMany"]), " ReadOnlyMany"),
        (json!(["ReadOnlyMany", "ReadWriteOnce"]), " ReadWriteOnce"),
        (json!(["ReadWriteOncePod"]), " ReadWriteOnce"),
        (Value::Null, ""),
    ];
    for (modes, expected) in modes {
        check(gce(modes), json!({}), &of("zones/UNSPECIFIED", expected));
    }

    let disk = |kind: Value| {
        json!({"azureDisk": {"diskName": "d", "diskURI": "/subscriptions/1/d", "kind": kind,
        "cachingMode": "ReadOnly", "fsType": "ext4"}})
    };
    let expected =
        "disk.csi.azure.com /subscriptions/1/d [cachingmode=ReadOnly,fstype=ext4,kind=Managed] fs=ext4";
    check(disk(json!("managed")), json!({}), expected);
    check(disk(Value::Null), json!({}), expected);
    let refused = "error: azureDisk: kind(Dedicated) is not supported in csi migration";
    check(disk(json!("Dedicated")), json!({}), refused);

    let share = |namespace: Value, secret: &str| json!({"azureFile": {"secretName": secret, "shareName": "s", "secretNamespace": namespace}});
    let key = "azure-storage-account-a-b-secret";
    check(
        share(Value::Null, key),
        json!({"annotations": {"kubernetes.io/azure-file-resource-group": "g"}}),
        &format!("file.csi.azure.com g#a-b#s#pv#shop [sharename=s] stage=shop/{key}"),
    );
    check(share(json!("own"), "k"), json!({}), "file.csi.azure.com #k#s#pv#own [sharename=s] stage=own/k");
    let nowhere = "error: azureFile: could not find a secret namespace in PersistentVolumeSource or ClaimRef";
    check(share(json!(""), "k"), json!({}), nowhere);

    let cinder = json!({"cinder": {"volumeID": "c1", "fsType": "ext4"}});
    check(cinder, json!({}), "cinder.csi.openstack.org c1 [] fs=ext4");
    let portworx = || json!({"portworxVolume": {"volumeID": "p1"}});
    check(portworx(), json!({}), "pxd.portworx.com p1 []");
    check(
        portworx(),
        json!({"annotations": {"openstorage.io/auth-secret-name": "k",
                               "openstorage.io/auth-secret-namespace": "n"}}),
        "pxd.portworx.com p1 [] stage=n/k publish=n/k expand=n/k",
    );
    check(
        portworx(),
        json!({"annotations": {"openstorage.io/auth-secret-name": "k"}}),
        "pxd.portworx.com p1 []",
    );
    check(
        json!({"vsphereVolume": {"volumePath": "[ds] k/x.vmdk", "storagePolicyName": "gold"}}),
        json!({}),
        "csi.vsphere.vmware.com [ds] k/x.vmdk [storagepolicyname=gold]",
    );
}

#[test]
fn other_kinds_are_left_alone() {
    for source in [
        json!({"nfs": {"server": "s", "path": "/"}}),
        json!({"iscsi": {"targetPortal": "t", "iqn": "i", "lun": 0}}),
    ] {
        let object = persistent(&source, &json!({}));
        assert!(migrated("pv", &object).is_none());
        assert!(!is_migrated(object.spec.as_ref().unwrap()));
    }
    let plain: Volume = serde_json::from_value(json!({"name": "v", "emptyDir": {}})).unwrap();
    assert!(migrated_inline(&pod(json!({"containers": []})), &plain).is_none());
}

#[test]
fn a_pods_own_volume_is_named_by_its_disk() {
    let check = |source: Value, name: &str, expected: &str| {
        let mut source = source;
        source["name"] = json!("data");
        let volume: Volume = serde_json::from_value(source).unwrap();
        let found = migrated_inline(&pod(json!({"containers": []})), &volume).unwrap();
        assert_eq!(found.as_ref().map(|volume| volume.spec_name.as_str()).unwrap_or_default(), name);
        assert_eq!(told(found), expected);
    };
    check(
        json!({"awsElasticBlockStore": {"volumeID": "aws://z/vol-1", "readOnly": true}}),
        "ebs.csi.aws.com-vol-1",
        "ebs.csi.aws.com vol-1 [partition=0] ReadWriteOnce ro",
    );
    check(
        json!({"awsElasticBlockStore": {"volumeID": "aws://z"}}),
        "",
        "error: awsElasticBlockStore: Invalid format for AWS volume (aws://z)",
    );
    check(
        json!({"gcePersistentDisk": {"pdName": "d", "partition": 3, "readOnly": true}}),
        "pd.csi.storage.gke.io-d",
        "pd.csi.storage.gke.io projects/UNSPECIFIED/zones/UNSPECIFIED/disks/d [partition=3] ReadOnlyMany ro",
    );
    check(
        json!({"azureDisk": {"diskName": "d", "diskURI": "/s/d", "cachingMode": ""}}),
        "/s/d",
        "disk.csi.azure.com /s/d [kind=Managed] ReadWriteOnce",
    );
    check(
        json!({"azureFile": {"secretName": "k", "shareName": "s"}}),
        "#k#s#data#shop",
        "file.csi.azure.com #k#s#data#shop [sharename=s] ReadWriteMany stage=shop/k",
    );
    check(
        json!({"cinder": {"volumeID": "c"}}),
        "cinder.csi.openstack.org-c",
        "cinder.csi.openstack.org c [] ReadWriteOnce",
    );
    check(
        json!({"portworxVolume": {"volumeID": "p", "fsType": "ext4"}}),
        "pxd.portworx.com-p",
        "pxd.portworx.com p [] ReadWriteOnce fs=ext4",
    );
    check(
        json!({"vsphereVolume": {"volumePath": "[a] b", "storagePolicyName": "gold"}}),
        "csi.vsphere.vmware.com-[a] b",
        "csi.vsphere.vmware.com [a] b [storagepolicyname=gold] ReadWriteOnce",
    );
}

#[test]
fn places_are_in_the_drivers_labels() {
    let affinity = |source: Value, keys: [&str; 2]| {
        let rules: Vec<Value> =
            keys.iter().map(|key| json!({"key": key, "operator": "In", "values": ["z"]})).collect();
        let mut source = source;
        source["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": rules}]}});
        let object = persistent(&source, &json!({}));
        let found = migrated_affinity(object.spec.as_ref().unwrap()).unwrap();
        let rules = found.node_selector_terms[0].match_expressions.clone().unwrap();
        rules.into_iter().map(|rule| rule.key).collect::<Vec<_>>()
    };
    let ebs = json!({"awsElasticBlockStore": {"volumeID": "v"}});
    assert_eq!(affinity(ebs.clone(), ZONES), ["topology.ebs.csi.aws.com/zone"; 2]);
    assert_eq!(affinity(ebs, ["kubernetes.io/hostname", REGIONS[0]]), ["kubernetes.io/hostname", REGIONS[0]]);
    let vsphere = json!({"vsphereVolume": {"volumePath": "v"}});
    assert_eq!(
        affinity(vsphere, [ZONES[1], REGIONS[1]]),
        ["topology.csi.vmware.com/zone", "topology.csi.vmware.com/region"]
    );
    let file = json!({"azureFile": {"secretName": "k", "shareName": "s"}});
    assert_eq!(affinity(file, ZONES), ZONES);
}
