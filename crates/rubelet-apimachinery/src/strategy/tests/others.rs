//! What is particular to each kind, besides Services, Namespaces and what is about storage.

use super::*;

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
    let mut world = World::new();
    world.user = User::admin();
    let mut objects = builtin::namespaces();
    objects.extend(builtin::priority_classes());
    objects.push(builtin::kubernetes_service([127, 0, 0, 1].into(), 6443));
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

#[test]
fn pods_go_through_the_same_door() {
    let mut world = World::new();
    let mut account = builtin::default_service_account("default");
    account["metadata"]["uid"] = json!("a");
    world.put(account);
    let container = json!({"name": "c", "image": "nginx"});
    let pod = |spec: Value| object("v1", "Pod", json!({"spec": spec}));
    let old = world.made(pod(json!({"containers": [container]})));
    expect_part(
        &old,
        &json!({
            "metadata": {"uid": "uid-1", "namespace": "default", "generation": 1},
            "spec": {"restartPolicy": "Always", "serviceAccountName": "default"}, "status": {"phase": "Pending"},
        }),
    );
    let new = world
        .update("", &old, |new| new["spec"]["containers"][0]["image"] = json!("httpd"))
        .expect("updated");
    expect_part(&new["metadata"], &json!({"uid": "uid-1", "generation": 2, "resourceVersion": "7"}));
    let status = world
        .update("status", &old, |new| {
            new["status"]["phase"] = json!("Running");
            new["spec"]["containers"][0]["image"] = json!("httpd");
        })
        .expect("reported");
    assert_eq!((&status["spec"], &status["status"]["phase"]), (&old["spec"], &json!("Running")));
    expect_broken(&world.create(pod(json!({}))), &["spec.containers: Required value"]);
    expect_broken(
        &world.update("", &old, |new| new["spec"]["nodeName"] = json!("n")),
        &["spec: Forbidden: pod updates may not change fields other than"],
    );
    expect_broken(
        &world.update("", &old, |new| new["metadata"]["labels"] = json!({"a b": ""})),
        &["metadata.labels: Invalid value: \"a b\""],
    );
}
