//! What is told of one pod, and the only place that tells it: its row in the table and its journal record. The worker
//! brings whole statuses, the prober brings verdicts; a verdict is told at once even while the worker is busy with a
//! pull, a hook or a kill. Whoever writes holds the turn, so that neither undoes what the other has told. It decides
//! nothing: what follows from a verdict is computed in `rubelet_core::status`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus};
use rubelet_core::ids::{ContainerId, PodUid};
use rubelet_core::lifecycle::PodState;
use rubelet_core::observed::ObservedPod;
use rubelet_core::status;
use rubelet_core::verdicts::{ProbeVerdicts, Verdict};
use tracing::warn;

use super::mailbox::Mailbox;
use crate::journal::PodRecord;
use crate::prober::VerdictSink;
use crate::services::Services;
use crate::table::PodRow;
use crate::tracing_export::spans;

/// The desk of one pod; shared by its worker and the prober.
pub(super) struct Desk {
    services: Arc<Services>,
    mailbox: Arc<Mailbox>,
    uid: PodUid,
    name: String,
    told: Mutex<Told>,
    /// Held by whoever changes what is told, until it is in the journal and in the table.
    turn: tokio::sync::Mutex<()>,
}

/// The state of a desk.
pub(super) struct Told {
    /// The pod as it is told with its status; `None` for one that only the runtime knows.
    pub pod: Option<Arc<Pod>>,
    /// The stage it is told in.
    pub state: PodState,
    /// What the journal remembers, or is about to.
    pub record: PodRecord,
    /// The record holds something that the journal does not.
    pub dirty: bool,
    /// The worker is gone: nothing is told any more.
    closed: bool,
}

/// The right to change what is told.
pub(super) struct Turn<'a>(
    #[expect(dead_code, reason = "it is held, not read")] tokio::sync::MutexGuard<'a, ()>,
);

impl Desk {
    /// A desk with what the journal remembers.
    pub(super) fn new(
        services: Arc<Services>,
        mailbox: Arc<Mailbox>,
        (uid, name): (PodUid, String),
        pod: Option<Arc<Pod>>,
        state: PodState,
        record: PodRecord,
    ) -> Arc<Self> {
        let told = Mutex::new(Told { pod, state, record, dirty: false, closed: false });
        Arc::new(Self { services, mailbox, uid, name, told, turn: tokio::sync::Mutex::default() })
    }

