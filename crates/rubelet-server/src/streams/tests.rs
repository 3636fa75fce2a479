//! Whole requests over loopback: a client, this crate behind hyper, and a runtime's server.

use std::net::SocketAddr;

use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::streams::websocket::frame::tests::client_frame;

/// A runtime's server that reads one request's head, answers with `answer` and then says back what it hears.
async fn runtime(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/exec/token", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let head = head(&mut connection).await;
        connection.write_all(answer.as_bytes()).await.unwrap();
        if answer.contains(" 101 ") {
            let (mut read, mut write) = connection.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
        head
    });
    (url, task)
}

async fn head(connection: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn serve(streams: Streams, url: String, purpose: Purpose) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let (streams, url) = (streams.clone(), url.clone());
            let service = service_fn(move |request| {
                let (streams, url) = (streams.clone(), url.clone());
                async move {
                    let answer = streams.proxy(&url, purpose, request).await;
                    Ok::<_, std::convert::Infallible>(answer.unwrap_or_else(|problem| problem.response()))
                }
            });
            tokio::spawn(
                http1::Builder::new().serve_connection(TokioIo::new(connection), service).with_upgrades(),
            );
        }
    });
    address
}

async fn ask(address: SocketAddr, request: &str) -> (TcpStream, String) {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let head = head(&mut client).await.to_ascii_lowercase();
    (client, head)
}

fn streams() -> Streams {
    Streams::new(Duration::from_secs(14_400), 2)
}

const COMMAND: Purpose =
    Purpose::Command(CommandStreams { stdin: true, stdout: true, stderr: true, tty: false });
const SPDY: &str = "POST /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
    X-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Stream-Protocol-Version: v3.channel.k8s.io\r\n\
    Authorization: Bearer secret\r\nContent-Length: 0\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
    X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nfirst";

#[tokio::test]
async fn spdy_goes_through() {
    let (url, runtime) = runtime(SWITCHED).await;
    let streams = streams();
    let address = serve(streams.clone(), url, COMMAND).await;
    // What is sent behind the request arrives, as does what is sent behind the answer.
    let (mut client, head) = ask(address, &format!("{SPDY}hello")).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(
        head.contains("upgrade: spdy/3.1\r\n")
            && head.contains("x-stream-protocol-version: v4.channel.k8s.io\r\n")
    );
    let mut read = [0; 10];
    client.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"firsthello");
    assert_eq!(streams.free(), 1);
    drop(client);
    let asked = runtime.await.unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("post /exec/token http/1.1\r\n"), "{asked}");
    assert!(asked.contains("x-stream-protocol-version: v3.channel.k8s.io\r\n"), "{asked}");
    assert!(!asked.contains("secret"), "{asked}");
    tokio::time::timeout(Duration::from_secs(20), async {
        while streams.free() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the place is free again");
}

#[tokio::test]
async fn what_a_request_holds_lives_as_long_as_its_session() {
    let (url, _runtime) = runtime(SWITCHED).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let held = Arc::new(());
    let given = held.clone();
    tokio::spawn(async move {
        let (connection, _) = listener.accept().await.unwrap();
        let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Held(given.clone()));
            let url = url.clone();
            async move { streams().proxy(&url, COMMAND, request).await }
        });
        let _ =
            http1::Builder::new().serve_connection(TokioIo::new(connection), service).with_upgrades().await;
    });
    let (mut client, _) = ask(address, SPDY).await;
    let mut read = [0; 5];
    client.read_exact(&mut read).await.unwrap();
    // The service and its request are gone; the session is not.
    tokio::time::timeout(Duration::from_secs(20), async {
        while Arc::strong_count(&held) != 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("held by the session alone");
    drop(client);
    tokio::time::timeout(Duration::from_secs(20), async {
        while Arc::strong_count(&held) != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("let go with the session");
}

#[tokio::test]
async fn spdy_in_a_web_socket_is_unwrapped() {
    let (url, runtime) = runtime(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
        X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n",
    )
    .await;
    let address = serve(streams(), url, Purpose::PortForward).await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n\r\n";
    let (mut client, head) = ask(address, request).await;
    assert!(head.contains("sec-websocket-protocol: spdy/3.1+portforward.k8s.io\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
    client.write_all(&client_frame(0x82, b"bytes")).await.unwrap();
    let mut read = [0; 7];
    client.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"\x82\x05bytes");
    drop(client);
    let asked = runtime.await.unwrap().to_ascii_lowercase();
    assert!(
        asked.starts_with("post /exec/token http/1.1\r\n") && asked.contains("upgrade: spdy/3.1\r\n"),
        "{asked}"
    );
}

async fn refused(url: &str, purpose: Purpose, request: Request<Body>) -> (u16, String) {
    let answer = streams().proxy(url, purpose, request).await;
    let response = answer.unwrap_or_else(|problem| problem.response());
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let status: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status["kind"].as_str(), status["code"].as_u64()), (Some("Status"), Some(code.into())));
    (code, status["message"].as_str().unwrap().to_owned())
}

fn request(headers: &[(&'static str, &'static str)]) -> Request<Body> {
    let mut request = Request::new(body::whole(""));
    request.headers_mut().extend(
        headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value))),
    );
    request
}

const ASK_SPDY: &[(&str, &str)] = &[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];

#[tokio::test]
async fn refusals_are_status_objects() {
    let nobody = "http://127.0.0.1:1/exec/x";
    assert_eq!(refused(nobody, COMMAND, request(&[])).await, (400, "Upgrade request required".to_owned()));
    let (code, message) = refused(nobody, COMMAND, request(ASK_SPDY)).await;
    assert!(
        code == 500 && message.starts_with("Internal error occurred: error dialing backend: 127.0.0.1:1: "),
        "{message}"
    );
    let (code, message) = refused("https://127.0.0.1:1/exec/x", COMMAND, request(ASK_SPDY)).await;
    assert!(code == 500 && message.contains("unsupported scheme"), "{message}");
    let v5 = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", "v5.channel.k8s.io"),
    ];
    let (code, message) = refused(nobody, COMMAND, request(&v5)).await;
    assert!(code == 400 && message.contains("Sec-WebSocket-Version"), "{message}");

    let (url, _runtime) = runtime("HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\nno such token").await;
    assert_eq!(refused(&url, COMMAND, request(ASK_SPDY)).await, (404, "no such token".to_owned()));
    let (url, _runtime) = runtime("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let (code, message) = refused(&url, COMMAND, request(ASK_SPDY)).await;
    assert_eq!(
        (code, message.as_str()),
        (500, "Internal error occurred: invalid upgrade response: status code 200")
    );
}

#[tokio::test]
async fn there_is_an_end_to_streams() {
    let streams = Streams::new(Duration::from_secs(1), 0);
    let refused = streams.proxy("http://127.0.0.1:1/", COMMAND, request(ASK_SPDY)).await;
    assert_eq!(refused.map(|response| response.status()).unwrap_err().code, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn streams_end_with_the_agent() {
    let (url, _runtime) = runtime(SWITCHED).await;
    let streams = streams();
    let agent = streams.until_dropped();
    let address = serve(streams.clone(), url, COMMAND).await;
    let (mut client, _) = ask(address, SPDY).await;
    let mut read = [0; 5];
    client.read_exact(&mut read).await.unwrap();
    drop(agent);
    assert!(matches!(client.read(&mut read).await, Ok(0) | Err(_)), "the connection is closed");
    let refused = streams.proxy("http://127.0.0.1:1/", COMMAND, request(ASK_SPDY)).await.unwrap_err();
    assert_eq!(refused.code, StatusCode::SERVICE_UNAVAILABLE);
}
