//! Clients of the listener: raw bytes over TLS, which can say anything, and an HTTP/2 client that says it well.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rubelet_localapi::pki::Identity;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::program::{Owner, Program};

/// How long an answer may take that comes at once on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection on which anything can be said.
pub type Raw = TlsStream<TcpStream>;

/// The head and body of an answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Connects, with a certificate or without, to speak `protocol`.
pub async fn connect(program: &Program, identity: Option<&Identity>, protocol: &str) -> io::Result<Raw> {
    let Owner { ca_pem, .. } = program.owner();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
    let mut config = match identity {
        Some(Identity { cert_pem, key_pem }) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(cert_pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(program.address).await?;
    let name = rustls::pki_types::ServerName::from(program.address.ip());
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A connection of the owner.
pub async fn owners(program: &Program, protocol: &str) -> Raw {
    connect(program, Some(&program.owner().identity), protocol).await.unwrap()
}

/// Says `request` on a connection of its own and reads to the end. The request should ask for the connection's end.
pub async fn say(mut stream: Raw, request: &[u8]) -> Answer {
    let exchange = async {
        // A server may answer and close before it has read everything.
        let _ = stream.write_all(request).await;
        read_answer(&mut stream).await
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time")
}

/// Reads until the connection ends.
pub async fn read_answer(stream: &mut Raw) -> Answer {
    let mut bytes = Vec::new();
    // Whoever is cut off while it sends hears a reset; what came before that counts.
    let _ = stream.read_to_end(&mut bytes).await;
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let mut body = bytes.get(at + 4..).unwrap_or_default().to_vec();
    if head.contains("\ntransfer-encoding: chunked") {
        body = joined(&body);
    }
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    Answer { status, head, body }
}

/// The chunks of a body, as far as they came.
fn joined(mut chunked: &[u8]) -> Vec<u8> {
    let mut body = vec![];
    while let Some(end) = chunked.windows(2).position(|two| two == b"\r\n") {
        let length =
            std::str::from_utf8(&chunked[..end]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
        let Some(chunk) = length.and_then(|length| chunked.get(end + 2..end + 2 + length)) else { break };
        body.extend_from_slice(chunk);
        chunked = chunked.get(end + 4 + chunk.len()..).unwrap_or_default();
    }
    body
}

/// A request of HTTP/1.1 with the headers that most have.
pub fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = match (method, body.len()) {
        ("GET", 0) => String::new(),
        (_, length) => format!("Content-Length: {length}\r\n"),
    };
    let mut bytes =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}{headers}\r\n")
            .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// The owner's answer to one request of HTTP/1.1.
pub async fn ask(program: &Program, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    say(owners(program, "http/1.1").await, &request(method, path, headers, body)).await
}

/// Asserts that an answer is a `Status` with that code and reason, and gives its message.
#[track_caller]
pub fn refused(what: &str, answer: &Answer, code: u16, reason: &str) -> String {
    let status = answer.json();
    let told = (answer.status, status["kind"].as_str(), status["code"].as_u64(), status["reason"].as_str());
    let wanted = (code, Some("Status"), Some(u64::from(code)), Some(reason));
    assert_eq!(told, wanted, "{what}: {} {}", answer.head, String::from_utf8_lossy(&answer.body));
    assert_eq!(status["status"], "Failure", "{what}: {status}");
    let message = status["message"].as_str().unwrap_or_default().to_owned();
    assert!(!message.is_empty(), "{what}: {status}");
    message
}

/// An HTTP/2 client. Clones share the connection.
#[derive(Clone)]
pub struct Client(SendRequest<Full<Bytes>>);

impl Client {
    pub async fn owner(program: &Program) -> io::Result<Self> {
        Self::connect(program, Some(&program.owner().identity)).await
    }

    pub async fn connect(program: &Program, identity: Option<&Identity>) -> io::Result<Self> {
        let stream = TokioIo::new(connect(program, identity, "h2").await?);
        let (send, connection) =
            http2::handshake(TokioExecutor::new(), stream).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self(send))
    }

    /// Sends a request; the body of the answer is yet to be read.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> io::Result<http::Response<Incoming>> {
        let mut send = self.0.clone();
        send.ready().await.map_err(io::Error::other)?;
        let sent = tokio::time::timeout(PATIENCE, send.send_request(request)).await;
        sent.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    /// Sends a request with a JSON body, or none for null.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> io::Result<(u16, Value)> {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = Request::builder()
            .method(method)
            .uri(format!("https://x{path}"))
            .header("content-type", kind)
            .body(Full::new(bytes))
            .unwrap();
        let response = self.send(request).await?;
        let status = response.status().as_u16();
        let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await?;
        let bytes = body.map_err(io::Error::other)?.to_bytes();
        Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    pub async fn get(&self, path: &str) -> io::Result<(u16, Value)> {
        self.call(Method::GET, path, &Value::Null).await
    }

    /// Opens a watch.
    pub async fn watch(&self, path: &str) -> io::Result<Watch> {
        let request = Request::get(format!("https://x{path}")).body(Full::default()).unwrap();
        let response = self.send(request).await?;
        assert_eq!(response.status().as_u16(), 200);
        Ok(Watch { body: response.into_body(), rest: Vec::new() })
    }
}

/// The events of a watch.
pub struct Watch {
    body: Incoming,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event; none when the watch ends, however it does.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.ok()?;
            self.rest.extend_from_slice(&frame.into_data().ok()?);
        }
    }
}

/// Others are served: at once, whatever else goes on.
pub async fn others_are_served(program: &Program) {
    let answer = ask(program, "GET", "/api/v1/namespaces/default", "", b"").await;
    assert_eq!(answer.json()["metadata"]["name"], "default", "{}", answer.head);
}

/// A config map of so many bytes.
pub fn config_map(name: &str, bytes: usize) -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "x".repeat(bytes)},
    })
}
