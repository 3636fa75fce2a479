//! What makes a manifest's pod this node's static pod.
//!
//! Owns names, annotations, the toleration and the small conversions that every pod goes through upstream
//! before it is hashed. Never computes the UID (the parent does) and never validates.

use k8s_openapi::api::core::v1::{Pod, PodIP, Toleration};

use super::{NodeIdentity, Origin};

/// The hash of a static pod's manifest: its UID.
pub const CONFIG_HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// The source a pod came from: `file`, `http` or `api`.
pub const CONFIG_SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// When this agent first saw the pod, in RFC 3339 with nanoseconds.
pub const CONFIG_SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";
/// On a mirror pod: the hash of the static pod it shows.
pub const CONFIG_MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Annotations of clients from before init containers had a field; dropped from every pod.
const OLD_INIT_CONTAINER_ANNOTATIONS: [&str; 4] = [
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

/// What upstream's conversion between v1 and internal objects does to any pod, in an API server as on a node.
pub fn convert(pod: &mut Pod) {
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.retain(|key, _| !OLD_INIT_CONTAINER_ANNOTATIONS.contains(&key.as_str()));
    }
    if let Some(spec) = &mut pod.spec {
        if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
            spec.termination_grace_period_seconds = Some(1);
        }
        let named = |name: &Option<String>| name.as_deref().is_some_and(|name| !name.is_empty());
        if !named(&spec.service_account_name) && named(&spec.service_account) {
            spec.service_account_name = spec.service_account.clone();
        }
        spec.service_account = spec.service_account_name.clone();
    }
    if let Some(status) = &mut pod.status {
        let first = status.pod_ips.as_ref().and_then(|ips| ips.first()).map(|ip| ip.ip.clone());
        match status.pod_ip.as_ref().filter(|ip| !ip.is_empty()) {
            Some(ip) if first.as_ref() != Some(ip) => status.pod_ips = Some(vec![PodIP { ip: ip.clone() }]),
            Some(_) => {}
            None => status.pod_ip = first,
        }
    }
}

/// Gives the pod its place on the node. The UID has to be set.
pub(super) fn bind(pod: &mut Pod, origin: &Origin, node: &NodeIdentity) {
    let metadata = &mut pod.metadata;
    let name = metadata.name.take().unwrap_or_default();
    metadata.name = Some(format!("{name}-{}", node.name.to_lowercase()));
    if metadata.namespace.as_deref().unwrap_or_default().is_empty() {
        metadata.namespace = Some("default".into());
    }
    let uid = metadata.uid.clone().unwrap_or_default();
    metadata.annotations.get_or_insert_default().insert(CONFIG_HASH_ANNOTATION.into(), uid);

    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node.name.clone());
    if matches!(origin, Origin::File(_)) {
        tolerate_no_execute(spec.tolerations.get_or_insert_default());
    }
    pod.status.get_or_insert_default().phase = Some("Pending".into());
}

/// Node problems must not evict what keeps the node alive.
fn tolerate_no_execute(tolerations: &mut Vec<Toleration>) {
    let wanted = Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let identity = |t: &Toleration| (text(&t.key), text(&t.effect), text(&t.operator), text(&t.value));
    let mut found = false;
    for toleration in tolerations.iter_mut().filter(|toleration| identity(toleration) == identity(&wanted)) {
        *toleration = wanted.clone();
        found = true;
    }
    if !found {
        tolerations.push(wanted);
    }
}

/// Notes on a pod which source delivered it (`file`, `http`, `api`) and when it was first seen.
///
/// The time is set only once: a pod that is already marked keeps it.
pub fn mark(pod: &mut Pod, source: &str, now: jiff::Timestamp) {
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_SOURCE_ANNOTATION.into(), source.to_owned());
    annotations.entry(CONFIG_SEEN_ANNOTATION.into()).or_insert_with(|| now.to_string());
}
