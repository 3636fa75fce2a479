//! The four kinds of patches, and what they are refused for.

use super::*;

#[tokio::test(start_paused = true)]
async fn patches_change_what_is_there() {
    let server = Server::new().await;
    server.check(&format!("POST {MAPS}"), config_map("a", json!({"x": "1"})), 201, json!({})).await;
    let cases = [
        ("merge", json!({"data": {"y": "2"}}), json!({"x": "1", "y": "2"})),
        ("strategic", json!({"data": {"y": null, "z": "3"}}), json!({"x": "1", "z": "3", "y": null})),
        (
            "jsonpatch",
            json!([{"op": "replace", "path": "/data/x", "value": "9"}]),
            json!({"x": "9", "z": "3"}),
        ),
        ("jsonpatch", json!([{"op": "test", "path": "/data/x", "value": "9"}]), json!({"x": "9"})),
    ];
    for (kind, patch, data) in cases {
        server.check(&format!("PATCH {MAPS}/a {kind}"), patch, 200, json!({"data": data})).await;
    }
    let version = server.get(&format!("{MAPS}/a")).await["metadata"]["resourceVersion"].clone();
    let same =
        server.check(&format!("PATCH {MAPS}/a merge"), json!({"data": {"x": "9"}}), 200, json!({})).await;
    assert_eq!(same["metadata"]["resourceVersion"], version);
}

#[tokio::test(start_paused = true)]
async fn patches_are_refused() {
    let server = Server::new().await;
    server.check(&format!("POST {MAPS}"), config_map("a", json!({"x": "1"})), 201, json!({})).await;
    let cases = [
        ("a merge", json!("{"), 400, "BadRequest"),
        ("a merge", json!([1]), 400, "BadRequest"),
        ("a merge", json!({"data": {"x": 1}}), 422, "Invalid"),
        ("a merge", json!({"metadata": {"name": "b"}}), 400, "BadRequest"),
        ("a merge", json!({"metadata": {"resourceVersion": "1"}}), 409, "Conflict"),
        ("a merge", json!({"kind": "Pod"}), 400, "BadRequest"),
        ("a jsonpatch", json!([{"op": "test", "path": "/data/x", "value": "2"}]), 422, "Invalid"),
        ("b merge", json!({}), 404, "NotFound"),
        ("a?force=true merge", json!({}), 422, "Invalid"),
        ("a apply", json!({}), 422, "Invalid"),
    ];
    for (place, patch, code, reason) in cases {
        let line = format!("PATCH {MAPS}/{place}");
        server.check(&line, patch, code, json!({"kind": "Status", "reason": reason})).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_applied_is_owned() {
    let server = Server::new().await;
    let apply = |manager: &str, rest: &str| format!("PATCH {MAPS}/a?fieldManager={manager}{rest} apply");
    let made = server
        .check(
            &apply("one", ""),
            config_map("a", json!({"x": "1"})),
            201,
            json!({
            "data": {"x": "1"}, "metadata": {"name": "a", "namespace": "default",
                "managedFields": [{"manager": "one", "operation": "Apply"}]}}),
        )
        .await;
    assert!(made["metadata"]["uid"].is_string());
    let again = server.check(&apply("one", ""), config_map("a", json!({"x": "1"})), 200, json!({})).await;
    assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    server.check(&apply("two", ""), config_map("a", json!({"x": "2"})), 409, json!({
        "reason": "Conflict", "details": {"causes": [{"reason": "FieldManagerConflict", "field": ".data.x"}]}})).await;
    server
        .check(
            &apply("two", "&force=true"),
            config_map("a", json!({"x": "2"})),
            200,
            json!({
        "data": {"x": "2"}}),
        )
        .await;
    // YAML is what the content type says.
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  z: '3'\n";
    server.check(&apply("three", ""), json!(yaml), 200, json!({"data": {"x": "2", "z": "3"}})).await;
    // What is no longer applied goes.
    server
        .check(&apply("two", ""), config_map("a", json!({})), 200, json!({"data": {"x": null, "z": "3"}}))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_applied_and_its_status_patched() {
    let server = Server::new().await;
    let line = format!("PATCH {PODS}/p?fieldManager=me apply");
    let made = server.check(&line, pod("p", &["c"]), 201, json!({"status": {"phase": "Pending"}})).await;
    let again = server.check(&line, pod("p", &["c"]), 200, json!({})).await;
    assert_eq!(
        again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"],
        "{made:#}\n{again:#}"
    );
    server
        .check(
            &format!("PATCH {PODS}/p/status strategic"),
            json!({"status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}, "spec": {"nodeName": "x"}}),
            200,
            json!({
            "status": {"phase": "Running"}, "spec": {"nodeName": null}}),
        )
        .await;
}
