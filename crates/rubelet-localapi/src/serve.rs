//! The listener: TLS, HTTP/1.1 and HTTP/2, and what each connection shows of its client.
//!
//! Bounded against clients that are slow, silent or many; answers nothing itself. One task per connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::auth::peer::{AskAndAccept, Peer};
use crate::node::Body;
use crate::pki::Identity;

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take for the head of a request.
const HEAD: Duration = Duration::from_secs(30);
/// How often a silent HTTP/2 connection is asked whether it lives, and how long it may think about it.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(15));
/// Streams that one HTTP/2 connection may have open: watches, mostly.
const STREAMS: u32 = 1000;
/// Open connections. More wait to be accepted.
const CONNECTIONS: usize = 4096;
/// How long open connections have to end when the server does.
const DRAIN: Duration = Duration::from_secs(2);
/// How long to wait when the system has no file descriptors left.
const OUT_OF_FILES: Duration = Duration::from_millis(200);

/// What answers requests.
pub trait Front: Send + Sync + 'static {
    /// The answer to one request of a client that showed `peer`.
    fn answer<'a>(
        &'a self,
        peer: &'a Peer,
        request: http::Request<Body>,
    ) -> BoxFuture<'a, http::Response<Body>>;
}

/// Why no listener could be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be had.
    #[error("cannot listen on {0}")]
    Bind(SocketAddr, #[source] io::Error),
    /// Certificates and keys do not go together.
    #[error("the server's certificate cannot be used")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A socket that is bound, before it is served.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Tls,
}

/// What it takes to receive clients.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// A server that shows `identity` and asks clients for certificates of `ca_pem`.
    ///
    /// # Errors
    /// [`ListenError::Tls`].
    pub fn new(ca_pem: &str, identity: &Identity) -> Result<Self, ListenError> {
        Self::build(ca_pem, identity).map_err(ListenError::Tls)
    }

    fn build(ca_pem: &str, identity: &Identity) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes()).collect::<Result<_, _>>()?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(AskAndAccept(verifier.clone())))
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?)?;
        // A resumed session would keep the identity that was shown at its beginning.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), verifier })
    }

    /// Receives a client: its stream, and what it shows.
    ///
    /// # Errors
    /// A handshake that fails or takes too long.
    pub async fn accept<S>(&self, stream: S) -> io::Result<(tokio_rustls::server::TlsStream<S>, Peer)>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let stream = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await??;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificates = shown.iter().map(|c| c.clone().into_owned()).collect();
        Ok((stream, Peer { certificates, verifier: self.verifier.clone() }))
    }
}

impl Listener {
    /// Binds `address`; port 0 takes any that is free.
    ///
    /// # Errors
    /// [`ListenError::Bind`].
    pub async fn bind(address: SocketAddr, tls: Tls) -> Result<Self, ListenError> {
        let socket = TcpListener::bind(address).await.map_err(|e| ListenError::Bind(address, e))?;
        let address = socket.local_addr().map_err(|e| ListenError::Bind(address, e))?;
        Ok(Self { socket, address, tls })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Receives clients until `end`, then lets open requests finish for a moment.
    pub async fn serve(self, front: Arc<dyn Front>, end: CancellationToken) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let connections = tokio_util::task::TaskTracker::new();
        loop {
            // Cancel safe: a permit or a connection that was not taken stays where it is.
            let accepted = tokio::select! { biased;
                () = end.cancelled() => break,
                accepted = async {
                    let permit = permits.clone().acquire_owned().await.ok();
                    (permit, self.socket.accept().await)
                } => accepted,
            };
            match accepted {
                (permit, Ok((stream, from))) => {
                    let (tls, front, end) = (self.tls.clone(), front.clone(), end.clone());
                    connections.spawn(async move {
                        receive(stream, from, tls, front, end).await;
                        drop(permit);
                    });
                }
                (_, Err(problem)) if is_of_the_client(&problem) => {}
                (_, Err(problem)) => {
                    warn!("the local API cannot accept a connection: {problem}");
                    tokio::time::sleep(OUT_OF_FILES).await;
                }
            }
        }
        connections.close();
        // Whoever has not ended by then is cut off: the tasks end with the runtime.
        let _ = tokio::time::timeout(DRAIN, connections.wait()).await;
    }
}

fn is_of_the_client(problem: &io::Error) -> bool {
    matches!(problem.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

async fn receive(
    stream: TcpStream,
    from: SocketAddr,
    tls: Tls,
    front: Arc<dyn Front>,
    end: CancellationToken,
) {
    // Small frames of watches are to go out at once; a socket that cannot do that is slower, not wrong.
    let _ = stream.set_nodelay(true);
    let (stream, peer) = match tls.accept(stream).await {
        Ok(accepted) => accepted,
        Err(problem) => {
            debug!("no TLS connection with {from}: {problem}");
            return;
        }
    };
    converse(stream, peer, front, end).await;
}

/// Answers the requests of one connection until it ends, or for a moment after `end`.
pub async fn converse<S>(stream: S, peer: Peer, front: Arc<dyn Front>, end: CancellationToken)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let peer = Arc::new(peer);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (front, peer) = (front.clone(), peer.clone());
        async move {
            let request = request.map(|body| body.map_err(io::Error::other).boxed_unsync());
            Ok::<_, std::convert::Infallible>(front.answer(&peer, request).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(64 * 1024);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // Cancel safe: the connection is polled on after its end was asked for.
    tokio::select! { biased;
        // How a connection ends is for the client to notice.
        _ = connection.as_mut() => return,
        () = end.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(DRAIN, connection).await;
}
