//! Which pods, containers and interfaces of a reading documents tell of. Called by `summary`, `resource` and `cadvisor`.

use std::collections::BTreeMap;

use super::usage::{ContainerUsage, InterfaceUsage, NetworkUsage, NodeUsage, PodUsage};

/// A pod that is told of, and its running containers, each name once.
pub(super) struct ToldPod<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) usage: &'a PodUsage,
    pub(super) containers: Vec<&'a ContainerUsage>,
}

/// Pods with a running container, by namespace and name. Of several with the same name (one ends while another with a
/// new UID has started) the newest is told of, because documents tell pods apart by name; upstream's
/// `removeTerminatedPods` and `removeTerminatedContainers` are for the same.
pub(super) fn pods(usage: &NodeUsage) -> Vec<ToldPod<'_>> {
    let mut newest: BTreeMap<(&str, &str), &PodUsage> = BTreeMap::new();
    for pod in usage.pods.iter().filter(|pod| !pod.containers.is_empty()) {
        let told = newest.entry((namespace(pod), name(pod))).or_insert(pod);
        if pod.started_at > told.started_at {
            *told = pod;
        }
    }
    let told = newest.into_iter();
    told.map(|((namespace, name), usage)| ToldPod { namespace, name, usage, containers: containers(usage) })
        .collect()
}

/// A pod's containers by name, of several with one name the last attempt.
fn containers(pod: &PodUsage) -> Vec<&ContainerUsage> {
    let mut newest: Vec<&ContainerUsage> = pod.containers.iter().collect();
    newest.sort_by(|a, b| a.name.cmp(&b.name).then(b.attempt.cmp(&a.attempt)));
    newest.dedup_by(|next, kept| next.name == kept.name);
    newest
}

pub(super) fn name(pod: &PodUsage) -> &str {
    pod.pod.metadata.name.as_deref().unwrap_or_default()
}

pub(super) fn namespace(pod: &PodUsage) -> &str {
    pod.pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// A pod's network. A pod in the node's network is told of with the node's, as upstream does: it looks at the network
/// namespace of the sandbox, whichever that is.
pub(super) fn network<'a>(node: &'a NodeUsage, pod: &'a PodUsage) -> Option<&'a NetworkUsage> {
    let in_nodes = || pod.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    pod.network.as_ref().or_else(|| node.network.as_ref().filter(|_| in_nodes()))
}

/// How the names of interfaces begin that cAdvisor does not tell of: loopback, and the node's ends of pods' networks.
const UNTOLD_INTERFACES: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

/// The interfaces that are told of, each name once.
pub(super) fn interfaces(network: &NetworkUsage) -> impl Iterator<Item = &InterfaceUsage> {
    let told = |name: &str| {
        let begins =
            |prefix: &&str| name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix));
        !name.is_empty() && !UNTOLD_INTERFACES.iter().any(begins)
    };
    let all = &network.interfaces;
    all.iter().enumerate().filter_map(move |(index, interface)| {
        let again = all.iter().take(index).any(|other| other.name == interface.name);
        (told(&interface.name) && !again).then_some(interface)
    })
}
