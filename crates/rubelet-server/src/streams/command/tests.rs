//! Sessions between a client's WebSocket frames and a scripted runtime, over pipes.

use std::collections::BTreeMap;

use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::streams::spdy::tests::{Received, ServerDecoder, put_go_away, put_reply};
use crate::streams::websocket::frame::tests::client_frame;

const DAY: Duration = Duration::from_secs(86_400);
const ALL: CommandStreams = CommandStreams { stdin: true, stdout: true, stderr: true, tty: false };
const SUCCESS: &[u8] = br#"{"metadata":{},"status":"Success"}"#;

/// A runtime that does what the test says.
struct Server {
    connection: DuplexStream,
    decoder: ServerDecoder,
    input: BytesMut,
    ids: BTreeMap<String, u32>,
}

impl Server {
    async fn receive(&mut self) -> Option<Received> {
        loop {
            if let Some(received) = self.decoder.decode(&mut self.input) {
                return Some(received);
            }
            if self.connection.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }
    async fn accept(connection: DuplexStream, streams: usize) -> Self {
        let mut server =
            Self { connection, decoder: ServerDecoder::new(), input: BytesMut::new(), ids: BTreeMap::new() };
        for _ in 0..streams {
            let Some(Received::Open(id, headers)) = server.receive().await else { panic!("no stream") };
            server.ids.insert(headers["streamtype"].clone(), id);
            let mut out = BytesMut::new();
            put_reply(id, &mut out);
            server.connection.write_all(&out).await.unwrap();
        }
        server
    }
    async fn send(&mut self, name: &str, bytes: &[u8], fin: bool) {
        let mut out = BytesMut::new();
        spdy::put_data(self.ids[name], bytes, fin, &mut out);
        self.connection.write_all(&out).await.unwrap();
    }
    async fn data(&mut self) -> (String, Vec<u8>, bool) {
        let Some(Received::Other(Event::Data { stream, bytes, fin })) = self.receive().await else {
            panic!("no data")
        };
        let name = self.ids.iter().find(|(_, id)| **id == stream).unwrap().0;
        (name.clone(), bytes.to_vec(), fin)
    }
}

struct Client(DuplexStream);

impl Client {
    async fn send(&mut self, message: &[u8]) {
        self.0.write_all(&client_frame(0x82, message)).await.unwrap();
    }
    /// The next frame: its first byte and its payload.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let (first, length) = (self.0.read_u8().await.unwrap(), self.0.read_u8().await.unwrap());
        let length =
            if length == 126 { usize::from(self.0.read_u16().await.unwrap()) } else { usize::from(length) };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.unwrap();
        (first, payload)
    }
    async fn message(&mut self, expected: &[u8]) {
        let (first, payload) = self.frame().await;
        assert_eq!((first, String::from_utf8_lossy(&payload)), (0x82, String::from_utf8_lossy(expected)));
    }
    async fn end(&mut self, code: u16) {
        assert_eq!(self.frame().await, (0x88, code.to_be_bytes().to_vec()));
        assert_eq!(self.0.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

async fn session(streams: CommandStreams, size: usize) -> (Client, Server, JoinHandle<()>) {
    let (client, client_side) = duplex(size);
    let (runtime, runtime_side) = duplex(size);
    let count =
        1 + [streams.stdin, streams.stdout, streams.stderr, streams.tty].iter().filter(|on| **on).count();
    let (server, session) =
        tokio::join!(Server::accept(runtime, count), Session::open(runtime_side, streams));
    let session = session.map_err(|problem| problem.message).unwrap();
    (Client(client), server, tokio::spawn(translate(client_side, session, DAY)))
}

#[tokio::test(start_paused = true)]
async fn a_command_with_input_runs_to_its_status() {
    let (mut client, mut server, task) = session(ALL, 4096).await;
    client.message(&[STDOUT]).await;
    client.send(b"\0input").await;
    assert_eq!(server.data().await, ("stdin".to_owned(), b"input".to_vec(), false));
    // A message in parts, and messages to nobody.
    client.0.write_all(&[client_frame(0x02, b"\0a"), client_frame(0x80, b"b")].concat()).await.unwrap();
    assert_eq!(server.data().await.1, b"a");
    assert_eq!(server.data().await.1, b"b");
    for ignored in [&b"\x01x"[..], b"\x04{}", b"\x09x", b""] {
        client.send(ignored).await;
    }
    client.send(&[CLOSE, STDIN]).await;
    assert_eq!(server.data().await, ("stdin".to_owned(), Vec::new(), true));
    client.send(b"\0too late").await;
    server.send("stdout", b"out", false).await;
    client.message(b"\x01out").await;
    server.send("stderr", b"err", true).await;
    client.message(b"\x02err").await;
    // The status comes in pieces and before the last output; the client gets it whole and last.
    server.send("error", &SUCCESS[..10], false).await;
    server.send("error", &SUCCESS[10..], true).await;
    server.send("stdout", b"rest", true).await;
    client.message(b"\x01rest").await;
    client.message(&[&[ERROR], SUCCESS].concat()).await;
    client.end(1000).await;
    drop(client);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_terminal_is_resized() {
    let streams = CommandStreams { stdin: true, stdout: true, stderr: false, tty: true };
    let (mut client, mut server, _task) = session(streams, 4096).await;
    client.message(&[STDOUT]).await;
    client.send(b"\x04{\"Width\":80,\"Height\":24}").await;
    assert_eq!(server.data().await, ("resize".to_owned(), b"{\"Width\":80,\"Height\":24}".to_vec(), false));
    client.send(&[CLOSE, RESIZE]).await;
    assert_eq!(server.data().await, ("resize".to_owned(), Vec::new(), true));
}

#[tokio::test(start_paused = true)]
async fn streams_that_are_reset_are_over() {
    let (mut client, mut server, _task) = session(ALL, 4096).await;
    client.message(&[STDOUT]).await;
    server.send("error", SUCCESS, false).await;
    let mut out = BytesMut::new();
    for name in ["stdin", "stdout", "stderr", "error"] {
        spdy::put_reset(server.ids[name], spdy::tests::CANCEL, &mut out);
    }
    server.connection.write_all(&out).await.unwrap();
    client.message(&[&[ERROR], SUCCESS].concat()).await;
    client.end(1000).await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_breaks_off_is_no_success() {
    for go_away in [true, false] {
        let (mut client, mut server, _task) = session(ALL, 4096).await;
        client.message(&[STDOUT]).await;
        server.send("stdout", b"half", false).await;
        if go_away {
            let mut out = BytesMut::new();
            put_go_away(&mut out);
            server.connection.write_all(&out).await.unwrap();
        } else {
            drop(server);
        }
        client.message(b"\x01half").await;
        client.message(&[&[ERROR], &lost()[..]].concat()).await;
        client.end(1000).await;
    }
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_on_both_sides() {
    let (mut client, mut server, _task) = session(ALL, 4096).await;
    client.message(&[STDOUT]).await;
    client.0.write_all(&client_frame(0x89, b"hello")).await.unwrap();
    assert_eq!(client.frame().await, (0x8a, b"hello".to_vec()));
    let mut out = BytesMut::new();
    spdy::put_ping(2, &mut out);
    spdy::Encoder::default().open(2, &[], &mut out);
    server.connection.write_all(&out).await.unwrap();
    assert_eq!(server.receive().await, Some(Received::Other(Event::Ping(2))));
    assert_eq!(server.receive().await, Some(Received::Other(Event::Reset { stream: 2 })));
}

#[tokio::test(start_paused = true)]
async fn full_input_holds_up_nothing_else() {
    let (mut client, mut server, _task) = session(ALL, 64).await;
    client.message(&[STDOUT]).await;
    let Client(connection) = client;
    let (read, mut write) = tokio::io::split(connection);
    let input = tokio::spawn(async move {
        let mut message = vec![STDIN];
        message.resize(100_000, b'x');
        write.write_all(&client_frame(0x82, &message)).await.unwrap();
        write
    });
    // Nobody reads the input: output flows, and the client hears that this end lives.
    let mut read = tokio::io::BufReader::new(read);
    let mut next = async || {
        let mut head = [0; 2];
        read.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1])];
        read.read_exact(&mut payload).await.unwrap();
        (head[0], payload)
    };
    let start = Instant::now();
    assert_eq!(next().await, (0x8a, vec![]));
    assert_eq!(start.elapsed(), SIGN_OF_LIFE);
    server.send("stdout", b"out", false).await;
    assert_eq!(next().await, (0x82, b"\x01out".to_vec()));
    // Then it is read, and arrives whole.
    let mut sum = 0;
    while sum < 99_999 {
        sum += server.data().await.1.len();
    }
    assert_eq!(sum, 99_999);
    input.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_stops_the_output() {
    let (mut client, mut server, _task) = session(ALL, 1024).await;
    client.message(&[STDOUT]).await;
    let chunk = [b'x'; 1000];
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_secs(60), server.send("stdout", &chunk, false)).await.is_ok() {
        sent += 1;
        assert!(sent < 100, "buffers are bounded");
    }
    // Input still arrives.
    client.send(b"\0stop").await;
    assert_eq!(server.data().await.1, b"stop");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_frees_the_runtime() {
    for (sent, code) in [
        (Some(client_frame(0x88, &1001u16.to_be_bytes())), Some(1001)),
        (Some(client_frame(0x88, &[])), Some(1000)),
        (Some(client_frame(0x82, &[CLOSE])), Some(1002)),
        (Some(client_frame(0x82, &[CLOSE, 9])), Some(1002)),
        (Some(client_frame(0x82, &[CLOSE, 0, 0])), Some(1002)),
        (Some(vec![0xff, 0xff]), Some(1002)),
        (None, None),
    ] {
        let (mut client, mut server, task) = session(ALL, 4096).await;
        client.message(&[STDOUT]).await;
        if let Some(sent) = sent {
            client.0.write_all(&sent).await.unwrap();
        }
        if let Some(code) = code {
            client.end(code).await;
        }
        drop(client);
        task.await.unwrap();
        assert_eq!(server.receive().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_input_of_a_client_that_goes_arrives() {
    let (mut client, mut server, _task) = session(ALL, 4096).await;
    client.message(&[STDOUT]).await;
    client.send(b"\0last").await;
    drop(client);
    assert_eq!(server.data().await.1, b"last");
    assert_eq!(server.receive().await, None);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_session() {
    let (mut client, _server, task) = session(ALL, 4096).await;
    client.message(&[STDOUT]).await;
    let start = Instant::now();
    client.end(1001).await;
    assert_eq!(start.elapsed().as_secs(), DAY.as_secs());
    drop(client);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn streams_have_to_be_accepted() {
    let (runtime, runtime_side) = duplex(4096);
    let refused = |problem: Option<Problem>| problem.unwrap().message;
    let waiting = Session::open(runtime_side, ALL).await.err();
    assert!(refused(waiting).ends_with("it did not accept them in time"));
    drop(runtime);
    let (mut runtime, runtime_side) = duplex(4096);
    let mut out = BytesMut::new();
    spdy::put_reset(1, spdy::REFUSED, &mut out);
    runtime.write_all(&out).await.unwrap();
    assert!(refused(Session::open(runtime_side, ALL).await.err()).ends_with("it refused a stream"));
    let (mut runtime, runtime_side) = duplex(4096);
    runtime.write_all(b"HTTP/1.1 garbage").await.unwrap();
    assert!(refused(Session::open(runtime_side, ALL).await.err()).starts_with("Internal error occurred: "));
}
