//! A container runtime that exists only in memory and does what a test tells it.
//!
//! [`ScriptedCri`] is a cheap handle on one model. It implements the service traits directly, for tests without
//! a socket, and can be served on a unix socket ([`server::serve`]) for tests of the whole agent. Time is
//! tokio's, so a paused clock drives it; randomness comes from seeds; IDs from a counter. A test scripts
//! behaviours and faults, lets the agent work, and then reads what happened: calls, facts, misuses.
//! It never reports something untrue: lists and statuses are right or are errors.

mod calls;
mod events;
mod fault;
mod history;
mod image;
mod model;
mod op;
mod runtime;
mod script;
pub mod server;
#[cfg(test)]
mod tests;

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rubelet_cri::Deadlines;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use calls::{CallPoint, HookAction, Phase};
pub use fault::{Fault, RandomFaults, Rng};
pub use history::{Call, ExitCause, Fact, FactKind, Misuse, MisuseKind, Outcome, Subject};
pub use op::Op;
pub use script::{Behaviour, ExecScript, PullScript, RuntimeKind};

use calls::Hook;
use model::Model;
use script::Script;

/// 2026-01-01T00:00:00Z: the wall clock at the moment the scripted runtime is made.
pub const BASE_SECOND: i64 = 1_767_225_600;

/// A handle on a scripted runtime. Clones share the runtime.
#[derive(Clone)]
pub struct ScriptedCri {
    shared: Arc<Shared>,
    deadlines: Deadlines,
}

struct Shared {
    model: Mutex<Model>,
    hook: Mutex<Option<Hook>>,
    /// Wakes those who wait for a change of the model, in the order in which they came: a watch would shuffle
    /// them, and no run could be replayed.
    changed: Notify,
}

impl fmt::Debug for ScriptedCri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedCri").field("deadlines", &self.deadlines).finish_non_exhaustive()
    }
}

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningContainer {
    /// Its pod, name, attempt and ID.
    pub subject: Subject,
    /// The sandbox it runs in.
    pub sandbox_id: String,
}

impl ScriptedCri {
    /// An empty runtime that plays `kind`, with the wall clock at [`BASE_SECOND`]. Every container runs until
    /// stopped, every image can be pulled at once, every command succeeds, until scripted otherwise. Must be
    /// made within a tokio runtime.
    pub fn new(kind: RuntimeKind) -> Self {
        let base = Timestamp::from_second(BASE_SECOND).unwrap_or(Timestamp::UNIX_EPOCH);
        Self::starting_at(kind, base)
    }

    /// The same with another time on the wall clock.
    pub fn starting_at(kind: RuntimeKind, base: Timestamp) -> Self {
        let model = Model::new(base, Instant::now(), Script::new(kind));
        let shared = Shared { model: Mutex::new(model), hook: Mutex::new(None), changed: Notify::new() };
        Self { shared: Arc::new(shared), deadlines: Deadlines::default() }
    }

    /// A handle whose calls give up after other deadlines than the default ones.
    pub fn with_deadlines(&self, deadlines: Deadlines) -> Self {
        Self { shared: Arc::clone(&self.shared), deadlines }
    }

    // ---- what the test says in advance ----

    /// How the instances of a container behave, by attempt; the last behaviour repeats. Concerns instances
    /// created from now on.
    pub fn script_container(
        &self,
        pod: &str,
        container: &str,
        by_attempt: impl IntoIterator<Item = Behaviour>,
    ) {
        let key = (pod.to_owned(), container.to_owned());
        self.with(|model, _| model.script.containers.insert(key, by_attempt.into_iter().collect()));
    }

    /// How containers behave that no script names.
    pub fn script_default(&self, behaviour: Behaviour) {
        self.with(|model, _| model.script.default_behaviour = behaviour);
    }

    /// How commands in a container behave, run by run; the last repeats. The command is its words joined by
    /// blanks; empty for any command.
    pub fn script_exec(
        &self,
        pod: &str,
        container: &str,
        command: &str,
        runs: impl IntoIterator<Item = ExecScript>,
    ) {
        let key = (pod.to_owned(), container.to_owned(), command.to_owned());
        self.with(|model, _| model.script.execs.insert(key, runs.into_iter().collect()));
    }

    /// How a command in a container behaves by the age of the container at which it is run: for each attempt what it
    /// does from an age on, in order; before the first of them it succeeds at once. The last attempt repeats. Goes
    /// before [`Self::script_exec`].
    pub fn script_exec_by_age(
        &self,
        pod: &str,
        container: &str,
        command: &str,
        by_attempt: impl IntoIterator<Item = Vec<(Duration, ExecScript)>>,
    ) {
        let key = (pod.to_owned(), container.to_owned(), command.to_owned());
        self.with(|model, _| model.script.courses.insert(key, by_attempt.into_iter().collect()));
    }

