//! A client of the kubelet API on loopback, as an API server is one: TLS with a certificate of its own, HTTP/1.1 or
//! HTTP/2, and nothing around it.
//!
//! Owns connections. Never retries, never decodes. Called by the runs of this part, which time it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{ACCEPT_ENCODING, HOST};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pki::Pki;

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(60);
/// What one stream may be sent unread, and one connection: one slow reader is not to hold up the others.
const WINDOWS: (u32, u32) = (256 << 10, 64 << 20);

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// A connection for each request that is under way.
    Http1,
    /// One connection for many.
    Http2,
}

impl Protocol {
    /// For keys and words of the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// Where the agent's API is and how to get in.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) address: SocketAddr,
    http1: TlsConnector,
    http2: TlsConnector,
}

/// A connection; clones share it, it is closed with the last.
#[derive(Clone)]
pub(super) struct Client {
    sender: Sender,
    address: SocketAddr,
    _driver: Arc<Driver>,
}

#[derive(Clone)]
enum Sender {
    One(Arc<tokio::sync::Mutex<http1::SendRequest<Empty<Bytes>>>>),
    Two(http2::SendRequest<Empty<Bytes>>),
}

struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Door {
    /// To a port of this machine.
    pub(super) fn new(pki: &Pki, port: u16) -> Result<Self> {
        Ok(Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            http1: pki.connector("http/1.1")?,
            http2: pki.connector("h2")?,
        })
    }

    /// A connection of bytes, for what is no HTTP after its first request.
    pub(super) async fn bytes(&self) -> Result<TlsStream<TcpStream>> {
        self.stream(Protocol::Http1, None).await
    }

    /// A connection.
    pub(super) async fn connect(&self, protocol: Protocol) -> Result<Client> {
        self.connect_with(protocol, None).await
    }

    /// A connection whose system keeps only so many bytes that were not read.
    pub(super) async fn connect_with(&self, protocol: Protocol, kept: Option<u32>) -> Result<Client> {
        let stream = TokioIo::new(self.stream(protocol, kept).await?);
        let (sender, driver) = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await?;
                // How a connection ends is told by the request that was under way.
                let driver = tokio::spawn(async move { connection.await.unwrap_or_default() });
                (Sender::One(Arc::new(tokio::sync::Mutex::new(sender))), driver)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(WINDOWS.0)
                    .initial_connection_window_size(WINDOWS.1)
                    .handshake(stream)
                    .await?;
                let driver = tokio::spawn(async move { connection.await.unwrap_or_default() });
                (Sender::Two(sender), driver)
            }
        };
        Ok(Client { sender, address: self.address, _driver: Arc::new(Driver(driver)) })
    }

    async fn stream(&self, protocol: Protocol, kept: Option<u32>) -> Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        if let Some(kept) = kept {
            socket.set_recv_buffer_size(kept)?;
        }
        let stream = socket.connect(self.address).await.context("the kubelet API")?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let connector = match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        };
        connector.connect(name, stream).await.context("TLS with the kubelet API")
    }
}

impl Client {
    /// The answer to a GET, as soon as its head is there. What is no 200 is an error.
    pub(super) async fn open(&self, path: &str, encoding: Option<&str>) -> Result<Response<Incoming>> {
        let mut request = match self.sender {
            Sender::One(_) => Request::get(path).header(HOST, self.address.to_string()),
            Sender::Two(_) => Request::get(format!("https://{}{path}", self.address)),
        };
        if let Some(encoding) = encoding {
            request = request.header(ACCEPT_ENCODING, encoding);
        }
        let request = request.body(Empty::new())?;
        let asked = async {
            match &self.sender {
                Sender::One(sender) => {
                    let mut sender = sender.lock().await;
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Sender::Two(sender) => {
                    let mut sender = sender.clone();
                    sender.ready().await?;
                    sender.send_request(request).await
                }
            }
        };
        let answer =
            tokio::time::timeout(LIMIT, asked).await.with_context(|| format!("{path}: no answer"))??;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let said = answer.into_body().collect().await?.to_bytes();
        bail!("GET {path}: {status}: {}", String::from_utf8_lossy(&said));
    }

    /// The whole body of a GET.
    pub(super) async fn get(&self, path: &str, encoding: Option<&str>) -> Result<Bytes> {
        let answer = self.open(path, encoding).await?;
        let body = tokio::time::timeout(LIMIT, answer.into_body().collect());
        Ok(body.await.with_context(|| format!("{path}: the answer does not end"))??.to_bytes())
    }
}
