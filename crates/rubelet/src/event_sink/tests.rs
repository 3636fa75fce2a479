//! The sink against the test kit's API server, on a paused clock.

use k8s_openapi::api::core::v1::Event as ApiEvent;
use rubelet_testkit::fake_api::{Failure, FakeApi, Fault, Outage};
use rubelet_testkit::pods;
use serde_json::json;

use super::*;
use crate::clock::Clock;

const NODE: &str = "node";

/// A recorder, its sink running against a server.
struct Bench {
    api: FakeApi,
    recorder: EventRecorder,
    counter: EventSinkCounter,
    task: tokio::task::JoinHandle<Infallible>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bench {
    fn new(qps: f64, burst: u32) -> Self {
        let api = FakeApi::new();
        let recorder = EventRecorder::new(Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap()));
        let pod = Arc::new(pods::pod("web").container(pods::container("main")).build());
        let find: FindPod = Arc::new(move |uid| (uid.as_str() == "web-uid").then(|| pod.clone()));
        let config = EventSinkConfig { node_name: NODE.to_owned(), qps, burst };
        let sink = EventSink::subscribe(&recorder, config, find);
        let counter = sink.counter();
        let task = tokio::spawn(sink.run(api.client("system:node:node")));
        Self { api, recorder, counter, task }
    }

