//! Clients that are slow, silent or strange, on a paused clock; and the listener on a loopback socket.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::connection::{HEAD, IDLE};
use super::*;
use std::net::IpAddr;

/// Knows everybody but those who ask for `/stranger`; never ends telling of `/watch`; hands on who wants to upgrade.
#[derive(Default)]
struct Echo {
    upgraded: Arc<AtomicUsize>,
}

impl Front for Echo {
    fn answer<'a>(&'a self, _: &'a Peer, mut request: Request<Body>) -> BoxFuture<'a, Response<Body>> {
        Box::pin(async move {
            let path = request.uri().path();
            let status = match path {
                "/stranger" => 401,
                "/upgrade" => 101,
                _ => 200,
            };
            let body = match path {
                "/watch" => StreamBody::new(futures::stream::pending()).boxed_unsync(),
                _ => Full::new(Bytes::from("x")).map_err(|never| match never {}).boxed_unsync(),
            };
            if status == 101 {
                let (upgraded, on) = (self.upgraded.clone(), hyper::upgrade::on(&mut request));
                tokio::spawn(async move {
                    let mut stream = TokioIo::new(on.await.unwrap());
                    upgraded.fetch_add(1, Ordering::SeqCst);
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).await.is_ok() {
                        stream.write_all(&byte).await.unwrap();
                    }
                });
            }
            let answer = Response::builder().status(status);
            let answer = if status == 101 {
                answer.header("upgrade", "x").header("connection", "upgrade")
            } else {
                answer
            };
            answer.body(body).unwrap()
        })
    }
}

fn peer() -> Peer {
    Peer { certificates: vec![], address: ([127, 0, 0, 1], 1).into() }
}

fn client(protocol: Protocol) -> DuplexStream {
    let (client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(converse(server, peer(), protocol, Arc::new(Echo::default()), CancellationToken::new()));
    client
}

/// Seconds until the server closes the connection by itself.
async fn seconds_until_closed(mut client: DuplexStream) -> u64 {
    let begun = Instant::now();
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest).await;
    begun.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_or_says_it_slowly_is_not_waited_for() {
    for begin in ["", "G", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let mut client = client(Protocol::Http1);
        client.write_all(begin.as_bytes()).await.unwrap();
        assert_eq!(seconds_until_closed(client).await, HEAD.as_secs(), "{begin:?}");
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for begin in [b"".as_slice(), b"PRI", preface] {
        let mut client = client(Protocol::Http2);
        client.write_all(begin).await.unwrap();
        assert_eq!(seconds_until_closed(client).await, HEAD.as_secs(), "{begin:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_asked_may_take_longer_for_the_next_request_but_not_for_ever() {
    for next in ["", "GET / HT"] {
        let mut client = client(Protocol::Http1);
        client.write_all(format!("GET / HTTP/1.1\r\nHost: x\r\n\r\n{next}").as_bytes()).await.unwrap();
        assert_eq!(seconds_until_closed(client).await, IDLE.as_secs(), "{next:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_and_those_with_a_watch_are_not() {
    let client = client(Protocol::Http2);
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || Request::get("https://x/watch").body(http_body_util::Empty::<Bytes>::new()).unwrap();
    let open = send.send_request(request()).await.unwrap();
    tokio::time::sleep(IDLE * 5).await;
    assert!(!connection.is_finished(), "it is used");
    drop(open);
    let begun = Instant::now();
    let _ = connection.await.unwrap();
    assert!(begun.elapsed() <= IDLE * 2 + Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stranger_is_answered_and_shown_out() {
    let mut client = client(Protocol::Http1);
    client.write_all(b"GET /stranger HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(seconds_until_closed(client).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_too_large_is_refused() {
    let mut client = client(Protocol::Http1);
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    // The server may have closed before all of it was sent.
    let (mut read, mut write) = tokio::io::split(&mut client);
    let (_, answer) = tokio::join!(write.write_all(head.as_bytes()), async {
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
        answer
    });
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(start_paused = true)]
async fn open_requests_have_a_moment_when_the_server_ends() {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let end = CancellationToken::new();
    tokio::spawn(converse(server, peer(), Protocol::Http1, Arc::new(Echo::default()), end.clone()));
    client.write_all(b"GET /watch HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    client.read_u8().await.unwrap();
    end.cancel();
    assert_eq!(seconds_until_closed(client).await, DRAIN.as_secs());
}

/// Reads until a text is there.
async fn read_until(stream: &mut TcpStream, text: &str) {
    let mut read = Vec::new();
    while !read.ends_with(text.as_bytes()) {
        read.push(stream.read_u8().await.unwrap());
    }
}

#[tokio::test]
async fn a_plain_port_answers_upgrades_and_ends() {
    let listener = Listener::bind("the test", ([127, 0, 0, 1], 0).into(), None).await.unwrap();
    let address = listener.address();
    let taken = Listener::bind("the test", address, None).await.err().unwrap();
    assert_eq!(taken.to_string(), format!("the test cannot listen on {address}"));

    let echo = Arc::new(Echo::default());
    let (end, upgraded) = (CancellationToken::new(), echo.upgraded.clone());
    let served = tokio::spawn(listener.serve(echo, end.clone()));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /one HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_until(&mut client, "\r\n\r\nx").await;
    let upgrade = b"GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    client.write_all(upgrade).await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    client.write_all(b"?").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'?');
    assert_eq!(upgraded.load(Ordering::SeqCst), 1);
    end.cancel();
    served.await.unwrap();
    let mut refused = TcpStream::connect(address).await;
    if let Ok(stream) = &mut refused {
        assert!(stream.read_u8().await.is_err(), "nobody answers any more");
    }
}

#[tokio::test]
async fn a_server_that_is_dropped_ends_its_connections() {
    let listener = Listener::bind("the test", ([127, 0, 0, 1], 0).into(), None).await.unwrap();
    let address = listener.address();
    let served = tokio::spawn(listener.serve(Arc::new(Echo::default()), CancellationToken::new()));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /one HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_until(&mut client, "\r\n\r\nx").await;
    served.abort();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_place_is_taken_until_the_socket_is_closed() {
    let (crowd, from) = (Arc::new(Crowd::default()), IpAddr::from([10, 0, 0, 1]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let held = Held::new(client, crowd.enter(from, 1).unwrap());
    assert!(crowd.enter(from, 1).is_none());
    drop(held);
    assert!(crowd.enter(from, 1).is_some());
}

#[tokio::test]
async fn a_connection_that_waits_costs_little() {
    let (_, server) = tokio::io::duplex(1);
    let task = receive(server, peer().address, None, Arc::new(Echo::default()), CancellationToken::new());
    let size = std::mem::size_of_val(&task);
    assert!(size < 3 * 1024, "{size} bytes a task");
}
