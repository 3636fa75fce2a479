//! The listener: TLS, HTTP/1.1 and HTTP/2, and what each connection shows of its client.
//!
//! Bounded against clients that are slow, silent or many; answers nothing itself. One task per connection.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::sockopt;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::auth::peer::{AskAndAccept, Peer};
use crate::node::Body;
use crate::pki::Identity;

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take for the head of a request, and how long an HTTP/1 connection may wait for the next one.
const HEAD: Duration = Duration::from_secs(30);
/// How large a head may be. HTTP/2's is counted without its compression.
const HEAD_SIZE: u32 = 64 * 1024;
/// How often it is looked whether an HTTP/2 connection is used: one that was not at two looks is closed.
const IDLE: Duration = Duration::from_secs(90);
/// How often a silent HTTP/2 connection is asked whether it lives, and how long it may think about it.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(15));
/// The same for the system, which asks the machine rather than the program: every connection, however it is used.
const KEEPALIVE: (Duration, u32) = (Duration::from_secs(30), 4);
/// Streams that one HTTP/2 connection may have open, as Go's servers do: watches, mostly. Clients open more
/// connections for more.
const STREAMS: u32 = 250;
/// What a client may send on one stream, and on all of a connection, before somebody reads it.
const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);
/// How much of an answer is held ready for one client.
const SEND_BUFFER: usize = 64 * 1024;
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
    #[error("cannot listen on {0} (--bind-address and --secure-port choose another)")]
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
    if let Err(problem) = keep_alive(&stream) {
        debug!("the connection with {from} is not watched by the system: {problem}");
    }
    let (stream, peer) = match tls.accept(stream).await {
        Ok(accepted) => accepted,
        Err(problem) => {
            debug!("no TLS connection with {from}: {problem}");
            return;
        }
    };
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    converse(stream, peer, protocol, front, end).await;
}

/// A client whose machine is gone says nothing any more, and neither does the server that only waits for it.
fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    let (period, times) = KEEPALIVE;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, period)?;
    sockopt::set_tcp_keepintvl(stream, period)?;
    sockopt::set_tcp_keepcnt(stream, times)
}

/// What client and server have agreed to speak. Nobody is waited for to show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, with upgrades.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Polls a connection to its end. After `enough` it takes no more requests, after `end` it has little time left. The
/// types of connections have no trait in common that says how they are closed.
macro_rules! carry {
    ($connection:expr, $enough:expr, $end:expr) => {{
        let (mut connection, mut enough) = (std::pin::pin!($connection), std::pin::pin!($enough));
        let mut closing = false;
        let ended = loop {
            // Cancel safe: connection and reasons to close it are polled on, and an end stays asked for.
            tokio::select! { biased;
                // How a connection ends is for the client to notice.
                _ = connection.as_mut() => break true,
                () = $end.cancelled() => break false,
                () = enough.as_mut(), if !closing => {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        };
        if !ended {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(DRAIN, connection).await;
        }
    }};
}

/// Answers the requests of one connection until it ends, or for a moment after `end`.
pub async fn converse<S>(
    stream: S,
    peer: Peer,
    protocol: Protocol,
    front: Arc<dyn Front>,
    end: CancellationToken,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let peer = Arc::new(peer);
    let usage = Arc::new(Usage::default());
    let counting = usage.clone();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (front, peer, open) = (front.clone(), peer.clone(), Open::new(&counting));
        async move {
            let request = request.map(|body| body.map_err(io::Error::other).boxed_unsync());
            let response = front.answer(&peer, request).await;
            if response.status() == StatusCode::UNAUTHORIZED {
                open.0.dismissed.notify_one();
            }
            Ok::<_, Infallible>(response.map(|body| Sent { body, _open: open }))
        }
    });
    let stream = TokioIo::new(stream);
    match protocol {
        Protocol::Http1 => {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_SIZE as usize);
            let connection = builder.serve_connection(stream, service).with_upgrades();
            carry!(connection, usage.dismissal(), end);
        }
        Protocol::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .keep_alive_interval(PING.0)
                .keep_alive_timeout(PING.1)
                .max_concurrent_streams(STREAMS)
                .initial_stream_window_size(WINDOWS.0)
                .initial_connection_window_size(WINDOWS.1)
                .max_send_buf_size(SEND_BUFFER)
                .max_header_list_size(HEAD_SIZE);
            let connection = builder.serve_connection(stream, service);
            // Cancel safe: who has asked nothing yet loses nothing.
            tokio::select! { biased;
                () = async { carry!(connection, usage.clone().disuse(), end) } => {}
                () = usage.silence() => {}
            }
        }
    }
}

