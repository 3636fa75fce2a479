//! Create, get, update, delete of objects; what is not served; forms of answers.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_object_lives() {
    let server = Server::new().await;
    let made = server
        .check(
            &format!("POST {MAPS} user-agent:kubectl/v1.36.0"),
            config_map("a", json!({"x": "1"})),
            201,
            json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"x": "1"}, "metadata": {
                "name": "a", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{"manager": "kubectl", "operation": "Update", "apiVersion": "v1"}],
            }}),
        )
        .await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    assert!(version.parse::<u64>().unwrap() > 1);
    assert_eq!(server.get(&format!("{MAPS}/a")).await, made);
    let again = json!({"reason": "AlreadyExists", "message": "configmaps \"a\" already exists",
                       "details": {"name": "a", "kind": "configmaps"}});
    server.check(&format!("POST {MAPS}"), config_map("a", json!({})), 409, again).await;

    // The same again is no change.
    let same = server.check(&format!("PUT {MAPS}/a"), made.clone(), 200, json!({})).await;
    assert_eq!(same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);

    let mut changed = made.clone();
    changed["data"]["x"] = json!("2");
    let stored =
        server.check(&format!("PUT {MAPS}/a"), changed.clone(), 200, json!({"data": {"x": "2"}})).await;
    assert_ne!(stored["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    changed["data"]["x"] = json!("3");
    let message = "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
                   changes to the latest version and try again";
    server
        .check(&format!("PUT {MAPS}/a"), changed, 409, json!({"reason": "Conflict", "message": message}))
        .await;
    server
        .check(&format!("PUT {MAPS}/b"), config_map("b", json!({})), 404, json!({"reason": "NotFound"}))
        .await;

    let gone = json!({"kind": "Status", "status": "Success", "details": {
        "name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}});
    server.check(&format!("DELETE {MAPS}/a"), Value::Null, 200, gone).await;
    let message = json!({"message": "configmaps \"a\" not found", "code": 404, "status": "Failure"});
    server.check(&format!("GET {MAPS}/a"), Value::Null, 404, message).await;
}

#[tokio::test(start_paused = true)]
async fn names_are_generated() {
    let server = Server::new().await;
    let mut names = BTreeSet::new();
    for _ in 0..20 {
        let body = json!({"metadata": {"generateName": "a-"}});
        let made = server.check(&format!("POST {MAPS}"), body, 201, json!({})).await;
        names.insert(made["metadata"]["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(names.len(), 20);
    assert!(names.iter().all(|name| name.len() == 7 && name.starts_with("a-")));
}

#[tokio::test(start_paused = true)]
async fn a_put_makes_what_may_be_made_so() {
    let server = Server::new().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    server.check(&format!("PUT {leases}/l"), lease.clone(), 201, json!({"kind": "Lease"})).await;
    let message = json!({"message": "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid \
                                     value: 0: must be specified for an update"});
    server.check(&format!("PUT {leases}/l"), lease, 422, message).await;
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_leaves_nothing() {
    let server = Server::new().await;
    let before = server.api.store().revision();
    let dry = server
        .check(
            &format!("POST {MAPS}?dryRun=All"),
            config_map("a", json!({"x": "1"})),
            201,
            json!({"data": {"x": "1"}}),
        )
        .await;
    assert!(dry["metadata"]["uid"].is_string());
    assert!(dry["metadata"].get("resourceVersion").is_none());
    server.check(&format!("GET {MAPS}/a"), Value::Null, 404, json!({})).await;
    server.check(&format!("POST {MAPS}?dryRun=x"), config_map("a", json!({})), 422, json!({
        "message": "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"x\"]: supported values: \
                    \"All\""})).await;
    assert_eq!(server.api.store().revision(), before);
    server.check(&format!("POST {MAPS}"), config_map("a", json!({})), 201, json!({})).await;
    server
        .check(&format!("DELETE {MAPS}/a"), json!({"dryRun": ["All"]}), 200, json!({"status": "Success"}))
        .await;
    server.check(&format!("GET {MAPS}/a"), Value::Null, 200, json!({})).await;
}

#[tokio::test(start_paused = true)]
async fn unknown_fields_are_told_of() {
    let server = Server::new().await;
    let odd = || json!({"metadata": {"name": "a"}, "dat": {}}).to_string();
    let answer = server.ask(&format!("POST {MAPS}?dryRun=All"), odd()).await;
    assert_eq!((answer.code, answer.header("warning")), (201, "299 - \"unknown field \\\"dat\\\"\""));
    let answer = server.ask(&format!("POST {MAPS}?dryRun=All&fieldValidation=Ignore"), odd()).await;
    assert_eq!((answer.code, answer.header("warning")), (201, ""));
    let message = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \
                   \"dat\"";
    let line = format!("POST {MAPS}?fieldValidation=Strict");
    server.check(&line, json!(odd()), 400, json!({"message": message, "reason": "BadRequest"})).await;
}

#[tokio::test(start_paused = true)]
async fn namespaces_hold_their_objects() {
    let server = Server::new().await;
    server
        .check(
            "POST /api/v1/namespaces/no/configmaps",
            config_map("a", json!({})),
            404,
            json!({
            "message": "namespaces \"no\" not found"}),
        )
        .await;
    server
        .check(
            "POST /api/v1/namespaces",
            json!({"metadata": {"name": "b"}}),
            201,
            json!({
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
        )
        .await;
    let marked = server
        .check(
            "DELETE /api/v1/namespaces/b",
            Value::Null,
            200,
            json!({
        "kind": "Namespace", "status": {"phase": "Terminating"}}),
        )
        .await;
    let message = "configmaps \"a\" is forbidden: unable to create new content in namespace b because it is being \
                   terminated";
    server
        .check(
            "POST /api/v1/namespaces/b/configmaps",
            config_map("a", json!({})),
            403,
            json!({
        "message": message, "details": {"causes": [{"reason": "NamespaceTerminating"}]}}),
        )
        .await;
    let mut done = marked;
    done["spec"]["finalizers"] = json!([]);
    server.check("PUT /api/v1/namespaces/b/finalize", done, 200, json!({"kind": "Namespace"})).await;
    server.check("GET /api/v1/namespaces/b", Value::Null, 404, json!({})).await;
    server
        .check(
            "DELETE /api/v1/namespaces/default",
            Value::Null,
            403,
            json!({
        "message": "namespaces \"default\" is forbidden: this namespace may not be deleted"}),
        )
        .await;
}

#[tokio::test(start_paused = true)]
async fn finalizers_delay_the_end() {
    let server = Server::new().await;
    let mut map = config_map("a", json!({}));
    map["metadata"]["finalizers"] = json!(["example.com/wait"]);
    server.check(&format!("POST {MAPS}"), map, 201, json!({})).await;
    server
        .check(
            &format!("DELETE {MAPS}/a"),
            Value::Null,
            200,
            json!({
        "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}}),
        )
        .await;
    let patch = json!({"metadata": {"finalizers": null}});
    server.check(&format!("PATCH {MAPS}/a merge"), patch, 200, json!({"kind": "ConfigMap"})).await;
    server.check(&format!("GET {MAPS}/a"), Value::Null, 404, json!({})).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_says_so() {
    let server = Server::new().await;
    let cases = [
        ("GET /api/v1/nothings", 404, "NotFound"),
        ("GET /api/v2/pods", 404, "NotFound"),
        ("GET /apis/apps/v1/deployments", 404, "NotFound"),
        ("POST /apis/apps/v1/namespaces/default/deployments", 404, "NotFound"),
        ("GET /apis/certificates.k8s.io/v1/certificatesigningrequests", 404, "NotFound"),
        ("GET /api/v1/namespaces/default/nodes", 404, "NotFound"),
        ("GET /api/v1/pods/x", 404, "NotFound"),
        ("GET /api/v1/namespaces/default/pods/x/nothing", 404, "NotFound"),
        ("GET /api/v1/namespaces/default/configmaps/x/status", 404, "NotFound"),
        ("GET /api/v1/namespaces/default/pods/../secrets", 404, "NotFound"),
        ("GET /api/v1/namespaces/default/pods/%zz", 400, "BadRequest"),
        ("POST /api/v1/pods", 405, "MethodNotAllowed"),
        ("POST /api/v1/namespaces/default/pods/x", 405, "MethodNotAllowed"),
        ("DELETE /api/v1/namespaces", 405, "MethodNotAllowed"),
        ("PUT /api/v1/namespaces/default/pods", 405, "MethodNotAllowed"),
        ("OPTIONS /api/v1/namespaces/default/pods", 405, "MethodNotAllowed"),
        ("GET /api/v1/pods accept:application/vnd.kubernetes.protobuf", 406, "NotAcceptable"),
        ("POST /api/v1/namespaces content-type:application/cbor", 415, "UnsupportedMediaType"),
        ("PATCH /api/v1/namespaces/default content-type:application/json", 415, "UnsupportedMediaType"),
        ("POST /api/v1/namespaces content-length:9999999", 413, "RequestEntityTooLarge"),
    ];
    for (line, code, reason) in cases {
        server
            .check(line, Value::Null, code, json!({"kind": "Status", "reason": reason, "code": code}))
            .await;
    }
    let answer = server.ask("GET /apis/apps/v1/deployments", "").await.text();
    assert!(answer.contains("deployments.apps are not served"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn objects_come_in_the_form_asked_for() {
    let server = Server::new().await;
    server.check(&format!("POST {MAPS}"), config_map("a", json!({"x": "1"})), 201, json!({})).await;
    server
        .check(
            &format!("GET {MAPS}/a metadata"),
            Value::Null,
            200,
            json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "a"},
        "data": null}),
        )
        .await;
    let table = server
        .check(
            &format!("GET {MAPS}/a table"),
            Value::Null,
            200,
            json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1"}),
        )
        .await;
    assert_eq!(table["rows"][0]["cells"][0], "a");
    server.check(&format!("GET {MAPS}/a?includeObject=x table"), Value::Null, 400, json!({})).await;
    let yaml = server.ask(&format!("GET {MAPS}/a yaml"), "").await;
    assert_eq!(yaml.header("content-type"), "application/yaml");
    assert!(yaml.text().contains("data:\n  x: \"1\"\nkind: ConfigMap\n"), "{}", yaml.text());
    let pretty = server.ask(&format!("GET {MAPS}/a?pretty=true"), "").await;
    assert!(pretty.text().contains("\n  \"kind\": \"ConfigMap\",\n"), "{}", pretty.text());
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: w}\ndata:\n  a: b\n";
    server
        .check(
            &format!("POST {MAPS} content-type:application/yaml"),
            json!(yaml),
            201,
            json!({"data": {"a": "b"}}),
        )
        .await;
    let head = server.ask(&format!("HEAD {MAPS}/a"), "").await;
    assert_eq!((head.code, head.bytes.len()), (200, 0));
}

#[tokio::test(start_paused = true)]
async fn events_have_two_faces() {
    let server = Server::new().await;
    let core = "/api/v1/namespaces/default/events";
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "note": "hello",
        "eventTime": "2026-01-01T00:00:00.000001Z", "reportingController": "example.com/c",
        "reportingInstance": "i", "action": "Do", "reason": "Done", "type": "Normal",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"},
    });
    server
        .check(&format!("POST {new}"), event, 201, json!({"note": "hello", "apiVersion": "events.k8s.io/v1"}))
        .await;
    server
        .check(
            &format!("GET {core}/e"),
            Value::Null,
            200,
            json!({
        "apiVersion": "v1", "message": "hello", "involvedObject": {"name": "p"}}),
        )
        .await;
    server
        .check(
            &format!("GET {new}"),
            Value::Null,
            200,
            json!({
        "kind": "EventList", "apiVersion": "events.k8s.io/v1", "items": [{"note": "hello"}]}),
        )
        .await;
    let line = format!("GET {core}?fieldSelector=involvedObject.name%3Dp");
    server.check(&line, Value::Null, 200, json!({"items": [{"message": "hello"}]})).await;
    server
        .check(
            &format!("PATCH {new}/e merge"),
            json!({"series": {"count": 2,
        "lastObservedTime": "2026-01-01T00:00:01.000000Z"}}),
            200,
            json!({"series": {"count": 2}, "note": "hello"}),
        )
        .await;
}

#[tokio::test(start_paused = true)]
async fn collections_are_deleted() {
    let server = Server::new().await;
    for (name, label) in [("a", "1"), ("b", "2"), ("c", "1")] {
        let mut map = config_map(name, json!({}));
        map["metadata"]["labels"] = json!({"l": label});
        server.check(&format!("POST {MAPS}"), map, 201, json!({})).await;
    }
    server
        .check(
            &format!("DELETE {MAPS}?labelSelector=l%3D1"),
            Value::Null,
            200,
            json!({
        "kind": "ConfigMapList", "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "c"}}]}),
        )
        .await;
    server
        .check(&format!("GET {MAPS}"), Value::Null, 200, json!({"items": [{"metadata": {"name": "b"}}]}))
        .await;
}

#[tokio::test(start_paused = true)]
async fn deletions_are_held_to_what_they_say() {
    let server = Server::new().await;
    let made = server.check(&format!("POST {MAPS}"), config_map("a", json!({})), 201, json!({})).await;
    let wrong = json!({"preconditions": {"uid": "other"}});
    server.check(&format!("DELETE {MAPS}/a"), wrong, 409, json!({"reason": "Conflict"})).await;
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
    server.check(&format!("DELETE {MAPS}/a"), both, 422, json!({"reason": "Invalid"})).await;
    server.check(&format!("DELETE {MAPS}/a?propagationPolicy=Never"), Value::Null, 422, json!({
        "message": "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Never\": supported \
                    values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""})).await;
    server.check(&format!("DELETE {MAPS}/a"), json!([1]), 400, json!({})).await;
    server
        .check(
            &format!("DELETE {MAPS}/a"),
            json!({"propagationPolicy": "Foreground"}),
            200,
            json!({
        "metadata": {"finalizers": ["foregroundDeletion"], "uid": made["metadata"]["uid"]}}),
        )
        .await;
}

#[tokio::test(start_paused = true)]
async fn reviews_are_answered() {
    let server = Server::new().await;
    server
        .check(
            "POST /apis/authentication.k8s.io/v1/selfsubjectreviews",
            json!({}),
            201,
            json!({
            "status": {"userInfo": {"username": "kubernetes-admin",
                                    "groups": ["system:masters", "system:authenticated"]}}}),
        )
        .await;
    server
        .check(
            "POST /apis/authentication.k8s.io/v1/tokenreviews",
            json!({"spec": {"token": "x"}}),
            201,
            json!({
            "kind": "TokenReview", "status": {"authenticated": false}}),
        )
        .await;
    let access = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let spec = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    server.check(access, spec, 201, json!({"status": {"allowed": true}})).await;
    server.check(access, json!({"spec": {}}), 422, json!({"reason": "Invalid"})).await;
    server
        .check("GET /apis/authentication.k8s.io/v1/tokenreviews", Value::Null, 405, json!({"code": 405}))
        .await;
    let token = "POST /api/v1/namespaces/default/serviceaccounts/default/token";
    server
        .check(
            token,
            json!({"spec": {"audiences": []}}),
            500,
            json!({
        "message": "this server has no key to sign tokens with"}),
        )
        .await;
    let bound = json!({"spec": {"audiences": [], "boundObjectRef": {"kind": "Pod", "name": "p"}}});
    server.check(token, bound, 404, json!({"message": "pods \"p\" not found"})).await;
}
