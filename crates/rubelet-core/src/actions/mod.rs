//! What is to be done to one pod in the runtime now (upstream `computePodActions`).
//!
//! [`compute_pod_actions`] compares the spec with what was observed and returns a [`PodPlan`]; the pod worker
//! calls it in every sync and its executor carries the plan out. Nothing here acts or waits.

mod init;
#[cfg(test)]
mod model;
mod sandbox;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};

pub use self::sandbox::{SandboxNeed, sandbox_need};

use self::init::{Progress, is_changed, plan_init, unknown_message};
use crate::backoff::{BackoffKey, BackoffTable};
use crate::containers::{init_containers, is_sidecar, spec_of};
use crate::ids::{ContainerId, SandboxId};
use crate::observed::{ObservedContainer, ObservedPod, ObservedState};
use crate::plan::{BackingOff, ContainerKind, KillContainer, KillReason, PodPlan, StartContainer};
use crate::restart::{self, RestartDecision, RestartPolicy};
use crate::verdicts::ProbeVerdicts;

/// Everything the decision depends on.
#[derive(Clone, Copy)]
pub struct PodActionInputs<'a> {
    /// The admitted pod.
    pub pod: &'a Pod,
    /// What the runtime holds.
    pub observed: &'a ObservedPod,
    /// What the probes say.
    pub verdicts: &'a ProbeVerdicts,
    /// Crash-loop back-off.
    pub backoff: &'a BackoffTable,
    /// The status generated last: it remembers a RestartAllContainers that is under way and the ends of
    /// containers which the runtime has forgotten.
    pub reported: Option<&'a PodStatus>,
    /// The pod ends: nothing is started any more.
    pub ending: bool,
    /// Hash that a container with this spec is created with (`hash::container_hash`).
    pub hash: fn(&Container) -> u32,
    /// Now.
    pub now: Timestamp,
}

/// A plan in the making: what is wanted before back-off has its say.
#[derive(Default)]
struct Draft {
    want: Vec<(ContainerKind, usize)>,
    kill: Vec<KillContainer>,
}

impl Draft {
    fn kill(&mut self, instance: &ObservedContainer, reason: KillReason, message: String) {
        self.kill.push(KillContainer {
            id: instance.id.clone(),
            name: instance.name.clone(),
            reason,
            message,
        });
    }
}

/// The plan for the pod.
///
/// Of a pod that ends, the plan is empty: ending it is `kill::compute_kill_plan`'s business.
pub fn compute_pod_actions(inputs: &PodActionInputs<'_>) -> PodPlan {
    if inputs.ending || inputs.pod.metadata.deletion_timestamp.is_some() {
        return PodPlan::default();
    }
    let mut inputs = *inputs;
    if restart::restart_all_wanted(inputs.pod, inputs.observed, inputs.reported) {
        if !restart::restart_all_cleaned_up(inputs.pod, inputs.observed) {
            return plan_restart_all(&inputs);
        }
        // Everything starts over: what was reported of the time before says nothing any more.
        inputs.reported = None;
    }
    let inputs = &inputs;
    match sandbox_need(inputs.pod, inputs.observed) {
        SandboxNeed::Create { attempt } => plan_new_sandbox(inputs, attempt),
        SandboxNeed::Keep(sandbox) => plan_containers(inputs, sandbox),
    }
}

/// RestartAllContainers (KEP-5532): every container goes, apps before init containers, each list from its end;
/// those whose exit asked for it go last, so that the wish survives a crash of the agent.
fn plan_restart_all(inputs: &PodActionInputs<'_>) -> PodPlan {
    let spec = spec_of(inputs.pod);
    let mut plan = PodPlan { restarting_all: true, ..PodPlan::default() };
    let mut asked = Vec::new();
    for container in spec.containers.iter().rev().chain(init_containers(spec).iter().rev()) {
        for instance in inputs.observed.instances(&container.name) {
            if instance.state != ObservedState::Exited {
                plan.kill.push(KillContainer {
                    id: instance.id.clone(),
                    name: instance.name.clone(),
                    reason: KillReason::RestartAll,
                    message: String::new(),
                });
            } else if restart::on_exit(container, spec, instance.exit_code) == RestartDecision::RestartAll {
                asked.push(instance.id.clone());
                continue;
            }
            plan.remove.push(instance.id.clone());
        }
    }
    plan.remove.append(&mut asked);
    plan
}

