//! HTTP probes: what upstream makes of every kind of answer, and what servers are asked.

use std::net::{Ipv6Addr, TcpListener};

use crate::node::{Node, free_port};
use crate::pods::{condition, container, container_id, restarts, status};
use crate::probes_cases::{Case, Want, check, wait_event};
use crate::probes_servers::{Answer, FullDoor, Web, in_pod, loopback};

use Want::{Errs, Fails, Passes, Warns};

/// The event when a server took too long.
pub const SLOW: &str = "(Client.Timeout exceeded while awaiting headers)";

/// The event when its head came in time and its body did not: an error, which changes nothing.
const SLOW_BODY: &str = "(Client.Timeout or context cancellation while reading body)";

/// A case that asks the test's server for a page.
fn page(web: &Web, name: &'static str, answer: Answer, want: Want) -> Case {
    let target = format!("/{}", name.replace(' ', "-"));
    web.page(&target, answer);
    get(name, web.port, &target, "", want)
}

/// A case that asks a port on the loopback for a path; `more` is more of its action.
pub fn get(name: &'static str, port: u16, path: &str, more: &str, want: Want) -> Case {
    let handler = format!("httpGet: {{host: 127.0.0.1, port: {port}, path: '{path}'{more}}}");
    Case { name, handler, want }
}

