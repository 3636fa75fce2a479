//! What the table of upstream's outcomes (`tests/http.rs`) cannot show: that any bytes are survived, however they are
//! cut; servers with HTTP/2; certificates of all kinds; hooks.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Container, HTTPHeader};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::url::Url;
use super::*;

/// Bytes that arrive so many at a time.
struct Pieces<'a>(&'a [u8], usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let count = self.1.min(self.0.len()).min(buf.remaining());
        let (now, later) = self.0.split_at(count);
        buf.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

/// What is made of an answer: status, location, body and whatever is wrong.
fn judged(answer: &[u8], piece: usize) -> String {
    let mut reader = Reader::new(Pieces(answer, piece));
    let head = head::read(&mut reader).now_or_never().unwrap();
    let Ok(head) = head else { return format!("{head:?}") };
    let mut kept = vec![];
    let body = body::read(&mut reader, head.body, BODY_LIMIT, Some(&mut kept)).now_or_never().unwrap();
    assert!(kept.len() <= BODY_LIMIT);
    format!("{head:?} {body:?} {}", String::from_utf8_lossy(&kept))
}

/// Answers that are nearly right.
fn answers() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Just(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
        Just(b"HTTP/1.0 302 Found\r\nLocation: /x\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"Content-Length: 5\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b" continued\n".to_vec()),
        Just(b"5\r\nhello\r\n".to_vec()),
        Just(b"0\r\n\r\n".to_vec()),
        Just(b"0\r\nA: b\r\n\r\n".to_vec()),
        Just(b"ffffffffffffffff\r\n".to_vec()),
        Just(vec![b'x'; 3000]),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_answer_is_judged_and_alike_however_it_arrives(answer in answers(), piece in 1..100_usize) {
        prop_assert_eq!(judged(&answer, piece), judged(&answer, usize::MAX));
    }

    #[test]
    fn any_path_is_asked_for_in_one_line(path in any::<String>(), location in any::<String>()) {
        let action = HTTPGetAction { path: Some(path), port: IntOrString::Int(80), ..Default::default() };
        if let Ok(request) = Request::new(&action, &[], "10.0.0.1", "me") {
            let check = |request: &Request| {
                let text = String::from_utf8(request.http1()).unwrap();
                assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("Host: ")), "{text}");
                assert_eq!(text.matches("\r\n\r\n").count(), 1);
                assert!(text.bytes().all(|b| b >= b' ' || b == b'\r' || b == b'\n'), "{text:?}");
                assert_eq!(text.matches('\n').count(), text.lines().count());
            };
            check(&request);
            if let Ok(url) = request.url.join(&location) {
                check(&request.redirected(url, &location));
            }
        }
    }

    #[test]
    fn a_url_that_was_shown_is_the_same_url(text in "[a-z:/?#@%0-9.\\[\\] é]{0,24}") {
        if let Ok(url) = Url::parse(&text)
            && let Ok(again) = Url::parse(&url.full())
        {
            prop_assert_eq!(again.full(), url.full());
        }
    }
}

#[test]
fn an_endless_line_takes_no_memory() {
    let mut answer = b"HTTP/1.1 302 Found\r\nX: ".to_vec();
    answer.resize(4 << 20, b'x');
    answer.extend_from_slice(b"\r\nLocation: /y\r\n");
    for _ in 0..100_000 {
        answer.extend_from_slice(b"A: b\r\n");
    }
    answer.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    let mut reader = Reader::new(answer.as_slice());
    let mut line = vec![];
    for _ in 0..2 {
        reader.line(&mut line).now_or_never().unwrap().unwrap();
        assert!(line.capacity() <= 64 * 1024, "{}", line.capacity());
    }
    let judged = judged(&answer, usize::MAX);
    assert!(judged.contains("status: 302") && judged.contains("/y"), "{judged}");
}

