//! Connections that die, servers that are slow or busy, and what a request notices of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt as _;
use rubelet_apiclient::connection::connect;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::server::{Seen, stream, text};
use crate::setup::{Setup, Told, get, options};

/// A server whose watches say one word and stay open, and that counts.
async fn with_watches(max_streams: Option<u32>) -> Setup {
    Setup::with(
        |options| options.max_streams = max_streams,
        |seen: Seen| async move {
            if !seen.uri.contains("watch") {
                return text(200, "ok");
            }
            let (sender, response) = stream();
            sender.send("hello").unwrap();
            tokio::spawn(async move { sender.closed().await });
            response
        },
    )
    .await
}

async fn open_watch(client: &kube::Client) -> kube::client::Body {
    let request = Request::get("/api/v1/pods?watch=true").body(kube::client::Body::empty()).unwrap();
    let mut body = client.send(request).await.unwrap().into_body();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "hello");
    body
}

#[tokio::test]
async fn everybody_shares_one_connection_and_heartbeats_have_their_own() {
    let setup = with_watches(None).await;
    let (connections, _) = setup.connect("token: t").await;
    let all = (0..50).map(|_| get(&connections.requests, "/"));
    for outcome in futures::future::join_all(all).await {
        outcome.unwrap();
    }
    get(&connections.urgent, "/").await.unwrap();
    assert!(setup.server.seen().iter().all(|seen| seen.connection == 1));
    get(&connections.heartbeats, "/").await.unwrap();
    assert_eq!(setup.server.last().connection, 2);
}

#[tokio::test]
async fn close_all_ends_watches_at_once() {
    let setup = with_watches(None).await;
    let (connections, identity) = setup.connect("token: t").await;
    let mut watch = open_watch(&connections.requests).await;
    identity.close_all();
    let end = tokio::time::timeout(Duration::from_secs(5), watch.frame()).await.unwrap();
    assert!(end.unwrap().is_err());
    open_watch(&connections.requests).await;
    assert_eq!(setup.server.last().connection, 2);
}

#[tokio::test]
async fn a_server_that_says_goaway_keeps_its_watches_and_gets_the_rest_elsewhere() {
    let go_away = Arc::new(tokio::sync::Notify::new());
    let (sender, response) = stream();
    let first = std::sync::Mutex::new(Some(response));
    let told = go_away.clone();
    let setup = Setup::with(
        |options| options.go_away = told,
        move |seen| {
            let watch = if seen.uri.contains("watch") { first.lock().unwrap().take() } else { None };
            async move { watch.unwrap_or_else(|| text(200, "ok")) }
        },
    )
    .await;
    let (connections, _) = setup.connect("token: t").await;
    sender.send("hello").unwrap();
    let mut watch = open_watch(&connections.requests).await;
    go_away.notify_waiters();
    // Some of these may still find the old connection; none may fail.
    while setup.server.last().connection == 1 {
        let post = Request::post("/").body(b"data".to_vec()).unwrap();
        assert_eq!(connections.requests.request_text(post).await.unwrap(), "ok");
    }
    sender.send("still here").unwrap();
    assert_eq!(watch.frame().await.unwrap().unwrap().into_data().unwrap(), "still here");
}

#[tokio::test]
async fn reads_under_way_survive_close_all() {
    let setup = Setup::new(|_| async {
        tokio::task::yield_now().await;
        text(200, "ok")
    })
    .await;
    let (connections, identity) = setup.connect("token: t").await;
    let reads = (0..200).map(|_| get(&connections.requests, "/"));
    let close = async {
        for _ in 0..3 {
            while setup.server.seen().is_empty() {
                tokio::task::yield_now().await;
            }
            identity.close_all();
            tokio::task::yield_now().await;
        }
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(reads), close);
    for answer in answers {
        assert_eq!(answer.unwrap(), "ok");
    }
}

#[tokio::test]
async fn a_full_connection_is_not_waited_for() {
    let setup = with_watches(Some(2)).await;
    let (connections, _) = setup.connect("token: t").await;
    // The limit is known after the first answers.
    get(&connections.requests, "/").await.unwrap();
    get(&connections.requests, "/").await.unwrap();
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(open_watch(&connections.requests).await);
    }
    assert_eq!(setup.server.last().connection, 3);
    open.clear();
}

