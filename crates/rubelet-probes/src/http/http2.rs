//! One request over HTTP/2, which a server with TLS may prefer: upstream's probes offer it.
//!
//! The connection is driven by whoever waits for the answer, without a task of its own, so that it ends with the
//! request; windows are small, since no more than the start of a body is read.

use std::pin::Pin;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Connection, ResponseFuture, SendRequest};

use super::body::BodyError;
use super::request::Request;
use super::stream::Stream;

/// How much of a body a server may send ahead.
const WINDOW: u32 = 16 * 1024;
/// The longest list of headers that is taken.
const HEADERS: u32 = 64 * 1024;
/// Headers that speak of a connection, which HTTP/2 has none of.
const OF_CONNECTIONS: [&str; 5] = ["Connection", "Proxy-Connection", "Keep-Alive", "Upgrade", "Te"];

/// An answer whose body has not been read.
pub(super) struct Answer {
    connection: Connection<Stream, Bytes>,
    // Without a handle to send with, the connection would end before the body.
    _sender: SendRequest<Bytes>,
    body: RecvStream,
    pub status: u16,
    pub location: String,
}

/// Sends a request and waits for the head of the answer.
///
/// # Errors
/// What went wrong, in words.
pub(super) async fn send(request: &Request, stream: Stream) -> Result<Answer, String> {
    let message = message(request)?;
    let (sender, mut connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 4)
        .max_header_list_size(HEADERS)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(|error| text(&error))?;
    let exchange = async {
        // Ready when the server's limit of streams is known to allow one.
        let mut ready = sender.clone().ready().await?;
        let (answer, _): (ResponseFuture, _) = ready.send_request(message, true)?;
        answer.await
    };
    let answer = drive(&mut connection, exchange).await?.map_err(|error| text(&error))?;
    let location = answer.headers().get(http::header::LOCATION);
    let location = location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Ok(Answer {
        status: answer.status().as_u16(),
        location: location.unwrap_or_default(),
        body: answer.into_body(),
        connection,
        _sender: sender,
    })
}

/// Reads a body up to `limit` bytes; adds it to `kept`, if that is wanted.
pub(super) async fn read_body(
    answer: &mut Answer,
    limit: usize,
    mut kept: Option<&mut Vec<u8>>,
) -> Result<(), BodyError> {
    let body = &mut answer.body;
    let reading = async {
        let mut left = limit;
        while left > 0 {
            let Some(data) = body.data().await else { break };
            let data = data?;
            let taken = data.len().min(left);
            left -= taken;
            if let Some(kept) = &mut kept {
                kept.extend_from_slice(&data[..taken]);
            }
            body.flow_control().release_capacity(data.len())?;
        }
        Ok::<(), h2::Error>(())
    };
    match drive(&mut answer.connection, reading).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(BodyError::Malformed(text(&error))),
        Err(problem) => Err(BodyError::Malformed(problem)),
    }
}

/// Waits for `work` while the connection does what it takes.
async fn drive<F: Future>(connection: &mut Connection<Stream, Bytes>, work: F) -> Result<F::Output, String> {
    let mut work = std::pin::pin!(work);
    let mut ended = None;
    std::future::poll_fn(|cx| {
        if ended.is_none()
            && let std::task::Poll::Ready(end) = Pin::new(&mut *connection).poll(cx)
        {
            ended = Some(end);
        }
        // What had come before the end counts; afterwards nothing more can.
        match (work.as_mut().poll(cx), &ended) {
            (std::task::Poll::Ready(output), _) => std::task::Poll::Ready(Ok(output)),
            (_, Some(Err(error))) => std::task::Poll::Ready(Err(text(error))),
            (_, Some(Ok(()))) => std::task::Poll::Ready(Err("unexpected EOF".into())),
            _ => std::task::Poll::Pending,
        }
    })
    .await
}

fn message(request: &Request) -> Result<http::Request<()>, String> {
    let url = &request.url;
    let host = request.host_header();
    let uri = http::Uri::builder()
        .scheme(url.scheme.as_str())
        .authority(if host.is_empty() { url.host.as_str() } else { host.as_str() })
        .path_and_query(url.request_target())
        .build()
        .map_err(|error| format!("http2: invalid request: {error}"))?;
    let mut message = http::Request::get(uri).version(http::Version::HTTP_2);
    for (name, value) in request.headers() {
        if !OF_CONNECTIONS.contains(&name) {
            message = message.header(name, value);
        }
    }
    message.body(()).map_err(|error| format!("http2: invalid request: {error}"))
}

fn text(error: &h2::Error) -> String {
    match error.get_io() {
        Some(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => "unexpected EOF".into(),
        Some(io) => crate::dial::os_text(io),
        None => format!("http2: {error}"),
    }
}
