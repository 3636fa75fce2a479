//! What is asked of one pod or container: refused in upstream's order and words, or handed to the node as it was meant.

use super::*;

#[tokio::test]
async fn logs_are_refused_in_upstreams_order_and_words() {
    let bench = full();
    for (target, code, text) in [
        ("/containerLogs/ns/web/c?tailLines=x", 400, "{\"message\": \"Unable to decode query.\"}"),
        ("/containerLogs/ns/none/c?tailLines=-1", 422, "{\"message\": \"Invalid request.\"}"),
        ("/containerLogs/ns/web/c?stream=x", 422, "{\"message\": \"Invalid request.\"}"),
        ("/containerLogs/ns/web/c?sinceTime=yesterday", 400, "{\"message\": \"Unable to decode query.\"}"),
        ("/containerLogs/ns/none/c", 404, "pod \"none\" does not exist"),
        ("/containerLogs/ns/web/d", 404, "container \"d\" not found in pod \"web\""),
        (
            "/containerLogs/ns/web/c?stream=Stderr",
            400,
            "unable to return the given log stream: \"Stderr\". Please enable PodLogsQuerySplitStreams feature gate in kubelet",
        ),
        ("/containerLogs/ns/web/c?stream=All&tail=all&follow=true", 200, "a line\n"),
        ("/containerLogs/ns/web/e", 200, "a line\n"),
        ("/containerLogs/ns/web/i/", 200, "a line\n"),
    ] {
        bench.check(&format!("GET {target}"), code, text).await;
    }
    assert_eq!(bench.asked(), ["log c stream=All&tail=all&follow=true", "log e ", "log i "]);
    let split = bench_of(Site::Full, FakeNode::default(), |settings| settings.split_streams = true);
    split.check("GET /containerLogs/ns/web/c?stream=Stderr", 200, "a line\n").await;
}

const SPDY: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];

#[tokio::test]
async fn streams_are_refused_in_upstreams_order_and_words() {
    let bench = full();
    let none = "you must specify at least 1 of stdin, stdout, stderr";
    for (line, upgrade, code, text) in [
        ("GET /exec/ns/none/c", true, 400, none),
        ("POST /attach/ns/web/c?output=true&stdin=1", true, 400, none),
        ("POST /exec/ns/none/c?output=1", true, 404, "pod does not exist"),
        ("POST /exec/ns/web/other/c?output=1", true, 404, "pod not found"),
        ("POST /portForward/ns/web/other", true, 404, "pod not found"),
        ("POST /exec/ns/web/c?output=1", false, 500, "Upgrade request required\n"),
        ("GET /portForward/ns/web", false, 500, "Upgrade request required\n"),
        ("POST /exec/ns/web/c?output=1&command=a", true, 200, "streams"),
        ("GET /exec/ns/web/u1/c?input=1", true, 200, "streams"),
        ("POST /attach/ns/web/c?error=1", true, 200, "streams"),
        ("POST /portForward/ns/web/u1", true, 200, "streams"),
    ] {
        let answer = bench.ask(line, if upgrade { &SPDY } else { &[] }, "").await;
        assert_eq!((answer.code, answer.text.as_str()), (code, text), "{line}");
    }
    assert_eq!(bench.asked(), ["Exec c", "Exec c", "Attach c", "PortForward "]);
    let refusing = bench_of(Site::Full, FakeNode { refuses: true, ..Default::default() }, |_| {});
    let answer = refusing.ask("POST /exec/ns/web/c?output=1", &SPDY, "").await;
    assert_eq!((answer.code, answer.text.as_str()), (500, "container not found (\"c\")"));
}

