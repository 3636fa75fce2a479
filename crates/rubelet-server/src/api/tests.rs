//! Every route, method and port against a node that does nothing; the expected answers are those of upstream's routers
//! (`http.ServeMux` of Go 1.26 with go-restful in it), asked with the same requests.

use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::HeaderMap;
use k8s_openapi::api::core::v1::Pod;
use rubelet_core::stats::usage::NodeUsage;
use serde_json::{Value, json};

use super::*;
use crate::body;
use crate::node::{Check, Extent};
use crate::problem::Problem;

/// A node with the pod `ns/web` (UID `u1`, container `c`) that notes what it is asked.
#[derive(Default)]
struct FakeNode {
    asked: Mutex<Vec<String>>,
    sick: bool,
    refuses: bool,
}

impl FakeNode {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }

    fn done<T: Send + 'static>(&self, value: T, why: &str) -> BoxFuture<'_, Result<T, Problem>> {
        let refused = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why);
        std::future::ready(if self.refuses { Err(refused) } else { Ok(value) }).boxed()
    }
}

impl Node for FakeNode {
    fn pods(&self) -> Result<Bytes, Problem> {
        Ok(Bytes::from_static(b"{\"kind\":\"PodList\"}"))
    }
    fn running_pods(&self) -> BoxFuture<'_, Result<Bytes, Problem>> {
        self.done(Bytes::from_static(b"{\"items\":[]}"), "the runtime is away")
    }
    fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<Pod>> {
        let known = (namespace, name) == ("ns", "web") && uid.is_none_or(|uid| uid == "u1");
        let pod = json!({"metadata": {"name": name, "uid": "u1"}, "spec": {
            "containers": [{"name": "c"}], "initContainers": [{"name": "i"}], "ephemeralContainers": [{"name": "e"}],
        }});
        known.then(|| Arc::new(serde_json::from_value(pod).unwrap()))
    }
    fn log(
        &self,
        _: Arc<Pod>,
        container: String,
        query: String,
    ) -> BoxFuture<'_, Result<Response<Body>, Problem>> {
        self.note(format!("log {container} {query}"));
        self.done(Response::new(body::whole("a line\n")), "")
    }
    fn stream(
        &self,
        way: Way,
        _: Arc<Pod>,
        container: String,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, Problem>> {
        assert!(request.extensions().get::<Held>().is_some(), "counted for as long as the stream lives");
        self.note(format!("{way:?} {container}"));
        self.done(Response::new(body::whole("streams")), "container not found (\"c\")")
    }
    fn run(
        &self,
        _: Arc<Pod>,
        container: String,
        command: Vec<String>,
    ) -> BoxFuture<'_, Result<Bytes, Problem>> {
        let output = Bytes::from(if command == ["true"] { "" } else { "out" });
        self.note(format!("run {container} {command:?}"));
        self.done(output, "command 'x' exited with 3: no")
    }
    fn checkpoint(
        &self,
        _: Arc<Pod>,
        container: String,
        timeout: Option<Duration>,
    ) -> BoxFuture<'_, Result<String, Problem>> {
        self.note(format!("checkpoint {container} {timeout:?}"));
        self.done("/a \"b\".tar".to_owned(), "rpc error: code = Unimplemented desc = no")
    }
    fn checks(&self) -> Vec<Check> {
        let problem = self.sick.then(|| "sync Loop took longer than expected".to_owned());
        let healthy = |name| Check { name, problem: None };
        vec![healthy("ping"), healthy("log"), Check { name: "syncloop", problem }]
    }
    fn config(&self) -> Value {
        json!({"kind": "KubeletConfiguration"})
    }
    fn flags(&self) -> Vec<(String, String)> {
        vec![("v".to_owned(), "2".to_owned()), ("config".to_owned(), "/k: x".to_owned())]
    }
    fn usage(&self, extent: Extent) -> BoxFuture<'_, Arc<NodeUsage>> {
        self.note(format!("{extent:?}"));
        std::future::ready(Arc::default()).boxed()
    }
    fn set_verbosity(&self, level: u8) -> Result<(), String> {
        self.note(format!("v {level}"));
        if level == 9 { Err("not here".to_owned()) } else { Ok(()) }
    }
}

