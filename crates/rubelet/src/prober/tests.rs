//! The prober on a paused clock, with containers that answer what a test says.

mod book;
mod ending;
mod handlers;
mod simulation;
mod timing;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use rubelet_core::Pod;
use rubelet_core::ids::ContainerId;
use rubelet_core::probes::{ProbeKind, ProbeOutcome};
use rubelet_core::verdicts::Verdict;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::book::Ask;
use super::run::Handlers;
use super::{ProbedPod, Prober, RunningContainer, VerdictSink};
use crate::clock::Clock;
use crate::events::EventRecorder;
use crate::metrics::Metrics;

/// What a container does when it is asked.
enum Answer {
    At(Duration, ProbeOutcome),
    Never,
    Panic,
}

fn at_once(outcome: ProbeOutcome) -> Answer {
    Answer::At(Duration::ZERO, outcome)
}

fn well() -> Answer {
    at_once(ProbeOutcome::Success)
}

fn unwell() -> Answer {
    at_once(ProbeOutcome::Failure("no".to_owned()))
}

/// One time that a container was asked.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    /// Since the test began.
    at: Duration,
    id: String,
    kind: ProbeKind,
    ip: Option<String>,
}

type Answering = Box<dyn Fn(&Ask, usize) -> Answer + Send + Sync>;

/// Containers that answer as a function says, which is told how often this probe was asked before.
struct Script {
    start: Instant,
    answer: Answering,
    asked: Mutex<Vec<Asked>>,
    open: Arc<AtomicUsize>,
}

/// Open as long as the question is.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Handlers for Script {
    fn ask<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, ProbeOutcome> {
        let before = {
            let mut asked = self.asked.lock().unwrap();
            let id = ask.id.as_str().to_owned();
            let before = asked.iter().filter(|other| other.id == id && other.kind == ask.kind).count();
            asked.push(Asked { at: self.start.elapsed(), id, kind: ask.kind, ip: ask.ip.clone() });
            before
        };
        self.open.fetch_add(1, Ordering::Relaxed);
        let open = Open(self.open.clone());
        let answer = (self.answer)(ask, before);
        async move {
            let _open = open;
            match answer {
                Answer::At(delay, outcome) => {
                    if !delay.is_zero() {
                        sleep(delay).await;
                    }
                    outcome
                }
                Answer::Never => std::future::pending().await,
                Answer::Panic => panic!("a handler with a mistake"),
            }
        }
        .boxed()
    }
}

/// Writes down what it is told; slow if wanted.
struct Sink {
    start: Instant,
    takes: Duration,
    told: Mutex<Vec<(Duration, String, Verdict)>>,
}

impl Sink {
    fn taking(takes: Duration) -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), takes, told: Mutex::default() })
    }

    fn told(&self) -> Vec<(Duration, String, Verdict)> {
        self.told.lock().unwrap().clone()
    }

    /// What was told about readiness, of all containers.
    fn ready(&self) -> Vec<Option<bool>> {
        self.told().into_iter().map(|(_, _, verdict)| verdict.ready).collect()
    }
}

impl VerdictSink for Sink {
    fn verdict(&self, id: &ContainerId, verdict: Verdict) -> BoxFuture<'_, ()> {
        let id = id.to_string();
        async move {
            sleep(self.takes).await;
            self.told.lock().unwrap().push((self.start.elapsed(), id, verdict));
        }
        .boxed()
    }
}

