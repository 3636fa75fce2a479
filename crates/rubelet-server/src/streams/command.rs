//! Commands (exec, attach) of a client with WebSocket protocol `v5.channel.k8s.io`, for a runtime that speaks SPDY
//! (upstream `StreamTranslatorHandler`).
//!
//! One task per session, two bounded queues. A side that does not read stops the other's sending, and nothing else: a
//! full standard input holds up neither output nor the answers to pings.

use std::io;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::activity::Activity;
use super::options::CommandStreams;
use super::spdy::{self, Event};
use super::websocket::frame::Event as Frame;
use super::websocket::{self, BLOCK, Message, ReadError, Reader, code};
use super::{LINGER, QUEUE, SIGN_OF_LIFE};
use crate::problem::Problem;

/// The channels of the protocol.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// The channel whose messages say that another one is closed.
const CLOSE: u8 = 255;

/// How long the runtime may take to accept the streams (upstream `createStreamResponseTimeout`).
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest status of a command that is passed on.
const STATUS: usize = 64 << 10;

/// The runtime's side of a command whose streams are open.
pub(crate) struct Session<R> {
    connection: R,
    decoder: spdy::Decoder,
    input: BytesMut,
    /// What came before the last stream was accepted.
    early: Option<Event>,
    ids: Ids,
}

/// The numbers of the streams.
#[derive(Debug, Clone, Copy, Default)]
struct Ids {
    error: u32,
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    resize: Option<u32>,
}

impl<R: AsyncRead + AsyncWrite + Unpin> Session<R> {
    /// Opens the streams of a command.
    ///
    /// # Errors
    /// When the runtime does not accept them.
    pub(crate) async fn open(connection: R, streams: CommandStreams) -> Result<Self, Problem> {
        let mut encoder = spdy::Encoder::default();
        let mut out = BytesMut::new();
        let mut waiting = Vec::new();
        let mut open = |wanted: bool, name: &str| {
            wanted.then(|| {
                let id = 2 * u32::try_from(waiting.len()).unwrap_or_default() + 1;
                encoder.open(id, &[("streamtype", name)], &mut out);
                waiting.push(id);
                id
            })
        };
        let ids = Ids {
            error: open(true, "error").unwrap_or_default(),
            stdin: open(streams.stdin, "stdin"),
            stdout: open(streams.stdout, "stdout"),
            stderr: open(streams.stderr && !streams.tty, "stderr"),
            resize: open(streams.tty, "resize"),
        };
        let mut session =
            Self { input: BytesMut::new(), decoder: spdy::Decoder::default(), early: None, ids, connection };
        let ours = waiting.clone();
        let agree = async {
            session.connection.write_all(&out).await?;
            session.connection.flush().await?;
            while !waiting.is_empty() && session.early.is_none() {
                let event = next(&mut session.connection, &mut session.decoder, &mut session.input).await?;
                match event {
                    Some(Event::Reply { stream, .. }) => waiting.retain(|id| *id != stream),
                    Some(Event::Reset { .. }) => return Err(io::Error::other("it refused a stream")),
                    None | Some(Event::GoAway) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Some(Event::Data { stream, .. }) if !ours.contains(&stream) => {
                        return Err(io::Error::other("it sent data on a stream that is not open"));
                    }
                    data @ Some(Event::Data { .. }) => session.early = data,
                    Some(Event::Ping(_) | Event::Open { .. }) => {}
                }
            }
            Ok(())
        };
        let failed =
            |why: &str| Problem::internal(format!("error opening streams to the container runtime: {why}"));
        match tokio::time::timeout(PATIENCE, agree).await {
            Ok(Ok(())) => Ok(session),
            Ok(Err(error)) => Err(failed(&error.to_string())),
            Err(_) => Err(failed("it did not accept them in time")),
        }
    }
}

/// What is to be sent to the runtime.
#[derive(Debug)]
enum ToRuntime {
    Data(u32, Bytes),
    End(u32),
    Pong(u32),
    Refuse(u32),
}

/// How a session ended.
enum End {
    /// The command is over: its status.
    Finished(Bytes),
    /// The client closed, and gets this code in return.
    Closed(u16),
    /// The client cannot be reached.
    Gone,
}

