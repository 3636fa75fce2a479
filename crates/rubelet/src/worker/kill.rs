//! Carries out kill plans: hooks, the order between containers, StopContainer, StopPodSandbox. Every step is
//! idempotent; what could not be stopped is reported and tried again by the worker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::ContainerPort;
use rubelet_core::ids::ContainerId;
use rubelet_core::kill::{ContainerKill, KillPlan, stop_timeout};
use rubelet_core::observed::ObservedPod;
use rubelet_cri::{CriError, v1};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hooks::{self, HookTarget};
use crate::events::EventSubject;
use crate::services::Services;

/// What a worker remembers between attempts to kill: a hook runs once, and the grace of a container counts
/// from the first attempt.
#[derive(Debug, Default)]
pub(super) struct KillMemory {
    begun: Mutex<BTreeMap<ContainerId, Instant>>,
    hooked: Mutex<BTreeSet<ContainerId>>,
}

impl KillMemory {
    /// When the first attempt on a container began.
    fn begin(&self, id: &ContainerId) -> (Instant, bool) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        match begun.get(id) {
            Some(at) => (*at, false),
            None => {
                let now = Instant::now();
                begun.insert(id.clone(), now);
                (now, true)
            }
        }
    }

    fn take_hook(&self, id: &ContainerId) -> bool {
        self.hooked.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone())
    }
}

/// Stops containers in parallel as the plan says and then, if all of them are down, the sandboxes.
///
/// # Errors
/// Everything that could not be stopped.
pub(super) async fn execute_kill_plan(
    services: &Services,
    subject: &EventSubject,
    observed: &ObservedPod,
    plan: &KillPlan,
    memory: &KillMemory,
) -> Result<(), Vec<CriError>> {
    let stopped: BTreeMap<&ContainerId, CancellationToken> =
        plan.containers.iter().map(|kill| (&kill.id, CancellationToken::new())).collect();
    let kills = plan.containers.iter().map(|kill| {
        let stopped = &stopped;
        async move {
            let waits: Vec<&CancellationToken> =
                kill.wait_for.iter().filter_map(|id| stopped.get(id)).collect();
            let result = kill_container(services, subject, observed, kill, &waits, memory).await;
            // Whoever waits goes on even if this one failed: the shared grace bounds everybody.
            if let Some(done) = stopped.get(&kill.id) {
                done.cancel();
            }
            result
        }
    });
    let mut errors: Vec<CriError> = join_all(kills).await.into_iter().filter_map(Result::err).collect();
    if errors.is_empty() {
        let stops = plan.sandboxes.iter().map(|id| {
            services.runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.to_string() })
        });
        errors =
            join_all(stops).await.into_iter().filter_map(Result::err).filter(|e| !e.is_not_found()).collect();
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Stops one container: event, hook, waiting for others, StopContainer.
///
/// # Errors
/// When the runtime could not stop it.
pub(super) async fn kill_container(
    services: &Services,
    subject: &EventSubject,
    observed: &ObservedPod,
    kill: &ContainerKill,
    wait_for: &[&CancellationToken],
    memory: &KillMemory,
) -> Result<(), CriError> {
    let (began, first) = memory.begin(&kill.id);
    let subject = EventSubject { container: Some(kill.name.clone()), ..subject.clone() };
    if first {
        services.events.normal(&subject, "Killing", &kill.message);
    }
    let left = || {
        Duration::from_secs(u64::try_from(kill.grace_seconds).unwrap_or(0)).saturating_sub(began.elapsed())
    };
    if let Some(handler) = &kill.pre_stop
        && memory.take_hook(&kill.id)
        && !left().is_zero()
    {
        let container = observed.containers.iter().find(|c| c.id == kill.id);
        let ports: Vec<ContainerPort> = container
            .and_then(|c| c.facts.ports.as_deref())
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default();
        let pod_ip = observed.sandboxes.first().and_then(|s| s.ips.first()).map(String::as_str);
        let target = HookTarget { id: &kill.id, ports: &ports, pod_ip };
        let hook = hooks::run(&*services.runtime, handler, target, Some(left()));
        match tokio::time::timeout(left(), hook).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => services.events.warning(
                &subject,
                "FailedPreStopHook",
                format!("PreStopHook failed: {}", crate::logging::chain(&error)),
            ),
            Err(_) => services.events.warning(
                &subject,
                "FailedPreStopHook",
                format!("PreStopHook did not end within the grace period of {} s", kill.grace_seconds),
            ),
        }
    }
    for other in wait_for {
        if tokio::time::timeout(left(), other.cancelled()).await.is_err() {
            break;
        }
    }
    let request = v1::StopContainerRequest {
        container_id: kill.id.to_string(),
        timeout: stop_timeout(kill.grace_seconds, began.elapsed()),
    };
    match services.runtime.stop_container(request).await {
        Err(error) if error.is_not_found() => Ok(()),
        answer => answer.map(|_| ()),
    }
}
