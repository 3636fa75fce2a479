//! Keeps the runtime's own conditions: reachable, RuntimeReady, NetworkReady, and what its handlers can do.
//! One task asks; everyone else reads the watch. It decides nothing about pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rubelet_cri::{RuntimeService, v1};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::pleg::Pleg;

/// How often the runtime is asked while all is well.
const PERIOD_READY: Duration = Duration::from_secs(10);
/// How often it is asked while something is not ready, at the longest.
const PERIOD_WAITING: Duration = Duration::from_secs(2);
/// First pause after a failure.
const PERIOD_FIRST: Duration = Duration::from_millis(100);

/// What the runtime says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConditions {
    /// Why it cannot be used, if so: unreachable or not ready.
    pub runtime_problem: Option<String>,
    /// Why pods cannot get a network, if so.
    pub network_problem: Option<String>,
    /// What each runtime handler can do; the default handler has the empty name.
    pub handlers: BTreeMap<String, HandlerFeatures>,
    /// Whether `Status` has succeeded at least once.
    pub known: bool,
    /// Whether the runtime honours `supplementalGroupsPolicy`.
    pub supplemental_groups_policy: bool,
}

/// Features of one runtime handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandlerFeatures {
    /// Recursive read-only mounts.
    pub recursive_read_only_mounts: bool,
    /// User namespaces.
    pub user_namespaces: bool,
}

/// Asks for ever and publishes what changed.
pub async fn run(runtime: Arc<dyn RuntimeService>, pleg: Pleg, conditions: watch::Sender<RuntimeConditions>) {
    let mut pause = PERIOD_FIRST;
    let mut named = false;
    loop {
        if !named && let Ok(version) = runtime.version(v1::VersionRequest::default()).await {
            info!(
                runtime = version.runtime_name,
                version = version.runtime_version,
                "connected to the container runtime"
            );
            pleg.set_runtime_name(&version.runtime_name);
            named = true;
        }
        let fresh = match runtime.status(v1::StatusRequest { verbose: false }).await {
            Ok(response) => from_status(&response),
            Err(error) => {
                named = false;
                RuntimeConditions { runtime_problem: Some(error.to_string()), ..conditions.borrow().clone() }
            }
        };
        let ready = fresh.runtime_problem.is_none() && fresh.network_problem.is_none();
        conditions.send_if_modified(|current| {
            if *current == fresh {
                return false;
            }
            if current.runtime_problem != fresh.runtime_problem {
                match &fresh.runtime_problem {
                    Some(problem) => warn!("the container runtime cannot be used: {problem}"),
                    None if current.known => info!("the container runtime is back"),
                    None => {}
                }
                // Whatever happened in the meantime is looked at without waiting for the period.
                pleg.relist_soon();
            }
            if current.network_problem != fresh.network_problem
                && let Some(problem) = &fresh.network_problem
            {
                warn!("pods cannot get a network: {problem}");
            }
            *current = fresh;
            true
        });
        pause = if ready { PERIOD_READY } else { (pause * 2).min(PERIOD_WAITING) };
        tokio::time::sleep(pause).await;
        if ready {
            pause = PERIOD_FIRST;
        }
    }
}

fn from_status(response: &v1::StatusResponse) -> RuntimeConditions {
    let conditions = response.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let problem = |kind: &str| match conditions.iter().find(|c| c.r#type == kind) {
        Some(condition) if condition.status => None,
        Some(condition) => Some(format!("{kind} is false: {}: {}", condition.reason, condition.message)),
        None => Some(format!("the runtime does not report the condition {kind}")),
    };
    RuntimeConditions {
        runtime_problem: problem("RuntimeReady"),
        network_problem: problem("NetworkReady"),
        handlers: response
            .runtime_handlers
            .iter()
            .map(|handler| {
                let features = handler.features.unwrap_or_default();
                (
                    handler.name.clone(),
                    HandlerFeatures {
                        recursive_read_only_mounts: features.recursive_read_only_mounts,
                        user_namespaces: features.user_namespaces,
                    },
                )
            })
            .collect(),
        known: true,
        supplemental_groups_policy: response.features.as_ref().is_some_and(|f| f.supplemental_groups_policy),
    }
}
