//! The queue against an exporter that does what it is told, on a paused clock; the layer against it; and one
//! collector that is really away and comes back.

use std::sync::{Arc, Mutex};

use opentelemetry::KeyValue;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing_subscriber::layer::SubscriberExt as _;

use http_body_util::BodyExt as _;

use super::*;
use crate::logging::{LogFormat, layers};

const NAMES: &str = "names of spans";

/// Remembers when it was given which spans; fails while it is told to.
#[derive(Clone, Debug, Default)]
struct Collector(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    away: bool,
    taken: Vec<(Duration, Vec<SpanData>)>,
    tries: Vec<Duration>,
    hangs: bool,
}

impl Collector {
    fn set_away(&self, away: bool) {
        self.0.lock().expect(NAMES).away = away;
    }

    fn batches(&self) -> Vec<usize> {
        self.0.lock().expect(NAMES).taken.iter().map(|(_, spans)| spans.len()).collect()
    }

    fn spans(&self) -> Vec<SpanData> {
        self.0.lock().expect(NAMES).taken.iter().flat_map(|(_, spans)| spans.clone()).collect()
    }

    fn tries(&self) -> Vec<u64> {
        self.0.lock().expect(NAMES).tries.iter().map(Duration::as_secs).collect()
    }
}

/// An exporter into a [`Collector`].
#[derive(Debug)]
struct ToCollector {
    collector: Collector,
    began: Instant,
}

impl SpanExporter for ToCollector {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let hangs = {
            let mut inner = self.collector.0.lock().expect(NAMES);
            let now = self.began.elapsed();
            inner.tries.push(now);
            if inner.away {
                return Err(OTelSdkError::InternalFailure("connection refused".to_owned()));
            }
            inner.taken.push((now, batch));
            inner.hangs
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

/// An export into a collector of the test's own, with what the log would hold.
struct Rig {
    collector: Collector,
    dispatch: tracing::Dispatch,
    export: Option<TracingExport>,
    log: Log,
}

#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect(NAMES).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().expect(NAMES).clone();
        String::from_utf8(bytes).expect(NAMES).lines().map(str::to_owned).collect()
    }
}

impl Rig {
    fn new(rate: Option<i32>, pace: Pace) -> Self {
        let config = TracingConfiguration { endpoint: None, sampling_rate_per_million: rate };
        let (layer, prepared) = prepare_paced(&config, pace);
        let (collector, log) = (Collector::default(), Log::default());
        let writer = log.clone();
        let printed = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .with_filter(tracing_subscriber::EnvFilter::new(format!("info,{}=off", spans::TARGET)));
        let subscriber = tracing_subscriber::registry().with(vec![layer, printed.boxed()]);
        let dispatch = tracing::Dispatch::new(subscriber);
        let end = CancellationToken::new();
        let exporter = ToCollector { collector: collector.clone(), began: Instant::now() };
        let running = prepared.drain.run(exporter, "collector:4317".to_owned(), end.clone());
        let task =
            tokio::spawn(tracing::instrument::WithSubscriber::with_subscriber(running, dispatch.clone()));
        Self { collector, dispatch, export: Some(TracingExport { end, task }), log }
    }

    /// Makes spans, one after the other.
    fn spans(&self, count: usize) {
        tracing::dispatcher::with_default(&self.dispatch, || {
            for number in 0..count {
                drop(tracing::info_span!(target: spans::TARGET, "work", number));
            }
        });
    }

    async fn finish(&mut self) {
        self.export.take().expect(NAMES).finish().await;
    }
}

