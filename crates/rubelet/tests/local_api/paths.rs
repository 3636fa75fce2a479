//! Paths, names and heads that no honest client sends.

use crate::client::{self, ask, owners, refused, say};
use crate::program::Program;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn names_are_no_way_out_of_their_place() {
    let program = Program::start();
    for path in [
        "/../secrets",
        "/..%2fsecrets",
        "/%2e%2e",
        "/%2E%2E/secrets/x",
        "/.",
        "/a%2fb",
        "/a%00b",
        "//a",
        "/a%20b",
        "/%c3%bc",
        "/..%5c..%5cetc",
        "/%252e%252e",
        "/a/b/c/d",
        "/aaa/status",
        "/;a=b",
    ] {
        refused(path, &ask(&program, "GET", &format!("{MAPS}{path}"), "", b"").await, 404, "NotFound");
    }
    for path in ["/%zz", "/%", "/%f", "/%ff"] {
        refused(path, &ask(&program, "GET", &format!("{MAPS}{path}"), "", b"").await, 400, "BadRequest");
    }
    for path in [
        "/api/v1/namespaces/..%2f/pods",
        "/etc/passwd",
        "/../../etc/passwd",
        "/api/v1/nodes/n1/proxy/../../secrets",
        "/api/v1/nodes/n1/proxy/%2e%2e%2fsecrets",
        "/api/v1/nodes/..%2fn1/proxy/pods",
    ] {
        refused(path, &ask(&program, "GET", path, "", b"").await, 404, "NotFound");
    }
    for name in ["..", ".", "a/b", "a\\u0000b", "%2e", "A", "-a", "ü"] {
        for body in [
            format!(r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}"}}}}"#),
            format!(r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"generateName":"{name}/"}}}}"#),
        ] {
            let answer =
                ask(&program, "POST", MAPS, "Content-Type: application/json\r\n", body.as_bytes()).await;
            refused(&body, &answer, 422, "Invalid");
        }
        let body = format!(r#"{{"kind":"Namespace","apiVersion":"v1","metadata":{{"name":"{name}"}}}}"#);
        let headers = "Content-Type: application/json\r\n";
        let answer = ask(&program, "POST", "/api/v1/namespaces", headers, body.as_bytes()).await;
        refused(&body, &answer, 422, "Invalid");
    }
    for (query, code, reason) in [
        ("limit=x", 400, "BadRequest"),
        ("limit=99999999999999999999", 400, "BadRequest"),
        ("continue=abc", 400, "BadRequest"),
        ("resourceVersion=abc", 400, "BadRequest"),
        ("resourceVersion=-1", 400, "BadRequest"),
        ("resourceVersion=99999999", 504, "Timeout"),
        ("labelSelector=a%20b%20c", 400, "BadRequest"),
        ("fieldSelector=a%3Db", 400, "BadRequest"),
        ("watch=1&timeoutSeconds=x", 400, "BadRequest"),
    ] {
        refused(query, &ask(&program, "GET", &format!("{MAPS}?{query}"), "", b"").await, code, reason);
    }
    for method in ["BREW", "TRACE", "PROPFIND"] {
        refused(method, &ask(&program, method, MAPS, "", b"").await, 405, "MethodNotAllowed");
    }
    // A selector as long as an address may be.
    let values: Vec<String> = (0..5000).map(|n| format!("v{n}")).collect();
    let path = format!("{MAPS}?labelSelector=a%20in%20({})", values.join(","));
    assert_eq!(ask(&program, "GET", &path, "", b"").await.json()["items"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded_and_of_one_meaning() {
    let program = Program::start();
    let post = format!("POST {MAPS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    let many: String = (0..5000).map(|n| format!("X-{n}: a\r\n")).collect();
    let long = "a".repeat(4 << 20);
    for (what, head, code) in [
        ("a huge header", format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n"), 431),
        ("many headers", format!("GET / HTTP/1.1\r\n{many}\r\n"), 431),
        ("a huge address", format!("GET /{long} HTTP/1.1\r\n\r\n"), 431),
        ("a long address", format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(65_535)), 414),
        ("two lengths", format!("{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}x"), 400),
        ("a negative length", format!("{post}Content-Length: -2\r\n\r\n"), 400),
        ("an unknown coding", format!("{post}Transfer-Encoding: gzip\r\n\r\n"), 400),
        ("no version", "GET /version\r\n\r\n".to_owned(), 400),
        ("a version to come", "GET /version HTTP/3.0\r\n\r\n".to_owned(), 400),
        ("a header with NUL", "GET /version HTTP/1.1\r\nX: a\0b\r\n\r\n".to_owned(), 400),
        ("HTTP/2 that was not agreed on", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 0),
        (
            "a chunk of no length",
            format!("{post}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"),
            400,
        ),
        ("a length beyond all", format!("{post}Content-Length: 99999999999999\r\n\r\n{{"), 413),
    ] {
        let (growth, answer) =
            program.growth(async { say(owners(&program, "http/1.1").await, head.as_bytes()).await }).await;
        // Who is cut off while it sends may not hear why.
        let heard = answer.status == code
            || answer.status == 0 && head.len() > 1 << 20
            || code == 414 && answer.status == 431;
        assert!(heard, "{what}: {}", answer.head);
        assert!(growth < 3 * 1024, "{what}: memory grew by {growth} KiB");
    }
    client::others_are_served(&program).await;
}