#[tokio::test]
async fn a_half_open_connection_is_noticed() {
    let setup = with_watches(None).await;
    let target = setup.server.address;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (freeze, frozen) = tokio::sync::watch::channel(false);
    // A way to the server on which nothing arrives any more once it is frozen; the first connection only.
    let relay = tokio::spawn(async move {
        let mut first = Some(frozen);
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(target).await.unwrap();
            tokio::spawn(relay(client, server, first.take()));
        }
    });
    let mut access = setup.access("token: t");
    access.server = format!("https://{address}").parse().unwrap();
    let mut options = options();
    options.keep_alive_interval = Duration::from_millis(100);
    options.keep_alive_timeout = Duration::from_millis(200);
    let (connections, _) = connect(access, options).await.unwrap();
    let mut watch = open_watch(&connections.requests).await;
    freeze.send_replace(true);
    let end = tokio::time::timeout(Duration::from_secs(5), watch.frame()).await.unwrap();
    assert!(end.unwrap().is_err());
    open_watch(&connections.requests).await;
    relay.abort();
}

async fn relay(
    mut client: TcpStream,
    mut server: TcpStream,
    frozen: Option<tokio::sync::watch::Receiver<bool>>,
) {
    let Some(mut frozen) = frozen else {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        return;
    };
    let copied = async {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    };
    let told = async {
        let _ = frozen.wait_for(|frozen| *frozen).await;
    };
    tokio::select! {
        () = copied => return,
        () = told => {}
    }
    // Both sockets stay open and silent.
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn retry_after_is_followed_and_others_wait_too() {
    let refusals = Arc::new(AtomicU32::new(2));
    let left = refusals.clone();
    let setup = Setup::new(move |_| {
        let busy = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        async move {
            if !busy {
                return text(200, "ok");
            }
            let mut response = text(429, "busy");
            response.headers_mut().insert("retry-after", "1".parse().unwrap());
            response
        }
    })
    .await;
    let mut options = options();
    options.qps = 100.0;
    let told = Told::observe(&mut options, setup.server.address.to_string());
    let (connections, _) = connect(setup.access("token: t"), options).await.unwrap();
    let begin = Instant::now();
    let post = Request::post("/").body(b"data".to_vec()).unwrap();
    assert_eq!(connections.requests.request_text(post).await.unwrap(), "ok");
    assert!(begin.elapsed() >= Duration::from_millis(1900));
    assert_eq!(setup.server.last().body, "data");
    let again = ["POST 429", "POST again 429"];
    assert_eq!(told.lines(), [&["POST paced"], &again[..], &again[..], &["POST 200"]].concat());

    refusals.store(1, Ordering::SeqCst);
    let (first, second) = tokio::join!(get(&connections.requests, "/a"), async {
        // Comes while the first waits.
        while refusals.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let begin = Instant::now();
        let answer = get(&connections.requests, "/b").await;
        assert!(begin.elapsed() >= Duration::from_millis(300));
        answer
    });
    assert_eq!((first.unwrap(), second.unwrap()), ("ok".to_owned(), "ok".to_owned()));
}

#[tokio::test]
async fn a_busy_server_is_believed_when_the_deadline_is_nearer() {
    let setup = Setup::new(|_| async {
        let mut response = text(503, "busy");
        response.headers_mut().insert("retry-after", "60".parse().unwrap());
        response
    })
    .await;
    let (connections, _) = setup.connect("token: t").await;
    let Err(kube::Error::Api(status)) = get(&connections.requests, "/").await else { panic!("no status") };
    assert_eq!(status.code, 503);
    assert_eq!(setup.server.seen().len(), 1);
}

#[tokio::test]
async fn a_request_ends_at_its_deadline_but_a_watch_goes_on() {
    let setup = Setup::new(|seen: Seen| async move {
        if seen.uri.contains("never") {
            return std::future::pending().await;
        }
        let (sender, response) = stream();
        sender.send("first").unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(600)).await;
            let _ = sender.send("second");
            sender.closed().await;
        });
        response
    })
    .await;
    let mut options = options();
    options.request_timeout = Duration::from_millis(300);
    let told = Told::observe(&mut options, setup.server.address.to_string());
    let (connections, identity) = connect(setup.access("token: t"), options).await.unwrap();
    let error = get(&connections.requests, "/never").await.unwrap_err();
    assert!(identity.explain(&error).contains("gave no answer within 0.3 s"), "{}", identity.explain(&error));
    assert_eq!(told.lines(), ["GET <error>"]);

    let request = |path: &str| Request::get(path).body(kube::client::Body::empty()).unwrap();
    let body = connections.requests.send(request("/list")).await.unwrap().into_body();
    assert!(body.collect().await.is_err(), "an ordinary answer must end in time");

    let mut watch = connections.requests.send(request("/x?watch=1")).await.unwrap().into_body();
    for expected in ["first", "second"] {
        assert_eq!(watch.frame().await.unwrap().unwrap().into_data().unwrap(), expected);
    }
    // A watch that is never accepted is bounded.
    assert!(connections.requests.send(request("/never?watch=true")).await.is_err());
}

