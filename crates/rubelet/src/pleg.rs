//! Pleg: reads what the runtime holds and tells who should look again.
//!
//! Truth is read on demand: `observe` asks the runtime for one pod, with a deadline of its own, so that a
//! hung container delays that pod only. Hints (runtime events, an adaptive full relist) only name pods that
//! may have changed; the set of hints is coalesced per pod and never dropped. A status of a container that
//! cannot change any more is read once.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use rubelet_core::ids::{ContainerId, PodUid, SandboxId};
use rubelet_core::observed::{ObservedContainer, ObservedPod, ObservedSandbox, ObservedState};
use rubelet_cri::{CriError, CriErrorKind, RuntimeService, observe, v1};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::fs_pool::FsPool;
use crate::termination_log;

/// Relist period while changes come in that no event announced, and whenever the runtime has no events.
const RELIST_MIN: Duration = Duration::from_secs(1);
/// Relist period when events have told everything for a while.
const RELIST_MAX: Duration = Duration::from_secs(30);
/// How long the status of one container or sandbox may take before the pod is observed without it.
const STATUS_DEADLINE: Duration = Duration::from_secs(10);
/// Label every sandbox and container of ours carries (upstream `types.KubernetesPodUIDLabel`).
const UID_LABEL: &str = "io.kubernetes.pod.uid";

/// Why a pod could not be observed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ObserveError {
    /// The lists failed.
    #[error("cannot list the pod's sandboxes and containers")]
    List(#[source] CriError),
    /// How a container ended cannot be told: without it no decision about the pod is safe.
    #[error("the runtime does not tell the status of container {container} ({id})")]
    Status {
        /// Container name.
        container: String,
        /// Container ID.
        id: ContainerId,
        /// What the runtime said.
        #[source]
        source: CriError,
    },
}

/// What a full relist saw of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPod {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// Whether anything of it is alive: a ready sandbox, or a container that runs or may run.
    pub alive: bool,
    fingerprint: u64,
}

/// One full relist.
#[derive(Debug)]
pub struct Listing {
    /// Every pod the runtime holds something of.
    pub pods: BTreeMap<PodUid, ListedPod>,
}

/// How relisting goes: what `/healthz` and the node's condition are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlegHealth {
    /// When the last full list succeeded.
    pub last_success: Option<Instant>,
    /// The error since then, if any.
    pub error: Option<String>,
}

/// Handle; cheap to clone.
#[derive(Clone)]
pub struct Pleg {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Arc<dyn RuntimeService>,
    fs: FsPool,
    runtime_name: watch::Sender<String>,
    state: Mutex<State>,
    hinted: Notify,
    relist_now: Notify,
    listing: watch::Sender<Option<Arc<Listing>>>,
    health: watch::Sender<PlegHealth>,
}

#[derive(Default)]
struct State {
    /// Pods somebody should look at.
    hints: BTreeSet<PodUid>,
    /// What was last seen of each pod by list or observation, and when that reading began.
    seen: BTreeMap<PodUid, (u64, Instant)>,
    /// Full statuses by container, as long as the pod is there.
    containers: BTreeMap<ContainerId, (PodUid, ObservedContainer)>,
    /// Full statuses by sandbox.
    sandboxes: BTreeMap<SandboxId, (PodUid, ObservedSandbox)>,
    /// Whether the event stream stands: then the relist may slow down.
    events: bool,
}

impl Pleg {
    /// A Pleg over a runtime. Nothing is read before `run` or `observe`.
    pub fn new(runtime: Arc<dyn RuntimeService>, fs: FsPool) -> Self {
        Self {
            shared: Arc::new(Shared {
                runtime,
                fs,
                runtime_name: watch::Sender::new("containerd".into()),
                state: Mutex::default(),
                hinted: Notify::new(),
                relist_now: Notify::new(),
                listing: watch::Sender::new(None),
                health: watch::Sender::new(PlegHealth { last_success: None, error: None }),
            }),
        }
    }

