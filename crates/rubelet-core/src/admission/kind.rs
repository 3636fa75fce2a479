//! What kind of pod a pod is: static, mirror, critical.
//!
//! Owns the annotations and the priority that tell (upstream `kubelet/types/pod_update.go`).

use k8s_openapi::api::core::v1::Pod;

use crate::containers::spec_of;
use crate::static_pod::{CONFIG_MIRROR_ANNOTATION, CONFIG_SOURCE_ANNOTATION};

const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether a pod came from a file or URL instead of the API.
pub fn is_static_pod(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE_ANNOTATION).is_some_and(|source| source != "api")
}

/// Whether a pod is the API's image of a static pod.
pub fn is_mirror_pod(pod: &Pod) -> bool {
    annotation(pod, CONFIG_MIRROR_ANNOTATION).is_some()
}

/// Whether a pod is critical: static, a mirror, or of system priority.
pub fn is_critical_pod(pod: &Pod) -> bool {
    is_static_pod(pod)
        || is_mirror_pod(pod)
        || spec_of(pod).priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL_PRIORITY)
}

/// Whether a critical pod is critical for this node: its containers are the last to be killed for memory.
pub fn is_node_critical_pod(pod: &Pod) -> bool {
    is_critical_pod(pod) && spec_of(pod).priority_class_name.as_deref() == Some("system-node-critical")
}
