//! Claims and volumes by rows: what is mounted, or what the event says.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::{Value, json};

use super::*;
use crate::fixtures::pod;
use crate::volumes::{CsiVolume, SecretPlace, VolumeMode};

/// `base` with what `change` says instead, deeply; null takes away.
fn with(mut base: Value, change: &Value) -> Value {
    let Value::Object(changes) = change else { return change.clone() };
    for (key, change) in changes {
        base[key] = match change {
            Value::Null => Value::Null,
            _ => with(base[key].take(), change),
        };
    }
    base
}

fn a_pod() -> Pod {
    pod(json!({
        "containers": [{"name": "c", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "disk"}}],
    }))
}

fn a_claim() -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": "disk", "uid": "c1"},
        "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"},
    })
}

fn a_volume() -> Value {
    json!({
        "metadata": {"name": "pv"},
        "spec": {"claimRef": {"namespace": "shop", "name": "disk", "uid": "c1"}, "volumeMode": "Filesystem",
                 "hostPath": {"path": "/x"}},
        "status": {"phase": "Bound"},
    })
}

/// What comes of it, or the event's message.
fn found(pod: &Pod, claim: Option<&Value>, volume: Option<&Value>) -> Result<ClaimedVolume, String> {
    let of_pod = &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0];
    let wanted = Claim::of(pod, of_pod).unwrap();
    let missing = |what: &str| Missing::NotFound(format!("{what} not found"));
    let no_claim = missing("persistentvolumeclaims \"disk\"");
    let claim: Option<PersistentVolumeClaim> = claim.map(|c| serde_json::from_value(c.clone()).unwrap());
    let told = |error: ClaimError| error.event_message(&of_pod.name);
    let (object, name) = bound_volume(pod, &wanted, claim.as_ref().ok_or(&no_claim)).map_err(told)?;
    let labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), "n1".to_owned())]);
    let facts = ClaimFacts { pod, volume: &of_pod.name, claim: &wanted, object, node_labels: Some(&labels) };
    let no_volume = missing("persistentvolumes \"pv\"");
    let volume: Option<PersistentVolume> = volume.map(|v| serde_json::from_value(v.clone()).unwrap());
    claimed_volume(&facts, name, volume.as_ref().ok_or(&no_volume)).map_err(told)
}

fn waits(problem: &str) -> Result<ClaimedVolume, String> {
    Err(format!(
        "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process \
         volumes=[data]: {problem}"
    ))
}

#[test]
fn a_bound_claim_is_its_volume() {
    let host_path =
        |path: &str| ClaimedSource::HostPath(serde_json::from_value(json!({"path": path})).unwrap());
    let plain = ClaimedVolume {
        name: "pv".into(),
        source: host_path("/x"),
        mode: VolumeMode::Filesystem,
        read_only: false,
        group: None,
        claim: ("shop".into(), "disk".into()),
        capacity: None,
    };
    assert_eq!(found(&a_pod(), Some(&a_claim()), Some(&a_volume())), Ok(plain.clone()));

    let mut read_only = a_pod();
    let volumes = read_only.spec.as_mut().unwrap().volumes.as_mut().unwrap();
    volumes[0].persistent_volume_claim.as_mut().unwrap().read_only = Some(true);
    let expected = ClaimedVolume { read_only: true, ..plain.clone() };
    assert_eq!(found(&read_only, Some(&a_claim()), Some(&a_volume())), Ok(expected));

    let grouped =
        with(a_volume(), &json!({"metadata": {"annotations": {"pv.beta.kubernetes.io/gid": "77"}}}));
    let expected = ClaimedVolume { group: Some(77), ..plain.clone() };
    assert_eq!(found(&a_pod(), Some(&a_claim()), Some(&grouped)), Ok(expected));
    let mut member = a_pod();
    member.spec.as_mut().unwrap().security_context =
        serde_json::from_value(json!({"supplementalGroups": [77]})).unwrap();
    assert_eq!(found(&member, Some(&a_claim()), Some(&grouped)), Ok(plain.clone()));

    let local = json!({"spec": {"hostPath": null, "local": {"path": "mnt/d"},
        "mountOptions": ["noatime", "nodev", "rw", "noatime", "data=journal"], "capacity": {"storage": "2Gi"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n0", "n1"]}]}]}}}});
    let source = ClaimedSource::Local {
        path: "/mnt/d".into(),
        flags: vec![BindFlag::NoDev, BindFlag::NoAtime],
        options: vec!["data=journal".into()],
        fs_type: String::new(),
    };
    let expected = ClaimedVolume { source, capacity: Some(2 << 30), ..plain.clone() };
    assert_eq!(found(&a_pod(), Some(&a_claim()), Some(&with(a_volume(), &local))), Ok(expected));

    // A claim that goes while pods use it is still theirs.
    let going = with(
        a_claim(),
        &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z",
        "finalizers": ["kubernetes.io/pvc-protection"]}}),
    );
    assert_eq!(found(&a_pod(), Some(&going), Some(&a_volume())), Ok(plain));
}

#[test]
fn a_claim_without_its_volume_says_what_is_missing() {
    let check = |claim: Value, problem: &str| {
        let claim = with(a_claim(), &claim);
        let problem = format!("error processing PVC shop/disk: {problem}");
        assert_eq!(found(&a_pod(), Some(&claim), None), waits(&problem));
    };
    assert_eq!(
        found(&a_pod(), None, None),
        waits(
            "error processing PVC shop/disk: failed to fetch PVC from API server: persistentvolumeclaims \"disk\" not \
             found"
        )
    );
    check(json!({"status": {"phase": "Pending"}}), "PVC is not bound");
    check(json!({"status": null}), "PVC is not bound");
    check(json!({"status": {"phase": "Lost"}}), "PVC is not bound");
    check(json!({"spec": {"volumeName": null}}), "PVC has empty pvc.Spec.VolumeName");
    check(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), "PVC is being deleted");
    check(json!({}), "failed to fetch PV pv from API server: persistentvolumes \"pv\" not found");
}

