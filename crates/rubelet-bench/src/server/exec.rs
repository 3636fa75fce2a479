//! Commands in a container, there and back: through the kubelet API, over the runtime's own streaming server, and by
//! the runtime's call without streams.
//!
//! Owns the sessions: a new connection, the upgrade, and as much of both protocols as a client needs that sends
//! nothing. A session ends when the client knows the exit status. Called by the plan of this part.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Buf as _, BufMut as _, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use rubelet_cri::{CriClient, RuntimeService, v1};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::client::Door;
use crate::procfs::{self, Memory};

/// How long one session may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Sessions at a time when many are counted.
const AT_ONCE: usize = 4;
/// The nonce of RFC 6455; the answer to it is not checked, any will do.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// What is spoken after the upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speech {
    /// WebSocket with `v4.channel.k8s.io`, which runtimes speak too.
    Socket4,
    /// WebSocket with `v5.channel.k8s.io`, which kubectl speaks.
    Socket5,
    /// SPDY/3.1, which older clients and API servers speak.
    Spdy,
}

/// Round trips of one command, seconds each, taken in turn.
#[derive(Debug, Default)]
pub(super) struct Execs {
    /// The call ExecSync over a warm connection.
    pub(super) sync: Vec<f64>,
    /// The call Exec over a warm connection, then the runtime's streaming server.
    pub(super) raw_socket: Vec<f64>,
    pub(super) raw_spdy: Vec<f64>,
    /// The kubelet API, TLS with a client's certificate each time.
    pub(super) socket4: Vec<f64>,
    pub(super) socket5: Vec<f64>,
    pub(super) spdy: Vec<f64>,
    /// CPU time of the agent for each of its sessions, seconds.
    pub(super) cpu: f64,
}

/// What many sessions leave behind.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) count: usize,
    pub(super) seconds: f64,
    /// Before the first; after a tenth of them, which is not counted; after all; and some time later.
    pub(super) before: Memory,
    pub(super) warm: Memory,
    pub(super) after: Memory,
    pub(super) later: Memory,
    /// Descriptors before and later.
    pub(super) files: (usize, usize),
}

/// The container that commands run in.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Its pod, as the API calls it.
    pub(super) pod: String,
    /// Its ID in the runtime.
    pub(super) id: String,
}

/// Runs a command so many times in each way.
pub(super) async fn round_trips(
    door: &Door,
    pid: u32,
    client: &CriClient,
    place: &Place,
    runs: usize,
) -> Result<Execs> {
    let mut execs = Execs::default();
    // Once without counting.
    for run in 0..=runs {
        let sync = timed(sync(client, place)).await?;
        let raw_socket = timed(raw(client, place, Speech::Socket4)).await?;
        let raw_spdy = timed(raw(client, place, Speech::Spdy)).await?;
        let cpu = procfs::cpu_seconds(pid)?;
        let socket4 = timed(through(door, place, Speech::Socket4)).await?;
        let socket5 = timed(through(door, place, Speech::Socket5)).await?;
        let spdy = timed(through(door, place, Speech::Spdy)).await?;
        if run > 0 {
            execs.cpu += (procfs::cpu_seconds(pid)? - cpu) / (3 * runs) as f64;
            execs.sync.push(sync);
            execs.raw_socket.push(raw_socket);
            execs.raw_spdy.push(raw_spdy);
            execs.socket4.push(socket4);
            execs.socket5.push(socket5);
            execs.spdy.push(spdy);
        }
    }
    Ok(execs)
}

