//! Server-side apply: scenarios, conflicts, removals.

use serde_json::{Value, json};

use super::Object;

#[test]
fn appliers_share_and_hand_over_fields() {
    let mut it = Object::config_map();
    it.apply("one", json!({"data": {"x": "1", "z": "2"}}));
    it.check(&["one Apply 1: .data.x .data.z"]);
    // Saying the same is owning too; nothing changed, so there is no time.
    it.apply("two", json!({"data": {"x": "1"}}));
    it.check(&["two Apply -: .data.x", "one Apply 1: .data.x .data.z"]);
    it.apply("two", json!({"data": {"w": "5"}}));
    it.check(&["one Apply 1: .data.x .data.z", "two Apply 3: .data.w"]);
    assert_eq!(it.get("/data"), json!({"x": "1", "z": "2", "w": "5"}));
    let error = it.conflict("three", json!({"data": {"x": "9", "w": "0", "z": "2"}}));
    assert_eq!(
        (error.code, error.reason, error.message.as_str()),
        (
            409,
            "Conflict",
            "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.x\nconflicts with \"two\":\n- .data.w"
        )
    );
    assert_eq!(
        error.details["causes"],
        json!([
            {"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.x"},
            {"reason": "FieldManagerConflict", "message": "conflict with \"two\"", "field": ".data.w"},
        ])
    );
    it.force("three", json!({"data": {"x": "9", "w": "0"}}));
    it.check(&["one Apply 1: .data.z", "three Apply 5: .data.w .data.x"]);
    // No longer applied and nobody else's: gone, and the manager with its last field.
    it.apply("one", json!({}));
    assert_eq!(it.get("/data"), json!({"x": "9", "w": "0"}));
    it.check(&["three Apply 5: .data.w .data.x"]);
    let before = it.value.clone();
    it.apply("three", json!({"data": {"x": "9", "w": "0"}}));
    assert_eq!(it.value, before);
}

#[test]
fn conflicts_name_the_writer() {
    let mut it = Object::config_map();
    it.write("kubectl-client-side-apply", "", |o| o["data"] = json!({"key": "1"}));
    let error = it.conflict("me", json!({"data": {"key": "2"}}));
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.key"
    );
    let mut node = Object::new("v1", "Node");
    node.write("kubectl-create", "", |o| o["spec"] = json!({"podCIDR": "10.0.0.0/24"}));
    node.write("kubelet", "status", |o| {
        o["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]})
    });
    let parts = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let error = node.try_apply("ccm", "status", parts, false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubelet\" with subresource \"status\" using v1: \
         .status.conditions[type=\"Ready\"].status"
    );
}

#[test]
fn what_others_hold_stays_and_empty_containers_go() {
    let mut it = Object::config_map();
    it.apply("one", json!({"metadata": {"labels": {"a": "1"}, "annotations": {"a": "1"}}}));
    it.write("editor", "", |o| o["metadata"]["labels"]["b"] = json!("2"));
    it.apply("one", json!({}));
    assert_eq!(it.get("/metadata/labels"), json!({"b": "2"}));
    assert_eq!(it.get("/metadata/annotations"), Value::Null);
    it.check(&["editor Update 2: .metadata.labels.b"]);
}

#[test]
fn items_go_with_their_last_owner() {
    let mut it = Object::new("v1", "Pod");
    let web = json!({"name": "web", "image": "nginx", "ports": [{"containerPort": 80}]});
    it.apply("one", json!({"spec": {"containers": [web.clone(), {"name": "side", "image": "busybox"}]}}));
    it.write("injector", "", |o| o["spec"]["containers"][1]["env"] = json!([{"name": "A", "value": "1"}]));
    it.apply("two", json!({"spec": {"containers": [{"name": "web", "image": "nginx"}]}}));
    it.apply("one", json!({"spec": {"containers": []}}));
    // The other one is still applied by two. Nobody owns this one any more, though the injector had put something in.
    assert_eq!(it.get("/spec/containers"), json!([{"name": "web", "image": "nginx"}]));
    it.check(&["two Apply -: .spec.containers[name=\"web\"] .spec.containers[name=\"web\"].image \
         .spec.containers[name=\"web\"].name"]);
}

#[test]
fn ports_without_protocol_are_tcp() {
    let mut it = Object::new("v1", "Service");
    it.apply("one", json!({"spec": {"ports": [{"port": 53}, {"port": 53, "protocol": "UDP"}]}}));
    // As the defaults fill it in.
    it.value.as_mut().unwrap()["spec"]["ports"][0]["protocol"] = json!("TCP");
    it.apply("one", json!({"spec": {"ports": [{"port": 53, "protocol": "UDP", "name": "u"}, {"port": 53}]}}));
    assert_eq!(
        it.get("/spec/ports"),
        json!([{"port": 53, "protocol": "UDP", "name": "u"}, {"port": 53, "protocol": "TCP"}])
    );
}

