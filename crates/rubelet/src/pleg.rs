//! Pleg: reads what the runtime holds and tells who should look again.
//!
//! Truth is read on demand: `observe` asks the runtime for one pod, with a deadline of its own, so that a
//! hung container delays that pod only. Hints (runtime events, an adaptive full relist) only name pods that
//! may have changed; the set of hints is coalesced per pod and never dropped. A status of a container that
//! cannot change any more is read once.

mod alive;
mod lists;
mod lookup;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use rubelet_core::ids::{ContainerId, PodUid, SandboxId};
use rubelet_core::observed::{ObservedContainer, ObservedPod, ObservedSandbox, ObservedState};
use rubelet_cri::observe::{self, ListedPod};
use rubelet_cri::{CriError, CriErrorKind, RuntimeService, v1};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

pub use self::alive::{AliveContainer, AlivePod, AliveSandbox};
use self::lists::ListRecord;
pub use self::lists::Owner;
pub use self::lookup::KnownContainer;
use crate::clock::Clock;
use crate::exit_watch::{ExitWatches, Watched};
use crate::fs_pool::FsPool;
use crate::metrics::Metrics;
use crate::oom::OomWatch;
use crate::termination_log;

/// Relist period while changes come in that no event announced, and whenever the runtime has no events.
const RELIST_MIN: Duration = Duration::from_secs(1);
/// Relist period when events have told everything for a while.
const RELIST_MAX: Duration = Duration::from_secs(30);
/// Shortest time between two lists.
const RELIST_GAP: Duration = Duration::from_millis(50);
/// How long the status of one container or sandbox may take; then the pod is not observed this time.
pub(crate) const STATUS_DEADLINE: Duration = Duration::from_secs(10);
/// How long the lists of one pod may take.
const POD_LIST_DEADLINE: Duration = Duration::from_secs(30);
/// How long a full list may take before it is given up and begun anew. Nobody waits for it but those who wait for
/// changes that no event told.
const LIST_DEADLINE: Duration = Duration::from_secs(60);
/// Label every sandbox and container of ours carries (upstream `types.KubernetesPodUIDLabel`).
const UID_LABEL: &str = "io.kubernetes.pod.uid";

/// Why a pod could not be observed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ObserveError {
    /// The lists failed.
    #[error("cannot list the pod's sandboxes and containers")]
    List(#[source] CriError),
    /// Something of the pod hangs in the runtime, which answers otherwise.
    #[error("{what} is stuck in the container runtime, other pods are not affected")]
    Stuck {
        /// Sandbox or container, with its ID.
        what: String,
        /// How long was waited.
        #[source]
        source: CriError,
    },
    /// The runtime does not tell the state of something: without it no decision about the pod is safe.
    #[error("the runtime does not tell the status of {what}")]
    Status {
        /// Sandbox or container, with its ID.
        what: String,
        /// What the runtime said.
        #[source]
        source: CriError,
    },
    /// The runtime's answer cannot be understood.
    #[error("the runtime's answer cannot be understood: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Garbage(Vec<observe::Problem>),
}

/// One full relist.
#[derive(Debug)]
pub struct Listing {
    /// When the runtime was asked: what ended after that may still be in the list.
    pub began: Instant,
    /// Every pod the runtime holds something of.
    pub pods: BTreeMap<PodUid, ListedPod>,
    /// Pods that are there and of which something cannot be understood: nothing else is known of them.
    pub unreadable: BTreeSet<PodUid>,
}

/// Whether anything of a listed pod is alive: a ready sandbox, or a container that runs or may run.
pub fn is_alive(listed: &ListedPod) -> bool {
    listed.sandboxes.values().any(|ready| *ready) || is_running(listed)
}

/// Whether a container of a listed pod runs or may run.
pub fn is_running(listed: &ListedPod) -> bool {
    let states = listed.containers.values().map(|container| container.state);
    states.into_iter().any(|state| matches!(state, ObservedState::Running | ObservedState::Unknown))
}

