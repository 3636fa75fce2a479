//! What is particular to each kind, besides Services and Namespaces.

use super::*;

/// Creating it breaks these rules.
#[track_caller]
fn check(api_version: &str, kind: &str, fields: Value, expected: &[&str]) {
    expect_broken(&World::new().create(object(api_version, kind, fields)), expected);
}

/// Creating it makes this.
#[track_caller]
fn check_made(api_version: &str, kind: &str, fields: Value, expected: Value) -> Value {
    let made = World::new().create(object(api_version, kind, fields)).expect("created");
    expect_part(&made, &expected);
    made
}

/// Changing a field of a good object breaks these rules.
#[track_caller]
fn check_change(made: Value, pointer: &str, value: Value, expected: &[&str]) {
    let mut world = World::new();
    let old = world.made(made);
    let path: Vec<&str> = pointer.split('/').collect();
    expect_broken(&world.update("", &old, |new| value::set(new, &path, value)), expected);
}

#[test]
fn config_maps() {
    let map = |fields: Value| object("v1", "ConfigMap", fields);
    check("v1", "ConfigMap", json!({"data": {"a": "b"}, "binaryData": {"c": "AAAA"}}), &[]);
    check(
        "v1",
        "ConfigMap",
        json!({"data": {"a b": "", "same": ""}, "binaryData": {"same": "", "..": ""}}),
        &[
            "data[a b]: Invalid value: \"a b\": a valid config key must consist of",
            "data[same]: Invalid value: \"same\": duplicate of key present in binaryData",
            "binaryData[..]: Invalid value: \"..\": must not be '..'",
        ],
    );
    let large = "x".repeat(1024 * 1024 + 1);
    check(
        "v1",
        "ConfigMap",
        json!({"data": {"a": large}}),
        &["[]: Too long: may not be more than 1048576 bytes"],
    );
    let fixed = map(json!({"data": {"a": "b"}, "immutable": true}));
    check_change(
        fixed.clone(),
        "data/a",
        json!("c"),
        &["data: Forbidden: field is immutable when `immutable` is set"],
    );
    check_change(
        fixed.clone(),
        "immutable",
        json!(false),
        &["immutable: Forbidden: field is immutable when"],
    );
    check_change(fixed, "metadata/labels", json!({"a": "b"}), &[]);
}

