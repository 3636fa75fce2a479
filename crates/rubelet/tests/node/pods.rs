//! Short words for what a pod's status says.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus};

/// A manifest from a name and the YAML of its spec.
pub fn manifest(name: &str, spec: &str) -> String {
    let spec: String = spec.trim_matches('\n').lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n{spec}")
}

/// The pod's status, empty when there is none yet.
pub fn status(pod: &Pod) -> PodStatus {
    pod.status.clone().unwrap_or_default()
}

/// The pod's phase.
pub fn phase(pod: &Pod) -> String {
    status(pod).phase.unwrap_or_default()
}

/// The pod's UID.
pub fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap()
}

/// Every container status, in the order init, app, ephemeral.
pub fn containers(pod: &Pod) -> Vec<ContainerStatus> {
    let status = status(pod);
    [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses]
        .into_iter()
        .flatten()
        .flatten()
        .collect()
}

/// One container's status; an empty one when there is none.
pub fn container(pod: &Pod, name: &str) -> ContainerStatus {
    containers(pod).into_iter().find(|status| status.name == name).unwrap_or_default()
}

/// `running`, `waiting Reason`, `terminated Reason code`, or nothing.
pub fn word(state: Option<&ContainerState>) -> String {
    let Some(state) = state else { return String::new() };
    if state.running.is_some() {
        "running".to_owned()
    } else if let Some(waiting) = &state.waiting {
        format!("waiting {}", waiting.reason.as_deref().unwrap_or_default())
    } else if let Some(ended) = &state.terminated {
        format!("terminated {} {}", ended.reason.as_deref().unwrap_or_default(), ended.exit_code)
    } else {
        String::new()
    }
}

/// A container's state in a word.
pub fn state(pod: &Pod, name: &str) -> String {
    word(container(pod, name).state.as_ref())
}

/// A container's last state in a word.
pub fn last_state(pod: &Pod, name: &str) -> String {
    word(container(pod, name).last_state.as_ref())
}

/// How a container ended.
pub fn ended(pod: &Pod, name: &str) -> ContainerStateTerminated {
    container(pod, name).state.and_then(|state| state.terminated).unwrap_or_default()
}

/// The message of a container that waits.
pub fn waiting_message(pod: &Pod, name: &str) -> String {
    let waiting = container(pod, name).state.and_then(|state| state.waiting);
    waiting.and_then(|waiting| waiting.message).unwrap_or_default()
}

/// Restart count of a container.
pub fn restarts(pod: &Pod, name: &str) -> i32 {
    container(pod, name).restart_count
}

/// A container's ID without its scheme.
pub fn container_id(pod: &Pod, name: &str) -> String {
    let id = container(pod, name).container_id.unwrap_or_default();
    id.strip_prefix("containerd://").unwrap_or_default().to_owned()
}

/// Whether a condition is True.
pub fn condition(pod: &Pod, kind: &str) -> bool {
    status(pod)
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

/// Running and ready.
pub fn ready(pod: &Pod) -> bool {
    phase(pod) == "Running" && condition(pod, "Ready")
}

/// The pod in a line, for failures.
pub fn summary(pod: &Pod) -> String {
    let status = status(pod);
    let mut text = format!(
        "{} {} {}{}",
        pod.metadata.name.as_deref().unwrap_or_default(),
        status.phase.as_deref().unwrap_or("no phase"),
        status.reason.as_deref().unwrap_or_default(),
        status.message.as_deref().map(|message| format!(" ({message})")).unwrap_or_default(),
    );
    for container in containers(pod) {
        text += &format!(
            " | {}: {} (before: {}), {} restarts",
            container.name,
            word(container.state.as_ref()),
            word(container.last_state.as_ref()),
            container.restart_count
        );
        if let Some(message) =
            container.state.and_then(|state| state.waiting).and_then(|waiting| waiting.message)
        {
            text += &format!(": {message}");
        }
    }
    let unmet =
        status.conditions.unwrap_or_default().into_iter().filter(|condition| condition.status != "True");
    text + &unmet.map(|condition| format!(" !{}", condition.type_)).collect::<String>()
}