    /// Waits for the right to change what is told.
    pub(super) async fn turn(&self) -> Turn<'_> {
        Turn(self.turn.lock().await)
    }

    /// What is told now. Held for a moment only: never across an await.
    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status last told.
    pub(super) fn status(&self) -> Option<Arc<PodStatus>> {
        self.told().record.status.clone()
    }

    /// Puts the row into the table.
    pub(super) fn publish_row(&self) {
        let row = {
            let told = self.told();
            let (Some(pod), false) = (told.pod.clone(), told.closed) else { return };
            let status = told.record.status.clone();
            let status = status.unwrap_or_else(|| Arc::new(pod.status.clone().unwrap_or_default()));
            PodRow { pod, status, state: told.state.clone() }
        };
        self.services.table.publish(&self.uid, row);
    }

    /// Puts a status in place of the one before: into the journal before anyone sees it, so that an agent that is
    /// killed in between never tells an older one again.
    pub(super) async fn tell(&self, turn: &Turn<'_>, status: PodStatus) {
        let was_ready = {
            let mut told = self.told();
            let before = told.record.status.replace(Arc::new(status));
            told.dirty = true;
            before.is_some_and(|before| super::is_ready(&before))
        };
        if !was_ready && self.status().is_some_and(|status| super::is_ready(&status)) {
            spans::event("Ready", "every container of the pod is ready");
        }
        self.save(turn).await;
        self.publish_row();
    }

    /// Writes the journal record if it holds anything new. A failure is told and costs nothing but memory across a
    /// restart; the next change tries again.
    pub(super) async fn save(&self, _: &Turn<'_>) {
        let record = {
            let mut told = self.told();
            if told.pod.is_none() || told.closed || !told.dirty {
                return;
            }
            told.dirty = false;
            told.record.clone()
        };
        if let Err(error) = self.services.journal.save(&self.uid, &record).await {
            self.told().dirty = true;
            warn!(pod = self.name, "{}", crate::logging::chain(&error));
        }
    }

    /// Drops what the probes said of containers that are gone.
    pub(super) fn keep_verdicts_of(&self, observed: &ObservedPod) {
        let mut told = self.told();
        let known = told.record.verdicts.len();
        told.record.verdicts.retain(|id, _| observed.containers.iter().any(|c| c.id == *id));
        told.dirty |= told.record.verdicts.len() != known;
    }

    /// What is known of a container that runs: the probes' last word or, where another agent ran this node before,
    /// what the API was told of this very instance.
    pub(super) fn known(&self, container: &Container, id: &ContainerId) -> Verdict {
        let mut told = self.told();
        if let Some(verdict) = told.record.verdicts.get(id) {
            return *verdict;
        }
        let status = told.record.status.as_deref();
        let status = status.or_else(|| told.pod.as_ref()?.status.as_ref());
        let known =
            status.and_then(|status| status_of(status, id)).map_or_else(Verdict::default, |of| Verdict {
                started: of.started.filter(|started| *started && container.startup_probe.is_some()),
                ready: Some(true).filter(|_| of.ready && container.readiness_probe.is_some()),
                ..Verdict::default()
            });
        if known != Verdict::default() {
            told.note(id.clone(), known);
        }
        known
    }

    /// The worker is gone: what comes in from now on is dropped.
    pub(super) fn close(&self) {
        self.told().closed = true;
    }
}

impl Told {
    /// What the probes said last.
    pub(super) fn verdicts(&self) -> ProbeVerdicts {
        ProbeVerdicts { by_container: self.record.verdicts.clone(), probing: true }
    }

    /// Notes a verdict, and tells what was noted before.
    fn note(&mut self, id: ContainerId, verdict: Verdict) -> Verdict {
        let before = self.record.verdicts.insert(id, verdict);
        self.dirty |= before != Some(verdict);
        before.unwrap_or_default()
    }
}

impl VerdictSink for Desk {
    fn verdict(&self, id: &ContainerId, verdict: Verdict) -> BoxFuture<'_, ()> {
        let id = id.clone();
        async move {
            let turn = self.turn().await;
            let (status, acts) = {
                let mut told = self.told();
                if told.closed {
                    return;
                }
                let before = told.note(id, verdict);
                let status = match (&told.pod, &told.record.status) {
                    (Some(pod), Some(status)) => {
                        let now = self.services.clock.now();
                        let fresh = status::with_verdicts(pod, status, &told.verdicts(), now);
                        (!status::semantically_equal(status, &fresh)).then_some(fresh)
                    }
                    _ => None,
                };
                // Readiness alone starts and stops nothing.
                (status, Verdict { ready: None, ..before } != Verdict { ready: None, ..verdict })
            };
            match status {
                Some(status) => self.tell(&turn, status).await,
                None => self.save(&turn).await,
            }
            if acts {
                self.mailbox.poke();
            }
        }
        .boxed()
    }
}

/// What a status says of a container instance.
fn status_of<'a>(status: &'a PodStatus, id: &ContainerId) -> Option<&'a ContainerStatus> {
    let all = [&status.container_statuses, &status.init_container_statuses];
    let is_it = |of: &&ContainerStatus| {
        let told = of.container_id.as_deref().and_then(|told| told.split_once("://"));
        told.is_some_and(|(_, told)| told == id.as_str())
    };
    all.into_iter().flatten().flatten().find(is_it)
}
