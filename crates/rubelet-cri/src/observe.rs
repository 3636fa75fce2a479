//! From the runtime's answers to the agent's vocabulary ([`rubelet_core::observed`]). Pure, and tolerant of
//! garbage: what cannot be understood is reported as a [`Problem`] with the object it is about, and never
//! guessed. Never decides anything. Called by Pleg, which adds the termination messages.
//!
//! A pod is observed whole or not at all: were one of its containers left out, the planner would believe it
//! absent and start it a second time.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use rubelet_core::ids::{ContainerId, PodUid, SandboxId};
use rubelet_core::observed::{
    ContainerFacts, LinuxUser, ObservedContainer, ObservedMount, ObservedPod, ObservedSandbox, ObservedState,
};
use rubelet_core::resize::ActualResources;

use crate::v1;

/// Labels and annotations that `rubelet_core::labels` writes on what the agent creates.
pub mod label {
    pub use rubelet_core::labels::{
        CONTAINER_NAME, HASH as CONTAINER_HASH, POD_DELETION_GRACE_PERIOD as DELETION_GRACE_PERIOD, POD_NAME,
        POD_NAMESPACE, POD_TERMINATION_GRACE_PERIOD as TERMINATION_GRACE_PERIOD, POD_UID, PORTS,
        PRE_STOP_HANDLER, RESTART_COUNT, TERMINATION_MESSAGE_PATH, TERMINATION_MESSAGE_POLICY,
    };
}

/// Something the runtime said that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object} {id}: {what}")]
pub struct Problem {
    /// What kind of object it is about.
    pub object: Object,
    /// Its runtime ID.
    pub id: String,
    /// The pod it belongs to, when that much is known.
    pub pod: Option<PodUid>,
    /// What is wrong with it.
    pub what: String,
    /// Whether the object, and with it its pod, cannot be observed; otherwise only the detail is missing.
    pub fatal: bool,
}

/// Kinds of runtime objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// A pod sandbox.
    Sandbox,
    /// A container.
    Container,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sandbox => "sandbox",
            Self::Container => "container",
        })
    }
}

/// What the two lists of the runtime say, by pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Every pod of which the runtime holds anything.
    pub pods: BTreeMap<PodUid, ListedPod>,
    /// Objects that belong to no known pod, or are malformed.
    pub problems: Vec<Problem>,
}

/// One pod in the lists. Two equal values mean: nothing happened to the pod that a list could show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPod {
    /// UID.
    pub uid: PodUid,
    /// Name, of the newest object that tells.
    pub name: String,
    /// Namespace, of the newest object that tells.
    pub namespace: String,
    /// Sandboxes by ID: whether each is ready.
    pub sandboxes: BTreeMap<SandboxId, bool>,
    /// Containers by ID.
    pub containers: BTreeMap<ContainerId, ListedContainer>,
}

/// One container in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedContainer {
    /// The sandbox it lives in; its full status does not tell.
    pub sandbox_id: SandboxId,
    /// State.
    pub state: ObservedState,
}

impl Listing {
    /// Sorts the answers of ListPodSandbox and ListContainers by pod.
    ///
    /// Containers without a UID label belong to the pod of their sandbox. A pod with a malformed object is left
    /// out of `pods` and named in `problems`: nothing is known of it for sure.
    pub fn observe(sandboxes: &[v1::PodSandbox], containers: &[v1::Container]) -> Self {
        let mut listing = Self::default();
        let mut owner: BTreeMap<&str, PodUid> = BTreeMap::new();
        for sandbox in sandboxes {
            let uid = match sandbox_uid(sandbox.metadata.as_ref(), &sandbox.labels) {
                Some(uid) if !sandbox.id.is_empty() => uid,
                uid => {
                    listing.problem(Object::Sandbox, &sandbox.id, uid, "has no ID or no pod UID");
                    continue;
                }
            };
            owner.insert(&sandbox.id, uid.clone());
            match v1::PodSandboxState::try_from(sandbox.state) {
                Ok(state) => {
                    let pod = listing.pod(&uid, sandbox.metadata.as_ref(), &sandbox.labels);
                    pod.sandboxes
                        .insert(sandbox.id.as_str().into(), state == v1::PodSandboxState::SandboxReady);
                }
                Err(_) => {
                    let what = format!("is in state {}, which is not part of CRI v1", sandbox.state);
                    listing.problem(Object::Sandbox, &sandbox.id, Some(uid), &what);
                }
            }
        }
        for container in containers {
            let labelled = container.labels.get(label::POD_UID).filter(|uid| !uid.is_empty());
            let uid = labelled.map(|uid| PodUid::from(uid.as_str()));
            let uid = match uid.or_else(|| owner.get(container.pod_sandbox_id.as_str()).cloned()) {
                Some(uid) if !container.id.is_empty() => uid,
                uid => {
                    listing.problem(Object::Container, &container.id, uid, "has no ID or no pod UID");
                    continue;
                }
            };
            match state_of(container.state) {
                Ok(state) => {
                    let sandbox_id = container.pod_sandbox_id.as_str().into();
                    let pod = listing.pod(&uid, None, &container.labels);
                    pod.containers
                        .insert(container.id.as_str().into(), ListedContainer { sandbox_id, state });
                }
                Err(what) => listing.problem(Object::Container, &container.id, Some(uid), &what),
            }
        }
        for problem in &listing.problems {
            if let Some(uid) = &problem.pod {
                listing.pods.remove(uid);
            }
        }
        listing
    }

