//! The event sink: what `EventRecorder` hears becomes Events in the API.
//!
//! One task writes one Event after the other, so that the order in which things happened to an object stays, and
//! a server that comes back is not stormed. What repeats is counted, combined or left out by
//! `rubelet_core::event_correlation`. Whoever records an event never waits: a bounded queue stands in between.
//! An Event is tried twelve times, ten seconds apart, as client-go does; then the next one has its turn. What the
//! server refuses is given up at once and said once per namespace.

mod answer;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event as ApiEvent, ObjectReference};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use rubelet_core::Pod;
use rubelet_core::event_correlation::{Correlator, Occurrence, Posting, node_reference, pod_reference};
use rubelet_core::ids::PodUid;
use rubelet_core::token_bucket::TokenBucket;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use self::answer::{Outcome, outcome};
use self::queue::Queue;
use crate::events::{Event, EventRecorder, EventSubject};
use crate::table::PodTable;

/// The component that Events come from.
const COMPONENT: &str = "kubelet";
/// Attempts for one Event (client-go `maxTriesPerEvent`).
const TRIES: u32 = 12;
/// Time between attempts; the first wait is a part of it, so that nodes do not keep step (`defaultSleepDuration`).
const RETRY: Duration = Duration::from_secs(10);
/// How long one attempt may take.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(30);
/// Refusals that are remembered as said.
const SAID_LIMIT: usize = 256;

/// Finds the pod of a UID, so that its Events can point into it.
pub type FindPod = Arc<dyn Fn(&PodUid) -> Option<Arc<Pod>> + Send + Sync>;

/// Settings of the sink.
#[derive(Clone, Debug)]
pub struct EventSinkConfig {
    /// Name of the node: the Events' host.
    pub node_name: String,
    /// `eventRecordQPS`; 0 for no limit.
    pub qps: f64,
    /// `eventBurst`.
    pub burst: u32,
}

/// What the sink has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventSinkCounts {
    /// Events created or counted up in the API.
    pub written: u64,
    /// Left out because the object had too many.
    pub filtered: u64,
    /// Refused by the server.
    pub refused: u64,
    /// Given up after the last attempt.
    pub given_up: u64,
    /// Dropped from the full queue.
    pub dropped: u64,
}

/// Reads the counts of a sink; cheap to clone.
#[derive(Clone)]
pub struct EventSinkCounter {
    queue: Arc<Queue>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    written: AtomicU64,
    filtered: AtomicU64,
    refused: AtomicU64,
    given_up: AtomicU64,
}

impl EventSinkCounter {
    /// The counts now.
    pub fn get(&self) -> EventSinkCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EventSinkCounts {
            written: read(&self.counters.written),
            filtered: read(&self.counters.filtered),
            refused: read(&self.counters.refused),
            given_up: read(&self.counters.given_up),
            dropped: self.queue.dropped(),
        }
    }
}

/// The sink. Made by [`Self::subscribe`], which begins to collect; [`Self::run`] sends.
pub struct EventSink {
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    config: EventSinkConfig,
    correlator: Correlator,
    /// Refusals that were said: code and namespace.
    said: BTreeSet<(u16, String)>,
    /// The server did not answer the last attempt.
    failing: bool,
    /// Counts waits, for their jitter.
    waits: u64,
}

/// The limit of `eventRecordQPS`.
struct Pace {
    start: Instant,
    bucket: Option<TokenBucket>,
}

impl Pace {
    fn new(config: &EventSinkConfig) -> Self {
        let limited = config.qps > 0.0;
        let bucket = limited.then(|| TokenBucket::new(config.qps, config.burst, Duration::ZERO));
        Self { start: Instant::now(), bucket }
    }

