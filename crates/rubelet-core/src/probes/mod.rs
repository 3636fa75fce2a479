//! When a container is probed, and what its answers mean: the rules of upstream's probe workers, as values.
//!
//! Time is the age of the container instance (how long ago it was started), so that neither a clock that is set nor a
//! restart of the agent moves a probe. Nothing here waits or asks: the prober of the shell has one timer for all
//! probes, carries them out, and brings the answers back.

mod container;
mod schedule;
#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

pub use self::container::{ContainerProbes, Due, probed_containers};

/// Which of the three probes of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// `startupProbe`: until it has passed, the other two are not run.
    Startup,
    /// `livenessProbe`: when it fails, the container is restarted.
    Liveness,
    /// `readinessProbe`: whether the container may be sent work.
    Readiness,
}

impl ProbeKind {
    /// All of them, in the order in which they matter.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// The word in events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What one run of a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// It is well.
    Success,
    /// It counts as well, and somebody should know this.
    Warning(String),
    /// It is not well; what was answered.
    Failure(String),
    /// The probe itself could not be made, which says nothing about the container.
    Error(String),
}

/// How often a probe is made and how many answers count; the API's defaults where the spec says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeTimes {
    /// Age of the container before which it is not probed.
    pub initial_delay: Duration,
    /// From one run to the next; at least a second.
    pub period: Duration,
    /// How long one run may take; at least a second.
    pub timeout: Duration,
    /// So many successes in a row count; at least one.
    pub success_threshold: u32,
    /// So many failures in a row count; at least one.
    pub failure_threshold: u32,
}

impl ProbeTimes {
    /// Those of a probe.
    pub fn of(probe: &Probe) -> Self {
        let seconds = |given: Option<i32>, default: u64| {
            Duration::from_secs(
                given.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default),
            )
        };
        let times = |given: Option<i32>, default: u32| {
            given.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default)
        };
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            success_threshold: times(probe.success_threshold, 1),
            failure_threshold: times(probe.failure_threshold, 3),
        }
    }
}