    /// Waits until the sink has dealt with so many events.
    async fn settled(&self, events: u64) {
        let done = || {
            let counts = self.counter.get();
            counts.written + counts.filtered + counts.refused + counts.given_up + counts.dropped
        };
        while done() < events {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(done(), events);
        assert_eq!(self.api.violations(), []);
    }

    fn events(&self) -> Vec<ApiEvent> {
        self.api.list_all()
    }

    /// `message xcount` of every Event, by name.
    fn brief(&self) -> Vec<String> {
        let mut events = self.events();
        events.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let line = |event: &ApiEvent| {
            format!("{} x{}", event.message.as_deref().unwrap_or_default(), event.count.unwrap_or_default())
        };
        events.iter().map(line).collect()
    }
}

fn main_of(name: &str) -> EventSubject {
    EventSubject {
        uid: format!("{name}-uid").into(),
        name: format!("default/{name}"),
        container: Some("main".to_owned()),
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_arrives_and_is_counted_up() {
    let bench = Bench::new(50.0, 100);
    for _ in 0..3 {
        bench.recorder.normal(&main_of("web"), "Pulled", "Container image present");
    }
    bench.recorder.warning(&EventSubject::node(NODE), "Rebooted", "boot");
    bench.recorder.warning(&main_of("unknown"), "Failed", "x");
    bench.settled(5).await;
    assert_eq!(bench.brief().len(), 3);
    let events = bench.events();
    let of = |reason: &str| events.iter().find(|event| event.reason.as_deref() == Some(reason)).unwrap();
    let pulled = of("Pulled");
    assert_eq!(pulled.count, Some(3));
    assert_eq!(pulled.type_.as_deref(), Some("Normal"));
    assert_eq!(pulled.reporting_component.as_deref(), Some("kubelet"));
    assert_eq!(
        serde_json::to_value(&pulled.involved_object).unwrap(),
        json!({
            "apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "web", "uid": "web-uid",
            "fieldPath": "spec.containers{main}",
        })
    );
    let node = of("Rebooted");
    assert_eq!(node.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(node.involved_object.uid.as_deref(), Some(NODE));
    assert_eq!(of("Failed").involved_object.name.as_deref(), Some("unknown"));
    assert_eq!(bench.counter.get().written, 5);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_for_and_nothing_storms_the_server() {
    let bench = Bench::new(50.0, 10);
    bench.api.outage(Outage::Refuse);
    for n in 0..30 {
        let subject = EventSubject { container: None, ..main_of(&format!("p{n}")) };
        bench.recorder.normal(&subject, "Started", "x");
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(bench.api.requests().len() <= 8, "one attempt in ten seconds: {}", bench.api.requests().len());
    assert_eq!(bench.counter.get(), EventSinkCounts::default());
    bench.api.outage(Outage::None);
    bench.api.take_requests();
    bench.settled(30).await;
    assert_eq!(bench.counter.get().written, 30);
    // In the order in which they happened, and no faster than the limit.
    let requests = bench.api.take_requests();
    let names: Vec<_> = requests
        .iter()
        .map(|request| {
            serde_json::from_slice::<ApiEvent>(&request.body).unwrap().involved_object.name.unwrap()
        })
        .collect();
    assert_eq!(names, (0..30).map(|n| format!("p{n}")).collect::<Vec<_>>());
    let (first, last) = (requests[0].at, requests[29].at);
    let took = last.duration_since(first).as_secs_f64();
    assert!((0.36..0.6).contains(&took), "30 events at 50 a second after a burst of 10 took {took} s");
}

#[tokio::test(start_paused = true)]
async fn a_long_outage_drops_the_oldest_and_memory_stays_bounded() {
    let bench = Bench::new(0.0, 0);
    bench.api.outage(Outage::Refuse);
    tokio::task::yield_now().await;
    for n in 0..1500 {
        let subject = EventSubject { container: None, ..main_of(&format!("p{n}")) };
        bench.recorder.normal(&subject, "Started", "x");
        if n == 0 {
            // The first one is being written, no longer in the queue.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(bench.counter.get().dropped, 499);
    // The one under way is given up after twelve attempts.
    tokio::time::sleep(Duration::from_secs(115)).await;
    assert_eq!(bench.counter.get().given_up, 1);
    bench.api.outage(Outage::None);
    bench.settled(1500).await;
    assert_eq!(bench.counter.get().written, 1000);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_final_and_do_not_hold_up_the_rest() {
    let bench = Bench::new(0.0, 0);
    for code in [403, 422, 400] {
        bench.api.fail(Fault::on("create", "events", Failure::Status(code, None)).once());
        bench.recorder.warning(&main_of("web"), &format!("R{code}"), "x");
    }
    bench.recorder.warning(&main_of("web"), "Fine", "x");
    bench.recorder.warning(&EventSubject { name: "nowhere/p".into(), ..main_of("p") }, "Lost", "x");
    bench.settled(5).await;
    assert_eq!(bench.counter.get().refused, 4);
    assert_eq!(bench.brief(), ["x x1"]);
    assert_eq!(bench.api.requests().len(), 5, "nothing was tried twice");
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_server_are_tried_again() {
    for failure in [
        Failure::Status(500, None),
        Failure::Status(503, None),
        Failure::Status(429, None),
        Failure::Status(401, None),
        Failure::Reset,
        Failure::ResetAfter,
        Failure::Hang,
        Failure::Garbage,
        Failure::CutBody,
    ] {
        let bench = Bench::new(0.0, 0);
        bench.api.fail(Fault::on("create", "events", failure.clone()).times(2));
        bench.recorder.warning(&main_of("web"), "R", "x");
        bench.recorder.warning(&main_of("web"), "R", "x");
        bench.settled(2).await;
        assert_eq!(bench.brief(), ["x x2"], "{failure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_expired_is_made_again_with_its_count() {
    let bench = Bench::new(0.0, 0);
    bench.recorder.warning(&main_of("web"), "BackOff", "x");
    bench.settled(1).await;
    let name = bench.events()[0].metadata.name.clone().unwrap();
    bench.api.delete::<ApiEvent>("default", &name);
    bench.recorder.warning(&main_of("web"), "BackOff", "x");
    bench.settled(2).await;
    assert_eq!(bench.brief(), ["x x2"]);
    assert_eq!(bench.events()[0].metadata.name.as_deref(), Some(name.as_str()));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_one_pod_is_filtered() {
    let bench = Bench::new(0.0, 0);
    for _ in 0..100 {
        bench.recorder.warning(&main_of("web"), "BackOff", "x");
    }
    bench.recorder.normal(&main_of("other"), "Started", "y");
    bench.settled(101).await;
    assert_eq!(bench.counter.get().filtered, 75);
    assert_eq!(bench.brief(), ["y x1", "x x25"]);
}
