//! Objects that are there without anybody having made them, as values to be created by the controllers.
//!
//! They go through [`super::create`] like all others: no UIDs and times here.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::Settings;
use super::priority_classes::SYSTEM;

/// The ConfigMap with the CA of the API server, in every namespace.
pub const ROOT_CA: &str = "kube-root-ca.crt";
/// The service account of pods that name none, in every namespace.
pub const SERVICE_ACCOUNT: &str = "default";

/// The namespaces that are always there.
pub fn namespaces() -> Vec<Value> {
    ["default", "kube-system", "kube-public", "kube-node-lease"]
        .iter()
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .collect()
}

/// The classes of the system's own pods.
pub fn priority_classes() -> Vec<Value> {
    SYSTEM
        .iter()
        .map(|(name, value)| {
            let text = if *name == "system-node-critical" {
                "For pods of the system that belong to one node and may not be moved from it."
            } else {
                "For pods of the system that have to run, on whichever node."
            };
            json!({
                "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
                "value": value, "description": text,
            })
        })
        .collect()
}

/// The first address of the service network, which is that of the API server.
pub fn kubernetes_address(settings: &Settings) -> Ipv4Addr {
    let (address, length) = settings.service_network;
    let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
    Ipv4Addr::from_bits((address.to_bits() & mask).wrapping_add(1))
}

/// The Service `kubernetes` of the namespace `default`, for an API server that listens on `port`.
pub fn kubernetes_service(settings: &Settings, port: u16) -> Value {
    let address = kubernetes_address(settings).to_string();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "sessionAffinity": "None",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    })
}

/// The default service account of a namespace.
pub fn default_service_account(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": SERVICE_ACCOUNT, "namespace": namespace},
    })
}

/// The ConfigMap that tells the pods of a namespace whom to trust.
pub fn root_ca_config_map(namespace: &str, settings: &Settings) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": ROOT_CA, "namespace": namespace,
            "annotations": {"kubernetes.io/description": "The certificates with which to verify the API server."},
        },
        "data": {"ca.crt": settings.root_ca},
    })
}
