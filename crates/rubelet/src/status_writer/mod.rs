//! The status writer: makes the API server's copies of pods say what the workers published, and has pods deleted
//! there of which nothing is left here.
//!
//! Reads the table of pods and the view of the API; writes `pods/status` and deletes pods. Level-based: for each pod
//! only the newest status counts, at most one request is under way, and what came back decides what is still to be
//! said. It never decides what is true of a pod and starts or stops nothing.
//!
//! - Readiness and phases go first and at once; other changes of a pod keep a short distance from each other.
//! - Nothing is read before it is written: the base is the watch's copy or the answer to the last write, whichever
//!   is newer. Only after a conflict or a write whose fate is unknown the pod is read.
//! - While the server does not answer, one request at a time tries; afterwards the newest statuses catch up.
//! - A pod is deleted in the API when its worker removed everything and its last status is written, never before.

mod entry;
mod gate;
mod pause;
mod request;
#[cfg(test)]
mod tests;
mod trouble;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use kube::Client;
use rubelet_apiclient::wake::Wake;
use rubelet_core::ids::PodUid;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::api_pods::{ApiPodSet, ApiPods};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::table::{PodTable, RowChange};
use entry::{Entry, Step};
use gate::{Gate, Ticket};
use request::{Answer, Request, send};

pub(crate) use pause::pause;
pub(crate) use request::at_once;
pub(crate) use trouble::Trouble;

/// First pause of a pod after a failure; doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest pause of a pod after a failure of the server.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Longest pause of a pod whose requests are refused.
const REFUSED_MAX: Duration = Duration::from_secs(300);
/// Longest pause of a pod that this node may not write about: rules of a cluster are mended.
const FORBIDDEN_MAX: Duration = Duration::from_secs(60);
/// Pods that wait are looked at this often whatever the timers say.
const SAFETY: Duration = Duration::from_secs(60);

/// A request under way.
struct Flight {
    uid: PodUid,
    ticket: Ticket,
    request: Request,
    /// The status that it tells, and since when that waited.
    sent: Arc<PodStatus>,
    since: Option<Instant>,
}

/// The task's own state. Dropping it stops requests under way; what they were to say is said by the next agent,
/// which finds the difference.
pub struct StatusWriter {
    table: PodTable,
    api: ApiPods,
    client: Client,
    clock: Clock,
    entries: BTreeMap<PodUid, Entry>,
    gate: Gate,
    wake: Wake,
    requests: JoinSet<Result<Answer, Trouble>>,
    flights: BTreeMap<Id, Flight>,
    metrics: Metrics,
    pending: watch::Sender<usize>,
}

impl StatusWriter {
    /// A writer that has not begun. It is the table's only reader of changes, from here on: what is removed before
    /// is never heard of, so that it has to be made before workers are.
    pub fn new(table: PodTable, api: ApiPods, client: Client, clock: Clock) -> Self {
        let mut writer = Self {
            table,
            api,
            client,
            clock,
            entries: BTreeMap::new(),
            gate: Gate::default(),
            wake: Wake::default(),
            requests: JoinSet::new(),
            flights: BTreeMap::new(),
            metrics: Metrics::default(),
            pending: watch::Sender::new(0),
        };
        writer.take_rows();
        writer
    }

    /// Cuts the pauses of an outage short when the server answers again.
    #[must_use]
    pub fn with_wake(mut self, wake: Wake) -> Self {
        self.wake = wake;
        self
    }

    /// Counts into these metrics.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// How many pods have something that the API was not told yet and could be.
    pub fn pending(&self) -> watch::Receiver<usize> {
        self.pending.subscribe()
    }

    /// Runs until dropped.
    pub async fn run(mut self) {
        let mut rows = self.table.changes();
        rows.mark_changed();
        self.api.mark_changed();
        loop {
            // One time for both: what is not due for the first is in the future for the second.
            let now = Instant::now();
            self.start_requests(now);
            let wake = self.wakes_at(now);
            // Every arm is cancel-safe: JoinSet::join_next and timers lose nothing when dropped, watches keep their
            // news. Answers first, because they tell what need not be said; always in this order, so that a
            // simulation can be replayed.
            tokio::select! {
                biased;
                Some(done) = self.requests.join_next_with_id() => self.land(done),
                Ok(()) = rows.changed() => self.take_rows(),
                Ok(()) = self.api.changed() => self.take_api(),
                () = self.wake.called() => self.gate.hint(Instant::now()),
                () = sleep_until(wake) => {}
            }
        }
    }