    /// The last full list; `None` before the first.
    pub fn listing(&self) -> watch::Receiver<Option<Arc<Listing>>> {
        self.shared.listing.subscribe()
    }

    /// How relisting goes.
    pub fn health(&self) -> watch::Receiver<PlegHealth> {
        self.shared.health.subscribe()
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
    /// When the lists fail, or when how a container ended cannot be learnt.
    pub async fn observe(&self, uid: &PodUid) -> Result<ObservedPod, ObserveError> {
        let began = Instant::now();
        let selector: std::collections::HashMap<String, String> =
            [(UID_LABEL.to_owned(), uid.to_string())].into();
        let sandboxes = self.shared.runtime.list_pod_sandbox(v1::ListPodSandboxRequest {
            filter: Some(v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() }),
        });
        let containers = self.shared.runtime.list_containers(v1::ListContainersRequest {
            filter: Some(v1::ContainerFilter { label_selector: selector, ..Default::default() }),
        });
        let (sandboxes, containers) =
            futures::try_join!(sandboxes, containers).map_err(ObserveError::List)?;
        let fingerprint = fingerprint(&sandboxes.items, &containers.containers);

        let mut pod = ObservedPod::absent(uid.clone());
        if let Some(sandbox) = sandboxes.items.first() {
            let metadata = sandbox.metadata.clone().unwrap_or_default();
            (pod.name, pod.namespace) = (metadata.name, metadata.namespace);
        } else if let Some(container) = containers.containers.first() {
            pod.name = container.labels.get("io.kubernetes.pod.name").cloned().unwrap_or_default();
            pod.namespace = container.labels.get("io.kubernetes.pod.namespace").cloned().unwrap_or_default();
        }
        let read_sandboxes = join_all(sandboxes.items.iter().map(|listed| self.read_sandbox(uid, listed)));
        let read_containers =
            join_all(containers.containers.iter().map(|listed| self.read_container(uid, listed)));
        let (read_sandboxes, read_containers) = futures::join!(read_sandboxes, read_containers);
        pod.sandboxes = read_sandboxes.into_iter().flatten().collect();
        for container in read_containers {
            pod.containers.extend(container?);
        }
        pod.sort();

        let mut state = self.state();
        if state.seen.get(uid).is_none_or(|(_, at)| *at <= began) {
            state.seen.insert(uid.clone(), (fingerprint, began));
        }
        Ok(pod)
    }

