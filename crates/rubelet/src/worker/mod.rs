//! The pod worker: one task per pod UID, sole owner of the pod's stage, of its row in the table and of its
//! journal record. It observes, lets the core decide, executes, publishes and waits: for its mailbox, or for
//! the time the core named. Nothing else starts or stops anything of the pod.

mod cleanup;
mod config;
mod count;
mod desk;
mod explain;
mod hooks;
mod image;
mod kill;
pub mod mailbox;
mod mounts;
mod probing;
mod resize;
mod share;
mod start;
mod sync;
mod terminate;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use rubelet_core::backoff::{BackoffPolicy, BackoffTable};
use rubelet_core::ids::{PodUid, SandboxId};
use rubelet_core::lifecycle::{Effect, Input, PodState, TerminationCause, step};
use rubelet_core::observed::ObservedPod;
use rubelet_core::paths::{self, PodPaths, UnsafeName};
use rubelet_core::plan::PodPlan;
use rubelet_core::resize::{PendingResize, ResizeProgress, ResizeTold, pending_of, progress_of};
use rubelet_core::status::{self, Ending, FailureCause, NodeFacts, StartErrors, StatusInputs};
use tokio::time::Instant;
use tracing::{Instrument as _, Span, debug, error};

use crate::events::EventSubject;
use crate::journal::PodRecord;
use crate::services::Services;
use crate::tracing_export::spans;
use desk::{Desk, Turn};
use explain::Explaining;
use kill::KillMemory;
use mailbox::Mailbox;

/// First pause after a failed step; doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest pause after a failed step. A hint or a new input cuts every pause short.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Pause while the runtime has no network for pods (upstream: 1 s).
const NETWORK_PAUSE: Duration = Duration::from_secs(1);

/// What a worker is made from.
pub struct WorkerSpec {
    /// The pod's UID.
    pub uid: PodUid,
    /// The pod; `None` for one that only the runtime knows.
    pub pod: Option<Arc<Pod>>,
    /// `namespace/name`, for events and logs.
    pub name: String,
    /// The stage to begin in.
    pub state: PodState,
    /// What the journal remembers.
    pub record: PodRecord,
    /// The trace of its first sync, if that has begun already.
    pub first_sync: Span,
}

/// How a worker ended.
#[derive(Debug)]
pub struct WorkerExit {
    /// The pod's UID.
    pub uid: PodUid,
    /// Why the pod ended.
    pub cause: TerminationCause,
}

/// When the worker looks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// At once.
    No,
    /// After this long, or when something comes in.
    For(Duration),
    /// Only when something comes in.
    UntilInput,
}

/// How the resize of a pod stands.
#[derive(Default)]
struct ResizeState {
    /// What waits, as the sync loop says.
    pending: Option<PendingResize>,
    /// What is under way.
    progress: Option<ResizeProgress>,
}

impl ResizeState {
    /// As it was told by an agent before this one: in its journal, or in the API.
    fn of(pod: Option<&Pod>, told: Option<&PodStatus>) -> Self {
        let status = told.or_else(|| pod?.status.as_ref());
        let progress = status.and_then(progress_of);
        Self { pending: status.and_then(pending_of), progress }
    }
}

