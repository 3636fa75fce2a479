//! Tells the prober what of the pod runs, and takes the pod back when it is gone. The verdicts come in at the desk.

use std::net::IpAddr;
use std::sync::Arc;

use rubelet_core::observed::{ObservedPod, ObservedState};
use rubelet_core::probes::probed_containers;
use rubelet_core::status::pod_addresses;

use super::PodWorker;
use super::sync::host_network;
use crate::prober::{ProbedPod, RunningContainer};

impl PodWorker {
    /// Has the containers probed that run and want it, and no other. Costs nothing for a pod without probes.
    pub(super) fn track_probes(&self, observed: &ObservedPod, ending: bool) {
        let Some(pod) = &self.pod else { return };
        let mut probed = probed_containers(pod).peekable();
        if probed.peek().is_none() {
            return;
        }
        let running = probed
            .filter_map(|container| {
                let instance = observed.newest_container(&container.name)?;
                let started_at = instance.started_at.unwrap_or(instance.created_at);
                (instance.state == ObservedState::Running).then(|| RunningContainer {
                    name: container.name.clone(),
                    id: instance.id.clone(),
                    started_at,
                    known: self.desk.known(container, &instance.id),
                })
            })
            .collect();
        let ip = address(host_network(pod), observed, &self.node_ips());
        let sink = self.desk.clone();
        let ending = ending || pod.metadata.deletion_timestamp.is_some();
        let probed = ProbedPod { uid: self.uid.clone(), pod: Arc::clone(pod), ip, running, ending, sink };
        self.services.prober.track(probed);
    }
}

/// The address at which a pod is asked: the one that its status tells first.
fn address(host_network: bool, observed: &ObservedPod, node: &[IpAddr]) -> Option<String> {
    if host_network {
        return node.first().map(IpAddr::to_string);
    }
    let sandbox = observed.sandboxes.first()?;
    pod_addresses(sandbox, node).first().map(IpAddr::to_string)
}

#[cfg(test)]
mod tests {
    use rubelet_core::observed::ObservedSandbox;

    use super::*;

    #[test]
    fn a_pod_is_asked_at_the_address_that_it_is_known_by() {
        let node: Vec<IpAddr> = ["192.168.0.1", "fd00::1"].map(|ip| ip.parse().unwrap()).into();
        let mut observed = ObservedPod::absent("u".into());
        assert_eq!(address(false, &observed, &node), None);
        let ips = ["fd00::7", "10.0.0.7"].map(str::to_owned).to_vec();
        observed.sandboxes = vec![ObservedSandbox {
            id: "s".into(),
            attempt: 0,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            ready: true,
            ips,
            host_network: false,
            annotations: Default::default(),
            runtime_handler: String::new(),
        }];
        assert_eq!(
            address(false, &observed, &node).as_deref(),
            Some("10.0.0.7"),
            "whatever the runtime's order"
        );
        assert_eq!(address(false, &observed, &node[1..]).as_deref(), Some("fd00::7"));
        assert_eq!(address(true, &observed, &node).as_deref(), Some("192.168.0.1"));
    }
}