    async fn wait(&mut self) {
        let now = self.start.elapsed();
        let wait = self.bucket.as_mut().map(|bucket| bucket.reserve(now)).unwrap_or_default();
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

impl EventSink {
    /// Collects the events of a recorder from now on. Pods are looked up when their event happens.
    pub fn subscribe(recorder: &EventRecorder, config: EventSinkConfig, find_pod: FindPod) -> Self {
        let queue = Arc::new(Queue::default());
        let writer = queue.clone();
        let taken = recorder.subscribe(move |event| writer.push(occurrence(event, &find_pod)));
        if !taken {
            warn!("events have a sink already; another one will stay empty");
        }
        let correlator = Correlator::new(COMPONENT, &config.node_name);
        let (counters, said) = (Arc::default(), BTreeSet::new());
        Self { queue, counters, config, correlator, said, failing: false, waits: 0 }
    }

    /// As [`Self::subscribe`], looking pods up in the table.
    pub fn subscribe_with_table(recorder: &EventRecorder, config: EventSinkConfig, table: &PodTable) -> Self {
        let table = table.clone();
        Self::subscribe(recorder, config, Arc::new(move |uid| table.get(uid).map(|row| row.pod)))
    }

    /// For metrics.
    pub fn counter(&self) -> EventSinkCounter {
        EventSinkCounter { queue: self.queue.clone(), counters: self.counters.clone() }
    }

    /// Sends what was collected and what comes, until dropped. Dropping it loses the Event being written at most.
    pub async fn run(mut self, client: kube::Client) -> Infallible {
        let mut pace = Pace::new(&self.config);
        loop {
            let occurrence = self.queue.next().await;
            match self.correlator.observe(occurrence) {
                Some(posting) => self.deliver(&client, &mut pace, &posting).await,
                None => count(&self.counters.filtered),
            }
        }
    }

    /// Writes one Event, or gives it up.
    async fn deliver(&mut self, client: &kube::Client, pace: &mut Pace, posting: &Posting) {
        let namespace = posting.event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<ApiEvent> = Api::namespaced(client.clone(), &namespace);
        for attempt in 1..=TRIES {
            match write(&api, pace, posting).await {
                Outcome::Written => {
                    count(&self.counters.written);
                    self.recovered();
                    return;
                }
                Outcome::Gone => {
                    return self.refused(404, namespace, false, "the namespace does not exist");
                }
                Outcome::Refused { code, expected, message } => {
                    return self.refused(code, namespace, expected, &message);
                }
                Outcome::Failed(problem) => self.failed(&problem),
            }
            if attempt < TRIES {
                let wait = if attempt == 1 { RETRY.mul_f64(self.jitter()) } else { RETRY };
                sleep(wait).await;
            }
        }
        count(&self.counters.given_up);
        let name = posting.event.metadata.name.as_deref().unwrap_or_default();
        debug!(namespace, name, "gave an event up after {TRIES} attempts");
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.failing) {
            let EventSinkCounts { given_up, dropped, .. } = self.counter().get();
            info!(given_up, dropped, "events reach the API server again");
        }
    }

    fn failed(&mut self, problem: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            warn!("events do not reach the API server and are kept for a while: {problem}");
        }
    }

    fn refused(&mut self, code: u16, namespace: String, expected: bool, message: &str) {
        self.recovered();
        count(&self.counters.refused);
        if self.said.len() >= SAID_LIMIT {
            self.said.clear();
        }
        if expected {
            debug!(namespace, code, "event left out: {message}");
        } else if self.said.insert((code, namespace.clone())) {
            warn!(namespace, code, "the API server refuses events; further ones are left out: {message}");
        }
    }

    /// A fraction that differs from node to node and from wait to wait, and is the same in every replay.
    fn jitter(&mut self) -> f64 {
        self.waits += 1;
        let mut hasher = DefaultHasher::new();
        (&self.config.node_name, self.waits).hash(&mut hasher);
        let [high, low, ..] = hasher.finish().to_be_bytes();
        f64::from(u16::from_be_bytes([high, low])) / f64::from(u16::MAX)
    }
}

/// One attempt: counts an Event up, or creates it when it is new or gone.
async fn write(api: &Api<ApiEvent>, pace: &mut Pace, posting: &Posting) -> Outcome {
    if posting.update {
        pace.wait().await;
        let name = posting.event.metadata.name.as_deref().unwrap_or_default();
        let (params, patch) = (PatchParams::default(), Patch::Strategic(posting.patch()));
        let counted = limited(api.patch(name, &params, &patch)).await;
        if counted != Outcome::Gone {
            return counted;
        }
    }
    pace.wait().await;
    limited(api.create(&PostParams::default(), &posting.event)).await
}

async fn limited<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Outcome {
    match timeout(ATTEMPT_LIMIT, request).await {
        Ok(answer) => outcome(answer),
        Err(_) => Outcome::Failed(format!("no answer within {} s", ATTEMPT_LIMIT.as_secs())),
    }
}

fn occurrence(event: &Event, find_pod: &FindPod) -> Occurrence {
    Occurrence {
        object: reference(&event.subject, find_pod),
        kind: event.kind.as_str(),
        reason: event.reason.clone(),
        message: event.message.clone(),
        annotations: event.annotations.clone(),
        at: event.last,
    }
}

/// What an event is about, as the API refers to it.
fn reference(subject: &EventSubject, find_pod: &FindPod) -> ObjectReference {
    if subject.uid.as_str().is_empty() {
        return node_reference(&subject.name);
    }
    if let Some(pod) = find_pod(&subject.uid) {
        return pod_reference(&pod, subject.container.as_deref());
    }
    // Not known yet or no longer: what the subject says is enough for `kubectl describe`.
    let (namespace, name) = subject.name.split_once('/').unwrap_or(("default", &subject.name));
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(subject.uid.to_string()),
        field_path: subject.container.as_ref().map(|name| format!("spec.containers{{{name}}}")),
        ..Default::default()
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
