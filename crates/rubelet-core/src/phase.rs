//! The phase of a pod, from its container statuses (upstream `getPhase`).
//!
//! It knows nothing of what was reported before: stickiness of terminal phases is the business of `status`.

use std::fmt;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not everything has been started once.
    Pending,
    /// Everything has been started, and something runs or will run again.
    Running,
    /// Every app container ended with exit code 0 and none runs again.
    Succeeded,
    /// Nothing runs again and something failed.
    Failed,
}

impl Phase {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Reads the API's word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed].into_iter().find(|p| p.as_str() == word)
    }

    /// The phase of a status, if it has one.
    pub fn of(status: &PodStatus) -> Option<Self> {
        Self::parse(status.phase.as_deref()?)
    }

    /// Whether a pod never leaves this phase.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The phase that follows from the container statuses of `status`.
///
/// `stopped`: the pod ends and nothing of it runs any more, so restart policies no longer matter (not for
/// static pods). `initialized`: an app container of the current sandbox has been created.
pub fn compute_phase(pod: &Pod, status: &PodStatus, stopped: bool, initialized: bool) -> Phase {
    let _ = (pod, status, stopped, initialized);
    Phase::Pending
}

/// Whether the pod comes from a file or URL (`kubernetes.io/config.source` other than `api`).
pub fn is_static(pod: &Pod) -> bool {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get("kubernetes.io/config.source"))
        .is_some_and(|source| source != "api")
}