/// A new sandbox means that everything of the pod is stopped and starts over from the first init container,
/// unless nothing would be started in it.
fn plan_new_sandbox(inputs: &PodActionInputs<'_>, attempt: u32) -> PodPlan {
    let spec = spec_of(inputs.pod);
    let observed = inputs.observed;
    let stop_all = PodPlan {
        kill_pod: observed.may_run() || observed.has_ready_sandbox(),
        pod_done: true,
        ..PodPlan::default()
    };
    // A run-once pod does not start over, unless it had not come to create a container.
    let run_once = restart::pod_policy(spec) == RestartPolicy::Never
        && !spec.containers.iter().any(|app| {
            app.restart_policy.is_some() && restart::container_policy(app, spec) != RestartPolicy::Never
        });
    if run_once && attempt != 0 && !observed.containers.is_empty() {
        return stop_all;
    }
    let apps: Vec<_> = (0..spec.containers.len())
        .filter(|index| starts_in_new_sandbox(inputs, &spec.containers[*index]))
        .map(|index| (ContainerKind::App, index))
        .collect();
    let initialized = spec.containers.iter().any(|app| {
        observed.newest_container(&app.name).is_some_and(|newest| newest.state != ObservedState::Unknown)
            || restart::lost_container_runs_again(inputs.pod, app, inputs.reported).is_some()
    });
    if apps.is_empty() && initialized {
        return stop_all;
    }
    let inits = init_containers(spec);
    let want = if inits.is_empty() { apps } else { vec![(ContainerKind::Init, 0)] };
    let mut plan = PodPlan {
        kill_pod: observed.may_run() || !observed.sandboxes.is_empty(),
        create_sandbox: Some(attempt),
        remove: inits
            .iter()
            .flat_map(|init| observed.instances(&init.name))
            .map(|instance| instance.id.clone())
            .collect(),
        ..PodPlan::default()
    };
    fill_starts(inputs, want, &mut plan);
    plan
}

/// Whether an app container runs again after its sandbox went away. One that still runs is about to be killed
/// with the sandbox, which counts as a failure.
fn starts_in_new_sandbox(inputs: &PodActionInputs<'_>, container: &Container) -> bool {
    let spec = spec_of(inputs.pod);
    match inputs.observed.newest_container(&container.name).map(|instance| instance.state) {
        Some(ObservedState::Running | ObservedState::Unknown) => {
            restart::restarts_after_probe_failure(container, spec)
        }
        _ => restart::is_to_be_started(inputs.pod, container, inputs.observed, inputs.reported),
    }
}

/// The sandbox stays: init containers, then app containers.
fn plan_containers(inputs: &PodActionInputs<'_>, sandbox: SandboxId) -> PodPlan {
    let spec = spec_of(inputs.pod);
    let mut draft = Draft::default();
    for (index, ephemeral) in restart::ephemeral_containers(spec).iter().enumerate() {
        if inputs.observed.newest_container(&ephemeral.name).is_none() {
            draft.want.push((ContainerKind::Ephemeral, index));
        }
    }
    let progress = plan_init(inputs, &sandbox, &mut draft);
    let over = match progress {
        Progress::Failed => true,
        Progress::Ongoing => false,
        Progress::Done => {
            let for_init = draft.kill.len();
            match plan_apps(inputs, &mut draft) {
                Apps::Alive => false,
                Apps::Over => true,
                // What ends with the app containers is not started or restarted for their last moments.
                Apps::Ending => {
                    draft.want.clear();
                    draft.kill.drain(..for_init);
                    false
                }
            }
        }
    };
    if over {
        // Sidecars and ephemeral containers do not keep a pod alive.
        return PodPlan {
            kill_pod: inputs.observed.may_run() || inputs.observed.has_ready_sandbox(),
            sandbox: Some(sandbox),
            pod_done: true,
            ..PodPlan::default()
        };
    }
    let mut plan =
        PodPlan { sandbox: Some(sandbox), kill: draft.kill, prune: clutter(inputs), ..PodPlan::default() };
    fill_starts(inputs, draft.want, &mut plan);
    plan
}

