//! Statuses of single containers: what the runtime shows, what was reported before, and what the last attempt
//! to start one led to (upstream `convertToAPIContainerStatuses` and the prober's `UpdatePodStatus`).

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, LinuxContainerUser, VolumeMount, VolumeMountStatus,
};

use super::{Ending, StatusInputs, api_time, text};
use crate::containers::{ephemeral_as_container, init_containers, is_sidecar, spec_of};
use crate::observed::{ObservedContainer, ObservedState};
use crate::plan::ContainerKind;
use crate::resize::reported_resources;
use crate::restart::{self, EXIT_CODE_UNKNOWN, RESTARTING_ALL_CONTAINERS};
use crate::verdicts::Verdict;

/// Reason of a container whose end nobody saw.
pub(super) const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";

/// The three lists of container statuses.
pub(super) struct ContainerLists {
    pub(super) init: Vec<ContainerStatus>,
    pub(super) app: Vec<ContainerStatus>,
    pub(super) ephemeral: Vec<ContainerStatus>,
}

/// All container statuses: init containers in spec order, the others by name.
pub(super) fn container_statuses(inputs: &StatusInputs<'_>, restarting_all: bool) -> ContainerLists {
    let spec = spec_of(inputs.pod);
    let old = inputs.previous.unwrap_or_else(|| super::api_status(inputs.pod));
    let with_init = !init_containers(spec).is_empty();
    let view = |kind, old| View { inputs, kind, old, restarting_all, with_init };
    let ephemeral: Vec<_> = restart::ephemeral_containers(spec).iter().map(ephemeral_as_container).collect();
    let mut lists = ContainerLists {
        init: view(ContainerKind::Init, old.init_container_statuses.as_ref()).list(init_containers(spec)),
        app: view(ContainerKind::App, old.container_statuses.as_ref()).list(&spec.containers),
        ephemeral: view(ContainerKind::Ephemeral, old.ephemeral_container_statuses.as_ref()).list(&ephemeral),
    };
    lists.app.sort_by(|a, b| a.name.cmp(&b.name));
    lists.ephemeral.sort_by(|a, b| a.name.cmp(&b.name));
    lists
}

/// One list of containers with what is needed to judge it.
struct View<'a> {
    inputs: &'a StatusInputs<'a>,
    kind: ContainerKind,
    old: Option<&'a Vec<ContainerStatus>>,
    restarting_all: bool,
    with_init: bool,
}

