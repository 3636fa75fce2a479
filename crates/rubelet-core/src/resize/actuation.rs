//! From what the runtime was told to what was allocated: which containers are updated in which order, which are
//! restarted, and when the pod's own cgroup follows (upstream `computePodResizeAction`, `doPodResizeAction`).

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::actual::Matches;
use super::{PodAllocation, RESOURCES, ResizeGates, same_resources};
use crate::containers::{init_containers, is_sidecar, spec_of};
use crate::ids::ContainerId;
use crate::observed::{ObservedPod, ObservedState};
use crate::plan::{ContainerKind, KillContainer, KillReason, PodPlan, StartContainer};
use crate::quantity::{Amount, Format, listed};
use crate::resources::ResourceFacts;

/// CPU in thousandths and memory in bytes; zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Requested CPU.
    pub cpu_request: i64,
    /// Limit of CPU; the pod's where the container has none.
    pub cpu_limit: i64,
    /// Requested memory.
    pub memory_request: i64,
    /// Limit of memory; the pod's where the container has none.
    pub memory_limit: i64,
}

impl Settings {
    /// What a container gets by its own resources and those of its pod.
    pub fn of(own: Option<&ResourceRequirements>, of_pod: Option<&ResourceRequirements>) -> Self {
        let limits = own.and_then(|r| r.limits.as_ref());
        let requests = own.and_then(|r| r.requests.as_ref());
        let pods = of_pod.and_then(|r| r.limits.as_ref());
        let amount = |list, name: &str| listed(list, name).filter(|amount| !amount.is_zero());
        let limit = |name: &str| amount(limits, name).or_else(|| amount(pods, name)).unwrap_or(Amount::ZERO);
        let request = |name: &str| amount(requests, name).unwrap_or(Amount::ZERO);
        Self {
            cpu_request: request("cpu").milli_value(),
            cpu_limit: limit("cpu").milli_value(),
            memory_request: request("memory").value(),
            memory_limit: limit("memory").value(),
        }
    }

    /// The container's resources with these values for CPU and memory; others stay as they are.
    pub fn over(self, resources: Option<&ResourceRequirements>) -> ResourceRequirements {
        let mut resources = resources.cloned().unwrap_or_default();
        let limits = resources.limits.get_or_insert_default();
        set(limits, "cpu", Amount::milli(self.cpu_limit, Format::DecimalSi));
        set(limits, "memory", Amount::units(self.memory_limit, Format::BinarySi));
        let requests = resources.requests.get_or_insert_default();
        set(requests, "cpu", Amount::milli(self.cpu_request, Format::DecimalSi));
        set(requests, "memory", Amount::units(self.memory_request, Format::BinarySi));
        resources.limits = resources.limits.filter(|list| !list.is_empty());
        resources.requests = resources.requests.filter(|list| !list.is_empty());
        resources
    }

    /// These values with CPU from another set.
    pub fn with_cpu_of(self, other: Self) -> Self {
        Self { cpu_request: other.cpu_request, cpu_limit: other.cpu_limit, ..self }
    }
}

fn set(list: &mut std::collections::BTreeMap<String, Quantity>, name: &str, amount: Amount) {
    if amount.is_zero() {
        list.remove(name);
    } else {
        list.insert(name.to_owned(), amount.to_quantity());
    }
}

/// A running container whose resources change in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUpdate {
    /// Runtime ID.
    pub id: ContainerId,
    /// Container name.
    pub name: String,
    /// What the runtime was told last.
    pub current: Settings,
    /// What it is to have.
    pub wanted: Settings,
}

/// A running container that has to be started anew to be resized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartedContainer {
    /// Runtime ID of the instance that runs.
    pub id: ContainerId,
    /// List it stands in.
    pub kind: ContainerKind,
    /// Index in that list.
    pub index: usize,
    /// Container name.
    pub name: String,
}

