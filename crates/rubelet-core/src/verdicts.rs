//! What the probes last said of container instances, as a value. Empty until a prober writes it: a
//! container without a verdict is judged by the rules for containers without probes.

use std::collections::BTreeMap;

use crate::ids::ContainerId;

/// The last verdicts about one container instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Startup probe: `Some(true)` passed, `Some(false)` not yet, `None` has no startup probe.
    pub started: Option<bool>,
    /// Readiness probe: `None` has no readiness probe.
    pub ready: Option<bool>,
    /// Liveness probe has reached its failure threshold: the container is to be killed.
    pub liveness_failed: bool,
    /// Startup probe has reached its failure threshold: the container is to be killed.
    pub startup_failed: bool,
}

/// Verdicts of a pod's containers by container ID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeVerdicts(pub BTreeMap<ContainerId, Verdict>);

impl ProbeVerdicts {
    /// The verdict on an instance; the default one when there is none.
    pub fn of(&self, id: &ContainerId) -> Verdict {
        self.0.get(id).copied().unwrap_or_default()
    }
}