#[test]
fn secrets() {
    check_made(
        "v1",
        "Secret",
        json!({"data": {"a": "AA==", "b": "AA=="}, "stringData": {"b": "hi"}}),
        json!({"type": "Opaque", "data": {"a": "AA==", "b": "aGk="}, "stringData": null}),
    );
    let check = |kind: &str, data: Value, expected: &[&str]| {
        check("v1", "Secret", json!({"type": kind, "data": data}), expected);
    };
    check("kubernetes.io/tls", json!({"tls.crt": ""}), &["data[tls.key]: Required value"]);
    check("kubernetes.io/dockerconfigjson", json!({}), &["data[.dockerconfigjson]: Required value"]);
    check(
        "kubernetes.io/dockerconfigjson",
        json!({".dockerconfigjson": "e30x"}),
        &["data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": "],
    );
    check("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "e30="}), &[]);
    check(
        "kubernetes.io/basic-auth",
        json!({}),
        &["data[username]: Required value", "data[password]: Required value"],
    );
    check("kubernetes.io/ssh-auth", json!({"ssh-privatekey": ""}), &["data[ssh-privatekey]: Required value"]);
    check(
        "kubernetes.io/service-account-token",
        json!({}),
        &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
    );
    let secret = object("v1", "Secret", json!({"type": "a/b"}));
    check_change(secret, "type", json!("c/d"), &["type: Invalid value: \"c/d\": field is immutable"]);
}

#[test]
fn nodes_and_leases() {
    let node = object("v1", "Node", json!({"status": {"capacity": {"cpu": "4"}}}));
    let made = check_made(
        "v1",
        "Node",
        json!({"status": {"capacity": {"cpu": "4"}}}),
        json!({"status": {"allocatable": {"cpu": "4"}}}),
    );
    assert_eq!(made["spec"], json!({}));
    check(
        "v1",
        "Node",
        json!({"spec": {"taints": [{"key": "a", "effect": "Never"}]}}),
        &["metadata.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", "],
    );
    let mut world = World::new();
    let mut old = world.made(node);
    old["spec"]["providerID"] = json!("p");
    expect_broken(
        &world.update("", &old, |new| new["spec"]["providerID"] = json!("q")),
        &["spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid"],
    );
    let address = json!({"type": "InternalIP", "address": "1.2.3.4"});
    expect_broken(
        &world.update("status", &old, |new| new["status"]["addresses"] = json!([address, address])),
        &["status.addresses[1]: Duplicate value: {\"address\":\"1.2.3.4\""],
    );
    let kept = world.update("", &old, |new| new["status"] = json!({})).expect("an update");
    assert_eq!(kept["status"], old["status"]);
    check(
        "coordination.k8s.io/v1",
        "Lease",
        json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}}),
        &[
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
}

#[test]
fn events_and_endpoints() {
    check("v1", "Event", json!({"involvedObject": {"namespace": "default"}}), &[]);
    check(
        "v1",
        "Event",
        json!({"involvedObject": {"namespace": "other"}}),
        &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
    );
    check(
        "events.k8s.io/v1",
        "Event",
        json!({"reportingComponent": "a/b", "reportingInstance": "i", "action": "A", "reason": "R", "count": 3}),
        &[
            "eventTime: Required value",
            "type: Invalid value: \"\": has invalid value: ",
            "count: Invalid value: \"\": needs to be unset",
        ],
    );
    check(
        "v1",
        "Endpoints",
        json!({"subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 0}]}, {}]}),
        &[
            "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range",
            "subsets[0].ports[0].port: Invalid value: 0",
            "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
        ],
    );
    let slice = |fields: Value| object("discovery.k8s.io/v1", "EndpointSlice", fields);
    check(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}, {}], "ports": [{}, {}]}),
        &[
            "ports[1].name: Duplicate value: \"\"",
            "endpoints[0].addresses: Invalid value: \"::1\": must be an IPv4 address",
            "endpoints[0].addresses[0]: Invalid value: \"::1\": may not be in the loopback range",
            "endpoints[1].addresses: Required value: must contain at least 1 address",
        ],
    );
    let good = slice(
        json!({"addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3.4"]}], "ports": [{"port": 1}]}),
    );
    let mut world = World::new();
    let old = world.made(good.clone());
    expect_part(
        &old,
        &json!({"metadata": {"generation": 1}, "ports": [{"name": "", "port": 1, "protocol": "TCP"}]}),
    );
    let same =
        world.update("", &old, |new| new["metadata"]["annotations"] = json!({"a": "b"})).expect("same");
    let other = world.update("", &old, |new| new["endpoints"] = json!([])).expect("other");
    assert_eq!((&same["metadata"]["generation"], &other["metadata"]["generation"]), (&json!(1), &json!(2)));
    check_change(
        good,
        "addressType",
        json!("IPv6"),
        &["endpoints", "addressType: Invalid value: \"IPv6\": field is immutable"][1..],
    );
}

#[test]
fn classes() {
    let version = "scheduling.k8s.io/v1";
    let made = json!({"preemptionPolicy": "PreemptLowerPriority", "metadata": {"generation": 1}});
    check_made(version, "PriorityClass", json!({"value": 5}), made);
    check(
        version,
        "PriorityClass",
        json!({"value": 1_000_000_001}),
        &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
    );
    check(
        version,
        "PriorityClass",
        json!({"metadata": {"name": "system-x"}}),
        &[
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. \
           error: system-x is not a known system priority class",
        ],
    );
    let class = object(version, "PriorityClass", json!({"value": 5}));
    check_change(class, "value", json!(6), &["value: Forbidden: may not be changed in an update."]);
    let mut world = World::new();
    world.made(object(
        version,
        "PriorityClass",
        json!({"metadata": {"name": "first"}, "value": 1, "globalDefault": true}),
    ));
    expect_broken(
        &world.create(object(version, "PriorityClass", json!({"value": 1, "globalDefault": true}))),
        &[
            "403 priorityclasses.scheduling.k8s.io \"x\" is forbidden: PriorityClass first is already marked as default. \
           Only one default can exist",
        ],
    );
    let class = object("node.k8s.io/v1", "RuntimeClass", json!({"handler": "runc"}));
    check("node.k8s.io/v1", "RuntimeClass", json!({}), &["handler: Required value"]);
    check(
        "node.k8s.io/v1",
        "RuntimeClass",
        json!({"handler": "a.b"}),
        &["handler: Invalid value: \"a.b\": must not"],
    );
    check_change(class, "handler", json!("kata"), &["handler: Invalid value: \"kata\": field is immutable"]);
}

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