#[test]
fn a_volume_that_is_anothers_or_cannot_be_mounted_says_so() {
    let check = |volume: Value, message: &str| {
        let volume = with(a_volume(), &json!({"spec": volume}));
        assert_eq!(found(&a_pod(), Some(&a_claim()), Some(&volume)), Err(message.to_owned()), "{volume}");
    };
    let waiting = |problem: &str| waits(problem).unwrap_err();
    check(
        json!({"claimRef": null}),
        &waiting(
            "error processing PVC shop/disk: found PV object pv but it has a nil pv.Spec.ClaimRef indicating it is not \
             yet bound to the claim",
        ),
    );
    check(
        json!({"claimRef": {"uid": "c0"}}),
        &waiting(
            "error processing PVC shop/disk: found PV object pv but its pv.Spec.ClaimRef.UID c0 does not point to \
             claim.UID c1",
        ),
    );
    check(
        json!({"volumeMode": "Block"}),
        &waiting("volume data has volumeMode Block, but is specified in volumeMounts"),
    );
    let elsewhere = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}]}]}});
    check(
        json!({"nodeAffinity": elsewhere}),
        "MountVolume.NodeAffinity check failed for volume \"pv\" : no matching NodeSelectorTerms",
    );
    check(
        json!({"mountOptions": ["noatime"]}),
        "MountVolume.MountOptionSupport check failed for volume \"pv\" : mount options are not supported for this \
         volume type",
    );
    check(
        json!({"hostPath": {"path": "/a/../b"}}),
        "MountVolume.SetUp failed for volume \"pv\" : invalid HostPath `/a/../b`: must not contain '..'",
    );
    check(
        json!({"hostPath": null, "local": {"path": "/a/.."}}),
        "MountVolume.SetUp failed for volume \"pv\" : invalid path: /a/.. must not contain '..'",
    );
    check(
        json!({"hostPath": null, "fc": {"lun": 1}}),
        "MountVolume.FindPluginBySpec failed for volume \"pv\" : it is of kind fc, which this version cannot mount; \
         it mounts csi, hostPath, local and nfs",
    );
    check(
        json!({"hostPath": null, "csi": {"driver": "../..", "volumeHandle": "h"}}),
        "MountVolume.SetUp failed for volume \"pv\" : csi: \"../..\" cannot be the name of a driver: a lowercase RFC \
         1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an \
         alphanumeric character (e.g. 'example.com', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
    );
    check(
        json!({"hostPath": null, "csi": {"driver": "d", "volumeHandle": ""}}),
        "MountVolume.SetUp failed for volume \"pv\" : csi: it has no volumeHandle",
    );
}

#[test]
fn devices_are_explained() {
    let mut device = a_pod();
    device.spec.as_mut().unwrap().containers = serde_json::from_value(json!([
        {"name": "c", "volumeDevices": [{"name": "data", "devicePath": "/dev/x"}]}]))
    .unwrap();
    assert_eq!(
        found(&device, Some(&a_claim()), Some(&a_volume())),
        waits("volume data has volumeMode Filesystem, but is specified in volumeDevices")
    );
    let block = with(a_volume(), &json!({"spec": {"volumeMode": "Block"}}));
    let message = found(&device, Some(&a_claim()), Some(&block)).unwrap_err();
    assert!(message.contains("cannot be a block device (volumeMode Block)"), "{message}");
    for source in
        [json!({"local": {"path": "/dev/sdz"}}), json!({"csi": {"driver": "d", "volumeHandle": "h"}})]
    {
        let volume =
            with(with(block.clone(), &json!({"spec": {"hostPath": null}})), &json!({"spec": source}));
        let found = found(&device, Some(&a_claim()), Some(&volume)).unwrap();
        assert_eq!(found.mode, VolumeMode::Block);
    }
}

