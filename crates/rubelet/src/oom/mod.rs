//! OOM kills: hears of them from the kernel's log, tells users, and knows which ends of containers they explain.
//!
//! Owns the open log and the ledger of kills. One task follows the log; whoever asks reads what was logged until now
//! first, so that an end is never judged before its cause was read. Where the log may not be read, counters of control
//! groups are looked at when a container has ended and when usage is read, and never otherwise. What a kill means is
//! `rubelet_core::oom`'s to decide. Asked by Pleg and by the statistics.

mod groups;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rubelet_core::ids::{ContainerId, PodUid};
use rubelet_core::observed::{ObservedContainer, ObservedState};
use rubelet_core::oom::{
    Due, KillLedger, KillTime, OOM_KILLED, OOM_KILLING, OomKill, OomParser, SYSTEM_OOM, container_message,
    counted_message, system_message,
};
use rubelet_core::qos::pod_qos;
use rubelet_core::resources::{CgroupRoot, cgroup_path};
use rubelet_linux::kmsg::{self, Kmsg, RECORD_LIMIT, Reading};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::groups::Counters;
use crate::clock::Clock;
use crate::events::{EventRecorder, EventSubject};
use crate::fs_pool::FsPool;
use crate::pleg::{KnownContainer, Pleg};
use crate::runtime_monitor::RuntimeState;
use crate::table::PodTable;

/// How many records are read before others get their turn.
const CHUNK: usize = 256;
/// By how much the clock of the kernel's log may run wrong, as a fraction: a second in three hours.
const DRIFT: u32 = 10_000;
/// Exit code of a process that SIGKILL ended.
const KILLED: i32 = 137;

/// Where the control group of a pod is, as a path like `/kubepods/pod…`; `None` when the pod is not known.
pub type GroupOf = Box<dyn Fn(&PodUid) -> Option<String> + Send + Sync>;

/// Control groups of pods by what is published of them.
pub fn group_of(
    table: PodTable,
    runtime_state: watch::Receiver<RuntimeState>,
    cgroups: CgroupRoot,
) -> GroupOf {
    Box::new(move |uid| {
        let root = runtime_state.borrow().cgroup_root(&cgroups);
        Some(cgroup_path(&root, pod_qos(&table.get(uid)?.pod), Some(uid)))
    })
}

/// What the watch works with.
pub struct OomParts {
    /// Wall clock; with a simulated one there is no kernel to listen to.
    pub clock: Clock,
    /// Where users are told.
    pub events: EventRecorder,
    /// Name of the node, for its events.
    pub node_name: String,
    /// File system work.
    pub fs: FsPool,
    /// Control groups of pods.
    pub group_of: GroupOf,
    /// Where control groups are mounted (`/sys/fs/cgroup`).
    pub cgroup_mount: PathBuf,
}

/// Handle; cheap to clone.
#[derive(Clone)]
pub struct OomWatch {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    events: EventRecorder,
    node: EventSubject,
    /// The age of the agent counts from here.
    began: Instant,
    /// The same in wall-clock time.
    began_at: Timestamp,
    /// `None` where it cannot be read.
    log: Option<Kmsg>,
    /// What is looked at instead of the log.
    counters: Option<Counters>,
    state: Mutex<State>,
    /// Users are to be told something earlier than the task knows.
    due: Notify,
}

#[derive(Default)]
struct State {
    parser: OomParser,
    ledger: KillLedger,
    /// All that the log held when it was opened has been read.
    caught_up: bool,
    /// The log gives nothing any more.
    broken: bool,
}

impl OomWatch {
    /// Opens the kernel's log. Must be called inside a runtime.
    pub fn new(parts: OomParts) -> Self {
        Self::open(parts, Path::new(kmsg::PATH))
    }

