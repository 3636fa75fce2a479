//! What is no resource: discovery, OpenAPI, health; and who may not.

use super::*;
use crate::engine::{Attributes, Authorize, Decision};

#[tokio::test(start_paused = true)]
async fn clients_find_their_way() {
    let server = Server::new().await;
    for (line, expected) in [
        ("GET /version", json!({"major": "1", "minor": "36"})),
        (
            "GET /api host:localhost:6443",
            json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"serverAddress": "localhost:6443"}]}),
        ),
        ("GET /apis", json!({"kind": "APIGroupList"})),
        ("GET /apis/coordination.k8s.io", json!({"kind": "APIGroup", "name": "coordination.k8s.io"})),
        ("GET /apis/coordination.k8s.io/v1", json!({"kind": "APIResourceList"})),
        ("GET /api/v1/", json!({"kind": "APIResourceList", "groupVersion": "v1"})),
    ] {
        server.check(line, Value::Null, 200, expected).await;
    }
    let line = "GET /apis accept:application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let answer = server.ask(line, "").await;
    assert_eq!(answer.json()["kind"], "APIGroupDiscoveryList");
    assert!(answer.header("content-type").contains("as=APIGroupDiscoveryList"));
    for path in [
        "/apis/no",
        "/apis/no/v1",
        "/api/v9",
        "/nothing",
        "/healthz/no",
        "/.well-known/openid-configuration",
        // Who may read a namespace may not read the others by a path within it.
        "/api/v1/namespaces/default/namespaces",
        "/api/v1/namespaces/default/namespaces/kube-system",
        "/api/v1/watch/namespaces/default/namespaces",
    ] {
        server.check(&format!("GET {path}"), Value::Null, 404, json!({"kind": "Status"})).await;
    }
    server.check("POST /version", Value::Null, 405, json!({"kind": "Status"})).await;
}

#[tokio::test(start_paused = true)]
async fn openapi_is_kept_by_clients() {
    let server = Server::new().await;
    let plain = server.ask("GET /openapi/v2", "").await;
    assert_eq!(plain.json()["swagger"], "2.0");
    let tag = plain.header("etag").to_owned();
    let zipped = server.ask("GET /openapi/v2 accept-encoding:gzip", "").await;
    assert_eq!((zipped.header("content-encoding"), &zipped.bytes[..2]), ("gzip", &[0x1f, 0x8b][..]));
    let known = server.ask(&format!("GET /openapi/v2 if-none-match:{tag}"), "").await;
    assert_eq!((known.code, known.bytes.len()), (304, 0));
    let index = server.get("/openapi/v3").await;
    let place = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = server.ask(&format!("GET {place}"), "").await;
    assert!(document.json()["openapi"].as_str().unwrap().starts_with("3."));
    assert!(document.header("cache-control").contains("immutable"), "{place}");
}

#[tokio::test(start_paused = true)]
async fn health_is_told() {
    let server = Server::new().await;
    assert_eq!(server.ask("GET /livez", "").await.text(), "ok");
    let verbose = server.ask("GET /readyz?verbose", "").await.text();
    assert_eq!(verbose, "[+]ping ok\n[+]store ok\n[+]shutdown ok\nreadyz check passed\n");
    assert_eq!(server.ask("GET /readyz/store", "").await.code, 200);
    server.stopping.cancel();
    assert_eq!(server.ask("GET /readyz", "").await.code, 500);
    assert_eq!(server.ask("GET /livez", "").await.code, 200);
}

struct Nobody;

impl Authorize for Nobody {
    fn allowed(&self, _: &User, _: &Attributes, _: &dyn rubelet_apimachinery::strategy::Lookup) -> Decision {
        Decision::Deny("because".into())
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_not_is_told_why() {
    let now = clock();
    let api = Api::new(ApiOptions {
        store: Store::in_memory(StoreOptions::new(now.clone())).unwrap(),
        now,
        settings: Settings { service_network: ([10, 96, 0, 0].into(), 16), root_ca: String::new() },
        random: seeded(1),
        serve_on_request: BTreeSet::new(),
        node: None,
        reviews: Arc::new(NoReviews),
        authorize: Arc::new(Nobody),
        admit: Arc::new(AdmitAll),
        stopping: CancellationToken::new(),
    });
    let server = Server { api, stopping: CancellationToken::new() };
    for (line, message) in [
        (
            "GET /api/v1/namespaces/a/pods/b/status",
            "pods \"b\" is forbidden: User \"kubernetes-admin\" cannot get resource \"pods/status\" in API group \"\" in \
             the namespace \"a\": because",
        ),
        (
            "GET /api/v1/nodes",
            "nodes is forbidden: User \"kubernetes-admin\" cannot list resource \"nodes\" in API group \"\" at the \
             cluster scope: because",
        ),
        ("GET /version", "forbidden: User \"kubernetes-admin\" cannot get path \"/version\": because"),
    ] {
        server.check(line, Value::Null, 403, json!({"reason": "Forbidden", "message": message})).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_of_the_same_process_is_served() {
    use tower::ServiceExt;
    let server = Server::new().await;
    let service = server.api.client_service(User::node("n1"));
    let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .body(http_body_util::Full::new(Bytes::from_static(b"{}")))
        .unwrap();
    let response = service.oneshot(request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(review["status"]["userInfo"]["username"], "system:node:n1");
}
