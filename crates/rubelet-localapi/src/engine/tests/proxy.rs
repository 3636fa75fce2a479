//! Requests that go on to the node agent.

use super::*;
use crate::engine::{Attributes, Authorize, Decision};

const NODE: &str = "/api/v1/nodes/n1";

async fn server() -> Server {
    let server = Server::new().await;
    for name in ["n1", "n2"] {
        server.check("POST /api/v1/nodes", json!({"metadata": {"name": name}}), 201, json!({})).await;
    }
    server
}

#[tokio::test(start_paused = true)]
async fn the_agent_gets_the_path_behind_the_proxy() {
    let server = server().await;
    for (line, said) in [
        (format!("GET {NODE}/proxy/"), "GET /"),
        (
            format!("GET {NODE}/proxy/stats/summary?only_cpu_and_memory=true"),
            "GET /stats/summary?only_cpu_and_memory=true",
        ),
        (format!("GET {NODE}/proxy//logs//a%2Fb%20c/?x=%2F"), "GET /logs/a%2Fb%20c/?x=%2F"),
        (format!("POST {NODE}/proxy"), "POST /"),
        (format!("PUT {NODE}/proxy/x"), "PUT /x"),
        (format!("PATCH {NODE}/proxy/x"), "PATCH /x"),
        (format!("DELETE {NODE}/proxy/run/a/b/c"), "DELETE /run/a/b/c"),
        (format!("OPTIONS {NODE}/proxy/x"), "OPTIONS /x"),
        (format!("GET {NODE}:10250/proxy/healthz"), "GET /healthz"),
        ("GET /api/v1/nodes/https:n1:/proxy/healthz".to_owned(), "GET /healthz"),
        ("GET /api/v1/nodes/http:n1:10250/proxy/healthz".to_owned(), "GET /healthz"),
    ] {
        let answer = server.ask(&line, "").await;
        assert_eq!((answer.code, answer.text().as_str()), (200, said), "{line}");
    }
    let deep = format!("GET {NODE}/proxy{}", "/a".repeat(100));
    assert_eq!(server.ask(&deep, "").await.code, 200);
}

#[tokio::test(start_paused = true)]
async fn headers_go_through_without_credentials() {
    let server = server().await;
    let line = format!(
        "GET {NODE}/proxy/x accept:text/plain authorization:Bearer-x cookie:a=b x-remote-user:root te:trailers \
         connection:keep-alive"
    );
    let answer = server.ask(&line, "").await;
    assert_eq!(answer.text(), "GET /x\naccept: text/plain");
    assert_eq!(answer.header("access-control-allow-origin"), "");
    assert_eq!(answer.header("location"), "/api/v1/nodes/n1/proxy/there/");
    // An upgrade is the agent's to answer.
    let answer = server.ask(&format!("GET {NODE}/proxy/exec connection:Upgrade upgrade:SPDY/3.1"), "").await;
    assert_eq!(answer.text(), "GET /exec\nconnection: Upgrade\nupgrade: SPDY/3.1");
}

#[tokio::test(start_paused = true)]
async fn the_place_itself_ends_in_a_slash() {
    let server = server().await;
    let answer = server.ask(&format!("GET {NODE}/proxy?a=b"), "").await;
    assert_eq!((answer.code, answer.header("location")), (301, "/api/v1/nodes/n1/proxy/?a=b"));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_reached_is_told() {
    let server = server().await;
    server.check(&format!("POST {PODS}"), pod("p", &["c"]), 201, json!({})).await;
    for (line, code, message) in [
        ("GET /api/v1/nodes/no/proxy/x", 404, "nodes \"no\" not found"),
        (
            "GET /api/v1/nodes/n2/proxy/x",
            500,
            "Internal error occurred: error dialing backend: node n2 is not this machine, and this API does not reach it",
        ),
        ("GET /api/v1/nodes/ftp:n1:/proxy/x", 400, "invalid node request \"ftp:n1:\""),
        ("GET /api/v1/nodes/a:b:c:d/proxy/x", 400, "invalid node request \"a:b:c:d\""),
        ("GET /api/v1/nodes/n1:9100/proxy/x", 400, "address not allowed"),
        ("GET /api/v1/nodes/n1/proxy/../x", 404, "the server could not find the requested resource"),
        ("GET /api/v1/nodes/n1/proxy/%2e%2e/x", 404, "the server could not find the requested resource"),
        ("GET /api/v1/nodes/n1/proxy/x?dryRun=All", 400, "dryRun is not supported"),
        (
            "TRACE /api/v1/nodes/n1/proxy/x",
            405,
            "the server does not allow this method on the requested resource (nodes)",
        ),
        ("GET /api/v1/namespaces/default/pods/p/proxy/x", 400, "address not allowed"),
        ("GET /api/v1/namespaces/default/pods/::/proxy/x", 400, "invalid pod request \"::\""),
        ("GET /api/v1/namespaces/default/pods/no/proxy/x", 404, "pods \"no\" not found"),
        (
            "GET /api/v1/namespaces/default/services/s/proxy/x",
            404,
            "the server could not find the requested resource",
        ),
    ] {
        server.check(line, Value::Null, code, json!({"message": message})).await;
    }
}

struct OnlyGet;

impl Authorize for OnlyGet {
    fn allowed(
        &self,
        _: &User,
        wanted: &Attributes,
        _: &dyn rubelet_apimachinery::strategy::Lookup,
    ) -> Decision {
        let said = format!("{} {}/{} {}", wanted.verb, wanted.resource, wanted.subresource, wanted.name);
        if said == "get nodes/proxy n1" { Decision::Allow } else { Decision::Deny(said) }
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_is_asked_with_the_verb_of_the_method() {
    let server = server().await;
    let store = server.api.store().clone();
    let options = Server::options(LogLimits::default());
    let options = ApiOptions { store, authorize: Arc::new(OnlyGet), ..options };
    let server = Server { api: Api::new(options), stopping: CancellationToken::new() };
    for (method, verb) in
        [("POST", "create"), ("PUT", "update"), ("PATCH", "patch"), ("DELETE", "delete"), ("OPTIONS", "")]
    {
        let answer = server.ask(&format!("{method} {NODE}/proxy/x"), "").await;
        assert_eq!(answer.code, 403, "{method}");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.ends_with(&format!(": {verb} nodes/proxy n1")), "{message}");
    }
    assert_eq!(server.ask(&format!("GET {NODE}/proxy/x"), "").await.code, 200);
    assert_eq!(server.ask(&format!("HEAD {NODE}/proxy/x"), "").await.code, 200);
}
