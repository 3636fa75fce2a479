//! Carries out kill plans: hooks, the order between containers, StopContainer, StopPodSandbox. Every step is
//! idempotent; what could not be stopped is reported and tried again by the worker.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::ContainerPort;
use rubelet_core::explain::{Pace, Process, Stuck, process_state, stuck_text};
use rubelet_core::ids::ContainerId;
use rubelet_core::kill::{ContainerKill, KillPlan, stop_timeout};
use rubelet_core::observed::ObservedPod;
use rubelet_cri::{CriError, CriErrorKind, v1};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::explain::{Ends, Leaving, wait_out};
use super::hooks::{self, HookTarget};
use crate::events::EventSubject;
use crate::services::Services;

/// How long the runtime may take to tell of a process that should have ended.
const PROCESS_LIMIT: Duration = Duration::from_secs(2);
/// Killing as a step of an end, for the pace of its errors.
pub(super) const KILL: &str = "kill";

/// What a worker remembers between attempts to kill: a hook runs once, and the grace of a container counts
/// from the first attempt that the runtime heard of, or from a later one that shortened it.
#[derive(Debug, Default)]
pub(super) struct KillMemory {
    /// What is told of the end.
    pub(super) ends: Ends,
    attempts: Mutex<BTreeMap<ContainerId, Attempt>>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    began: Instant,
    grace_seconds: i64,
    hooked: bool,
    /// The runtime was told to stop it, or its hook was begun.
    heard: bool,
    /// When it is told that it does not stop, counted from `began`.
    pace: Pace,
}

/// The pace at which it is told that a container outlives its grace.
fn pace_after(grace_seconds: i64) -> Pace {
    Pace::ending(Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0)))
}

impl KillMemory {
    /// When the grace of a container began, and whether this is the first that is heard of its end.
    fn begin(&self, id: &ContainerId, grace_seconds: i64) -> (Instant, bool) {
        let now = Instant::now();
        let mut attempts = self.lock();
        let first = !attempts.contains_key(id);
        let attempt = attempts.entry(id.clone()).or_insert(Attempt {
            began: now,
            grace_seconds,
            hooked: false,
            heard: false,
            pace: pace_after(grace_seconds),
        });
        if !attempt.heard || grace_seconds < attempt.grace_seconds {
            (attempt.began, attempt.grace_seconds) = (now, grace_seconds);
            attempt.pace = pace_after(grace_seconds);
        }
        (attempt.began, first)
    }

    /// Whether the hook is still to be run.
    fn needs_hook(&self, id: &ContainerId) -> bool {
        self.lock().get(id).is_some_and(|attempt| !attempt.hooked)
    }

    fn change(&self, id: &ContainerId, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.lock().get_mut(id) {
            change(attempt);
        }
    }

    /// When its end began and when it is to be told next that it does not come.
    fn next_telling(&self, id: &ContainerId) -> Option<(Instant, Instant)> {
        self.lock().get(id).map(|attempt| (attempt.began, attempt.began + attempt.pace.next()))
    }

