//! The sync loop: one select over a closed set of events. It compares what is desired with the workers there
//! are, admits and starts pods, tells workers what changed, and ends what nobody asks for; the latter only
//! once every source has delivered and the runtime has been listed. It never talks to the runtime itself.

mod preempt;

mod resizes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rubelet_core::admission::{self, NodePressure, Rejection};
use rubelet_core::ids::{PodKey, PodUid};
use rubelet_core::lifecycle::{PodState, TerminationCause};
use rubelet_core::phase::Phase;
use rubelet_core::tally::rejection_label;
use rubelet_core::{Pod, status};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{Span, debug, error, info, warn};

use crate::api_objects::ApiObjects;
use crate::desired::{DesiredPod, DesiredPods, SourceKind};
use crate::events::EventSubject;
use crate::journal::PodRecord;
use crate::node_view::NodeView;
use crate::pleg::{Listing, is_alive, is_running};
use crate::pod_kills::PodKill;
use crate::services::Services;
use crate::table::PodRow;
use crate::tracing_export::spans;
use crate::worker::mailbox::{Mailbox, Terminate};
use crate::worker::{PodWorker, WorkerExit, WorkerSpec};

use self::preempt::Preempting;

use self::resizes::Resizes;

/// How often leftovers on disk are looked for when nothing calls for it.
const SWEEP_PERIOD: Duration = Duration::from_secs(300);

/// How long after the start the first sweep is tried, and then until everything is known that it takes.
const FIRST_SWEEP: Duration = Duration::from_secs(5);
/// Reason of a rejection that may be due to labels seen too late.
const NODE_AFFINITY: &str = "NodeAffinity";
/// Pause before a worker that panicked is started again.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// What the loop reacts to.
enum Event {
    /// The desired state or the full list changed, or pods are hinted at.
    Look,
    /// The node was seen anew.
    Node,
    /// A pod was resized: there may be room for others.
    Freed,
    /// ConfigMaps or Secrets that these pods refer to changed.
    Objects(BTreeSet<PodUid>),
    /// Pods are to end for the node's sake.
    Kills(Vec<PodKill>),
    /// A worker ended.
    Exit(Result<(Id, WorkerExit), JoinError>),
    /// Leftovers on disk are to be looked for.
    Sweep,
}

struct Worker {
    mailbox: Arc<Mailbox>,
    key: PodKey,
    /// The pod it was last told; `None` for one only the runtime knows.
    pod: Option<Arc<Pod>>,
    /// That pod with the resources that are allocated to it, as its worker has it.
    handed: Option<Arc<Pod>>,
    /// It was told that no source wants the pod.
    removing: bool,
    /// The grace it was last told to end with, because of a deletion.
    told_grace: Option<u64>,
}

/// A pod whose worker panicked. It keeps its name: its containers may run.
struct Crashed {
    worker: Worker,
    again: Instant,
}

/// The loop's own state; its task owns all workers, so that dropping it stops them.
pub struct SyncLoop {
    services: Arc<Services>,
    desired: watch::Receiver<Arc<DesiredPods>>,
    listing: watch::Receiver<Option<Arc<Listing>>>,
    admission: admission::NodeFacts,
    /// The API's view of this node, when there is an API.
    node: NodeView,
    /// Pods that wait for the sources to tell whether another one of their name is wanted; they were told so.
    held_back: BTreeSet<PodUid>,
    /// How often the node was seen anew.
    node_seen: u64,
    /// Its addresses as last seen: pods are told when they change.
    node_ips: Vec<IpAddr>,
    /// Pods that did not fit the labels at that sight of the node: they are judged again at the next one.
    relabelled: BTreeMap<PodUid, u64>,
    /// Critical pods that wait until others have ended for them.
    preempting: BTreeMap<PodUid, Preempting>,
    workers: BTreeMap<PodUid, Worker>,
    tasks: JoinSet<WorkerExit>,
    task_uids: BTreeMap<Id, PodUid>,
    /// UIDs by namespace and name in order of arrival; the first owns the name.
    names: BTreeMap<PodKey, Vec<PodUid>>,
    /// Pods that ended or were rejected and are still desired: never started again.
    finished: BTreeMap<PodUid, Arc<Pod>>,
    /// Pods of which nothing is left because they were deleted, as long as their source lists them.
    deleted: BTreeSet<PodUid>,
    /// Journal records not yet handed to a worker.
    records: BTreeMap<PodUid, PodRecord>,
    /// When workers of pods that were to vanish ended: an older list still shows those pods.
    gone: BTreeMap<PodUid, Instant>,
    /// Pods whose worker panicked, until it is started again.
    crashed: BTreeMap<PodUid, Crashed>,
    /// The sweep under way, one at a time, and records being removed.
    sweeping: JoinSet<()>,
    /// When the loop last went round, for `/healthz`.
    heartbeat: watch::Sender<Instant>,
    /// What others may know of the workers.
    counts: WorkerCounts,
    /// Resizes that wait.
    resizes: Resizes,
}

