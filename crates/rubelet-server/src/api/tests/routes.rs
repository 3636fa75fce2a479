//! Which endpoint a request reaches on each port: the expected answers are those of upstream's routers (`http.ServeMux`
//! of Go 1.26 with go-restful in it), asked with the same requests.

use super::*;

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
        assert!(bench.asked().iter().all(|asked| asked == "Summary" || asked == "Storage"));
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

mod any_request {
    use super::*;
    use proptest::prelude::*;

    /// The subresource of the node that stands for an endpoint (upstream `GetRequestAttributes`).
    fn subresource(endpoint: &Endpoint) -> &'static str {
        match endpoint {
            Endpoint::Health(_) => "healthz",
            Endpoint::Metrics | Endpoint::Cadvisor | Endpoint::Resource => "metrics",
            Endpoint::Probes | Endpoint::Slis => "metrics",
            Endpoint::Pods | Endpoint::RunningPods => "pods",
            Endpoint::Summary => "stats",
            Endpoint::Logs => "log",
            Endpoint::Checkpoint(_) => "checkpoint",
            Endpoint::Configz | Endpoint::Flagz => "configz",
            Endpoint::Statusz => "statusz",
            Endpoint::ContainerLogs(_) | Endpoint::Exec(_) | Endpoint::Attach(_) => "proxy",
            Endpoint::PortForward(_) | Endpoint::Run(_) => "proxy",
            Endpoint::Verbosity | Endpoint::Pprof(_) => "proxy",
        }
    }

    /// Each of these bytes is sent as an escape with the given chance.
    fn disguised(path: &str, escapes: &[bool]) -> String {
        let hide = path.bytes().zip(escapes.iter().cycle());
        hide.map(|(byte, escaped)| match escaped {
            true => format!("%{byte:02x}"),
            false => char::from(byte).to_string(),
        })
        .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn is_judged_as_what_it_is_routed_to(
            method in prop::sample::select(vec!["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "CONNECT"]),
            segments in prop::collection::vec(prop::sample::select(vec![
                "", ".", "..", "a", "b", "summary", "cadvisor", "v", "flags", "pprof", "pods", "runningpods", "healthz",
                "metrics", "stats", "logs", "exec", "attach", "run", "portForward", "containerLogs", "checkpoint",
                "configz", "flagz", "statusz", "debug", "pods;x", "exec%2fa", "%2e%2e", "%2F",
            ]), 1..6),
            escapes in prop::collection::vec(prop::bool::weighted(0.1), 1..20),
        ) {
            let target = disguised(&format!("/{}", segments.join("/")), &escapes);
            let Ok(request) = Request::builder().method(method).uri(&target).body(()) else { return Ok(()) };
            let (bench, sent) = (full(), request.uri().path());
            if let Routed::To(endpoint) =
                routing::route(Site::Full, &bench.api.settings, request.method(), sent, None)
            {
                prop_assert_eq!(crate::path::clean(sent), sent, "the gate sends it elsewhere");
                let judged = crate::path::decoded(sent).unwrap();
                let wanted = rubelet_core::node_authz::access(method, &judged);
                prop_assert_eq!(wanted.subresources[0], subresource(&endpoint), "{}", target);
            }
        }

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
