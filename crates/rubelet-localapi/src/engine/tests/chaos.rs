//! Anything at all is answered, and errors are always `Status` objects.

use proptest::prelude::*;

use super::*;

fn path() -> impl Strategy<Value = String> {
    let words = [
        "api",
        "apis",
        "v1",
        "namespaces",
        "default",
        "pods",
        "configmaps",
        "a",
        "status",
        "log",
        "watch",
        "policy",
        "coordination.k8s.io",
        "leases",
        "events",
        "events.k8s.io",
        "token",
        "serviceaccounts",
        "binding",
        "..",
        "%2f",
        "%zz",
        "%00",
        "%ff",
        "",
        "nodes",
        "finalize",
        "eviction",
        "bindings",
        "openapi",
        "v3",
        "v2",
        "readyz",
        "apps",
        "deployments",
        "ephemeralcontainers",
        "x y",
        "tokenreviews",
        "authentication.k8s.io",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..8)
        .prop_map(|parts| format!("/{}", parts.join("/")).replace(' ', "%20"))
}

fn query() -> impl Strategy<Value = String> {
    let keys = [
        "watch",
        "limit",
        "continue",
        "resourceVersion",
        "resourceVersionMatch",
        "labelSelector",
        "fieldSelector",
        "fieldManager",
        "force",
        "dryRun",
        "fieldValidation",
        "sendInitialEvents",
        "allowWatchBookmarks",
        "pretty",
        "timeoutSeconds",
        "gracePeriodSeconds",
        "propagationPolicy",
        "includeObject",
        "container",
        "tailLines",
        "hash",
    ];
    let values = [
        "",
        "1",
        "0",
        "-1",
        "true",
        "All",
        "Exact",
        "NotOlderThan",
        "a=b",
        "a%3Db",
        "%zz",
        "x",
        "Strict",
        "99",
    ];
    let pair = (prop::sample::select(keys.to_vec()), prop::sample::select(values.to_vec()))
        .prop_map(|(key, value)| format!("{key}={value}"));
    prop::collection::vec(pair, 0..4).prop_map(|pairs| pairs.join("&"))
}

fn json_value() -> impl Strategy<Value = Value> {
    let keys = [
        "metadata",
        "spec",
        "name",
        "namespace",
        "kind",
        "apiVersion",
        "data",
        "labels",
        "containers",
        "a",
        "resourceVersion",
        "uid",
        "finalizers",
        "managedFields",
        "$patch",
        "status",
        "target",
        "generateName",
        "op",
        "path",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec!["", "a", "v1", "Pod", "ConfigMap", "default", "delete", "/data/a", "add"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(prop::sample::select(keys.to_vec()), inner, 0..6)
                .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => json_value().prop_map(|value| value.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..60),
        1 => Just(Vec::new()),
    ]
}

fn line() -> impl Strategy<Value = String> {
    let method =
        prop::sample::select(vec!["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"]);
    let header = prop::sample::select(vec![
        "",
        "table",
        "yaml",
        "metadata",
        "metadatalist",
        "merge",
        "strategic",
        "jsonpatch",
        "apply",
        "content-type:application/yaml",
        "content-type:text/plain",
        "accept:text/html",
        "user-agent:curl/8",
    ]);
    (method, path(), query(), header)
        .prop_map(|(method, path, query, header)| format!("{method} {path}?{query} {header}"))
}

/// A part of what an answer says, read for no longer than a second of the server's.
async fn begin_of(response: Response<Body>) -> (u16, Bytes) {
    let code = response.status().as_u16();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Ok(Some(Ok(frame))) =
        tokio::time::timeout(std::time::Duration::from_secs(1), body.frame()).await
    {
        bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    (code, bytes.into())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn anything_is_answered(requests in prop::collection::vec((line(), content()), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let server = Server::new().await;
            server.check(&format!("POST {MAPS}"), config_map("a", json!({"a": "b"})), 201, json!({})).await;
            server.check(&format!("POST {PODS}"), pod("a", &["a", "b"]), 201, json!({})).await;
            for (line, content) in requests {
                let head = line.starts_with("HEAD");
                let (code, bytes) = begin_of(server.send(&line, content).await).await;
                assert_ne!((code, String::from_utf8_lossy(&bytes).contains("could not be carried out")), (500, true), "{line}");
                if code >= 400 && !head && !line.contains("yaml") {
                    let status: Value = serde_json::from_slice(&bytes).unwrap();
                    assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(code)), "{line} {status}");
                }
            }
            // Whatever came, the store can be read.
            server.get("/api/v1/pods").await;
            server.get("/api/v1/configmaps").await;
        });
    }
}