/// A server with one certificate; what is none without parameters.
struct Server {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl Server {
    async fn new(protocols: &[&str], params: Option<rcgen::CertificateParams>) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = match params {
            Some(params) => params.self_signed(&key).unwrap().der().clone(),
            None => vec![1, 2, 3].into(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = provider.key_provider.load_private_key(key).unwrap();
        // Not looked at by the server either.
        let certified = rustls::sign::CertifiedKey::new(vec![cert], key);
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener, tls: TlsAcceptor::from(Arc::new(config)) }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    async fn accept(&self) -> tokio_rustls::server::TlsStream<TcpStream> {
        let (tcp, _) = self.listener.accept().await.unwrap();
        self.tls.accept(tcp).await.unwrap()
    }
}

fn action(port: u16, scheme: &str) -> HTTPGetAction {
    HTTPGetAction {
        path: Some("/x?y".into()),
        port: IntOrString::Int(port.into()),
        scheme: Some(scheme.into()),
        ..Default::default()
    }
}

async fn probe(action: &HTTPGetAction, millis: u64) -> ProbeOutcome {
    let container = Container::default();
    let target = Target { container: &container, pod_ip: "127.0.0.1" };
    get(action, &target, "kube-probe/1.36", Duration::from_millis(millis)).await
}

#[tokio::test]
async fn every_certificate_will_do() {
    let named = |change: fn(&mut rcgen::CertificateParams)| {
        let mut params = rcgen::CertificateParams::new(vec!["someone.else".to_owned()]).unwrap();
        change(&mut params);
        Some(params)
    };
    for (name, params) in [
        ("none at all", None),
        ("a wrong name", named(|_| {})),
        ("expired", named(|cert| cert.not_after = rcgen::date_time_ymd(2000, 1, 1))),
        ("not yet valid", named(|cert| cert.not_before = rcgen::date_time_ymd(2990, 1, 1))),
        (
            "for clients only",
            named(|cert| cert.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth]),
        ),
        (
            "for signing certificates only",
            named(|cert| {
                cert.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
                cert.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
            }),
        ),
        (
            "with a critical extension nobody knows",
            named(|cert| {
                let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
                extension.set_criticality(true);
                cert.custom_extensions = vec![extension];
            }),
        ),
    ] {
        let server = Server::new(&[], params).await;
        let asked = action(server.port(), "HTTPS");
        let serve = async {
            let mut stream = server.accept().await;
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            let _ = stream.flush().await;
        };
        let (outcome, ()) = tokio::join!(probe(&asked, 20_000), serve);
        assert_eq!(outcome, ProbeOutcome::Success, "{name}");
    }
}

/// How a server with HTTP/2 answers.
enum Http2 {
    Status(u16),
    Redirect(&'static str),
    /// So many bytes of body, and no end.
    Endless(u16, usize),
    Silent,
    Refuse,
    HangUp,
}

async fn serve_http2(server: Server, answer: Http2, asked: tokio::sync::mpsc::UnboundedSender<String>) {
    loop {
        let Ok(mut connection) = h2::server::handshake(server.accept().await).await else { return };
        let Some(Ok((request, mut respond))) = connection.accept().await else { return };
        let header = |name: &str| request.headers().get(name).map(|value| format!("{value:?}"));
        let _ = asked.send(format!(
            "{} {} {:?} {:?} {:?}",
            request.method(),
            request.uri(),
            header("user-agent"),
            header("connection"),
            header("x-a"),
        ));
        let response = |status: u16, location: &str| {
            let response = ::http::Response::builder().status(status);
            response.header("location", location).body(()).unwrap()
        };
        let mut body = None;
        match answer {
            Http2::Status(status) => drop(respond.send_response(response(status, ""), true)),
            Http2::Redirect(to) if request.uri().path() == "/x" => {
                let _ = respond.send_response(response(302, to), true);
            }
            Http2::Redirect(_) => drop(respond.send_response(response(200, ""), true)),
            Http2::Endless(status, length) => {
                let mut stream = respond.send_response(response(status, ""), false).unwrap();
                stream.send_data(vec![b'x'; length].into(), false).unwrap();
                body = Some(stream);
            }
            Http2::Silent => {}
            Http2::Refuse => respond.send_reset(h2::Reason::REFUSED_STREAM),
            Http2::HangUp => continue,
        }
        // Until the client goes.
        while connection.accept().await.is_some() {}
        drop((body, respond));
    }
}

#[tokio::test]
async fn servers_with_http_2() {
    let failed = |port: u16, text: &str| {
        ProbeOutcome::Failure(format!("Get \"https://127.0.0.1:{port}/x?y\": {text}"))
    };
    let late = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    let cut = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
    type Expected = Box<dyn Fn(u16) -> ProbeOutcome>;
    let rows: Vec<(Http2, u64, Expected, usize)> = vec![
        (Http2::Status(200), 20_000, Box::new(|_| ProbeOutcome::Success), 1),
        (
            Http2::Status(500),
            20_000,
            Box::new(|_| ProbeOutcome::Failure("HTTP probe failed with statuscode: 500".into())),
            1,
        ),
        (Http2::Redirect("/z"), 20_000, Box::new(|_| ProbeOutcome::Success), 2),
        (
            Http2::Redirect("https://example.com/"),
            20_000,
            Box::new(|_| ProbeOutcome::Warning("Probe terminated redirects, Response body: ".into())),
            1,
        ),
        (Http2::Endless(200, 100_000), 20_000, Box::new(|_| ProbeOutcome::Success), 1),
        (Http2::Endless(200, 100), 500, Box::new(move |_| ProbeOutcome::Error(cut.into())), 1),
        (Http2::Silent, 500, Box::new(move |port| failed(port, late)), 1),
        (
            Http2::Refuse,
            20_000,
            Box::new(move |port| {
                failed(
                    port,
                    "http2: stream error received: refused stream before processing any application logic",
                )
            }),
            1,
        ),
        (Http2::HangUp, 20_000, Box::new(move |port| failed(port, "unexpected EOF")), 1),
    ];
    for (number, (answer, millis, expected, requests)) in rows.into_iter().enumerate() {
        let params = rcgen::CertificateParams::new(vec![]).unwrap();
        let server = Server::new(&["h2"], Some(params)).await;
        let port = server.port();
        let (sender, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let server = tokio::spawn(serve_http2(server, answer, sender));
        let mut action = action(port, "HTTPS");
        let header = |name: &str, value: &str| HTTPHeader { name: name.into(), value: value.into() };
        action.http_headers = Some(vec![
            header("Host", "web.example.com"),
            header("X-A", "b"),
            header("Connection", "keep-alive"),
        ]);
        assert_eq!(probe(&action, millis).await, expected(port), "row {number}");
        for _ in 0..requests {
            let asked = asked.recv().await.unwrap();
            let expected = ["x?y", "z"].map(|path| {
                format!("GET https://web.example.com/{path} Some(\"\\\"kube-probe/1.36\\\"\") None Some(\"\\\"b\\\"\")")
            });
            assert!(expected.contains(&asked), "row {number}: {asked}");
        }
        server.abort();
    }
}

/// A plain server that answers each connection in turn; what it was asked.
async fn plain_server(answers: Vec<&'static str>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async move {
        let mut asked = vec![];
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 2048];
            let count = stream.read(&mut bytes).await.unwrap();
            asked.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        asked
    };
    (port, tokio::spawn(serve))
}

const BAD_REQUEST: &str = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nplease speak HTTP";

#[tokio::test]
async fn any_answer_to_a_hook_is_a_success() {
    for answer in [
        "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.1 500 Oops\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://example.com/\r\n\r\n",
    ] {
        let (port, asked) = plain_server(vec![answer]).await;
        let called = call(&action(port, "HTTP"), &[], "127.0.0.1", "kube-lifecycle/1.36", None).await;
        assert_eq!(called.unwrap(), Called::Answered, "{answer}");
        let asked = asked.await.unwrap();
        assert!(asked[0].starts_with("GET /x?y HTTP/1.1\r\n"), "{asked:?}");
        assert!(asked[0].contains("\r\nUser-Agent: kube-lifecycle/1.36\r\n"), "{asked:?}");
    }
}

#[tokio::test]
async fn a_hook_that_is_not_heard_has_failed() {
    let limit = Some(Duration::from_secs(20));
    let call = |action: HTTPGetAction, ip: &'static str| async move {
        super::call(&action, &[], ip, "me", limit).await.unwrap_err().to_string()
    };
    let (port, server) = plain_server(vec![""]).await;
    assert_eq!(
        call(action(port, "HTTP"), "127.0.0.1").await,
        format!("Get \"http://127.0.0.1:{port}/x?y\": EOF")
    );
    server.await.unwrap();
    let refused = call(action(port, "HTTPS"), "127.0.0.1").await;
    assert!(refused.ends_with("connect: connection refused"), "{refused}");
    assert_eq!(call(action(0, "HTTP"), "127.0.0.1").await, "invalid port number: 0");
    let nowhere = call(action(1, "HTTP"), "").await;
    assert_eq!(nowhere, "no host to connect to: the pod has no IP and `host` is not set");
}

