//! What the probes last said of container instances, as a value. Written by the prober only; read by the
//! planner and the status.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::ContainerId;

/// The last verdicts about one container instance.
///
/// Written down, it has only what differs from the default, and a reader passes over fields it does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Verdict {
    /// Startup probe: `Some(true)` passed, `Some(false)` not yet, `None` has no startup probe or no result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<bool>,
    /// Readiness probe: `None` has no readiness probe or no result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Liveness probe has reached its failure threshold: the container is to be killed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub liveness_failed: bool,
    /// Startup probe has reached its failure threshold: the container is to be killed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub startup_failed: bool,
}

/// Verdicts of a pod's containers by container ID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeVerdicts {
    /// What is known. A container that is missing here has no result yet.
    pub by_container: BTreeMap<ContainerId, Verdict>,
    /// Whether somebody probes. If not (the default), a container is judged by the rules for containers
    /// without probes; if so, a container with a probe and without a result has not passed it.
    pub probing: bool,
}

impl ProbeVerdicts {
    /// The verdict on an instance; the default one when there is none.
    pub fn of(&self, id: &ContainerId) -> Verdict {
        self.by_container.get(id).copied().unwrap_or_default()
    }
}
