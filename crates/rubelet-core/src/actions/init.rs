//! The next step of initialisation: which init containers and sidecars to start or kill (upstream
//! `computeInitContainerActions`). Called by the planner only, with a sandbox that stays.

use k8s_openapi::api::core::v1::Container;

use super::{Draft, PodActionInputs};
use crate::containers::{init_containers, is_sidecar, spec_of};
use crate::ids::SandboxId;
use crate::observed::{ObservedContainer, ObservedState};
use crate::plan::{ContainerKind, KillReason};
use crate::restart;

/// How far initialisation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// App containers may run.
    Done,
    /// Something has to happen first.
    Ongoing,
    /// An init container failed and is not restarted: the pod has failed.
    Failed,
}

/// What one init container means for the walk.
enum Step {
    /// It is the front of initialisation and has to be started or started again.
    Start,
    /// Kill it, then start it again.
    Replace(KillReason, String),
    /// It is under way.
    Wait,
    /// It is complete: the next one may start.
    Complete,
    /// A sidecar that counts as complete and yet has to be replaced.
    CompleteAndReplace(KillReason, String),
    /// It failed for good.
    Fail,
}

/// Walks from the last init container to the first, because records of completed ones may be gone: the first
/// record that is found tells how far initialisation has come. All before it are complete, and of them only
/// sidecars need care.
pub(super) fn plan_init(inputs: &PodActionInputs<'_>, sandbox: &SandboxId, draft: &mut Draft) -> Progress {
    let spec = spec_of(inputs.pod);
    let inits = init_containers(spec);
    // Containers of an earlier sandbox say nothing about this one, so that an app container in any state
    // proves initialisation if it lives in this sandbox.
    let mut done = inits.is_empty()
        || spec.containers.iter().any(|app| {
            inputs
                .observed
                .instances(&app.name)
                .any(|instance| instance.sandbox_id == *sandbox && instance.state != ObservedState::Unknown)
        });
    let mut passed_front = done;
    let mut starts = Vec::new();
    for (index, container) in inits.iter().enumerate().rev() {
        let sidecar = is_sidecar(container);
        let newest =
            inputs.observed.instances(&container.name).find(|instance| instance.sandbox_id == *sandbox);
        let Some(instance) = newest else {
            if passed_front && sidecar {
                starts.push(index);
            }
            continue;
        };
        if passed_front && !sidecar {
            continue;
        }
        let mut complete = || {
            if index + 1 == inits.len() {
                done = true;
            } else if !passed_front {
                starts.push(index + 1);
            }
        };
        let step = if sidecar {
            judge_sidecar(inputs, container, instance)
        } else {
            judge_regular(inputs, container, instance)
        };
        match step {
            Step::Start => starts.push(index),
            Step::Replace(reason, message) => {
                starts.push(index);
                draft.kill(instance, reason, message);
            }
            Step::Wait => {}
            Step::Complete => complete(),
            Step::CompleteAndReplace(reason, message) => {
                complete();
                starts.push(index);
                draft.kill(instance, reason, message);
            }
            Step::Fail => return Progress::Failed,
        }
        passed_front = true;
    }
    if !passed_front {
        starts.push(0);
    }
    starts.sort_unstable();
    draft.want.extend(starts.into_iter().map(|index| (ContainerKind::Init, index)));
    if done { Progress::Done } else { Progress::Ongoing }
}

fn judge_regular(inputs: &PodActionInputs<'_>, container: &Container, instance: &ObservedContainer) -> Step {
    let spec = spec_of(inputs.pod);
    match instance.state {
        // Creating and starting are one step: a container that was only created failed to start.
        ObservedState::Created => Step::Start,
        ObservedState::Running => Step::Wait,
        ObservedState::Exited if instance.exit_code == 0 && instance.reason != "OOMKilled" => Step::Complete,
        ObservedState::Exited => {
            // Killed for memory and yet 0 left behind.
            let code = if instance.exit_code == 0 { restart::EXIT_CODE_UNKNOWN } else { instance.exit_code };
            if restart::restarts_after(container, spec, code) { Step::Start } else { Step::Fail }
        }
        ObservedState::Unknown => {
            if restart::restarts_after_probe_failure(container, spec) {
                Step::Replace(KillReason::UnknownState, unknown_message("Init container"))
            } else {
                Step::Fail
            }
        }
    }
}

fn judge_sidecar(inputs: &PodActionInputs<'_>, container: &Container, instance: &ObservedContainer) -> Step {
    match instance.state {
        ObservedState::Created | ObservedState::Exited => Step::Start,
        ObservedState::Unknown => Step::Replace(KillReason::UnknownState, unknown_message("Init container")),
        ObservedState::Running => {
            let verdict = inputs.verdicts.of(&instance.id);
            let name = &container.name;
            if container.startup_probe.is_some() {
                if verdict.startup_failed {
                    let message = format!("Init container {name} failed startup probe");
                    return Step::Replace(KillReason::StartupProbe, message);
                }
                if !verdict.started.unwrap_or(!inputs.verdicts.probing) {
                    return Step::Wait;
                }
            }
            if is_changed(inputs, container, instance) {
                let message = format!("Init container {name} definition changed");
                return Step::CompleteAndReplace(KillReason::DefinitionChanged, message);
            }
            if verdict.liveness_failed {
                let message = format!("Init container {name} failed liveness probe");
                return Step::CompleteAndReplace(KillReason::LivenessProbe, message);
            }
            Step::Complete
        }
    }
}

/// Whether the container was created from another name or image. One without a recorded hash is left alone.
pub(super) fn is_changed(
    inputs: &PodActionInputs<'_>,
    container: &Container,
    instance: &ObservedContainer,
) -> bool {
    instance.facts.hash.is_some_and(|hash| hash != (inputs.hash)(container))
}

pub(super) fn unknown_message(what: &str) -> String {
    format!("{what} is in \"unknown\" state, try killing it before restart")
}
