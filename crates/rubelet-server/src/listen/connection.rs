//! The requests of one connection, and when it has been open long enough.
//!
//! Knows nothing of sockets and TLS: a stream is given, with what is known of the client. Called by the listener.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{DRAIN, Front, Peer};
use crate::body::Body;

/// How long a client may take for its first request, head and all.
pub(super) const HEAD: Duration = Duration::from_secs(30);
/// How large a head may be. HTTP/2's is counted without its compression.
const HEAD_SIZE: u32 = 64 * 1024;
/// How long an HTTP/1 connection waits for the next request (upstream's `IdleTimeout`); and how often it is looked
/// whether an HTTP/2 connection is used: one that was not at two looks is closed.
pub(super) const IDLE: Duration = Duration::from_secs(90);
/// How often a silent HTTP/2 connection is asked whether it lives, and how long it may think about it.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(15));
/// Streams that one HTTP/2 connection may have open, as Go's servers do: watches and followed logs, mostly. Clients
/// open more connections for more.
const STREAMS: u32 = 250;
/// What a client may send on one stream, and on all of a connection, before somebody reads it.
const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);
/// How much of an answer is held ready for a client that does not read, per stream.
const SEND_BUFFER: usize = 32 * 1024;

/// What client and server have agreed to speak. Nobody is waited for to show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1, with upgrades.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Polls a connection to its end. After `enough` it takes no more requests, after `end` it has little time left. The
/// types of connections have no trait in common that says how they are closed.
macro_rules! carry {
    ($connection:expr, $enough:expr, $end:expr) => {{
        // In a box of its own: a task has room for the largest of what it ever holds, several times over.
        let (mut connection, mut enough) = (Box::pin($connection), std::pin::pin!($enough));
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
            let _ = tokio::time::timeout(DRAIN, connection.as_mut()).await;
        }
    }};
}

/// Answers the requests of one connection until it ends, or for a moment after `end`.
pub(super) async fn converse<S>(
    stream: S,
    peer: Peer,
    protocol: Protocol,
    front: Arc<dyn Front>,
    end: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = Arc::new(peer);
    let usage = Arc::new(Usage::default());
    let counting = usage.clone();
    let service = service_fn(move |request: Request<Incoming>| {
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
    let conversation = async {
        match protocol {
            Protocol::Http1 => {
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(HEAD_SIZE as usize);
                let connection = builder.serve_connection(stream, service).with_upgrades();
                carry!(connection, usage.clone().dismissal(), end);
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
                carry!(connection, usage.clone().disuse(), end);
            }
        }
    };
    // Cancel safe: who has asked nothing yet loses nothing.
    tokio::select! { biased;
        () = conversation => {}
        () = usage.silence() => {}
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

    /// Ends when there was no request in the time that the first may take. Hyper would wait for an HTTP/1 head as long
    /// as for the next request, and for the first words of HTTP/2 for ever, however it is told to close.
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
