//! Requests over the network: a server behind the proxy, and one that speaks through it.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::*;

fn body(text: &str) -> Body {
    Full::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
}

/// Takes one connection and answers every request on it with what it was: or, asked for `echo`, sends back what comes.
async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) {
    let answer = |mut request: Request<hyper::body::Incoming>| async move {
        if request.headers().get("upgrade").is_some_and(|protocol| protocol == "echo") {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                tokio::io::copy(&mut from, &mut to).await
            });
            let switching = Response::builder().status(101);
            return switching.header("connection", "Upgrade").header("upgrade", "echo").body(body(""));
        }
        let said = format!("{} {}", request.method(), request.uri());
        let sent = request.into_body().collect().await.unwrap().to_bytes();
        Response::builder().status(202).body(body(&format!("{said} {}", String::from_utf8_lossy(&sent))))
    };
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    let _ = served.with_upgrades().await;
}

async fn behind(https: bool) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        if !https {
            return serve(stream).await;
        }
        let key = rcgen::generate_simple_self_signed(["pod".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(key.cert.pem().as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.signing_key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
        serve(TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap()).await;
    });
    Target { https, address }
}

fn request(method: &str, path: &str, text: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).header("host", "pod").body(body(text)).unwrap()
}

#[tokio::test]
async fn requests_and_answers_go_over_the_network() {
    for https in [false, true] {
        let target = behind(https).await;
        let stopping = CancellationToken::new();
        let response =
            dial::exchange(&target, request("POST", "/x?y=z", "sent"), false, stopping).await.unwrap();
        assert_eq!(response.status(), 202);
        let said = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(said, "POST /x?y=z sent", "https: {https}");
    }
}

/// A server whose every request goes on to `target`; what a client has of it.
async fn in_front(target: Target, stopping: CancellationToken) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let target = Arc::new(target);
    tokio::spawn(async move {
        let answer = |request: Request<hyper::body::Incoming>| {
            let (target, stopping) = (target.clone(), stopping.clone());
            async move {
                let request = request.map(|body| body.map_err(std::io::Error::other).boxed_unsync());
                dial::exchange(&target, request, true, stopping).await.map_err(|error| error.message)
            }
        };
        let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        let _ = served.with_upgrades().await;
    });
    client
}

async fn upgrade(client: &mut TcpStream) -> String {
    let wish = "GET /x HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n";
    client.write_all(wish.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn upgraded_connections_are_joined_until_the_server_stops() {
    let stopping = CancellationToken::new();
    let mut client = in_front(behind(false).await, stopping.clone()).await;
    let head = upgrade(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    client.write_all(b"there and back").await.unwrap();
    let mut back = [0; 14];
    client.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"there and back");
    stopping.cancel();
    assert_eq!(client.read(&mut back).await.unwrap(), 0);
}

#[tokio::test]
async fn an_upgrade_that_is_answered_as_none_is_an_error() {
    let target = behind(false).await;
    let mut plain = request("GET", "/x", "");
    plain.headers_mut().insert("connection", HeaderValue::from_static("Upgrade"));
    let error = dial::exchange(&target, plain, true, CancellationToken::new()).await.unwrap_err();
    assert_eq!((error.code, error.message.contains("status code 202")), (500, true), "{}", error.message);
}

#[tokio::test]
async fn nobody_there_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target { https: false, address: listener.local_addr().unwrap() };
    drop(listener);
    let stopping = CancellationToken::new();
    let error = dial::exchange(&target, request("GET", "/", ""), false, stopping).await.unwrap_err();
    assert_eq!((error.code, error.reason), (503, "ServiceUnavailable"));
    assert!(
        error.message.starts_with("error trying to reach service: dial tcp 127.0.0.1:"),
        "{}",
        error.message
    );
}

#[test]
fn addresses_are_pods_and_nodes_only() {
    #[track_caller]
    fn check(address: &str, expected: bool) {
        assert_eq!(allowed(Some(address)).is_ok(), expected, "{address}");
    }
    for good in ["10.0.0.1", "192.168.1.1", "8.8.8.8", "fd00::1", "2001:db8::1"] {
        check(good, true);
    }
    for bad in [
        "",
        "localhost",
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
        "::ffff:127.0.0.1",
    ] {
        check(bad, false);
    }
    assert!(allowed(None).is_err());
}

#[test]
fn names_may_say_scheme_and_port() {
    #[track_caller]
    fn check(text: &str, expected: Option<(bool, &str, &str)>) {
        let found = Named::parse(text, "pod").ok();
        assert_eq!(found.map(|named| (named.https, named.name, named.port)), expected, "{text}");
    }
    check("p", Some((false, "p", "")));
    check("p:80", Some((false, "p", "80")));
    check("https:p:443", Some((true, "p", "443")));
    check("https:p:", Some((true, "p", "")));
    check(":p:80", Some((false, "p", "80")));
    check("ftp:p:80", None);
    check(":80", None);
    check("https::80", None);
    check("a:b:c:d", None);
    let at = |text: &str| {
        let target = Named::parse(text, "pod").unwrap().at([10, 0, 0, 1].into());
        target.map(|target| target.authority()).map_err(|error| json!(error.code))
    };
    assert_eq!(at("p"), Ok("10.0.0.1:80".to_owned()));
    assert_eq!(at("https:p:"), Ok("10.0.0.1:443".to_owned()));
    assert_eq!(at("p:web"), Err(json!(503)));
    assert_eq!(at("p:70000"), Err(json!(503)));
}