#[test]
fn probes_http_answers_of_every_kind() {
    let node = Node::start();
    let (web, other) = (Web::start(), Web::start());
    web.page("/well", Answer::code(200));
    other.page("/well", Answer::code(200));
    let full = FullDoor::new();
    let closed = {
        let listener = loopback();
        listener.local_addr().unwrap().port()
    };
    let ok = "HTTP/1.1 200 OK\r\n";
    let many_headers: String = (0..300).map(|n| format!("X-Header-{n}: {n}\r\n")).collect();
    let long_header = "x".repeat(200_000);
    let away = format!("http://localhost:{}/well", other.port);
    let elsewhere = format!("http://127.0.0.1:{}/well", other.port);
    for n in 0..10 {
        web.page(&format!("/chain-{n}"), Answer::moved(302, &format!("/chain-{}", n + 1)));
    }
    web.page("/chain-10", Answer::code(200));
    let cases = [
        // Codes: from 200 up to 399 it is well.
        page(&web, "200", Answer::code(200), Passes),
        page(&web, "204", Answer::bytes("HTTP/1.1 204 No Content\r\n\r\n"), Passes),
        page(&web, "299", Answer::code(299), Passes),
        page(&web, "400", Answer::code(400), Fails("HTTP probe failed with statuscode: 400")),
        page(&web, "404", Answer::code(404), Fails("HTTP probe failed with statuscode: 404")),
        page(&web, "500", Answer::code(500), Fails("HTTP probe failed with statuscode: 500")),
        page(&web, "999", Answer::code(999), Fails("HTTP probe failed with statuscode: 999")),
        page(
            &web,
            "304",
            Answer::bytes("HTTP/1.1 304 Not Modified\r\n\r\n"),
            Warns("Probe terminated redirects, Response body: "),
        ),
        page(&web, "399", Answer::code(399), Warns("Probe terminated redirects, Response body: the answer")),
        page(
            &web,
            "100 first",
            Answer::bytes(&format!("HTTP/1.1 100 Continue\r\n\r\n{ok}Content-Length: 2\r\n\r\nok")),
            Passes,
        ),
        // Redirects: followed as long as they stay on the host.
        page(&web, "to a path", Answer::moved(302, "/well"), Passes),
        page(&web, "to a relative path", Answer::moved(301, "well"), Passes),
        page(&web, "to another port", Answer::moved(307, &elsewhere), Passes),
        page(
            &web,
            "to a page that is ill",
            Answer::moved(308, "/500"),
            Fails("HTTP probe failed with statuscode: 500"),
        ),
        page(
            &web,
            "to another host",
            Answer::moved(302, &away),
            Warns("Probe terminated redirects, Response body: it moved"),
        ),
        get("nine times", web.port, "/chain-1", "", Passes),
        get("ten times", web.port, "/chain-0", "", Fails("stopped after 10 redirects")),
        page(
            &web,
            "round and round",
            Answer::moved(302, "/round-and-round"),
            Fails("stopped after 10 redirects"),
        ),
        page(
            &web,
            "to nowhere",
            Answer::bytes("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"),
            Warns("Probe terminated redirects, Response body: "),
        ),
        page(
            &web,
            "to nonsense",
            Answer::moved(302, "http://[::1"),
            Fails("failed to parse Location header"),
        ),
        // Odd answers that are answers.
        page(&web, "old", Answer::bytes("HTTP/1.0 200 OK\r\n\r\nuntil the end"), Passes),
        page(&web, "without a word", Answer::bytes("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"), Passes),
        page(&web, "bare newlines", Answer::bytes("HTTP/1.1 200 OK\nContent-Length: 2\n\nok"), Passes),
        page(
            &web,
            "chunks",
            Answer::bytes(&format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")),
            Passes,
        ),
        page(
            &web,
            "many headers",
            Answer::bytes(&format!("{ok}{many_headers}Content-Length: 0\r\n\r\n")),
            Passes,
        ),
        page(
            &web,
            "a long header",
            Answer::bytes(&format!("{ok}X: {long_header}\r\nContent-Length: 0\r\n\r\n")),
            Passes,
        ),
        page(
            &web,
            "a stream that stays",
            Answer::silent(&format!("{ok}Content-Length: 2\r\n\r\nok")),
            Passes,
        ),
        page(
            &web,
            "endless",
            Answer::endless(&format!("{ok}\r\n"), "0123456789abcdef0123456789abcdef"),
            Passes,
        ),
        page(
            &web,
            "endless and chunked",
            Answer::endless(&format!("{ok}Transfer-Encoding: chunked\r\n\r\n"), "8\r\n01234567\r\n"),
            Passes,
        ),
        page(
            &web,
            "endless and ill",
            Answer::endless("HTTP/1.1 503 No\r\n\r\n", "0123456789abcdef0123456789abcdef"),
            Fails("HTTP probe failed with statuscode: 503"),
        ),
        // Slow ones.
        page(&web, "silent", Answer::silent(""), Fails(SLOW)),
        page(&web, "a byte a second of the head", Answer::drip("HTTP/1.1 200 OK\r\nX: "), Fails(SLOW)),
        page(&web, "a byte a second of the body", Answer::drip(&format!("{ok}\r\n")), Errs(SLOW_BODY)),
        page(
            &web,
            "half a body",
            Answer::bytes(&format!("{ok}Content-Length: 10\r\n\r\nhalf")),
            Errs("unexpected EOF"),
        ),
        get("takes nobody", full.port, "/", "", Fails(SLOW)),
        get("closed", closed, "/", "", Fails("connect: connection refused")),
        // Answers that are none.
        page(&web, "hangs up", Answer::bytes(""), Fails("EOF")),
        page(&web, "hangs up in the head", Answer::bytes("HTTP/1.1 200 OK\r\nX: y"), Fails("EOF")),
        page(&web, "not HTTP", Answer::bytes("220 mail.example.com ESMTP\r\n"), Fails("malformed HTTP")),
        page(&web, "endless nonsense", Answer::endless("", "\u{0}\u{1}nonsense"), Fails("")),
        page(
            &web,
            "endless head",
            Answer::endless(ok, "X-Header: 0123456789abcdef0123456789abcdef\r\n"),
            Fails(""),
        ),
        page(&web, "no number", Answer::bytes("HTTP/1.1 abc Word\r\n\r\n"), Fails("malformed HTTP")),
    ];
    check(&node, "answers", "", &cases, |_| ());
}

#[test]
fn probes_http_requests_are_as_upstream_makes_them() {
    let node = Node::start();
    let web = Web::start();
    // The path in the spec and the target on the wire.
    let paths = [
        ("/plain", "/plain"),
        ("healthz", "/healthz"),
        ("/with?query=1&more", "/with?query=1&more"),
        ("/with#fragment", "/with"),
        ("/with a space", "/with%20a%20space"),
        ("/escaped%2Fslash", "/escaped%2Fslash"),
        ("/half%zz", "/half%25zz"),
        ("/ümlaut", "/%C3%BCmlaut"),
        ("http://other.example/absolute", "/absolute"),
        ("//other.example/host", "/host"),
        ("/{braces}", "/%7Bbraces%7D"),
    ];
    let mut cases = vec![];
    for (path, target) in paths {
        web.page(target, Answer::code(200));
        cases.push(get(path, web.port, path, "", Passes));
    }
    let headers = |name, path: &str, headers: &str| {
        web.page(path, Answer::code(200));
        get(name, web.port, path, &format!(", httpHeaders: [{headers}]"), Passes)
    };
    let header = |name: &str, value: &str| format!("{{name: {name}, value: '{value}'}}");
    cases.push(headers(
        "own headers",
        "/own",
        &[
            header("X-Word", "one"),
            header("X-Word", "two"),
            header("user-agent", "mine"),
            header("accept", "text/plain"),
        ]
        .join(","),
    ));
    cases.push(headers("own host", "/host-header", &header("Host", "shop.example:81")));
    cases.push(headers("no accept", "/bare", &header("Accept", "")));
    cases.push(headers(
        "a body that is none",
        "/length",
        &[header("Content-Length", "500"), header("Transfer-Encoding", "chunked")].join(","),
    ));
    // Where the machine has IPv6 at all.
    if let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        let port = listener.local_addr().unwrap().port();
        web.serve(listener);
        web.page("/v6", Answer::code(200));
        let handler = format!("httpGet: {{host: '::1', port: {port}, path: /v6}}");
        cases.push(Case { name: "IPv6", handler, want: Passes });
    }
    check(&node, "requests", "", &cases, |_| ());

    // Its own address: by name of the port, in its own network.
    let own = |name, action: &str, want| {
        let handler = format!("httpGet: {{{action}}}\n    initialDelaySeconds: 8");
        Case { name, handler, want }
    };
    let cases = [
        own("a named port", "port: web, path: /from-the-node", Passes),
        own("a number", "port: 8080, path: /from-the-node", Passes),
        own("nobody there", "port: 8081", Fails(":8081: connect: connection refused")),
    ];
    web.page("/from-the-node", Answer::code(200));
    check(&node, "own", "ports: [{name: web, containerPort: 8080}]", &cases, |pod| {
        web.serve(in_pod(&node, &container_id(pod, "c0"), 8080));
    });

    let head = |target: &str| {
        let head = web.asked(target).pop().unwrap_or_else(|| panic!("{target} of {:?}", web.targets())).head;
        let mut lines: Vec<String> = head.trim_end().split("\r\n").map(str::to_owned).collect();
        lines[1..].sort_by_key(|line| line.to_lowercase());
        lines
    };
    let lower = |target: &str| head(target).join("\n").to_lowercase();
    assert_eq!(
        lower("/plain"),
        format!(
            "get /plain http/1.1\naccept: */*\nconnection: close\nhost: 127.0.0.1:{}\nuser-agent: kube-probe/1.36",
            web.port
        )
    );
    let own = lower("/own");
    for line in ["x-word: one", "x-word: two", "user-agent: mine", "accept: text/plain"] {
        assert_eq!(own.lines().filter(|there| there == &line).count(), 1, "{line} in {own}");
    }
    assert!(!own.contains("kube-probe") && !own.contains("*/*"), "{own}");
    let host = lower("/host-header");
    assert!(host.contains("\nhost: shop.example:81\n") && !host.contains("127.0.0.1"), "{host}");
    assert!(!lower("/bare").contains("accept"), "{}", lower("/bare"));
    let length = lower("/length");
    assert!(!length.contains("content-length") && !length.contains("transfer-encoding"), "{length}");
    let ip = status(&node.pod("own-0")).pod_ip.unwrap();
    let own = lower("/from-the-node");
    assert!(own.contains(&format!("\nhost: {ip}:8080\n")), "{own}");
}