/// The worker of one pod.
pub struct PodWorker {
    services: Arc<Services>,
    mailbox: Arc<Mailbox>,
    uid: PodUid,
    subject: EventSubject,
    pod: Option<Arc<Pod>>,
    state: PodState,
    /// What is told of the pod.
    desk: Arc<Desk>,
    restarts: BackoffTable,
    pulls: BackoffTable,
    start_errors: StartErrors,
    /// Containers that the sync under way has killed to start them anew, and has not come to yet.
    replacing: Vec<String>,
    prefetched: BTreeMap<String, image::Prefetched>,
    /// The configuration of the pod's sandbox, which creating containers asks for again.
    sandbox_config: Option<(SandboxId, rubelet_cri::v1::PodSandboxConfig)>,
    /// Its share of the machine was taken up, if it ran already when the agent met it.
    adopted: bool,
    /// When the runtime was last read, if nothing was to be done then and nothing but a hint or an input changes
    /// that.
    at_rest: Option<Instant>,
    /// How the pod's resize stands.
    resize: ResizeState,
    /// The volumes are to be made ready again although nothing is to be started: something they show may have changed.
    volumes_due: bool,
    /// When they are to be looked at again at the latest: a token is due, or one of them is behind.
    volumes_at: Option<jiff::Timestamp>,
    /// The plan that was carried out last, while there is something to do.
    last_plan: Option<PodPlan>,
    kill_memory: KillMemory,
    /// What the pod waits for.
    explaining: Explaining,
    rounds: count::Rounds,
    retry: Duration,
    /// The observation that the last sync ended with, if nothing was done since.
    fresh: Option<ObservedPod>,
    /// Minted by the state machine; consumed by the clean-up.
    proof: Option<rubelet_core::lifecycle::ContainersStopped>,
    /// The trace of the first sync, until that happens.
    first_sync: Span,
}

impl PodWorker {
    /// A worker that has not begun.
    pub fn new(services: Arc<Services>, mailbox: Arc<Mailbox>, spec: WorkerSpec) -> Self {
        let (restarts, pulls) = (spec.record.restarts.clone(), spec.record.pulls.clone());
        let identity = (spec.uid.clone(), spec.name.clone());
        let (pod, state) = (spec.pod.clone(), spec.state.clone());
        let resize = ResizeState::of(pod.as_deref(), spec.record.status.as_deref());
        let desk = Desk::new(services.clone(), mailbox.clone(), identity, pod, state, spec.record);
        Self {
            subject: EventSubject { uid: spec.uid.clone(), name: spec.name, container: None },
            restarts: BackoffTable::restore(services.node.crash_loop, restarts),
            pulls: BackoffTable::restore(BackoffPolicy::image_pull(), pulls),
            services,
            mailbox,
            uid: spec.uid,
            pod: spec.pod,
            state: spec.state,
            desk,
            start_errors: StartErrors::new(),
            replacing: vec![],
            prefetched: BTreeMap::new(),
            sandbox_config: None,
            adopted: false,
            at_rest: None,
            resize,
            // What an agent before this one made may be out of date, and nobody tells of changes until it has been read.
            volumes_due: true,
            volumes_at: None,
            last_plan: None,
            kill_memory: KillMemory::default(),
            explaining: Explaining::default(),
            rounds: count::Rounds::default(),
            retry: RETRY_FIRST,
            fresh: None,
            proof: None,
            first_sync: spec.first_sync,
        }
    }

    /// Works until the pod is finished. Dropping the future at any await leaves containers as they are.
    pub async fn run(mut self) -> WorkerExit {
        self.publish_row();
        self.hold_objects();
        loop {
            self.absorb();
            let (operation, began) = (self.operation(), Instant::now());
            self.count_begin();
            let pause = match &self.state {
                PodState::WaitingForPredecessor => Pause::UntilInput,
                // Boxed, so that a worker at rest is small: most pods do nothing most of the time.
                PodState::Syncing => self.sync_until_deadline(operation).await,
                PodState::Terminating { .. } => {
                    let span = self.pod.as_deref().map_or_else(Span::none, spans::sync_terminating_pod);
                    Box::pin(self.terminate().instrument(span)).await
                }
                PodState::Terminated { .. } => {
                    let span = self.pod.as_deref().map_or_else(Span::none, spans::sync_terminated_pod);
                    Box::pin(self.clean_up().instrument(span)).await
                }
                PodState::Finished { cause } => {
                    let cause = cause.clone();
                    Box::pin(self.leave(&cause)).await;
                    return WorkerExit { uid: self.uid.clone(), cause };
                }
            };
            Box::pin(self.save()).await;
            Box::pin(self.services.allocations.flush()).await;
            self.count_round(operation, began.elapsed());
            // Both arms are cancel-safe: a timer, and the mailbox whose slot is the truth. Selects of the agent
            // are biased so that a simulation can be replayed.
            match pause {
                Pause::No => {}
                Pause::For(time) => tokio::select! {
                    biased;
                    () = tokio::time::sleep(time) => {}
                    () = self.mailbox.filled() => {}
                },
                Pause::UntilInput => self.mailbox.filled().await,
            }
        }
    }

