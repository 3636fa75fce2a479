//! Keeps the runtime's own state: reachable, RuntimeReady, NetworkReady, and what its handlers can do. One task
//! asks; everyone else reads the watch. It decides nothing about pods.

use std::sync::Arc;
use std::time::Duration;

use rubelet_apiclient::level::Level;
use rubelet_core::resources::{CgroupDriver, CgroupRoot};
use rubelet_cri::connect::{self, CheckError, HandlerFeatures, RuntimeInfo, check_runtime};
use rubelet_cri::{RuntimeService, v1};
use tracing::{info, warn};

use crate::pleg::Pleg;

/// How often the runtime is asked while all is well.
const PERIOD_READY: Duration = Duration::from_secs(10);
/// How often it is asked while something is not ready, at the longest.
const PERIOD_WAITING: Duration = Duration::from_secs(2);
/// First pause after a failure.
const PERIOD_FIRST: Duration = Duration::from_millis(100);

/// What is known of the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeState {
    /// What it last told of itself; `None` before the first answer.
    pub info: Option<RuntimeInfo>,
    /// Why it cannot be used, if so: unreachable, not CRI, or not ready.
    pub runtime_problem: Option<String>,
    /// Why pods cannot get a network, if so.
    pub network_problem: Option<String>,
}

impl RuntimeState {
    /// Where the tree of pod cgroups hangs, with the driver the runtime told; the configured one where it does not.
    pub fn cgroup_root(&self, configured: &CgroupRoot) -> CgroupRoot {
        let driver = match self.info.as_ref().and_then(|info| info.cgroup_driver) {
            Some(connect::CgroupDriver::Systemd) => CgroupDriver::Systemd,
            Some(connect::CgroupDriver::Cgroupfs) => CgroupDriver::Cgroupfs,
            None => configured.driver,
        };
        CgroupRoot { driver, ..configured.clone() }
    }

    /// What a runtime handler can do; the default handler has the empty name.
    pub fn handler(&self, name: &str) -> Option<&HandlerFeatures> {
        self.info.as_ref()?.handlers.iter().find(|handler| handler.name == name)
    }
}

/// Asks for ever and publishes what changed.
pub(crate) async fn run(runtime: Arc<dyn RuntimeService>, pleg: Pleg, state: Arc<Level<RuntimeState>>) {
    let mut pause = PERIOD_FIRST;
    let mut known = RuntimeState::default();
    loop {
        let fresh = look(&*runtime, &known).await;
        let ready = fresh.runtime_problem.is_none() && fresh.network_problem.is_none();
        if known != fresh {
            tell(&known, &fresh);
            if let Some(info) = &fresh.info {
                pleg.set_runtime_name(&info.name);
            }
            if known.runtime_problem != fresh.runtime_problem {
                // Whatever happened in the meantime is looked at without waiting for the period.
                pleg.relist_soon();
            }
            known = fresh;
            state.set(known.clone());
        }
        pause = if ready { PERIOD_READY } else { (pause * 2).min(PERIOD_WAITING) };
        tokio::time::sleep(pause).await;
        if ready {
            pause = PERIOD_FIRST;
        }
    }
}

/// One look: everything after a connection was made or lost, only the status otherwise.
async fn look(runtime: &dyn RuntimeService, before: &RuntimeState) -> RuntimeState {
    let known = before.info.clone().filter(|_| before.runtime_problem.is_none());
    let looked = match known {
        Some(info) => runtime
            .status(v1::StatusRequest { verbose: false })
            .await
            .map(|answer| RuntimeInfo {
                conditions: rubelet_cri::connect::conditions_of(answer.status.as_ref()),
                ..info
            })
            .map_err(CheckError::from),
        None => check_runtime(runtime).await,
    };
    match looked {
        Ok(info) => RuntimeState {
            runtime_problem: info.conditions.runtime_problem.clone(),
            network_problem: info.conditions.network_problem.clone(),
            info: Some(info),
        },
        Err(error) => RuntimeState { runtime_problem: Some(crate::logging::chain(&error)), ..before.clone() },
    }
}

fn tell(before: &RuntimeState, now: &RuntimeState) {
    match (&before.runtime_problem, &now.runtime_problem, &now.info) {
        (old, Some(problem), _) if old.as_ref() != Some(problem) => {
            warn!("the container runtime cannot be used: {problem}");
        }
        (Some(_), None, Some(info)) | (None, None, Some(info))
            if before.info.is_none() || before.runtime_problem.is_some() =>
        {
            info!(runtime = info.name, version = info.version, cgroup_driver = ?info.cgroup_driver, "connected to the container runtime");
        }
        _ => {}
    }
    if before.network_problem != now.network_problem {
        match &now.network_problem {
            Some(problem) => warn!("pods cannot get a network: {problem}"),
            None => info!("pods can get a network"),
        }
    }
}