impl View<'_> {
    fn list(&self, containers: &[Container]) -> Vec<ContainerStatus> {
        containers.iter().map(|container| self.one(container)).collect()
    }

    fn one(&self, container: &Container) -> ContainerStatus {
        let old = self.old.and_then(|list| list.iter().find(|status| status.name == container.name));
        let mut instances = self.inputs.observed.instances(&container.name);
        let mut status = match instances.next() {
            Some(newest) => {
                let mut status = self.of_instance(container, newest, old);
                let before = instances.next().filter(|instance| instance.state == ObservedState::Exited);
                if let Some(before) = before {
                    status.last_state = Some(terminated(self.ended(before)));
                }
                status
            }
            None => self.of_missing(container, old),
        };
        self.tell_replacing(container, &mut status);
        self.tell_what_it_waits_for(container, &mut status);
        self.keep_final_end(container, old, &mut status);
        self.judge_readiness(container, old, &mut status);
        status
    }

    /// Status of a container whose newest instance the runtime shows.
    fn of_instance(
        &self,
        container: &Container,
        newest: &ObservedContainer,
        old: Option<&ContainerStatus>,
    ) -> ContainerStatus {
        let id = self.container_id(newest);
        let same_instance = old.is_some_and(|old| old.container_id.as_deref() == Some(id.as_str()));
        let old_end = old.and_then(|old| old.state.as_ref()?.terminated.as_ref());
        let last_state = match (old, old_end) {
            // Its predecessor may have been removed meanwhile; what was reported of it stays true.
            (Some(_), Some(end)) if !same_instance => Some(terminated(end.clone())),
            (Some(old), _) => old.last_state.clone(),
            (None, _) => None,
        };
        let seen = i32::try_from(newest.facts.restart_count.max(newest.attempt)).unwrap_or(i32::MAX);
        let reported = old.map_or(0, |old| old.restart_count);
        let mut restart_count = seen.max(reported);
        let state = match newest.state {
            ObservedState::Running => {
                if old_end.is_some() && !same_instance && reported >= seen {
                    restart_count = reported.saturating_add(1);
                }
                running(newest)
            }
            ObservedState::Created => self.default_waiting(),
            ObservedState::Exited => terminated(self.ended(newest)),
            ObservedState::Unknown => match (old.and_then(|old| old.state.as_ref()), old_end) {
                (_, Some(end)) if same_instance => terminated(end.clone()),
                (Some(state), _) if state.running.is_some() => {
                    restart_count = reported.saturating_add(1);
                    let reason = if self.restarting_all { RESTARTING_ALL_CONTAINERS } else { STATUS_UNKNOWN };
                    terminated(vanished(
                        reason,
                        "The container could not be located when the pod was terminated",
                    ))
                }
                _ => self.default_waiting(),
            },
        };
        let resources = container.resources.clone().unwrap_or_default();
        let allocated_resources = resources.requests.clone();
        let resources = match newest.state {
            ObservedState::Running => {
                let actuated = self.inputs.resize.actuated;
                let actuated = actuated.and_then(|actuated| actuated.containers.get(&container.name));
                reported_resources(&resources, newest.resources.as_ref(), actuated)
            }
            _ => resources,
        };
        ContainerStatus {
            name: container.name.clone(),
            allocated_resources,
            container_id: Some(id),
            image: newest.image.clone(),
            image_id: newest.image_ref.clone(),
            last_state: last_state.filter(|state| *state != ContainerState::default()),
            resources: Some(resources),
            restart_count,
            state: Some(state),
            user: newest.user.as_ref().map(|user| ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid: user.uid,
                    gid: user.gid,
                    supplemental_groups: (!user.supplemental_groups.is_empty())
                        .then(|| user.supplemental_groups.clone()),
                }),
            }),
            volume_mounts: self.volume_mounts(container, Some(newest)),
            ..ContainerStatus::default()
        }
    }

    /// Status of a container of which the runtime shows nothing: not created yet, or removed.
    fn of_missing(&self, container: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
        let fresh = ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            state: Some(self.default_waiting()),
            volume_mounts: self.volume_mounts(container, None),
            ..ContainerStatus::default()
        };
        let Some(old) = old else { return fresh };
        let old_state = old.state.clone().unwrap_or_default();
        let removed_by_restart = self.restarting_all && old_state.waiting.is_none();
        if removed_by_restart {
            let message = "The container is removed because RestartAllContainers in place";
            return ContainerStatus {
                state: Some(waiting(RESTARTING_ALL_CONTAINERS, message)),
                last_state: Some(terminated(vanished(RESTARTING_ALL_CONTAINERS, message))),
                restart_count: old.restart_count.saturating_add(1),
                ..fresh
            };
        }
        if old_state.terminated.is_some() {
            // The record is gone, the fact is not. Readiness is judged anew.
            return ContainerStatus { ready: false, started: None, ..old.clone() };
        }
        if old_state.running.is_none() {
            return ContainerStatus {
                restart_count: old.restart_count,
                last_state: old.last_state.clone(),
                ..fresh
            };
        }
        // It ran and vanished: without an end in lastState the pod would go back to Pending.
        let deleted = self.inputs.pod.metadata.deletion_timestamp.is_some();
        ContainerStatus {
            restart_count: old.restart_count.saturating_add(i32::from(!deleted)),
            last_state: Some(terminated(vanished(
                STATUS_UNKNOWN,
                "The container could not be located when the pod was deleted.  The container used to be Running",
            ))),
            ..fresh
        }
    }

    /// A container that was killed for its next instance has not ended: the API would take an end for the last word
    /// of one that runs once.
    fn tell_replacing(&self, container: &Container, status: &mut ContainerStatus) {
        if self.inputs.replacing.contains(&container.name)
            && let Some(end) = status.state.take_if(|state| state.terminated.is_some())
        {
            status.last_state = Some(end);
            status.state = Some(self.default_waiting());
        }
    }

    /// A container that the next sync starts is Waiting, with the reason of the last failed attempt.
    fn tell_what_it_waits_for(&self, container: &Container, status: &mut ContainerStatus) {
        let observed = self.inputs.observed;
        let newest = observed.newest_container(&container.name);
        if self.kind == ContainerKind::Init {
            if newest.is_some_and(|newest| newest.state == ObservedState::Exited && newest.exit_code == 0)
                && !is_sidecar(container)
            {
                return;
            }
            let is_waiting = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
            if newest.is_none() && is_waiting && !is_sidecar(container) && self.app_was_created() {
                status.state = Some(terminated(ContainerStateTerminated {
                    reason: text("Completed"),
                    message: text(
                        "Unable to get init container status from container runtime and pod has been \
                         initialized, treat it as exited normally",
                    ),
                    ..ContainerStateTerminated::default()
                }));
                return;
            }
        }
        let reported = match self.kind {
            ContainerKind::App => {
                Some(self.inputs.previous.unwrap_or_else(|| super::api_status(self.inputs.pod)))
            }
            ContainerKind::Init | ContainerKind::Ephemeral => None,
        };
        if self.inputs.ending != Ending::No
            || !restart::is_to_be_started(self.inputs.pod, container, observed, reported)
        {
            return;
        }
        let Some(error) = self.inputs.start_errors.get(&container.name) else { return };
        if let Some(state) = status.state.take_if(|state| state.terminated.is_some()) {
            status.last_state = Some(state);
        }
        status.state = Some(waiting(&error.reason, &error.message));
    }

    /// The API takes no container back that ended for good. One that is run again all the same (an init
    /// container after the sandbox was lost, when the pod restarts only on failure) keeps its end until its
    /// next one.
    fn keep_final_end(
        &self,
        container: &Container,
        old: Option<&ContainerStatus>,
        status: &mut ContainerStatus,
    ) {
        let spec = spec_of(self.inputs.pod);
        if self.kind == ContainerKind::Ephemeral || restart::may_restart_all(spec) {
            return;
        }
        let Some(end) = old.and_then(|old| old.state.as_ref()?.terminated.as_ref()) else { return };
        let ended = status.state.as_ref().is_some_and(|state| state.terminated.is_some());
        if !ended && !restart::runs_again(self.inputs.pod, container, end) {
            status.state = Some(terminated(end.clone()));
            status.last_state = old.and_then(|old| old.last_state.clone());
        }
    }

    /// `started` and `ready`. What does not run is neither; an init container that is done is ready.
    fn judge_readiness(
        &self,
        container: &Container,
        old: Option<&ContainerStatus>,
        status: &mut ContainerStatus,
    ) {
        if self.kind == ContainerKind::Ephemeral {
            return;
        }
        let state = status.state.as_ref();
        let (started, ready) = if state.is_some_and(|state| state.running.is_some()) {
            let verdicts = self.inputs.verdicts;
            let instance = self.inputs.observed.newest_container(&container.name);
            let verdict = instance.map(|instance| verdicts.of(&instance.id)).unwrap_or_default();
            let old = old.filter(|old| old.container_id.is_some() && old.container_id == status.container_id);
            judge_running(container, verdict, verdicts.probing, old)
        } else {
            (false, false)
        };
        status.started = Some(started);
        status.ready = if self.kind == ContainerKind::Init && !is_sidecar(container) {
            state.and_then(|state| state.terminated.as_ref()).is_some_and(|end| end.exit_code == 0)
        } else {
            ready
        };
    }

    fn app_was_created(&self) -> bool {
        spec_of(self.inputs.pod).containers.iter().any(|app| {
            self.inputs
                .observed
                .newest_container(&app.name)
                .is_some_and(|newest| newest.state != ObservedState::Unknown)
        })
    }

    fn default_waiting(&self) -> ContainerState {
        waiting(if self.with_init { "PodInitializing" } else { "ContainerCreating" }, "")
    }

    fn container_id(&self, instance: &ObservedContainer) -> String {
        format!("{}://{}", self.inputs.node.runtime, instance.id)
    }

    fn ended(&self, instance: &ObservedContainer) -> ContainerStateTerminated {
        let written = instance.termination_message.as_deref().unwrap_or_default();
        ContainerStateTerminated {
            container_id: Some(self.container_id(instance)),
            exit_code: instance.exit_code,
            finished_at: instance.finished_at.map(api_time),
            message: text(&crate::termination::join_messages(&instance.message, written)),
            reason: text(&instance.reason),
            signal: signal_of(instance.exit_code, &instance.reason),
            started_at: instance.started_at.map(api_time),
        }
    }

    fn volume_mounts(
        &self,
        container: &Container,
        instance: Option<&ObservedContainer>,
    ) -> Option<Vec<VolumeMountStatus>> {
        let mounts = container.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
        Some(mounts.iter().map(|mount| self.volume_mount(mount, instance)).collect())
    }

    /// The runtime's word on recursive read-only counts; before there is one, what was asked and is possible.
    fn volume_mount(&self, mount: &VolumeMount, instance: Option<&ObservedContainer>) -> VolumeMountStatus {
        let read_only = mount.read_only == Some(true);
        let actual = instance
            .and_then(|instance| instance.mounts.iter().find(|seen| seen.container_path == mount.mount_path));
        let wanted = matches!(mount.recursive_read_only.as_deref(), Some("IfPossible" | "Enabled"));
        let recursive = match actual {
            Some(seen) => seen.recursive_read_only,
            None => wanted && self.inputs.node.recursive_read_only,
        };
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only.then(|| if recursive { "Enabled" } else { "Disabled" }.to_owned()),
            volume_status: None,
        }
    }
}

