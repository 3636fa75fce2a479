//! How a resize is told: the conditions PodResizePending and PodResizeInProgress, and the texts of events.

use k8s_openapi::api::core::v1::{Pod, PodStatus, ResourceRequirements};

use super::{PodAllocation, ResizeGates};
use crate::containers::{init_containers, spec_of};
use crate::hash::push_go_json_string;

/// Condition of a resize that has not been allocated.
pub const PENDING: &str = "PodResizePending";
/// Condition of one that was allocated and not actuated.
pub const IN_PROGRESS: &str = "PodResizeInProgress";

/// A resize that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingResize {
    /// It can never be given; otherwise it is tried again.
    pub infeasible: bool,
    /// Why.
    pub message: String,
    /// The generation that asks for it.
    pub generation: Option<i64>,
}

impl PendingResize {
    /// Reason of the condition.
    pub fn reason(&self) -> &'static str {
        if self.infeasible { "Infeasible" } else { "Deferred" }
    }
}

/// A resize that is being carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeProgress {
    /// The generation that was allocated.
    pub generation: Option<i64>,
    /// What it fails at.
    pub error: Option<String>,
}

/// What a pod's status tells of its resize.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResizeTold<'a> {
    /// What waits.
    pub pending: Option<&'a PendingResize>,
    /// What is under way.
    pub progress: Option<&'a ResizeProgress>,
    /// What the runtime was told.
    pub actuated: Option<&'a PodAllocation>,
    /// Feature gates.
    pub gates: ResizeGates,
}

/// What a status that was published before says of a resize that waits.
pub fn pending_of(status: &PodStatus) -> Option<PendingResize> {
    let condition = find(status, PENDING)?;
    Some(PendingResize {
        infeasible: condition.reason.as_deref() == Some("Infeasible"),
        message: condition.message.clone().unwrap_or_default(),
        generation: condition.observed_generation,
    })
}

/// What a status that was published before says of a resize under way.
pub fn progress_of(status: &PodStatus) -> Option<ResizeProgress> {
    let condition = find(status, IN_PROGRESS)?;
    let failed = condition.reason.as_deref() == Some("Error");
    let error = failed.then(|| condition.message.clone().unwrap_or_default());
    Some(ResizeProgress { generation: condition.observed_generation, error })
}

fn find<'a>(status: &'a PodStatus, of: &str) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == of && condition.status == "True")
}

/// Reason of the event of a resize that waits.
pub fn pending_event(pending: &PendingResize) -> &'static str {
    if pending.infeasible { "ResizeInfeasible" } else { "ResizeDeferred" }
}

/// The text of an event: the prefix, and what the pod is to have as JSON, field by field as upstream writes it.
pub fn message(prefix: &str, pod: &Pod, generation: Option<i64>, error: &str) -> String {
    let spec = spec_of(pod);
    let mut parts = vec![];
    for (key, list) in [("initContainers", init_containers(spec)), ("containers", &spec.containers)] {
        if list.is_empty() {
            continue;
        }
        let entries: Vec<String> = list
            .iter()
            .map(|container| {
                let mut entry = "{\"name\":".to_owned();
                push_go_json_string(&mut entry, &container.name);
                format!("{entry},\"resources\":{}}}", resources_json(container.resources.as_ref()))
            })
            .collect();
        parts.push(format!("\"{key}\":[{}]", entries.join(",")));
    }
    parts.push(format!("\"generation\":{}", generation.unwrap_or(0)));
    if !error.is_empty() {
        let mut text = "\"error\":".to_owned();
        push_go_json_string(&mut text, error);
        parts.push(text);
    }
    format!("{prefix}: {{{}}}", parts.join(","))
}

fn resources_json(resources: Option<&ResourceRequirements>) -> String {
    let Some(resources) = resources else { return "{}".to_owned() };
    let lists = [("limits", &resources.limits), ("requests", &resources.requests)];
    let parts: Vec<String> = lists
        .into_iter()
        .filter_map(|(key, list)| {
            let list = list.as_ref().filter(|list| !list.is_empty())?;
            // A map of strings always serialises.
            Some(format!("\"{key}\":{}", serde_json::to_string(list).unwrap_or_default()))
        })
        .collect();
    format!("{{{}}}", parts.join(","))
}