#[tokio::test]
async fn web_sockets_are_counted_when_they_are_translated() {
    let bench = full();
    let socket = |protocol| {
        [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-protocol", protocol)]
    };
    bench.ask("GET /exec/ns/web/c?output=1", &socket("v5.channel.k8s.io"), "").await;
    bench.ask("GET /exec/ns/web/c?output=1", &socket("v4.channel.k8s.io"), "").await;
    bench.ask("GET /portForward/ns/web", &socket("SPDY/3.1+portforward.k8s.io"), "").await;
    let missing = bench.ask("GET /portForward/ns/web", &socket("v4.channel.k8s.io"), "").await;
    assert_eq!((missing.code, missing.text.as_str()), (400, "query parameter \"port\" is required"));
    let server = &bench.api.metrics.server;
    assert_eq!(server.websocket_streams.with(["exec"]).get(), 1);
    assert_eq!(server.websocket_streams.with(["portforward"]).get(), 1);
    assert_eq!(server.http_requests.with(["GET", "exec", "readwrite", "true"]).get(), 2);
}

#[tokio::test]
async fn run_splits_its_command_at_spaces() {
    let bench = full();
    let form = [("content-type", "application/x-www-form-urlencoded")];
    bench.check("POST /run/ns/web/c", 200, "out").await;
    let answer = bench.check("POST /run/ns/web/c?cmd=ls%20-a++%3B", 200, "out").await;
    assert_eq!(answer.header("content-type"), "application/json");
    bench.ask("POST /run/ns/web/u1/c?cmd=no", &form, "cmd=ls+-l").await;
    let answer = bench.check("POST /run/ns/web/c?cmd=true", 200, "").await;
    assert_eq!(answer.header("content-type"), "");
    assert_eq!(
        bench.asked(),
        ["run c [\"\"]", "run c [\"ls\", \"-a\", \"\", \";\"]", "run c [\"ls\", \"-l\"]", "run c [\"true\"]",]
    );
    let answer = bench.ask("POST /run/ns/web/c", &form, &"x".repeat(form::LONGEST + 1)).await;
    assert_eq!((answer.code, answer.text.as_str()), (400, "http: request body too large"));
    let refusing = bench_of(Site::Full, FakeNode { refuses: true, ..Default::default() }, |_| {});
    refusing.check("POST /run/ns/web/c?cmd=x", 500, "command 'x' exited with 3: no").await;
}

#[tokio::test]
async fn checkpoints_are_named_or_explained() {
    let bench = full();
    for (target, code, text) in [
        ("/checkpoint/ns/none/c", 404, "pod does not exist"),
        ("/checkpoint/ns/web/d", 404, "container d does not exist"),
        ("/checkpoint/ns/web/c?timeout=x", 404, "cannot parse value of timeout parameter"),
        ("/checkpoint/ns/web/c?timeout=5&timeout=", 404, "cannot parse value of timeout parameter"),
        ("/checkpoint/ns/web/c?timeout=x&timeout=7", 200, "{\"items\":[\"/a \\\"b\\\".tar\"]}"),
        ("/checkpoint/ns/web/i?timeout=-1", 200, "{\"items\":[\"/a \\\"b\\\".tar\"]}"),
        ("/checkpoint/ns/web/e", 200, "{\"items\":[\"/a \\\"b\\\".tar\"]}"),
    ] {
        bench.check(&format!("POST {target}"), code, text).await;
    }
    assert_eq!(bench.asked(), ["checkpoint c Some(7s)", "checkpoint i None", "checkpoint e None"]);
    let refusing = bench_of(Site::Full, FakeNode { refuses: true, ..Default::default() }, |_| {});
    let why = "checkpointing of ns/web/c failed (rpc error: code = Unimplemented desc = no)";
    refusing.check("POST /checkpoint/ns/web/c", 500, why).await;
}

#[tokio::test]
async fn a_request_is_under_way_until_its_body_is_gone() {
    let bench = full();
    let labels = ["GET", "containerLogs", "readwrite", "false"];
    let inflight = bench.api.metrics.server.http_inflight.with(labels);
    let request = Request::get("/containerLogs/ns/web/c").body(body::whole("")).unwrap();
    let response = bench.api.answer(request).await;
    assert_eq!(inflight.get(), Some(1.0));
    drop(response);
    assert_eq!(inflight.get(), Some(0.0));
    // The plain health port is not counted, as upstream.
    bench.api.at(Site::Healthz).answer(Request::get("/healthz").body(body::whole("")).unwrap()).await;
    assert_eq!(
        bench.api.metrics.server.http_requests.with(["GET", "healthz", "readwrite", "false"]).get(),
        0
    );
}