#[tokio::test]
async fn a_hook_that_is_not_answered_in_time_is_late() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let limit = Some(Duration::from_millis(100));
    let error = call(&action(port, "HTTP"), &[], "127.0.0.1", "me", limit).await.unwrap_err();
    assert!(matches!(&error, CallError::Late(_)), "{error:?}");
    assert!(error.to_string().contains("context deadline exceeded"), "{error}");
}

#[test]
fn a_probe_takes_little_memory() {
    let (container, action) = (Container::default(), action(1, "HTTPS"));
    let target = Target { container: &container, pod_ip: "127.0.0.1" };
    let probe = get(&action, &target, "me", Duration::from_secs(1));
    let size = std::mem::size_of_val(&probe);
    assert!(size <= 4096, "{size}");
}

#[tokio::test]
async fn a_hook_over_https_falls_back_to_http_without_credentials() {
    let (port, asked) = plain_server(vec![BAD_REQUEST, "HTTP/1.1 200 OK\r\n\r\n"]).await;
    let mut hook = action(port, "HTTPS");
    let header = |name: &str, value: &str| HTTPHeader { name: name.into(), value: value.into() };
    hook.http_headers = Some(vec![header("authorization", "Bearer secret"), header("X-A", "b")]);
    let called = call(&hook, &[], "127.0.0.1", "me", None).await.unwrap();
    assert_eq!(called, Called::FellBack(format!("127.0.0.1:{port}")));
    let asked = &asked.await.unwrap()[1];
    assert!(asked.starts_with("GET /x?y HTTP/1.1\r\n") && asked.contains("\r\nX-A: b\r\n"), "{asked}");
    assert!(!asked.to_lowercase().contains("secret"), "{asked}");
    // One that does not answer over HTTP either is reported as what it was asked over.
    let (port, _server) = plain_server(vec![BAD_REQUEST, ""]).await;
    let error = call(&action(port, "HTTPS"), &[], "127.0.0.1", "me", None).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!("Get \"https://127.0.0.1:{port}/x?y\": http: server gave HTTP response to HTTPS client")
    );
}

#[tokio::test]
async fn a_hook_over_https_stays_there() {
    let params = rcgen::CertificateParams::new(vec![]).unwrap();
    let server = Server::new(&[], Some(params)).await;
    let hook = action(server.port(), "HTTPS");
    let serve = async {
        let mut stream = server.accept().await;
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let (called, asked) = tokio::join!(call(&hook, &[], "127.0.0.1", "me", None), serve);
    assert_eq!(called.unwrap(), Called::Answered);
    assert!(asked.starts_with("GET /x?y HTTP/1.1\r\n"), "{asked}");
}
