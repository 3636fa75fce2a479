//! What an evicted pod is told, in upstream's words and with the numbers used.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};

use crate::containers::{regular_containers, spec_of};
use crate::node::pressure::{Observation, Signal, Threshold};
use crate::quantity::{Amount, Format, listed};
use crate::stats::usage::{ContainerUsage, PodUsage};

/// Why a pod was evicted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// For status, condition and event.
    pub message: String,
    /// For the event.
    pub annotations: BTreeMap<String, String>,
}

/// Explains the eviction of a pod (upstream `evictionMessage`).
pub fn explain(pod: &PodUsage, threshold: &Threshold, observation: Observation) -> Explanation {
    let resource = threshold.signal.resource();
    let format = format_of(threshold.signal);
    let limit = threshold.value.of(observation.capacity);
    let available = Amount::units(observation.available, format);
    let mut message = format!(
        "The node was low on resource: {resource}. Threshold quantity: {limit}, available: {available}. "
    );
    let mut annotations = BTreeMap::new();
    let of_pod = spec_of(&pod.pod).resources.as_ref();
    if resource == "memory"
        && let Some(request) = requested(of_pod, resource)
        && let Some(memory) = pod.group.as_ref().and_then(|group| group.memory.as_ref())
    {
        let (name, usage) =
            (pod.pod.metadata.name.as_deref().unwrap_or_default(), amount(memory.working_set));
        message += &format!(
            "Pod {name} was using {usage}, request is {request}, has larger consumption of {resource}. "
        );
        annotations.insert("offending_pod".to_owned(), name.to_owned());
        annotations.insert("offending_pod_usage".to_owned(), usage.to_string());
    }
    let mut offending: Vec<(&str, String)> = Vec::new();
    for used in &pod.containers {
        let spec = regular_containers(spec_of(&pod.pod)).find(|container| container.name == used.name);
        let Some((container, usage)) = spec.zip(usage(used, resource)) else { continue };
        let request = request(container, resource);
        if usage > request {
            message += &format!(
                "Container {} was using {usage}, request is {request}, has larger consumption of {resource}. ",
                container.name
            );
            offending.push((&container.name, usage.to_string()));
        }
    }
    let joined =
        |pick: fn(&(&str, String)) -> String| offending.iter().map(pick).collect::<Vec<_>>().join(",");
    annotations.insert("offending_containers".to_owned(), joined(|(name, _)| (*name).to_owned()));
    annotations.insert("offending_containers_usage".to_owned(), joined(|(_, usage)| usage.clone()));
    annotations.insert("starved_resource".to_owned(), resource.to_owned());
    Explanation { message, annotations }
}

fn format_of(signal: Signal) -> Format {
    match signal.resource() {
        "memory" | "ephemeral-storage" => Format::BinarySi,
        _ => Format::DecimalSi,
    }
}

fn amount(bytes: u64) -> Amount {
    Amount::units(i64::try_from(bytes).unwrap_or(i64::MAX), Format::BinarySi)
}

fn requested(resources: Option<&ResourceRequirements>, resource: &str) -> Option<Amount> {
    listed(resources?.requests.as_ref(), resource)
}

fn request(container: &Container, resource: &str) -> Amount {
    requested(container.resources.as_ref(), resource).unwrap_or(Amount::ZERO)
}

/// What a container uses, where that is told of single containers.
fn usage(container: &ContainerUsage, resource: &str) -> Option<Amount> {
    match resource {
        "memory" => Some(amount(container.group.as_ref()?.memory.as_ref()?.working_set)),
        "ephemeral-storage" => {
            let (layer, logs) = (container.rootfs.as_ref()?.used?, container.logs.as_ref()?.used?);
            Some(amount(layer.saturating_add(logs)))
        }
        _ => None,
    }
}
