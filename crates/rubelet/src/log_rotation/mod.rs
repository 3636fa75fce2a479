//! Rotates the logs of running containers: one task for all of them, which sleeps while nothing is written.
//!
//! - `mod.rs`: what workers tell it
//! - `task.rs`: which log is looked at when, and what comes of it
//! - `steps.rs`: what is done with files, each step whole or harmless when it is the last one
//! - `compress.rs`: compression, on threads of its own that live as long as there is something to compress
//!
//! What to do is decided in `rubelet_core::log_rotation`. Logs of containers that do not run are left alone: they do not
//! grow; those of containers that are gone are removed by the pod's worker. Nothing is remembered but what the files say,
//! so that an agent that starts anew finds everything where it is.

mod compress;
mod steps;
mod task;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use futures::{FutureExt as _, TryFutureExt as _};
use rubelet_config::KubeletConfiguration;
use rubelet_core::ids::{ContainerId, PodUid};
use rubelet_core::log_rotation::RotationSettings;
use rubelet_core::observed::{ObservedPod, ObservedState};
use rubelet_core::quantity::Amount;
use rubelet_cri::{RuntimeService, v1};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::fs_pool::FsPool;

/// Has the runtime open a container's log anew; the error is for people.
type Reopen = Arc<dyn Fn(&ContainerId) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What runs in a pod, with the paths of its logs.
type Running = Vec<(ContainerId, PathBuf)>;

/// Tells the task which logs there are; cheap to clone.
#[derive(Clone, Default)]
pub struct LogRotation {
    /// `None` when logs are not rotated.
    shared: Option<Arc<Shared>>,
}

#[derive(Default)]
struct Shared {
    pods: Mutex<BTreeMap<PodUid, Running>>,
    changed: Notify,
}

/// Settings of the task.
#[derive(Debug, Clone, Copy)]
pub struct LogRotationSettings {
    /// What a log may come to.
    pub limits: RotationSettings,
    /// How many files are compressed at a time: `containerLogMaxWorkers`.
    pub workers: usize,
}

impl LogRotationSettings {
    /// What the configuration says; `None` when it turns rotation off, with a size below zero.
    pub fn of(config: &KubeletConfiguration) -> Option<Self> {
        let size = Amount::parse(&config.container_log_max_size).ok()?.value();
        Some(Self {
            limits: RotationSettings {
                max_size: u64::try_from(size).ok()?,
                max_files: usize::try_from(config.container_log_max_files).unwrap_or_default().max(2),
                monitor_interval: config.container_log_monitor_interval.to_std(),
            },
            workers: usize::try_from(config.container_log_max_workers).unwrap_or_default().max(1),
        })
    }
}

impl LogRotation {
    /// The handle and the task, which ends when it is dropped. In a simulation, where nobody writes logs, it does
    /// nothing.
    pub fn new(
        runtime: Arc<dyn RuntimeService>,
        fs: FsPool,
        settings: LogRotationSettings,
        clock: Clock,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let reopen: Reopen = Arc::new(move |id| {
            let request = v1::ReopenContainerLogRequest { container_id: id.to_string() };
            runtime.reopen_container_log(request).map_ok(drop).map_err(|error| error.to_string()).boxed()
        });
        let simulated = clock.is_simulated();
        let (handle, task) = Self::with(reopen, fs, settings, clock);
        (if simulated { Self::disabled() } else { handle }, task)
    }

    /// A handle that takes note of nothing: `containerLogMaxSize` below zero turns rotation off.
    pub fn disabled() -> Self {
        Self::default()
    }

    fn with(
        reopen: Reopen,
        fs: FsPool,
        settings: LogRotationSettings,
        clock: Clock,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::<Shared>::default();
        let steps = steps::Steps { reopen, fs, limits: settings.limits, clock };
        let task = task::Task::new(shared.clone(), steps, settings.workers);
        (Self { shared: Some(shared) }, task.run())
    }

    /// Which containers of a pod run, with the paths of their logs as the runtime tells them. A level: what is not among
    /// them any more is left alone, and what was told before costs nothing.
    pub fn track(&self, uid: &PodUid, running: Vec<(ContainerId, PathBuf)>) {
        let Some(shared) = &self.shared else { return };
        let mut pods = shared.pods();
        if running.is_empty() {
            if pods.remove(uid).is_none() {
                return;
            }
        } else if pods.get(uid) == Some(&running) {
            return;
        } else {
            pods.insert(uid.clone(), running);
        }
        shared.changed.notify_one();
    }

    /// The same, of what the runtime was seen to hold of a pod: the containers that run, and have a log.
    pub fn track_observed(&self, observed: &ObservedPod) {
        if self.shared.is_none() {
            return;
        }
        let running = observed
            .containers
            .iter()
            .filter(|container| container.state == ObservedState::Running && !container.log_path.is_empty())
            .map(|container| (container.id.clone(), PathBuf::from(&container.log_path)));
        self.track(&observed.uid, running.collect());
    }

    /// Nothing of the pod is left.
    pub fn forget(&self, uid: &PodUid) {
        self.track(uid, vec![]);
    }
}

impl Shared {
    fn pods(&self) -> MutexGuard<'_, BTreeMap<PodUid, Running>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