    /// One sync, told to stop at its next safe point when the pod's active deadline passes in the middle of it.
    async fn sync_until_deadline(&mut self, operation: Option<&'static str>) -> Pause {
        let clock = self.services.clock.clone();
        // Before its first status a pod has no start time: its time begins now.
        let deadline = self.deadline().map(|at| clock.until(at)).or_else(|| self.whole_deadline());
        let mailbox = self.mailbox.clone();
        let mut sync = Box::pin(self.sync(operation));
        let Some(deadline) = deadline else { return sync.await };
        // Both arms are cancel-safe: the sync goes on after the timer, which only fills the mailbox.
        tokio::select! {
            biased;
            pause = &mut sync => pause,
            () = tokio::time::sleep(deadline) => {
                mailbox.terminate(mailbox::Terminate { cause: deadline_exceeded(), grace: None });
                sync.await
            }
        }
    }

    /// All of the pod's activeDeadlineSeconds.
    fn whole_deadline(&self) -> Option<Duration> {
        let seconds = self.pod.as_deref()?.spec.as_ref()?.active_deadline_seconds?;
        Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }

    /// When the pod's activeDeadlineSeconds end.
    fn deadline(&self) -> Option<jiff::Timestamp> {
        status::deadline(self.pod.as_deref()?, self.desk.status().as_deref()?)
    }

    /// Takes what is in the mailbox and steps the state machine.
    fn absorb(&mut self) {
        if !self.mailbox.is_empty() {
            self.at_rest = None;
        }
        let inputs = self.mailbox.take();
        if inputs.poked {
            self.fresh = None;
        }
        self.volumes_due |= inputs.refresh;
        if let Some(pod) = inputs.pod {
            self.pod = Some(pod);
            self.rounds.updated = true;
            self.publish_row();
            self.hold_objects();
            // Labels and annotations are shown by downward API volumes.
            self.volumes_due = true;
        }
        if inputs.predecessor_gone {
            self.apply(Input::PredecessorGone);
        }
        if let Some(wish) = inputs.terminate {
            let grace = wish.grace.unwrap_or_else(|| self.own_grace());
            self.apply(Input::Terminate { cause: wish.cause, grace });
        }
    }

    /// Has what the pod refers to in the API kept at hand.
    fn hold_objects(&self) {
        // What ends reads nothing any more.
        let begins = matches!(self.state, PodState::WaitingForPredecessor | PodState::Syncing);
        if let (Some(api), Some(pod), true) = (&self.services.api, &self.pod, begins) {
            api.hold(&self.uid, pod);
        }
    }

    /// Steps the state machine; the only place that does. Returns whether anything changed.
    fn apply(&mut self, input: Input<'_>) -> bool {
        let (next, effects) = step(&self.state, input, self.services.clock.now());
        let changed = next != self.state;
        if changed {
            debug!(pod = self.subject.name, from = ?self.state, to = ?next, "stage");
            self.state = next;
            self.retry = RETRY_FIRST;
            // Whoever else ends a pod tells so itself.
            if let PodState::Terminating { cause: TerminationCause::Killed { reason, message, .. }, .. } =
                &self.state
                && *reason == status::DEADLINE_EXCEEDED.reason
            {
                self.services.events.normal(&self.subject, reason, message.clone());
            }
            self.publish_row();
        }
        for effect in effects {
            match effect {
                Effect::CleanUp(proof) => self.proof = Some(proof),
                // A sync is stopped by the mailbox, a kill is repeated by the loop, and the sync loop learns
                // from the worker's exit that the name is free.
                Effect::CancelSync | Effect::ShortenGrace | Effect::ReleaseName => {}
            }
        }
        changed
    }

