//! The mirror task: shows the API server the pods it did not ask for.
//!
//! Reads the desired pods, the table (which static pods still run) and the view of the API; creates and deletes
//! mirror pods. Level-based: [`rubelet_core::mirror::compute_mirror_plan`] says what differs whenever anything
//! changed. It never touches the static pod itself, and never the status of its mirror, which is the status
//! writer's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, PostParams};
use rubelet_core::ids::{PodKey, PodUid, pod_uid};
use rubelet_core::lifecycle::PodState;
use rubelet_core::mirror::{MirrorAct, MirrorInputs, compute_mirror_plan, mirror_of};
use rubelet_core::phase::is_static;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::api_pods::{ApiPodSet, ApiPods};
use crate::desired::{DesiredPods, SourceKind};
use crate::status_writer::{Trouble, at_once, pause};
use crate::table::{PodRow, PodTable};

/// Requests at once.
const WIDEST: usize = 4;
/// First pause of a mirror after a failure; doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest pause after a failure.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long a mirror that was created may take to show up in the watch before it is looked for again.
const SHOWS_UP_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// What is known of one name beyond what the watch shows.
#[derive(Default)]
struct Name {
    under_way: bool,
    failures: u32,
    retry_at: Option<Instant>,
    /// The last failure was that the server could not be reached: a sign of life ends the pause, though not before
    /// this.
    hopes_from: Option<Instant>,
    /// What was last told of its failures.
    told: Option<String>,
    /// The static pod that was last tried: another one is not made to wait for its failures.
    tried: Option<PodUid>,
    /// Created, and not yet shown by the watch.
    created: Option<(Arc<Pod>, Instant)>,
    /// Deleted, though the watch may still show it.
    deleted: Option<PodUid>,
}

/// What was asked of the server.
enum Asked {
    Create,
    Delete(PodUid),
}

/// The task's own state.
pub struct MirrorTask {
    node_name: String,
    node_uid: watch::Receiver<Option<String>>,
    desired: watch::Receiver<Arc<DesiredPods>>,
    table: PodTable,
    api: ApiPods,
    client: Client,
    names: BTreeMap<PodKey, Name>,
    requests: JoinSet<Result<Option<Pod>, Trouble>>,
    flights: BTreeMap<Id, (PodKey, Asked)>,
}

impl MirrorTask {
    /// A task that has not begun. `node_uid` is the UID of this node's Node object, from its registration on:
    /// nothing is created before, because a mirror is owned by it.
    pub fn new(
        node_name: String,
        node_uid: watch::Receiver<Option<String>>,
        desired: watch::Receiver<Arc<DesiredPods>>,
        table: PodTable,
        api: ApiPods,
        client: Client,
    ) -> Self {
        Self {
            node_name,
            node_uid,
            desired,
            table,
            api,
            client,
            names: BTreeMap::new(),
            requests: JoinSet::new(),
            flights: BTreeMap::new(),
        }
    }