    fn open(parts: OomParts, path: &Path) -> Self {
        let OomParts { clock, events, node_name, fs, group_of, cgroup_mount } = parts;
        let is_real = !clock.is_simulated();
        let log = is_real.then(|| Kmsg::open(path)).and_then(|opened| {
            opened
                .inspect_err(|error| {
                    info!(
                        "the kernel's log cannot be read ({error}): of processes that are killed for want of memory only \
                         their number is known, and no SystemOOM is told; it takes CAP_SYSLOG to read {}",
                        path.display()
                    );
                })
                .ok()
        });
        let counters =
            (is_real && log.is_none()).then(|| Counters::new(&cgroup_mount, fs, group_of)).flatten();
        let shared = Shared {
            node: EventSubject::node(&node_name),
            began: Instant::now(),
            began_at: clock.now(),
            clock,
            events,
            log,
            counters,
            state: Mutex::default(),
            due: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Follows the log and tells users, for ever. Owned by the kubelet; ends only by being dropped.
    pub async fn run(self, pleg: Pleg) {
        let shared = &*self.shared;
        loop {
            while shared.read_some() {
                tokio::task::yield_now().await;
            }
            let due = shared.state().ledger.take_due(shared.age());
            if !due.is_empty() {
                for due in due {
                    shared.tell(pleg.container(&due.container), &due);
                }
                shared.forget_others(&pleg);
            }
            let next = shared.state().ledger.next_due().map(|age| shared.began + age);
            // All arms are cancel-safe: readiness and the permit of a Notify are kept, and a timer is made anew.
            tokio::select! {
                biased;
                () = shared.logged() => {}
                () = shared.due.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    /// Corrects the reasons of containers of one pod that ended by SIGKILL and of which the runtime does not know why,
    /// where the kernel does. Call it with what was read of the runtime, running containers too.
    pub async fn correct(&self, pod: &PodUid, containers: &mut [ObservedContainer]) {
        let shared = &*self.shared;
        if let Some(counters) = &shared.counters {
            return self.correct_by_counters(counters, pod, containers).await;
        }
        if containers.iter().any(is_unexplained) {
            // What the kernel said before the container ended is in the log by now.
            while shared.read_some() {
                tokio::task::yield_now().await;
            }
        }
        let mut state = shared.state();
        if state.ledger.is_empty() {
            return;
        }
        for container in containers {
            state.ledger.own(&container.id, pod, &container.name);
            if is_unexplained(container)
                && let Some(finished_at) = container.finished_at
                && state.ledger.explains(&container.id, finished_at)
            {
                explain(container);
            }
        }
    }

    async fn correct_by_counters(
        &self,
        counters: &Counters,
        pod: &PodUid,
        containers: &mut [ObservedContainer],
    ) {
        let ended = containers.iter().filter(|container| container.state == ObservedState::Exited);
        let ended: Vec<ContainerId> = ended.map(|container| container.id.clone()).collect();
        if ended.is_empty() {
            return;
        }
        let Some((tree, others)) = counters.read(pod, ended).await else { return };
        // The kills of a pod that was there before the agent may be old.
        let whole = containers.iter().all(|container| container.created_at >= self.shared.began_at);
        let kills = self.shared.state().ledger.settle(pod, tree, others, whole);
        let unexplained = containers.iter().filter(|container| is_unexplained(container)).count();
        if unexplained as u64 <= kills {
            containers.iter_mut().filter(|container| is_unexplained(container)).for_each(explain);
        }
    }

    /// Learns whose instances the containers are that processes were killed in: the kernel's log may have been read after
    /// they were seen. Call it before asking for totals.
    pub fn learn_owners(&self, pleg: &Pleg) {
        let unowned: Vec<ContainerId> = self.shared.state().ledger.unowned().cloned().collect();
        for id in unowned {
            if let Some(known) = pleg.container(&id) {
                self.shared.state().ledger.own(&id, &known.uid, &known.name);
            }
        }
    }

    /// How many processes were killed in a pod's container, in all its instances; `counted` is what the kernel's counter
    /// says of the instance that is there.
    pub fn total(&self, pod: &PodUid, name: &str, id: &ContainerId, counted: Option<u64>) -> u64 {
        let shared = &*self.shared;
        let mut state = shared.state();
        if let Some(counted) = counted.filter(|_| shared.log.is_none()) {
            state.ledger.note_count(id, counted, shared.age());
            if state.ledger.next_due().is_some() {
                shared.due.notify_one();
            }
        }
        state.ledger.own(id, pod, name);
        state.ledger.total(pod, name, id, counted.unwrap_or_default())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until something was logged; for ever where there is no log.
    async fn logged(&self) {
        let broken = self.state().broken;
        match self.log.as_ref().filter(|_| !broken) {
            Some(log) if log.logged().await.is_ok() => {}
            _ => std::future::pending().await,
        }
    }

    /// Reads a part of what was logged; says whether there is more.
    fn read_some(&self) -> bool {
        let Some(log) = &self.log else { return false };
        let mut buffer = [0; RECORD_LIMIT];
        let mut state = self.state();
        if state.broken {
            return false;
        }
        for _ in 0..CHUNK {
            match log.read(&mut buffer) {
                Ok(Reading::Record(record)) => {
                    if let Some(kill) = state.parser.record(record) {
                        self.take(&mut state, &kill);
                    }
                }
                Ok(Reading::Lost) => {
                    debug!("records of the kernel's log were overwritten before they were read");
                    state.parser.lost();
                }
                Ok(Reading::Nothing) => {
                    state.caught_up = true;
                    return false;
                }
                Err(error) => {
                    warn!("the kernel's log cannot be read any more: {error}");
                    state.broken = true;
                    return false;
                }
            }
        }
        true
    }

    fn take(&self, state: &mut State, kill: &OomKill) {
        let news = state.caught_up;
        let time = if news {
            KillTime { at: self.clock.now(), give_or_take: Duration::ZERO }
        } else {
            time_of(kill.at, kmsg::log_clock(), self.clock.now())
        };
        let in_container = state.ledger.note(kill, time, self.age(), news);
        if !news {
            return;
        }
        debug!(?kill, "the kernel killed a process");
        if in_container {
            self.due.notify_one();
        }
        if kill.is_system() {
            self.events.warning(&self.node, SYSTEM_OOM, system_message(kill));
        }
    }

    /// Tells users of kills in a container, unless its end does.
    fn tell(&self, known: Option<KnownContainer>, due: &Due) {
        let Some(known) = known else {
            debug!(container = %due.container, "processes were killed in a container that nobody knows");
            return;
        };
        self.state().ledger.own(&due.container, &known.uid, &known.name);
        let runs = known.state == ObservedState::Running;
        let by_own_limit = due.kill.as_ref().is_none_or(OomKill::is_own_limit);
        if !runs && by_own_limit && known.reason == OOM_KILLED {
            return;
        }
        let subject = EventSubject { uid: known.uid, name: known.pod, container: Some(known.name) };
        let message = match &due.kill {
            Some(kill) => container_message(kill, due.more, runs),
            None => counted_message(due.more, runs),
        };
        self.events.warning(&subject, OOM_KILLING, message);
    }

    fn forget_others(&self, pleg: &Pleg) {
        let mut pods = std::collections::BTreeSet::new();
        if pleg.visit_seen(|pod| {
            pods.insert(pod.uid.clone());
        }) {
            self.state().ledger.keep_pods(&pods);
        }
    }
}

/// Whether a container ended by SIGKILL and the runtime does not say why.
fn is_unexplained(container: &ObservedContainer) -> bool {
    container.state == ObservedState::Exited
        && container.exit_code == KILLED
        && matches!(container.reason.as_str(), "" | "Error")
}

fn explain(container: &mut ObservedContainer) {
    debug!(container = %container.id, "the kernel killed it for want of memory, which the runtime did not notice");
    OOM_KILLED.clone_into(&mut container.reason);
}

/// Wall-clock time of a moment on the log's clock, from what both clocks show now.
fn time_of(logged: Duration, log_now: Duration, now: Timestamp) -> KillTime {
    let age = log_now.saturating_sub(logged);
    let at = SignedDuration::try_from(age).ok().and_then(|age| now.checked_sub(age).ok()).unwrap_or(now);
    KillTime { at, give_or_take: age / DRIFT }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
