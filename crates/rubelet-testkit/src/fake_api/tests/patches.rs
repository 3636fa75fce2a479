//! The three kinds of patches, as tables.

use serde_json::{Value, json};

use crate::fake_api::patch;

const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON: &str = "application/json-patch+json";

#[track_caller]
fn check(kind: &str, content_type: &str, before: Value, patch: Value, after: Value) {
    let patched = patch::apply(kind, &before, content_type, patch.to_string().as_bytes()).unwrap();
    assert_eq!(patched, after);
}

#[track_caller]
fn refused(kind: &str, content_type: &str, before: Value, patch: Value) -> u16 {
    patch::apply(kind, &before, content_type, patch.to_string().as_bytes()).unwrap_err().code
}

#[test]
fn merge_patches_replace_lists_and_remove_by_null() {
    check(
        "Pod",
        MERGE,
        json!({"a": {"b": 1, "c": 2}}),
        json!({"a": {"b": null, "d": 3}}),
        json!({"a": {"c": 2, "d": 3}}),
    );
    check("Pod", MERGE, json!({"l": [1, 2]}), json!({"l": [3]}), json!({"l": [3]}));
    check("Pod", MERGE, json!({"a": 1}), json!({"a": {"b": null}}), json!({"a": {}}));
}

#[test]
fn json_patches_change_by_path() {
    check(
        "Pod",
        JSON,
        json!({"a": [1, 3], "b~/": 1}),
        json!([
            {"op": "test", "path": "/a/0", "value": 1},
            {"op": "add", "path": "/a/1", "value": 2},
            {"op": "add", "path": "/a/-", "value": 4},
            {"op": "remove", "path": "/b~0~1"},
            {"op": "copy", "from": "/a/0", "path": "/c"},
            {"op": "replace", "path": "/c", "value": 9},
        ]),
        json!({"a": [1, 2, 3, 4], "c": 9}),
    );
    assert_eq!(refused("Pod", JSON, json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 2}])), 422);
    assert_eq!(refused("Pod", JSON, json!({}), json!([{"op": "remove", "path": "/a"}])), 422);
    assert_eq!(refused("Pod", "application/json", json!({}), json!({})), 415);
}

#[test]
fn conditions_merge_by_type() {
    let before = json!({"status": {"conditions": [
        {"type": "Ready", "status": "False", "reason": "X"}, {"type": "Custom", "status": "True"}]}});
    check(
        "Pod",
        STRATEGIC,
        before.clone(),
        json!({"status": {"$setElementOrder/conditions": [{"type": "Custom"}, {"type": "Ready"}],
               "conditions": [{"type": "Ready", "status": "True", "reason": null}]}}),
        json!({"status": {"conditions": [{"type": "Custom", "status": "True"}, {"type": "Ready", "status": "True"}]}}),
    );
    check(
        "Node",
        STRATEGIC,
        before.clone(),
        json!({"status": {"conditions": [{"$patch": "delete", "type": "Custom"}, {"type": "New", "status": "True"}]}}),
        json!({"status": {"conditions": [
            {"type": "Ready", "status": "False", "reason": "X"}, {"type": "New", "status": "True"}]}}),
    );
    check(
        "Node",
        STRATEGIC,
        before.clone(),
        json!({"status": {"conditions": [{"type": "Only", "status": "True"}, {"$patch": "replace"}]}}),
        json!({"status": {"conditions": [{"type": "Only", "status": "True"}]}}),
    );
    assert_eq!(
        refused("Pod", STRATEGIC, before, json!({"status": {"conditions": [{"status": "True"}]}})),
        400
    );
}

#[test]
fn what_has_no_merge_key_is_replaced_whole() {
    check(
        "Node",
        STRATEGIC,
        json!({"spec": {"taints": [{"key": "a"}]}, "status": {"images": [1], "volumesAttached": [{"name": "v"}]}}),
        json!({"spec": {"taints": [{"key": "b"}]}, "status": {"images": [2], "volumesAttached": null}}),
        json!({"spec": {"taints": [{"key": "b"}]}, "status": {"images": [2]}}),
    );
    check(
        "Pod",
        STRATEGIC,
        json!({"status": {"containerStatuses": [{"name": "a"}, {"name": "b"}]}}),
        json!({"status": {"containerStatuses": [{"name": "a", "ready": true}]}}),
        json!({"status": {"containerStatuses": [{"name": "a", "ready": true}]}}),
    );
}

#[test]
fn addresses_and_owners_merge_by_their_keys() {
    // Two addresses of one type: the second patch item lands on the first stored one, as in a real server.
    check(
        "Node",
        STRATEGIC,
        json!({"status": {"addresses": [{"type": "InternalIP", "address": "1.1.1.1"}]}}),
        json!({"status": {"addresses": [{"type": "InternalIP", "address": "2.2.2.2"}, {"type": "Hostname", "address": "n"}]}}),
        json!({"status": {"addresses": [{"type": "InternalIP", "address": "2.2.2.2"}, {"type": "Hostname", "address": "n"}]}}),
    );
    check(
        "Pod",
        STRATEGIC,
        json!({"status": {"podIPs": [{"ip": "10.0.0.1"}]}}),
        json!({"status": {"podIPs": [{"ip": "10.0.0.2"}]}}),
        json!({"status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}}),
    );
    check(
        "Pod",
        STRATEGIC,
        json!({"metadata": {"finalizers": ["a", "b"], "ownerReferences": [{"uid": "1", "name": "x"}]}}),
        json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"],
               "ownerReferences": [{"uid": "1", "name": "y"}]}}),
        json!({"metadata": {"finalizers": ["b", "c"], "ownerReferences": [{"uid": "1", "name": "y"}]}}),
    );
}

#[test]
fn maps_are_replaced_retained_and_deleted_by_directive() {
    check(
        "Pod",
        STRATEGIC,
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}}),
        json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}}),
    );
    check(
        "Node",
        STRATEGIC,
        json!({"m": {"a": 1}}),
        json!({"m": {"$patch": "replace", "b": 2}}),
        json!({"m": {"b": 2}}),
    );
    check("Node", STRATEGIC, json!({"m": {"a": 1}}), json!({"m": {"$patch": "delete"}}), json!({}));
    check(
        "Pod",
        STRATEGIC,
        json!({"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}]}}),
        json!({"spec": {"containers": [{"name": "c", "env": [{"name": "B", "value": "2"}]}]}}),
        json!({"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]}}),
    );
}
