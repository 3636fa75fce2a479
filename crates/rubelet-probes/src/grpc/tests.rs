//! Servers of all kinds, in the same process.

use std::future::Future;

use http::HeaderValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);

fn action(port: u16, service: &str) -> GRPCAction {
    GRPCAction { port: port.into(), service: Some(service.to_owned()) }
}

/// Binds a port and gives every connection to `handle`.
async fn listen<F>(handle: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    port
}

/// How a server answers.
#[derive(Clone, Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    trailers: Vec<(&'static str, &'static str)>,
}

fn answer(body: &[u8], grpc_status: &'static str) -> Answer {
    Answer {
        status: 200,
        headers: vec![("content-type", "application/grpc+proto")],
        body: body.to_vec(),
        trailers: vec![("grpc-status", grpc_status), ("grpc-message", "in%20words")],
    }
}

fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
}

/// One connection of an HTTP/2 server: what was asked is answered until the client hangs up. Returns the requests.
async fn serve_h2(stream: TcpStream, answer: Answer) -> Vec<(Request<()>, Bytes)> {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let mut asked = vec![];
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (head, mut body) = request.into_parts();
        let answer = answer.clone();
        let question = tokio::spawn(async move {
            let question = body.data().await.unwrap().unwrap();
            let mut response = Response::builder().status(answer.status).body(()).unwrap();
            *response.headers_mut() = map(&answer.headers);
            let ends = answer.body.is_empty() && answer.trailers.is_empty();
            let mut sender = respond.send_response(response, ends).unwrap();
            if !answer.body.is_empty() {
                // In two pieces: a message may be.
                let (first, rest) = answer.body.split_at(1);
                sender.send_data(Bytes::copy_from_slice(first), false).unwrap();
                sender.send_data(Bytes::copy_from_slice(rest), answer.trailers.is_empty()).unwrap();
            }
            if !answer.trailers.is_empty() {
                sender.send_trailers(map(&answer.trailers)).unwrap();
            }
            question
        });
        // The body only comes in while the connection is driven.
        let question = tokio::select! {
            question = question => question.unwrap(),
            _ = poll_fn(|cx| connection.poll_closed(cx)) => break,
        };
        asked.push((Request::from_parts(head, ()), question));
    }
    asked
}

#[track_caller]
fn failure(outcome: &ProbeOutcome) -> &str {
    match outcome {
        ProbeOutcome::Failure(text) => text,
        other => panic!("{other:?}"),
    }
}

async fn ask(answer: Answer) -> ProbeOutcome {
    let port = listen(move |stream| {
        let answer = answer.clone();
        async move { drop(serve_h2(stream, answer).await) }
    })
    .await;
    check(&action(port, ""), "127.0.0.1", TIMEOUT).await
}

const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];

#[tokio::test]
async fn a_server_is_asked_once_and_left_politely() {
    let (tell, told) = oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    let port = listen(move |stream| {
        let tell = tell.lock().unwrap().take().unwrap();
        async move { tell.send(serve_h2(stream, answer(SERVING, "0")).await).unwrap() }
    })
    .await;
    assert_eq!(check(&action(port, "my.Service"), "127.0.0.1", TIMEOUT).await, ProbeOutcome::Success);
    let asked = told.await.unwrap();
    let [(request, body)] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!(request.uri().to_string(), format!("http://127.0.0.1:{port}/grpc.health.v1.Health/Check"));
    let header = |name: &str| request.headers()[name].to_str().unwrap();
    assert_eq!(header("user-agent"), "kube-probe/1.36");
    assert_eq!((header("content-type"), header("te")), ("application/grpc", "trailers"));
    let millis: u64 = header("grpc-timeout").strip_suffix('m').unwrap().parse().unwrap();
    assert!((4_000..=5_000).contains(&millis), "{millis}");
    assert_eq!(body.as_ref(), b"\0\0\0\0\x0c\x0a\x0amy.Service");
}

