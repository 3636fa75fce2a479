//! Files as bodies: read a block at a time on a blocking thread, as fast as the client takes it.
//!
//! A body holds an open file and no buffer between blocks, and goes with the connection.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::conditions::Span;
use crate::body::Body;

const BLOCK: usize = 64 * 1024;

/// A part of a body.
pub(super) enum Piece {
    /// As it is.
    Text(Bytes),
    /// Out of the file.
    Span(Span),
}

impl Piece {
    pub(super) fn length(&self) -> u64 {
        match self {
            Piece::Text(text) => text.len() as u64,
            Piece::Span(span) => span.length,
        }
    }
}

/// Reads blocks when it is their turn.
#[derive(Clone)]
pub(super) struct Reads(Arc<Semaphore>);

impl Reads {
    /// So many at the same time.
    pub(super) fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }

    /// Runs a piece of blocking work when it is its turn.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let _place = self.0.acquire().await.map_err(io::Error::other)?;
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
    }

    /// The next bytes of a span, which becomes shorter.
    pub(super) async fn next(&self, file: &Arc<File>, span: &mut Span) -> io::Result<Bytes> {
        let (file, start) = (file.clone(), span.start);
        let wanted = usize::try_from(span.length).unwrap_or(BLOCK).min(BLOCK);
        let bytes = self.run(move || read(&file, start, wanted)).await??;
        span.start += bytes.len() as u64;
        span.length -= bytes.len() as u64;
        Ok(bytes)
    }
}

/// Some bytes from a place in a file; an error when there are none any more.
fn read(file: &File, start: u64, wanted: usize) -> io::Result<Bytes> {
    let mut bytes = BytesMut::zeroed(wanted);
    let count = file.read_at(&mut bytes, start)?;
    if count == 0 {
        // The file was cut off: what was promised cannot be kept.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(count);
    Ok(bytes.freeze())
}

/// A body of these pieces, which holds `place` to its end.
pub(super) fn body(reads: Reads, file: File, pieces: Vec<Piece>, place: OwnedSemaphorePermit) -> Body {
    let pieces = pieces.into_iter().filter(|piece| piece.length() > 0);
    let state = (reads, Arc::new(file), pieces, None::<Span>, place);
    let blocks = stream::unfold(Some(state), |state| async move {
        let (reads, file, mut pieces, mut open, place) = state?;
        let mut span = match open.take() {
            Some(span) => span,
            None => match pieces.next()? {
                Piece::Text(text) => {
                    return Some((Ok(Frame::data(text)), Some((reads, file, pieces, None, place))));
                }
                Piece::Span(span) => span,
            },
        };
        match reads.next(&file, &mut span).await {
            Ok(bytes) => {
                let open = (span.length > 0).then_some(span);
                Some((Ok(Frame::data(bytes)), Some((reads, file, pieces, open, place))))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    StreamBody::new(blocks).boxed_unsync()
}