/// `started` and `ready` of a running container (upstream `UpdatePodStatus` of the prober). `old` is what was reported
/// of the same instance: what the probes of an earlier agent process found out stays valid until a probe says
/// otherwise, so that a restart of the agent flaps nothing.
pub(super) fn judge_running(
    container: &Container,
    verdict: Verdict,
    probing: bool,
    old: Option<&ContainerStatus>,
) -> (bool, bool) {
    let unproven = |has_probe: bool| !(has_probe && probing);
    let started = verdict.started.unwrap_or_else(|| {
        old.and_then(|old| old.started) == Some(true) || unproven(container.startup_probe.is_some())
    });
    let ready = started
        && verdict.ready.unwrap_or_else(|| {
            old.is_some_and(|old| old.ready) || unproven(container.readiness_probe.is_some())
        });
    (started, ready)
}

/// The signal that ended a container, from its exit code: runtimes report the death by signal n as 128 + n and have no
/// field for the signal itself. Upstream leaves `signal` empty, so that everybody has to know this rule. A program may
/// also choose such a code; one that the runtime calls completed has.
fn signal_of(exit_code: i32, reason: &str) -> Option<i32> {
    exit_code.checked_sub(128).filter(|signal| (1..=31).contains(signal) && reason != "Completed")
}

fn running(instance: &ObservedContainer) -> ContainerState {
    let started_at = Some(api_time(instance.started_at.unwrap_or(instance.created_at)));
    ContainerState { running: Some(ContainerStateRunning { started_at }), ..ContainerState::default() }
}

pub(super) fn terminated(end: ContainerStateTerminated) -> ContainerState {
    ContainerState { terminated: Some(end), ..ContainerState::default() }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: text(reason), message: text(message) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

/// The end of a container that nobody saw.
pub(super) fn vanished(reason: &str, message: &str) -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: EXIT_CODE_UNKNOWN,
        reason: text(reason),
        message: text(message),
        ..ContainerStateTerminated::default()
    }
}