#[tokio::test]
async fn answers_have_upstreams_outcomes_and_texts() {
    let body = |status: u8| [0, 0, 0, 0, 2, 8, status];
    assert_eq!(ask(answer(SERVING, "0")).await, ProbeOutcome::Success);
    let rpc = |text: &str| format!("error: health rpc probe failed: rpc error: {text}");
    let html = Answer { status: 404, headers: vec![("content-type", "text/html")], ..Answer::default() };
    let trailers_only = Answer {
        status: 200,
        headers: vec![
            ("content-type", "application/grpc"),
            ("grpc-status", "12"),
            ("grpc-message", "unknown service"),
        ],
        ..Answer::default()
    };
    let no_trailers = Answer { trailers: vec![], ..answer(SERVING, "0") };
    for (answer, expected) in [
        (answer(&body(2), "0"), "service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
        (answer(&body(3), "0"), "service unhealthy (responded with \"SERVICE_UNKNOWN\")".into()),
        (answer(&body(9), "0"), "service unhealthy (responded with \"9\")".into()),
        // No field at all is the field's zero.
        (answer(&[0, 0, 0, 0, 0], "0"), "service unhealthy (responded with \"UNKNOWN\")".into()),
        (answer(&[], "5"), rpc("code = NotFound desc = in words")),
        (answer(SERVING, "16"), rpc("code = Unauthenticated desc = in words")),
        (answer(&[], "4"), "timeout: health rpc did not complete within 5s".into()),
        (
            trailers_only,
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service"
                .into(),
        ),
        (
            html,
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unexpected HTTP \
             status code received from server: 404 (Not Found); transport: received unexpected content-type \
             \"text/html\""
                .into(),
        ),
        (
            Answer { status: 200, ..Answer::default() },
            rpc("code = Unknown desc = malformed header: missing HTTP content-type"),
        ),
        (answer(&[], "0"), rpc("code = Internal desc = the server sent no answer")),
        (answer(&[1, 0, 0, 0, 0], "0"), rpc("code = Internal desc = grpc: compressed flag set with identity or empty encoding")),
        (answer(&[0, 0, 0, 0, 9, 8], "0"), rpc("code = Internal desc = the length of the answer is not what it says")),
        (answer(&vec![0; 70 << 10], "0"), rpc("code = ResourceExhausted desc = grpc: received message larger than max (65536 bytes)")),
        (no_trailers, rpc("code = Internal desc = server closed the stream without sending trailers")),
    ] {
        assert_eq!(failure(&ask(answer).await), expected);
    }
}

#[tokio::test]
async fn what_does_not_speak_http_2_is_not_connected_to() {
    let timeout = Duration::from_secs(1);
    let beginning = |port| {
        format!(
            "timeout: failed to connect service \"127.0.0.1:{port}\" within 1s: context deadline exceeded"
        )
    };

    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let outcome = check(&action(closed, ""), "127.0.0.1", timeout).await;
    let text = failure(&outcome);
    let refused = format!(": dial tcp 127.0.0.1:{closed}: connect: connection refused");
    assert_eq!(text, beginning(closed) + &refused);

    let http1 = listen(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let outcome = check(&action(http1, ""), "127.0.0.1", timeout).await;
    assert!(failure(&outcome).starts_with(&beginning(http1)), "{outcome:?}");

    let silent = listen(|mut stream| async move {
        let _ = stream.read_to_end(&mut vec![]).await;
    })
    .await;
    let outcome = check(&action(silent, ""), "127.0.0.1", timeout).await;
    assert_eq!(failure(&outcome), beginning(silent));
}

#[tokio::test]
async fn a_server_that_never_answers_ends_with_the_timeout() {
    let port = listen(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut held = vec![];
        while let Some(Ok(request)) = connection.accept().await {
            held.push(request);
        }
    })
    .await;
    let begun = Instant::now();
    let outcome = check(&action(port, ""), "127.0.0.1", Duration::from_secs(1)).await;
    assert_eq!(failure(&outcome), "timeout: health rpc did not complete within 1s");
    assert!(begun.elapsed() < Duration::from_millis(1500));
}

#[tokio::test]
async fn a_server_that_hangs_up_fails_the_probe() {
    let resets = listen(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::CANCEL);
        }
    })
    .await;
    let outcome = check(&action(resets, ""), "127.0.0.1", TIMEOUT).await;
    let text = failure(&outcome);
    assert!(text.starts_with("error: health rpc probe failed: rpc error: code = Canceled"), "{text}");

    let closes = listen(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let _request = connection.accept().await;
    })
    .await;
    let outcome = check(&action(closes, ""), "127.0.0.1", TIMEOUT).await;
    let text = failure(&outcome);
    assert!(text.starts_with("error: health rpc probe failed: rpc error: code = Unavailable"), "{text}");
}

#[tokio::test]
async fn connecting_is_tried_again_while_there_is_time() {
    let first = AtomicBool::new(true);
    let port = listen(move |stream| {
        let first = first.swap(false, Ordering::Relaxed);
        async move {
            if !first {
                serve_h2(stream, answer(SERVING, "0")).await;
            }
        }
    })
    .await;
    assert_eq!(check(&action(port, ""), "127.0.0.1", TIMEOUT).await, ProbeOutcome::Success);
}

#[tokio::test]
async fn addresses_of_both_families_and_none() {
    if let Ok(listener) = TcpListener::bind("[::1]:0").await {
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            serve_h2(stream, answer(SERVING, "0")).await
        });
        assert_eq!(check(&action(port, ""), "::1", TIMEOUT).await, ProbeOutcome::Success);
    }
    for (ip, port) in [("", 80), ("localhost", 80), ("127.0.0.1", 70_000), ("127.0.0.1", -1)] {
        let action = GRPCAction { port, service: None };
        let outcome = check(&action, ip, TIMEOUT).await;
        assert!(matches!(outcome, ProbeOutcome::Error(_)), "{ip} {port}: {outcome:?}");
    }
}

#[test]
fn what_is_short_on_this_machine_is_not_the_servers_failure() {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let error = |errno: rustix::io::Errno| unreachable(address, &std::io::Error::from(errno));
    assert!(matches!(error(rustix::io::Errno::MFILE), Broken::NoRoom(_)));
    assert!(matches!(error(rustix::io::Errno::CONNREFUSED), Broken::Connecting(_)));
}
