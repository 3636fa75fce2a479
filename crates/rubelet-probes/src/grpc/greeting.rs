//! A connection that notices whether the other side speaks HTTP/2: its first frame is then SETTINGS. gRPC calls a
//! connection ready when it has come, and upstream's texts tell a server that never sends it from one that is slow.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Where the type of a frame is in its head.
const TYPE_OFFSET: usize = 3;
/// The type of SETTINGS.
const SETTINGS: u8 = 4;

/// A stream that raises a flag when the first frame that comes in is SETTINGS.
pub(super) struct Greeted {
    stream: TcpStream,
    /// How many bytes have come in, as long as the type of the first frame has not.
    read: usize,
    greeted: Arc<AtomicBool>,
}

impl Greeted {
    pub(super) fn new(stream: TcpStream, greeted: Arc<AtomicBool>) -> Self {
        Self { stream, read: 0, greeted }
    }
}

impl AsyncRead for Greeted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if self.read <= TYPE_OFFSET {
            let new = &buf.filled()[before..];
            if new.get(TYPE_OFFSET - self.read) == Some(&SETTINGS) {
                self.greeted.store(true, Ordering::Relaxed);
            }
            self.read += new.len();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