/// Runs a command so many times through the API, in every way in turn, and sees what stays.
pub(super) async fn sessions(door: &Door, pid: u32, place: &Place, count: usize) -> Result<Sessions> {
    let (before, files) = (procfs::memory(pid)?, procfs::open_files(pid)?);
    let many = async |count: usize| {
        futures::stream::iter(0..count)
            .map(|number| {
                let speech = [Speech::Socket5, Speech::Spdy, Speech::Socket4][number % 3];
                through(door, place, speech)
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await
    };
    many((count / 10).max(AT_ONCE)).await?;
    let warm = procfs::memory(pid)?;
    let began = Instant::now();
    many(count).await?;
    let seconds = began.elapsed().as_secs_f64();
    let after = procfs::memory(pid)?;
    // Longer than the agent waits for clients that do not go, and than it keeps threads and memory that it may give back.
    tokio::time::sleep(Duration::from_secs(40)).await;
    let later = procfs::memory(pid)?;
    Ok(Sessions { count, seconds, before, warm, after, later, files: (files, procfs::open_files(pid)?) })
}

async fn timed(session: impl Future<Output = Result<()>>) -> Result<f64> {
    let began = Instant::now();
    timeout(LIMIT, session).await.context("a command takes too long")??;
    Ok(began.elapsed().as_secs_f64())
}

fn command() -> Vec<String> {
    vec!["true".to_owned()]
}

async fn sync(client: &CriClient, place: &Place) -> Result<()> {
    let request = v1::ExecSyncRequest { container_id: place.id.clone(), cmd: command(), timeout: 10 };
    match client.exec_sync(request).await?.exit_code {
        0 => Ok(()),
        code => bail!("ExecSync: the command ended with {code}"),
    }
}

async fn raw(client: &CriClient, place: &Place, speech: Speech) -> Result<()> {
    let request = v1::ExecRequest {
        container_id: place.id.clone(),
        cmd: command(),
        stdout: true,
        stderr: true,
        ..v1::ExecRequest::default()
    };
    let url = client.exec(request).await?.url;
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not understood"))?;
    let (host, path) = rest.split_once('/').context("the URL has no path")?;
    let stream = TcpStream::connect(host).await.context("the runtime's streaming server")?;
    stream.set_nodelay(true)?;
    session(stream, host, &format!("/{path}"), speech).await
}

async fn through(door: &Door, place: &Place, speech: Speech) -> Result<()> {
    let path = format!("/exec/default/{}/main?command=true&output=1&error=1", place.pod);
    let stream = door.bytes().await?;
    session(stream, &door.address.to_string(), &path, speech).await
}

/// One session on a fresh connection, until the exit status is there and says that all was well.
async fn session<S>(mut stream: S, host: &str, path: &str, speech: Speech) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Upstream's servers have SPDY asked for with POST and WebSockets with GET.
    let (method, asked) = match speech {
        Speech::Spdy => {
            ("POST", "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n".to_owned())
        }
        Speech::Socket4 | Speech::Socket5 => {
            let version = if speech == Speech::Socket4 { 4 } else { 5 };
            let words = format!(
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\
                 Sec-WebSocket-Protocol: v{version}.channel.k8s.io\r\n"
            );
            ("GET", words)
        }
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n{asked}\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let mut input = BytesMut::with_capacity(4096);
    let end = loop {
        if let Some(end) = input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        more(&mut stream, &mut input).await?;
    };
    let head = input.split_to(end);
    if !head.starts_with(b"HTTP/1.1 101 ") {
        more(&mut stream, &mut input).await.unwrap_or_default();
        bail!("{path}: {}{}", String::from_utf8_lossy(&head), String::from_utf8_lossy(&input));
    }
    let status = match speech {
        Speech::Spdy => spdy(&mut stream, &mut input).await?,
        Speech::Socket4 | Speech::Socket5 => socket(&mut stream, &mut input).await?,
    };
    if !status.windows(9).any(|bytes| bytes == b"\"Success\"") {
        bail!("{path}: the command's status is {}", String::from_utf8_lossy(&status));
    }
    // How the connection ends is the other side's business.
    let _closed = stream.shutdown().await;
    Ok(())
}

async fn more(stream: &mut (impl AsyncRead + Unpin), input: &mut BytesMut) -> Result<()> {
    match stream.read_buf(input).await? {
        0 => bail!("the connection ends too early, with {:?}", String::from_utf8_lossy(input)),
        _ => Ok(()),
    }
}

/// Reads messages up to that of the error channel.
async fn socket<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, input: &mut BytesMut) -> Result<Vec<u8>> {
    loop {
        let Some((kind, payload)) = socket_frame(input) else {
            more(stream, input).await?;
            continue;
        };
        match (kind, payload.first()) {
            (1 | 2, Some(3)) if payload.len() > 1 => {
                // Closed with 1000, with a mask of zeros.
                stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, 3, 232]).await?;
                return Ok(payload[1..].to_vec());
            }
            (8, _) => bail!("closed without a status: {payload:?}"),
            _ => {}
        }
    }
}

/// The first whole frame of a server: its kind and what is in it.
fn socket_frame(input: &mut BytesMut) -> Option<(u8, BytesMut)> {
    let (kind, short) = (input.first()? & 15, input.get(1)? & 127);
    let (head, length) = match short {
        126 => (4, usize::from(u16::from_be_bytes([*input.get(2)?, *input.get(3)?]))),
        127 => (10, usize::try_from(u64::from_be_bytes(input.get(2..10)?.try_into().ok()?)).ok()?),
        short => (2, usize::from(short)),
    };
    if input.len() < head + length {
        return None;
    }
    input.advance(head);
    Some((kind, input.split_to(length)))
}

