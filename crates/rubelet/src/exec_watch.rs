//! Finds and cleans up what commands of exec probes leave behind when they time out: the runtime tells a container's
//! first process, `rubelet_linux::exec_leftovers` does the rest. Decides nothing; called by the exec probe, and only for
//! commands that are about to time out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rubelet_core::ids::ContainerId;
use rubelet_cri::RuntimeService;
use rubelet_linux::exec_leftovers::RunningCommand;
use rubelet_linux::exit::pidfd_exit;
use rubelet_probes::exec::{ExecWatch, SpottedExec};
use tokio::time::Instant;
use tracing::{debug, info};

use crate::exit_watch::{Watched, process_of};
use crate::fs_pool::FsPool;

/// Looks for processes in `/proc`. Cheap to clone.
#[derive(Clone)]
pub struct ProcExecWatch {
    runtime: Arc<dyn RuntimeService>,
    /// Command lines are read from the memory of the pod's processes, which can make that slow.
    fs: FsPool,
    /// Where cgroups are mounted.
    cgroups: PathBuf,
}

impl ProcExecWatch {
    /// One for the containers of this runtime; `cgroups` is `/sys/fs/cgroup`.
    pub fn new(runtime: Arc<dyn RuntimeService>, fs: FsPool, cgroups: PathBuf) -> Self {
        Self { runtime, fs, cgroups }
    }

    async fn find(self, id: ContainerId, command: Vec<String>, running_for: Duration) -> Option<Spotted> {
        let asked = Instant::now();
        let begun = asked.checked_sub(running_for).unwrap_or(asked);
        let init = process_of(&*self.runtime, Watched::Container, id.as_str()).await?;
        let (cgroups, container) = (self.cgroups, id.clone());
        let found = self.fs.run(format!("look for a command in container {id}"), move || {
            Ok(RunningCommand::find(&cgroups, container.as_str(), init, &command, begun.elapsed()))
        });
        match found.await {
            Ok(Ok(running)) => Some(Spotted { id, fs: self.fs, running }),
            Ok(Err(reason)) => {
                debug!(container = %id, "a command is about to time out; what it leaves behind will stay: {reason}");
                None
            }
            Err(problem) => {
                debug!(container = %id, "{problem}");
                None
            }
        }
    }
}

impl ExecWatch for ProcExecWatch {
    fn spot(
        &self,
        container: &ContainerId,
        command: &[String],
        running_for: Duration,
    ) -> BoxFuture<'static, Option<Box<dyn SpottedExec>>> {
        let found = self.clone().find(container.clone(), command.to_vec(), running_for);
        found.map(|found| found.map(|spotted| Box::new(spotted) as Box<dyn SpottedExec>)).boxed()
    }
}

struct Spotted {
    id: ContainerId,
    fs: FsPool,
    running: RunningCommand,
}

impl SpottedExec for Spotted {
    fn ended(&self) -> BoxFuture<'_, ()> {
        async {
            let ended = match self.running.exit() {
                Ok(Some(pidfd)) => pidfd_exit(pidfd).await.is_ok(),
                _ => false,
            };
            if !ended {
                // What cannot be waited for ends with the probe's own deadline.
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }

    fn clean_up(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            let Self { id, fs, running } = *self;
            let what = format!("kill what a command in container {id} left behind");
            match fs.run(what, move || running.kill_rest()).await {
                Ok(0) => {}
                Ok(killed) => info!(container = %id, killed, "killed what a probe's command left behind"),
                Err(problem) => debug!(container = %id, "{problem}"),
            }
        }
        .boxed()
    }
}
