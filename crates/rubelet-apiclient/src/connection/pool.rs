//! Which connection a request goes over. HTTP/2 connections are shared up to the number of streams the server allows,
//! then another is made; HTTP/1 connections carry one request at a time.
//!
//! One connection is made at a time and everybody who needs one waits for it, also for its failure. `close_all` ends
//! every connection of the moment, those being made too; streams on them fail at once.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::CLOSED_BY_AGENT;
use super::dial::{Dialer, Stream};
use super::error::ConnectFailure;

/// The body of every request: all of it, so that it can be sent again.
pub(super) type RequestBody = Full<Bytes>;

type Dialing = Shared<BoxFuture<'static, Result<(), Arc<ConnectFailure>>>>;

/// Connections to one server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    dialer: Arc<Dialer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Ends all connections made so far.
    life: CancellationToken,
    http2: Vec<Http2>,
    /// Connections on which nothing is under way.
    http1: Vec<Http1>,
    dialing: Option<Dialing>,
}

#[derive(Clone)]
struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    /// Requests under way.
    streams: Arc<AtomicUsize>,
    /// How many the server takes at once; more would block the whole connection.
    allowed: Arc<AtomicUsize>,
    fault: Fault,
}

struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    life: CancellationToken,
    fault: Fault,
}

/// The first error a stream reported, because HTTP/2 does not pass it on.
type Fault = Arc<OnceLock<Arc<std::io::Error>>>;

/// The right to send one request over a connection; kept until its answer is read.
pub(super) struct Lease {
    kind: LeaseKind,
    fault: Fault,
    pool: Arc<Inner>,
}

enum LeaseKind {
    Http2 { sender: http2::SendRequest<RequestBody>, stream: StreamGuard },
    Http1 { sender: http1::SendRequest<RequestBody>, life: CancellationToken },
}

/// Counts a stream while it lives.
struct StreamGuard(Arc<AtomicUsize>);

impl StreamGuard {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    pub(super) fn new(dialer: Arc<Dialer>) -> Self {
        Self { inner: Arc::new(Inner { dialer, state: Mutex::default() }) }
    }

    /// A place on a connection, after making one if need be. Cancel safe: a connection being made goes on for others.
    pub(super) async fn lease(&self) -> Result<Lease, Arc<ConnectFailure>> {
        loop {
            let dialing = {
                let mut state = self.inner.lock();
                if let Some(lease) = state.lease(&self.inner) {
                    return Ok(lease);
                }
                match &state.dialing {
                    Some(dialing) => dialing.clone(),
                    None => {
                        let dialing = self.inner.start(state.life.clone());
                        state.dialing = Some(dialing.clone());
                        dialing
                    }
                }
            };
            let outcome = dialing.clone().await;
            if let Err(failure) = outcome {
                let mut state = self.inner.lock();
                if state.dialing.as_ref().is_some_and(|current| current.ptr_eq(&dialing)) {
                    state.dialing = None;
                }
                return Err(failure);
            }
        }
    }

    /// Ends all connections at once.
    pub(super) fn close_all(&self) {
        let mut state = self.inner.lock();
        state.life.cancel();
        *state = State::default();
    }
}

