//! A client of the local API: TLS and HTTP/2 to loopback with the kubeconfig that was written, and nothing around it.
//!
//! Owns one connection. Never retries, never decodes what it is not asked to. Called by the runs of this part, which
//! time it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(60);
/// The media type of whatever is not a patch.
pub(super) const JSON: &str = "application/json";

/// How to connect, as a kubeconfig says it.
#[derive(Clone)]
pub(super) struct Access {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Access {
    /// Reads the kubeconfig that `rubelet local` writes. It need not understand any other.
    pub(super) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("no {}", path.display()))?;
        let field = |key: &str| {
            let line = text.lines().find_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(key));
            line.and_then(|rest| rest.strip_prefix(": "))
                .with_context(|| format!("the kubeconfig has no {key}"))
        };
        let pem = |key: &str| -> Result<Vec<u8>> { Ok(STANDARD.decode(field(key)?)?) };
        let address = field("server")?.strip_prefix("https://").context("no https")?.parse()?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem("certificate-authority-data")?)?)?;
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(&pem("client-certificate-data")?).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { address, tls: TlsConnector::from(Arc::new(config)) })
    }
}

/// A connection; clones share it, it is closed with the last.
#[derive(Clone)]
pub(super) struct Client {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    _driver: Arc<Driver>,
}

struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Connects.
    pub(super) async fn connect(access: &Access) -> Result<Self> {
        let stream = TcpStream::connect(access.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(access.address.ip().into());
        let stream = access.tls.connect(name, stream).await?;
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // How a connection ends is told by the request that was under way.
            let _ended = connection.await;
        });
        Ok(Self { sender, authority: access.address.to_string(), _driver: Arc::new(Driver(driver)) })
    }

    /// A request's answer, as soon as its head is there. Errors of the API are errors.
    pub(super) async fn open(
        &self,
        method: Method,
        path: &str,
        media: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method.clone())
            .uri(format!("https://{}{path}", self.authority))
            .header(ACCEPT, JSON)
            .header(CONTENT_TYPE, media)
            .body(Full::new(body))?;
        let mut sender = self.sender.clone();
        let asked = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        let answer =
            tokio::time::timeout(LIMIT, asked).await.with_context(|| format!("{path}: no answer"))??;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status: StatusCode = answer.status();
        let said = answer.into_body().collect().await?.to_bytes();
        bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&said));
    }

    /// The whole body of an answer.
    pub(super) async fn ask(&self, method: Method, path: &str, media: &str, body: Bytes) -> Result<Bytes> {
        let answer = self.open(method, path, media, body).await?;
        Ok(answer.into_body().collect().await?.to_bytes())
    }

    /// GET.
    pub(super) async fn get(&self, path: &str) -> Result<Bytes> {
        self.ask(Method::GET, path, JSON, Bytes::new()).await
    }

    /// GET of an object that is looked into.
    pub(super) async fn read(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.get(path).await?)?)
    }

    /// POST.
    pub(super) async fn create(&self, path: &str, object: &Value) -> Result<Bytes> {
        self.ask(Method::POST, path, JSON, object.to_string().into()).await
    }

    /// DELETE with the object's own grace.
    pub(super) async fn delete(&self, path: &str) -> Result<Bytes> {
        self.ask(Method::DELETE, path, JSON, Bytes::new()).await
    }

    /// GET whose body is read and thrown away, piece by piece; its length.
    pub(super) async fn drain(&self, path: &str) -> Result<usize> {
        let mut body = self.open(Method::GET, path, JSON, Bytes::new()).await?.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame?.into_data().map_or(0, |data| data.len());
        }
        Ok(length)
    }

    /// A watch.
    pub(super) async fn watch(&self, path: &str) -> Result<Watch> {
        let body = self.open(Method::GET, path, JSON, Bytes::new()).await?.into_body();
        Ok(Watch { body, buffer: BytesMut::new() })
    }
}

/// The frames of a watch.
pub(super) struct Watch {
    body: Incoming,
    buffer: BytesMut,
}

impl Watch {
    /// The next frame, as it came.
    pub(super) async fn next(&mut self) -> Result<Bytes> {
        let mut looked = 0;
        loop {
            if let Some(at) = self.buffer[looked..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(looked + at).freeze();
                self.buffer.advance(1);
                return Ok(line);
            }
            looked = self.buffer.len();
            let frame = tokio::time::timeout(LIMIT, self.body.frame()).await.context("a silent watch")?;
            let frame = frame.context("the watch has ended")??;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}
