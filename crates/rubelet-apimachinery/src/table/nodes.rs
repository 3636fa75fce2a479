//! Nodes: ready or not, open for pods or not, and what runs on them.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, string};
use super::{Printer, age, cell, cell_or, name, or};
use crate::strategy::value::{entries, items, text};

pub(super) static NODES: Printer = Printer {
    columns: &[
        NAME,
        string("Status", "Whether the node is ready, and open for pods."),
        string("Roles", "The node's roles, by its labels."),
        AGE,
        string("Version", "The Kubernetes version of the node agent."),
        string("Internal-IP", "The node's first address inside the cluster.").wide(),
        string("External-IP", "The node's first address for the world.").wide(),
        string("OS-Image", "The operating system.").wide(),
        string("Kernel-Version", "The kernel, and the architecture it is for.").wide(),
        string("Container-Runtime", "The container runtime and its version.").wide(),
    ],
    cells,
};

fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let info = |field| text(node, &["status", "nodeInfo", field]);
    let mut kernel = or(info("kernelVersion"), "<unknown>").to_owned();
    if !info("architecture").is_empty() {
        kernel = format!("{kernel} ({})", info("architecture"));
    }
    vec![
        name(node),
        json!(status(node)),
        json!(or(&roles(node), "<none>")),
        age(node, now),
        cell(node, &["status", "nodeInfo", "kubeletVersion"]),
        json!(address(node, "InternalIP")),
        json!(address(node, "ExternalIP")),
        cell_or(node, &["status", "nodeInfo", "osImage"], "<unknown>"),
        json!(kernel),
        cell_or(node, &["status", "nodeInfo", "containerRuntimeVersion"], "<unknown>"),
    ]
}

fn status(node: &Value) -> String {
    let ready = items(node, &["status", "conditions"]).iter().rfind(|condition| condition["type"] == "Ready");
    let ready = match ready {
        None => "Unknown",
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
    };
    let closed = if node["spec"]["unschedulable"] == true { ",SchedulingDisabled" } else { "" };
    format!("{ready}{closed}")
}

fn roles(node: &Value) -> String {
    let roles: BTreeSet<&str> = entries(node, &["metadata", "labels"])
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    items(node, &["status", "addresses"])
        .iter()
        .find(|address| address["type"] == kind)
        .map_or("<none>", |address| text(address, &["address"]))
}