    /// How pulls of an image behave, one after the other; the last repeats.
    pub fn script_pull(&self, image: &str, pulls: impl IntoIterator<Item = PullScript>) {
        self.with(|model, _| model.script.pulls.insert(image.to_owned(), pulls.into_iter().collect()));
    }

    /// How pulls of images behave that no script names.
    pub fn script_default_pull(&self, pull: PullScript) {
        self.with(|model, _| model.script.default_pull = pull);
    }

    /// An image that is there already; returns its ID.
    pub fn add_image(&self, reference: &str, size: u64) -> String {
        self.with(|model, _| model.add_image(reference, size))
    }

    /// How long an operation takes before its effect.
    pub fn set_duration(&self, op: Op, takes: Duration) {
        self.with(|model, _| model.script.durations.insert(op, takes));
    }

    /// RuntimeReady: `None` is true, otherwise false for this reason.
    pub fn set_runtime_problem(&self, problem: Option<&str>) {
        self.with(|model, _| model.script.runtime_problem = problem.map(str::to_owned));
    }

    /// NetworkReady: while there is a problem, sandboxes with a network of their own cannot be made.
    pub fn set_network_problem(&self, problem: Option<&str>) {
        self.with(|model, _| model.script.network_problem = problem.map(str::to_owned));
    }

    // ---- faults ----

    /// The next `times` calls of an operation meet a fault.
    pub fn inject(&self, op: Op, fault: Fault, times: usize) {
        self.with(|model, _| model.faults.plan(op, None, fault, times));
    }

    /// The next `times` calls of an operation on one pod, by name, meet a fault.
    pub fn inject_for(&self, op: Op, pod: &str, fault: Fault, times: usize) {
        self.with(|model, _| model.faults.plan(op, Some(pod), fault, times));
    }

    /// Draws faults from a seed from now on.
    pub fn set_random_faults(&self, faults: RandomFaults) {
        self.with(|model, _| model.faults.draw_from(faults));
    }

    /// No more faults, planned or random.
    pub fn stop_faults(&self) {
        self.with(|model, _| model.faults.stop());
    }

    /// Breaks every call and event stream under way and refuses new ones for a while, or until
    /// [`Self::start_runtime`]. Containers live on.
    pub fn restart_runtime(&self, down_for: Duration) {
        self.with(|model, now| {
            model.epoch += 1;
            model.subscribers.clear();
            model.down_until = (!down_for.is_zero()).then(|| now + down_for);
            model.version += 1;
        });
    }

    /// A runtime that is down is back at once.
    pub fn start_runtime(&self) {
        self.with(|model, _| {
            model.down_until = None;
            model.version += 1;
        });
    }

    /// Breaks every event stream; everything else goes on.
    pub fn break_event_streams(&self) {
        self.with(|model, _| {
            model.subscribers.clear();
            model.version += 1;
        });
    }

    /// The machine restarts: nothing runs any more, all containers and sandboxes are still on disk, and the
    /// runtime is back after a while.
    pub fn reboot(&self, down_for: Duration) {
        self.with(|model, now| {
            let sandboxes: Vec<String> = model.sandboxes.keys().cloned().collect();
            let running: Vec<String> =
                model.containers.values().filter(|c| c.is_running()).map(|c| c.id.clone()).collect();
            for id in running {
                if let Some(container) = model.containers.get_mut(&id) {
                    container.reason = "Unknown".to_owned();
                }
                model.end(&id, now, 255, ExitCause::Injected);
            }
            for id in sandboxes {
                model.stop_sandbox(now, &id, ExitCause::Injected);
            }
        });
        self.restart_runtime(down_for);
    }

    /// A running container ends by itself now. Says whether there was one.
    pub fn end_container(&self, pod: &str, container: &str, exit_code: i32) -> bool {
        self.with(|model, now| {
            let found = model
                .containers
                .values()
                .find(|c| c.is_running() && c.subject.pod_name == pod && c.subject.container == container);
            let Some(id) = found.map(|c| c.id.clone()) else { return false };
            model.end(&id, now, exit_code, ExitCause::Injected);
            true
        })
    }

    /// The ready sandbox of a pod dies, and everything in it. Says whether there was one.
    pub fn kill_sandbox(&self, pod: &str) -> bool {
        self.with(|model, now| {
            let found = model
                .sandboxes
                .values()
                .find(|s| s.ready && s.config.metadata.as_ref().is_some_and(|metadata| metadata.name == pod));
            let Some(id) = found.map(|s| s.id.clone()) else { return false };
            model.stop_sandbox(now, &id, ExitCause::Injected);
            true
        })
    }