    /// Forgets containers that are not there any more.
    fn keep(&self, observed: &ObservedPod) {
        self.lock().retain(|id, _| observed.containers.iter().any(|container| container.id == *id));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What those who wait for a container's end hear of it.
#[derive(Default)]
pub(super) struct Turn {
    /// It has ended.
    stopped: CancellationToken,
    /// This attempt could not end it: those who wait are left to the next one.
    failed: CancellationToken,
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
    memory.keep(observed);
    let turns: BTreeMap<&ContainerId, Turn> =
        plan.containers.iter().map(|kill| (&kill.id, Turn::default())).collect();
    let kills = plan.containers.iter().map(|kill| {
        let turns = &turns;
        async move {
            let waits: Vec<&Turn> = kill.wait_for.iter().filter_map(|id| turns.get(id)).collect();
            let result = kill_container(services, subject, observed, kill, &waits, memory).await;
            if let Some(turn) = turns.get(&kill.id) {
                if result.is_ok() { turn.stopped.cancel() } else { turn.failed.cancel() }
            }
            result
        }
    });
    let mut errors: Vec<CriError> = join_all(kills).await.into_iter().filter_map(Result::err).collect();
    if errors.is_empty() {
        let stops = plan.sandboxes.iter().map(|id| {
            let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_string() };
            let stop = services.runtime.stop_pod_sandbox(request);
            wait_out(services, subject, &memory.ends, Leaving::Sandbox(id.as_str()), stop)
        });
        errors =
            join_all(stops).await.into_iter().filter_map(Result::err).filter(|e| !e.is_not_found()).collect();
    }
    if errors.is_empty() {
        memory.ends.done(KILL);
        Ok(())
    } else {
        Err(errors)
    }
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
    wait_for: &[&Turn],
    memory: &KillMemory,
) -> Result<(), CriError> {
    let (began, first) = memory.begin(&kill.id, kill.grace_seconds);
    let subject = EventSubject { container: Some(kill.name.clone()), ..subject.clone() };
    if first {
        services.events.normal(&subject, "Killing", &kill.message);
    }
    let left = || {
        Duration::from_secs(u64::try_from(kill.grace_seconds).unwrap_or(0)).saturating_sub(began.elapsed())
    };
    if let Some(handler) = &kill.pre_stop
        && memory.needs_hook(&kill.id)
        && !left().is_zero()
    {
        let container = observed.containers.iter().find(|c| c.id == kill.id);
        let ports: Vec<ContainerPort> = container
            .and_then(|c| c.facts.ports.as_deref())
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default();
        let pod_ip = observed.sandboxes.first().and_then(|s| s.ips.first()).map(String::as_str);
        let target = HookTarget { id: &kill.id, ports: &ports, pod_ip };
        memory.change(&kill.id, |attempt| (attempt.hooked, attempt.heard) = (true, true));
        let hook = hooks::run(&*services.runtime, handler, target, Some(left()));
        match tokio::time::timeout(left(), hook).await {
            Ok(Ok(ran)) => ran.tell(services, &subject),
            Ok(Err(error)) => {
                if error.never_ran() {
                    memory.change(&kill.id, |attempt| (attempt.hooked, attempt.heard) = (false, false));
                }
                services.events.warning(
                    &subject,
                    "FailedPreStopHook",
                    format!("PreStopHook failed: {}", crate::logging::chain(&error)),
                );
            }
            Err(_) => {
                if handler.sleep.is_some() {
                    services.metrics.pods.sleep_terminated_early.inc();
                }
                services.events.warning(
                    &subject,
                    "FailedPreStopHook",
                    format!("PreStopHook did not end within the grace period of {} s", kill.grace_seconds),
                );
            }
        }
    }
    for other in wait_for {
        // All arms are cancel-safe; what has ended counts before the time that is up.
        tokio::select! {
            biased;
            () = other.stopped.cancelled() => {}
            () = tokio::time::sleep(left()) => break,
            () = other.failed.cancelled() => return Ok(()),
        }
    }
    let request = v1::StopContainerRequest {
        container_id: kill.id.to_string(),
        timeout: stop_timeout(kill.grace_seconds, began.elapsed()),
    };
    // Dropped in the middle, the call has been heard: the runtime goes on with it.
    memory.change(&kill.id, |attempt| attempt.heard = true);
    let stop = services.runtime.stop_container(request);
    // Dropping the words loses nothing.
    let stopped = tokio::select! {
        biased;
        stopped = stop => stopped,
        never = tell_stuck(services, &subject, kill, memory) => match never {},
    };
    match stopped {
        Err(error) if !error.is_not_found() => {
            if error.kind == CriErrorKind::Unreachable {
                memory.change(&kill.id, |attempt| attempt.heard = attempt.hooked);
            }
            Err(error)
        }
        Ok(_) | Err(_) => {
            // The others may take their time: until the pod is looked at again, nobody else tells the prober.
            services.prober.stopped(&observed.uid, &kill.id);
            Ok(())
        }
    }
}

/// Tells, ever more rarely, that a container outlives its grace.
async fn tell_stuck(
    services: &Services,
    subject: &EventSubject,
    kill: &ContainerKill,
    memory: &KillMemory,
) -> Infallible {
    loop {
        let Some((began, next)) = memory.next_telling(&kill.id) else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(next).await;
        memory.change(&kill.id, |attempt| {
            attempt.pace.take(began.elapsed());
        });
        let stuck = Stuck {
            name: &kill.name,
            asked: began.elapsed(),
            grace: Duration::from_secs(u64::try_from(kill.grace_seconds).unwrap_or(0)),
            process: first_process(services, &kill.id).await,
        };
        services.events.warning(subject, "ExceededGracePeriod", stuck_text(&stuck));
    }
}

/// The first process of a container and what it does, where runtime and kernel tell.
async fn first_process(services: &Services, id: &ContainerId) -> Option<Process> {
    let request = v1::ContainerStatusRequest { container_id: id.to_string(), verbose: true };
    let answer = tokio::time::timeout(PROCESS_LIMIT, services.runtime.container_status(request)).await;
    let info: serde_json::Value = serde_json::from_str(answer.ok()?.ok()?.info.get("info")?).ok()?;
    let pid = i32::try_from(info.get("pid")?.as_i64()?).ok().filter(|pid| *pid > 0)?;
    let read = move || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Not everybody may read it.
        let place = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        Ok(process_state(&stat).map(|state| Process { pid, state, place: place.trim().to_owned() }))
    };
    services.fs.run(format!("look at process {pid}"), read).await.ok()?
}
