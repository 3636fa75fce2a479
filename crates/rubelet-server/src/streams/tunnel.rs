//! SPDY inside a WebSocket (port-forward of kubectl 1.31 and later), for a runtime that speaks SPDY: each binary message
//! is a piece of its bytes (upstream `TunnelingHandler`).

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc::{self, Sender};

use super::activity::Activity;
use super::websocket::frame::{Event, Kind};
use super::websocket::{self, BLOCK, Message, ReadError, Reader, code};
use super::{QUEUE, SIGN_OF_LIFE};

/// Carries bytes until either side is done, or nothing has moved for `idle`.
pub(crate) async fn tunnel<C, R>(client: C, runtime: R, idle: Duration)
where
    C: AsyncRead + AsyncWrite,
    R: AsyncRead + AsyncWrite,
{
    let activity = Activity::new();
    let (from_client, client_connection) = tokio::io::split(client);
    let (from_runtime, to_runtime) = tokio::io::split(runtime);
    let (to_client, messages) = mpsc::channel(QUEUE);
    let mut client = Reader::new(from_client, &activity);
    let mut sending = std::pin::pin!(websocket::write(client_connection, messages, &activity));
    // Whichever ends first ends the session; the others are dropped.
    let code = tokio::select! {
        biased;
        () = wrap(from_runtime, &to_client) => Some(code::NORMAL),
        _ = &mut sending => None,
        code = unwrap(&mut client, to_runtime, &to_client) => code,
        () = activity.idle(idle) => Some(code::GOING_AWAY),
    };
    if let Some(code) = code {
        websocket::farewell(vec![Message::Close(code)], to_client, sending, &mut client).await;
    }
}

async fn wrap(mut runtime: impl AsyncRead + Unpin, to_client: &Sender<Message>) {
    let mut input = BytesMut::new();
    loop {
        input.reserve(BLOCK);
        match runtime.read_buf(&mut input).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if to_client.send(Message::Binary(None, input.split().freeze())).await.is_err() {
            return;
        }
    }
}

/// Gives the code the client is left with, `None` when it is gone.
async fn unwrap<R: AsyncRead + Unpin>(
    client: &mut Reader<'_, R>,
    mut runtime: impl AsyncWrite + Unpin,
    to_client: &Sender<Message>,
) -> Option<u16> {
    loop {
        match client.next().await {
            Ok(Some(Event::Part { kind: Kind::Text, .. })) => return Some(code::UNSUPPORTED),
            Ok(Some(Event::Part { bytes, .. })) => {
                if write(&mut runtime, &bytes, to_client).await.is_err() {
                    return Some(code::NORMAL);
                }
            }
            Ok(Some(Event::Ping(bytes))) => {
                let _ = to_client.try_send(Message::Pong(bytes));
            }
            Ok(Some(Event::Pong)) => {}
            Ok(Some(Event::Close(code))) => return Some(code.unwrap_or(code::NORMAL)),
            Ok(None) | Err(ReadError::Io(_)) => return None,
            Err(ReadError::Frame(_)) => return Some(code::PROTOCOL),
        }
    }
}

/// Writes, and tells a client that has to wait long that this end lives: its pings are not read now.
async fn write(
    runtime: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    to_client: &Sender<Message>,
) -> io::Result<()> {
    let mut writing = std::pin::pin!(async {
        runtime.write_all(bytes).await?;
        runtime.flush().await
    });
    loop {
        match tokio::time::timeout(SIGN_OF_LIFE, &mut writing).await {
            Ok(written) => return written,
            Err(_) => {
                let _ = to_client.try_send(Message::Pong(Bytes::new()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::websocket::frame::tests::client_frame;
    use tokio::io::duplex;

    const DAY: Duration = Duration::from_secs(86_400);

    #[tokio::test(start_paused = true)]
    async fn bytes_are_the_same_on_both_sides() {
        let (mut client, client_side) = duplex(1000);
        let (mut runtime, runtime_side) = duplex(1000);
        let session = tokio::spawn(tunnel(client_side, runtime_side, DAY));
        let frames =
            [client_frame(0x02, b"ab"), client_frame(0x89, b"p"), client_frame(0x80, b"cd")].concat();
        client.write_all(&frames).await.unwrap();
        let mut read = [0; 4];
        runtime.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abcd");
        runtime.write_all(b"answer").await.unwrap();
        let mut read = [0; 11];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"\x8a\x01p\x82\x06answer");
        drop(runtime);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [0x88, 2, 3, 0xe8]);
        drop(client);
        session.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_closes_ends_it() {
        for (sent, answer) in [
            (client_frame(0x88, &[3, 0xe8]), &[0x88, 2, 3, 0xe8][..]),
            (client_frame(0x81, b"text"), &[0x88, 2, 3, 0xeb]),
            (vec![0x82, 1, 2], &[0x88, 2, 3, 0xea]),
        ] {
            let (mut client, client_side) = duplex(1000);
            let (mut runtime, runtime_side) = duplex(1000);
            let session = tokio::spawn(tunnel(client_side, runtime_side, DAY));
            client.write_all(&sent).await.unwrap();
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, answer);
            drop(client);
            session.await.unwrap();
            assert_eq!(runtime.read(&mut [0; 1]).await.unwrap(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_takes_nothing_is_no_dead_peer() {
        let (mut client, client_side) = duplex(100_000);
        let (_runtime, runtime_side) = duplex(1);
        tokio::spawn(tunnel(client_side, runtime_side, DAY));
        client.write_all(&client_frame(0x82, b"more than fits")).await.unwrap();
        let mut read = [0; 4];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(read, [0x8a, 0, 0x8a, 0]);
    }
}