#[test]
fn the_claim_of_an_ephemeral_volume_has_to_be_the_pods_own() {
    let pod = pod(json!({
        "containers": [], "initContainers": [{"name": "c", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}],
        "volumes": [{"name": "data", "ephemeral": {}}],
    }));
    let claim = Claim::of(&pod, &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0]).unwrap();
    assert_eq!((claim.name.as_str(), claim.ephemeral), ("web-data", true));
    assert_eq!(VolumeUse::of(&pod, "data"), VolumeUse { mounted: true, device: false });
    assert!(VolumeUse::of(&pod, "other").is_none());
    assert_eq!(
        found(&pod, Some(&a_claim()), Some(&a_volume())),
        waits("PVC shop/web-data was not created for pod shop/web (pod is not owner)")
    );
    let owned = |uid: &str| {
        with(
            a_claim(),
            &json!({"metadata": {"ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid, "controller": true}]}}),
        )
    };
    assert!(found(&pod, Some(&owned("u0")), Some(&a_volume())).is_err());
    assert!(found(&pod, Some(&owned("u1")), Some(&a_volume())).is_ok());
}

#[test]
fn a_drivers_volume_has_all_that_its_calls_need() {
    let volume = with(
        a_volume(),
        &json!({
            "metadata": {"annotations": {"volume.beta.kubernetes.io/mount-options": "noatime"}},
            "spec": {
                "hostPath": null, "accessModes": ["ReadWriteMany"], "mountOptions": ["discard"],
                "csi": {"driver": "D.example", "volumeHandle": "h/1", "fsType": "xfs", "readOnly": true,
                        "volumeAttributes": {"a": "b"},
                        "nodeStageSecretRef": {"namespace": "n", "name": "stage"},
                        "nodePublishSecretRef": {"namespace": "n", "name": "publish"},
                        "nodeExpandSecretRef": {"namespace": "n", "name": "expand"}},
            },
        }),
    );
    let found = found(&a_pod(), Some(&a_claim()), Some(&volume)).unwrap();
    let ClaimedSource::Csi(csi) = &found.source else { panic!("{found:?}") };
    let secret = |name: &str| Some(SecretPlace { namespace: "n".into(), name: name.into() });
    let expected = CsiVolume {
        driver: "D.example".into(),
        handle: "h/1".into(),
        spec_name: "pv".into(),
        inline: false,
        mode: VolumeMode::Filesystem,
        fs_type: "xfs".into(),
        attributes: BTreeMap::from([("a".into(), "b".into())]),
        read_only: false,
        access_modes: vec!["ReadWriteMany".into()],
        mount_options: vec!["discard".into()],
        stage_secret: secret("stage"),
        publish_secret: secret("publish"),
        expand_secret: secret("expand"),
        migrated: false,
    };
    assert_eq!(*csi, expected);
    assert_eq!(csi.unique_name(), "kubernetes.io/csi/D.example^h/1");
    // The journal keeps it.
    let written = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<ClaimedVolume>(&written).unwrap(), found);
}

#[test]
fn an_old_kind_is_mounted_by_its_driver_where_its_labels_are() {
    let affinity = |value: &str| {
        json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [value]}]}]}})
    };
    let ebs = |value: &str| {
        let source = json!({"hostPath": null, "awsElasticBlockStore": {"volumeID": "vol-1"},
            "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "nodeAffinity": affinity(value)});
        with(a_volume(), &json!({ "spec": source }))
    };
    let mounted = found(&a_pod(), Some(&a_claim()), Some(&ebs("n1"))).unwrap();
    let ClaimedSource::Csi(csi) = mounted.source else { panic!("{mounted:?}") };
    assert_eq!(csi.unique_name(), "kubernetes.io/csi/ebs.csi.aws.com^vol-1");
    assert_eq!((csi.spec_name.as_str(), csi.migrated), ("pv", true));
    assert_eq!(csi.access_modes, ["ReadWriteOnce"]);
    assert_eq!(
        found(&a_pod(), Some(&a_claim()), Some(&ebs("n2"))),
        Err("MountVolume.NodeAffinity check failed for volume \"pv\" : no matching NodeSelectorTerms"
            .to_owned())
    );
}