impl State {
    fn lease(&mut self, pool: &Arc<Inner>) -> Option<Lease> {
        self.http2.retain(|connection| !connection.sender.is_closed());
        for connection in &self.http2 {
            let allowed = connection.allowed.load(Ordering::Relaxed).max(1);
            if connection.streams.load(Ordering::Relaxed) < allowed {
                let stream = StreamGuard::new(&connection.streams);
                let kind = LeaseKind::Http2 { sender: connection.sender.clone(), stream };
                return Some(Lease { kind, fault: connection.fault.clone(), pool: pool.clone() });
            }
        }
        while let Some(connection) = self.http1.pop() {
            if connection.sender.is_ready() {
                let kind = LeaseKind::Http1 { sender: connection.sender, life: connection.life };
                return Some(Lease { kind, fault: connection.fault, pool: pool.clone() });
            }
        }
        None
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to make a connection that lives as long as `life`.
    fn start(self: &Arc<Self>, life: CancellationToken) -> Dialing {
        let inner = self.clone();
        let task = tokio::spawn(async move {
            // Cancel safe: a connection half made is dropped, which closes it. Whoever waits looks again.
            let outcome = tokio::select! {
                biased;
                () = life.cancelled() => return Ok(()),
                outcome = inner.open(&life) => outcome,
            };
            let mut state = inner.lock();
            if life.is_cancelled() {
                return Ok(());
            }
            state.dialing = None;
            match outcome {
                Ok(Opened::Http2(connection)) => state.http2.push(connection),
                Ok(Opened::Http1(connection)) => state.http1.push(connection),
                Err(failure) => return Err(Arc::new(failure)),
            }
            Ok(())
        });
        async move { task.await.unwrap_or_else(|_| Err(Arc::new(ConnectFailure::GivenUp))) }.boxed().shared()
    }

    async fn open(&self, life: &CancellationToken) -> Result<Opened, ConnectFailure> {
        let dialed = self.dialer.dial().await?;
        let fault = Fault::default();
        let io = TokioIo::new(Killable {
            stream: dialed.stream,
            killed: Box::pin(life.clone().cancelled_owned()),
            fault: fault.clone(),
        });
        let failed = |source| ConnectFailure::Http { address: self.dialer.address(), source };
        if dialed.http2 {
            let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(self.dialer.keep_alive_interval)
                .keep_alive_timeout(self.dialer.keep_alive_timeout)
                .keep_alive_while_idle(false)
                .handshake(io)
                .await
                .map_err(failed)?;
            let allowed = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
            let told = allowed.clone();
            tokio::spawn(std::future::poll_fn(move |cx| {
                let ended = Pin::new(&mut connection).poll(cx).map(|_| ());
                told.store(connection.current_max_send_streams(), Ordering::Relaxed);
                ended
            }));
            return Ok(Opened::Http2(Http2 { sender, streams: Arc::default(), allowed, fault }));
        }
        let (sender, connection) = http1::handshake(io).await.map_err(failed)?;
        tokio::spawn(connection.map(|_| ()));
        Ok(Opened::Http1(Http1 { sender, life: life.clone(), fault }))
    }
}

enum Opened {
    Http2(Http2),
    Http1(Http1),
}

/// A request that did not make it.
pub(super) struct SendFailure {
    pub(super) error: hyper::Error,
    /// What the stream reported first.
    pub(super) io: Option<Arc<std::io::Error>>,
    /// Whether the server cannot have seen the request.
    pub(super) unsent: bool,
}

impl Lease {
    /// Whether the request's address is to be given in full, as HTTP/2 wants it.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.kind, LeaseKind::Http2 { .. })
    }

    /// Sends the request and waits for the head of the answer.
    pub(super) async fn send(
        &mut self,
        request: http::Request<RequestBody>,
    ) -> Result<http::Response<hyper::body::Incoming>, SendFailure> {
        let outcome = match &mut self.kind {
            LeaseKind::Http2 { sender, .. } => sender.try_send_request(request).await,
            LeaseKind::Http1 { sender, .. } => sender.try_send_request(request).await,
        };
        outcome.map_err(|mut failure| SendFailure {
            unsent: failure.take_message().is_some(),
            error: failure.into_error(),
            io: self.fault.get().cloned(),
        })
    }

    /// To be called when the connection takes no requests any more: nobody else shall try it.
    pub(super) fn discard(self) {
        if let LeaseKind::Http2 { stream, .. } = &self.kind {
            self.pool.lock().http2.retain(|connection| !Arc::ptr_eq(&connection.streams, &stream.0));
        }
    }

    /// To be called when the answer has been read to its end: an HTTP/1 connection goes back into the pool.
    pub(super) fn finish(self) {
        let LeaseKind::Http1 { mut sender, life } = self.kind else { return };
        let (pool, fault) = (self.pool, self.fault);
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                let mut state = pool.lock();
                if !life.is_cancelled() {
                    state.http1.push(Http1 { sender, life, fault });
                }
            }
        });
    }
}

/// A stream that ends when its pool says so, whatever HTTP still has open on it.
struct Killable {
    stream: Box<dyn Stream>,
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
    fault: Fault,
}

impl Killable {
    fn check(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        if self.killed.as_mut().poll(cx).is_ready() {
            return Err(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, CLOSED_BY_AGENT));
        }
        Ok(())
    }

    fn note<T>(&self, outcome: Poll<std::io::Result<T>>) -> Poll<std::io::Result<T>> {
        if let Poll::Ready(Err(error)) = &outcome {
            // A TLS error is rebuilt so that both the caller and the record have it whole.
            let copy = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(tls) => std::io::Error::new(error.kind(), tls.clone()),
                None => std::io::Error::new(error.kind(), error.to_string()),
            };
            let _ = self.fault.set(Arc::new(copy));
        }
        outcome
    }
}

impl AsyncRead for Killable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let outcome = match self.check(cx) {
            Ok(()) => Pin::new(&mut self.stream).poll_read(cx, buffer),
            Err(error) => Poll::Ready(Err(error)),
        };
        self.note(outcome)
    }
}

impl AsyncWrite for Killable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let outcome = match self.check(cx) {
            Ok(()) => Pin::new(&mut self.stream).poll_write(cx, data),
            Err(error) => Poll::Ready(Err(error)),
        };
        self.note(outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let outcome = match self.check(cx) {
            Ok(()) => Pin::new(&mut self.stream).poll_flush(cx),
            Err(error) => Poll::Ready(Err(error)),
        };
        self.note(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.check(cx) {
            Ok(()) => Pin::new(&mut self.stream).poll_shutdown(cx),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}
