//! What assigns a resource of the machine to containers, as the topology manager sees it.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Hint, ProviderHints};
use crate::ids::PodUid;

/// Why a pod cannot have what it asks for on this node. The pod is rejected with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unallocatable {
    /// `status.reason`: `TopologyAffinityError`, `SMTAlignmentError`, `UnexpectedAdmissionError` and the like.
    pub reason: &'static str,
    /// `status.message`, worded as upstream's.
    pub message: String,
}

impl Unallocatable {
    /// Reason of everything that has no reason of its own (upstream `UnexpectedAdmissionError`), whose message begins so.
    pub fn unexpected(problem: impl std::fmt::Display) -> Self {
        Self {
            reason: "UnexpectedAdmissionError",
            message: format!("Allocate failed due to {problem}, which is unexpected"),
        }
    }
}

/// A book of one kind of resource (upstream `topologymanager.HintProvider`). Pure: what has to be asked of others is the
/// shell's.
pub trait HintProvider {
    /// Where what one container asks for could come from. For one that has it already: where it is.
    fn hints(&self, pod: &Pod, container: &Container) -> ProviderHints;
    /// Where what the whole pod asks for could come from.
    fn pod_hints(&self, pod: &Pod) -> ProviderHints;
    /// Assigns what the container asks for, near `affinity`. Asked again for one that has it, it changes nothing.
    ///
    /// # Errors
    /// [`Unallocatable`]: nothing was assigned to this container.
    fn allocate(&mut self, pod: &Pod, container: &Container, affinity: &Hint) -> Result<(), Unallocatable>;
    /// Takes back everything of a pod.
    fn release(&mut self, uid: &PodUid);
}