#[test]
fn probes_http_of_a_server_in_the_pod_follow_its_life() {
    let node = Node::start();
    node.apply(
        "web",
        "
containers:
- name: web
  image: $IMAGE
  ports: [{name: http, containerPort: 8080}]
  command:
  - sh
  - -c
  - |
    mkdir /tmp/www; echo well > /tmp/www/health
    httpd -f -p 8080 -h /tmp/www & server=$!
    until [ -e /share/stop ]; do sleep 0.1; done
    kill $server; sleep 1000
  readinessProbe: {httpGet: {port: http, path: /health}, periodSeconds: 1, failureThreshold: 2}
  volumeMounts: [{name: share, mountPath: /share}]
- name: peer
  image: $IMAGE
  command: [sleep, '1000']
  startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 60}
  readinessProbe: {httpGet: {port: 8080, path: /nothing}, periodSeconds: 1}
volumes: [{name: share, hostPath: {path: $SHARE}}]
",
    );
    let closed = free_port();
    node.apply(
        "host",
        &format!(
            "
hostNetwork: true
containers:
- name: host
  image: $IMAGE
  command: [sleep, '1000']
  readinessProbe: {{httpGet: {{port: {closed}}}, periodSeconds: 1}}
"
        ),
    );
    let ready = |name: &'static str, ready: bool| {
        node.wait_pod("web", &format!("to have {name} ready {ready}"), move |pod| {
            let of = container(pod, name);
            of.ready == ready && of.started == Some(true)
        })
    };
    let pod = ready("web", true);
    let ip = status(&pod).pod_ip.unwrap();
    let says = |container: &str, message: &str| wait_event(&node, container, "Unhealthy", message);
    says("peer", "Readiness probe failed: HTTP probe failed with statuscode: 404");
    std::fs::write(node.share("stop"), "").unwrap();
    let pod = ready("web", false);
    assert!(!condition(&pod, "Ready"));
    assert_eq!(restarts(&pod, "web"), 0, "readiness restarts nothing");
    says(
        "web",
        &format!(
            "Readiness probe failed: Get \"http://{ip}:8080/health\": dial tcp {ip}:8080: connect: connection refused"
        ),
    );
    // A pod in the node's network is asked at the node's address.
    let pod_ip = status(&node.wait_state("host", "host", "running")).pod_ip.unwrap();
    says("host", &format!("dial tcp {pod_ip}:{closed}: connect: connection refused"));
    // Another server at the same address, and it is well again.
    let web = Web::start();
    web.page("/health", Answer::code(200));
    let listener: TcpListener = in_pod(&node, &container_id(&pod, "web"), 8080);
    web.serve(listener);
    ready("web", true);
}
