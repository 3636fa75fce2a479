//! Bodies that are broken, deep, large, endless, or many at once.

use tokio::io::AsyncWriteExt as _;

use crate::client::{self, Raw, ask, owners, read_answer, refused, request};
use crate::program::Program;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MIB: usize = 1 << 20;

fn content_type(kind: &str) -> String {
    format!("Content-Type: {kind}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_none_are_refused_with_a_status() {
    let program = Program::start();
    let json = "application/json";
    let yaml = "application/yaml";
    let protobuf = "application/vnd.kubernetes.protobuf";
    let deep = "[".repeat(100_000);
    let deep_map =
        format!("{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"data\":{}", "{\"a\":".repeat(100_000));
    let block: String = (0..2000).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    let list: String = (0..2000).map(|level| format!("{}-\n", " ".repeat(level))).collect();
    let bomb = (1..10).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
        text + &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(", "))
    });
    let cases: &[(&str, &[u8], &str)] = &[
        (json, b"", "unexpected end of JSON input"),
        (json, b"{", "unexpected end of JSON input"),
        (json, b"[]", "cannot unmarshal array"),
        (json, b"7", "cannot unmarshal number"),
        (json, b"\xff\xfe\0", "must be of type ConfigMap"),
        (json, b"{}{}", "after top-level value"),
        (json, b"{\"kind\":\"Secret\",\"apiVersion\":\"v1\"}", "Secret"),
        (json, deep.as_bytes(), "exceeded max depth"),
        (json, deep_map.as_bytes(), "exceeded max depth"),
        (yaml, b"a: b: c", "mapping values are not allowed"),
        (yaml, deep.as_bytes(), "yaml"),
        (yaml, block.as_bytes(), "yaml"),
        (yaml, list.as_bytes(), "yaml"),
        (yaml, bomb.as_bytes(), "yaml"),
        (protobuf, b"", "ConfigMap"),
        (protobuf, b"k8s\0\x0a\xff\xff\xff\xff\x0f", "ConfigMap"),
        (protobuf, b"{}", "ConfigMap"),
    ];
    for (kind, body, part) in cases {
        let what = format!("{kind} {:?}", String::from_utf8_lossy(&body[..body.len().min(30)]));
        let answer = ask(&program, "POST", MAPS, &content_type(kind), body).await;
        let message = refused(&what, &answer, 400, "BadRequest");
        assert!(message.contains(part), "{what}: {message}");
    }
    for kind in ["text/plain", "application/cbor", "image/png"] {
        let answer = ask(&program, "POST", MAPS, &content_type(kind), b"{}").await;
        refused(kind, &answer, 415, "UnsupportedMediaType");
    }
    let map = format!("{MAPS}/kube-root-ca.crt");
    for (kind, body, code, reason) in [
        ("application/json", "{}", 415, "UnsupportedMediaType"),
        ("application/json-patch+json", "{}", 400, "BadRequest"),
        ("application/json-patch+json", deep.as_str(), 400, "BadRequest"),
        ("application/json-patch+json", "[{\"op\":\"remove\",\"path\":\"/none\"}]", 422, "Invalid"),
        ("application/merge-patch+json", "[", 400, "BadRequest"),
        ("application/merge-patch+json", &deep_map, 400, "BadRequest"),
        ("application/strategic-merge-patch+json", "[]", 400, "BadRequest"),
        ("application/strategic-merge-patch+json", &deep_map, 400, "BadRequest"),
        ("application/apply-patch+yaml", "{}", 422, "Invalid"),
    ] {
        let answer = ask(&program, "PATCH", &map, &content_type(kind), body.as_bytes()).await;
        refused(&format!("{kind} {body:.30}"), &answer, code, reason);
    }
    for text in [deep.as_str(), &block, &bomb] {
        let path = format!("{MAPS}/applied?fieldManager=test");
        let kind = content_type("application/apply-patch+yaml");
        let answer = ask(&program, "PATCH", &path, &kind, text.as_bytes()).await;
        refused("apply", &answer, 400, "BadRequest");
    }
    for accept in ["image/png", ",,;;", "text/html, application/cbor"] {
        let answer = ask(&program, "GET", MAPS, &format!("Accept: {accept}\r\n"), b"").await;
        refused(accept, &answer, 406, "NotAcceptable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_ignored_warned_of_or_refused() {
    let program = Program::start();
    let body = br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","name":"b"},"datas":{}}"#;
    for (mode, warned) in [("Ignore", false), ("Warn", true), ("", true)] {
        let path = format!("{MAPS}?dryRun=All&fieldValidation={mode}");
        let answer = ask(&program, "POST", &path, &content_type("application/json"), body).await;
        assert_eq!(answer.status, 201, "{mode}: {}", answer.head);
        assert_eq!(answer.head.contains("unknown field \\\"datas\\\""), warned, "{mode}: {}", answer.head);
        assert_eq!(answer.head.contains("duplicate field"), warned, "{mode}: {}", answer.head);
        assert_eq!(answer.json().get("datas"), None);
    }
    let path = format!("{MAPS}?dryRun=All&fieldValidation=Strict");
    let answer = ask(&program, "POST", &path, &content_type("application/json"), body).await;
    let message = refused("strict", &answer, 400, "BadRequest");
    assert!(
        message.contains("strict decoding error") && message.contains("unknown field \"datas\""),
        "{message}"
    );
    let path = format!("{MAPS}?fieldValidation=Perhaps");
    let answer = ask(&program, "POST", &path, &content_type("application/json"), body).await;
    refused("no mode", &answer, 422, "Invalid");
}

/// Sends chunks until the server has enough: what was sent, and the answer.
async fn endless(mut stream: Raw) -> (usize, client::Answer) {
    let head = format!(
        "POST {MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = [b"10000\r\n".as_slice(), &vec![b' '; 0x10000], b"\r\n"].concat();
    let mut sent = 0;
    while sent < 256 * MIB && stream.write_all(&chunk).await.is_ok() {
        sent += 0x10000;
    }
    (sent, read_answer(&mut stream).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn large_and_endless_bodies_are_cut_off() {
    let program = Program::start();
    let large = vec![b' '; 10 * MIB];
    let answer = ask(&program, "POST", MAPS, &content_type("application/json"), &large).await;
    refused("10 MiB", &answer, 413, "RequestEntityTooLarge");
    client::others_are_served(&program).await;
    let mut streams = vec![];
    for _ in 0..16 {
        streams.push(owners(&program, "http/1.1").await);
    }
    let (growth, ended) = program.growth(futures::future::join_all(streams.into_iter().map(endless))).await;
    for (sent, answer) in &ended {
        // What was on its way when the answer came is lost on the way.
        assert!(*sent < 64 * MIB, "{sent} bytes were taken of an endless body");
        if answer.status != 0 {
            refused("endless", answer, 413, "RequestEntityTooLarge");
        }
    }
    assert!(ended.iter().any(|(_, answer)| answer.status == 413), "nobody got to know why");
    let tried: usize = ended.iter().map(|(sent, _)| sent).sum();
    println!("16 endless bodies: {} KiB sent, memory grew by {growth} KiB", tried / 1024);
    assert!(growth < 90 * 1024, "memory grew by {growth} KiB");
    client::others_are_served(&program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_bodies_at_once_share_a_budget() {
    let program = Program::start();
    let mut streams = vec![];
    for _ in 0..100 {
        streams.push(owners(&program, "http/1.1").await);
    }
    let whole = request("POST", MAPS, &content_type("application/json"), &vec![b' '; 2900 * 1024]);
    let almost = &whole[..whole.len() - 1];
    let send = |mut stream: Raw| async move {
        // Who is refused is also cut off.
        let _ = stream.write_all(almost).await;
        let _ = stream.flush().await;
        stream
    };
    let (growth, mut streams) =
        program.growth(futures::future::join_all(streams.into_iter().map(send))).await;
    println!("100 bodies of 2.9 MiB: memory grew by {growth} KiB");
    assert!(growth < 130 * 1024, "memory grew by {growth} KiB of 290000 that were sent");
    // Small requests need a part of the budget, too, and so wait for their turn by trying again.
    client::others_are_served(&program).await;
    let mut counts = (0, 0);
    for stream in &mut streams {
        let _ = stream.write_all(b" ").await;
        let answer = read_answer(stream).await;
        match answer.status {
            429 => {
                refused("over budget", &answer, 429, "TooManyRequests");
                assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
                counts.1 += 1;
            }
            400 => counts.0 += 1,
            // Cut off while it was still sending.
            0 => counts.1 += 1,
            other => panic!("{other}: {}", answer.head),
        }
    }
    assert!(counts.0 >= 15 && counts.1 >= 70, "{counts:?}");
    let map = client::config_map("after", 10).to_string();
    let answer = ask(&program, "POST", MAPS, &content_type("application/json"), map.as_bytes()).await;
    assert_eq!(answer.status, 201, "the budget is there again");
}