    /// Hears of every call before and after its effect, and may let it hang for ever ([`HookAction::Park`]), so
    /// that a simulation can drop the agent exactly there.
    pub fn set_hook(&self, hook: impl Fn(&CallPoint) -> HookAction + Send + Sync + 'static) {
        *self.shared.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(hook));
    }

    /// Removes the hook.
    pub fn clear_hook(&self) {
        *self.shared.hook.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    // ---- the truth ----

    /// The wall clock of the scripted world.
    pub fn now(&self) -> Timestamp {
        self.with(|model, now| model.wall(now))
    }

    /// All containers that run, in order of creation.
    pub fn running_containers(&self) -> Vec<RunningContainer> {
        self.with(|model, _| {
            let running = model.containers.values().filter(|c| c.is_running());
            running
                .map(|c| RunningContainer { subject: c.subject.clone(), sandbox_id: c.sandbox_id.clone() })
                .collect()
        })
    }

    /// The status of every container of a pod, by name, in order of creation.
    pub fn containers_of(&self, pod: &str) -> Vec<rubelet_cri::v1::ContainerStatus> {
        self.with(|model, _| {
            let of_pod = model.containers.values().filter(|c| c.subject.pod_name == pod);
            of_pod.map(|c| model.status_of(c)).collect()
        })
    }

    /// The configuration a container was created with, by ID.
    pub fn container_config(&self, id: &str) -> Option<rubelet_cri::v1::ContainerConfig> {
        self.with(|model, _| model.containers.get(id).map(|c| c.config.clone()))
    }

    /// The status of every sandbox of a pod, by name, in order of creation.
    pub fn sandboxes_of(&self, pod: &str) -> Vec<rubelet_cri::v1::PodSandboxStatus> {
        self.with(|model, _| {
            let of_pod = |config: &rubelet_cri::v1::PodSandboxConfig| {
                config.metadata.as_ref().is_some_and(|metadata| metadata.name == pod)
            };
            model.sandboxes.values().filter(|s| of_pod(&s.config)).map(model::Sandbox::status).collect()
        })
    }

    /// The configuration a sandbox was made with, by ID.
    pub fn sandbox_config(&self, id: &str) -> Option<rubelet_cri::v1::PodSandboxConfig> {
        self.with(|model, _| model.sandboxes.get(id).map(|s| s.config.clone()))
    }

    /// Whether nothing at all of any pod is left.
    pub fn is_empty(&self) -> bool {
        self.with(|model, _| model.sandboxes.is_empty() && model.containers.is_empty())
    }

    /// Every call that acted on the world, in order.
    pub fn history(&self) -> Vec<Call> {
        self.with(|model, _| model.history.clone())
    }

    /// How often an operation was called, reads included.
    pub fn calls_of(&self, op: Op) -> u64 {
        self.with(|model, _| model.counts.get(&op).copied().unwrap_or_default())
    }

    /// How many calls there were in all: the number of the next one.
    pub fn calls(&self) -> u64 {
        self.with(|model, _| model.counts.values().sum())
    }

    /// Takes the next place in the order of calls and facts, for what the test itself does.
    pub fn mark(&self) -> u64 {
        self.with(|model, _| model.next_seq())
    }

    /// The sandbox a container is in, by their IDs, as long as it exists.
    pub fn sandbox_of(&self, container: &str) -> Option<String> {
        self.with(|model, _| model.containers.get(container).map(|c| c.sandbox_id.clone()))
    }

    /// Everything that became true, in order.
    pub fn facts(&self) -> Vec<Fact> {
        self.with(|model, _| model.facts.clone())
    }

    /// Every call that no sane agent makes, in order.
    pub fn misuses(&self) -> Vec<Misuse> {
        self.with(|model, _| model.misuses.clone())
    }

    /// Waits until the world, as `ready` sees it, gives a value. With a paused clock this lets time pass.
    pub async fn wait_for<T>(&self, mut ready: impl FnMut(&Self) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            if let Some(value) = ready(self) {
                return value;
            }
            let next = self.with(|model, _| model.next_due());
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(next) => {}
            }
        }
    }

    // ---- inside ----

    fn lock(&self) -> MutexGuard<'_, Model> {
        self.shared.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at or changes the model as it is now, and wakes those who wait when it changed.
    fn with<T>(&self, act: impl FnOnce(&mut Model, Instant) -> T) -> T {
        let now = Instant::now();
        let mut model = self.lock();
        model.advance(now);
        let value = act(&mut model, now);
        let changed = model.announced != model.version;
        model.announced = model.version;
        drop(model);
        if changed {
            self.shared.changed.notify_waiters();
        }
        value
    }
}

/// Sleeps until an instant, or for ever when there is none.
async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
