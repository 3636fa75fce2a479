//! The watch over calls: a runtime service that notes each call about a container, a sandbox or a pod while it is under
//! way. Passes everything on as it is; whoever calls notices nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rubelet_core::ids::PodUid;
use rubelet_core::node::stuck::{CallKey, Calls, GaveUp, StuckCall};
use rubelet_cri::{CriErrorKind, CriFuture, RuntimeService, v1};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::passed::passed;
use crate::pleg::{Owner, STATUS_DEADLINE};

/// How long a status may take to be told. Longer than the runtime itself may keep silent before that is noticed, so
/// that its silence is never taken for a pod's trouble.
const STATUS_PATIENCE: Duration = Duration::from_secs(30);
/// How long calls may take that make or remove something on disk.
const WORK_PATIENCE: Duration = Duration::from_secs(60);
/// How long a sandbox may take to be made: its image may have to be pulled, and its network comes from somebody else.
const SANDBOX_PATIENCE: Duration = Duration::from_secs(120);
/// How long after its grace a container may take to be stopped.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// What a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// A container with this ID.
    Container(String),
    /// A sandbox with this ID.
    Sandbox(String),
    /// Something that has no ID yet.
    New(Owner),
}

/// Knows the calls under way; cheap to clone.
#[derive(Clone)]
pub struct CallWatch {
    shared: Arc<Shared>,
}

struct Shared {
    began: Instant,
    state: Mutex<State>,
    woken: Notify,
}

#[derive(Default)]
struct State {
    calls: Calls<About>,
    /// When the task looks next, if it does by itself.
    wakes_at: Option<Duration>,
}