struct Bench {
    node: Arc<FakeNode>,
    api: Api,
}

fn now() -> jiff::Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn bench_of(site: Site, node: FakeNode, change: impl FnOnce(&mut ApiSettings)) -> Bench {
    let node = Arc::new(node);
    let mut settings = ApiSettings::new("v1.36.2", "rubelet 0.1.0", Arc::new(now));
    settings.system_logs = Some(Arc::new(|request: Request<Body>| {
        std::future::ready(Response::new(body::whole(format!("log of {}", request.uri().path())))).boxed()
    }));
    settings.started = "2026-11-22T10:58:03.5Z".parse().unwrap();
    change(&mut settings);
    Bench { api: Api::new(node.clone(), site, settings, Metrics::new()), node }
}

fn full() -> Bench {
    bench_of(Site::Full, FakeNode::default(), |_| {})
}

struct Answer {
    code: u16,
    text: String,
    headers: HeaderMap,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Bench {
    /// Sends `METHOD path`, with headers and body.
    async fn ask(&self, line: &str, headers: &[(&str, &str)], content: &str) -> Answer {
        let (method, target) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.api.answer(request.body(body::whole(content.to_owned())).unwrap()).await;
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer { code: head.status.as_u16(), text, headers: head.headers }
    }

    async fn get(&self, target: &str) -> Answer {
        self.ask(&format!("GET {target}"), &[], "").await
    }

    async fn check(&self, line: &str, code: u16, text: &str) -> Answer {
        let answer = self.ask(line, &[], "").await;
        assert_eq!((answer.code, answer.text.as_str()), (code, text), "{line}");
        answer
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.node.asked.lock().unwrap())
    }
}

const NOTHING: (u16, &str) = (404, "404 page not found\n");
const NOTHING_BELOW: (u16, &str) = (404, "404: Page Not Found");
const WRONG_METHOD: (u16, &str) = (405, "405: Method Not Allowed");
const DISABLED: (u16, &str) = (405, "Debug endpoints are disabled.\n");