/// Opens the streams for error, output and error output, and reads up to the end of the first.
async fn spdy<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, input: &mut BytesMut) -> Result<Vec<u8>> {
    let mut output = BytesMut::new();
    for (number, kind) in [(1, "error"), (3, "stdout"), (5, "stderr")] {
        spdy_open(number, kind, &mut output);
    }
    stream.write_all(&output).await?;
    stream.flush().await?;
    let mut status = vec![];
    loop {
        let Some((head, payload)) = spdy_frame(input) else {
            more(stream, input).await?;
            continue;
        };
        let is_data = head[0] & 0x80 == 0;
        if is_data && head[3] == 1 {
            status.extend_from_slice(&payload);
        }
        // Servers end the stream, or reset it with all others when they have said everything.
        let ended = is_data && head[3] == 1 && head[4] & 1 != 0;
        let reset = !is_data && (head[3] == 7 || (head[3] == 3 && payload.starts_with(&[0, 0, 0, 1])));
        match (ended || reset, status.is_empty()) {
            (true, false) => return Ok(status),
            (true, true) => bail!("ended without a status: {head:?} {payload:?}"),
            (false, _) => {}
        }
    }
}

/// A stream's beginning; its headers are stored uncompressed, which any inflater reads.
fn spdy_open(stream: u32, kind: &str, output: &mut BytesMut) {
    let mut headers = BytesMut::new();
    headers.put_u32(1);
    for text in ["streamtype", kind] {
        headers.put_u32(text.len() as u32);
        headers.put_slice(text.as_bytes());
    }
    let mut stored = BytesMut::new();
    if stream == 1 {
        stored.put_slice(&[0x78, 0x01]);
    }
    for part in [&headers[..], &[]] {
        stored.put_u8(0);
        stored.put_u16_le(part.len() as u16);
        stored.put_u16_le(!(part.len() as u16));
        stored.put_slice(part);
    }
    output.put_slice(&[0x80, 3, 0, 1]);
    output.put_u32(stored.len() as u32 + 10);
    output.put_u32(stream);
    output.put_u32(0);
    output.put_u16(0);
    output.put_slice(&stored);
}

/// The first whole frame: its head and what is in it.
fn spdy_frame(input: &mut BytesMut) -> Option<([u8; 8], BytesMut)> {
    let head: [u8; 8] = *input.first_chunk()?;
    let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
    if input.len() < 8 + length {
        return None;
    }
    input.advance(8);
    Some((head, input.split_to(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_session_ends_with_its_status() {
        let (client, mut server) = tokio::io::duplex(4096);
        let served = tokio::spawn(async move {
            let mut asked = [0; 1024];
            let length = server.read(&mut asked).await.unwrap();
            server.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x82\x01\x01\x82").await.unwrap();
            server.write_all(b"\x03\x01hi\x82\x15\x03{\"status\":\"Success\"}").await.unwrap();
            let mut close = vec![];
            server.read_to_end(&mut close).await.unwrap();
            (String::from_utf8_lossy(&asked[..length]).into_owned(), close)
        });
        session(client, "h", "/exec", Speech::Socket5).await.unwrap();
        let (asked, close) = served.await.unwrap();
        assert!(
            asked.contains("v5.channel.k8s.io") && asked.starts_with("GET /exec HTTP/1.1\r\n"),
            "{asked}"
        );
        assert_eq!(close.first(), Some(&0x88));
    }

    #[tokio::test]
    async fn a_spdy_session_ends_with_its_status_and_a_failure_is_one() {
        let talk = |status: &'static [u8], end: &'static [u8]| async move {
            let (client, mut server) = tokio::io::duplex(4096);
            tokio::spawn(async move {
                let mut asked = [0; 1024];
                let _length = server.read(&mut asked).await.unwrap();
                server.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.unwrap();
                // A reply, the end of output, the status and its end.
                server.write_all(&[0x80, 3, 0, 2, 0, 0, 0, 4, 0, 0, 0, 1]).await.unwrap();
                server.write_all(&[0, 0, 0, 3, 1, 0, 0, 0]).await.unwrap();
                server.write_all(&[0, 0, 0, 1, 0, 0, 0, status.len() as u8]).await.unwrap();
                server.write_all(status).await.unwrap();
                server.write_all(end).await.unwrap();
                let _rest = server.read_to_end(&mut vec![]).await;
            });
            session(client, "h", "/exec", Speech::Spdy).await
        };
        let (success, failure) = (b"{\"status\":\"Success\"}", b"{\"status\":\"Failure\"}");
        let (end, reset) = (&[0, 0, 0, 1, 1, 0, 0, 0], &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5]);
        talk(success, end).await.unwrap();
        talk(success, reset).await.unwrap();
        assert!(talk(failure, end).await.is_err() && talk(b"", reset).await.is_err());
    }

    #[test]
    fn a_stream_begins_with_headers_that_are_stored() {
        let mut output = BytesMut::new();
        spdy_open(3, "stdout", &mut output);
        let (head, payload) = spdy_frame(&mut output).unwrap();
        assert_eq!((&head[..4], output.len()), (&[0x80, 3, 0, 1][..], 0));
        // Stream, priority, one stored block with one header, and an empty one.
        assert_eq!(payload[..4], [0, 0, 0, 3]);
        assert_eq!(payload[10..15], [0, 28, 0, 227, 255]);
        assert!(payload.ends_with(&[0, 0, 0, 255, 255]));
    }
}
