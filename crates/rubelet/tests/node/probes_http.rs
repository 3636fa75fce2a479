//! HTTP probes: what upstream makes of every kind of server, over TLS with every kind of certificate, and what is asked
//! of servers that are well.

use std::net::{Ipv6Addr, TcpListener};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};

use crate::node::{Node, free_port};
use crate::pods::{condition, container, container_id, restarts, status};
use crate::probes_cases::{Case, Want, check, wait_event};
use crate::probes_servers::{Answer, FullDoor, HealthServer, Web, in_pod, loopback};

use Want::{Errs, Fails, Passes, Warns};

/// The event when a server took too long.
const SLOW: &str = "(Client.Timeout exceeded while awaiting headers)";

/// The event when its head came in time and its body did not: an error, which changes nothing.
const SLOW_BODY: &str = "(Client.Timeout or context cancellation while reading body)";

/// A case that asks the test's server for a page.
fn page(web: &Web, name: &'static str, answer: Answer, want: Want) -> Case {
    let target = format!("/{}", name.replace(' ', "-"));
    web.page(&target, answer);
    get(name, web.port, &target, "", want)
}

fn get(name: &'static str, port: u16, path: &str, more: &str, want: Want) -> Case {
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

/// Changes what a self-signed certificate says.
pub fn certificate(
    change: impl FnOnce(&mut rcgen::CertificateParams),
    algorithm: &'static rcgen::SignatureAlgorithm,
) -> (Vec<u8>, rcgen::KeyPair) {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    change(&mut params);
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    (params.self_signed(&key).unwrap().der().to_vec(), key)
}

/// A server's configuration with any bytes for a certificate.
pub fn config(
    versions: &[&'static rustls::SupportedProtocolVersion],
    certificate: Vec<u8>,
    key: &rcgen::KeyPair,
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let certified = CertifiedKey::new(vec![CertificateDer::from(certificate)], key);
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
}

/// The certificate as version 1, as `openssl x509 -req` makes them: without its version and its extensions. That
/// breaks its signature, which says nothing about one that signs itself.
fn as_version_1(der: &[u8]) -> Vec<u8> {
    /// Splits the first element off: its tag, its content, and what comes after it.
    fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
        let (header, length) = match der[1] {
            0x81 => (3, usize::from(der[2])),
            0x82 => (4, usize::from(u16::from_be_bytes([der[2], der[3]]))),
            short => (2, usize::from(short)),
        };
        (der[0], &der[header..header + length], &der[header + length..])
    }
    fn wrapped(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82, length[0], length[1]], content].concat()
    }
    let (_, certificate, _) = element(der);
    let (_, mut fields, signature) = element(certificate);
    let mut kept = vec![];
    while !fields.is_empty() {
        let (tag, content, rest) = element(fields);
        if ![0xa0, 0xa3].contains(&tag) {
            kept.extend(wrapped(tag, content));
        }
        fields = rest;
    }
    wrapped(0x30, &[&wrapped(0x30, &kept), signature].concat())
}

#[test]
fn probes_http_certificates_of_every_kind() {
    let node = Node::start();
    let web = Web::start();
    web.page("/well", Answer::code(200));
    web.page("/ill", Answer::code(503));
    let (p256, p384, ed25519) =
        (&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519);
    let (v12, v13): (&[_], &[_]) = (&[&rustls::version::TLS12], &[&rustls::version::TLS13]);
    let https = |name, path: &str, config: ServerConfig, want| {
        get(name, web.serve_tls(config), path, ", scheme: HTTPS", want)
    };
    let well = |name, versions, (der, key): (Vec<u8>, rcgen::KeyPair)| {
        https(name, "/well", config(versions, der, &key), Passes)
    };
    let (plain, key) = certificate(|_| (), p256);
    let mut by_name = config(v13, plain.clone(), &key);
    by_name.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A server for gRPC answers whatever is asked, with 200.
    let grpc = HealthServer::new();
    let listener = loopback();
    let only_h2 = listener.local_addr().unwrap().port();
    grpc.serve_tls(listener, config(v13, plain.clone(), &key));
    let for_members = {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(plain.clone())).unwrap();
        let members = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(members.unwrap())
            .with_single_cert(
                vec![CertificateDer::from(plain.clone())],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap()
    };
    let silent = loopback();
    let silent_port = silent.local_addr().unwrap().port();
    let cases = [
        well("self-signed", v13, certificate(|_| (), p256)),
        well("TLS 1.2", v12, certificate(|_| (), p384)),
        well("Ed25519", v13, certificate(|_| (), ed25519)),
        well("expired", v13, certificate(|params| params.not_after = rcgen::date_time_ymd(2001, 1, 1), p256)),
        well(
            "not yet valid",
            v12,
            certificate(|params| params.not_before = rcgen::date_time_ymd(3000, 1, 1), p256),
        ),
        well(
            "an authority's",
            v13,
            certificate(
                |params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
                p256,
            ),
        ),
        well("without a name", v13, certificate(|params| params.subject_alt_names = vec![], p256)),
        well(
            "for clients",
            v13,
            certificate(
                |params| params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth],
                p256,
            ),
        ),
        https("version 1", "/well", config(v13, as_version_1(&plain), &key), Passes),
        https("version 1 by TLS 1.2", "/well", config(v12, as_version_1(&plain), &key), Passes),
        https("HTTP/1 by name", "/well", by_name, Passes),
        get("HTTP/2 only", only_h2, "/", ", scheme: HTTPS", Passes),
        https(
            "ill",
            "/ill",
            config(v13, plain.clone(), &key),
            Fails("HTTP probe failed with statuscode: 503"),
        ),
        https("to be shown one", "/well", for_members, Fails("tls: ")),
        get(
            "HTTP for HTTPS",
            web.port,
            "/well",
            ", scheme: HTTPS",
            Fails("server gave HTTP response to HTTPS client"),
        ),
        get(
            "HTTPS for HTTP",
            web.serve_tls(config(v13, plain, &key)),
            "/well",
            "",
            Fails("malformed HTTP response"),
        ),
        get("a silent handshake", silent_port, "/", ", scheme: HTTPS", Fails(SLOW)),
    ];
    check(&node, "certificates", "", &cases, |_| ());
    drop(silent);
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