    /// The grace the pod's own spec gives, or that of a pod only the runtime knows.
    fn own_grace(&self) -> u64 {
        match &self.pod {
            Some(pod) => rubelet_core::kill::effective_grace(None, pod, None),
            None => rubelet_core::kill::ORPHAN_GRACE_SECONDS,
        }
    }

    /// Reads the pod from the runtime; on failure tells so and names the pause before the next attempt.
    async fn observe(&mut self) -> Result<ObservedPod, Pause> {
        let answer = self.services.pleg.observe(&self.uid).await;
        self.heard(answer)
    }

    /// What came of reading the pod from the runtime.
    fn heard<E>(&mut self, answer: Result<ObservedPod, E>) -> Result<ObservedPod, Pause>
    where
        E: std::error::Error,
    {
        match answer {
            Ok(observed) => {
                self.services.logs.track_observed(&observed);
                Ok(observed)
            }
            Err(error) => {
                let chain = crate::logging::chain(&error);
                spans::failed(&Span::current(), &chain);
                self.services.events.warning(
                    &self.subject,
                    "FailedSync",
                    format!("error determining status: {chain}"),
                );
                Err(self.pause_after_failure())
            }
        }
    }

    fn pause_after_failure(&mut self) -> Pause {
        let pause = self.retry;
        self.retry = (self.retry * 2).min(RETRY_MAX);
        Pause::For(pause)
    }

    /// Generates the status from an observation and publishes it if it may be. Returns what was generated: its
    /// phase may be terminal before that may be published.
    async fn publish(&self, observed: &ObservedPod, ending: Ending) -> PodStatus {
        let Some(pod) = self.pod.clone() else { return PodStatus::default() };
        let desk = self.desk.clone();
        // Before anything is read: a verdict that comes in is told before this status or after it.
        let turn = desk.turn().await;
        let now = self.services.clock.now();
        let handler = observed.sandboxes.first().map(|s| s.runtime_handler.as_str()).unwrap_or_default();
        let node = NodeFacts {
            ips: self.node_ips(),
            runtime: self.services.pleg.runtime_name(),
            recursive_read_only: self
                .services
                .runtime_state
                .borrow()
                .handler(handler)
                .is_some_and(|features| features.recursive_read_only_mounts),
        };
        let failure = match &self.state {
            PodState::Terminating {
                cause: TerminationCause::Killed { reason, message, disruption }, ..
            }
            | PodState::Terminated { cause: TerminationCause::Killed { reason, message, disruption } } => {
                Some(FailureCause {
                    reason,
                    message,
                    disruption: disruption.then_some("TerminationByKubelet"),
                })
            }
            _ => None,
        };
        desk.keep_verdicts_of(observed);
        let actuated = self.services.allocations.actuated(&self.uid);
        let (previous, verdicts) = {
            let told = desk.told();
            (told.record.status.clone(), told.verdicts())
        };
        let mut generated = status::generate(&StatusInputs {
            pod: &pod,
            observed,
            previous: previous.as_deref(),
            verdicts: &verdicts,
            start_errors: &self.start_errors,
            replacing: &self.replacing,
            ending,
            failure,
            resize: ResizeTold {
                pending: self.resize.pending.as_ref(),
                progress: self.resize.progress.as_ref(),
                actuated: actuated.as_ref(),
                gates: self.services.allocations.settings().gates,
            },
            node: &node,
            now,
        });
        if ending == Ending::No {
            self.explaining.explanation().apply(&mut generated);
        }
        self.services.devices.tell_health(&self.uid, &mut generated);
        self.services.claims.tell_health(&pod, &mut generated);
        // Devices of claims are others' as soon as the end is told: they are given back before.
        let holds = self.services.claims.has(&self.uid);
        let may_run = holds || observed.may_run() || ending == Ending::No && observed.has_ready_sandbox();
        self.publish_status(&turn, &pod, &generated, may_run).await;
        generated
    }