/// How many workers there are of pods that only the runtime knew; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerCounts(Arc<AtomicUsize>);

impl WorkerCounts {
    /// How many there are now.
    pub(crate) fn strangers(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl SyncLoop {
    /// A loop that has not begun. `records` is what the journal remembers.
    pub fn new(
        services: Arc<Services>,
        desired: watch::Receiver<Arc<DesiredPods>>,
        admission: admission::NodeFacts,
        node: NodeView,
        records: BTreeMap<PodUid, PodRecord>,
        heartbeat: watch::Sender<Instant>,
    ) -> Self {
        Self {
            node,
            held_back: BTreeSet::new(),
            node_seen: 0,
            node_ips: services.node_ips(),
            relabelled: BTreeMap::new(),
            preempting: BTreeMap::new(),
            listing: services.pleg.listing(),
            services,
            desired,
            admission,
            workers: BTreeMap::new(),
            tasks: JoinSet::new(),
            task_uids: BTreeMap::new(),
            names: BTreeMap::new(),
            finished: BTreeMap::new(),
            deleted: BTreeSet::new(),
            records,
            gone: BTreeMap::new(),
            crashed: BTreeMap::new(),
            sweeping: JoinSet::new(),
            heartbeat,
            counts: WorkerCounts::default(),
            resizes: Resizes::default(),
        }
    }

    /// What others may know of the workers.
    pub(crate) fn counts(&self) -> WorkerCounts {
        self.counts.clone()
    }

    /// Runs until dropped.
    pub async fn run(mut self) {
        let mut sweep_at = Instant::now() + FIRST_SWEEP;
        let mut runtime_state = self.services.runtime_state.clone();
        let mut beat = tokio::time::interval(Duration::from_secs(30));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.heartbeat.send_replace(Instant::now());
            let again = self.crashed.values().map(|crashed| crashed.again).chain(self.patience_ends()).min();
            while self.sweeping.try_join_next().is_some() {}
            // Every arm is cancel-safe: watches and the Notify keep their news, JoinSet::join_next and timers
            // lose nothing when dropped. Always in this order, so that a simulation can be replayed; that starves
            // nothing, because every arm takes what made it ready.
            let event = tokio::select! {
                biased;
                Ok(()) = self.desired.changed() => Event::Look,
                Ok(()) = self.listing.changed() => Event::Look,
                Ok(()) = runtime_state.changed() => Event::Look,
                () = self.node.changed() => Event::Node,
                uids = changed_objects(self.services.api.as_ref()) => Event::Objects(uids),
                uids = self.services.wakes.woken() => Event::Objects(uids),
                kills = self.services.kills.requested() => Event::Kills(kills),
                () = self.services.pleg.hinted() => Event::Look,
                Some(exit) = self.tasks.join_next_with_id() => Event::Exit(exit),
                () = self.services.allocations.something_freed() => Event::Freed,
                () = sleep_until(self.resizes.again()) => Event::Look,
                () = sleep_until(again) => Event::Look,
                () = tokio::time::sleep_until(sweep_at) => Event::Sweep,
                _ = beat.tick() => Event::Look,
            };
            match event {
                Event::Look => {
                    for uid in self.services.pleg.take_hints() {
                        if let Some(worker) = self.workers.get(&uid) {
                            worker.mailbox.poke();
                        }
                    }
                    self.reconcile();
                }
                Event::Objects(uids) => {
                    for uid in uids {
                        if let Some(worker) = self.workers.get(&uid) {
                            worker.mailbox.refresh();
                        }
                    }
                }
                Event::Kills(kills) => {
                    for PodKill { uid, reason, message, grace, disruption } in kills {
                        // One that has no worker has ended already.
                        if let Some(worker) = self.workers.get(&uid) {
                            let cause = TerminationCause::Killed { reason, message, disruption };
                            worker.mailbox.terminate(Terminate { cause, grace });
                        }
                    }
                }
                Event::Freed => {
                    self.resizes.hint("pod_resized");
                    self.reconcile();
                }
                Event::Node => {
                    self.node_seen += 1;
                    self.tell_addresses();
                    self.reconcile();
                }
                Event::Exit(exit) => {
                    self.take_exit(exit);
                    self.reconcile();
                }
                Event::Sweep => {
                    let period = if self.sweep() { SWEEP_PERIOD } else { FIRST_SWEEP };
                    sweep_at = Instant::now() + period;
                }
            }
        }
    }

    /// Has every pod look again when the node's addresses have changed: its status shows them.
    fn tell_addresses(&mut self) {
        let now = self.services.node_ips();
        if std::mem::replace(&mut self.node_ips, now.clone()) != now {
            for worker in self.workers.values() {
                worker.mailbox.poke();
            }
        }
    }

    /// Compares desired pods, workers and what the runtime holds; converges from anywhere.
    fn reconcile(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        let listing = self.listing.borrow_and_update().clone();
        // Without one full list nothing is known about what runs: neither adoption nor removal is safe.
        let Some(listing) = listing else { return };
        // Without its own answer nothing is known about what the runtime can do: admission would judge wrongly.
        if self.services.runtime_state.borrow().info.is_none() {
            return;
        }
        self.revive_crashed();
        self.forget_deleted(&desired);
        self.held_back.retain(|uid| desired.pods.contains_key(uid));
        self.relabelled.retain(|uid, _| desired.pods.contains_key(uid));
        self.preempting.retain(|uid, _| desired.pods.contains_key(uid));
        self.gone.retain(|_, at| *at >= listing.began);
        self.end_unwanted(&desired);
        if desired.complete {
            self.end_strangers(&desired, &listing);
        }
        let mut pods: Vec<(&PodUid, &DesiredPod)> = desired.pods.iter().collect();
        // What runs comes first: it takes its share of the node before anything new is judged.
        pods.sort_by_key(|(uid, wanted)| {
            let alive = self.workers.contains_key(*uid) || listing.pods.get(*uid).is_some_and(is_alive);
            (!alive, wanted.pod.metadata.creation_timestamp.as_ref().map(|at| at.0), wanted.arrival)
        });
        for (uid, wanted) in pods {
            if self.workers.contains_key(uid) {
                self.update(uid, wanted);
            } else if self.crashed.contains_key(uid) {
                // It is looked at again when its new worker has begun.
            } else if !self.finished.contains_key(uid) && !self.deleted.contains(uid) {
                self.start(uid, wanted, &desired, &listing);
            }
        }
        self.resizes.time_passed();
        self.retry_resizes(desired.complete);
    }

    /// Forgets pods that were deleted here and that their source has let go, with their records.
    fn forget_deleted(&mut self, desired: &DesiredPods) {
        let gone = |uid: &PodUid| !desired.pods.get(uid).is_some_and(is_deleted);
        for uid in self.deleted.extract_if(.., |uid| gone(uid)).collect::<Vec<_>>() {
            let services = self.services.clone();
            self.sweeping.spawn(async move {
                if let Err(error) = services.journal.remove(&uid).await {
                    warn!(%uid, "{}", crate::logging::chain(&error));
                }
            });
        }
    }

    fn update(&mut self, uid: &PodUid, wanted: &DesiredPod) {
        let Some(worker) = self.workers.get_mut(uid) else { return };
        if worker.removing {
            // It is on its way out; when it is gone the pod starts anew.
            return;
        }
        if worker.pod.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &wanted.pod) && **known != *wanted.pod)
        {
            let before = worker.pod.replace(wanted.pod.clone());
            let handed = self.changed_spec(uid, before.as_deref(), &wanted.pod);
            let Some(worker) = self.workers.get_mut(uid) else { return };
            worker.handed = Some(handed.clone());
            worker.mailbox.update(handed);
        }
        let Some(worker) = self.workers.get_mut(uid) else { return };
        if wanted.pod.metadata.deletion_timestamp.is_some() {
            let grace = rubelet_core::kill::effective_grace(None, &wanted.pod, None);
            if worker.told_grace == Some(grace) {
                return;
            }
            worker.told_grace = Some(grace);
            worker.mailbox.terminate(Terminate { cause: TerminationCause::Deleted, grace: Some(grace) });
        }
    }

    fn start(&mut self, uid: &PodUid, wanted: &DesiredPod, desired: &DesiredPods, listing: &Listing) {
        let key = PodKey::of(&wanted.pod);
        // Pods of the API follow one another when the API says so; others when the one before has ended.
        let in_turn = wanted.source != SourceKind::Api;
        // Another pod of this name still runs in the runtime and it is not yet known whether it is wanted. One that
        // only left its sandbox behind is not waited for: the API server that would tell may be this very pod.
        let stranger = in_turn
            && listing.pods.iter().any(|(other, listed)| {
                other != uid
                    && is_running(listed)
                    && *listed.name == *key.name
                    && *listed.namespace == *key.namespace
                    && !self.workers.contains_key(other)
            });
        if stranger && !desired.complete {
            if self.held_back.insert(uid.clone()) {
                let subject = EventSubject { uid: uid.clone(), name: key.to_string(), container: None };
                self.services.events.normal(
                    &subject,
                    "Waiting",
                    "Another pod of this name runs, and not every source of pods has said yet whether it is wanted",
                );
            }
            return;
        }
        self.held_back.remove(uid);
        let record = self.records.remove(uid).unwrap_or_else(|| PodRecord {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            ..Default::default()
        });
        let alive = listing.pods.get(uid).is_some_and(is_alive) || listing.unreadable.contains(uid);
        // The API may know that the pod has ended, from this agent or from the one before it on this node.
        let ended = wanted.source == SourceKind::Api && has_ended(&wanted.pod);
        let begins = !record.finished && !ended && !is_deleted(wanted);
        let first_sync = if begins { spans::sync_pod(&wanted.pod, "create") } else { Span::none() };
        // What runs has been admitted before; only a pod that would have to be started is asked.
        if !alive
            && begins
            && let Err(rejection) = first_sync.in_scope(|| self.admit(uid, wanted))
        {
            // The labels may have changed a moment ago: the node is asked for once, then the pod judged again.
            let again = rejection.reason == NODE_AFFINITY
                && match self.relabelled.get(uid) {
                    Some(seen) => *seen == self.node_seen,
                    None => self.node.refresh(),
                };
            if again {
                self.relabelled.entry(uid.clone()).or_insert(self.node_seen);
                self.records.insert(uid.clone(), record);
                return;
            }
            self.relabelled.remove(uid);
            let Err(rejection) = self.preempt(uid, wanted, rejection) else {
                self.records.insert(uid.clone(), record);
                return;
            };
            self.preempting.remove(uid);
            first_sync.in_scope(|| self.reject(uid, wanted, &rejection));
            spans::failed(&first_sync, &rejection.message);
            return;
        }
        self.relabelled.remove(uid);
        self.preempting.remove(uid);
        if self.gone.contains_key(uid) {
            let is_static = if wanted.source.is_static() { "true" } else { "" };
            self.services.metrics.pods.restarted.with([is_static]).inc();
        }
        let queue = self.names.entry(key.clone()).or_default();
        queue.push(uid.clone());
        let state = if record.finished || ended && !alive {
            PodState::Terminated { cause: TerminationCause::Completed }
        } else if ended {
            let grace = rubelet_core::kill::effective_grace(None, &wanted.pod, None);
            PodState::Terminating {
                since: self.services.clock.now(),
                grace,
                cause: TerminationCause::Completed,
            }
        } else if is_deleted(wanted) {
            // It is never begun: a worker that syncs could make a sandbox before it hears of the end.
            let grace = rubelet_core::kill::effective_grace(None, &wanted.pod, None);
            PodState::Terminating {
                since: self.services.clock.now(),
                grace,
                cause: TerminationCause::Deleted,
            }
        } else if in_turn && queue.len() > 1 {
            info!(pod = %key, "waits until the pod that had this name before has ended");
            PodState::WaitingForPredecessor
        } else {
            PodState::Syncing
        };
        debug!(pod = %key, %uid, alive, "starting its worker");
        let handed = self.hand_over(uid, &wanted.pod);
        self.spawn(
            key.clone(),
            WorkerSpec {
                uid: uid.clone(),
                pod: Some(handed),
                name: key.to_string(),
                state,
                record,
                first_sync,
            },
        );
        if let Some(worker) = self.workers.get_mut(uid) {
            worker.pod = Some(wanted.pod.clone());
        }
        self.resizes.hint("pods_added");
        self.update(uid, wanted);
    }

    fn admit(&self, uid: &PodUid, wanted: &DesiredPod) -> Result<(), Rejection> {
        let pod = &*wanted.pod;
        let mut node = self.admission.clone();
        if let Some(known) = self.node.get() {
            node.labels = known.metadata.labels.clone().unwrap_or_default();
            node.taints = known.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        }
        let pressures = self.services.pressures.borrow().unwrap_or_default();
        node.shutting_down = *self.services.shutting_down.borrow();
        node.pressure = NodePressure { memory: pressures.memory, disk: pressures.disk, pids: pressures.pid };
        node.supplemental_groups_policy = self
            .services
            .runtime_state
            .borrow()
            .info
            .as_ref()
            .is_some_and(|info| info.supplemental_groups_policy);
        let others = self.neighbours(uid, wanted);
        let promised = self.promised_room(pod);
        let others = others.iter().map(|(_, pod)| &**pod).chain(promised.iter().map(|pod| &**pod));
        let span = spans::admission();
        let verdict = span.in_scope(|| admission::admit(pod, others, &node));
        if let Err(rejection) = &verdict {
            spans::failed(&span, &rejection.message);
        }
        verdict
    }

    /// Pods that take room from this one: all but those that give way to it, or to nobody.
    fn neighbours(&self, uid: &PodUid, wanted: &DesiredPod) -> Vec<(PodUid, Arc<Pod>)> {
        let key = PodKey::of(&wanted.pod);
        let waiting = self.preempting.get(uid);
        let stays = |(other, worker): &(&PodUid, &Worker)| {
            let gives_way = wanted.source != SourceKind::Api && worker.key == key;
            let given_up = waiting.is_some_and(|waiting| waiting.is_given_up(other));
            *other != uid && !worker.removing && !gives_way && !given_up
        };
        let others = self.workers.iter().filter(stays);
        others.filter_map(|(other, worker)| Some((other.clone(), self.counted(other, worker)?))).collect()
    }

    fn reject(&mut self, uid: &PodUid, wanted: &DesiredPod, rejection: &Rejection) {
        let subject =
            EventSubject { uid: uid.clone(), name: PodKey::of(&wanted.pod).to_string(), container: None };
        self.services.events.warning(&subject, &rejection.reason, rejection.message.clone());
        self.services.metrics.pods.admission_rejections.with([rejection_label(&rejection.reason)]).inc();
        let now = self.services.clock.now();
        let status = status::rejected(&wanted.pod, &rejection.reason, &rejection.message, now);
        let state = PodState::Finished {
            cause: TerminationCause::Killed {
                reason: "Rejected",
                message: rejection.message.clone(),
                disruption: false,
            },
        };
        self.services.table.publish(uid, PodRow { pod: wanted.pod.clone(), status: Arc::new(status), state });
        self.finished.insert(uid.clone(), wanted.pod.clone());
    }

    /// Ends pods that a source gave and gives no longer. Other sources need not have delivered for that: what is
    /// desired is made of full sets, and a source that is silent (an API server that is down, perhaps because of the
    /// very manifest that was changed) says nothing of another's pods.
    fn end_unwanted(&mut self, desired: &DesiredPods) {
        for (uid, worker) in &mut self.workers {
            if !worker.removing && worker.pod.is_some() && !desired.pods.contains_key(uid) {
                worker.removing = true;
                worker
                    .mailbox
                    .terminate(Terminate { cause: TerminationCause::RemovedFromSource, grace: None });
            }
        }
        let gone: Vec<(PodUid, TerminationCause)> = self
            .finished
            .keys()
            .filter_map(|uid| match desired.pods.get(uid) {
                None => Some((uid.clone(), TerminationCause::RemovedFromSource)),
                Some(wanted) if is_deleted(wanted) => Some((uid.clone(), TerminationCause::Deleted)),
                Some(_) => None,
            })
            .collect();
        for (uid, cause) in gone {
            if let Some(pod) = self.finished.remove(&uid) {
                let key = PodKey::of(&pod);
                self.names.entry(key.clone()).or_default().push(uid.clone());
                let ended = Worker {
                    mailbox: Mailbox::new(),
                    key,
                    handed: Some(pod.clone()),
                    pod: Some(pod),
                    removing: false,
                    told_grace: None,
                };
                self.clean_up_after(uid, ended, cause);
            }
        }
    }

    /// Ends what only the runtime knows. Called only when every source has delivered and the runtime was listed.
    fn end_strangers(&mut self, desired: &DesiredPods, listing: &Listing) {
        for (uid, listed) in &listing.pods {
            if self.workers.contains_key(uid)
                || desired.pods.contains_key(uid)
                || self.finished.contains_key(uid)
                || self.gone.contains_key(uid)
                || self.crashed.contains_key(uid)
            {
                continue;
            }
            let key =
                PodKey { namespace: listed.namespace.as_str().into(), name: listed.name.as_str().into() };
            // It may belong to a manifest that cannot be read now, unless another pod has taken its name.
            if desired.doubtful && !desired.pods.values().any(|wanted| PodKey::of(&wanted.pod) == key) {
                continue;
            }
            warn!(pod = %key, %uid, alive = is_alive(listed), "no source asks for this pod; it is removed");
            self.names.entry(key.clone()).or_default().insert(0, uid.clone());
            let grace = rubelet_core::kill::ORPHAN_GRACE_SECONDS;
            let record = PodRecord { finished: false, ..self.records.remove(uid).unwrap_or_default() };
            self.services.metrics.pods.orphaned_runtime.inc();
            self.spawn(
                key.clone(),
                WorkerSpec {
                    uid: uid.clone(),
                    pod: None,
                    name: key.to_string(),
                    state: PodState::Terminating {
                        since: self.services.clock.now(),
                        grace,
                        cause: TerminationCause::Orphan,
                    },
                    record,
                    first_sync: Span::none(),
                },
            );
        }
    }

    fn spawn(&mut self, key: PodKey, spec: WorkerSpec) {
        let mailbox = Mailbox::new();
        let (uid, pod) = (spec.uid.clone(), spec.pod.clone());
        if pod.is_none() {
            self.counts.0.fetch_add(1, Ordering::Relaxed);
        }
        let worker = PodWorker::new(self.services.clone(), mailbox.clone(), spec);
        let task = self.tasks.spawn(worker.run());
        self.task_uids.insert(task.id(), uid.clone());
        let handed = pod.clone();
        self.workers.insert(uid, Worker { mailbox, key, pod, handed, removing: false, told_grace: None });
    }

    fn take_exit(&mut self, exit: Result<(Id, WorkerExit), JoinError>) {
        let (id, exit) = match exit {
            Ok((id, exit)) => (id, Ok(exit)),
            Err(problem) => (problem.id(), Err(problem)),
        };
        let Some(uid) = self.task_uids.remove(&id) else { return };
        let Some(worker) = self.workers.remove(&uid) else { return };
        if worker.pod.is_none() {
            self.counts.0.fetch_sub(1, Ordering::Relaxed);
        }
        match exit {
            Ok(WorkerExit { cause, .. }) => {
                debug!(pod = %worker.key, ?cause, "its worker is done");
                self.gone.insert(uid.clone(), Instant::now());
                if worker.removing && !cause.forgets_pod() {
                    // It had ended by itself when it was told that nobody wants it: what is left is removed now.
                    self.clean_up_after(uid, worker, TerminationCause::RemovedFromSource);
                    return;
                }
                self.release_name(&uid, &worker.key);
                self.services.allocations.forget(&uid);
                self.forget_allocation(&uid, !cause.forgets_pod());
                if !cause.forgets_pod()
                    && let Some(pod) = worker.pod
                {
                    self.finished.insert(uid, pod);
                } else if cause == TerminationCause::Deleted {
                    self.deleted.insert(uid);
                }
            }
            Err(problem) => {
                // A bug of ours must not cost the pod: its containers were not touched, a new worker adopts them.
                error!(pod = %worker.key, "the pod's worker panicked and is started again: {problem}");
                let subject =
                    EventSubject { uid: uid.clone(), name: worker.key.to_string(), container: None };
                self.services.events.warning(
                    &subject,
                    "FailedSync",
                    "the agent failed at this pod (a bug) and tries again",
                );
                self.crashed.insert(uid, Crashed { worker, again: Instant::now() + PANIC_PAUSE });
            }
        }
    }

    /// Starts new workers for pods whose worker panicked: they adopt what runs, and end what was to end.
    fn revive_crashed(&mut self) {
        let now = Instant::now();
        let due: Vec<PodUid> = self
            .crashed
            .iter()
            .filter(|(_, crashed)| crashed.again <= now)
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in due {
            let Some(Crashed { worker, .. }) = self.crashed.remove(&uid) else { continue };
            let (cause, grace) = match &worker.pod {
                Some(pod) => (
                    TerminationCause::RemovedFromSource,
                    rubelet_core::kill::effective_grace(None, pod, None),
                ),
                None => (TerminationCause::Orphan, rubelet_core::kill::ORPHAN_GRACE_SECONDS),
            };
            let row = self.services.table.get(&uid);
            let state = match row.as_ref().map(|row| &row.state) {
                _ if worker.removing || worker.pod.is_none() => {
                    PodState::Terminating { since: self.services.clock.now(), grace, cause }
                }
                Some(state) => state.clone(),
                None => PodState::Syncing,
            };
            let record = self.record_of(&uid, &worker.key, false);
            let (removing, key, desired) = (worker.removing, worker.key.clone(), worker.pod.clone());
            self.spawn(
                key.clone(),
                WorkerSpec {
                    uid: uid.clone(),
                    pod: worker.handed,
                    name: key.to_string(),
                    state,
                    record,
                    first_sync: Span::none(),
                },
            );
            if let Some(worker) = self.workers.get_mut(&uid) {
                worker.pod = desired;
                worker.removing = removing;
            }
        }
    }

    /// A record made from what was published.
    fn record_of(&self, uid: &PodUid, key: &PodKey, finished: bool) -> PodRecord {
        PodRecord {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            status: self.services.table.get(uid).map(|row| row.status),
            finished,
            ..Default::default()
        }
    }

    /// Starts a worker that removes what is left of a pod that has ended.
    fn clean_up_after(&mut self, uid: PodUid, ended: Worker, cause: TerminationCause) {
        // What was told of its end holds until it is gone.
        let record = self.record_of(&uid, &ended.key, true);
        let (key, name) = (ended.key.clone(), ended.key.to_string());
        let state = PodState::Terminated { cause };
        let first_sync = Span::none();
        self.spawn(key, WorkerSpec { uid: uid.clone(), pod: ended.pod, name, state, record, first_sync });
        if let Some(worker) = self.workers.get_mut(&uid) {
            worker.removing = true;
        }
    }

    /// Lets the next pod of a name begin.
    fn release_name(&mut self, uid: &PodUid, key: &PodKey) {
        let Some(queue) = self.names.get_mut(key) else { return };
        queue.retain(|other| other != uid);
        match queue.first() {
            Some(next) => {
                if let Some(next) = self.workers.get(next) {
                    next.mailbox.predecessor_gone();
                }
            }
            None => {
                self.names.remove(key);
            }
        }
    }

    /// Removes what pods that are gone have left on disk. Only with complete knowledge and one at a time; false when that
    /// has to wait.
    fn sweep(&mut self) -> bool {
        let desired = self.desired.borrow().clone();
        let Some(listing) = self.listing.borrow().clone() else { return false };
        if !desired.complete || desired.doubtful {
            return false;
        }
        // What has ended since the last event is not under way.
        while self.sweeping.try_join_next().is_some() {}
        if !self.sweeping.is_empty() {
            return false;
        }
        let known: BTreeSet<PodUid> = desired
            .pods
            .keys()
            .chain(self.workers.keys())
            .chain(self.crashed.keys())
            .chain(listing.pods.keys())
            .chain(&listing.unreadable)
            .cloned()
            .collect();
        self.records.retain(|uid, _| known.contains(uid));
        self.services.allocations.keep_only(|uid| known.contains(uid));
        let services = self.services.clone();
        self.sweeping.spawn(async move { crate::sweep::run(&services, &known).await });
        true
    }
}

/// Whether the API holds a terminal phase for a pod.
fn has_ended(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(Phase::of).is_some_and(Phase::is_terminal)
}

/// Whether the API has marked a pod for deletion.
fn is_deleted(wanted: &DesiredPod) -> bool {
    wanted.pod.metadata.deletion_timestamp.is_some()
}

/// Waits for pods whose objects changed; for ever without an API. Cancel-safe.
async fn changed_objects(api: Option<&ApiObjects>) -> BTreeSet<PodUid> {
    match api {
        Some(api) => api.changed().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
