//! What is special of pods: their end, binding, eviction, the streams of the node.

use super::*;

async fn make(server: &Server, name: &str, containers: &[&str]) -> Value {
    server
        .check(&format!("POST {PODS}"), pod(name, containers), 201, json!({"status": {"phase": "Pending"}}))
        .await
}

fn binding(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
           "target": {"kind": "Node", "name": node}})
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_once() {
    let server = Server::new().await;
    make(&server, "p", &["c"]).await;
    let success = json!({"kind": "Status", "status": "Success", "code": 201});
    server.check(&format!("POST {PODS}/p/binding"), binding("p", "n1"), 201, success.clone()).await;
    server
        .check(
            &format!("GET {PODS}/p"),
            Value::Null,
            200,
            json!({
        "spec": {"nodeName": "n1"}, "status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}}),
        )
        .await;
    server.check(&format!("POST {PODS}/p/binding"), binding("p", "n2"), 409, json!({
        "message": "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""})).await;
    make(&server, "q", &["c"]).await;
    server.check("POST /api/v1/namespaces/default/bindings", binding("q", "n1"), 201, success).await;
    server.check(&format!("POST {PODS}/no/binding"), binding("no", "n1"), 404, json!({})).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_ends_with_grace() {
    let server = Server::new().await;
    make(&server, "p", &["c"]).await;
    server.check(&format!("POST {PODS}/p/binding"), binding("p", "n1"), 201, json!({})).await;
    server.check(&format!("DELETE {PODS}/p"), json!({"gracePeriodSeconds": 7}), 200, json!({
        "kind": "Pod", "metadata": {"deletionTimestamp": "2026-01-01T00:00:07Z", "deletionGracePeriodSeconds": 7}})).await;
    server
        .check(
            &format!("DELETE {PODS}/p?gracePeriodSeconds=0"),
            Value::Null,
            200,
            json!({
        "kind": "Pod", "metadata": {"deletionGracePeriodSeconds": 0}}),
        )
        .await;
    server.check(&format!("GET {PODS}/p"), Value::Null, 404, json!({})).await;
    // A pod on no node goes at once, and is returned as it last was.
    make(&server, "q", &["c"]).await;
    server.check(&format!("DELETE {PODS}/q"), Value::Null, 200, json!({"kind": "Pod"})).await;
    server.check(&format!("GET {PODS}/q"), Value::Null, 404, json!({})).await;
}

#[tokio::test(start_paused = true)]
async fn eviction_asks_the_budget() {
    let server = Server::new().await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let mut guarded = pod("p", &["c"]);
    guarded["metadata"]["labels"] = json!({"app": "a"});
    server.check(&format!("POST {PODS}"), guarded, 201, json!({})).await;
    server.check(&format!("POST {PODS}/p/binding"), binding("p", "n1"), 201, json!({})).await;
    let running =
        json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    server.check(&format!("PATCH {PODS}/p/status strategic"), running, 200, json!({})).await;
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1,
        "selector": {"matchLabels": {"app": "a"}}}});
    server.check(&format!("POST {budgets}"), budget, 201, json!({})).await;
    let status = |allowed: i64| {
        json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed,
        "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}})
    };
    server.check(&format!("PATCH {budgets}/b/status merge"), status(0), 200, json!({})).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    server
        .check(
            &format!("POST {PODS}/p/eviction"),
            eviction.clone(),
            429,
            json!({
        "reason": "TooManyRequests",
        "message": "Cannot evict pod as it would violate the pod's disruption budget.",
        "details": {"causes": [{"reason": "DisruptionBudget"}]}}),
        )
        .await;
    server.check(&format!("PATCH {budgets}/b/status merge"), status(1), 200, json!({})).await;
    let mut other = eviction.clone();
    other["metadata"]["name"] = json!("q");
    server
        .check(
            &format!("POST {PODS}/p/eviction"),
            other,
            400,
            json!({
        "message": "name in URL does not match name in Eviction object"}),
        )
        .await;
    server.check(&format!("POST {PODS}/p/eviction?dryRun=All"), eviction.clone(), 201, json!({})).await;
    server.check(&format!("POST {PODS}/p/eviction"), eviction, 201, json!({"status": "Success"})).await;
    let evicted = server.get(&format!("{PODS}/p")).await;
    assert!(evicted["metadata"]["deletionTimestamp"].is_string());
    assert!(evicted["status"]["conditions"].to_string().contains("EvictionByEvictionAPI"));
    server
        .check(&format!("GET {budgets}/b"), Value::Null, 200, json!({"status": {"disruptionsAllowed": 0}}))
        .await;
}

#[tokio::test(start_paused = true)]
async fn streams_are_the_nodes() {
    let server = Server::new().await;
    make(&server, "p", &["a", "b"]).await;
    make(&server, "one", &["a"]).await;
    make(&server, "far", &["a"]).await;
    let answer = server.ask(&format!("GET {PODS}/one/log"), "").await;
    assert_eq!((answer.code, answer.text().as_str()), (204, ""));
    server
        .check(
            &format!("POST {PODS}/one/exec?command=x"),
            Value::Null,
            400,
            json!({
        "message": "pod one does not have a host assigned"}),
        )
        .await;
    for (name, node) in [("p", "n1"), ("one", "n1"), ("far", "n2")] {
        server.check(&format!("POST {PODS}/{name}/binding"), binding(name, node), 201, json!({})).await;
    }
    let cases = [
        ("GET", "no/log", 404, "pods \"no\" not found"),
        ("GET", "p/log", 400, "a container name must be specified for pod p, choose one of: [a b]"),
        ("GET", "p/log?container=c", 400, "container c is not valid for pod p"),
        (
            "POST",
            "p/exec?command=x",
            400,
            "a container name must be specified for pod p, choose one of: [a b]",
        ),
        (
            "GET",
            "one/log?tailLines=-1",
            422,
            "PodLogOptions \"one\" is invalid: tailLines: Invalid value: -1: must be \
            greater than or equal to 0",
        ),
        ("GET", "one/log?tailLines=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("DELETE", "one/log", 405, "the server does not allow this method on the requested resource (pods)"),
    ];
    for (method, place, code, message) in cases {
        server
            .check(&format!("{method} {PODS}/{place}"), Value::Null, code, json!({"message": message}))
            .await;
    }
    for (line, said) in [
        (format!("GET {PODS}/one/log?follow=true"), "Log one follow=true"),
        (format!("GET {PODS}/p/log?container=b"), "Log p container=b"),
        (format!("POST {PODS}/p/exec?container=b&command=x"), "Exec p container=b&command=x"),
        (format!("GET {PODS}/one/attach"), "Attach one "),
        (format!("POST {PODS}/p/portforward?ports=80"), "PortForward p ports=80"),
    ] {
        let answer = server.ask(&line, "").await;
        assert_eq!((answer.code, answer.text().as_str()), (200, said), "{line}");
    }
    let far = server.ask(&format!("GET {PODS}/far/log"), "").await;
    assert_eq!(far.code, 500);
    assert!(far.json()["message"].as_str().unwrap().contains("n2"), "{}", far.text());
}

#[tokio::test(start_paused = true)]
async fn ephemeral_containers_are_added() {
    let server = Server::new().await;
    make(&server, "p", &["a"]).await;
    let patch = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "busybox"}]}});
    server
        .check(
            &format!("PATCH {PODS}/p/ephemeralcontainers strategic"),
            patch,
            200,
            json!({
        "spec": {"ephemeralContainers": [{"name": "debug"}]}}),
        )
        .await;
    server
        .check(&format!("GET {PODS}/p/ephemeralcontainers"), Value::Null, 200, json!({"kind": "Pod"}))
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_invalid_pod_is_told_why() {
    let server = Server::new().await;
    server
        .check(
            &format!("POST {PODS}"),
            pod("p", &[]),
            422,
            json!({
        "message": "Pod \"p\" is invalid: spec.containers: Required value"}),
        )
        .await;
    make(&server, "p", &["a"]).await;
    let patch = json!({"spec": {"containers": [{"name": "a", "command": ["x"]}]}});
    server.check(&format!("PATCH {PODS}/p strategic"), patch, 422, json!({"reason": "Invalid"})).await;
}
