//! PersistentVolumes, PersistentVolumeClaims, StorageClasses and what CSI drivers say.

use super::*;

fn volume(fields: Value) -> Value {
    let mut spec = json!({
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"},
    });
    for (field, value) in fields.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    object("v1", "PersistentVolume", json!({"spec": spec}))
}

#[test]
fn volumes() {
    let world = World::new();
    let made = world.create(volume(json!({}))).expect("created");
    expect_part(
        &made,
        &json!({
            "metadata": {"finalizers": ["kubernetes.io/pv-protection"]},
            "spec": {"persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"},
            "status": {"phase": "Pending", "lastPhaseTransitionTime": "2026-02-03T04:05:06Z"},
        }),
    );
    let check = |fields: Value, expected: &[&str]| expect_broken(&world.create(volume(fields)), expected);
    check(
        json!({"capacity": null, "accessModes": null, "hostPath": null}),
        &[
            "spec.accessModes: Required value",
            "spec.capacity: Required value",
            "spec.capacity: Unsupported value: ",
            "spec: Required value: must specify a volume type",
        ],
    );
    check(
        json!({"nfs": {"server": "s", "path": "/"}}),
        &["spec.nfs: Forbidden: may not specify more than 1 volume"],
    );
    check(
        json!({"hostPath": null, "local": {"path": "/a/../b"}}),
        &[
            "spec.local.path: Invalid value: \"/a/../b\": must not contain '..'",
            "spec.nodeAffinity: Required value: Local volume requires node affinity",
        ],
    );
    check(
        json!({"capacity": {"storage": "0"}}),
        &["spec.capacity[storage]: Invalid value: \"0\": must be greater than"],
    );
    check_change(
        volume(json!({})),
        "spec/hostPath/path",
        json!("/other"),
        &["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"],
    );
    check_change(volume(json!({})), "spec/claimRef", json!({"name": "c"}), &[]);
    let mut stored = made;
    stored["metadata"]["resourceVersion"] = json!("7");
    stored["status"]["lastPhaseTransitionTime"] = json!("2020-01-01T00:00:00Z");
    let bound =
        world.update("status", &stored, |new| new["status"]["phase"] = json!("Bound")).expect("bound");
    assert_eq!(bound["status"]["lastPhaseTransitionTime"], "2026-02-03T04:05:06Z");
}

fn claim(fields: Value) -> Value {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    for (field, value) in fields.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    object("v1", "PersistentVolumeClaim", json!({"spec": spec}))
}

fn class(name: &str, fields: Value) -> Value {
    let mut class = object("storage.k8s.io/v1", "StorageClass", fields);
    class["metadata"]["name"] = json!(name);
    class["provisioner"] = json!("p");
    class
}

#[test]
fn claims_take_the_newest_default_class() {
    let mut world = World::new();
    let none = world.create(claim(json!({}))).expect("created");
    expect_part(
        &none,
        &json!({
            "metadata": {"finalizers": ["kubernetes.io/pvc-protection"]}, "status": {"phase": "Pending"},
            "spec": {"volumeMode": "Filesystem", "storageClassName": null},
        }),
    );
    let marked = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let aged = |age: &str| json!({"metadata": {"annotations": marked, "creationTimestamp": age}});
    world.put(class("old", aged("2020-01-01T00:00:00Z")));
    world.put(class("new-b", aged("2021-01-01T00:00:00Z")));
    world.put(class("new-a", aged("2021-01-01T00:00:00Z")));
    world.put(class("newest", json!({"metadata": {"creationTimestamp": "2022-01-01T00:00:00Z"}})));
    let given = world.create(claim(json!({}))).expect("created");
    assert_eq!(given["spec"]["storageClassName"], "new-a");
    let own = world.create(claim(json!({"storageClassName": ""}))).expect("created");
    assert_eq!(own["spec"]["storageClassName"], "");
}