/// A prober that runs.
struct World {
    prober: Prober,
    script: Arc<Script>,
    sink: Arc<Sink>,
    clock: Clock,
    events: EventRecorder,
    metrics: Metrics,
    task: tokio::task::JoinHandle<()>,
    /// How often the task was woken.
    polls: Arc<AtomicUsize>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl World {
    fn new(answer: impl Fn(&Ask, usize) -> Answer + Send + Sync + 'static) -> Self {
        let clock = Clock::simulated(Timestamp::from_second(1_700_000_000).unwrap());
        Self::with_clock(clock, answer)
    }

    fn with_clock(clock: Clock, answer: impl Fn(&Ask, usize) -> Answer + Send + Sync + 'static) -> Self {
        let start = Instant::now();
        let script = Arc::new(Script {
            start,
            answer: Box::new(answer),
            asked: Mutex::default(),
            open: Arc::default(),
        });
        let (events, metrics) = (EventRecorder::new(clock.clone()), Metrics::new());
        let (prober, task) =
            Prober::with_handlers(script.clone(), events.clone(), metrics.clone(), clock.clone());
        let polls = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn({
            let polls = polls.clone();
            let mut task = Box::pin(task.run());
            std::future::poll_fn(move |context| {
                polls.fetch_add(1, Ordering::Relaxed);
                task.as_mut().poll(context)
            })
        });
        let sink = Sink::taking(Duration::ZERO);
        Self { prober, script, sink, clock, events, metrics, task, polls }
    }

    /// A pod of which everything runs that is in its spec, as if it had been started now.
    fn pod(&self, uid: &str, containers: Value) -> ProbedPod {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("pod-{uid}"), "namespace": "shop", "uid": uid},
            "spec": {"containers": containers},
        }))
        .unwrap();
        let running = pod.spec.iter().flat_map(|spec| &spec.containers);
        let running = running.map(|container| RunningContainer {
            name: container.name.clone(),
            id: format!("{uid}-{}", container.name).into(),
            started_at: self.clock.now(),
            known: Verdict::default(),
        });
        let running = running.collect();
        let (ip, sink) = (Some("10.0.0.7".to_owned()), self.sink.clone());
        ProbedPod { uid: uid.into(), pod: Arc::new(pod), ip, running, ending: false, sink }
    }

    /// When a probe of a container was made.
    fn times(&self, id: &str, kind: ProbeKind) -> Vec<Duration> {
        let asked = self.script.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.id == id && asked.kind == kind).map(|asked| asked.at).collect()
    }

    fn asked(&self) -> usize {
        self.script.asked.lock().unwrap().len()
    }

    /// Type, reason and message of the events, once each.
    fn messages(&self) -> Vec<String> {
        let events = self.events.snapshot().into_iter();
        events.map(|event| format!("{} {}: {}", event.kind.as_str(), event.reason, event.message)).collect()
    }

    /// The samples of a family on the page of probes, without its name.
    fn samples(&self, family: &str) -> Vec<String> {
        let page = self.metrics.render_probes();
        page.lines().filter_map(|line| line.strip_prefix(family)).map(str::to_owned).collect()
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// One container with these probes and an HTTP handler for each.
fn http(probes: Value) -> Value {
    with_handler(probes, "httpGet", json!({"port": 80}))
}

/// One container with these probes and a command for each.
fn exec(probes: Value) -> Value {
    with_handler(probes, "exec", json!({"command": ["true"]}))
}

fn with_handler(mut probes: Value, name: &str, handler: Value) -> Value {
    for probe in probes.as_object_mut().unwrap().values_mut() {
        probe[name] = handler.clone();
    }
    probes["name"] = json!("c");
    json!([probes])
}

#[tokio::test(start_paused = true)]
async fn thresholds_decide_what_the_pod_is_told() {
    let world = World::new(|_, before| match before {
        0..2 => unwell(),
        2..6 => well(),
        6 | 8 => unwell(),
        7 => well(),
        _ => unwell(),
    });
    let probe = json!({"readinessProbe": {"periodSeconds": 5, "successThreshold": 2, "failureThreshold": 3}});
    world.prober.track(world.pod("u", http(probe)));
    sleep(seconds(100)).await;
    assert_eq!(world.sink.ready(), [Some(true), Some(false)]);
    let times = world.times("u-c", ProbeKind::Readiness);
    let told: Vec<_> = world.sink.told().into_iter().map(|(at, id, _)| (at, id)).collect();
    assert_eq!(told, [(times[3], "u-c".to_owned()), (times[10], "u-c".to_owned())], "when it is known");
}

#[tokio::test(start_paused = true)]
async fn what_the_probes_find_is_told_in_upstreams_words() {
    let long = "x".repeat(5000);
    let world = World::new(move |ask, before| {
        let outcome = match (ask.kind, before) {
            (ProbeKind::Liveness, 0) => {
                ProbeOutcome::Failure("HTTP probe failed with statuscode: 500".to_owned())
            }
            (ProbeKind::Liveness, 1..4) => ProbeOutcome::Error("no such port".to_owned()),
            (ProbeKind::Liveness, 4) => ProbeOutcome::Failure(long.clone()),
            (ProbeKind::Readiness, 0) => ProbeOutcome::Warning("redirected".to_owned()),
            _ => ProbeOutcome::Success,
        };
        at_once(outcome)
    });
    let probe = json!({"livenessProbe": {"periodSeconds": 10}, "readinessProbe": {"periodSeconds": 50}});
    world.prober.track(world.pod("u", http(probe)));
    sleep(seconds(59)).await;
    let messages = world.messages();
    assert_eq!(
        messages[..3],
        [
            "Warning ProbeWarning: Readiness probe warning: redirected",
            "Warning Unhealthy: Liveness probe failed: HTTP probe failed with statuscode: 500",
            "Warning Unhealthy: Liveness probe errored and resulted in unknown state: no such port",
        ]
    );
    assert!(messages[3].starts_with("Warning Unhealthy: Liveness probe failed: xxx"));
    assert!((1025..1200).contains(&messages[3].len()), "{}", messages[3].len());
    let subject = &world.events.snapshot()[0].subject;
    assert_eq!((subject.name.as_str(), subject.container.as_deref()), ("shop/pod-u", Some("c")));

    let labels = |kind: &str, result: &str| {
        format!(
            r#"{{probe_type="{kind}",result="{result}",container="c",pod="pod-u",namespace="shop",pod_uid="u"}}"#
        )
    };
    let mut counts = world.samples("prober_probe_total");
    counts.sort();
    let (failed, successful) = (labels("Liveness", "failed"), labels("Liveness", "successful"));
    let ready = labels("Readiness", "successful");
    assert_eq!(counts, [format!("{failed} 2"), format!("{successful} 3"), format!("{ready} 2")]);
    let durations = world.samples("prober_probe_duration_seconds_count");
    assert_eq!(durations.len(), 2, "{durations:?}");
}

#[tokio::test(start_paused = true)]
async fn an_early_look_that_fails_is_no_event() {
    let world = World::new(|_, before| if before < 2 { unwell() } else { well() });
    let probe = json!({"startupProbe": {"periodSeconds": 10, "failureThreshold": 30}, "livenessProbe": {}});
    world.prober.track(world.pod("u", http(probe)));
    sleep(seconds(60)).await;
    assert_eq!(world.times("u-c", ProbeKind::Startup)[0], Duration::ZERO);
    assert_eq!(world.events.snapshot()[0].count, 1, "of the second failure only");
    let started: Vec<_> = world.sink.told().into_iter().map(|(_, _, verdict)| verdict.started).collect();
    assert_eq!(started, [Some(true)]);
    assert!(!world.times("u-c", ProbeKind::Liveness).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_error_is_tried_again_at_once_but_not_for_ever() {
    let world = World::new(|ask, before| match (ask.id.as_str(), before) {
        ("heals-c", 0..2) => at_once(ProbeOutcome::Error("none".to_owned())),
        ("slow-c", _) => Answer::At(seconds(4), ProbeOutcome::Error("none".to_owned())),
        _ => well(),
    });
    for uid in ["heals", "slow"] {
        world.prober.track(
            world.pod(uid, http(json!({"readinessProbe": {"periodSeconds": 5, "timeoutSeconds": 5}}))),
        );
    }
    sleep(seconds(4)).await;
    assert_eq!(world.times("heals-c", ProbeKind::Readiness)[..3], [Duration::ZERO; 3]);
    assert_eq!(world.sink.ready(), [Some(true)]);
    sleep(seconds(100)).await;
    let times = world.times("slow-c", ProbeKind::Readiness);
    assert!((20..=22).contains(&times.len()), "a second try would take the next run's time: {times:?}");
    assert_eq!(world.messages().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_an_error_of_that_run_and_of_no_other() {
    let world = World::new(|ask, before| match (ask.id.as_str(), before) {
        ("bad-c", 0) => Answer::Panic,
        _ => well(),
    });
    for uid in ["bad", "good"] {
        world.prober.track(world.pod(uid, http(json!({"readinessProbe": {"periodSeconds": 5}}))));
    }
    sleep(seconds(20)).await;
    assert_eq!(world.sink.told().len(), 2, "both are ready in the end");
    assert!(world.messages()[0].contains("errored and resulted in unknown state: the agent failed"));
    assert_eq!(world.prober.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_pod_hears_in_order_and_delays_no_other() {
    let world = World::new(|_, before| if before % 2 == 0 { well() } else { unwell() });
    let probe = json!({"readinessProbe": {"periodSeconds": 1, "failureThreshold": 1}});
    let slow = Sink::taking(Duration::from_millis(3500));
    let pod = world.pod("slow", http(probe.clone()));
    world.prober.track(ProbedPod { sink: slow.clone(), ..pod });
    world.prober.track(world.pod("quick", http(probe)));
    sleep(seconds(35)).await;
    let quick = world.sink.told();
    assert_eq!(quick.len(), world.times("quick-c", ProbeKind::Readiness).len());
    for (told, asked) in quick.iter().zip(world.times("quick-c", ProbeKind::Readiness)) {
        assert_eq!(told.0, asked);
    }
    // Each is what was known last when the one before had ended; what was replaced meanwhile is not told.
    let asked = world.times("slow-c", ProbeKind::Readiness);
    for (at, _, verdict) in slow.told() {
        let began = at - Duration::from_millis(3500);
        let known = asked.iter().rposition(|asked| *asked <= began).unwrap();
        assert_eq!(verdict.ready, Some(known % 2 == 0), "told at {at:?}");
    }
    assert!((9..=10).contains(&slow.told().len()), "{:?}", slow.told());
}

#[tokio::test(start_paused = true)]
async fn a_new_worker_hears_what_the_one_before_may_have_lost() {
    let world = World::new(|ask, _| if ask.kind == ProbeKind::Liveness { unwell() } else { well() });
    let probe = json!({"periodSeconds": 1, "failureThreshold": 2});
    let pod = world.pod("u", http(json!({"livenessProbe": probe, "readinessProbe": {"periodSeconds": 1}})));
    world.prober.track(pod.clone());
    sleep(seconds(10)).await;
    let last = |sink: &Sink| sink.told().last().map(|(_, _, verdict)| *verdict);
    let expected = Verdict { ready: Some(true), liveness_failed: true, ..Verdict::default() };
    assert_eq!(last(&world.sink), Some(expected));
    let new = Sink::taking(Duration::ZERO);
    for _ in 0..20 {
        world.prober.track(ProbedPod { sink: new.clone(), ..pod.clone() });
        sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(last(&new), Some(expected), "it knew nothing of it");
}

#[tokio::test(start_paused = true)]
async fn probes_are_asked_at_the_address_that_was_told_last() {
    let world = World::new(|_, _| unwell());
    let pod = world.pod("u", http(json!({"readinessProbe": {"periodSeconds": 1}})));
    world.prober.track(ProbedPod { ip: None, ..pod.clone() });
    sleep(seconds(1)).await;
    world.prober.track(pod);
    sleep(seconds(2)).await;
    let asked = world.script.asked.lock().unwrap();
    assert_eq!(asked.first().unwrap().ip, None);
    assert_eq!(asked.last().unwrap().ip.as_deref(), Some("10.0.0.7"));
}

#[tokio::test(start_paused = true)]
async fn without_probes_the_task_is_never_woken() {
    let world = World::new(|_, _| well());
    sleep(seconds(1)).await;
    let before = world.polls.load(Ordering::Relaxed);
    for number in 0..100 {
        let pod = world.pod(&format!("u{number}"), json!([{"name": "c"}]));
        for _ in 0..3 {
            world.prober.track(pod.clone());
        }
    }
    sleep(seconds(24 * 3600)).await;
    assert_eq!(world.polls.load(Ordering::Relaxed), before);
    assert!(world.prober.shared.book().is_empty());
    // With one it is: twice for each run, and not for what is told again.
    let pod = world.pod("probed", http(json!({"livenessProbe": {"periodSeconds": 10}})));
    world.prober.track(pod.clone());
    for _ in 0..1000 {
        world.prober.track(pod.clone());
        sleep(Duration::from_millis(100)).await;
    }
    let (woken, runs) = (world.polls.load(Ordering::Relaxed) - before, world.asked());
    assert!(runs == 10 && woken <= 2 * runs + 3, "{woken} for {runs} runs");
}

#[tokio::test(start_paused = true)]
async fn the_probes_of_500_pods_are_counted_each() {
    let world = World::new(|_, before| if before.is_multiple_of(2) { well() } else { unwell() });
    let probe = || {
        http(json!({
            "startupProbe": {"periodSeconds": 1},
            "livenessProbe": {"periodSeconds": 1, "failureThreshold": 99},
            "readinessProbe": {"periodSeconds": 1},
        }))
    };
    for number in 0..500 {
        world.prober.track(world.pod(&format!("u{number}"), probe()));
    }
    sleep(seconds(5)).await;
    let counts = world.samples("prober_probe_total");
    assert_eq!(counts.len(), 500 * 5, "startup never fails here");
    let sum: usize =
        counts.iter().map(|count| count.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum();
    assert_eq!(sum, world.asked());
    assert_eq!(world.samples("prober_probe_duration_seconds_count").len(), 500 * 3);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_end_is_given_up() {
    let world = World::new(|_, _| Answer::Never);
    world.prober.track(world.pod("u", http(json!({"readinessProbe": {"periodSeconds": 5}}))));
    sleep(seconds(30)).await;
    assert_eq!(world.asked(), 2);
    assert_eq!(world.script.open.load(Ordering::Relaxed), 1);
    assert!(world.messages()[0].contains("no end within 20 s of its timeout"), "{:?}", world.messages());
}