#[test]
fn signing_requests() {
    let version = "certificates.k8s.io/v1";
    let kind = "CertificateSigningRequest";
    let pem = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";
    let spec = json!({"request": pem, "signerName": "a.b/c", "usages": ["client auth"], "username": "root"});
    let mut world = World::new();
    let old = world.made(object(version, kind, json!({"spec": spec, "status": {"certificate": "AA=="}})));
    expect_part(
        &old,
        &json!({"spec": {"username": "jane", "groups": ["dev", "system:authenticated"]}, "status": {}}),
    );
    check(
        version,
        kind,
        json!({"spec": {"usages": ["x"], "signerName": "y"}}),
        &[
            "spec.request: Invalid value: null: PEM block type must be CERTIFICATE REQUEST",
            "spec.usages[0]: Unsupported value: \"x\"",
            "spec.signerName: Invalid value: \"y\": must be a fully qualified domain",
        ],
    );
    let approved = json!([{"type": "Approved", "status": "True"}]);
    let forbidden = "status.conditions: Forbidden: updates may not add a condition of type \"Approved\"";
    expect_broken(
        &world.update("status", &old, |new| new["status"]["conditions"] = approved.clone()),
        &[forbidden],
    );
    let ignored =
        world.update("", &old, |new| new["status"]["conditions"] = approved.clone()).expect("unchanged");
    assert_eq!(ignored["status"], json!({}));
    let approval = world
        .update("approval", &old, |new| {
            new["status"] = json!({"conditions": approved, "certificate": "AA=="})
        })
        .expect("approved");
    assert_eq!(approval["status"].get("certificate"), None);
    let stamped =
        json!({"lastUpdateTime": "2026-02-03T04:05:06Z", "lastTransitionTime": "2026-02-03T04:05:06Z"});
    expect_part(&approval["status"]["conditions"][0], &stamped);
    expect_broken(
        &world.update("approval", &approval, |new| new["status"]["conditions"][0]["type"] = json!("Denied")),
        &["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""],
    );
    let signed = world.update("status", &approval, |new| new["status"]["certificate"] = json!("AAAA"));
    expect_part(&signed.expect("signed")["status"], &json!({"certificate": "AAAA"}));
}

#[test]
fn budgets_and_devices() {
    let version = "policy/v1";
    let budget = object(version, "PodDisruptionBudget", json!({"spec": {"minAvailable": 1}}));
    check(
        version,
        "PodDisruptionBudget",
        json!({"spec": {"minAvailable": "101%", "maxUnavailable": "x",
            "selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}}),
        &[
            "spec: Invalid value: ",
            "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%",
            "spec.maxUnavailable: Invalid value: \"x\": a valid percent string",
            "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator`",
        ],
    );
    let mut world = World::new();
    let old = world.made(budget);
    let new = world.update("", &old, |new| new["spec"]["minAvailable"] = json!(2)).expect("changed");
    assert_eq!((&old["metadata"]["generation"], &new["metadata"]["generation"]), (&json!(1), &json!(2)));
    let device = json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}});
    let claim = object("resource.k8s.io/v1", "ResourceClaim", json!({"spec": device}));
    let made = world.made(claim);
    let exact = json!({"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1});
    assert_eq!(made["spec"]["devices"]["requests"][0]["exactly"], exact);
    expect_broken(
        &world.update("", &made, |new| new["spec"] = json!({})),
        &["spec: Invalid value: {}: field is immutable"],
    );
    check(
        "resource.k8s.io/v1",
        "ResourceSlice",
        json!({}),
        &["spec.driver: Required", "spec.pool.name: Required"],
    );
}

#[test]
fn built_in_objects_are_good() {
    let world = World::new();
    let mut objects = builtin::namespaces();
    objects.extend(builtin::priority_classes());
    objects.push(builtin::kubernetes_service(&world.settings, 6443));
    objects.push(builtin::default_service_account("default"));
    objects.push(builtin::root_ca_config_map("default", &world.settings));
    for object in objects {
        expect_broken(&world.create(object), &[]);
    }
}

#[test]
fn some_kinds_are_made_by_an_update() {
    let found = |kinds: &dyn Fn(&Resource) -> bool| {
        kinds::all().iter().filter(|r| kinds(r)).map(|r| r.plural).collect::<Vec<_>>()
    };
    assert_eq!(
        found(&created_by_update),
        ["endpoints", "events", "services", "leases", "events", "runtimeclasses"]
    );
    assert!(found(&returns_deleted).contains(&"pods") && !found(&returns_deleted).contains(&"configmaps"));
}