    fn pod(
        &mut self,
        uid: &PodUid,
        metadata: Option<&v1::PodSandboxMetadata>,
        labels: &BTreeMap<String, String>,
    ) -> &mut ListedPod {
        let pod = self.pods.entry(uid.clone()).or_insert_with(|| ListedPod {
            uid: uid.clone(),
            name: String::new(),
            namespace: String::new(),
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
        });
        if pod.name.is_empty() {
            (pod.name, pod.namespace) = name_of(metadata, labels);
        }
        pod
    }

    fn problem(&mut self, object: Object, id: &str, pod: Option<PodUid>, what: &str) {
        self.problems.push(Problem { object, id: id.to_owned(), pod, what: what.to_owned(), fatal: true });
    }
}

/// One pod from the full statuses of what the list named.
///
/// `sandboxes` and `containers` are the answers of PodSandboxStatus and ContainerStatus; an object that was
/// removed since the list was made is simply not among them. Answers about objects the list did not name are
/// ignored. Returns the pod with the details that could not be understood, or, when an object as a whole
/// could not, all problems: the caller then keeps its older observation.
pub fn observe_pod(
    listed: &ListedPod,
    sandboxes: &[v1::PodSandboxStatus],
    containers: &[v1::ContainerStatus],
) -> Result<(ObservedPod, Vec<Problem>), Vec<Problem>> {
    let mut problems = Vec::new();
    let mut pod = ObservedPod::absent(listed.uid.clone());
    pod.name.clone_from(&listed.name);
    pod.namespace.clone_from(&listed.namespace);
    for status in sandboxes {
        if listed.sandboxes.contains_key(&SandboxId::from(status.id.as_str())) {
            pod.sandboxes.extend(observe_sandbox(&listed.uid, status, &mut problems));
        }
    }
    for status in containers {
        if let Some(entry) = listed.containers.get(&ContainerId::from(status.id.as_str())) {
            pod.containers.extend(observe_container(&listed.uid, &entry.sandbox_id, status, &mut problems));
        }
    }
    pod.sort();
    if problems.iter().any(|problem| problem.fatal) { Err(problems) } else { Ok((pod, problems)) }
}

/// The pod an event is about. A hint only: the event's content is not used as an observation.
pub fn pod_of_event(event: &v1::ContainerEventResponse) -> Option<PodUid> {
    let sandbox = event.pod_sandbox_status.as_ref()?;
    sandbox_uid(sandbox.metadata.as_ref(), &sandbox.labels)
}

