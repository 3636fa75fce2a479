//! What comes back is what Go's types make of what was sent.

use serde_json::{Value, json};

use crate::fake_api::normalize::{canonical_quantity, normalize};

#[test]
fn quantities() {
    let table = [
        ("1000m", Some("1")),
        ("0.5", Some("500m")),
        ("1500m", Some("1500m")),
        ("2000", Some("2k")),
        ("0", Some("0")),
        ("0m", Some("0")),
        ("1048576Ki", Some("1Gi")),
        ("1.5Gi", Some("1536Mi")),
        ("16384000Ki", Some("16000Mi")),
        ("8142552Ki", Some("8142552Ki")),
        ("-1500m", Some("-1500m")),
        ("-0.5", Some("-500m")),
        ("x", None),
        ("1Zi", None),
    ];
    for (text, expected) in table {
        assert_eq!(canonical_quantity(text).as_deref(), expected, "{text}");
    }
}

#[track_caller]
fn check(kind: &str, mut sent: Value, returned: Value) {
    normalize(kind, &mut sent);
    assert_eq!(sent, returned);
}

#[test]
fn empty_things_go_and_others_appear() {
    check(
        "Pod",
        json!({"metadata": {"labels": {"a": ""}}, "status": {"reason": "", "conditions": [], "podIP": null,
               "containerStatuses": [{"name": "c", "state": {"waiting": {}}}]}}),
        json!({"metadata": {"labels": {"a": ""}}, "status": {
            "containerStatuses": [{"name": "c", "state": {"waiting": {}}, "lastState": {}, "ready": false,
                "restartCount": 0, "image": "", "imageID": ""}]}}),
    );
    check(
        "Lease",
        json!({"spec": {"renewTime": "2026-01-01T00:00:00.1234567Z"}}),
        json!({"spec": {"renewTime": "2026-01-01T00:00:00.123456Z"}}),
    );
    check(
        "ConfigMap",
        json!({"data": {"startTime": "x", "capacity": ""}}),
        json!({"data": {"startTime": "x", "capacity": ""}}),
    );
    let mut node = json!({"status": {"capacity": {"memory": "1024Ki"}}});
    normalize("Node", &mut node);
    assert_eq!(node["status"]["capacity"]["memory"], "1Mi");
    assert_eq!(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 0);
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "");
}
