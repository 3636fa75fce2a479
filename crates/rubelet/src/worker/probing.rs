//! Tells the prober what of the pod runs, and takes the pod back when it is gone. The verdicts come in at the desk.

use std::net::IpAddr;
use std::sync::Arc;

use rubelet_core::observed::{ObservedPod, ObservedState};
use rubelet_core::probes::probed_containers;

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
        let ip = match host_network(pod) {
            true => self.node_ips().first().map(IpAddr::to_string),
            false => observed.sandboxes.first().and_then(|sandbox| sandbox.ips.first().cloned()),
        };
        let sink = self.desk.clone();
        let ending = ending || pod.metadata.deletion_timestamp.is_some();
        let probed = ProbedPod { uid: self.uid.clone(), pod: Arc::clone(pod), ip, running, ending, sink };
        self.services.prober.track(probed);
    }
}