#[tokio::test]
async fn paths_and_methods_are_upstreams() {
    let bench = full();
    for (line, (code, text)) in [
        ("GET /", NOTHING),
        ("GET /foo", NOTHING),
        ("GET /healthz/", NOTHING),
        ("GET /healthz/none", NOTHING),
        ("GET /healthz/ping/x", NOTHING),
        ("POST /healthz", (200, "ok")),
        ("HEAD /healthz", (200, "ok")),
        ("GET /healthz/ping", (200, "ok")),
        ("GET /pods", (200, "{\"kind\":\"PodList\"}")),
        ("GET /pods/", (200, "{\"kind\":\"PodList\"}")),
        ("GET /%70ods", (200, "{\"kind\":\"PodList\"}")),
        ("HEAD /pods", WRONG_METHOD),
        ("POST /pods", WRONG_METHOD),
        ("GET /pods/x", NOTHING_BELOW),
        ("GET /pods;x", NOTHING),
        ("GET /pods%2f", NOTHING),
        ("GET /stats/", NOTHING_BELOW),
        ("GET /stats/x", NOTHING_BELOW),
        ("PUT /stats/summary", WRONG_METHOD),
        ("GET /logs/", (200, "log of /logs/")),
        ("GET /logs/a/b", (200, "log of /logs/a/b")),
        ("GET /logs/..%2fetc", (200, "log of /logs/..%2fetc")),
        ("POST /logs/a", WRONG_METHOD),
        ("GET /runningpods/", (200, "{\"items\":[]}")),
        ("GET /runningpods/x", NOTHING_BELOW),
        ("POST /runningpods/", WRONG_METHOD),
        ("GET /debug", NOTHING),
        ("GET /debug/flags", NOTHING),
        ("POST /debug/pprof/symbol", WRONG_METHOD),
        ("GET /exec", NOTHING_BELOW),
        ("GET /exec/", NOTHING_BELOW),
        ("GET /exec/a", NOTHING_BELOW),
        ("GET /exec/a/b/c/d/e", NOTHING_BELOW),
        ("PUT /exec/a/b/c", WRONG_METHOD),
        ("HEAD /attach/a/b/c", WRONG_METHOD),
        ("OPTIONS /exec/a/b/c", WRONG_METHOD),
        ("GET /exec%2Fa/b/c", NOTHING),
        ("GET /run/a/b/c", WRONG_METHOD),
        ("POST /run/a/b/c", (404, "pod does not exist")),
        ("POST /run/a/b/c/d", (404, "pod does not exist")),
        ("GET /portForward/a", NOTHING_BELOW),
        ("GET /portForward/a/b", (404, "pod does not exist")),
        ("POST /portForward/a/b/c", (404, "pod does not exist")),
        ("GET /containerLogs/a/b", NOTHING_BELOW),
        ("GET /containerLogs/a/b/c/d", NOTHING_BELOW),
        ("GET /containerLogs/a/%2F/c", NOTHING_BELOW),
        ("GET /containerLogs/%2F/b", (400, "{\"message\": \"Missing podID.\"}")),
        ("POST /containerLogs/a/b/c", WRONG_METHOD),
        ("GET /checkpoint/a/b/c", WRONG_METHOD),
        ("GET /metrics/", NOTHING),
        ("GET /metrics/foo", NOTHING),
        ("GET /configz/", NOTHING),
        ("GET /exec/%zz/b/c", (400, "400 Bad Request")),
        ("GET /exec/a%2", (400, "400 Bad Request")),
    ] {
        let answer = bench.check(line, code, text).await;
        let kind = if code == 200 { "" } else { "text/plain; charset=utf-8" };
        assert!(answer.header("content-type").starts_with(kind), "{line}");
        // Go's own errors are marked, the router's are not.
        if code != 200 {
            assert_eq!(answer.header("x-content-type-options") == "nosniff", text == NOTHING.1, "{line}");
        }
    }
    for (line, allowed) in [
        ("POST /pods", "GET"),
        ("PUT /stats/summary", "GET, POST"),
        ("PUT /exec/a/b/c", "GET, POST"),
        ("GET /run/a/b/c", "POST"),
        ("GET /checkpoint/a/b/c", "POST"),
    ] {
        assert_eq!(bench.ask(line, &[], "").await.header("allow"), allowed, "{line}");
    }
}

#[tokio::test]
async fn unclean_paths_are_redirected() {
    let bench = full();
    for (target, location) in [
        ("//healthz", "/healthz"),
        ("/healthz/../pods", "/pods"),
        ("/pods//", "/pods/"),
        ("/pods/.", "/pods"),
        ("/./pods?x=y", "/pods?x=y"),
        ("/stats", "/stats/"),
        ("/logs?x=1", "/logs/?x=1"),
        ("/logs/../etc", "/etc"),
        ("/runningpods", "/runningpods/"),
        ("/debug/pprof", "/debug/pprof/"),
        ("/checkpoint", "/checkpoint/"),
        ("/exec/a//d", "/exec/a/d"),
        ("//example.com/%2e%2e", "/example.com/%2e%2e"),
    ] {
        let answer = bench.get(target).await;
        assert_eq!((answer.code, answer.header("location")), (307, location), "{target}");
        let link = format!("<a href=\"{location}\">Temporary Redirect</a>.\n\n");
        assert_eq!(
            (answer.header("content-type"), answer.text.clone()),
            ("text/html; charset=utf-8", link),
            "{target}"
        );
    }
    let answer = bench.ask("POST //exec/a/b/c", &[], "").await;
    assert_eq!((answer.code, answer.text.as_str(), answer.header("content-type")), (307, "", ""));
}

