//! Bodies: reading those of requests within bounds, making those of answers.

use std::io;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, Stream, StreamExt};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use rubelet_apimachinery::status::{self, ApiError};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::node::Body;

/// The largest body that is read, as kube-apiserver's `MaxRequestBodyBytes`.
pub(crate) const LIMIT: usize = 3 * 1024 * 1024;
/// How long a client may take to send its body.
const PATIENCE: Duration = Duration::from_secs(60);

/// What all bodies together may take in memory, of all clients, in KiB. A pod that may do nothing may still send
/// bodies: it is not to use up the machine with them.
const BUDGET_KIB: usize = 64 * 1024;
/// What is left of it. One for the process, as its memory is.
static BUDGET: Semaphore = Semaphore::const_new(BUDGET_KIB);

/// A body with its part of the budget, which goes back when the last of the body does.
struct Held {
    bytes: Bytes,
    _part: SemaphorePermit<'static>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The part of the budget that so many more bytes take; nobody waits for others to finish.
fn part(bytes: usize) -> Result<SemaphorePermit<'static>, ApiError> {
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    BUDGET.try_acquire_many(kib).map_err(|_| {
        let mut error = ApiError::new(429, "TooManyRequests", "Too many requests, please try again later.");
        error.retry_after = Some(1);
        error
    })
}

/// Reads a whole body.
///
/// # Errors
/// 413 when it is larger than [`LIMIT`], 400 when it breaks off, 504 when it takes too long, 429 when too many others
/// are being read.
pub(crate) async fn read(headers: &HeaderMap, mut body: Body) -> Result<Bytes, ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > LIMIT as u64) {
        return Err(status::too_large(LIMIT));
    }
    let reading = async {
        let mut first = Bytes::new();
        let mut whole = BytesMut::new();
        let mut held = part(0)?;
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| status::bad_request(format!("unable to read the body: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if first.len() + whole.len() + data.len() > LIMIT {
                return Err(status::too_large(LIMIT));
            }
            held.merge(part(data.len())?);
            // A body of one piece, as most are, is not copied.
            if first.is_empty() && whole.is_empty() {
                first = data;
            } else {
                if whole.is_empty() {
                    whole.extend_from_slice(&std::mem::take(&mut first));
                }
                whole.extend_from_slice(&data);
            }
        }
        let bytes = if whole.is_empty() { first } else { whole.freeze() };
        Ok(Bytes::from_owner(Held { bytes, _part: held }))
    };
    let mut reading = std::pin::pin!(reading);
    // A body that is there already needs no clock: neither a timer for it nor, within the process, a runtime.
    if let Some(read) = reading.as_mut().now_or_never() {
        return read;
    }
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(read) => read,
        Err(_) => Err(timeout("the body of the request did not arrive in time")),
    }
}

/// The 504 answer.
pub(crate) fn timeout(why: &str) -> ApiError {
    ApiError::new(504, "Timeout", format!("Timeout: {why}"))
}

/// A body that is there at once.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that arrives piece by piece. A panic on the way cuts it off.
pub(crate) fn streamed(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    // Nothing of a stream is looked at again after a panic.
    let pieces = AssertUnwindSafe(pieces).catch_unwind().map(|piece| {
        piece.unwrap_or_else(|_| {
            tracing::error!("a stream made the API panic; this is a bug");
            Err(io::Error::other("the answer could not be carried on"))
        })
    });
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_pieces(pieces: Vec<io::Result<Bytes>>) -> Result<Bytes, ApiError> {
        read(&HeaderMap::new(), streamed(futures::stream::iter(pieces))).await
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_read_within_bounds() {
        let pieces = [b"ab".as_slice(), b"cd", b"e"].map(|piece| Ok(Bytes::from_static(piece)));
        assert_eq!(read_pieces(pieces.into()).await.unwrap(), "abcde");
        let large = Bytes::from(vec![b' '; LIMIT / 2 + 1]);
        assert_eq!(read_pieces(vec![Ok(large.clone()), Ok(large)]).await.unwrap_err().code, 413);
        let broken = vec![Ok(Bytes::from_static(b"{")), Err(io::Error::other("reset"))];
        assert_eq!(read_pieces(broken).await.unwrap_err().code, 400);
        let never = streamed(futures::stream::pending());
        assert_eq!(read(&HeaderMap::new(), never).await.unwrap_err().code, 504);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, (LIMIT + 1).into());
        assert_eq!(read(&headers, whole("")).await.unwrap_err().code, 413);
    }
}
