//! The PodTopologyLabels plugin: a pod that has its node carries the node's zone and region.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::super::Change;
use super::text;
use crate::kinds;

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Labels a new pod that names its node.
pub(super) fn admit(change: &Change<'_>, pod: &mut Pod) {
    let node = text(&super::spec(pod).node_name).to_owned();
    if !node.is_empty() {
        let labels = of_node(change, &node);
        if !labels.is_empty() {
            pod.metadata.labels.get_or_insert_default().extend(labels);
        }
    }
}

/// The labels that a pod on this node carries; none if there is no such node.
pub(super) fn of_node(change: &Change<'_>, node: &str) -> BTreeMap<String, String> {
    let node = kinds::find("", "v1", "nodes").and_then(|nodes| change.lookup.get(nodes, "", node));
    let Some(node) = node else { return BTreeMap::new() };
    let label = |key: &str| Some((key.to_owned(), node["metadata"]["labels"][key].as_str()?.to_owned()));
    LABELS.into_iter().filter_map(label).collect()
}