#[tokio::test]
async fn json_is_only_for_who_takes_it() {
    let bench = full();
    let not = "406: Not Acceptable\n\nAvailable representations: application/json";
    for (line, accept, refused) in [
        ("GET /pods", "text/plain", true),
        ("GET /pods", "application/*", true),
        ("GET /pods", "application/json;q=0.5, text/html", false),
        ("GET /pods", "text/html, */*;q=0.1", false),
        ("POST /checkpoint/ns/web/c", "text/plain", true),
        ("GET /stats/summary", "application/xml", true),
        ("GET /metrics", "application/xml", false),
    ] {
        let answer = bench.ask(line, &[("accept", accept)], "").await;
        assert_eq!(
            (answer.code, answer.text == not),
            if refused { (406, true) } else { (200, false) },
            "{line}"
        );
    }
}

/// The paths of upstream's own tests, with and without the slash.
const DEBUGGING: [&str; 11] = [
    "/run/",
    "/exec/",
    "/attach/",
    "/portForward/",
    "/containerLogs/",
    "/runningpods/",
    "/run/xxx",
    "/exec/a/b/c",
    "/attach/xxx",
    "/debug/pprof/profile",
    "/logs/kubelet.log",
];

#[tokio::test]
async fn debugging_can_be_turned_off_and_is_never_on_the_read_only_port() {
    for bench in [
        bench_of(Site::Full, FakeNode::default(), |settings| settings.debugging_handlers = false),
        bench_of(Site::ReadOnly, FakeNode::default(), |_| {}),
    ] {
        for path in DEBUGGING {
            for method in ["GET", "POST", "PUT"] {
                bench.check(&format!("{method} {path}"), DISABLED.0, DISABLED.1).await;
            }
        }
        for path in ["/exec", "/run", "/logs", "/runningpods", "/debug/pprof"] {
            assert_eq!(bench.get(path).await.code, 307, "{path}");
        }
        for path in
            ["/configz", "/flagz", "/statusz", "/debug/flags/v", "/checkpoint/a/b/c", "/checkpoint", "/debug"]
        {
            bench.check(&format!("GET {path}"), NOTHING.0, NOTHING.1).await;
            bench.check(&format!("PUT {path}"), NOTHING.0, NOTHING.1).await;
        }
        for path in ["/healthz", "/healthz/syncloop", "/pods", "/stats/summary", "/metrics", "/metrics/slis"]
        {
            assert_eq!(bench.get(path).await.code, 200, "{path}");
        }
        assert!(bench.asked().iter().all(|asked| asked == "Summary"));
    }
}

#[tokio::test]
async fn the_health_port_has_nothing_else() {
    let bench = bench_of(Site::Healthz, FakeNode { sick: true, ..Default::default() }, |_| {});
    bench.check("GET /healthz", 200, "ok").await;
    bench.check("GET /healthz?verbose", 200, "[+]ping ok\nhealthz check passed\n").await;
    bench.check("GET /healthz/ping", 200, "ok").await;
    for path in ["/healthz/syncloop", "/pods", "/metrics", "/exec/", "/configz"] {
        bench.check(&format!("GET {path}"), NOTHING.0, NOTHING.1).await;
    }
}