fn observe_sandbox(
    uid: &PodUid,
    status: &v1::PodSandboxStatus,
    problems: &mut Vec<Problem>,
) -> Option<ObservedSandbox> {
    let mut report = |what: String| {
        let (object, id) = (Object::Sandbox, status.id.clone());
        problems.push(Problem { object, id, pod: Some(uid.clone()), what, fatal: true });
    };
    let Ok(state) = v1::PodSandboxState::try_from(status.state) else {
        report(format!("is in state {}, which is not part of CRI v1", status.state));
        return None;
    };
    let Some(metadata) = &status.metadata else {
        report("has no metadata".to_owned());
        return None;
    };
    let mut ips = Vec::new();
    if let Some(network) = &status.network {
        let more = network.additional_ips.iter().map(|ip| &ip.ip);
        ips.extend(std::iter::once(&network.ip).chain(more).filter(|ip| !ip.is_empty()).cloned());
    }
    let options = status.linux.as_ref().and_then(|l| l.namespaces.as_ref()).and_then(|n| n.options.as_ref());
    Some(ObservedSandbox {
        id: status.id.as_str().into(),
        attempt: metadata.attempt,
        created_at: timestamp_of(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        ready: state == v1::PodSandboxState::SandboxReady,
        ips,
        host_network: options.is_some_and(|o| o.network == v1::NamespaceMode::Node as i32),
        annotations: status.annotations.clone(),
        runtime_handler: status.runtime_handler.clone(),
    })
}

fn observe_container(
    uid: &PodUid,
    sandbox_id: &SandboxId,
    status: &v1::ContainerStatus,
    problems: &mut Vec<Problem>,
) -> Option<ObservedContainer> {
    let mut report = |what: String, fatal: bool| {
        let (object, id) = (Object::Container, status.id.clone());
        problems.push(Problem { object, id, pod: Some(uid.clone()), what, fatal });
    };
    let state = match state_of(status.state) {
        Ok(state) => state,
        Err(what) => {
            report(what, true);
            return None;
        }
    };
    // Upstream goes by the label; it and the metadata say the same unless another client made the container.
    let labelled = status.labels.get(label::CONTAINER_NAME).filter(|name| !name.is_empty());
    let name = labelled.or(status.metadata.as_ref().map(|m| &m.name)).filter(|name| !name.is_empty());
    let Some(name) = name.cloned() else {
        report("has no container name".to_owned(), true);
        return None;
    };
    let attempt = status.metadata.as_ref().map_or(0, |m| m.attempt);
    let facts = facts_of(&status.annotations, attempt, |what| report(what, false));
    let user = status.user.as_ref().and_then(|u| u.linux.as_ref()).map(|user| LinuxUser {
        uid: user.uid,
        gid: user.gid,
        supplemental_groups: user.supplemental_groups.clone(),
    });
    let mounts = status.mounts.iter().map(|mount| ObservedMount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        read_only: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
    });
    let started_at = timestamp_of(status.started_at);
    Some(ObservedContainer {
        id: status.id.as_str().into(),
        name,
        sandbox_id: sandbox_id.clone(),
        attempt,
        state,
        created_at: timestamp_of(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        started_at,
        // containerd takes the start time after the start: a container that ends at once ends before it.
        finished_at: timestamp_of(status.finished_at)
            .map(|end| started_at.map_or(end, |start| end.max(start))),
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message: status.message.clone(),
        image: status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default(),
        image_ref: status.image_ref.clone(),
        image_id: status.image_id.clone(),
        facts,
        user,
        resources: status.resources.as_ref().and_then(|r| r.linux.as_ref()).map(actual_resources),
        mounts: mounts.collect(),
        log_path: status.log_path.clone(),
        termination_message: None,
    })
}

/// Reads what the agent wrote on a container. A value that does not parse counts as absent.
fn facts_of(
    annotations: &BTreeMap<String, String>,
    attempt: u32,
    mut report: impl FnMut(String),
) -> ContainerFacts {
    let text = |key: &str| annotations.get(key).cloned();
    let mut parsed = |key: &str, radix: Radix| {
        let value = annotations.get(key)?;
        let number = match radix {
            Radix::Decimal => value.parse::<i64>().ok(),
            Radix::Hexadecimal => i64::from_str_radix(value, 16).ok(),
        };
        if number.is_none() {
            report(format!("annotation {key} has the value {value:?}, which is not a number"));
        }
        number
    };
    ContainerFacts {
        hash: parsed(label::CONTAINER_HASH, Radix::Hexadecimal).and_then(|n| u32::try_from(n).ok()),
        restart_count: parsed(label::RESTART_COUNT, Radix::Decimal)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(attempt),
        pod_deletion_grace_period: parsed(label::DELETION_GRACE_PERIOD, Radix::Decimal),
        pod_termination_grace_period: parsed(label::TERMINATION_GRACE_PERIOD, Radix::Decimal),
        termination_message_path: text(label::TERMINATION_MESSAGE_PATH).unwrap_or_default(),
        termination_message_policy: text(label::TERMINATION_MESSAGE_POLICY).unwrap_or_default(),
        pre_stop_handler: text(label::PRE_STOP_HANDLER),
        ports: text(label::PORTS),
    }
}

enum Radix {
    Decimal,
    Hexadecimal,
}

fn state_of(state: i32) -> Result<ObservedState, String> {
    match v1::ContainerState::try_from(state) {
        Ok(v1::ContainerState::ContainerCreated) => Ok(ObservedState::Created),
        Ok(v1::ContainerState::ContainerRunning) => Ok(ObservedState::Running),
        Ok(v1::ContainerState::ContainerExited) => Ok(ObservedState::Exited),
        Ok(v1::ContainerState::ContainerUnknown) => Ok(ObservedState::Unknown),
        // Not taken for Unknown: a container in that state is killed, and this one may be healthy.
        Err(_) => Err(format!("is in state {state}, which is not part of CRI v1")),
    }
}

/// Nanoseconds since the epoch. Zero means it has not happened; CRI-O says the same with the year 1, which
/// does not fit and arrives as some negative number.
fn timestamp_of(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds <= 0 {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
}

fn sandbox_uid(
    metadata: Option<&v1::PodSandboxMetadata>,
    labels: &BTreeMap<String, String>,
) -> Option<PodUid> {
    let labelled = labels.get(label::POD_UID).map(String::as_str);
    let uid = metadata.map(|m| m.uid.as_str()).filter(|uid| !uid.is_empty()).or(labelled)?;
    (!uid.is_empty()).then(|| uid.into())
}

fn name_of(metadata: Option<&v1::PodSandboxMetadata>, labels: &BTreeMap<String, String>) -> (String, String) {
    match metadata {
        Some(metadata) if !metadata.name.is_empty() => (metadata.name.clone(), metadata.namespace.clone()),
        _ => {
            let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
            (label(label::POD_NAME), label(label::POD_NAMESPACE))
        }
    }
}

/// What a container has, as far as it can be resized.
fn actual_resources(linux: &v1::LinuxContainerResources) -> ActualResources {
    ActualResources {
        cpu_shares: linux.cpu_shares,
        cpu_quota: linux.cpu_quota,
        cpu_period: linux.cpu_period,
        memory_limit: linux.memory_limit_in_bytes,
    }
}

#[cfg(test)]
mod tests;
