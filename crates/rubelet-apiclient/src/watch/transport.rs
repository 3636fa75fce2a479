//! GET requests through `kube::Client` for lists and watches: a page as bytes, a watch as lines. Bounded in size and
//! time. Never decodes objects.

use std::error::Error;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Response, header};
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::{Instant, timeout_at};

use super::failure::Failure;

/// Etcd takes objects of about 1.5 MiB; escapes can make them several times longer on the wire.
const MAX_LINE_BYTES: usize = 16 << 20;
/// A list from the server's cache comes in one page, whatever the limit says.
const MAX_PAGE_BYTES: usize = 512 << 20;
/// Of an error's body, so much is looked at.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// A path with a query, percent-encoded.
pub(super) struct Query {
    text: String,
    separator: char,
}

impl Query {
    pub(super) fn new(path: String) -> Self {
        Self { text: path, separator: '?' }
    }

    pub(super) fn push(&mut self, name: &str, value: &str) {
        self.text.push(std::mem::replace(&mut self.separator, '&'));
        self.text.push_str(name);
        self.text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                self.text.push(char::from(byte));
            } else {
                self.text.push_str(&format!("%{byte:02X}"));
            }
        }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// An error with its sources, as one line. Sources that their parent repeats are left out.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    // kube's name for the layer below it tells a person nothing.
    let own = |error: &(dyn Error + 'static)| {
        let text = error.to_string();
        text.strip_prefix("ServiceError: ").map(str::to_owned).unwrap_or(text)
    };
    let mut text = own(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = own(cause);
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// One page of a list, whole, within the deadline.
pub(super) async fn get_page(
    client: &kube::Client,
    uri: &str,
    deadline: Duration,
) -> Result<Vec<u8>, Failure> {
    let page = async {
        let response = send(client, uri).await?;
        let mut body = response.into_body();
        let mut page = Vec::new();
        while let Some(data) = next_data(&mut body).await.map_err(Failure::unreachable)? {
            if page.len() + data.len() > MAX_PAGE_BYTES {
                return Err(Failure::garbled(format_args!("a page of more than {MAX_PAGE_BYTES} bytes")));
            }
            page.extend_from_slice(&data);
        }
        Ok(page)
    };
    match timeout_at(Instant::now() + deadline, page).await {
        Ok(result) => result,
        Err(_) => Err(Failure::stalled("the list was not complete", deadline)),
    }
}

/// Opens a watch: its lines come as the server sends them. The deadline is for the answer's head.
pub(super) async fn open_stream(
    client: &kube::Client,
    uri: &str,
    deadline: Duration,
) -> Result<Lines, Failure> {
    match timeout_at(Instant::now() + deadline, send(client, uri)).await {
        Ok(response) => Ok(Lines::new(response?.into_body())),
        Err(_) => Err(Failure::stalled("the watch was not answered", deadline)),
    }
}

async fn send(client: &kube::Client, uri: &str) -> Result<Response<Body>, Failure> {
    let request = http::Request::get(uri)
        .header(header::ACCEPT, "application/json")
        .body(Body::empty())
        .map_err(|error| Failure::garbled(format_args!("{uri} is no address: {error}")))?;
    let response = client.send(request).await.map_err(|error| Failure::unreachable(chain(&error)))?;
    if response.status().is_success() {
        return Ok(response);
    }
    let code = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let mut body = response.into_body();
    let mut text = Vec::new();
    // The status line has said enough: a body that breaks off is used as far as it came.
    while let Ok(Some(data)) = next_data(&mut body).await {
        text.extend_from_slice(&data);
        if text.len() > MAX_ERROR_BYTES {
            break;
        }
    }
    Err(Failure::from_answer(code, retry_after, &text))
}

/// The bodies that can be read here.
pub(super) trait AnyBody: hyper::body::Body<Data = Bytes, Error: Error + 'static> + Unpin {}
impl<B: hyper::body::Body<Data = Bytes, Error: Error + 'static> + Unpin> AnyBody for B {}

async fn next_data(body: &mut impl AnyBody) -> Result<Option<Bytes>, String> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(error)) => return Err(chain(&error)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Why no further line came.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    /// The connection broke, or ended within a line.
    #[error("the stream broke: {0}")]
    Broken(String),
    /// No line end for too many bytes.
    #[error("a line of more than {0} bytes")]
    TooLong(usize),
}

/// Reads a body line by line. At rest it holds no buffer.
pub(super) struct Lines<B = Body> {
    body: B,
    buffer: BytesMut,
    /// So much of the buffer is known to hold no line end.
    scanned: usize,
    limit: usize,
}

impl<B: AnyBody> Lines<B> {
    fn new(body: B) -> Self {
        Self { body, buffer: BytesMut::new(), scanned: 0, limit: MAX_LINE_BYTES }
    }

    /// The next line that is not empty, without its end; `None` after the last one. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<BytesMut>, LineError> {
        loop {
            let end = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let mut line = self.buffer.split_to(self.scanned + end + 1);
                self.scanned = 0;
                line.truncate(line.trim_ascii_end().len());
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            self.scanned = self.buffer.len();
            if self.scanned > self.limit {
                return Err(LineError::TooLong(self.limit));
            }
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
            }
            match next_data(&mut self.body).await {
                Ok(Some(data)) => self.buffer.extend_from_slice(&data),
                Ok(None) if self.buffer.trim_ascii().is_empty() => return Ok(None),
                Ok(None) => return Err(LineError::Broken("it ended in the middle of an event".to_owned())),
                Err(message) => return Err(LineError::Broken(message)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    async fn check(chunks: &[&str], expected: &str) {
        let frames: Vec<Result<_, std::io::Error>> = chunks
            .iter()
            .map(|chunk| match *chunk {
                "RESET" => Err(std::io::Error::other("connection reset")),
                chunk => Ok(Frame::data(Bytes::copy_from_slice(chunk.as_bytes()))),
            })
            .collect();
        let mut lines = Lines::new(StreamBody::new(futures::stream::iter(frames)));
        lines.limit = 8;
        let mut seen = Vec::new();
        loop {
            match lines.next().await {
                Ok(Some(line)) => seen.push(String::from_utf8_lossy(&line).into_owned()),
                Ok(None) => break,
                Err(error) => {
                    seen.push(format!("! {error}"));
                    break;
                }
            }
        }
        assert_eq!(seen.join("|"), expected, "{chunks:?}");
    }

    #[tokio::test]
    async fn lines_are_cut_where_they_end_however_they_arrive() {
        check(&[], "").await;
        check(&["one\ntwo\n"], "one|two").await;
        check(&["o", "ne", "\r\n", "\n\n", "two\n"], "one|two").await;
        check(&["one\n", "half"], "one|! the stream broke: it ended in the middle of an event").await;
        check(&["one\n", "RESET"], "one|! the stream broke: connection reset").await;
        check(&["12345678\n"], "12345678").await;
        check(&["1234", "56789"], "! a line of more than 8 bytes").await;
    }

    #[test]
    fn a_query_is_percent_encoded() {
        let mut query = Query::new("/api/v1/pods".to_owned());
        query.push("fieldSelector", "spec.nodeName=a b/ü");
        query.push("limit", "500");
        assert_eq!(query.finish(), "/api/v1/pods?fieldSelector=spec.nodeName%3Da%20b%2F%C3%BC&limit=500");
    }
}
