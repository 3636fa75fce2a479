//! How long each call may take. Pure; [`crate::CriClient`] enforces what is computed here.

use std::time::Duration;

/// No deadline is longer: gRPC cannot write longer ones down.
const LONGEST: Duration = Duration::from_secs(1000 * 24 * 3600);

/// The deadlines of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Every call that has no rule of its own: `runtimeRequestTimeout`.
    pub request: Duration,
    /// A command that was given no timeout still ends some day.
    pub exec_without_timeout: Duration,
    /// Checkpoints that were given no timeout.
    pub checkpoint: Duration,
}

impl Default for Deadlines {
    /// `runtimeRequestTimeout` of two minutes, as upstream.
    fn default() -> Self {
        Self::with_request(Duration::from_secs(120))
    }
}

impl Deadlines {
    /// The usual deadlines around a given `runtimeRequestTimeout`.
    pub fn with_request(request: Duration) -> Self {
        Self {
            request: request.min(LONGEST),
            exec_without_timeout: Duration::from_secs(3600),
            checkpoint: Duration::from_secs(600),
        }
    }

    /// RunPodSandbox may pull the sandbox image: twice the usual.
    pub fn run_pod_sandbox(&self) -> Duration {
        self.request.saturating_mul(2).min(LONGEST)
    }

    /// StopContainer waits out the grace period (seconds) first.
    pub fn stop_container(&self, grace_seconds: i64) -> Duration {
        self.with_extra(grace_seconds)
    }

    /// ExecSync waits for the command's own timeout (seconds) first; 0 or less is none.
    pub fn exec_sync(&self, timeout_seconds: i64) -> Duration {
        if timeout_seconds <= 0 {
            return self.exec_without_timeout.max(self.request).min(LONGEST);
        }
        self.with_extra(timeout_seconds)
    }

    /// CheckpointContainer waits for its own timeout (seconds) first; 0 or less is none.
    pub fn checkpoint_container(&self, timeout_seconds: i64) -> Duration {
        if timeout_seconds <= 0 {
            return self.checkpoint.max(self.request).min(LONGEST);
        }
        self.with_extra(timeout_seconds)
    }

    /// PullImage takes what its caller allows.
    pub fn pull_image(&self, limit: Duration) -> Duration {
        limit.min(LONGEST)
    }

    fn with_extra(&self, seconds: i64) -> Duration {
        let extra = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        self.request.saturating_add(extra).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_get_their_own_time_on_top() {
        let deadlines = Deadlines::with_request(Duration::from_secs(10));
        let check = |is: Duration, seconds: u64| assert_eq!(is, Duration::from_secs(seconds));
        check(deadlines.run_pod_sandbox(), 20);
        check(deadlines.stop_container(0), 10);
        check(deadlines.stop_container(30), 40);
        check(deadlines.stop_container(-5), 10);
        check(deadlines.exec_sync(3), 13);
        check(deadlines.exec_sync(0), 3600);
        check(deadlines.checkpoint_container(0), 600);
        check(deadlines.checkpoint_container(60), 70);
        check(deadlines.pull_image(Duration::from_secs(900)), 900);
    }

    #[test]
    fn absurd_times_stay_within_what_grpc_can_say() {
        let deadlines = Deadlines::with_request(Duration::MAX);
        assert_eq!(deadlines.request, LONGEST);
        for deadline in
            [deadlines.run_pod_sandbox(), deadlines.stop_container(i64::MAX), deadlines.exec_sync(i64::MAX)]
        {
            assert_eq!(deadline, LONGEST);
        }
    }
}