#[test]
fn before_first_apply_owns_what_nobody_did() {
    let mut it = Object::config_map();
    it.write("someone", "", |o| o["data"] = json!({"a": "1", "b": "2"}));
    it.write("someone", "", |o| o["metadata"]["managedFields"] = json!([{}]));
    it.check(&[]);
    it.write("someone", "", |o| o["data"]["c"] = json!("3"));
    it.check(&[]);
    let error = it.conflict("one", json!({"data": {"a": "0"}}));
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
    );
    it.apply("one", json!({"data": {"a": "1", "d": "4"}}));
    it.check(&["one Apply 5: .data.a .data.d", "before-first-apply Update 5: .data .data.a .data.b .data.c"]);
}

const LAST: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[test]
fn kubectl_goes_from_client_side_to_server_side() {
    let mut it = Object::config_map();
    let last = it.named(json!({"metadata": {"annotations": {}}, "data": {"a": "1", "b": "2"}}));
    it.write("kubectl-client-side-apply", "", |o| {
        *o = last.clone();
        o["metadata"]["annotations"] = json!({LAST: format!("{last}\n")});
    });
    assert_eq!(it.conflict("other", json!({"data": {"a": "3"}})).code, 409);
    it.apply("kubectl", json!({"data": {"a": "<3>", "b": "2"}}));
    assert_eq!(it.get("/data/a"), json!("<3>"));
    let noted = it.get("/metadata/annotations");
    assert_eq!(
        noted[LAST],
        "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"\\u003c3\\u003e\",\"b\":\"2\"},\"kind\":\"ConfigMap\",\
         \"metadata\":{\"name\":\"it\",\"namespace\":\"here\"}}\n"
    );
    // What somebody changed since is a conflict even so.
    it.write("editor", "", |o| o["data"]["b"] = json!("edited"));
    let error = it.conflict("kubectl", json!({"data": {"a": "<3>", "b": "2"}}));
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"editor\" using v1: .data.b");
}

#[test]
fn paths_take_no_part_in_what_they_reset() {
    let mut it = Object::new("v1", "Service");
    let status = json!({"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}});
    it.apply("one", json!({"spec": {"type": "LoadBalancer"}, "status": status}));
    it.check(&["one Apply 1: .spec.type"]);
    it.try_apply("two", "status", json!({"spec": {"type": "NodePort"}, "status": status}), false).unwrap();
    it.check(&["one Apply 1: .spec.type", "two Apply/status 2: .status.loadBalancer.ingress"]);
}

#[track_caller]
fn check_refused(applied: Value, code: u16, message: &str) {
    let mut it = Object::config_map();
    let by = it.by("one", "");
    let error = super::apply_to(&super::ApplyCall { by, force: false }, None, applied).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (code, message));
}

#[test]
fn what_cannot_be_applied_is_refused() {
    check_refused(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"managedFields": []}}),
        400,
        "metadata.managedFields must be nil",
    );
    check_refused(json!({"apiVersion": "a/v1", "kind": "B"}), 400, "invalid object type: a/v1, Kind=B");
    check_refused(json!([]), 400, "invalid object type: /, Kind=");
    check_refused(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": 1}, "foo": 1}),
        500,
        "failed to create typed patch object (/x; /v1, Kind=ConfigMap): errors:\n  \
         .data.a: expected string, got &value.valueUnstructured{Value:1}\n  .foo: field not declared in schema",
    );
}

#[test]
fn entries_of_dropped_versions_go_and_of_other_versions_stay() {
    let mut it = Object::new("v1", "Event");
    it.apply("one", json!({"reason": "a"}));
    let entry = |version: &str| {
        json!({"manager": "old", "operation": "Update", "apiVersion": version, "fieldsType": "FieldsV1",
            "fieldsV1": {"f:reason": {}}})
    };
    let entries = it.value.as_mut().unwrap()["metadata"]["managedFields"].as_array_mut().unwrap();
    entries.extend([entry("v0"), entry("events.k8s.io/v1")]);
    it.apply("one", json!({"reason": "b"}));
    it.check(&["one Apply 2: .reason", "old Update -: .reason"]);
    assert_eq!(it.get("/metadata/managedFields/1/apiVersion"), "events.k8s.io/v1");
}
