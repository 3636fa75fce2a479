//! A table of what a server may do, and what the watch then asks for and tells. The server is a script of answers; the
//! clock is paused, so waits are exact and cost nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::{Request as HttpRequest, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::client::Body;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::*;

/// What the server does with one request.
#[derive(Clone)]
enum Answer {
    /// This code and body.
    Code(u16, &'static str),
    /// 429 with this `Retry-After`.
    Patience(u64),
    /// 200 and these pieces.
    Stream(Vec<Piece>),
    /// No answer, ever.
    Hang,
    /// The connection breaks before an answer.
    Reset,
}

#[derive(Clone, Copy)]
enum Piece {
    Text(&'static str),
    Wait(u64),
    Reset,
    /// Neither data nor an end.
    Hang,
}

use Answer::{Code, Hang, Patience, Reset, Stream};
use Piece::{Text, Wait};

fn list(body: &'static str) -> Answer {
    Code(200, body)
}

fn watch(pieces: &[Piece]) -> Answer {
    Stream(pieces.to_vec())
}

type Pieces = BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>;

fn body(pieces: Vec<Piece>) -> StreamBody<Pieces> {
    let stream = stream::iter(pieces).then(|piece| async move {
        match piece {
            Text(text) => Ok(Frame::data(Bytes::from_static(text.as_bytes()))),
            Wait(millis) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok(Frame::data(Bytes::new()))
            }
            Piece::Reset => Err(std::io::Error::other("connection reset by peer")),
            Piece::Hang => std::future::pending().await,
        }
    });
    StreamBody::new(stream.boxed())
}

/// Everything seen, in order: requests with the wait before them, and updates.
#[derive(Clone, Default)]
struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    fn add(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }
}

/// Waits are drawn with jitter; the table names the class they belong to.
fn wait_class(wait: Duration) -> String {
    let millis = wait.as_millis();
    let class = match millis {
        0..=2 => return String::new(),
        3..800 => "spread",
        800..1600 => "b1",
        1600..3200 => "b2",
        3200..6400 => "b3",
        6400..12_800 => "b4",
        12_800..25_600 => "b5",
        _ => return format!("@{}s ", wait.as_secs()),
    };
    format!("@{class} ")
}

fn show_request(uri: &str) -> String {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    assert_eq!(path, "/api/v1/namespaces/n/configmaps");
    let mut words = vec![if query.contains("watch=true") { "WATCH" } else { "LIST" }.to_owned()];
    for pair in query.split('&') {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("resourceVersion", version) => words.push(format!("rv={version}")),
            ("timeoutSeconds", seconds) => {
                let seconds: u64 = seconds.parse().unwrap();
                assert!((300..600).contains(&seconds), "{seconds}");
            }
            ("limit", limit) => words.push(format!("limit={limit}")),
            ("continue", token) => words.push(format!("continue={token}")),
            ("fieldSelector", selector) => assert_eq!(selector, "metadata.name%3Da"),
            ("watch" | "allowWatchBookmarks", "true") => {}
            other => panic!("{other:?}"),
        }
    }
    words.join(" ")
}

fn show_update(update: &Update<ConfigMap>) -> String {
    let name = |object: &ConfigMap| {
        let metadata = &object.metadata;
        format!(
            "{}@{}",
            metadata.name.as_deref().unwrap(),
            metadata.resource_version.as_deref().unwrap_or("-")
        )
    };
    match update {
        Update::Set { items, bad } => {
            let mut words: Vec<_> = items.iter().map(|item| name(item)).collect();
            words.extend(bad.iter().map(|bad| format!("bad:{}", bad.name)));
            format!("set[{}]", words.join(" "))
        }
        Update::Applied(object) => format!("+{}", name(object)),
        Update::Deleted { object } => format!("-{}", name(object)),
        Update::Bad(bad) => format!("bad:{}", bad.name),
        Update::BadDeleted(bad) => format!("-bad:{}", bad.name),
        Update::Problem(problem) => format!("{:?}!", problem.kind),
        Update::Recovered => "recovered".to_owned(),
    }
}