/// Carries a session to its end.
pub(crate) async fn translate<C, R>(client: C, session: Session<R>, idle: Duration)
where
    C: AsyncRead + AsyncWrite,
    R: AsyncRead + AsyncWrite,
{
    let activity = Activity::new();
    let ids = session.ids;
    let (from_client, client_connection) = tokio::io::split(client);
    let (runtime_connection, to_runtime_connection) = tokio::io::split(session.connection);
    let (to_client, messages) = mpsc::channel(QUEUE);
    let (to_runtime, frames) = mpsc::channel(QUEUE);
    let mut client = Reader::new(from_client, &activity);
    let mut sending = std::pin::pin!(websocket::write(client_connection, messages, &activity));
    let mut feeding = std::pin::pin!(feed(to_runtime_connection, frames));

    // An empty message tells the client that the session has begun.
    let first = [(ids.stdout, STDOUT), (ids.stderr, STDERR)].into_iter().find(|(id, _)| id.is_some());
    let _ =
        to_client.try_send(Message::Binary(Some(first.map_or(ERROR, |(_, channel)| channel)), Bytes::new()));
    let runtime = Runtime {
        connection: runtime_connection,
        decoder: session.decoder,
        input: session.input,
        early: session.early,
        ids,
    };
    let mut fed = false;
    let end = {
        let mut listening = std::pin::pin!(runtime.listen(&to_client, &to_runtime, &activity));
        let mut obeying = std::pin::pin!(obey(&mut client, ids, &to_client, &to_runtime));
        loop {
            // Each is polled until it is done, and dropped only at the session's end.
            tokio::select! {
                biased;
                status = &mut listening => break End::Finished(status),
                _ = &mut sending => break End::Gone,
                code = &mut obeying => break code.map_or(End::Gone, End::Closed),
                // Its error is found again by whoever listens; there may be output still.
                _ = &mut feeding, if !fed => fed = true,
                () = activity.idle(idle) => break End::Closed(code::GOING_AWAY),
            }
        }
    };
    drop(to_runtime);
    let last = match end {
        End::Gone => {
            // The last input still arrives.
            if !fed {
                let _ = tokio::time::timeout(LINGER, feeding).await;
            }
            return;
        }
        End::Finished(status) => vec![Message::Binary(Some(ERROR), status), Message::Close(code::NORMAL)],
        End::Closed(code) => vec![Message::Close(code)],
    };
    websocket::farewell(last, to_client, sending, &mut client).await;
}

struct Runtime<R> {
    connection: R,
    decoder: spdy::Decoder,
    input: BytesMut,
    early: Option<Event>,
    ids: Ids,
}

impl<R: AsyncRead + Unpin> Runtime<R> {
    /// Passes on output until the command is over; gives its status.
    async fn listen(
        mut self,
        to_client: &Sender<Message>,
        to_runtime: &Sender<ToRuntime>,
        activity: &Activity,
    ) -> Bytes {
        let mut status = BytesMut::new();
        let mut open: Vec<u32> =
            [Some(self.ids.error), self.ids.stdout, self.ids.stderr].into_iter().flatten().collect();
        while !open.is_empty() {
            let event = match self.early.take() {
                None => next(&mut self.connection, &mut self.decoder, &mut self.input).await,
                early => Ok(early),
            };
            let ended = match event {
                Ok(None | Some(Event::GoAway)) | Err(_) => break,
                Ok(Some(Event::Data { stream, bytes, fin })) => {
                    activity.seen();
                    let channel = if Some(stream) == self.ids.stdout {
                        Some(STDOUT)
                    } else if Some(stream) == self.ids.stderr {
                        Some(STDERR)
                    } else {
                        None
                    };
                    if stream == self.ids.error {
                        status.extend_from_slice(&bytes[..bytes.len().min(STATUS - status.len())]);
                    } else if let Some(channel) = channel
                        && !bytes.is_empty()
                        && to_client.send(Message::Binary(Some(channel), bytes)).await.is_err()
                    {
                        break;
                    }
                    fin.then_some(stream)
                }
                Ok(Some(Event::Reset { stream } | Event::Reply { stream, fin: true })) => Some(stream),
                Ok(Some(Event::Reply { .. })) => None,
                // Lost when the runtime does not take what it is sent: then it knows that we live.
                Ok(Some(Event::Ping(number))) => {
                    if number % 2 == 0 {
                        let _ = to_runtime.try_send(ToRuntime::Pong(number));
                    }
                    None
                }
                Ok(Some(Event::Open { stream })) => {
                    let _ = to_runtime.try_send(ToRuntime::Refuse(stream));
                    None
                }
            };
            if let Some(ended) = ended {
                open.retain(|stream| *stream != ended);
            }
        }
        if status.is_empty() { lost() } else { status.freeze() }
    }
}

