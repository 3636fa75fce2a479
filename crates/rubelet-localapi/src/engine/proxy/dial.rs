//! One request over a connection of its own, to a port of a pod or of the node, with or without TLS.
//!
//! Whose certificate the other side shows is not asked: no authority vouches for pods, and upstream does not ask either.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rubelet_apimachinery::status::{self, ApiError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::node::Body;

/// How long the other side may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(30);

/// Where to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Whether to speak TLS.
    pub https: bool,
    /// Address and port.
    pub address: SocketAddr,
}

impl Target {
    /// As it stands in URLs.
    pub(super) fn authority(&self) -> String {
        self.address.to_string()
    }
}

/// The answer to a request whose other side cannot be had.
pub(super) fn unreachable(why: impl std::fmt::Display) -> ApiError {
    ApiError::new(503, "ServiceUnavailable", format!("error trying to reach service: {why}"))
}

/// Sends a request and gives its answer, whose body comes as the other side sends it. With `upgrades`, both connections
/// are joined when the other side agrees, until one of them ends or `stopping` does.
///
/// # Errors
/// As upstream: 503 when the other side cannot be had, 500 for an upgrade that fails before there is an answer, or is
/// answered as if it had not been asked for.
pub(super) async fn exchange(
    target: &Target,
    mut request: Request<Body>,
    upgrades: bool,
    stopping: CancellationToken,
) -> Result<Response<Body>, ApiError> {
    let client = upgrades.then(|| hyper::upgrade::on(&mut request));
    let mut response = match (send(target, request).await, upgrades) {
        (Ok(response), _) => response,
        (Err(why), false) => return Err(unreachable(why)),
        (Err(why), true) => return Err(status::internal(format!("error dialing backend: {why}"))),
    };
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if upgrades && !switched && response.status().as_u16() < 400 {
        let code = response.status().as_u16();
        return Err(status::internal(format!("invalid upgrade response: status code {code}")));
    }
    if let Some(client) = client.filter(|_| switched) {
        let other = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let join = async {
                let (client, other) = tokio::try_join!(client, other).ok()?;
                let (mut client, mut other) = (TokioIo::new(client), TokioIo::new(other));
                tokio::io::copy_bidirectional(&mut client, &mut other).await.ok()
            };
            // Dropping the copy closes both connections, which is what the end of either asks for.
            tokio::select! { biased;
                () = stopping.cancelled() => {}
                _ = join => {}
            }
        });
    }
    Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
}

async fn send(target: &Target, request: Request<Body>) -> Result<Response<Incoming>, String> {
    let connected = async {
        let stream = TcpStream::connect(target.address).await?;
        // Small messages of a protocol of its own do not wait for more.
        stream.set_nodelay(true)?;
        if !target.https {
            return Ok::<_, io::Error>(Either::Plain(stream));
        }
        let name = ServerName::IpAddress(target.address.ip().into());
        Ok(Either::Tls(Box::new(connector()?.connect(name, stream).await?)))
    };
    let connected = tokio::time::timeout(CONNECT, connected);
    let stream = connected.await.map_err(|_| "i/o timeout".to_owned())?;
    let stream = stream.map_err(|why| format!("dial tcp {}: {why}", target.address))?;
    match stream {
        Either::Plain(stream) => converse(stream, request).await,
        Either::Tls(stream) => converse(*stream, request).await,
    }
}

enum Either {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

async fn converse<S>(stream: S, request: Request<Body>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // It ends with the answer's body, or when nobody wants that any more.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(failed)
}

fn connector() -> io::Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes every certificate whose key the server has.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

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
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
