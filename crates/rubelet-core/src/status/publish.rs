//! What may be published: the guards between a generated status and the API (upstream status manager).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus,
};

use super::conditions::{self, DISRUPTION_TARGET};
use super::{api_time, truncated};
use crate::containers::{init_containers, spec_of};
use crate::phase::Phase;
use crate::restart;
use crate::termination;

/// Why a status must not follow another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IllegalTransition {
    /// A container that ended for good would run or wait again.
    #[error("terminated container {container} attempted illegal transition to non-terminated state")]
    ContainerRevived {
        /// Its name.
        container: String,
    },
}

/// What to publish when the API holds `old` and `new` was generated.
///
/// Conditions of other owners are kept from `old`; a terminal phase is held back while `may_run`; terminal
/// phases, restart counts and observed generations do not regress; a terminal phase makes Ready and
/// ContainersReady False.
///
/// # Errors
/// A container that ended for good must not come back: such a status is not published. [`super::generate`]
/// makes none when its `previous` is what was published last.
pub fn merge_for_update(
    pod: &Pod,
    old: &PodStatus,
    new: &PodStatus,
    may_run: bool,
    now: Timestamp,
) -> Result<PodStatus, IllegalTransition> {
    check_revivals(spec_of(pod), old, new)?;
    let old_phase = Phase::of(old);
    let mut status = new.clone();
    let becomes_terminal =
        !old_phase.is_some_and(Phase::is_terminal) && Phase::of(new).is_some_and(Phase::is_terminal);
    status.conditions = Some(merged_conditions(old, new, becomes_terminal && !may_run, now));
    if (becomes_terminal && may_run)
        || old_phase.is_some_and(|phase| phase.is_terminal() && old_phase != Phase::of(new))
    {
        status.phase = old.phase.clone().or_else(|| Some(Phase::Running.as_str().to_owned()));
        status.reason = old.reason.clone();
        status.message = old.message.clone();
    }
    if let Some(phase) = Phase::of(&status) {
        conditions::force_not_ready(&mut status, phase, now);
    }
    // Never ours: what other components wrote stays.
    status.resource_claim_statuses = old.resource_claim_statuses.clone();
    status.extended_resource_claim_status = old.extended_resource_claim_status.clone();
    status.node_allocatable_resource_claim_statuses = old.node_allocatable_resource_claim_statuses.clone();
    status.nominated_node_name = old.nominated_node_name.clone();
    status.start_time = old.start_time.clone().or(status.start_time);
    status.observed_generation = status.observed_generation.max(old.observed_generation);
    keep_counts(old.init_container_statuses.as_ref(), status.init_container_statuses.as_mut());
    keep_counts(old.container_statuses.as_ref(), status.container_statuses.as_mut());
    keep_counts(old.ephemeral_container_statuses.as_ref(), status.ephemeral_container_statuses.as_mut());
    limit_messages(pod, &mut status);
    Ok(status)
}

/// Whether two statuses say the same to a client: what this agent does not own, the order of conditions and
/// fractions of seconds do not count (upstream `isPodStatusByKubeletEqual`).
pub fn semantically_equal(a: &PodStatus, b: &PodStatus) -> bool {
    comparable(a) == comparable(b)
}

fn comparable(status: &PodStatus) -> PodStatus {
    let mut status = truncated(status.clone());
    let ours =
        |listed: &PodCondition| conditions::is_owned(&listed.type_) || listed.type_ == DISRUPTION_TARGET;
    let mut list: Vec<_> = status
        .conditions
        .take()
        .unwrap_or_default()
        .into_iter()
        .filter(ours)
        .map(|listed| PodCondition {
            type_: listed.type_,
            status: listed.status,
            reason: listed.reason,
            message: listed.message,
            ..PodCondition::default()
        })
        .collect();
    list.sort_by(|a, b| a.type_.cmp(&b.type_));
    status.conditions = Some(list);
    status.resource_claim_statuses = None;
    status.extended_resource_claim_status = None;
    status.node_allocatable_resource_claim_statuses = None;
    status.nominated_node_name = None;
    for list in [
        &mut status.init_container_statuses,
        &mut status.container_statuses,
        &mut status.ephemeral_container_statuses,
    ] {
        if list.as_ref().is_some_and(Vec::is_empty) {
            *list = None;
        }
    }
    status
}

/// Conditions of other owners from the API, ours from the new status. DisruptionTarget appears only together
/// with the terminal phase it explains.
fn merged_conditions(
    old: &PodStatus,
    new: &PodStatus,
    publishes_end: bool,
    now: Timestamp,
) -> Vec<PodCondition> {
    let others = old.conditions.iter().flatten().filter(|listed| !conditions::is_owned(&listed.type_));
    let mut list: Vec<_> = others.cloned().collect();
    for listed in new.conditions.iter().flatten() {
        if conditions::is_owned(&listed.type_) {
            conditions::put(&mut list, listed.clone());
        } else if listed.type_ == DISRUPTION_TARGET && publishes_end {
            let known =
                conditions::find(old, DISRUPTION_TARGET).filter(|before| before.status == listed.status);
            let last_transition_time =
                known.map_or_else(|| Some(api_time(now)), |before| before.last_transition_time.clone());
            conditions::put(&mut list, PodCondition { last_transition_time, ..listed.clone() });
        }
    }
    list
}

/// Upstream `checkContainerStateTransition`.
fn check_revivals(spec: &PodSpec, old: &PodStatus, new: &PodStatus) -> Result<(), IllegalTransition> {
    if restart::may_restart_all(spec) {
        return Ok(());
    }
    let lists = [
        (spec.containers.as_slice(), &old.container_statuses, &new.container_statuses),
        (init_containers(spec), &old.init_container_statuses, &new.init_container_statuses),
    ];
    for (containers, old, new) in lists {
        for before in old.iter().flatten() {
            let Some(end) = before.state.as_ref().and_then(|state| state.terminated.as_ref()) else {
                continue;
            };
            let may_return = |container: &Container| restart::restarts_after(container, spec, end.exit_code);
            let Some(container) = containers.iter().find(|container| container.name == before.name) else {
                continue;
            };
            let revived = new.iter().flatten().any(|after| {
                after.name == before.name
                    && after.state.as_ref().is_none_or(|state| state.terminated.is_none())
            });
            if revived && !may_return(container) {
                return Err(IllegalTransition::ContainerRevived { container: before.name.clone() });
            }
        }
    }
    Ok(())
}

fn keep_counts(old: Option<&Vec<ContainerStatus>>, new: Option<&mut Vec<ContainerStatus>>) {
    for status in new.into_iter().flatten() {
        let before = old.into_iter().flatten().find(|before| before.name == status.name);
        status.restart_count = status.restart_count.max(before.map_or(0, |before| before.restart_count));
    }
}

/// Spreads the pod's share of termination messages evenly (upstream `normalizeStatus`).
fn limit_messages(pod: &Pod, status: &mut PodStatus) {
    let spec = spec_of(pod);
    let count =
        spec.containers.len() + init_containers(spec).len() + restart::ephemeral_containers(spec).len();
    let limit = termination::bytes_per_container(count);
    let cut = |state: &mut Option<ContainerState>| {
        let end = state.as_mut().and_then(|state| state.terminated.as_mut());
        if let Some(message) = end.and_then(|end| end.message.as_mut()) {
            termination::cut(message, limit);
        }
    };
    let lists = [
        &mut status.init_container_statuses,
        &mut status.container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    for container in lists.into_iter().flatten().flatten() {
        cut(&mut container.state);
        cut(&mut container.last_state);
    }
}
