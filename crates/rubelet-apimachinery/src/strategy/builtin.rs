//! Objects that are there without anybody having made them, as values to be created by the controllers.
//!
//! They go through [`super::create`] like all others: no UIDs and times here.

use std::net::IpAddr;

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

/// Name and namespace of the Service of the API itself.
pub const API_SERVICE: (&str, &str) = ("kubernetes", "default");

/// The Service of an API server that pods find at this address and port. Nothing translates addresses on a node of its
/// own, so its cluster IP is the address itself, and need not be one of the service network.
pub fn kubernetes_service(address: IpAddr, port: u16) -> Value {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": API_SERVICE.0, "namespace": API_SERVICE.1,
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "sessionAffinity": "None",
            "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": port, "protocol": "TCP", "targetPort": port}],
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
