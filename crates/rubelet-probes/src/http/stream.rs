//! The connection under a request: TCP, or TLS over it that takes whatever certificate it is shown.
//!
//! A probe asks whether a container answers, not who it is; no secret is sent but what the pod's own spec has in it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::request::without_zone;
use super::url::Url;
use super::{Fault, Protocols};
use crate::dial::{self, DialError, os_text};

/// How long a handshake may take when the request as a whole may take longer. Upstream's figure.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// A connection to a server.
pub(super) struct Stream {
    inner: Inner,
    peer: String,
}

enum Inner {
    Plain(TcpStream),
    Tls(Box<TlsStream<Watched>>),
}

impl Stream {
    /// Connects to the host of a URL, with TLS if its scheme says so.
    pub async fn open(url: &Url, protocols: Protocols, deadline: Option<Instant>) -> Result<Self, Fault> {
        let host = url.hostname();
        let Some(port) = url.port() else {
            return Err(Fault::Other(format!("dial tcp: address {}: invalid port", url.host)));
        };
        let tcp = match dial::connect(host, port, deadline).await {
            Ok(tcp) => tcp,
            Err(DialError::Timeout(_)) => return Err(Fault::Timeout),
            Err(error @ DialError::NoRoom(..)) => return Err(Fault::NoRoom(error.to_string())),
            Err(error) => return Err(Fault::Other(error.to_string())),
        };
        if url.scheme != "https" {
            return Ok(Self { peer: url.host.clone(), inner: Inner::Plain(tcp) });
        }
        let limit = Instant::now() + HANDSHAKE_LIMIT;
        let until = deadline.map_or(limit, |deadline| deadline.min(limit));
        // On the heap: it is larger than all of a request without it.
        let handshake = Box::pin(handshake(host, tcp, protocols, &url.host));
        match tokio::time::timeout_at(until, handshake).await {
            Ok(result) => result.map(|tls| Self { inner: Inner::Tls(Box::new(tls)), peer: url.host.clone() }),
            Err(_) if deadline == Some(until) => Err(Fault::Timeout),
            Err(_) => Err(Fault::Other("net/http: TLS handshake timeout".into())),
        }
    }

    /// Whether both sides agreed on HTTP/2.
    pub fn is_http2(&self) -> bool {
        match &self.inner {
            Inner::Plain(_) => false,
            Inner::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// What an error of this connection is called.
    pub fn error_text(&self, verb: &str, error: &io::Error) -> String {
        let tcp = match &self.inner {
            Inner::Plain(tcp) => tcp,
            Inner::Tls(tls) => &tls.get_ref().0.tcp,
        };
        error_text(tcp, &self.peer, verb, error)
    }
}

fn error_text(tcp: &TcpStream, peer: &str, verb: &str, error: &io::Error) -> String {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return tls_text(tls);
    }
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "EOF".into();
    }
    match tcp.local_addr() {
        Ok(local) => format!("{verb} tcp {local}->{peer}: {verb}: {}", os_text(error)),
        Err(_) => format!("{verb} tcp {peer}: {verb}: {}", os_text(error)),
    }
}

async fn handshake(
    host: &str,
    tcp: TcpStream,
    protocols: Protocols,
    peer: &str,
) -> Result<TlsStream<Watched>, Fault> {
    let connector = connector(protocols).map_err(Fault::Other)?;
    let name = ServerName::try_from(without_zone(host).to_owned())
        // A name that cannot be sent is not sent; the certificate is not looked at anyway.
        .unwrap_or_else(|_| ServerName::from(std::net::IpAddr::from([0, 0, 0, 0])));
    let watched = Watched { tcp, first: [0; 5], seen: 0 };
    match connector.connect(name, watched).into_fallible().await {
        Ok(tls) => Ok(tls),
        Err((error, watched)) => Err(watched
            .fault()
            .unwrap_or_else(|| Fault::Other(error_text(&watched.tcp, peer, "read", &error)))),
    }
}

/// A TCP stream that remembers how the peer began to speak.
struct Watched {
    tcp: TcpStream,
    first: [u8; 5],
    seen: usize,
}

impl Watched {
    /// What the first bytes say about a handshake that failed.
    fn fault(&self) -> Option<Fault> {
        let [kind, version, ..] = self.first;
        match &self.first[..self.seen] {
            b"HTTP/" => Some(Fault::NotTls),
            [_, _, _, _, _] if !(kind == 21 || kind == 22) || version >= 16 => {
                Some(Fault::Other("tls: first record does not look like a TLS handshake".into()))
            }
            _ => None,
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        let seen = self.seen;
        if seen < self.first.len() {
            let new = &buf.filled()[before..];
            let count = new.len().min(self.first.len() - seen);
            self.first[seen..seen + count].copy_from_slice(&new[..count]);
            self.seen += count;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Inner::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Inner::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Inner::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Inner::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// One configuration each for all requests there will ever be: nothing of a session is kept.
fn connector(protocols: Protocols) -> Result<TlsConnector, String> {
    static ANY: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    static UNNAMED: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let place = match protocols {
        Protocols::Http2OrHttp1 => &ANY,
        Protocols::Http1 => &UNNAMED,
    };
    if let Some(config) = place.get() {
        return Ok(TlsConnector::from(config.clone()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("tls: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    if protocols == Protocols::Http2OrHttp1 {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    Ok(TlsConnector::from(place.get_or_init(|| Arc::new(config)).clone()))
}

/// Takes every server. Not even whether it has the key of the certificate is looked at: some certificates in use, of
/// old versions or with odd fields, cannot be parsed by what would do it, and nothing would be gained.
#[derive(Debug)]
pub struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        use SignatureScheme as S;
        vec![
            S::RSA_PSS_SHA256,
            S::ECDSA_NISTP256_SHA256,
            S::ED25519,
            S::RSA_PSS_SHA384,
            S::RSA_PSS_SHA512,
            S::RSA_PKCS1_SHA256,
            S::RSA_PKCS1_SHA384,
            S::RSA_PKCS1_SHA512,
            S::ECDSA_NISTP384_SHA384,
            S::ECDSA_NISTP521_SHA512,
            S::ED448,
            S::RSA_PKCS1_SHA1,
            S::ECDSA_SHA1_Legacy,
        ]
    }
}

/// TLS errors in the words in which Go programs report them.
fn tls_text(error: &rustls::Error) -> String {
    let rustls::Error::AlertReceived(alert) = error else { return format!("tls: {error}") };
    let text = match u8::from(*alert) {
        0 => "close notify",
        10 => "unexpected message",
        20 => "bad record MAC",
        22 => "record overflow",
        40 => "handshake failure",
        42 => "bad certificate",
        43 => "unsupported certificate",
        44 => "revoked certificate",
        45 => "expired certificate",
        46 => "unknown certificate",
        47 => "illegal parameter",
        48 => "unknown certificate authority",
        49 => "access denied",
        50 => "error decoding message",
        51 => "error decrypting message",
        70 => "protocol version not supported",
        71 => "insufficient security level",
        80 => "internal error",
        86 => "inappropriate fallback",
        90 => "user canceled",
        109 => "missing extension",
        110 => "unsupported extension",
        112 => "unrecognized name",
        116 => "certificate required",
        120 => "no application protocol",
        code => return format!("remote error: tls: alert({code})"),
    };
    format!("remote error: tls: {text}")
}
