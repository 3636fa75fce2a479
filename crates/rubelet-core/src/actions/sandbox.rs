//! Whether the pod's sandbox can stay (upstream `PodSandboxChanged`). The planner asks, and the condition
//! PodReadyToStartContainers is the same answer told to the API.

use k8s_openapi::api::core::v1::Pod;

use crate::containers::spec_of;
use crate::ids::SandboxId;
use crate::observed::ObservedPod;

/// What is to become of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SandboxNeed {
    /// The newest sandbox is right.
    Keep(SandboxId),
    /// A new one is needed, with this attempt number; all earlier ones have to stop first.
    Create {
        /// CRI attempt: one more than the newest, 0 for the first.
        attempt: u32,
    },
}

/// Compares the sandboxes with the pod. A new one is needed when there is none, more than one is ready, the
/// newest is not ready, the network mode differs, or a pod with its own network has no address.
pub fn sandbox_need(pod: &Pod, observed: &ObservedPod) -> SandboxNeed {
    let Some(newest) = observed.sandboxes.first() else {
        return SandboxNeed::Create { attempt: 0 };
    };
    let wants_host_network = spec_of(pod).host_network.unwrap_or(false);
    let ready = observed.sandboxes.iter().filter(|sandbox| sandbox.ready).count();
    let right = ready == 1
        && newest.ready
        && newest.host_network == wants_host_network
        && (wants_host_network || !newest.ips.is_empty());
    if right {
        SandboxNeed::Keep(newest.id.clone())
    } else {
        SandboxNeed::Create { attempt: newest.attempt.saturating_add(1) }
    }
}
