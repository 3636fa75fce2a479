//! The prober: carries out the probes of all containers of the node and tells each pod's worker what they mean.
//!
//! One task and one timer for all probes; without probes the task sleeps for good. When a probe is due and what its
//! answers mean is decided by `rubelet_core::probes`, how a container is asked by `rubelet_probes`; this room keeps
//! the book of what runs, lets runs begin on time, bounds how many there are, and hands verdicts on. It never starts,
//! stops or reads containers, and writes no status: workers say what runs (`track`, after every observation) and hear
//! what is found (`VerdictSink`).
//!
//! - `book`: what is probed, what is due, what is under way; a value behind a lock, without tasks or timers
//! - `task`: the loop
//! - `run`: one run of one probe: its slot, its handler, its tries
//! - `handlers`: which handler of `rubelet_probes` a probe means
//! - `slots`: how many runs there may be at a time
//! - `deliver`: verdicts on their way to their pods, in order
//! - `tell`: events and metrics
//! - `lateness`: how punctual runs are

mod book;
mod deliver;
mod handlers;
mod lateness;
mod run;
mod slots;
mod task;
mod tell;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use jiff::Timestamp;
use rubelet_core::Pod;
use rubelet_core::ids::{ContainerId, PodUid};
use rubelet_core::verdicts::Verdict;
use rubelet_cri::RuntimeService;
use rubelet_probes::exec::ExecWatch;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::lateness::Lateness;
pub use self::task::ProberTask;

use self::book::Book;
use self::handlers::ContainerHandlers;
use self::run::Handlers;
use crate::clock::Clock;
use crate::events::EventRecorder;
use crate::metrics::Metrics;

/// Hears what the probes of a pod's containers say.
pub trait VerdictSink: Send + Sync {
    /// The verdict on a container instance is this now. Called for changes only, for one pod one after the other: the
    /// next call is made when this one has ended. Of changes that come meanwhile the last one of each container is
    /// told. What was told last stands until the instance is gone.
    fn verdict(&self, id: &ContainerId, verdict: Verdict) -> BoxFuture<'_, ()>;
}

/// What is to be probed of a pod: a level, told again after every observation.
#[derive(Clone)]
pub struct ProbedPod {
    /// Its UID.
    pub uid: PodUid,
    /// Its object; where the probes are.
    pub pod: Arc<Pod>,
    /// Its primary address, the node's when it uses the host's network. Without one, probes that need it cannot be
    /// made.
    pub ip: Option<String>,
    /// Its containers that run; those without probes may be among them.
    pub running: Vec<RunningContainer>,
    /// Whether it is being ended: liveness and startup are not probed any more, readiness is.
    pub ending: bool,
    /// Who hears the verdicts.
    pub sink: Arc<dyn VerdictSink>,
}

/// A container instance that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningContainer {
    /// Its name in the pod.
    pub name: String,
    /// Its ID.
    pub id: ContainerId,
    /// When it was started; looked at only the first time the instance is told.
    pub started_at: Timestamp,
    /// What is known of this very instance from before the agent's start; looked at only the first time.
    pub known: Verdict,
}

/// Handle of the prober; cheap to clone. Without its task nothing is probed.
#[derive(Clone)]
pub struct Prober {
    shared: Arc<Shared>,
}

/// What the handle and the task share.
struct Shared {
    book: Mutex<Book>,
    /// Something is due earlier than the task knows.
    wake: Notify,
    in_flight: Arc<AtomicUsize>,
    lateness: Mutex<Lateness>,
    events: EventRecorder,
    metrics: Metrics,
    clock: Clock,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lateness(&self) -> MutexGuard<'_, Lateness> {
        self.lateness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prober {
    /// A prober that asks containers through `runtime` and the network, and its task. What commands leave behind that
    /// time out is found by `exec_watch`. Nothing is probed before the task runs; what is tracked before that is not
    /// lost.
    pub fn with_exec_watch(
        runtime: Arc<dyn RuntimeService>,
        exec_watch: Arc<dyn ExecWatch>,
        events: EventRecorder,
        metrics: Metrics,
        clock: Clock,
    ) -> (Self, ProberTask) {
        let handlers = ContainerHandlers { runtime, exec_watch };
        Self::with_handlers(Arc::new(handlers), events, metrics, clock)
    }

    fn with_handlers(
        handlers: Arc<dyn Handlers>,
        events: EventRecorder,
        metrics: Metrics,
        clock: Clock,
    ) -> (Self, ProberTask) {
        let shared = Arc::new(Shared {
            book: Mutex::default(),
            wake: Notify::new(),
            in_flight: Arc::default(),
            lateness: Mutex::default(),
            events,
            metrics,
            clock,
        });
        (Self { shared: shared.clone() }, ProberTask::new(shared, handlers))
    }

    /// Probes what this pod runs now, and nothing else of it: what is under way of containers that are gone is given
    /// up. Costs next to nothing when nothing has changed or nothing of it has probes.
    pub fn track(&self, pod: ProbedPod) {
        let wall = self.shared.clock.now();
        if self.shared.book().track(pod, Instant::now(), wall) {
            self.shared.wake.notify_one();
        }
    }

    /// Stops probing a container that has stopped, until an observation tells otherwise: between two of them others of
    /// its pod may take long to stop.
    pub fn stopped(&self, uid: &PodUid, id: &ContainerId) {
        self.shared.book().stopped(uid, id);
    }

    /// Stops probing a pod that is gone, and drops what was counted of it. No verdict of it is told after this, but
    /// for the one that is being told already.
    pub fn forget(&self, uid: &PodUid) {
        let pod = self.shared.book().forget(uid);
        if let Some(pod) = pod {
            tell::forget(&self.shared.metrics, uid, &pod);
        }
    }

    /// How many runs are under way or wait for their slot.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// How punctual runs have been since this was last asked.
    pub fn take_lateness(&self) -> Lateness {
        std::mem::take(&mut self.shared.lateness())
    }
}