/// Runs the watch against the script until it makes one request more than the script has answers, which is the last
/// thing in the trace.
async fn play(script: Vec<Answer>) -> Vec<String> {
    let trace = Trace::default();
    let done = Arc::new(Notify::new());
    let last = Arc::new(Mutex::new(Instant::now()));
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    let service = tower::service_fn({
        let (trace, done, last) = (trace.clone(), done.clone(), last.clone());
        move |request: HttpRequest<Body>| {
            let wait = last.lock().unwrap().elapsed();
            trace.add(format!("{}{}", wait_class(wait), show_request(&request.uri().to_string())));
            let answer = script.lock().unwrap().pop_front();
            if answer.is_none() {
                done.notify_one();
            }
            let last = last.clone();
            async move {
                let (code, retry_after, pieces) = match answer {
                    Some(Code(code, text)) => (code, None, vec![Text(text)]),
                    Some(Patience(seconds)) => (429, Some(seconds), vec![Text("slow down")]),
                    Some(Stream(pieces)) => (200, None, pieces),
                    Some(Hang) | None => std::future::pending().await,
                    Some(Reset) => {
                        *last.lock().unwrap() = Instant::now();
                        return Err(std::io::Error::other("connection refused"));
                    }
                };
                *last.lock().unwrap() = Instant::now();
                let mut response = Response::builder().status(code);
                if let Some(seconds) = retry_after {
                    response = response.header("retry-after", seconds);
                }
                Ok(response.body(noted(body(pieces), last)).unwrap())
            }
        }
    });
    let client = kube::Client::new(service, "default");
    let spec = WatchSpec::<ConfigMap>::one(Some("n"), "a", 7);
    let updates = trace.clone();
    tokio::select! {
        never = run(client, spec, move |update| updates.add(show_update(&update))) => match never {},
        () = done.notified() => {}
    }
    trace.0.lock().unwrap().clone()
}

/// Notes when the stream delivered last, so that waits are counted from there.
fn noted(body: StreamBody<Pieces>, last: Arc<Mutex<Instant>>) -> StreamBody<Pieces> {
    let stream = http_body_util::BodyStream::new(body);
    StreamBody::new(stream.inspect(move |_| *last.lock().unwrap() = Instant::now()).boxed())
}

const EMPTY5: &str = r#"{"metadata":{"resourceVersion":"5"},"items":[]}"#;
const A5: &str =
    r#"{"metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":"a","resourceVersion":"3"}}]}"#;
const A9: &str =
    r#"{"metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"a","resourceVersion":"9"}}]}"#;
const PAGE1: &str = r#"{"metadata":{"resourceVersion":"5","continue":"t1"},"items":[{"metadata":{"name":"a","resourceVersion":"3"}}]}"#;
const PAGE2: &str =
    r#"{"metadata":{"resourceVersion":"6"},"items":[{"metadata":{"name":"b","resourceVersion":"4"}}]}"#;
const EV7: &str =
    "{\"type\":\"MODIFIED\",\"object\":{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"7\"}}}\n";
const DEL8: &str =
    "{\"type\":\"DELETED\",\"object\":{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"8\"}}}\n";
const BAD8: &str = "{\"type\":\"MODIFIED\",\"object\":{\"data\":7,\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"8\"}}}\n";
const BADDEL9: &str = "{\"type\":\"DELETED\",\"object\":{\"data\":7,\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"9\"}}}\n";
const MARK8: &str = "{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"8\"}}}\n";
const GONE: &str =
    "{\"type\":\"ERROR\",\"object\":{\"code\":410,\"reason\":\"Expired\",\"message\":\"too old\"}}\n";
const BUSY: &str = "{\"type\":\"ERROR\",\"object\":{\"code\":429,\"message\":\"busy\",\"details\":{\"retryAfterSeconds\":40}}}\n";
const ODD: &str = "{\"type\":\"ERROR\",\"object\":{\"code\":418,\"message\":\"teapot\"}}\n";
const FAULT: &str =
    "{\"type\":\"ERROR\",\"object\":{\"code\":500,\"reason\":\"InternalError\",\"message\":\"oh\"}}\n";
const EXPIRED: &str = r#"{"code":410,"reason":"Expired","message":"too old"}"#;
const TOO_LARGE: &str = r#"{"code":504,"reason":"Timeout","message":"Too large resource version: 9, current: 4","details":{"causes":[{"reason":"ResourceVersionTooLarge"}]}}"#;

async fn check(name: &str, script: Vec<Answer>, expected: &str) {
    let seen = play(script).await.join("; ");
    let expected: Vec<_> = expected.split(';').map(str::trim).collect();
    assert_eq!(seen.split("; ").collect::<Vec<_>>(), expected, "{name}");
}

/// A stream that lives long enough to be healthy before it goes on.
const LONG: Piece = Wait(20_000);