/// The status of a command whose runtime said none.
fn lost() -> Bytes {
    let message =
        "Internal error occurred: the connection to the container runtime ended without the command's status";
    let status = json!({
        "metadata": {}, "status": "Failure", "message": message, "reason": "InternalError",
        "details": {"causes": [{"message": "the connection to the container runtime ended without the command's status"}]},
        "code": 500,
    });
    Bytes::from(status.to_string())
}

/// The runtime's next event; `None` at the end.
async fn next(
    connection: &mut (impl AsyncRead + Unpin),
    decoder: &mut spdy::Decoder,
    input: &mut BytesMut,
) -> io::Result<Option<Event>> {
    loop {
        if let Some(event) = decoder.decode(input).map_err(io::Error::other)? {
            return Ok(Some(event));
        }
        input.reserve(BLOCK);
        if connection.read_buf(input).await? == 0 {
            return Ok(None);
        }
    }
}

/// Sends to the runtime what is to be sent.
async fn feed(mut connection: impl AsyncWrite + Unpin, mut frames: Receiver<ToRuntime>) -> io::Result<()> {
    let mut out = BytesMut::new();
    while let Some(frame) = frames.recv().await {
        match frame {
            ToRuntime::Data(stream, bytes) => spdy::put_data(stream, &bytes, false, &mut out),
            ToRuntime::End(stream) => spdy::put_data(stream, &[], true, &mut out),
            ToRuntime::Pong(number) => spdy::put_ping(number, &mut out),
            ToRuntime::Refuse(stream) => spdy::put_reset(stream, spdy::REFUSED, &mut out),
        }
        connection.write_all(&out).await?;
        connection.flush().await?;
        out.clear();
        if frames.is_empty() {
            out = BytesMut::new();
        }
    }
    Ok(())
}

/// Does what the client says until it says no more; gives the code it is left with, `None` when it is gone.
async fn obey<R: AsyncRead + Unpin>(
    client: &mut Reader<'_, R>,
    mut ids: Ids,
    to_client: &Sender<Message>,
    to_runtime: &Sender<ToRuntime>,
) -> Option<u16> {
    let mut channel = None;
    let mut signal = Vec::new();
    loop {
        let (mut bytes, first, last) = match client.next().await {
            Ok(Some(Frame::Part { bytes, first, last, .. })) => (bytes, first, last),
            Ok(Some(Frame::Ping(bytes))) => {
                // A client that does not read its pongs needs no more of them.
                let _ = to_client.try_send(Message::Pong(bytes));
                continue;
            }
            Ok(Some(Frame::Pong)) => continue,
            Ok(Some(Frame::Close(code))) => return Some(code.unwrap_or(code::NORMAL)),
            Ok(None) | Err(ReadError::Io(_)) => return None,
            Err(ReadError::Frame(error)) => {
                tracing::debug!("a client of a stream broke the protocol: {error}");
                return Some(code::PROTOCOL);
            }
        };
        if first {
            channel = None;
            signal.clear();
        }
        if channel.is_none() && !bytes.is_empty() {
            channel = Some(bytes.get_u8());
        }
        let target = match channel {
            Some(STDIN) => ids.stdin,
            Some(RESIZE) => ids.resize,
            Some(CLOSE) => {
                signal.extend(bytes.iter().take(2));
                if last {
                    let ended = match signal.as_slice() {
                        [STDIN] => ids.stdin.take(),
                        [RESIZE] => ids.resize.take(),
                        [STDOUT..=ERROR] => None,
                        _ => return Some(code::PROTOCOL),
                    };
                    if let Some(stream) = ended {
                        send(to_runtime, ToRuntime::End(stream), to_client).await;
                    }
                }
                None
            }
            _ => None,
        };
        if let Some(stream) = target
            && !bytes.is_empty()
        {
            send(to_runtime, ToRuntime::Data(stream, bytes), to_client).await;
        }
    }
}

/// Sends when there is room. A client that has to wait long is told that this end lives: its pings are not read now.
async fn send(to_runtime: &Sender<ToRuntime>, frame: ToRuntime, to_client: &Sender<Message>) {
    let place = loop {
        match tokio::time::timeout(SIGN_OF_LIFE, to_runtime.reserve()).await {
            Ok(Ok(place)) => break place,
            // The runtime takes nothing more.
            Ok(Err(_)) => return,
            Err(_) => {
                let _ = to_client.try_send(Message::Pong(Bytes::new()));
            }
        }
    };
    place.send(frame);
}

#[cfg(test)]
mod tests;
