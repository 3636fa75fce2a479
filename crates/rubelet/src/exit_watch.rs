//! For runtimes without container events: waits for the processes of containers and sandboxes to end and says
//! so. One pidfd and one small task each, no polling. What ended how is read by whoever is hinted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rubelet_cri::{RuntimeService, v1};
use tokio::task::{AbortHandle, JoinSet};
use tracing::debug;

/// Pauses between looks at a runtime that has not noticed the exit yet: together about six seconds.
const LOOKS: [u64; 10] = [2, 5, 10, 20, 50, 100, 200, 500, 1000, 4000];

/// How often a watch is begun for one container or sandbox.
const MAX_TRIES: u32 = 3;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watched {
    /// A container's first process.
    Container,
    /// A sandbox's pause process.
    Sandbox,
}

/// The watches; dropping it ends them.
#[derive(Default)]
pub struct ExitWatches {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    tasks: JoinSet<()>,
    handles: BTreeMap<(Watched, String), AbortHandle>,
    /// How often each was begun: a runtime that does not tell processes is not asked for ever.
    tries: BTreeMap<(Watched, String), u32>,
}

impl ExitWatches {
    /// Watches something that runs, unless it is watched already; `ended` is called when it has ended and the
    /// runtime knows.
    pub fn watch(
        &self,
        runtime: Arc<dyn RuntimeService>,
        kind: Watched,
        id: &str,
        ended: impl FnOnce() + Send + 'static,
    ) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while inner.tasks.try_join_next().is_some() {}
        let key = (kind, id.to_owned());
        if inner.handles.get(&key).is_some_and(|handle| !handle.is_finished()) {
            return;
        }
        let tries = inner.tries.entry(key.clone()).or_default();
        if *tries == MAX_TRIES {
            return;
        }
        *tries += 1;
        let id = id.to_owned();
        let handle = inner.tasks.spawn(async move {
            let Some(pid) = process_of(&*runtime, kind, &id).await else {
                debug!(id, "the runtime does not tell its process");
                return;
            };
            if let Err(problem) = rubelet_linux::exit::process_exit(pid).await {
                debug!(id, pid, "cannot watch it: {problem}");
            }
            // Without an end that the runtime knows there is nothing to tell; relisting goes on meanwhile.
            if !has_ended(&*runtime, kind, &id).await {
                return;
            }
            ended();
        });
        inner.handles.insert(key, handle);
    }

    /// Ends the watches of everything that is not alive any more.
    pub fn keep(&self, alive: impl Fn(Watched, &str) -> bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tries.retain(|(kind, id), _| alive(*kind, id));
        inner.handles.retain(|(kind, id), handle| {
            let stays = alive(*kind, id) && !handle.is_finished();
            if !stays {
                handle.abort();
            }
            stays
        });
    }

    /// Whether everything given is being watched.
    pub fn cover<'a>(&self, mut alive: impl Iterator<Item = (Watched, &'a str)>) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        alive.all(|(kind, id)| {
            inner.handles.get(&(kind, id.to_owned())).is_some_and(|handle| !handle.is_finished())
        })
    }
}

/// The process of a container or sandbox, from the runtime's verbose status: containerd tells it as `pid` in the
/// JSON text under `info`.
pub(crate) async fn process_of(runtime: &dyn RuntimeService, kind: Watched, id: &str) -> Option<i32> {
    let info = match kind {
        Watched::Container => {
            let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
            runtime.container_status(request).await.ok()?.info
        }
        Watched::Sandbox => {
            let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
            runtime.pod_sandbox_status(request).await.ok()?.info
        }
    };
    #[derive(serde::Deserialize)]
    struct Info {
        pid: i32,
    }
    serde_json::from_str::<Info>(info.get("info")?).ok().map(|info| info.pid).filter(|pid| *pid > 0)
}

/// Waits for a few seconds until the runtime says that it does not run any more.
async fn has_ended(runtime: &dyn RuntimeService, kind: Watched, id: &str) -> bool {
    for pause in LOOKS {
        let runs = match kind {
            Watched::Container => {
                let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
                runtime.container_status(request).await.is_ok_and(|answer| {
                    answer.status.is_some_and(|status| status.state() == v1::ContainerState::ContainerRunning)
                })
            }
            Watched::Sandbox => {
                let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
                runtime.pod_sandbox_status(request).await.is_ok_and(|answer| {
                    answer.status.is_some_and(|status| status.state() == v1::PodSandboxState::SandboxReady)
                })
            }
        };
        if !runs {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    false
}