#[tokio::test(start_paused = true)]
async fn a_server_in_good_health() {
    check("nothing there", vec![list(EMPTY5)], "LIST limit=500 rv=0; set[]; WATCH rv=5").await;
    check(
        "events, bookmarks, and a new stream after a clean end",
        vec![list(A5), watch(&[Text(EV7), Text(MARK8), LONG]), watch(&[LONG])],
        "LIST limit=500 rv=0; set[a@3]; WATCH rv=5; +a@7; WATCH rv=8; WATCH rv=8",
    )
    .await;
    check(
        "an event in pieces, and two in one",
        vec![
            list(A5),
            watch(&[Text(EV7.split_at(20).0), Wait(10), Text(EV7.split_at(20).1), Text(DEL8), LONG]),
        ],
        "LIST limit=500 rv=0; set[a@3]; WATCH rv=5; +a@7; -a@8; WATCH rv=8",
    )
    .await;
    check(
        "pages are one set, of the first page's version",
        vec![list(PAGE1), list(PAGE2)],
        "LIST limit=500 rv=0; LIST limit=500 continue=t1; set[a@3 b@4]; WATCH rv=5",
    )
    .await;
    check(
        "what cannot be decoded is told, and the watch goes on behind it",
        vec![list(A5), watch(&[Text(BAD8), Text(BADDEL9), LONG])],
        "LIST limit=500 rv=0; set[a@3]; WATCH rv=5; bad:a; -bad:a; WATCH rv=9",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn lists_that_fail() {
    check(
        "back-off doubles, each kind is told once, recovery is told",
        vec![Reset, Reset, Code(500, "oh"), Reset, Code(503, ""), list(A5)],
        "LIST limit=500 rv=0; Unreachable!; @b1 LIST limit=500 rv=0; @b2 LIST limit=500 rv=0; ServerFault!; \
         @b3 LIST limit=500 rv=0; @b4 LIST limit=500 rv=0; @b5 LIST limit=500 rv=0; set[a@3]; recovered; WATCH rv=5",
    )
    .await;
    check(
        "no",
        vec![Code(401, ""), Code(403, ""), Code(404, "404 page not found"), list(A5)],
        "LIST limit=500 rv=0; Unauthorized!; @b1 LIST limit=500 rv=0; Forbidden!; @b2 LIST limit=500 rv=0; \
         NotServed!; @b3 LIST limit=500 rv=0; set[a@3]; recovered; WATCH rv=5",
    )
    .await;
    check(
        "a server that asks for patience gets it",
        vec![Patience(30), list(A5)],
        "LIST limit=500 rv=0; Throttled!; @30s LIST limit=500 rv=0; set[a@3]; recovered; WATCH rv=5",
    )
    .await;
    check(
        "a list that hangs, before and within its answer",
        vec![Hang, watch(&[Text("{"), Piece::Hang]), list(A5)],
        "LIST limit=500 rv=0; Stalled!; @61s LIST limit=500 rv=0; @61s LIST limit=500 rv=0; set[a@3]; recovered; \
         WATCH rv=5",
    )
    .await;
    check(
        "a list that breaks off, and one that is none",
        vec![watch(&[Text("{"), Piece::Reset]), list("<html>"), list(r#"{"items":[]}"#), list(A5)],
        "LIST limit=500 rv=0; Unreachable!; @b1 LIST limit=500 rv=0; Garbled!; @b2 LIST limit=500 rv=0; \
         @b3 LIST limit=500 rv=0; set[a@3]; recovered; WATCH rv=5",
    )
    .await;
    check(
        "a later page fails, and is asked for again",
        vec![list(PAGE1), Code(500, ""), list(PAGE2)],
        "LIST limit=500 rv=0; LIST limit=500 continue=t1; ServerFault!; @b1 LIST limit=500 continue=t1; \
         set[a@3 b@4]; recovered; WATCH rv=5",
    )
    .await;
    check(
        "a token expires twice: pages are given up",
        vec![list(PAGE1), Code(410, EXPIRED), list(PAGE1), Code(410, EXPIRED), list(A9)],
        "LIST limit=500 rv=0; LIST limit=500 continue=t1; LIST limit=500; LIST limit=500 continue=t1; @b1 LIST; \
         set[a@9]; WATCH rv=9",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn watches_that_end() {
    check(
        "ends at once: the first time no wait, then back-off, told, and over when one lives",
        vec![list(A5), watch(&[]), watch(&[Text(EV7)]), watch(&[]), watch(&[LONG])],
        "LIST limit=500 rv=0; set[a@3]; WATCH rv=5; WATCH rv=5; +a@7; Interrupted!; @b1 WATCH rv=7; @b2 WATCH rv=7; \
         recovered; WATCH rv=7",
    )
    .await;
    check(
        "a healthy stream breaks",
        vec![list(A5), watch(&[Text(EV7), LONG, Piece::Reset]), watch(&[LONG, Text("{\"type\":")])],
        "LIST limit=500 rv=0; set[a@3]; WATCH rv=5; +a@7; @spread WATCH rv=7; @spread WATCH rv=7",
    )
    .await;
    check(
        "the server is away, then back",
        vec![list(A5), watch(&[LONG, Piece::Reset]), Reset, Reset, watch(&[LONG])],
        "LIST limit=500 rv=0; set[a@3]; WATCH rv=5; @spread WATCH rv=5; Unreachable!; @b1 WATCH rv=5; \
         @b2 WATCH rv=5; recovered; WATCH rv=5",
    )
    .await;
    check(
        "no, and busy",
        vec![list(A5), Code(403, ""), Patience(30), Code(500, ""), watch(&[LONG])],
        "LIST limit=500 rv=0; set[a@3]; WATCH rv=5; Forbidden!; @b1 WATCH rv=5; Throttled!; @30s WATCH rv=5; \
         ServerFault!; @b3 WATCH rv=5; recovered; WATCH rv=5",
    )
    .await;
    check(
        "not answered",
        vec![list(A5), Hang],
        "LIST limit=500 rv=0; set[a@3]; WATCH rv=5; Stalled!; @30s WATCH rv=5",
    )
    .await;
    let seen = play(vec![list(A5), watch(&[Text(EV7), Piece::Hang]), list(A9)]).await;
    assert_eq!(seen[..4], ["LIST limit=500 rv=0", "set[a@3]", "WATCH rv=5", "+a@7"]);
    assert!(
        seen[4].starts_with('@') && seen[4].ends_with("s LIST rv=7"),
        "a dead connection is noticed: {seen:?}"
    );
    assert_eq!(seen[5..], ["set[a@9]", "WATCH rv=9"]);
}

#[tokio::test(start_paused = true)]
async fn versions_that_do_not_work() {
    check(
        "expired, as status and as event: list anew, nothing older",
        vec![list(A5), Code(410, EXPIRED), list(A9), watch(&[LONG, Text(GONE)]), list(A9)],
        "LIST limit=500 rv=0; set[a@3]; WATCH rv=5; LIST rv=5; set[a@9]; WATCH rv=9; LIST rv=9; set[a@9]; WATCH rv=9",
    )
    .await;
    check(
        "expired again and again is no hot loop",
        vec![list(A5), watch(&[Text(GONE)]), list(A5), watch(&[Text(GONE)]), list(A5), watch(&[Text(GONE)])],
        "LIST limit=500 rv=0; set[a@3]; WATCH rv=5; LIST rv=5; set[a@3]; WATCH rv=5; @b1 LIST rv=5; set[a@3]; \
         WATCH rv=5; @b2 LIST rv=5",
    )
    .await;
    check(
        "a restored backup: the server is older than what was seen",
        vec![list(A9), Code(410, EXPIRED), Code(504, TOO_LARGE), list(A5)],
        "LIST limit=500 rv=0; set[a@9]; WATCH rv=9; LIST rv=9; @b1 LIST limit=500; set[a@3]; WATCH rv=5",
    )
    .await;
    check(
        "an event from the past",
        vec![list(A9), watch(&[Text(EV7)]), list(A5)],
        "LIST limit=500 rv=0; set[a@9]; WATCH rv=9; LIST limit=500; set[a@3]; WATCH rv=5",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn watches_that_say_odd_things() {
    check(
        "garbage leads to a list, and is over when a stream lives",
        vec![list(A5), watch(&[Text(EV7), Text("<html>\n")]), list(A9), watch(&[LONG])],
        "LIST limit=500 rv=0; set[a@3]; WATCH rv=5; +a@7; Garbled!; @b1 LIST rv=7; set[a@9]; WATCH rv=9; recovered; \
         WATCH rv=9",
    )
    .await;
    check(
        "errors the server gives a reason for are waited out",
        vec![list(A5), watch(&[Text(FAULT)]), watch(&[Text(BUSY)]), watch(&[LONG])],
        "LIST limit=500 rv=0; set[a@3]; WATCH rv=5; ServerFault!; @b1 WATCH rv=5; Throttled!; @40s WATCH rv=5; \
         recovered; WATCH rv=5",
    )
    .await;
    check(
        "errors nobody knows lead to a list",
        vec![list(A5), watch(&[Text(ODD)]), list(A9)],
        "LIST limit=500 rv=0; set[a@3]; WATCH rv=5; Refused!; @b1 LIST rv=5; set[a@9]; WATCH rv=9",
    )
    .await;
}

#[test]
fn a_problem_says_what_and_what_to_do() {
    let problem = WatchProblem {
        kind: ProblemKind::Unauthorized,
        what: WatchSpec::<ConfigMap>::one(Some("n"), "a", 7).what(),
        message: "Unauthorized".to_owned(),
        retry_in: Duration::from_millis(1234),
    };
    assert_eq!(
        problem.to_string(),
        "cannot watch configmaps in namespace n with metadata.name=a: Unauthorized; check that the kubeconfig's \
         credentials are valid and its CA is the cluster's; next attempt in 1.2 s"
    );
}