/// Handle; cheap to clone.
#[derive(Clone)]
pub struct Pleg {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Arc<dyn RuntimeService>,
    fs: FsPool,
    metrics: Metrics,
    clock: Clock,
    runtime_name: watch::Sender<String>,
    state: Mutex<State>,
    hinted: Notify,
    relist_now: Notify,
    exits: ExitWatches,
    /// Knows of ends that the runtime cannot explain.
    oom: OnceLock<OomWatch>,
    listing: watch::Sender<Option<Arc<Listing>>>,
    lists: Mutex<ListRecord>,
}

#[derive(Default)]
struct State {
    /// Pods somebody should look at.
    hints: BTreeSet<PodUid>,
    /// What was last seen of each pod by list or observation, and when that reading began.
    seen: BTreeMap<PodUid, (ListedPod, Instant)>,
    /// Full statuses by container, as long as the pod is there.
    containers: BTreeMap<ContainerId, (PodUid, ObservedContainer)>,
    /// Full statuses by sandbox.
    sandboxes: BTreeMap<SandboxId, (PodUid, ObservedSandbox)>,
    /// Whether the event stream stands: then the relist may slow down.
    events: bool,
    /// Whether the runtime has no events at all: then processes are watched instead.
    watch_exits: bool,
}

impl Pleg {
    /// A Pleg over a runtime. Nothing is read before `run` or `observe`. The clock is for the age of events.
    pub fn new(runtime: Arc<dyn RuntimeService>, fs: FsPool, metrics: Metrics, clock: Clock) -> Self {
        Self {
            shared: Arc::new(Shared {
                runtime,
                fs,
                metrics,
                clock,
                runtime_name: watch::Sender::new("containerd".into()),
                state: Mutex::default(),
                hinted: Notify::new(),
                relist_now: Notify::new(),
                exits: ExitWatches::default(),
                oom: OnceLock::new(),
                listing: watch::Sender::new(None),
                lists: Mutex::default(),
            }),
        }
    }

    /// The last full list; `None` before the first.
    pub fn listing(&self) -> watch::Receiver<Option<Arc<Listing>>> {
        self.shared.listing.subscribe()
    }

    /// Shows each pod as it was last seen, by a full list or by whoever looked at it since; false before there was a
    /// list, when that says nothing.
    pub fn visit_seen(&self, mut visit: impl FnMut(&ListedPod)) -> bool {
        if self.shared.listing.borrow().is_none() {
            return false;
        }
        self.state().seen.values().for_each(|(listed, _)| visit(listed));
        true
    }

    /// Waits until there are hints. Cancel-safe: the set is the truth, the notification only wakes.
    pub async fn hinted(&self) {
        self.shared.hinted.notified().await;
    }

    /// Takes the hints: pods that may have changed since somebody last looked.
    pub fn take_hints(&self) -> BTreeSet<PodUid> {
        std::mem::take(&mut self.state().hints)
    }

    /// Asks for a full relist soon.
    pub fn relist_soon(&self) {
        self.shared.relist_now.notify_one();
    }

    /// Whether a full list has shown since `observed` began that nothing has changed about a pod.
    pub fn confirms(&self, uid: &PodUid, observed: Instant) -> bool {
        let listed = self
            .shared
            .listing
            .borrow()
            .as_ref()
            .is_some_and(|listing| listing.began > observed && listing.pods.contains_key(uid));
        let state = self.state();
        listed && !state.hints.contains(uid) && state.seen.get(uid).is_some_and(|(_, at)| *at <= observed)
    }

    /// Has the next look at its pod ask for a container's full status: something of it changed that no list shows.
    pub fn reread(&self, id: &ContainerId) {
        self.state().containers.remove(id);
    }

    /// Drops what is remembered of a pod that is gone.
    pub fn forget(&self, uid: &PodUid) {
        let mut state = self.state();
        state.seen.remove(uid);
        state.containers.retain(|_, (of, _)| of != uid);
        state.sandboxes.retain(|_, (of, _)| of != uid);
    }

    /// Reads one pod from the runtime now; the answer is at least as new as the call.
    ///
    /// # Errors
    /// When the lists fail, or when the state of something listed cannot be learnt.
    pub async fn observe(&self, uid: &PodUid) -> Result<ObservedPod, ObserveError> {
        let began = Instant::now();
        let observed = self.read(uid, began).await;
        if observed.is_ok() {
            self.lists_record().observed();
        }
        self.shared.metrics.runtime.pod_relist_duration.observe_duration(began.elapsed());
        observed
    }