    /// Addresses of the node. Until its object is known, those that the pod's status has: an agent that has just
    /// started tells nothing else.
    fn node_ips(&self) -> Vec<IpAddr> {
        if self.services.api.is_some() && self.services.own_node.get().is_none() {
            let of_pod = || self.pod.as_deref()?.status.as_ref();
            let told = self.desk.status();
            let status = told.as_deref().or_else(of_pod);
            let known: Vec<IpAddr> = status
                .and_then(|status| status.host_ips.as_ref())
                .into_iter()
                .flatten()
                .filter_map(|host| host.ip.parse().ok())
                .collect();
            if !known.is_empty() {
                return known;
            }
        }
        self.services.node_ips()
    }

    /// Publishes a status unless it says nothing new or must not follow the one before.
    async fn publish_status(&self, turn: &Turn<'_>, pod: &Pod, generated: &PodStatus, may_run: bool) {
        let told = self.desk.status();
        let empty = PodStatus::default();
        let old = told.as_deref().unwrap_or(&empty);
        match status::merge_for_update(pod, old, generated, may_run, self.services.clock.now()) {
            Ok(merged) if told.is_some() && status::semantically_equal(old, &merged) => {}
            Ok(merged) => {
                // What an agent before this one told is no news.
                self.count_status(told.as_deref().or(pod.status.as_ref()), &merged);
                self.note_back_offs();
                self.desk.tell(turn, merged).await;
            }
            Err(illegal) => {
                error!(pod = self.subject.name, "a status was not published, this is a bug: {illegal}");
            }
        }
    }

    fn publish_row(&self) {
        {
            let mut told = self.desk.told();
            (told.pod, told.state) = (self.pod.clone(), self.state.clone());
        }
        self.desk.publish_row();
    }

    /// Has the journal record say how long restarts and pulls wait.
    fn note_back_offs(&self) {
        let kept = |table: &BackoffTable| table.entries().map(|(key, entry)| (key.clone(), *entry)).collect();
        let (restarts, pulls): (Vec<_>, Vec<_>) = (kept(&self.restarts), kept(&self.pulls));
        let mut told = self.desk.told();
        if restarts != told.record.restarts || pulls != told.record.pulls {
            (told.record.restarts, told.record.pulls) = (restarts, pulls);
            told.dirty = true;
        }
    }

    /// Writes the journal record if it changed; one that could not be written is tried again here.
    async fn save(&self) {
        if self.pod.is_none() {
            return;
        }
        self.note_back_offs();
        if self.desk.told().dirty {
            self.desk.save(&self.desk.turn().await).await;
        }
    }

    /// The pod, or for one that only the runtime knows an object with just its identity.
    fn identity(&self) -> Arc<Pod> {
        self.pod.clone().unwrap_or_else(|| {
            let mut pod = Pod::default();
            let (namespace, name) = self.subject.name.split_once('/').unwrap_or_default();
            pod.metadata.namespace = Some(namespace.to_owned());
            pod.metadata.name = Some(name.to_owned());
            pod.metadata.uid = Some(self.uid.to_string());
            Arc::new(pod)
        })
    }

    /// The pod's directories.
    fn paths(&self) -> Result<PodPaths, UnsafeName> {
        let node = &self.services.node;
        paths::pod_paths(&node.root_dir, &node.pod_logs_dir, &self.identity())
    }

    fn container_subject(&self, container: &str) -> EventSubject {
        EventSubject { container: Some(container.to_owned()), ..self.subject.clone() }
    }
}

impl Drop for PodWorker {
    fn drop(&mut self) {
        // The prober may still have the desk.
        self.desk.close();
    }
}

fn is_ready(status: &PodStatus) -> bool {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The end of a pod whose activeDeadlineSeconds have passed.
fn deadline_exceeded() -> TerminationCause {
    TerminationCause::Killed {
        reason: status::DEADLINE_EXCEEDED.reason,
        message: status::DEADLINE_EXCEEDED.message.to_owned(),
        disruption: false,
    }
}