#[tokio::test]
async fn the_pace_holds_for_requests_but_not_for_urgent_ones() {
    let setup = with_watches(None).await;
    let mut options = options();
    options.qps = 2.0;
    options.burst = 1;
    let (connections, _) = connect(setup.access("token: t"), options).await.unwrap();
    get(&connections.requests, "/").await.unwrap();
    let begin = Instant::now();
    let (slow, ()) = tokio::join!(
        async {
            get(&connections.requests, "/").await.unwrap();
            begin.elapsed()
        },
        async {
            get(&connections.urgent, "/").await.unwrap();
            get(&connections.heartbeats, "/").await.unwrap();
            assert!(begin.elapsed() < Duration::from_millis(400));
        }
    );
    assert!(slow >= Duration::from_millis(300), "{slow:?}");
}

#[tokio::test]
async fn a_server_that_comes_back_is_found_again() {
    let setup = Setup::ok().await;
    let (connections, _) = setup.connect("token: t").await;
    get(&connections.requests, "/").await.unwrap();
    let address = setup.server.address;
    setup.server.stop().await;
    assert!(get(&connections.requests, "/").await.is_err());
    let listener = TcpListener::bind(address).await.unwrap();
    let options = crate::server::Options { pair: Some(setup.ca.server()), ..Default::default() };
    let again = crate::server::Server::on(listener, options, |_| async { text(200, "again") });
    assert_eq!(get(&connections.requests, "/").await.unwrap(), "again");
    drop(again);
}

#[tokio::test]
async fn a_proxy_is_asked_for_a_tunnel() {
    let setup = Setup::ok().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let tunnels = Arc::new(AtomicUsize::new(0));
    let made = tunnels.clone();
    let task = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(client.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            if !request.contains("Proxy-Authorization: Basic bWU6cHc=") {
                client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.unwrap();
                continue;
            }
            let target = request.split(' ').nth(1).unwrap().to_owned();
            let server = TcpStream::connect(target).await.unwrap();
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            made.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(relay(client, server, None));
        }
    });
    let ca = "certificate-authority: ca.crt";
    let access = setup.access_with("token: t", &format!("{ca}\nproxy-url: http://me:pw@{proxy}"));
    let (connections, _) = connect(access, options()).await.unwrap();
    assert_eq!(get(&connections.requests, "/").await.unwrap(), "ok");
    assert_eq!(tunnels.load(Ordering::SeqCst), 1);

    let access = setup.access_with("token: t", &format!("{ca}\nproxy-url: http://{proxy}"));
    let (connections, identity) = connect(access, options()).await.unwrap();
    let error = get(&connections.requests, "/").await.unwrap_err();
    assert!(
        identity.explain(&error).contains("407 Proxy Authentication Required"),
        "{}",
        identity.explain(&error)
    );
    task.abort();
}
