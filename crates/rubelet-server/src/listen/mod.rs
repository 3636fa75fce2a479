//! The listener: TLS or plain, HTTP/1.1 and HTTP/2, and what each connection shows of its client.
//!
//! Bounded against clients that are slow, silent or many; answers nothing itself and judges nobody: a [`Front`] does.
//! One task per connection. Used for the kubelet API, the read-only and the health port, and by the local API.
//!
//! - `connection`: the requests of one connection, and when it has been open long enough
//! - `crowd`: how many connections each address has
//! - `held`: a connection's place, which an upgraded connection takes along

mod connection;
mod crowd;
mod held;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use rustix::net::sockopt;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::body::Body;
use crate::tls::Tls;
use connection::{Protocol, converse};
use crowd::Crowd;
use held::Held;

/// How often the system asks the machine at the other end of a silent connection, and how often in vain.
const KEEPALIVE: (Duration, u32) = (Duration::from_secs(30), 4);
/// Open connections. More wait to be accepted.
const CONNECTIONS: usize = 8192;
/// How many of them one address may have, so that one client cannot shut out the others.
const OF_ONE_ADDRESS: usize = CONNECTIONS / 4 * 3;
/// How long open connections have to end when the server does.
const DRAIN: Duration = Duration::from_secs(2);
/// How long to wait when the system has no file descriptors left.
const OUT_OF_FILES: Duration = Duration::from_millis(200);
/// The least time between two words about connections that cannot be taken.
const SILENCE: Duration = Duration::from_secs(60);

/// What answers requests.
pub trait Front: Send + Sync + 'static {
    /// The answer to one request of a client that showed `peer`. After a 401 the connection takes no more requests.
    fn answer<'a>(&'a self, peer: &'a Peer, request: Request<Body>) -> BoxFuture<'a, Response<Body>>;
}

/// What a connection shows of its client.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The certificates of the handshake, the client's own first: it has the key of that one, and nothing else was
    /// checked. Empty without TLS, or when the client shows none.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Where it connects from.
    pub address: SocketAddr,
}

/// The address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{name} cannot listen on {address}")]
pub struct ListenError {
    /// Who wanted to listen.
    pub name: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// A socket that is bound, before it is served.
pub struct Listener {
    name: &'static str,
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
}

impl Listener {
    /// Binds `address`; port 0 takes any that is free. `name` is how log lines call the server, such as "the kubelet
    /// API". Without `tls` it speaks HTTP/1.1 in the clear.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn bind(
        name: &'static str,
        address: SocketAddr,
        tls: Option<Tls>,
    ) -> Result<Self, ListenError> {
        let error = |source| ListenError { name, address, source };
        let socket = TcpListener::bind(address).await.map_err(error)?;
        let address = socket.local_addr().map_err(error)?;
        Ok(Self { name, socket, address, tls })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Receives clients until `end`, then lets open requests finish for a moment. Dropped, it ends its connections the
    /// same way in the background.
    pub async fn serve(self, front: Arc<dyn Front>, end: CancellationToken) {
        let end = end.child_token();
        let _ends_with_us = end.clone().drop_guard();
        let (permits, crowd) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Crowd::default()));
        let (connections, mut said) = (TaskTracker::new(), Said::default());
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
                    let Some(seat) = crowd.enter(from.ip(), OF_ONE_ADDRESS) else {
                        said.warn(|| {
                            format!(
                                "{}: {} has {OF_ONE_ADDRESS} connections and gets no more",
                                self.name,
                                from.ip()
                            )
                        });
                        continue;
                    };
                    let (tls, front, end) = (self.tls.clone(), front.clone(), end.clone());
                    prepare(&stream, from);
                    let stream = Held::new(stream, (permit, seat));
                    connections.spawn(receive(stream, from, tls, front, end));
                }
                (_, Err(problem)) if is_of_the_client(&problem) => {}
                (_, Err(problem)) => {
                    said.warn(|| format!("{} cannot accept a connection: {problem}", self.name));
                    tokio::time::sleep(OUT_OF_FILES).await;
                }
            }
        }
        connections.close();
        // Whoever has not ended by then is cut off a moment later: each connection sees to that itself.
        let _ = tokio::time::timeout(DRAIN, connections.wait()).await;
    }
}

/// Warns, but not all the time.
#[derive(Default)]
struct Said {
    last: Option<Instant>,
}

impl Said {
    fn warn(&mut self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.last.is_none_or(|last| now.duration_since(last) >= SILENCE) {
            self.last = Some(now);
            warn!("{}", text());
        }
    }
}

fn is_of_the_client(problem: &io::Error) -> bool {
    matches!(problem.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

fn prepare(stream: &TcpStream, from: SocketAddr) {
    // Small frames of watches are to go out at once; a socket that cannot do that is slower, not wrong.
    let _ = stream.set_nodelay(true);
    if let Err(problem) = keep_alive(stream) {
        debug!("the connection with {from} is not watched by the system: {problem}");
    }
}

/// A client whose machine is gone says nothing any more, and neither does the server that only waits for it.
fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    let (period, times) = KEEPALIVE;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, period)?;
    sockopt::set_tcp_keepintvl(stream, period)?;
    sockopt::set_tcp_keepcnt(stream, times)
}

async fn receive<S>(
    stream: S,
    from: SocketAddr,
    tls: Option<Tls>,
    front: Arc<dyn Front>,
    end: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(tls) = tls else {
        let peer = Peer { certificates: vec![], address: from };
        return converse(stream, peer, Protocol::Http1, front, end).await;
    };
    // Cancel safe: who is not received yet loses nothing.
    let accepted = tokio::select! { biased;
        () = end.cancelled() => return,
        accepted = tls.accept(stream, from) => accepted,
    };
    let (stream, peer) = match accepted {
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
