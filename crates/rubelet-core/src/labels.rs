//! Labels and annotations the agent writes on sandboxes and containers.
//!
//! Owns the names (upstream `kuberuntime/labels.go`), which make containers of an upstream kubelet and ours
//! interchangeable. Nothing else writes these keys; `rubelet_cri::observe` reads them back.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::containers::spec_of;
use crate::hash::{container_hash, go_escaped_json};

/// Label: name of the pod.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: namespace of the pod.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: UID of the pod.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label: name of the container.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Annotation: hash of the container's spec, hexadecimal.
pub const HASH: &str = "io.kubernetes.container.hash";
/// Annotation: restart count of this instance.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: path of the termination message in the container.
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: `File` or `FallbackToLogsOnError`.
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: the preStop handler as JSON.
pub const PRE_STOP_HANDLER: &str = "io.kubernetes.container.preStopHandler";
/// Annotation: the container's ports as JSON.
pub const PORTS: &str = "io.kubernetes.container.ports";
/// Annotation: `deletionGracePeriodSeconds` of the pod.
pub const POD_DELETION_GRACE_PERIOD: &str = "io.kubernetes.pod.deletionGracePeriod";
/// Annotation: `terminationGracePeriodSeconds` of the pod.
pub const POD_TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";

type Map = BTreeMap<String, String>;

/// Labels of a sandbox: the pod's own, and who it is.
pub fn sandbox_labels(pod: &Pod) -> Map {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity(pod));
    labels
}

/// Annotations of a sandbox: the pod's own.
pub fn sandbox_annotations(pod: &Pod) -> Map {
    pod.metadata.annotations.clone().unwrap_or_default()
}

/// Labels of a container: whose it is. The pod's own labels are not on it.
pub fn container_labels(pod: &Pod, container: &Container) -> Map {
    let mut labels = Map::from(identity(pod));
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    labels
}

/// Annotations of a container: all that is needed to judge and to kill it without its spec. What device plugins
/// ask for goes in first, so that it cannot override.
pub fn container_annotations(pod: &Pod, container: &Container, restart_count: u32, devices: &Map) -> Map {
    let mut annotations = devices.clone();
    let mut set = |key: &str, value: String| annotations.insert(key.to_owned(), value);
    set(HASH, format!("{:x}", container_hash(container)));
    set(RESTART_COUNT, restart_count.to_string());
    set(TERMINATION_MESSAGE_PATH, container.termination_message_path.clone().unwrap_or_default());
    set(TERMINATION_MESSAGE_POLICY, container.termination_message_policy.clone().unwrap_or_default());
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        set(POD_DELETION_GRACE_PERIOD, seconds.to_string());
    }
    if let Some(seconds) = spec_of(pod).termination_grace_period_seconds {
        set(POD_TERMINATION_GRACE_PERIOD, seconds.to_string());
    }
    let pre_stop = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(json) = pre_stop.and_then(|handler| serde_json::to_string(handler).ok()) {
        set(PRE_STOP_HANDLER, go_escaped_json(&json));
    }
    let ports = container.ports.as_ref().filter(|ports| !ports.is_empty());
    if let Some(json) = ports.and_then(|ports| serde_json::to_string(ports).ok()) {
        set(PORTS, go_escaped_json(&json));
    }
    annotations
}

fn identity(pod: &Pod) -> [(String, String); 3] {
    let metadata = &pod.metadata;
    [(POD_NAME, &metadata.name), (POD_NAMESPACE, &metadata.namespace), (POD_UID, &metadata.uid)]
        .map(|(key, value)| (key.to_owned(), value.clone().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "deletionGracePeriodSeconds": 5,
                "labels": {"app": "a", "io.kubernetes.pod.name": "forged"}, "annotations": {"k": "v"}},
            "spec": {"terminationGracePeriodSeconds": 30, "containers": []},
        }))
        .unwrap()
    }

    fn container() -> Container {
        serde_json::from_value(json!({
            "name": "test_container", "image": "foo/image:v1",
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "a && b > c"]}}},
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
        }))
        .unwrap()
    }

    fn lines(map: &Map) -> Vec<String> {
        map.iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    #[test]
    fn sandboxes_carry_the_pods_labels_and_its_true_identity() {
        assert_eq!(
            lines(&sandbox_labels(&pod())),
            [
                "app=a",
                "io.kubernetes.pod.name=web",
                "io.kubernetes.pod.namespace=shop",
                "io.kubernetes.pod.uid=u-1"
            ]
        );
        assert_eq!(lines(&sandbox_annotations(&pod())), ["k=v"]);
    }

    #[test]
    fn containers_carry_all_that_judges_and_kills_them() {
        assert_eq!(
            lines(&container_labels(&pod(), &container())),
            [
                "io.kubernetes.container.name=test_container",
                "io.kubernetes.pod.name=web",
                "io.kubernetes.pod.namespace=shop",
                "io.kubernetes.pod.uid=u-1"
            ]
        );
        let devices = Map::from([("vendor".into(), "x".into()), (HASH.into(), "0".into())]);
        assert_eq!(
            lines(&container_annotations(&pod(), &container(), 3, &devices)),
            [
                "io.kubernetes.container.hash=8e45cbd0",
                "io.kubernetes.container.ports=[{\"containerPort\":80,\"protocol\":\"TCP\"}]",
                "io.kubernetes.container.preStopHandler={\"exec\":{\"command\":[\"sh\",\"-c\",\"a \\u0026\\u0026 b \\u003e c\"]}}",
                "io.kubernetes.container.restartCount=3",
                "io.kubernetes.container.terminationMessagePath=/dev/termination-log",
                "io.kubernetes.container.terminationMessagePolicy=File",
                "io.kubernetes.pod.deletionGracePeriod=5",
                "io.kubernetes.pod.terminationGracePeriod=30",
                "vendor=x"
            ]
        );
    }
}