#[tokio::test]
async fn handlers_can_be_turned_off_one_by_one() {
    let bench = bench_of(Site::Full, FakeNode::default(), |settings| {
        settings.system_log_handler = false;
        settings.profiling_handler = false;
        settings.debug_flags_handler = false;
        settings.checkpoint = false;
        settings.flagz = false;
        settings.statusz = false;
    });
    for (line, text) in [
        ("GET /logs/kubelet.log", "logs endpoint is disabled.\n"),
        ("POST /logs/", "logs endpoint is disabled.\n"),
        ("GET /debug/pprof/profile?seconds=2", "profiling endpoint is disabled.\n"),
        ("PUT /debug/flags/v", "flags endpoint is disabled.\n"),
    ] {
        let answer = bench.check(line, 405, text).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    for line in ["POST /checkpoint/ns/web/c", "GET /flagz", "GET /statusz"] {
        bench.check(line, NOTHING.0, NOTHING.1).await;
    }
    assert_eq!(bench.get("/configz").await.code, 200);
}

#[tokio::test]
async fn health_names_what_fails_and_keeps_why() {
    let healthy = full();
    let all = "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n";
    healthy.check("GET /healthz?verbose", 200, all).await;
    healthy.check("GET /healthz?verbose=false", 200, all).await;
    let some = "[+]ping excluded: ok\n[+]log ok\n[+]syncloop ok\n\
        warn: some health checks cannot be excluded: no matches for \"a\\\"b\",\"none\"\nhealthz check passed\n";
    healthy.check("GET /healthz?verbose&exclude=ping&exclude=none&exclude=a%22b", 200, some).await;
    let sick = bench_of(Site::Full, FakeNode { sick: true, ..Default::default() }, |_| {});
    let failed = "[+]ping ok\n[+]log ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n";
    let answer = sick.check("GET /healthz", 500, failed).await;
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    sick.check("GET /healthz?exclude=syncloop", 200, "ok").await;
    let why = "internal server error: sync Loop took longer than expected\n";
    sick.check("GET /healthz/syncloop", 500, why).await;
    let page = sick.get("/metrics/slis").await.text;
    assert!(page.contains("kubernetes_healthcheck{name=\"syncloop\",type=\"healthz\"} 0\n"), "{page}");
    assert!(page.contains("kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1\n"), "{page}");
    sick.check("DELETE /metrics/slis", 200, "metrics reset\n").await;
}

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
async fn verbosity_is_put() {
    let bench = full();
    for (line, text, code, said) in [
        ("PUT", "4", 200, "successfully set klog.logging.verbosity to 4\n"),
        ("PUT", "300", 200, "successfully set klog.logging.verbosity to 300\n"),
        ("PUT", "", 400, "strconv.ParseUint: parsing \"\": invalid syntax\n"),
        ("PUT", "4\n", 400, "strconv.ParseUint: parsing \"4\\n\": invalid syntax\n"),
        ("PUT", "-1", 400, "strconv.ParseUint: parsing \"-1\": invalid syntax\n"),
        ("PUT", "4294967296", 400, "strconv.ParseUint: parsing \"4294967296\": value out of range\n"),
        (
            "PUT",
            "4294967295",
            400,
            "failed set klog.logging.verbosity 4294967295: strconv.ParseInt: parsing \"4294967295\": value out of range\n",
        ),
        ("PUT", "9", 400, "failed set klog.logging.verbosity 9: not here\n"),
        ("GET", "4", 406, "unsupported http method\n"),
        ("POST", "4", 406, "unsupported http method\n"),
    ] {
        let answer = bench.ask(&format!("{line} /debug/flags/v"), &[], text).await;
        assert_eq!((answer.code, answer.text.as_str()), (code, said), "{line} {text}");
        assert_eq!(
            (answer.header("content-type"), answer.header("x-content-type-options")),
            ("text/plain", "nosniff")
        );
    }
    assert_eq!(bench.asked(), ["v 4", "v 255", "v 9"]);
    let long = bench.ask("PUT /debug/flags/v", &[], &"1".repeat(form::LONGEST + 1)).await;
    assert_eq!(
        (long.code, long.text.as_str()),
        (400, "error reading request body: http: request body too large\n")
    );
}

#[tokio::test]
async fn profiles_say_what_they_are_not() {
    let bench = full();
    assert!(bench.get("/debug/pprof/").await.text.contains("cmdline"));
    let line = bench.get("/debug/pprof/cmdline").await;
    assert_eq!((line.code, line.header("x-content-type-options")), (200, "nosniff"));
    assert!(!line.text.is_empty());
    bench.check("GET /debug/pprof/symbol?0x1", 200, "num_symbols: 0\n").await;
    assert!(bench.get("/debug/pprof/goroutine?debug=1").await.text.starts_with("tasks: "));
    for name in ["goroutine", "goroutine?debug=0", "heap", "profile?seconds=30", "trace"] {
        let answer = bench.get(&format!("/debug/pprof/{name}")).await;
        assert_eq!((answer.code, answer.header("x-go-pprof")), (501, "1"), "{name}");
        assert!(answer.text.starts_with("rubelet 0.1.0 is written in Rust"), "{}", answer.text);
    }
    for name in ["none", "heap/x", "..%2fcmdline"] {
        let answer = bench.check(&format!("GET /debug/pprof/{name}"), 404, "Unknown profile\n").await;
        assert_eq!(answer.header("x-go-pprof"), "1");
    }
}

#[tokio::test]
async fn the_configuration_stands_under_its_name() {
    let answer =
        full().check("GET /configz", 200, "{\"kubeletconfig\":{\"kind\":\"KubeletConfiguration\"}}").await;
    assert_eq!(
        (answer.header("content-type"), answer.header("x-content-type-options")),
        ("application/json", "nosniff")
    );
}

#[tokio::test]
async fn flags_and_status_are_texts_or_objects() {
    let bench = full();
    let text = bench.get("/flagz").await;
    assert_eq!(text.header("content-type"), "text/plain; charset=utf-8");
    assert!(
        text.text.starts_with("\nkubelet flagz\nWarning: ") && text.text.ends_with("config=/k: x\nv=2\n"),
        "{}",
        text.text
    );
    let accept = |kind: &str, version: &str, form: &str| {
        format!("application/{form};as={kind};v={version};g=config.k8s.io")
    };
    let object = bench.ask("GET /flagz", &[("accept", &accept("Flagz", "v1beta1", "json"))], "").await;
    assert_eq!(object.header("content-type"), "application/json");
    assert_eq!(
        serde_json::from_str::<Value>(&object.text).unwrap(),
        json!({"kind": "Flagz", "apiVersion": "config.k8s.io/v1beta1", "metadata": {"name": "kubelet"},
            "flags": {"config": "/k: x", "v": "2"}})
    );
    assert_eq!(object.header("warning"), "");
    let old = bench.ask("GET /flagz", &[("accept", &accept("Flagz", "v1alpha1", "yaml"))], "").await;
    assert_eq!(old.header("content-type"), "application/yaml");
    assert!(old.header("warning").starts_with("299 - \"This version of the flagz endpoint is deprecated."));
    assert_eq!(
        old.text,
        "apiVersion: \"config.k8s.io/v1alpha1\"\nflags:\n  config: \"/k: x\"\n  v: \"2\"\nkind: \"Flagz\"\nmetadata:\n  name: \"kubelet\"\n"
    );
    let text = bench.get("/statusz").await.text;
    let told = "\nStarted: Sun Nov 22 10:58:03 UTC 2026\nUp: 25 hr 01 min 56 sec\nGo version: none (rubelet 0.1.0)\n\
        Binary version: 1.36.2\nEmulation version: 1.36\nPaths: /configz /debug /flagz /healthz /metrics\n";
    assert!(text.ends_with(told), "{text}");
    let object = bench.ask("GET /statusz", &[("accept", &accept("Statusz", "v1beta1", "json"))], "").await;
    assert_eq!(
        serde_json::from_str::<Value>(&object.text).unwrap(),
        json!({"kind": "Statusz", "apiVersion": "config.k8s.io/v1beta1", "metadata": {"name": "kubelet"},
            "startTime": "2026-11-22T10:58:03Z", "uptimeSeconds": 90116, "goVersion": "none (rubelet 0.1.0)",
            "binaryVersion": "1.36.2", "emulationVersion": "1.36",
            "paths": ["/configz", "/debug", "/flagz", "/healthz", "/metrics"]})
    );
    let refused = bench.ask("GET /statusz", &[("accept", "application/json")], "").await;
    let status: Value = serde_json::from_str(&refused.text).unwrap();
    assert_eq!(
        (refused.code, &status["reason"], &status["kind"]),
        (406, &json!("NotAcceptable"), &json!("Status"))
    );
}

#[tokio::test]
async fn documents_are_read_as_far_as_they_need() {
    let bench = full();
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for line in ["GET /stats/summary", "GET /stats/summary/?only_cpu_and_memory=1", "GET /metrics/cadvisor"] {
        assert_eq!(bench.ask(line, &[], "").await.code, 200, "{line}");
    }
    for line in ["GET /stats/summary?only_cpu_and_memory=true", "GET /metrics/resource"] {
        assert_eq!(bench.ask(line, &[], "").await.code, 200, "{line}");
    }
    bench.ask("POST /stats/summary", &form, "only_cpu_and_memory=true").await;
    bench.ask("GET /stats/summary?only_cpu_and_memory=true&only_cpu_and_memory=true", &[], "").await;
    assert_eq!(
        bench.asked(),
        ["Summary", "Summary", "Everything", "CpuAndMemory", "CpuAndMemory", "CpuAndMemory", "Summary"]
    );
    let wrong = bench.ask("POST /stats/summary", &[("content-type", "invalid/content/type")], "").await;
    assert_eq!(
        (wrong.code, wrong.text.as_str()),
        (500, "Internal Error: parse form failed: mime: unexpected content after media subtype")
    );
    let json = bench.get("/stats/summary").await;
    assert_eq!(json.header("content-type"), "application/json");
}

#[tokio::test]
async fn pages_of_metrics_are_compressed_for_who_likes_it() {
    let bench = full();
    for path in ["/metrics", "/metrics/cadvisor", "/metrics/resource", "/metrics/probes", "/metrics/slis"] {
        let page = bench.get(path).await;
        assert_eq!(
            page.header("content-type"),
            "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
        );
        let start = if path == "/metrics" { "" } else { "1795345083" };
        assert_eq!(page.header("process-start-time-unix"), start, "{path}");
        assert_eq!(page.header("content-encoding"), "");
    }
    let request = Request::get("/metrics").header("accept-encoding", "gzip").body(body::whole("")).unwrap();
    let response = bench.api.answer(request).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).unwrap();
    assert!(text.contains("kubelet_http_requests_total"), "{text}");
    // Lists of pods never are, as upstream.
    let pods = bench.ask("GET /pods", &[("accept-encoding", "gzip")], "").await;
    assert_eq!((pods.header("content-encoding"), pods.header("content-type")), ("", "application/json"));
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

mod any_request {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn is_answered(
            method in prop::sample::select(vec!["GET", "POST", "PUT", "HEAD", "PATCH", "CONNECT", "BREW"]),
            start in prop::sample::select(vec![
                "", "/", "/exec", "/run", "/containerLogs/ns/web", "/logs", "/debug/pprof", "/healthz", "/metrics", "/stats",
            ]),
            path in "[a-z/.%0-9;]{0,12}",
            query in "[a-z=&%0-9;+]{0,20}",
            accept in "[a-z/*;=,.0-9]{0,20}",
        ) {
            let target = format!("{start}/{path}?{query}");
            let Ok(request) = Request::builder().method(method).uri(&target).header("accept", accept).body(body::whole("")) else {
                return Ok(());
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            for site in [Site::Full, Site::ReadOnly, Site::Healthz] {
                let bench = bench_of(site, FakeNode::default(), |_| {});
                let (head, body) = request.clone_parts();
                let response = runtime.block_on(bench.api.answer(Request::from_parts(head, body)));
                prop_assert!(response.status().as_u16() < 502, "{target}: {}", response.status());
                // A redirect stays on this server, and its target is not redirected again.
                if let Some(location) = response.headers().get("location") {
                    let location = location.to_str().unwrap();
                    prop_assert!(location.starts_with('/') && !location.starts_with("//"));
                    let again = Request::get(location).body(body::whole("")).unwrap();
                    prop_assert_ne!(runtime.block_on(bench.api.answer(again)).status().as_u16(), 307);
                }
            }
        }
    }

    trait CloneParts {
        fn clone_parts(&self) -> (http::request::Parts, Body);
    }

    impl CloneParts for Request<Body> {
        fn clone_parts(&self) -> (http::request::Parts, Body) {
            let mut copy = Request::new(());
            *copy.method_mut() = self.method().clone();
            *copy.uri_mut() = self.uri().clone();
            *copy.headers_mut() = self.headers().clone();
            (copy.into_parts().0, body::whole(""))
        }
    }
}