    async fn read(&self, uid: &PodUid, began: Instant) -> Result<ObservedPod, ObserveError> {
        let selector: BTreeMap<String, String> = [(UID_LABEL.to_owned(), uid.to_string())].into();
        let sandboxes = self.shared.runtime.list_pod_sandbox(v1::ListPodSandboxRequest {
            filter: Some(v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() }),
        });
        let containers = self.shared.runtime.list_containers(v1::ListContainersRequest {
            filter: Some(v1::ContainerFilter { label_selector: selector, ..Default::default() }),
        });
        let (sandboxes, containers) = futures::try_join!(
            with_deadline("ListPodSandbox", POD_LIST_DEADLINE, sandboxes),
            with_deadline("ListContainers", POD_LIST_DEADLINE, containers)
        )
        .map_err(ObserveError::List)?;
        let mut listing = observe::Listing::observe(&sandboxes.items, &containers.containers);
        if !listing.problems.is_empty() {
            return Err(ObserveError::Garbage(listing.problems));
        }
        let Some(listed) = listing.pods.remove(uid) else {
            self.saw(uid, None, began);
            return Ok(ObservedPod::absent(uid.clone()));
        };

        // What is known already is taken from memory; the rest is asked for, all at once.
        let mut known = ObservedPod::absent(uid.clone());
        let (mut ask_sandboxes, mut ask_containers) = (vec![], vec![]);
        {
            let state = self.state();
            for (id, ready) in &listed.sandboxes {
                match state.sandboxes.get(id).filter(|(_, sandbox)| is_settled(sandbox, *ready)) {
                    Some((_, sandbox)) => known.sandboxes.push(sandbox.clone()),
                    None => ask_sandboxes.push(id.clone()),
                }
            }
            for (id, container) in &listed.containers {
                let same = |known: &ObservedContainer| {
                    known.state == container.state && known.state != ObservedState::Unknown
                };
                match state.containers.get(id).filter(|(_, container)| same(container)) {
                    Some((_, container)) => known.containers.push(container.clone()),
                    None => ask_containers.push(id.clone()),
                }
            }
        }
        let sandboxes = join_all(ask_sandboxes.iter().map(|id| self.sandbox_status(id)));
        let containers = join_all(ask_containers.iter().map(|id| self.container_status(id)));
        let (sandboxes, containers) = futures::join!(sandboxes, containers);
        let sandboxes: Vec<_> =
            sandboxes.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let containers: Vec<_> =
            containers.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let (mut fresh, details) =
            observe::observe_pod(&listed, &sandboxes, &containers).map_err(ObserveError::Garbage)?;
        for detail in details {
            warn!(pod = fresh.name, "the runtime tells something odd: {detail}");
        }
        if let Some(oom) = self.oom_watch() {
            oom.correct(uid, &mut fresh.containers).await;
        }
        let ended = fresh.containers.iter_mut().filter(|container| container.state == ObservedState::Exited);
        join_all(ended.map(|container| async {
            container.termination_message = termination_log::read(&self.shared.fs, container).await;
        }))
        .await;
        {
            let mut state = self.state();
            for sandbox in &fresh.sandboxes {
                state.sandboxes.insert(sandbox.id.clone(), (uid.clone(), sandbox.clone()));
            }
            for container in &fresh.containers {
                state.containers.insert(container.id.clone(), (uid.clone(), container.clone()));
            }
        }
        self.saw(uid, Some(listed), began);
        self.watch_exits_of(&fresh);
        fresh.sandboxes.extend(known.sandboxes);
        fresh.containers.extend(known.containers);
        fresh.sort();
        Ok(fresh)
    }

    /// Without events of the runtime: hears of the ends of what runs from the kernel.
    fn watch_exits_of(&self, pod: &ObservedPod) {
        if !self.state().watch_exits {
            return;
        }
        let containers = pod.containers.iter().filter(|container| container.state == ObservedState::Running);
        let sandboxes = pod.sandboxes.iter().filter(|sandbox| sandbox.ready);
        let alive = containers
            .map(|container| (Watched::Container, container.id.as_str()))
            .chain(sandboxes.map(|sandbox| (Watched::Sandbox, sandbox.id.as_str())));
        for (kind, id) in alive {
            self.watch_exit_of(kind, id, &pod.uid);
        }
    }

    fn watch_exit_of(&self, kind: Watched, id: &str, uid: &PodUid) {
        // Weak, because the watches are a part of what they would keep alive.
        let (shared, uid) = (Arc::downgrade(&self.shared), uid.clone());
        self.shared.exits.watch(self.shared.runtime.clone(), kind, id, move || {
            if let Some(shared) = shared.upgrade() {
                Self { shared }.hint(uid);
            }
        });
    }

    /// Says that somebody should look at a pod.
    fn hint(&self, uid: PodUid) {
        if self.state().hints.insert(uid) {
            self.shared.hinted.notify_one();
        }
    }

    /// Remembers what was seen of a pod, unless something newer is remembered already.
    fn saw(&self, uid: &PodUid, listed: Option<ListedPod>, began: Instant) {
        let mut state = self.state();
        if state.seen.get(uid).is_some_and(|(_, at)| *at > began) {
            return;
        }
        match listed {
            Some(listed) => state.seen.insert(uid.clone(), (listed, began)),
            None => state.seen.remove(uid),
        };
    }

    /// The full status of a sandbox; `None` when it has vanished since it was listed.
    async fn sandbox_status(&self, id: &SandboxId) -> Result<Option<v1::PodSandboxStatus>, ObserveError> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_string(), verbose: false };
        match with_deadline(
            "PodSandboxStatus",
            STATUS_DEADLINE,
            self.shared.runtime.pod_sandbox_status(request),
        )
        .await
        {
            Ok(response) => Ok(response.status),
            Err(error) if error.is_not_found() => Ok(None),
            Err(source) => Err(untold(format!("sandbox {id}"), source)),
        }
    }

    /// The full status of a container; `None` when it has vanished since it was listed.
    async fn container_status(&self, id: &ContainerId) -> Result<Option<v1::ContainerStatus>, ObserveError> {
        let request = v1::ContainerStatusRequest { container_id: id.to_string(), verbose: false };
        match with_deadline("ContainerStatus", STATUS_DEADLINE, self.shared.runtime.container_status(request))
            .await
        {
            Ok(response) => Ok(response.status),
            Err(error) if error.is_not_found() => Ok(None),
            Err(source) => Err(untold(format!("container {id}"), source)),
        }
    }

    /// Relists for ever and follows the event stream where the runtime has one. Owned by the kubelet; ends
    /// only by being dropped.
    pub async fn run(&self) {
        futures::join!(self.relist_loop(), self.event_loop());
    }

    async fn relist_loop(&self) {
        let mut period = RELIST_MIN;
        let mut last: Option<Instant> = None;
        loop {
            let (began, metrics) = (Instant::now(), &self.shared.metrics.runtime);
            if let Some(last) = last {
                metrics.relist_interval.observe_duration(began - last);
            }
            self.lists_record().begins();
            let relisted = self.relist().await;
            let took = began.elapsed();
            metrics.relist_duration.observe_duration(took);
            let found_unannounced = match relisted {
                Ok(found) => {
                    last = Some(began);
                    self.lists_record().succeeded();
                    found
                }
                Err(error) => {
                    let text = error.to_string();
                    if self.lists_record().failed(&text) {
                        warn!("cannot list what the runtime holds: {text}");
                    }
                    true
                }
            };
            period = match found_unannounced || !self.announced() {
                true => RELIST_MIN,
                false => (period * 2).min(RELIST_MAX),
            };
            // A runtime for which lists are work is not kept busy with them.
            let pause = period.max(took.min(RELIST_MAX));
            // Both arms are cancel-safe: a timer, and a Notify whose permit is kept.
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = self.shared.relist_now.notified() => {
                    period = RELIST_MIN;
                    // However often it is asked for, the list is not read back to back.
                    tokio::time::sleep(RELIST_GAP).await;
                }
            }
        }
    }

    /// Whether changes announce themselves: by events, or because every process that runs is watched.
    fn announced(&self) -> bool {
        let state = self.state();
        if !state.watch_exits {
            return state.events;
        }
        let running = |id: &str, kind| match kind {
            Watched::Container => state
                .containers
                .get(&ContainerId::from(id))
                .is_some_and(|(_, container)| container.state == ObservedState::Running),
            Watched::Sandbox => {
                state.sandboxes.get(&SandboxId::from(id)).is_some_and(|(_, sandbox)| sandbox.ready)
            }
        };
        self.shared.exits.keep(|kind, id| running(id, kind));
        for (id, (uid, _)) in state.containers.iter().filter(|(_, (_, c))| c.state == ObservedState::Running)
        {
            self.watch_exit_of(Watched::Container, id.as_str(), uid);
        }
        for (id, (uid, _)) in state.sandboxes.iter().filter(|(_, (_, s))| s.ready) {
            self.watch_exit_of(Watched::Sandbox, id.as_str(), uid);
        }
        let containers = state.containers.iter().filter(|(_, (_, c))| c.state == ObservedState::Running);
        let sandboxes = state.sandboxes.iter().filter(|(_, (_, s))| s.ready);
        self.shared.exits.cover(
            containers
                .map(|(id, _)| (Watched::Container, id.as_str()))
                .chain(sandboxes.map(|(id, _)| (Watched::Sandbox, id.as_str()))),
        )
    }

    /// One full list. Returns whether it found a change that nobody had announced.
    async fn relist(&self) -> Result<bool, CriError> {
        let began = Instant::now();
        let sandboxes = self.shared.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default());
        let containers = self.shared.runtime.list_containers(v1::ListContainersRequest::default());
        let (sandboxes, containers) = futures::try_join!(
            with_deadline("ListPodSandbox", LIST_DEADLINE, sandboxes),
            with_deadline("ListContainers", LIST_DEADLINE, containers)
        )?;
        let observe::Listing { pods, problems } =
            observe::Listing::observe(&sandboxes.items, &containers.containers);
        let mut unreadable = BTreeSet::new();
        for problem in problems {
            debug!("left out of the list: {problem}");
            unreadable.extend(problem.pod);
        }

        let mut changed = false;
        {
            let mut state = self.state();
            let state = &mut *state;
            for (uid, listed) in &pods {
                let news = match state.seen.get(uid) {
                    Some((known, at)) => *at <= began && known != listed,
                    None => true,
                };
                if news {
                    state.seen.insert(uid.clone(), (listed.clone(), began));
                    changed |= state.hints.insert(uid.clone());
                }
            }
            let gone: Vec<PodUid> = state
                .seen
                .iter()
                .filter(|(uid, (_, at))| *at <= began && !pods.contains_key(uid))
                .map(|(uid, _)| uid.clone())
                .collect();
            for uid in gone {
                state.seen.remove(&uid);
                changed |= state.hints.insert(uid);
            }
            // Bounded by what the runtime holds: containers and sandboxes that are gone are forgotten.
            let live: BTreeSet<&str> = containers.containers.iter().map(|c| c.id.as_str()).collect();
            state.containers.retain(|id, (uid, _)| {
                live.contains(id.as_str()) || state.seen.get(uid).is_some_and(|(_, at)| *at > began)
            });
            let live: BTreeSet<&str> = sandboxes.items.iter().map(|s| s.id.as_str()).collect();
            state.sandboxes.retain(|id, (uid, _)| {
                live.contains(id.as_str()) || state.seen.get(uid).is_some_and(|(_, at)| *at > began)
            });
        }
        self.shared.listing.send_if_modified(|current| {
            let news =
                current.as_ref().is_none_or(|before| before.pods != pods || before.unreadable != unreadable);
            *current = Some(Arc::new(Listing { began, pods, unreadable }));
            news
        });
        if changed {
            self.shared.hinted.notify_one();
        }
        Ok(changed)
    }

    async fn event_loop(&self) {
        let mut pause = RELIST_MIN;
        loop {
            match self.shared.runtime.container_events().await {
                Ok(mut events) => {
                    info!("following the runtime's container events");
                    self.shared.metrics.runtime.event_streams.inc();
                    self.state().events = true;
                    // Whatever happened while nobody listened is found by a relist.
                    self.shared.relist_now.notify_one();
                    loop {
                        match events.next().await {
                            Some(Ok(event)) => {
                                pause = RELIST_MIN;
                                self.count_event(&event);
                                self.take_event(&event);
                            }
                            Some(Err(error)) => {
                                if error.kind == CriErrorKind::Unimplemented {
                                    self.no_events();
                                    return;
                                }
                                debug!("container events ended: {error}");
                                self.shared.metrics.runtime.event_stream_errors.inc();
                                break;
                            }
                            None => break,
                        }
                    }
                    self.state().events = false;
                    self.shared.relist_now.notify_one();
                }
                Err(error) if error.kind == CriErrorKind::Unimplemented => {
                    self.no_events();
                    return;
                }
                Err(error) => {
                    debug!("no container events: {error}");
                    self.shared.metrics.runtime.event_stream_errors.inc();
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RELIST_MAX);
        }
    }

    fn no_events(&self) {
        {
            let mut state = self.state();
            state.events = false;
            state.watch_exits = true;
            // What was observed before this was known is observed again, so that it gets watched.
            state.containers.clear();
            state.sandboxes.clear();
            let seen: Vec<PodUid> = state.seen.keys().cloned().collect();
            state.hints.extend(seen);
        }
        self.shared.hinted.notify_one();
        info!("this runtime has no container events; the ends of processes are watched instead");
    }

    /// Counts how old an event is when it is heard.
    fn count_event(&self, event: &v1::ContainerEventResponse) {
        let Ok(made) = jiff::Timestamp::from_nanosecond(event.created_at.into()) else { return };
        if event.created_at > 0
            && let Ok(age) = Duration::try_from(self.shared.clock.now().duration_since(made))
        {
            self.shared.metrics.runtime.event_latency.observe_duration(age);
        }
    }

    /// An event is news unless the state it announces has been read already.
    fn take_event(&self, event: &v1::ContainerEventResponse) {
        let Some(uid) = observe::pod_of_event(event) else {
            self.shared.relist_now.notify_one();
            return;
        };
        use v1::ContainerEventType::{
            ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
        };
        let state = self.state();
        let known =
            state.containers.get(&ContainerId::new(event.container_id.as_str())).map(|(_, c)| c.state);
        let old_news = match event.container_event_type() {
            ContainerCreatedEvent => known.is_some(),
            ContainerStartedEvent => matches!(known, Some(ObservedState::Running | ObservedState::Exited)),
            ContainerStoppedEvent => known == Some(ObservedState::Exited),
            ContainerDeletedEvent => false,
        };
        drop(state);
        if !old_news {
            self.hint(uid);
        }
    }

    /// Names the runtime, as `Version` told it: the scheme of container IDs in statuses.
    pub fn set_runtime_name(&self, name: &str) {
        self.shared.runtime_name.send_replace(name.to_owned());
    }

    /// The runtime's name.
    pub fn runtime_name(&self) -> String {
        self.shared.runtime_name.borrow().clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a remembered sandbox still tells the truth: same state, and the address it may have got later is there.
fn is_settled(sandbox: &ObservedSandbox, ready: bool) -> bool {
    sandbox.ready == ready && (!ready || sandbox.host_network || !sandbox.ips.is_empty())
}

/// Why the state of something could not be learnt, from what came instead of it.
fn untold(what: String, source: CriError) -> ObserveError {
    match source.kind {
        CriErrorKind::DeadlineExceeded => ObserveError::Stuck { what, source },
        _ => ObserveError::Status { what, source },
    }
}

async fn with_deadline<T>(
    operation: &'static str,
    limit: Duration,
    call: rubelet_cri::CriFuture<T>,
) -> Result<T, CriError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(CriError::new(
            operation,
            CriErrorKind::DeadlineExceeded,
            format!("no answer within {} s", limit.as_secs()),
        )),
    }
}