/// What becomes of a connection's requests.
#[derive(Default)]
struct Usage {
    /// Requests whose answers are not all sent.
    open: AtomicUsize,
    /// Requests that there were, on a counter that may start over.
    seen: AtomicUsize,
    /// A request was of nobody that is known: who has no business here is not to keep a connection.
    dismissed: Notify,
}

impl Usage {
    async fn dismissal(self: Arc<Self>) {
        self.dismissed.notified().await;
    }

    /// Ends when there was no request in the time that a head may take. Hyper waits for the first words of HTTP/2 for
    /// ever, however it is told to close.
    async fn silence(&self) {
        tokio::time::sleep(HEAD).await;
        if self.seen.load(Ordering::Relaxed) > 0 {
            std::future::pending::<()>().await;
        }
    }

    /// Ends when the connection was not used for a while, or by [`Self::dismissal`].
    async fn disuse(self: Arc<Self>) {
        let unused = async {
            let mut before = None;
            loop {
                tokio::time::sleep(IDLE).await;
                let seen = self.seen.load(Ordering::Relaxed);
                if self.open.load(Ordering::Relaxed) == 0 && before == Some(seen) {
                    return;
                }
                before = Some(seen);
            }
        };
        // Cancel safe: whichever comes first is the end of both.
        tokio::select! { biased;
            () = self.clone().dismissal() => {}
            () = unused => {}
        }
    }
}

/// One request, until its answer is sent.
struct Open(Arc<Usage>);

impl Open {
    fn new(usage: &Arc<Usage>) -> Self {
        usage.open.fetch_add(1, Ordering::Relaxed);
        usage.seen.fetch_add(1, Ordering::Relaxed);
        Self(usage.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer; its request is open as long as it is being sent.
struct Sent {
    body: Body,
    _open: Open,
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};
    use rustls::server::danger::ClientCertVerifier;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::time::Instant;

    use super::*;
    use crate::pki::Ca;

    /// Knows everybody but those who ask for `/stranger`; never ends telling of `/watch`.
    struct Echo;

    impl Front for Echo {
        fn answer<'a>(
            &'a self,
            _: &'a Peer,
            request: http::Request<Body>,
        ) -> BoxFuture<'a, http::Response<Body>> {
            Box::pin(async move {
                let path = request.uri().path();
                let status = if path == "/stranger" { 401 } else { 200 };
                let body = match path {
                    "/watch" => StreamBody::new(futures::stream::pending()).boxed_unsync(),
                    _ => Full::new(Bytes::from("x")).map_err(|never| match never {}).boxed_unsync(),
                };
                http::Response::builder().status(status).body(body).unwrap()
            })
        }
    }

    fn peer() -> Peer {
        let ca = Ca::new("ca", jiff::Timestamp::from_second(1_800_000_000).unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ClientCertVerifier> =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        Peer { certificates: [].into(), verifier }
    }

    fn client(protocol: Protocol) -> DuplexStream {
        let (client, server) = tokio::io::duplex(64 * 1024);
        tokio::spawn(converse(server, peer(), protocol, Arc::new(Echo), CancellationToken::new()));
        client
    }

    /// Seconds until the server closes the connection by itself.
    async fn seconds_until_closed(mut client: DuplexStream) -> u64 {
        let begun = Instant::now();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_says_it_slowly_is_not_waited_for() {
        for begin in ["", "G", "GET / HTTP/1.1\r\nHost: x\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let mut client = client(Protocol::Http1);
            client.write_all(begin.as_bytes()).await.unwrap();
            assert_eq!(seconds_until_closed(client).await, HEAD.as_secs(), "{begin:?}");
        }
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        for begin in [b"".as_slice(), b"PRI", preface] {
            let mut client = client(Protocol::Http2);
            client.write_all(begin).await.unwrap();
            assert_eq!(seconds_until_closed(client).await, HEAD.as_secs(), "{begin:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_are_closed_and_those_with_a_watch_are_not() {
        let (client, server) = tokio::io::duplex(64 * 1024);
        tokio::spawn(converse(server, peer(), Protocol::Http2, Arc::new(Echo), CancellationToken::new()));
        let (mut send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request =
            || http::Request::get("https://x/watch").body(http_body_util::Empty::<Bytes>::new()).unwrap();
        let open = send.send_request(request()).await.unwrap();
        tokio::time::sleep(IDLE * 5).await;
        assert!(!connection.is_finished(), "it is used");
        drop(open);
        let begun = Instant::now();
        let _ = connection.await.unwrap();
        assert!(begun.elapsed() <= IDLE * 2 + Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_is_answered_and_shown_out() {
        let mut client = client(Protocol::Http1);
        client.write_all(b"GET /stranger HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_eq!(seconds_until_closed(client).await, 0);
    }
}
