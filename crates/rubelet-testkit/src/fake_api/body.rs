//! Bodies of answers: the engine's, whole ones, and those that faults spoil.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use rubelet_localapi::node::Body;

/// The connection is gone: what a client sees of a reset, a refused connection or a body cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnected;

impl std::fmt::Display for Disconnected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connection reset by the fake API server")
    }
}

impl std::error::Error for Disconnected {}

/// The body of an answer.
pub type ResponseBody = UnsyncBoxBody<Bytes, Disconnected>;

/// A body that is there at once.
pub(crate) fn whole(bytes: Bytes) -> ResponseBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The body of a request to the engine.
pub(crate) fn to_engine(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body that arrives piece by piece.
pub(crate) fn streamed(
    pieces: impl Stream<Item = Result<Bytes, Disconnected>> + Send + 'static,
) -> ResponseBody {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// A body that stops half way for a while.
pub(crate) fn slow(bytes: Bytes, pause: Duration) -> ResponseBody {
    let (first, rest) = (bytes.slice(..bytes.len() / 2), bytes.slice(bytes.len() / 2..));
    let rest = futures::stream::once(async move {
        tokio::time::sleep(pause).await;
        Ok(rest)
    });
    streamed(futures::stream::iter([Ok(first)]).chain(rest))
}

/// A body that breaks off half way.
pub(crate) fn cut(bytes: &Bytes) -> ResponseBody {
    let first = bytes.slice(..bytes.len() / 2);
    streamed(futures::stream::iter([Ok(first), Err(Disconnected)]))
}