    /// Runs until dropped.
    pub async fn run(mut self) {
        let mut rows = self.table.changes();
        loop {
            let now = Instant::now();
            let api = self.api.borrow_and_update().clone();
            self.catch_up(&api, now);
            self.act(&api, now);
            let wake = self.wakes_at(now);
            // Every arm is cancel-safe: watches keep their news, join_next and timers lose nothing when dropped.
            // Always in this order, so that a simulation can be replayed.
            tokio::select! {
                biased;
                Some(done) = self.requests.join_next_with_id() => self.land(done),
                Ok(()) = self.api.changed() => self.forgive(),
                Ok(()) = self.desired.changed() => {}
                Ok(()) = self.node_uid.changed() => {}
                Ok(()) = rows.changed() => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Forgets what the watch shows by now.
    fn catch_up(&mut self, api: &ApiPodSet, now: Instant) {
        for name in self.names.values_mut() {
            name.created.take_if(|(pod, at)| {
                api.by_uid.contains_key(&pod_uid(pod)) || now.duration_since(*at) >= SHOWS_UP_WITHIN
            });
            name.deleted.take_if(|uid| !api.by_uid.contains_key(uid));
        }
    }

    /// Asks for what differs, as far as it is due.
    fn act(&mut self, api: &ApiPodSet, now: Instant) {
        let desired = self.desired.borrow_and_update().clone();
        let node_uid = self.node_uid.borrow_and_update().clone();
        let sources = [SourceKind::File, SourceKind::Http];
        let mut wanted: Vec<_> = desired.pods.values().filter(|pod| sources.contains(&pod.source)).collect();
        if !api.synced || (wanted.is_empty() && api.mirrors.is_empty()) {
            self.names.retain(|_, name| name.under_way);
            return;
        }
        wanted.sort_by_key(|pod| pod.arrival);
        let rows = self.table.snapshot();
        let living: Vec<&Pod> = rows.values().filter(|row| lives(row)).map(|row| &*row.pod).collect();
        let created: Vec<Arc<Pod>> =
            self.names.values().filter_map(|name| Some(name.created.as_ref()?.0.clone())).collect();
        let shown = api.mirrors.iter().filter_map(|(key, uid)| {
            let deleted = self.names.get(key).and_then(|name| name.deleted.as_ref());
            api.by_uid.get(uid).filter(|_| deleted != Some(uid))
        });
        let inputs = MirrorInputs {
            desired: wanted.iter().map(|pod| &*pod.pod).collect(),
            living,
            mirrors: shown.chain(&created).map(|pod| &**pod).collect(),
            complete: desired.complete && !desired.doubtful,
        };
        let plan = compute_mirror_plan(&inputs);
        let open: Vec<PodKey> = plan.iter().map(|act| PodKey::of(subject(act))).collect();
        self.names.retain(|key, name| {
            name.under_way || name.created.is_some() || name.deleted.is_some() || open.contains(key)
        });
        for act in &plan {
            let key = PodKey::of(subject(act));
            let name = self.names.entry(key.clone()).or_default();
            let tried = pod_uid(subject(act));
            if name.tried.as_ref() != Some(&tried) {
                (name.tried, name.failures, name.retry_at) = (Some(tried), 0, None);
                (name.told, name.hopes_from) = (None, None);
            }
            let due = name.retry_at.is_none_or(|at| at <= now);
            if name.under_way || !due || self.requests.len() >= WIDEST {
                continue;
            }
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
            let (asked, task) = match act {
                MirrorAct::Create(pod) => {
                    let Some(node_uid) = &node_uid else { continue };
                    let mirror = mirror_of(pod, &self.node_name, node_uid);
                    (Asked::Create, self.requests.spawn(create(pods, mirror)))
                }
                MirrorAct::Delete(mirror) => {
                    let uid = pod_uid(mirror);
                    (Asked::Delete(uid.clone()), self.requests.spawn(delete(pods, key.clone(), uid)))
                }
            };
            name.under_way = true;
            self.flights.insert(task.id(), (key, asked));
        }
    }

    /// When to look without anything having come in.
    fn wakes_at(&self, now: Instant) -> Option<Instant> {
        self.names
            .values()
            .flat_map(|name| [name.retry_at, name.created.as_ref().map(|(_, at)| *at + SHOWS_UP_WITHIN)])
            .flatten()
            .filter(|at| *at > now)
            .min()
    }

    /// The watch works: who waited because the server was away need not any more.
    fn forgive(&mut self) {
        for name in self.names.values_mut() {
            if let Some(from) = name.hopes_from {
                name.retry_at = name.retry_at.map(|at| at.min(from));
            }
        }
    }

    fn land(&mut self, done: Result<(Id, Result<Option<Pod>, Trouble>), JoinError>) {
        let (id, result) = match done {
            Ok((id, result)) => (id, result),
            Err(problem) => {
                error!("a request for a mirror pod panicked: {problem}");
                (
                    problem.id(),
                    Err(Trouble::Failed(0, "the request was lost inside the agent (a bug)".into())),
                )
            }
        };
        let Some((key, asked)) = self.flights.remove(&id) else { return };
        let name = self.names.entry(key.clone()).or_default();
        name.under_way = false;
        match (asked, result) {
            (Asked::Create, Ok(created)) => {
                info!(pod = %key, "its mirror pod is created");
                let tried = name.tried.take();
                let created = created.map(|pod| (Arc::new(pod), Instant::now()));
                *name = Name { created, tried, deleted: name.deleted.take(), ..Name::default() };
            }
            (Asked::Delete(uid), Ok(_) | Err(Trouble::Gone(_) | Trouble::Conflict(_))) => {
                info!(pod = %key, %uid, "the mirror pod is removed: it was being deleted, or shows no static pod as it is now");
                *name = Name { deleted: Some(uid), ..Name::default() };
            }
            (asked, Err(trouble)) => name.fail(&key, &asked, &trouble),
        }
    }
}

impl Name {
    fn fail(&mut self, key: &PodKey, asked: &Asked, trouble: &Trouble) {
        self.failures = self.failures.saturating_add(1);
        let now = Instant::now();
        self.hopes_from = match trouble {
            Trouble::Unavailable { retry_after, .. } => {
                Some(now + RETRY_FIRST.max(retry_after.unwrap_or_default()))
            }
            _ => None,
        };
        self.retry_at = Some(now + pause(RETRY_FIRST, RETRY_MAX, self.failures, &key.to_string()));
        let message = match (asked, trouble) {
            // Most often the watch is late; only what stays is worth a word.
            (Asked::Create, Trouble::Conflict(_)) if self.failures < 3 => return,
            (Asked::Create, Trouble::Conflict(told)) => format!(
                "a pod of this name that is not its mirror is in the way; delete or rename one of them: {told}"
            ),
            (Asked::Create, Trouble::Gone(told)) => {
                format!("it has no mirror pod until its namespace exists: {told}")
            }
            (Asked::Create, trouble) => format!("its mirror pod cannot be created: {trouble}"),
            (Asked::Delete(_), trouble) => format!("a mirror pod cannot be deleted: {trouble}"),
        };
        if self.told.as_ref() != Some(&message) {
            warn!(pod = %key, "{message}; the static pod itself is not affected, trying again");
            self.told = Some(message);
        }
    }
}

fn subject<'a>(act: &MirrorAct<'a>) -> &'a Pod {
    match act {
        MirrorAct::Create(pod) | MirrorAct::Delete(pod) => pod,
    }
}

/// Whether a row is of a static pod that has begun and not ended.
fn lives(row: &PodRow) -> bool {
    is_static(&row.pod) && !matches!(row.state, PodState::WaitingForPredecessor | PodState::Finished { .. })
}

async fn create(pods: Api<Pod>, mirror: Pod) -> Result<Option<Pod>, Trouble> {
    match tokio::time::timeout(LIMIT, pods.create(&PostParams::default(), &mirror)).await {
        Ok(Ok(mut created)) => {
            created.metadata.managed_fields = None;
            Ok(Some(created))
        }
        Ok(Err(error)) => Err(Trouble::of(&error)),
        Err(_) => Err(Trouble::timeout(LIMIT)),
    }
}

async fn delete(pods: Api<Pod>, key: PodKey, uid: PodUid) -> Result<Option<Pod>, Trouble> {
    match tokio::time::timeout(LIMIT, pods.delete(&key.name, &at_once(&uid))).await {
        Ok(Ok(_)) => Ok(None),
        Ok(Err(error)) => Err(Trouble::of(&error)),
        Err(_) => Err(Trouble::timeout(LIMIT)),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