const ALL: Option<i32> = Some(1_000_000);

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn spans_go_in_batches_and_at_rest_nothing_does() {
    let mut rig = Rig::new(ALL, Pace::default());
    rig.spans(3);
    pass(4).await;
    assert_eq!(rig.collector.batches(), [] as [usize; 0]);
    pass(2).await;
    assert_eq!(rig.collector.batches(), [3]);
    pass(3600).await;
    assert_eq!(rig.collector.tries(), [5]);
    // A full batch waits for nothing.
    rig.spans(1100);
    tokio::task::yield_now().await;
    pass(1).await;
    assert_eq!(rig.collector.batches(), [3, 512, 512]);
    rig.finish().await;
    assert_eq!(rig.collector.batches(), [3, 512, 512, 76]);
    assert_eq!(rig.log.lines(), [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_is_away_is_told_once_and_tried_ever_more_rarely() {
    let mut rig = Rig::new(ALL, Pace::default());
    rig.collector.set_away(true);
    for _ in 0..30 {
        rig.spans(10);
        pass(10).await;
    }
    let tries = rig.collector.tries();
    let pauses: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(tries[0], 5);
    assert!(pauses.iter().zip(&pauses[1..]).all(|(before, after)| before <= after), "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= 70), "{pauses:?}");
    rig.collector.set_away(false);
    rig.spans(1);
    pass(100).await;
    let lines = rig.log.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("traces cannot be exported to collector:4317"), "{lines:?}");
    assert!(lines[0].contains("connection refused"), "{lines:?}");
    assert!(lines[1].contains("traces are exported to collector:4317 again"), "{lines:?}");
    // What is lost is counted: everything is either there or told.
    let lost: usize = lines[1]
        .split("lost=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|count| count.parse().ok())
        .expect("a count");
    rig.finish().await;
    assert_eq!(lost + rig.collector.spans().len(), 301);
    assert!(lost > 0);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_and_nobody_waits_for_it() {
    let pace = Pace { queue: 20, batch: 10, ..Pace::default() };
    let mut rig = Rig::new(ALL, pace);
    rig.collector.set_away(true);
    rig.spans(1);
    pass(6).await;
    rig.spans(1000);
    rig.collector.set_away(false);
    pass(3600).await;
    rig.finish().await;
    // The task holds one span while it waits for more.
    let arrived = rig.collector.spans().len();
    assert!((20..=21).contains(&arrived), "{arrived}");
}

#[tokio::test(start_paused = true)]
async fn an_orderly_stop_is_short_whatever_the_collector_does() {
    let check = async |set: fn(&mut Inner), limit: Duration| {
        let mut rig = Rig::new(ALL, Pace::default());
        set(&mut rig.collector.0.lock().expect(NAMES));
        rig.spans(5);
        pass(6).await;
        rig.spans(5);
        let began = Instant::now();
        rig.finish().await;
        assert!(began.elapsed() <= limit, "{:?}", began.elapsed());
        // Spans that come later go nowhere and hurt nobody.
        rig.spans(5);
        rig.collector.spans().len()
    };
    assert_eq!(check(|_| (), Duration::ZERO).await, 10);
    assert_eq!(check(|inner| inner.away = true, Duration::ZERO).await, 0);
    assert_eq!(check(|inner| inner.hangs = true, LAST_SPANS).await, 5);
}

#[tokio::test(start_paused = true)]
async fn traces_are_sampled_as_a_whole_and_callers_decide_for_theirs() {
    let check = async |rate: Option<i32>, headers: Option<&str>, exported: usize| {
        let mut rig = Rig::new(rate, Pace::default());
        tracing::dispatcher::with_default(&rig.dispatch, || {
            let request = http::Request::post("/exec/shop/web/main?command=id");
            let request = match headers {
                Some(parent) => request.header("traceparent", parent),
                None => request,
            };
            let nothing = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
            let outer = spans::request(&request.body(nothing).expect(NAMES));
            outer.in_scope(|| drop(tracing::info_span!(target: spans::TARGET, "inner")));
        });
        rig.finish().await;
        let spans = rig.collector.spans();
        assert_eq!(spans.len(), exported, "{rate:?} {headers:?}");
        spans
    };
    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const NOT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    check(ALL, None, 2).await;
    check(Some(0), None, 0).await;
    check(None, None, 0).await;
    check(ALL, Some(NOT), 0).await;
    check(ALL, Some("nonsense"), 2).await;
    let spans = check(None, Some(SAMPLED), 2).await;
    for span in &spans {
        assert_eq!(span.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    }
    let outer = spans.iter().find(|span| span.name == "/exec").expect("it");
    assert_eq!(outer.parent_span_id.to_string(), "b7ad6b7169203331");
    let inner = spans.iter().find(|span| span.name == "inner").expect("it");
    assert_eq!(inner.parent_span_id, outer.span_context.span_id());
}

#[tokio::test(start_paused = true)]
async fn a_span_says_what_failed_and_holds_events_but_is_never_printed() {
    let mut rig = Rig::new(ALL, Pace::default());
    let work = async {
        spans::event("Pulling", "Pulling image \"busybox:1\"");
        tracing::info!("a line of the log");
        let mut metadata = MetadataMap::new();
        fill_metadata(&mut metadata);
        metadata
    };
    let metadata = tracing::instrument::WithSubscriber::with_subscriber(
        async {
            let span = spans::volumes();
            let metadata = work.instrument(span.clone()).await;
            spans::failed(&span, "no such Secret");
            metadata
        },
        rig.dispatch.clone(),
    )
    .await;
    rig.finish().await;
    let spans = rig.collector.spans();
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(span.name, "WaitForAttachAndMount");
    assert_eq!(span.status, opentelemetry::trace::Status::error("no such Secret"));
    let names: Vec<_> = span.events.iter().map(|event| event.name.as_ref()).collect();
    assert_eq!(names, ["Pulling"], "lines of the log are no events");
    assert!(
        span.events
            .iter()
            .any(|event| event.attributes.contains(&KeyValue::new("text", "Pulling image \"busybox:1\""))),
        "{:?}",
        span.events
    );
    let context = &span.span_context;
    let expected = format!("00-{}-{}-01", context.trace_id(), context.span_id());
    assert_eq!(metadata.get("traceparent").map(|value| value.as_bytes()), Some(expected.as_bytes()));
    let lines = rig.log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("a line of the log"), "{lines:?}");
}

#[test]
fn without_the_layer_spans_are_nothing_however_much_is_logged() {
    let (layers, _) = layers(LogFormat::Text, 10, None);
    let subscriber = tracing_subscriber::registry().with(layers);
    tracing::subscriber::with_default(subscriber, || {
        let span = spans::volumes();
        assert!(span.is_disabled());
        let mut metadata = MetadataMap::new();
        span.in_scope(|| fill_metadata(&mut metadata));
        assert!(metadata.is_empty());
        assert!(!tracing::enabled!(target: spans::TARGET, tracing::Level::ERROR));
        assert!(tracing::enabled!(target: "rubelet", tracing::Level::TRACE));
    });
}

#[tokio::test]
async fn a_wrong_endpoint_is_said() {
    let config = TracingConfiguration { endpoint: Some("a b".to_owned()), ..Default::default() };
    let (_layer, prepared) = prepare(&config);
    let problem = prepared.start("n1").expect_err("a host has no blanks");
    assert!(
        crate::logging::chain(&problem).contains("tracing.endpoint \"a b\" cannot be used: "),
        "{problem}"
    );
}

/// Waits until it is so; a collector is asked again within a second.
async fn until(what: &str, so: impl Fn() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_real_collector_comes_goes_and_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("otlp.sock");
    let config = TracingConfiguration {
        endpoint: Some(format!("unix://{}", socket.display())),
        sampling_rate_per_million: ALL,
    };
    let pace =
        Pace { delay: Duration::from_millis(5), longest_pause: Duration::from_millis(20), ..Pace::default() };
    let (layer, prepared) = prepare_paced(&config, pace);
    let log = Log::default();
    let writer = log.clone();
    let printed = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
    let subscriber = tracing_subscriber::registry()
        .with(layer)
        .with(printed.with_filter(tracing_subscriber::EnvFilter::new("warn,rubelet=info,otel=off")));
    let _traced = tracing::subscriber::set_default(subscriber);
    let export = prepared.start("n1").expect("a socket is an endpoint");
    let span = |name: &str| drop(tracing::info_span!(target: spans::TARGET, "work", otel.name = name));
    let count = |word: &str| log.lines().iter().filter(|line| line.contains(word)).count();

    span("nobody is there");
    until("it is said that nobody is there", || count("cannot be exported") == 1).await;
    for back in 1..=2 {
        let collector = rubelet_testkit::otlp::Collector::on_socket(&socket).expect("a socket");
        span("somebody is there");
        until("the span arrives", || collector.spans().iter().any(|span| span.name == "somebody is there"))
            .await;
        until("it is said that somebody is there", || count("are exported") == back).await;
        drop(collector);
        std::fs::remove_file(&socket).expect("the socket");
        span("nobody is there again");
        until("it is said again", || count("cannot be exported") == back + 1).await;
    }
    export.finish().await;
}
