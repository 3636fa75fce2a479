//! An answer's body. It keeps its place on the connection until it has been read, and ends with an error when an
//! ordinary request's deadline passes while it is read. A watch has no deadline.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::error::TransportError;
use super::pool::Lease;

/// A body that holds a lease.
pub(super) struct LeasedBody {
    incoming: Incoming,
    lease: Option<Lease>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl LeasedBody {
    /// `deadline` is when the body must have ended.
    pub(super) fn new(incoming: Incoming, lease: Lease, deadline: Option<Instant>) -> Self {
        let mut body = Self {
            incoming,
            lease: Some(lease),
            deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at))),
        };
        if body.incoming.is_end_stream() {
            body.give_back();
        }
        body
    }

    fn give_back(&mut self) {
        self.deadline = None;
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
    }
}

impl Body for LeasedBody {
    type Data = Bytes;
    type Error = TransportError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TransportError>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(TransportError::Body(error)))),
            Poll::Ready(None) => {
                self.give_back();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let passed =
                    self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
                if passed { Poll::Ready(Some(Err(TransportError::BodyDeadline))) } else { Poll::Pending }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