/// What becomes of the app containers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Apps {
    /// One of them runs on or starts.
    Alive,
    /// The last ones are killed for a failed probe and not restarted.
    ///
    /// Upstream kills the whole pod then, which takes the pod's grace instead of the probe's own, and an event that does
    /// not say why; and it does not ask the exit-code rules, which may restart a container by the code it is killed
    /// with. Here the containers are killed like any other with a failed probe; the sync after that decides what
    /// their ends mean.
    Ending,
    /// None of them runs or will.
    Over,
}

/// App containers of an initialised pod.
fn plan_apps(inputs: &PodActionInputs<'_>, draft: &mut Draft) -> Apps {
    let spec = spec_of(inputs.pod);
    let mut apps = Apps::Over;
    for (index, container) in spec.containers.iter().enumerate() {
        let name = &container.name;
        let running = inputs
            .observed
            .newest_container(name)
            .filter(|instance| instance.state == ObservedState::Running);
        let Some(instance) = running else {
            if restart::is_to_be_started(inputs.pod, container, inputs.observed, inputs.reported) {
                apps = Apps::Alive;
                draft.want.push((ContainerKind::App, index));
            }
            // It may run after all: two instances of one container must not.
            if let Some(unknown) = inputs.observed.newest_container(name)
                && unknown.state == ObservedState::Unknown
            {
                draft.kill(unknown, KillReason::UnknownState, unknown_message("Container"));
            }
            continue;
        };
        let verdict = inputs.verdicts.of(&instance.id);
        let (reason, what, restart) = if is_changed(inputs, container, instance) {
            (KillReason::DefinitionChanged, "definition changed", true)
        } else if verdict.liveness_failed {
            let restart = restart::restarts_after_probe_failure(container, spec);
            (KillReason::LivenessProbe, "failed liveness probe", restart)
        } else if verdict.startup_failed {
            let restart = restart::restarts_after_probe_failure(container, spec);
            (KillReason::StartupProbe, "failed startup probe", restart)
        } else {
            apps = Apps::Alive;
            continue;
        };
        let mut message = format!("Container {name} {what}");
        if restart {
            message.push_str(", will be restarted");
            apps = Apps::Alive;
            draft.want.push((ContainerKind::App, index));
        } else if apps == Apps::Over {
            apps = Apps::Ending;
        }
        draft.kill(instance, reason, message);
    }
    apps
}

/// Splits what is wanted into what starts now and what waits for its back-off. A regular init container that
/// waits holds back everything behind it; anything else only itself.
fn fill_starts(inputs: &PodActionInputs<'_>, want: Vec<(ContainerKind, usize)>, plan: &mut PodPlan) {
    let spec = spec_of(inputs.pod);
    for (kind, index) in want {
        let container = match kind {
            ContainerKind::Ephemeral => None,
            ContainerKind::Init => init_containers(spec).get(index),
            ContainerKind::App => spec.containers.get(index),
        };
        let name = match container {
            Some(container) => container.name.clone(),
            None => match restart::ephemeral_containers(spec).get(index) {
                Some(ephemeral) => ephemeral.name.clone(),
                None => continue,
            },
        };
        let ended = inputs
            .observed
            .instances(&name)
            .find(|instance| instance.state == ObservedState::Exited)
            .map(|instance| instance.finished_at.unwrap_or(instance.created_at));
        let wait = container.zip(ended).and_then(|(container, ended)| {
            inputs.backoff.wait_since(&BackoffKey::container(inputs.pod, container), ended, inputs.now)
        });
        match wait {
            Some(wait) => {
                plan.backing_off.push(BackingOff { kind, name, until: wait.until, delay: wait.delay });
                if kind == ContainerKind::Init && container.is_some_and(|init| !is_sidecar(init)) {
                    break;
                }
            }
            None => plan.start.push(StartContainer { kind, index, name, restart_since: ended }),
        }
    }
}

/// Instances that say nothing any more: dead ones of init containers besides the newest dead one of each, and
/// all that were created and never started, because each of those is replaced by a new one.
fn clutter(inputs: &PodActionInputs<'_>) -> Vec<ContainerId> {
    let mut ids = Vec::new();
    for ((kind, _), container) in restart::planned_containers(spec_of(inputs.pod)) {
        let instances = || inputs.observed.instances(&container.name);
        ids.extend(instances().filter(|i| i.state == ObservedState::Created).map(|i| i.id.clone()));
        if kind == ContainerKind::Init {
            let dead = instances().filter(|i| i.state == ObservedState::Exited);
            ids.extend(dead.skip(1).map(|i| i.id.clone()));
        }
    }
    ids
}