/// What it takes to give a pod what was allocated to it. Memory comes before CPU; of each resource the containers that
/// get less come before those that get more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizePlan {
    /// Containers whose memory changes.
    pub memory: Vec<ContainerUpdate>,
    /// Containers whose CPU changes.
    pub cpu: Vec<ContainerUpdate>,
    /// Containers that are restarted for it.
    pub restart: Vec<RestartedContainer>,
    /// Resources of the pod itself change.
    pub pod_level: bool,
    /// Running containers of which nobody knows what they were given, and that have what was allocated: this only has
    /// to be written down.
    pub adopt: Vec<String>,
}

impl ResizePlan {
    /// Whether something has to be done to the pod.
    pub fn in_progress(&self) -> bool {
        !self.memory.is_empty() || !self.cpu.is_empty() || !self.restart.is_empty() || self.pod_level
    }

    /// Whether the pod's cgroup may have to change with its memory, or with its CPU.
    pub fn touches_group(&self, memory: bool) -> bool {
        let updates = if memory { &self.memory } else { &self.cpu };
        !updates.is_empty() || !self.restart.is_empty() || self.pod_level
    }
}

/// What a [`ResizePlan`] depends on.
#[derive(Clone, Copy)]
pub struct Resizing<'a> {
    /// The pod with its allocated resources.
    pub pod: &'a Pod,
    /// What the runtime holds.
    pub observed: &'a ObservedPod,
    /// What the runtime was told of this pod, as far as it is known.
    pub actuated: Option<&'a PodAllocation>,
    /// Feature gates.
    pub gates: ResizeGates,
    /// What container resources are computed from.
    pub resources: &'a ResourceFacts,
}

/// Adds to a pod's plan what it takes to resize it. A pod that gets a new sandbox, ends or starts over gets what was
/// allocated with its new containers.
pub fn extend_plan(plan: &mut PodPlan, resizing: &Resizing<'_>) {
    if plan.kill_pod || plan.create_sandbox.is_some() || plan.pod_done || plan.restarting_all {
        return;
    }
    let mut resize = ResizePlan::default();
    let spec = spec_of(resizing.pod);
    let inits = init_containers(spec).iter().enumerate().map(|(index, c)| (ContainerKind::Init, index, c));
    let apps = spec.containers.iter().enumerate().map(|(index, c)| (ContainerKind::App, index, c));
    for (kind, index, container) in inits.chain(apps) {
        let fixed = kind == ContainerKind::Init && !resizing.gates.init_containers && !is_sidecar(container);
        let dies = plan.kill.iter().any(|kill| kill.name == container.name);
        if !fixed && !dies {
            plan_container(&mut resize, resizing, kind, index, container);
        }
    }
    resize.pod_level = pod_level_changes(resizing);
    for restart in &resize.restart {
        plan.kill.push(KillContainer {
            id: restart.id.clone(),
            name: restart.name.clone(),
            reason: KillReason::Resize,
            message: format!("Container {} resize requires restart", restart.name),
        });
        if !plan.start.iter().any(|start| start.name == restart.name) {
            plan.start.push(StartContainer {
                kind: restart.kind,
                index: restart.index,
                name: restart.name.clone(),
                restart_since: None,
            });
        }
    }
    plan.start.sort_by_key(|start| (start.kind, start.index));
    plan.resize = resize;
}