    fn take_rows(&mut self) {
        let now = Instant::now();
        let api = self.api.borrow().clone();
        for (uid, change) in self.table.take_changed() {
            let (row, removed) = match change {
                RowChange::Written(row) => (row, false),
                RowChange::Removed(row) => (row, true),
            };
            match self.entries.get_mut(&uid) {
                Some(entry) => entry.publish(row, removed, now),
                None => {
                    self.entries.insert(uid.clone(), Entry::new(row, removed, now));
                }
            }
            self.refresh(&uid, &api);
        }
    }

    fn take_api(&mut self) {
        let api = self.api.borrow_and_update().clone();
        for entry in self.entries.values_mut() {
            entry.observe(&api);
            if entry.look {
                entry.weigh();
            }
        }
        // The watch works: the server is there.
        self.gate.hint(Instant::now());
    }

    fn refresh(&mut self, uid: &PodUid, api: &ApiPodSet) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.observe(api);
            entry.weigh();
        }
    }

    /// Starts what is due, as far as the gate lets it.
    fn start_requests(&mut self, now: Instant) {
        while let Some(ticket) = self.gate.ticket(now) {
            if !self.start_one(ticket, now) {
                self.gate.unused(ticket);
                break;
            }
        }
        let open = self.entries.values().filter(|entry| entry.look || entry.under_way).count();
        self.pending.send_if_modified(|pending| std::mem::replace(pending, open) != open);
    }

    /// Starts the first request that is due: urgent ones first, then the one that waits longest.
    fn start_one(&mut self, ticket: Ticket, now: Instant) -> bool {
        let synced = self.api.borrow().synced;
        let wall = self.clock.now();
        loop {
            let next = self
                .entries
                .iter_mut()
                .filter(|(_, entry)| {
                    entry.look && !entry.under_way && entry.due().is_none_or(|due| due <= now)
                })
                .min_by_key(|(_, entry)| (!entry.urgent, entry.since.unwrap_or(now)));
            let Some((uid, entry)) = next else { return false };
            let uid = uid.clone();
            match entry.step(synced, now, wall) {
                Step::Send(request) => {
                    entry.look = false;
                    entry.under_way = true;
                    let flight = Flight {
                        uid,
                        ticket,
                        request: request.clone(),
                        sent: entry.row.status.clone(),
                        since: entry.since.take_if(|_| matches!(request, Request::Patch(_))),
                    };
                    let task = self.requests.spawn(send(self.client.clone(), entry.key(), request));
                    self.flights.insert(task.id(), flight);
                    return true;
                }
                Step::Rest => {
                    entry.look = false;
                    entry.since = None;
                }
                Step::Wait(at) => entry.retry_at = Some(at),
                Step::Forget => {
                    self.entries.remove(&uid);
                }
                Step::Illegal { error, foreign: true } => {
                    entry.look = false;
                    warn!(
                        pod = %entry.key(),
                        "a status is not written, the API says the pod has ended although it runs here: somebody wrote that: {error}"
                    );
                }
                Step::Illegal { error, foreign: false } => {
                    entry.look = false;
                    error!(pod = %entry.key(), "a status is not written, this is a bug: {error}");
                }
            }
        }
    }

    /// When to look without anything having come in.
    fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let waiting = self.entries.values().filter(|entry| entry.look && !entry.under_way);
        let due = waiting.map(|entry| entry.due().unwrap_or(now)).min()?;
        // What is due now waits for the gate: for an answer, or for its time.
        let due = if due <= now { self.gate.opens_at() } else { Some(due) };
        Some(due.map_or(now + SAFETY, |due| due.min(now + SAFETY)))
    }

    fn land(&mut self, done: Result<(Id, Result<Answer, Trouble>), JoinError>) {
        let (id, result) = match done {
            Ok((id, result)) => (id, result),
            Err(problem) => {
                error!("a status request panicked: {problem}");
                let uncertain = true;
                let message = "the request was lost inside the agent (a bug)".to_owned();
                (problem.id(), Err(Trouble::Unavailable { message, retry_after: None, uncertain }))
            }
        };
        let Some(flight) = self.flights.remove(&id) else { return };
        let now = Instant::now();
        match result {
            Ok(answer) => {
                if self.gate.answered(flight.ticket) {
                    self.resume();
                }
                self.succeed(flight, answer, now);
            }
            Err(trouble) => self.fail(flight, trouble, now),
        }
    }

    /// The server answers again: who waited because of it need not any more.
    fn resume(&mut self) {
        for entry in self.entries.values_mut().filter(|entry| entry.blameless) {
            entry.blameless = false;
            entry.retry_at = None;
            // How long the server was away says nothing about the pod.
            entry.failures = 0;
        }
    }

    fn succeed(&mut self, flight: Flight, answer: Answer, now: Instant) {
        let wall = self.clock.now();
        let Some(entry) = self.entries.get_mut(&flight.uid) else { return };
        entry.under_way = false;
        entry.look = true;
        entry.retry_at = None;
        if flight.request != Request::Read {
            // Only that what failed was done ends the doubling.
            (entry.failures, entry.blameless, entry.told) = (0, false, None);
        }
        match (flight.request, answer) {
            (Request::Patch(body), Answer::Pod(copy)) => {
                entry.written(flight.sent, &body, copy, now, wall);
                if let Some(since) = flight.since {
                    self.metrics.pods.status_sync_duration.observe_duration(now.duration_since(since));
                }
            }
            (_, Answer::Pod(copy)) => entry.read(copy),
            (_, Answer::Deleted) => {
                debug!(pod = %entry.key(), "nothing of the pod is left; it is deleted in the API");
                entry.vanish();
            }
        }
        entry.weigh();
    }

    fn fail(&mut self, flight: Flight, trouble: Trouble, now: Instant) {
        let wrote = flight.request != Request::Read;
        let everyone = match &trouble {
            Trouble::Unavailable { retry_after, .. } => {
                self.gate.failed(flight.ticket, now, *retry_after);
                true
            }
            Trouble::Failed(..) => self.gate.failed_alone(flight.ticket, now, &flight.uid),
            _ => {
                if self.gate.answered(flight.ticket) {
                    self.resume();
                }
                false
            }
        };
        let Some(entry) = self.entries.get_mut(&flight.uid) else { return };
        entry.under_way = false;
        entry.look = true;
        entry.since = flight.since.or(entry.since);
        let mut longest = RETRY_MAX;
        match &trouble {
            Trouble::Gone(_) => {
                debug!(pod = %entry.key(), "the API has no such pod any more");
                entry.vanish();
                return;
            }
            Trouble::Conflict(_) | Trouble::Unreadable(_) => entry.unsure = true,
            Trouble::Unavailable { uncertain, .. } => entry.unsure |= wrote && *uncertain,
            Trouble::Failed(..) => entry.unsure |= wrote,
            Trouble::Refused(code, _) => {
                longest = if *code == 403 { FORBIDDEN_MAX } else { REFUSED_MAX };
                if *code == 422 && matches!(flight.request, Request::Patch(_)) {
                    entry.refuse(flight.sent);
                }
            }
        }
        entry.failures = entry.failures.saturating_add(1);
        entry.blameless = everyone;
        let key = entry.key();
        entry.retry_at = Some(now + pause(RETRY_FIRST, longest, entry.failures, &key.to_string()));
        let message = trouble.to_string();
        if entry.told.as_ref() != Some(&message) {
            let doing = match flight.request {
                Request::Read => "read the pod from the API",
                Request::Patch(_) => "write the pod's status",
                Request::Delete(_) => "delete the ended pod in the API",
            };
            warn!(pod = %key, "cannot {doing}, trying again: {message}");
            entry.told = Some(message);
        }
        entry.weigh();
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