#[test]
fn claims_stay_but_for_their_volume_and_size() {
    let mut world = World::new();
    world.put(class("grows", json!({"allowVolumeExpansion": true})));
    world.put(class("fixed", json!({})));
    let mut stored = |class: &str, phase: &str| {
        let mut old = world.create(claim(json!({"storageClassName": class}))).expect("created");
        old["metadata"]["resourceVersion"] = json!("7");
        old["status"]["phase"] = json!(phase);
        world.put(old.clone());
        old
    };
    let (grows, fixed, pending) =
        (stored("grows", "Bound"), stored("fixed", "Bound"), stored("grows", "Pending"));
    let check = |old: &Value, pointer: &str, value: Value, expected: &[&str]| {
        let path: Vec<&str> = pointer.split('/').collect();
        expect_broken(&world.update("", old, |new| value::set(new, &path, value)), expected);
    };
    let immutable = "spec: Forbidden: spec is immutable after creation except resources.requests and";
    let size = "spec/resources/requests/storage";
    check(&pending, "spec/volumeName", json!("v"), &[]);
    check(&grows, "spec/accessModes", json!(["ReadOnlyMany"]), &[immutable]);
    check(&grows, size, json!("2Gi"), &[]);
    check(
        &fixed,
        size,
        json!("2Gi"),
        &[
            "403 persistentvolumeclaims \"x\" is forbidden: only dynamically provisioned pvc can be resized and the",
        ],
    );
    check(&pending, size, json!("2Gi"), &[immutable]);
    check(
        &grows,
        "spec/volumeMode",
        json!("Block"),
        &[immutable, "volumeMode: Invalid value: \"Block\": field is imm"],
    );
    expect_broken(
        &world.create(claim(json!({"accessModes": null, "resources": null}))),
        &[
            "spec.accessModes: Required value: at least 1 access mode is required",
            "spec.resources[storage]: Required value",
        ],
    );
}

#[test]
fn storage() {
    let version = "storage.k8s.io/v1";
    let made = json!({"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"});
    check_made(version, "StorageClass", json!({"provisioner": "a/b"}), made);
    check(version, "StorageClass", json!({}), &["provisioner: Required value"]);
    check_change(
        object(version, "StorageClass", json!({"provisioner": "a/b"})),
        "reclaimPolicy",
        json!("Retain"),
        &["reclaimPolicy: Invalid value: \"Retain\": field is immutable"],
    );
    check_made(
        version,
        "CSIDriver",
        json!({}),
        json!({"spec": {"attachRequired": true, "volumeLifecycleModes": ["Persistent"],
            "fsGroupPolicy": "ReadWriteOnceWithFSType"}}),
    );
    check_change(
        object(version, "CSIDriver", json!({})),
        "spec/attachRequired",
        json!(false),
        &["spec.attachedRequired: Invalid value: false: field is immutable"],
    );
    let driver = json!({"name": "d", "nodeID": "n"});
    check_made(version, "CSINode", json!({"spec": {"drivers": null}}), json!({"spec": {"drivers": []}}));
    check(
        version,
        "CSINode",
        json!({"spec": {"drivers": [driver, driver, {"name": "e"}]}}),
        &["spec.drivers[1].name: Duplicate value: \"d\"", "spec.drivers[2].nodeID: Required value"],
    );
    check_change(
        object(version, "CSINode", json!({"spec": {"drivers": [driver]}})),
        "spec/drivers",
        json!([{"name": "d", "nodeID": "other"}]),
        &["CSINodeDriver: Invalid value: "],
    );
    let attachment = object(
        version,
        "VolumeAttachment",
        json!({"spec": {"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}),
    );
    check(
        version,
        "VolumeAttachment",
        json!({}),
        &[
            "spec.attacher: Required value",
            "spec.source: Required value: must specify exactly one of",
            "spec.nodeName: Invalid value: \"\"",
        ],
    );
    let mut world = World::new();
    let old = world.made(attachment);
    assert_eq!(old["status"], json!({"attached": false}));
    let new = world
        .update("status", &old, |new| {
            new["status"]["attached"] = json!(true);
            new["metadata"]["labels"] = json!({"a": "b"});
            new["spec"] = json!({});
        })
        .expect("attached");
    expect_part(
        &new,
        &json!({"status": {"attached": true}, "spec": old["spec"], "metadata": {"labels": null}}),
    );
}
