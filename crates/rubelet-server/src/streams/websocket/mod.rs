//! The server's side of a WebSocket: the opening handshake, and reading and writing frames over a connection.

pub(crate) mod frame;

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, header};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::activity::Activity;
use super::{LAST_WORDS, LINGER};
use frame::{Decoder, Event, FrameError};

/// How much is read at once.
pub(crate) const BLOCK: usize = 16 << 10;

/// Reasons of a close frame.
pub(crate) mod code {
    pub(crate) const NORMAL: u16 = 1000;
    pub(crate) const GOING_AWAY: u16 = 1001;
    pub(crate) const PROTOCOL: u16 = 1002;
    pub(crate) const UNSUPPORTED: u16 = 1003;
}

/// The value of `Sec-WebSocket-Accept` for a request that opens a WebSocket.
///
/// # Errors
/// A text, when the request does not.
pub(crate) fn accept(method: &Method, headers: &HeaderMap) -> Result<String, &'static str> {
    if method != Method::GET {
        return Err("a WebSocket is opened with GET");
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err("unsupported WebSocket version: Sec-WebSocket-Version has to be 13");
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
    if STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16) {
        Ok(accept_key(key))
    } else {
        Err("missing or bad Sec-WebSocket-Key")
    }
}

fn accept_key(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Why reading a WebSocket ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("the client broke the WebSocket protocol")]
    Frame(#[from] FrameError),
}

/// Reads a client's frames.
pub(crate) struct Reader<'a, R> {
    connection: R,
    decoder: Decoder,
    input: BytesMut,
    activity: &'a Activity,
}

impl<'a, R: AsyncRead + Unpin> Reader<'a, R> {
    pub(crate) fn new(connection: R, activity: &'a Activity) -> Self {
        Self { connection, decoder: Decoder::default(), input: BytesMut::new(), activity }
    }

    /// The next event; `None` when the client is gone. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, ReadError> {
        loop {
            if let Some(event) = self.decoder.decode(&mut self.input)? {
                if matches!(event, Event::Part { .. }) {
                    self.activity.seen();
                }
                return Ok(Some(event));
            }
            self.input.reserve(BLOCK);
            if self.connection.read_buf(&mut self.input).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads and forgets what still comes, until the client is gone: closing a connection with unread bytes in it would
    /// cut off what the client has not read yet.
    pub(crate) async fn drain(&mut self) {
        self.input.clear();
        while let Ok(1..) = self.connection.read_buf(&mut self.input).await {
            self.input.clear();
        }
    }
}

/// What is to be sent to a client.
#[derive(Debug)]
pub(crate) enum Message {
    /// A binary message; the channel is its first byte.
    Binary(Option<u8>, Bytes),
    /// The answer to a ping.
    Pong(Bytes),
    /// The last message.
    Close(u16),
}

/// Sends what comes, until a close message was sent or nobody is left to send more. Then the connection's writing side
/// is shut.
///
/// # Errors
/// When the client cannot be reached any more.
pub(crate) async fn write(
    mut connection: impl AsyncWrite + Unpin,
    mut messages: mpsc::Receiver<Message>,
    activity: &Activity,
) -> io::Result<()> {
    let mut out = BytesMut::new();
    while let Some(message) = messages.recv().await {
        let mut closed = false;
        match message {
            Message::Binary(channel, bytes) => frame::put_binary(channel, &bytes, &mut out),
            Message::Pong(bytes) => frame::put_pong(&bytes, &mut out),
            Message::Close(code) => {
                frame::put_close(code, &mut out);
                closed = true;
            }
        }
        connection.write_all(&out).await?;
        connection.flush().await?;
        activity.seen();
        out.clear();
        if closed {
            break;
        }
        if messages.is_empty() {
            // Who waits keeps no buffer.
            out = BytesMut::new();
        }
    }
    connection.shutdown().await
}

/// Says the last words to a client (a close message at their end), and waits a little for it to go.
pub(crate) async fn farewell<R: AsyncRead + Unpin>(
    words: Vec<Message>,
    to_client: mpsc::Sender<Message>,
    sending: impl Future<Output = io::Result<()>>,
    client: &mut Reader<'_, R>,
) {
    let saying = async {
        for word in words {
            if to_client.send(word).await.is_err() {
                break;
            }
        }
    };
    let said = tokio::time::timeout(LAST_WORDS, async { tokio::join!(saying, sending).1 }).await;
    if matches!(said, Ok(Ok(()))) {
        let _ = tokio::time::timeout(LINGER, client.drain()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_an_opening_as_the_rfc_has_it() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut headers = HeaderMap::new();
        assert!(accept(&Method::GET, &headers).is_err());
        headers.insert(header::SEC_WEBSOCKET_VERSION, "13".parse().unwrap());
        assert_eq!(accept(&Method::GET, &headers), Err("missing or bad Sec-WebSocket-Key"));
        headers.insert(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        assert!(accept(&Method::GET, &headers).is_ok());
        assert!(accept(&Method::POST, &headers).is_err());
    }
}