fn plan_container(
    resize: &mut ResizePlan,
    resizing: &Resizing<'_>,
    kind: ContainerKind,
    index: usize,
    container: &Container,
) {
    let newest = resizing.observed.newest_container(&container.name);
    let Some(running) = newest.filter(|newest| newest.state == ObservedState::Running) else { return };
    let gates = resizing.gates;
    let own = spec_of(resizing.pod).resources.as_ref().filter(|_| gates.pod_level);
    let wanted = Settings::of(container.resources.as_ref(), own);
    let known = resizing.actuated.and_then(|actuated| actuated.containers.get(&container.name));
    let (current, may_restart) = match known {
        Some(known) => {
            let pods =
                resizing.actuated.and_then(|actuated| actuated.pod.as_ref()).filter(|_| gates.pod_level);
            (Settings::of(Some(known), pods), true)
        }
        // Its record is lost, or an agent without one started it. What the runtime reports says what it has; where it
        // reports nothing, it has what was allocated. Nothing is restarted for want of a record.
        None => match running.resources.as_ref() {
            Some(actual) => match actual.compare(resizing.pod, container, resizing.resources) {
                Matches::Yes => {
                    resize.adopt.push(container.name.clone());
                    return;
                }
                Matches::No => (actual.settings(wanted), false),
            },
            None => {
                resize.adopt.push(container.name.clone());
                return;
            }
        },
    };
    if current == wanted {
        return;
    }
    let memory_changes =
        (current.memory_limit, current.memory_request) != (wanted.memory_limit, wanted.memory_request);
    let cpu_changes = (current.cpu_limit, current.cpu_request) != (wanted.cpu_limit, wanted.cpu_request);
    let restarts = |resource: &str| {
        let policy = container.resize_policy.iter().flatten().find(|policy| policy.resource_name == resource);
        policy.is_some_and(|policy| policy.restart_policy == "RestartContainer")
    };
    if may_restart && (memory_changes && restarts("memory") || cpu_changes && restarts("cpu")) {
        let name = container.name.clone();
        resize.restart.push(RestartedContainer { id: running.id.clone(), kind, index, name });
        return;
    }
    let update = || ContainerUpdate { id: running.id.clone(), name: container.name.clone(), current, wanted };
    // Less before more, so that together they never have more than before or after.
    let mut add = |list: fn(&mut ResizePlan) -> &mut Vec<ContainerUpdate>, shrinks: bool| {
        let list = list(resize);
        list.insert(if shrinks { 0 } else { list.len() }, update());
    };
    let key = |limit: (i64, i64), request: (i64, i64)| if limit.0 == limit.1 { request } else { limit };
    if memory_changes {
        let (was, is) =
            key((current.memory_limit, wanted.memory_limit), (current.memory_request, wanted.memory_request));
        add(|resize| &mut resize.memory, is < was);
    }
    if cpu_changes {
        let (was, is) = key((current.cpu_limit, wanted.cpu_limit), (current.cpu_request, wanted.cpu_request));
        add(|resize| &mut resize.cpu, is < was);
    }
}

fn pod_level_changes(resizing: &Resizing<'_>) -> bool {
    let Some(allocated) = &spec_of(resizing.pod).resources else { return false };
    let Some(actuated) = resizing.actuated.and_then(|actuated| actuated.pod.as_ref()) else { return false };
    let only = |resources: &ResourceRequirements| {
        let mut resources = resources.clone();
        for list in [&mut resources.requests, &mut resources.limits].into_iter().flatten() {
            list.retain(|name, _| RESOURCES.contains(&name.as_str()));
        }
        resources
    };
    let runs = resizing.observed.may_run();
    resizing.gates.pod_level && runs && !same_resources(Some(&only(allocated)), Some(&only(actuated)))
}

/// Limit and request of a pod's cgroup: bytes of memory, or quota and shares. A limit that is not above zero is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupValues {
    /// The limit.
    pub limit: i64,
    /// What stands for the request.
    pub request: i64,
}

/// A part of a pod's cgroup that is written by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodGroupPart {
    /// The limit.
    Limit,
    /// What stands for the request.
    Request,
}

/// What of a pod's cgroup is written before its containers are updated, and what after: what grows makes room first, the
/// limit before the request; what shrinks follows, the request before the limit.
pub fn group_steps(current: GroupValues, wanted: GroupValues) -> (Vec<PodGroupPart>, Vec<PodGroupPart>) {
    let limit = |values: GroupValues| if values.limit > 0 { values.limit } else { i64::MAX };
    let (mut before, mut after) = (vec![], vec![]);
    if limit(wanted) > limit(current) {
        before.push(PodGroupPart::Limit);
    }
    if wanted.request > current.request {
        before.push(PodGroupPart::Request);
    }
    if wanted.request < current.request {
        after.push(PodGroupPart::Request);
    }
    if limit(wanted) < limit(current) {
        after.push(PodGroupPart::Limit);
    }
    (before, after)
}
