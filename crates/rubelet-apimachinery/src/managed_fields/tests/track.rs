//! What other writes do to the record of owners.

use serde_json::{Value, json};

use super::super::{keep_times, manager_name};
use super::Object;

#[test]
fn writers_own_what_they_change() {
    let mut it = Object::config_map();
    it.write("one", "", |o| o["data"] = json!({"a": "1", "b": "2"}));
    it.check(&["one Update 1: .data .data.a .data.b"]);
    it.write("two", "", |o| o["data"] = json!({"a": "1", "b": "3", "c": "4"}));
    it.check(&["one Update 1: .data .data.a", "two Update 2: .data.b .data.c"]);
    // Writing the same again takes nothing and is at no time.
    it.write("three", "", |_| {});
    it.write("one", "", |o| o["data"]["b"] = json!("5"));
    it.check(&["two Update 2: .data.c", "one Update 4: .data .data.a .data.b"]);
    it.write("three", "", |o| {
        *o = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"uid": "u"}})
    });
    it.check(&[]);
}

#[test]
fn creation_owns_what_the_empty_object_does_not_have() {
    let mut it = Object::new("v1", "Pod");
    it.write("kubectl-create", "", |o| {
        o["metadata"]["labels"] = json!({"a": "b"});
        o["spec"] = json!({"containers": [{"name": "web", "resources": {}}], "restartPolicy": "Always"});
        o["status"] = json!({});
    });
    it.check(&["kubectl-create Update 1: .metadata.labels .metadata.labels.a .spec.restartPolicy \
        .spec.containers[name=\"web\"] .spec.containers[name=\"web\"].name .spec.containers[name=\"web\"].resources"]);
    assert_eq!(
        it.get("/metadata/managedFields"),
        json!([{
            "manager": "kubectl-create", "operation": "Update", "apiVersion": "v1", "time": "1970-01-01T00:00:01Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:name": {}, "f:resources": {}}},
                    "f:restartPolicy": {},
                },
            },
        }])
    );
}

#[test]
fn subresources_have_entries_of_their_own() {
    let mut it = Object::new("v1", "Pod");
    it.write("kubelet", "", |o| {
        o["spec"] = json!({"nodeName": "n"});
        o["status"] = json!({});
    });
    it.write("kubelet", "status", |o| {
        o["metadata"]["managedFields"] = json!([]);
        o["metadata"]["labels"] = json!({"a": "b"});
        o["spec"]["nodeName"] = json!("other");
        o["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    });
    it.check(&[
        "kubelet Update 1: .spec.nodeName",
        "kubelet Update/status 2: .metadata.labels .metadata.labels.a .status.conditions .status.phase \
         .status.conditions[type=\"Ready\"] .status.conditions[type=\"Ready\"].status \
         .status.conditions[type=\"Ready\"].type",
    ]);
    assert_eq!(it.get("/metadata/managedFields/1/subresource"), "status");
}

fn entry(manager: &str, fields: Value) -> Value {
    json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields})
}

#[test]
fn clients_may_send_entries() {
    let mut it = Object::config_map();
    it.write("one", "", |o| o["data"] = json!({"a": "1"}));
    it.write("two", "", |o| {
        o["data"]["a"] = json!("2");
        o["metadata"]["managedFields"] = json!([entry("sent", json!({"f:data": {"f:a": {}, "f:z": {}}}))]);
    });
    it.check(&["sent Update -: .data.z", "two Update 2: .data.a"]);
    // What cannot be read, is null or not there counts as not sent.
    let mut bad = vec![Value::Null, json!("x"), json!([1]), json!([{"manager": "x"}])];
    bad.push(json!([entry("x", json!({"bad": {}}))]));
    bad.push(json!([entry("x", json!({"k:[": {}}))]));
    let mut odd = entry("x", json!({}));
    odd["fieldsType"] = json!("FieldsV2");
    bad.push(json!([odd]));
    for sent in bad {
        it.write("two", "", |o| o["metadata"]["managedFields"] = sent);
        it.check(&["sent Update -: .data.z", "two Update 2: .data.a"]);
    }
    it.write("two", "", |o| o["metadata"]["managedFields"] = json!([]));
    it.check(&[]);
    assert_eq!(it.get("/metadata/managedFields"), Value::Null);
}

#[test]
fn old_entries_are_merged() {
    let mut it = Object::config_map();
    for index in 0..15 {
        it.write(&format!("m{index:02}"), "", |o| o["data"][format!("k{index:02}")] = json!("v"));
    }
    let owners = it.owners();
    assert_eq!(owners.len(), 10);
    assert_eq!(
        owners[0],
        "ancient-changes Update 6: .data .data.k00 .data.k01 .data.k02 .data.k03 .data.k04 .data.k05"
    );
    assert_eq!(owners[9], "m14 Update 15: .data.k14");
    // Appliers do not count.
    it.apply("one", json!({"data": {"x": "1"}}));
    assert_eq!(it.owners().len(), 11);
}

#[test]
fn managers_are_named_by_the_client() {
    assert_eq!(manager_name("me", "kubectl/v1"), "me");
    assert_eq!(manager_name("", "kubectl/v1.35 (linux/amd64)"), "kubectl");
    assert_eq!(manager_name("", "a\tb c"), "ab c");
    assert_eq!(manager_name("", &"é".repeat(100)), "é".repeat(64));
    let mut it = Object::config_map();
    it.write("", "", |o| o["data"] = json!({"a": "1"}));
    it.check(&["unknown Update 1: .data .data.a"]);
}

#[test]
fn times_alone_are_no_change() {
    let object = |time: &str, value: &str, version: &str| {
        let mut entry = entry("one", json!({"f:data": {"f:a": {}}}));
        entry["time"] = json!(time);
        json!({"metadata": {"managedFields": [entry], "resourceVersion": version}, "data": {"a": value}})
    };
    let (early, late) = ("2024-01-01T00:00:00Z", "2024-01-01T00:00:09Z");
    let old = object(early, "1", "7");
    let mut same = object(late, "1", "");
    keep_times(&old, &mut same);
    assert_eq!(same, object(early, "1", ""));
    let mut other = object(late, "2", "");
    keep_times(&old, &mut other);
    assert_eq!(other, object(late, "2", ""));
}
