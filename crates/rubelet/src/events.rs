//! Events: what a user sees in `kubectl describe pod`. They go to the log, to a bounded ring that the read side
//! and the tests look at, and to one subscriber, the event sink, which sends them to the API. Repeated events of
//! one pod are counted and logged once a minute, so that a pod cannot flood the log. Recording never blocks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jiff::Timestamp;
use rubelet_core::Pod;
use rubelet_core::ids::{PodKey, PodUid, pod_uid};
use tracing::{info, warn};

use crate::clock::Clock;

/// How many events are kept.
const RING: usize = 1024;
/// An event equal to an earlier one of the last this many seconds is only counted; one that goes on is logged so often.
const REPEAT_SECONDS: i64 = 60;

/// Normal or Warning, as in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Something expected.
    Normal,
    /// Something to look at.
    Warning,
}

impl EventType {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Who an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSubject {
    /// Pod UID; empty for the node.
    pub uid: PodUid,
    /// `namespace/name`, or the node's name.
    pub name: String,
    /// Container name, if it is about one.
    pub container: Option<String>,
}

impl EventSubject {
    /// A pod as a whole.
    pub fn pod(pod: &Pod) -> Self {
        Self { uid: pod_uid(pod), name: PodKey::of(pod).to_string(), container: None }
    }

    /// The node.
    pub fn node(name: &str) -> Self {
        Self { uid: PodUid::from(""), name: name.to_owned(), container: None }
    }
}

/// One event with its count.
#[derive(Clone, Debug)]
pub struct Event {
    /// Normal or Warning.
    pub kind: EventType,
    /// Upstream's reason, for example `Pulled`.
    pub reason: String,
    /// Message.
    pub message: String,
    /// Annotations of the API's object, for programs.
    pub annotations: BTreeMap<String, String>,
    /// Subject.
    pub subject: EventSubject,
    /// First time.
    pub first: Timestamp,
    /// Last time.
    pub last: Timestamp,
    /// How often.
    pub count: u32,
}

/// Hears every event, each with a count of one.
type Subscriber = Box<dyn Fn(&Event) + Send + Sync>;

/// An event in the ring.
struct Kept {
    event: Event,
    /// When the log was told last.
    logged: Timestamp,
}

/// Records events; cheap to clone.
#[derive(Clone)]
pub struct EventRecorder {
    clock: Clock,
    ring: Arc<Mutex<VecDeque<Kept>>>,
    subscriber: Arc<OnceLock<Subscriber>>,
}

impl EventRecorder {
    /// An empty recorder.
    pub fn new(clock: Clock) -> Self {
        Self { clock, ring: Arc::default(), subscriber: Arc::default() }
    }

    /// From now on tells `subscriber` of every event, repeated ones too, in the caller's thread: it must neither
    /// block nor record events. There can be one; says whether this one was taken.
    pub fn subscribe(&self, subscriber: impl Fn(&Event) + Send + Sync + 'static) -> bool {
        self.subscriber.set(Box::new(subscriber)).is_ok()
    }

    /// Records a Normal event.
    pub fn normal(&self, subject: &EventSubject, reason: &str, message: impl Into<String>) {
        self.record(EventType::Normal, subject, reason, message.into(), BTreeMap::new());
    }

    /// Records a Warning event.
    pub fn warning(&self, subject: &EventSubject, reason: &str, message: impl Into<String>) {
        self.record(EventType::Warning, subject, reason, message.into(), BTreeMap::new());
    }

    /// Records a Warning event with annotations for programs.
    pub fn annotated_warning(
        &self,
        subject: &EventSubject,
        reason: &str,
        message: impl Into<String>,
        annotations: BTreeMap<String, String>,
    ) {
        self.record(EventType::Warning, subject, reason, message.into(), annotations);
    }

    fn record(
        &self,
        kind: EventType,
        subject: &EventSubject,
        reason: &str,
        message: String,
        annotations: BTreeMap<String, String>,
    ) {
        let now = self.clock.now();
        let event = Event {
            kind,
            reason: reason.to_owned(),
            message,
            annotations,
            subject: subject.clone(),
            first: now,
            last: now,
            count: 1,
        };
        crate::tracing_export::spans::event(reason, &event.message);
        if let Some(subscriber) = self.subscriber.get() {
            subscriber(&event);
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let repeated = ring.iter_mut().rev().find(|Kept { event: known, .. }| {
            known.subject == event.subject
                && known.reason == event.reason
                && known.message == event.message
                && now.as_second() - known.last.as_second() < REPEAT_SECONDS
        });
        if let Some(Kept { event: known, logged }) = repeated {
            known.count += 1;
            known.last = now;
            if now.as_second() - logged.as_second() >= REPEAT_SECONDS {
                *logged = now;
                log(known);
            }
            return;
        }
        log(&event);
        if ring.len() == RING {
            ring.pop_front();
        }
        ring.push_back(Kept { event, logged: now });
    }

    /// The events kept, oldest first.
    pub fn snapshot(&self) -> Vec<Event> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().map(|kept| kept.event.clone()).collect()
    }
}

fn log(event: &Event) {
    let Event { subject, reason, message, .. } = event;
    let (object, container) = (&subject.name, subject.container.as_deref().unwrap_or_default());
    let count = (event.count > 1).then_some(event.count);
    match event.kind {
        EventType::Normal => info!(object, container, reason, count, "{message}"),
        EventType::Warning => warn!(object, container, reason, count, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_repeated_event_is_counted_and_the_ring_is_bounded() {
        let events = EventRecorder::new(Clock::simulated(Timestamp::UNIX_EPOCH));
        let subject = EventSubject { uid: "u".into(), name: "default/p".into(), container: None };
        for _ in 0..5 {
            events.warning(&subject, "FailedSync", "no luck");
        }
        for n in 0..2 * RING {
            events.normal(&subject, "Pulled", format!("image {n}"));
        }
        let kept = events.snapshot();
        assert_eq!(kept.len(), RING);
        let events = EventRecorder::new(Clock::simulated(Timestamp::UNIX_EPOCH));
        for _ in 0..5 {
            events.warning(&subject, "FailedSync", "no luck");
        }
        assert_eq!(events.snapshot().iter().map(|e| e.count).collect::<Vec<_>>(), [5]);
    }

    /// A place for the log.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_goes_on_is_logged_once_a_minute_with_its_count() {
        let log = Log::default();
        let writer = log.clone();
        let printed = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(move || writer.clone())
            .finish();
        let _guard = tracing::subscriber::set_default(printed);
        let events = EventRecorder::new(Clock::simulated(Timestamp::UNIX_EPOCH));
        let subject = EventSubject { uid: "u".into(), name: "default/p".into(), container: None };
        for _ in 0..25 {
            events.warning(&subject, "Unhealthy", "no");
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        }
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        // Spans have events of their own.
        let lines = text.lines().filter(|line| line.contains("WARN"));
        let counts: Vec<_> = lines.map(|line| line.split_once("count=").map(|(_, n)| n)).collect();
        assert_eq!(counts, [None, Some("13"), Some("25")], "{text}");
    }
}
