//! Ports of the node that pods ask for.
//!
//! Owns the rule when two of them conflict (upstream `HostPortInfo`).

use k8s_openapi::api::core::v1::{ContainerPort, Pod};

use crate::containers::{init_containers, is_sidecar, spec_of};

const ANY: &str = "0.0.0.0";

/// Whether a pod asks for a node port that another one has.
pub fn conflict<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod>) -> bool {
    let wanted: Vec<_> = host_ports(pod).collect();
    if wanted.is_empty() {
        return false;
    }
    others.flat_map(host_ports).any(|taken| wanted.iter().any(|port| port.conflicts_with(&taken)))
}

struct HostPort<'a> {
    address: &'a str,
    protocol: &'a str,
    port: i32,
}

impl HostPort<'_> {
    fn conflicts_with(&self, other: &HostPort<'_>) -> bool {
        let same_address = self.address == other.address || self.address == ANY || other.address == ANY;
        same_address && self.protocol == other.protocol && self.port == other.port
    }
}

/// What is open while the pod runs: ports of app containers and sidecars.
fn host_ports(pod: &Pod) -> impl Iterator<Item = HostPort<'_>> {
    let spec = spec_of(pod);
    let sidecars = init_containers(spec).iter().filter(|container| is_sidecar(container));
    sidecars
        .chain(&spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(host_port)
}

fn host_port(port: &ContainerPort) -> Option<HostPort<'_>> {
    Some(HostPort {
        address: port.host_ip.as_deref().filter(|text| !text.is_empty()).unwrap_or(ANY),
        protocol: port.protocol.as_deref().filter(|text| !text.is_empty()).unwrap_or("TCP"),
        port: port.host_port.filter(|number| *number > 0)?,
    })
}