    /// The full status of a listed sandbox; from memory when its state has not changed. What the list told is
    /// used when the runtime does not answer; a sandbox that vanished in between is left out.
    async fn read_sandbox(&self, uid: &PodUid, listed: &v1::PodSandbox) -> Option<ObservedSandbox> {
        let from_list = match observe::listed_sandbox(listed) {
            Ok(sandbox) => sandbox,
            Err(problem) => {
                warn!(sandbox = listed.id, "the runtime lists a sandbox that cannot be read: {problem}");
                return None;
            }
        };
        if let Some((_, known)) = self.state().sandboxes.get(&from_list.id)
            && known.ready == from_list.ready
        {
            return Some(known.clone());
        }
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: listed.id.clone(), verbose: false };
        let answer = with_deadline("PodSandboxStatus", self.shared.runtime.pod_sandbox_status(request)).await;
        match answer {
            Ok(response) => match response.status.as_ref().map(observe::sandbox_status) {
                Some(Ok(sandbox)) => {
                    self.state().sandboxes.insert(sandbox.id.clone(), (uid.clone(), sandbox.clone()));
                    Some(sandbox)
                }
                _ => Some(from_list),
            },
            Err(error) if error.is_not_found() => None,
            Err(error) => {
                warn!(sandbox = listed.id, "{error}; going on with what the list told");
                Some(from_list)
            }
        }
    }

    /// The full status of a listed container. For one that is not known to have ended the list tells enough
    /// to go on when the runtime does not answer; how a container ended has to be learnt.
    async fn read_container(
        &self,
        uid: &PodUid,
        listed: &v1::Container,
    ) -> Result<Option<ObservedContainer>, ObserveError> {
        let from_list = match observe::listed_container(listed) {
            Ok(container) => container,
            Err(problem) => {
                warn!(container = listed.id, "the runtime lists a container that cannot be read: {problem}");
                return Ok(None);
            }
        };
        if let Some((_, known)) = self.state().containers.get(&from_list.id)
            && known.state == from_list.state
            && known.state != ObservedState::Unknown
        {
            return Ok(Some(known.clone()));
        }
        let request = v1::ContainerStatusRequest { container_id: listed.id.clone(), verbose: false };
        let source = match with_deadline("ContainerStatus", self.shared.runtime.container_status(request))
            .await
        {
            Ok(response) => match response.status.as_ref().map(observe::container_status) {
                Some(Ok(mut container)) => {
                    container.sandbox_id = from_list.sandbox_id;
                    if container.state == ObservedState::Exited {
                        container.termination_message =
                            termination_log::read(&self.shared.fs, &container).await;
                    }
                    self.state().containers.insert(container.id.clone(), (uid.clone(), container.clone()));
                    return Ok(Some(container));
                }
                Some(Err(problem)) => {
                    CriError::new("ContainerStatus", CriErrorKind::Unknown, problem.to_string())
                }
                None => CriError::new("ContainerStatus", CriErrorKind::Unknown, "the answer holds no status"),
            },
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => error,
        };
        if from_list.state == ObservedState::Exited {
            return Err(ObserveError::Status { container: from_list.name, id: from_list.id, source });
        }
        warn!(container = listed.id, "{source}; going on with what the list told");
        Ok(Some(from_list))
    }

    /// Relists for ever and follows the event stream where the runtime has one. Owned by the kubelet; ends
    /// only by being dropped.
    pub async fn run(&self) {
        futures::join!(self.relist_loop(), self.event_loop());
    }

    async fn relist_loop(&self) {
        let mut period = RELIST_MIN;
        loop {
            let found_unannounced = match self.relist().await {
                Ok(found) => {
                    self.shared
                        .health
                        .send_replace(PlegHealth { last_success: Some(Instant::now()), error: None });
                    found
                }
                Err(error) => {
                    let text = error.to_string();
                    self.shared.health.send_if_modified(|health| {
                        let news = health.error.as_deref() != Some(text.as_str());
                        if news {
                            warn!("cannot list what the runtime holds: {text}");
                        }
                        health.error = Some(text);
                        news
                    });
                    true
                }
            };
            period = if found_unannounced || !self.state().events {
                RELIST_MIN
            } else {
                (period * 2).min(RELIST_MAX)
            };
            // Both arms are cancel-safe: a timer, and a Notify whose permit is kept.
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                () = self.shared.relist_now.notified() => period = RELIST_MIN,
            }
        }
    }

    /// One full list. Returns whether it found a change that nobody had announced.
    async fn relist(&self) -> Result<bool, CriError> {
        let began = Instant::now();
        let sandboxes = self.shared.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default());
        let containers = self.shared.runtime.list_containers(v1::ListContainersRequest::default());
        let (sandboxes, containers) = futures::try_join!(sandboxes, containers)?;
        let pods = group(&sandboxes.items, &containers.containers);

        let mut changed = false;
        {
            let mut state = self.state();
            let state = &mut *state;
            for (uid, listed) in &pods {
                let news = match state.seen.get(uid) {
                    Some((known, at)) => *at <= began && *known != listed.fingerprint,
                    None => true,
                };
                if news {
                    state.seen.insert(uid.clone(), (listed.fingerprint, began));
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
        self.shared.listing.send_replace(Some(Arc::new(Listing { pods })));
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
                    self.state().events = true;
                    // Whatever happened while nobody listened is found by a relist.
                    self.shared.relist_now.notify_one();
                    loop {
                        match events.next().await {
                            Some(Ok(event)) => {
                                pause = RELIST_MIN;
                                self.take_event(&event);
                            }
                            Some(Err(error)) => {
                                if error.kind == CriErrorKind::Unimplemented {
                                    self.no_events();
                                    return;
                                }
                                debug!("container events ended: {error}");
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
                Err(error) => debug!("no container events: {error}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RELIST_MAX);
        }
    }

    fn no_events(&self) {
        self.state().events = false;
        info!("this runtime has no container events; relisting every {} s instead", RELIST_MIN.as_secs());
    }

    /// An event is news unless the state it announces has been read already.
    fn take_event(&self, event: &v1::ContainerEventResponse) {
        let Some(announced) = observe::event(event) else {
            self.shared.relist_now.notify_one();
            return;
        };
        let mut state = self.state();
        let known = state.containers.get(&announced.container).map(|(_, c)| c.state);
        if known.is_some() && known == announced.state {
            return;
        }
        if state.hints.insert(announced.uid) {
            drop(state);
            self.shared.hinted.notify_one();
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

async fn with_deadline<T>(operation: &'static str, call: rubelet_cri::CriFuture<T>) -> Result<T, CriError> {
    match tokio::time::timeout(STATUS_DEADLINE, call).await {
        Ok(answer) => answer,
        Err(_) => Err(CriError::new(
            operation,
            CriErrorKind::DeadlineExceeded,
            format!("no answer within {} s", STATUS_DEADLINE.as_secs()),
        )),
    }
}

/// Groups a full list by pod. What carries no pod UID is not ours and is left alone.
fn group(sandboxes: &[v1::PodSandbox], containers: &[v1::Container]) -> BTreeMap<PodUid, ListedPod> {
    #[derive(Default)]
    struct Parts {
        sandboxes: Vec<v1::PodSandbox>,
        containers: Vec<v1::Container>,
        name: String,
        namespace: String,
    }
    let mut parts: BTreeMap<PodUid, Parts> = BTreeMap::new();
    for sandbox in sandboxes {
        let Some(metadata) = sandbox.metadata.as_ref().filter(|m| !m.uid.is_empty()) else { continue };
        if !sandbox.labels.contains_key(UID_LABEL) {
            continue;
        }
        let part = parts.entry(PodUid::new(metadata.uid.as_str())).or_default();
        part.name.clone_from(&metadata.name);
        part.namespace.clone_from(&metadata.namespace);
        part.sandboxes.push(sandbox.clone());
    }
    for container in containers {
        let Some(uid) = container.labels.get(UID_LABEL) else { continue };
        let part = parts.entry(PodUid::new(uid.as_str())).or_default();
        if part.name.is_empty() {
            part.name = container.labels.get("io.kubernetes.pod.name").cloned().unwrap_or_default();
            part.namespace = container.labels.get("io.kubernetes.pod.namespace").cloned().unwrap_or_default();
        }
        part.containers.push(container.clone());
    }
    parts
        .into_iter()
        .map(|(uid, part)| {
            let alive = part.sandboxes.iter().any(|s| s.state() == v1::PodSandboxState::SandboxReady)
                || part.containers.iter().any(|c| {
                    matches!(
                        c.state(),
                        v1::ContainerState::ContainerRunning | v1::ContainerState::ContainerUnknown
                    )
                });
            let fingerprint = fingerprint(&part.sandboxes, &part.containers);
            (uid, ListedPod { name: part.name, namespace: part.namespace, alive, fingerprint })
        })
        .collect()
}

/// A value that changes when a sandbox or container of the pod appears, vanishes or changes its state.
fn fingerprint(sandboxes: &[v1::PodSandbox], containers: &[v1::Container]) -> u64 {
    let mut parts: Vec<(&str, i32)> = sandboxes.iter().map(|s| (s.id.as_str(), s.state)).collect();
    parts.extend(containers.iter().map(|c| (c.id.as_str(), c.state)));
    parts.sort_unstable();
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}
