//! What is probed: small servers inside this program, which count who comes and remember when.
//!
//! Owns the sockets and the least of each protocol that a server has to say. Who comes is told by the path of an HTTP
//! request; the others only count. Called by the plan of this part; dropping a server ends it.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::stream;
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::Kind;

/// Where it drips: an answer that never ends.
pub(super) const DRIP: &str = "/drip";
/// From drop to drop.
const DROP: Duration = Duration::from_millis(100);
/// The answer of an HTTP server; the connection ends with it.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
/// An answer of unknown length.
const DRIPPING: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
/// A gRPC message: `HealthCheckResponse{status: SERVING}`.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 0x01];

/// Who came and when.
#[derive(Debug, Default)]
struct Visits {
    count: AtomicU64,
    /// The number at the end of the path, and when the connection was accepted.
    log: Mutex<Vec<(usize, Instant)>>,
}

/// A server of one kind.
#[derive(Debug)]
pub(super) struct Target {
    /// Where it listens.
    pub(super) address: SocketAddr,
    visits: Arc<Visits>,
    task: JoinHandle<()>,
}

impl Drop for Target {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Target {
    /// Begins to listen: on loopback, or on the node's own address, where pods of the host's network are.
    pub(super) async fn start(kind: Kind) -> Result<Self> {
        let ip = if kind == Kind::Grpc { node_ip() } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
        let listener = TcpListener::bind((ip, 0)).await.with_context(|| format!("cannot listen on {ip}"))?;
        let address = listener.local_addr()?;
        let acceptor = if kind == Kind::Https { Some(acceptor()?) } else { None };
        let visits = Arc::new(Visits::default());
        let task = tokio::spawn(serve(listener, kind, acceptor, Arc::clone(&visits)));
        Ok(Self { address, visits, task })
    }

    /// How many came so far.
    pub(super) fn count(&self) -> u64 {
        self.visits.count.load(Ordering::Relaxed)
    }

    /// Who came since this was asked last, and when.
    pub(super) fn take_log(&self) -> Vec<(usize, Instant)> {
        std::mem::take(&mut self.visits.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The address that pods of the host's network have.
fn node_ip() -> IpAddr {
    let ips = rubelet_linux::facts::default_route_ips();
    ips.into_iter().next().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

async fn serve(listener: TcpListener, kind: Kind, acceptor: Option<TlsAcceptor>, visits: Arc<Visits>) {
    loop {
        // Out of descriptors, say: the run shows it as a probe that nobody saw.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let at = Instant::now();
        visits.count.fetch_add(1, Ordering::Relaxed);
        let (visits, acceptor) = (Arc::clone(&visits), acceptor.clone());
        match kind {
            // The connection is all.
            Kind::Tcp | Kind::Exec => {}
            Kind::Http => drop(tokio::spawn(http(stream, at, visits))),
            Kind::Https => drop(tokio::spawn(async move {
                if let Some(acceptor) = acceptor
                    && let Ok(stream) = acceptor.accept(stream).await
                {
                    http(stream, at, visits).await;
                }
            })),
            Kind::Grpc => drop(tokio::spawn(grpc(stream))),
        }
    }
}

/// Answers one request. What fails here is seen by the client.
async fn http<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, at: Instant, visits: Arc<Visits>) {
    let mut head = [0; 1024];
    let mut length = 0;
    while !head[..length].ends_with(b"\r\n\r\n") {
        match stream.read(&mut head[length..]).await {
            Ok(count) if count > 0 => length += count,
            _ => return,
        }
    }
    let path = std::str::from_utf8(&head[..length]).unwrap_or_default().split(' ').nth(1).unwrap_or_default();
    if path == DRIP {
        let mut written = stream.write_all(DRIPPING).await;
        while written.is_ok() {
            tokio::time::sleep(DROP).await;
            written = stream.write_all(b".").await;
        }
        return;
    }
    if let Some(number) = path.rsplit('/').next().and_then(|number| number.parse().ok()) {
        visits.log.lock().unwrap_or_else(PoisonError::into_inner).push((number, at));
    }
    if stream.write_all(ANSWER).await.is_ok() {
        let _closed = stream.shutdown().await;
    }
}

/// Answers the health question, whatever is asked.
async fn grpc(stream: TcpStream) {
    let answer = |_: Request<Incoming>| async {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let frames = [Frame::data(Bytes::from_static(SERVING)), Frame::trailers(trailers)];
        let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
        let mut response = Response::new(body);
        let kind = http::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        Ok::<_, Infallible>(response)
    };
    let _nagle = stream.set_nodelay(true);
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ended = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
}

/// TLS with a certificate that nobody knows, as the servers of pods have it; no protocol is agreed on, so it is HTTP/1.
fn acceptor() -> Result<TlsAcceptor> {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(super::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::super::floor;
    use super::*;

    #[tokio::test]
    async fn every_kind_is_answered_as_its_floor_expects() {
        for kind in [Kind::Http, Kind::Https, Kind::Tcp, Kind::Grpc] {
            let target = Target::start(kind).await.unwrap();
            let asker = floor::Asker::new(kind, &target.address.to_string(), "").unwrap();
            for number in [3, 4] {
                asker.ask(number).await.unwrap_or_else(|error| panic!("{kind:?}: {error:#}"));
            }
            // A connection that was only made may be accepted a little later.
            while target.count() < 2 {
                tokio::task::yield_now().await;
            }
            let seen: Vec<usize> = target.take_log().into_iter().map(|(number, _)| number).collect();
            match kind {
                Kind::Http | Kind::Https => assert_eq!(seen, [3, 4], "{kind:?}"),
                _ => assert!(seen.is_empty(), "{kind:?}: {seen:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_drip_does_not_end() {
        let target = Target::start(Kind::Http).await.unwrap();
        let mut stream = TcpStream::connect(target.address).await.unwrap();
        stream.write_all(format!("GET {DRIP} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
        let mut drops = vec![0; DRIPPING.len() + 3];
        stream.read_exact(&mut drops).await.unwrap();
        assert!(drops.ends_with(b"..."));
    }
}
