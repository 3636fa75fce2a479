//! Health, documents, and what is for people who look into the agent.

use super::*;

#[tokio::test]
async fn health_names_what_fails_and_keeps_why() {
    let healthy = full();
    let all = "[+]ping ok\n[+]log ok\n[+]syncloop ok\n[+]containerruntime ok\nhealthz check passed\n";
    healthy.check("GET /healthz?verbose", 200, all).await;
    healthy.check("GET /healthz?verbose=false", 200, all).await;
    let some = "[+]ping excluded: ok\n[+]log ok\n[+]syncloop ok\n[+]containerruntime ok\n\
        warn: some health checks cannot be excluded: no matches for \"a\\\"b\",\"none\"\nhealthz check passed\n";
    healthy.check("GET /healthz?verbose&exclude=ping&exclude=none&exclude=a%22b", 200, some).await;
    let sick = bench_of(Site::Full, FakeNode { sick: true, ..Default::default() }, |_| {});
    let failed = "[+]ping ok\n[+]log ok\n[-]syncloop failed: reason withheld\n\
        [+]containerruntime ok: its lists are slow\nhealthz check failed\n";
    let answer = sick.check("GET /healthz", 500, failed).await;
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    sick.check("GET /healthz?exclude=syncloop", 200, "ok").await;
    let why = "internal server error: sync Loop took longer than expected\n";
    sick.check("GET /healthz/syncloop", 500, why).await;
    sick.check("GET /healthz/containerruntime", 200, "ok: its lists are slow").await;
    let page = sick.get("/metrics/slis").await.text;
    assert!(page.contains("kubernetes_healthcheck{name=\"syncloop\",type=\"healthz\"} 0\n"), "{page}");
    assert!(page.contains("kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1\n"), "{page}");
    sick.check("DELETE /metrics/slis", 200, "metrics reset\n").await;
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
    for (path, line) in
        [("/metrics", "kubelet_http_requests_total"), ("/metrics/cadvisor", "container_scrape_error 0\n")]
    {
        let request = Request::get(path).header("accept-encoding", "gzip").body(body::whole("")).unwrap();
        let response = bench.api.answer(request).await;
        assert_eq!(response.headers()["content-encoding"], "gzip");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).unwrap();
        assert!(text.contains(line), "{text}");
        if path != "/metrics" {
            assert_eq!(text, bench.get(path).await.text);
        }
    }
    // Lists of pods never are, as upstream.
    let pods = bench.ask("GET /pods", &[("accept-encoding", "gzip")], "").await;
    assert_eq!((pods.header("content-encoding"), pods.header("content-type")), ("", "application/json"));
}

#[tokio::test]
async fn refused_requests_count_too() {
    let bench = full();
    let refused = answers::text(StatusCode::UNAUTHORIZED, "Unauthorized");
    let request = Request::get("/exec/ns/web/c").body(body::whole("")).unwrap();
    let response = bench.api.answer_if(std::future::ready(Err(refused)), request).await;
    assert_eq!(response.status(), 401);
    assert_eq!(bench.asked(), [""; 0]);
    let counts = |page: &str, name: &str, value: u32| {
        let labels = "method=\"GET\",path=\"exec\",server_type=\"readwrite\",long_running=\"true\"";
        assert!(page.contains(&format!("{name}{{{labels}}} {value}\n")), "{page}");
    };
    let page = bench.get("/metrics").await.text;
    counts(&page, "kubelet_http_requests_total", 1);
    counts(&page, "kubelet_http_inflight_requests", 1);
    drop(response);
    counts(&bench.get("/metrics").await.text, "kubelet_http_inflight_requests", 0);
}