impl CallWatch {
    fn new() -> Self {
        let shared = Shared { began: Instant::now(), state: Mutex::default(), woken: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// How long this watch has lasted: the time of everything about it.
    pub(super) fn age(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// The calls that are stuck now.
    pub(super) fn stuck(&self) -> Vec<StuckCall<About>> {
        let now = self.age();
        self.state().calls.stuck(now)
    }

    /// The runtime answers nobody.
    pub(super) fn forgive(&self) {
        let now = self.age();
        self.state().calls.forgive(now);
    }

    /// Waits until there may be news, at `other` at the latest. Cancel-safe: what is known is the truth.
    pub(super) async fn news(&self, other: Option<Duration>) {
        let next = {
            let mut state = self.state();
            let next = state.calls.next(self.age());
            state.wakes_at = next.into_iter().chain(other).min();
            state.wakes_at
        };
        let timer = async {
            match next {
                Some(at) => tokio::time::sleep_until(self.shared.began + at).await,
                None => std::future::pending().await,
            }
        };
        // Both arms are cancel-safe: a Notify whose permit is kept, and a timer.
        tokio::select! {
            biased;
            () = self.shared.woken.notified() => {}
            () = timer => {}
        }
    }

    fn call<T: Send + 'static>(&self, call: Call, future: CriFuture<T>) -> CriFuture<T> {
        let watch = self.clone();
        Box::pin(async move {
            let mut under_way = watch.begin(call);
            let answer = future.await;
            under_way.outcome = match &answer {
                Err(error) if error.kind == CriErrorKind::DeadlineExceeded => {
                    Outcome::GaveUp(GaveUp::Deadline)
                }
                _ => Outcome::Answered,
            };
            answer
        })
    }

    fn begin(&self, call: Call) -> UnderWay {
        let Call { name, about, patience, tells } = call;
        let id = match &about {
            About::Container(id) | About::Sandbox(id) => id.clone(),
            About::New(Owner { uid, container, .. }) => {
                format!("{uid}/{}", container.as_deref().unwrap_or_default())
            }
        };
        let (key, now): (CallKey, Duration) = ((name, id), self.age());
        let mut state = self.state();
        if let Some(due) = state.calls.begin(key.clone(), || about, patience, now)
            && state.wakes_at.is_none_or(|at| due < at)
        {
            state.wakes_at = Some(due);
            self.shared.woken.notify_one();
        }
        drop(state);
        UnderWay { watch: self.clone(), key, outcome: Outcome::GaveUp(GaveUp::Early(tells)) }
    }

    fn end(&self, key: &CallKey, outcome: Outcome) {
        let now = self.age();
        match outcome {
            Outcome::GaveUp(why) => self.state().calls.gave_up(key, why, now),
            Outcome::Answered => {
                let was_stuck = self.state().calls.answered(key, now);
                if was_stuck {
                    self.shared.woken.notify_one();
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call and how long it may take.
struct Call {
    name: &'static str,
    about: About,
    patience: Duration,
    /// How long it must have had to say something when it is given up.
    tells: Duration,
}

impl Call {
    fn new(name: &'static str, about: About, patience: Duration) -> Self {
        Self { name, about, patience, tells: patience }
    }

    fn status(name: &'static str, about: About) -> Self {
        // A little less than whoever asks waits: its timer begins before the call does.
        Self { tells: STATUS_DEADLINE.mul_f64(0.9), ..Self::new(name, about, STATUS_PATIENCE) }
    }
}

#[derive(Clone, Copy)]
enum Outcome {
    Answered,
    GaveUp(GaveUp),
}

/// A call under way; ends with being dropped.
struct UnderWay {
    watch: CallWatch,
    key: CallKey,
    outcome: Outcome,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.watch.end(&self.key, self.outcome);
    }
}

/// A runtime service whose calls about pods are watched, and the watch. Must be called inside a tokio runtime.
pub fn watched(runtime: Arc<dyn RuntimeService>) -> (Arc<dyn RuntimeService>, CallWatch) {
    let watch = CallWatch::new();
    (Arc::new(WatchedRuntime { inner: runtime, watch: watch.clone() }), watch)
}

pub(super) struct WatchedRuntime {
    pub(super) inner: Arc<dyn RuntimeService>,
    watch: CallWatch,
}

/// Whom a sandbox's configuration names.
fn owner_of(config: Option<&v1::PodSandboxConfig>, container: Option<String>) -> Owner {
    let metadata = config.and_then(|config| config.metadata.clone()).unwrap_or_default();
    Owner {
        uid: PodUid::from(metadata.uid.as_str()),
        pod: format!("{}/{}", metadata.namespace, metadata.name),
        container,
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

impl RuntimeService for WatchedRuntime {
    fn run_pod_sandbox(&self, request: v1::RunPodSandboxRequest) -> CriFuture<v1::RunPodSandboxResponse> {
        let about = About::New(owner_of(request.config.as_ref(), None));
        let call = Call::new("RunPodSandbox", about, SANDBOX_PATIENCE);
        self.watch.call(call, self.inner.run_pod_sandbox(request))
    }
    fn stop_pod_sandbox(&self, request: v1::StopPodSandboxRequest) -> CriFuture<v1::StopPodSandboxResponse> {
        let about = About::Sandbox(request.pod_sandbox_id.clone());
        self.watch
            .call(Call::new("StopPodSandbox", about, WORK_PATIENCE), self.inner.stop_pod_sandbox(request))
    }
    fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> CriFuture<v1::RemovePodSandboxResponse> {
        let about = About::Sandbox(request.pod_sandbox_id.clone());
        let call = Call::new("RemovePodSandbox", about, WORK_PATIENCE);
        self.watch.call(call, self.inner.remove_pod_sandbox(request))
    }
    fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> CriFuture<v1::PodSandboxStatusResponse> {
        let about = About::Sandbox(request.pod_sandbox_id.clone());
        self.watch.call(Call::status("PodSandboxStatus", about), self.inner.pod_sandbox_status(request))
    }
    fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> CriFuture<v1::CreateContainerResponse> {
        let name = request.config.as_ref().and_then(|config| Some(config.metadata.as_ref()?.name.clone()));
        let about = About::New(owner_of(request.sandbox_config.as_ref(), name));
        let call = Call::new("CreateContainer", about, WORK_PATIENCE);
        self.watch.call(call, self.inner.create_container(request))
    }
    fn start_container(&self, request: v1::StartContainerRequest) -> CriFuture<v1::StartContainerResponse> {
        let about = About::Container(request.container_id.clone());
        let call = Call::new("StartContainer", about, WORK_PATIENCE);
        self.watch.call(call, self.inner.start_container(request))
    }
    fn stop_container(&self, request: v1::StopContainerRequest) -> CriFuture<v1::StopContainerResponse> {
        let about = About::Container(request.container_id.clone());
        let call = Call::new("StopContainer", about, seconds(request.timeout) + STOP_PATIENCE);
        self.watch.call(call, self.inner.stop_container(request))
    }
    fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> CriFuture<v1::RemoveContainerResponse> {
        let about = About::Container(request.container_id.clone());
        let call = Call::new("RemoveContainer", about, WORK_PATIENCE);
        self.watch.call(call, self.inner.remove_container(request))
    }
    fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> CriFuture<v1::ContainerStatusResponse> {
        let about = About::Container(request.container_id.clone());
        self.watch.call(Call::status("ContainerStatus", about), self.inner.container_status(request))
    }
    passed!();
}
