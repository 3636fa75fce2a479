//! The valve on the server's TCP connections: cut them, or let them fall silent as half-open ones do.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Shared by all connections of a server.
#[derive(Debug)]
pub(crate) struct Gate {
    cuts: tokio::sync::watch::Sender<u64>,
    /// Whether the connections of now are frozen; those of later get a new flag.
    frozen: Mutex<Arc<AtomicBool>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { cuts: tokio::sync::watch::Sender::new(0), frozen: Mutex::default() }
    }
}

impl Gate {
    /// Closes every open connection.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Makes every open connection silent: nothing is read or written any more, and nobody is told.
    pub(crate) fn freeze(&self) {
        let mut current = self.frozen.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *current).store(true, Ordering::SeqCst);
    }

    /// A new connection behind the gate, and what tells of the next cut.
    pub(crate) fn admit(&self, stream: TcpStream) -> (Gated, tokio::sync::watch::Receiver<u64>) {
        let frozen = self.frozen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (Gated { stream, frozen }, self.cuts.subscribe())
    }
}

/// A connection that can be frozen.
#[derive(Debug)]
pub(crate) struct Gated {
    stream: TcpStream,
    frozen: Arc<AtomicBool>,
}

impl Gated {
    fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }
}

impl AsyncRead for Gated {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_frozen() {
            // Never woken: only dropping the connection ends this.
            return Poll::Pending;
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_frozen() {
            return Poll::Pending;
        }
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
