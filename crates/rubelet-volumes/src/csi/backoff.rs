//! When a failed operation on a volume may be tried again, in upstream's steps (`exponentialbackoff`): half a second,
//! doubled by each failure in a row, at most two minutes and two seconds. Pure: the moment comes in.

use std::time::Duration;

use tokio::time::Instant;

use super::problem::CsiProblem;

/// First pause.
const FIRST: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(122);

/// The memory of one operation on one volume.
#[derive(Debug, Default)]
pub(super) struct Backoff(Option<Failed>);

#[derive(Debug)]
struct Failed {
    pause: Duration,
    until: Instant,
    problem: CsiProblem,
}

impl Backoff {
    /// The last problem again, while it is too early to try.
    pub(super) fn check(&self, now: Instant) -> Result<(), CsiProblem> {
        match &self.0 {
            Some(failed) if now < failed.until => Err(failed.problem.clone()),
            _ => Ok(()),
        }
    }

    /// It failed. Returns the problem, and remembers it when trying again at once could hurt.
    pub(super) fn failed(&mut self, problem: CsiProblem, now: Instant) -> CsiProblem {
        if problem.cause.costs_a_call() {
            let pause = self.0.as_ref().map_or(FIRST, |failed| (failed.pause * 2).min(LONGEST));
            self.0 = Some(Failed { pause, until: now + pause, problem: problem.clone() });
        }
        problem
    }

    /// It was done, or what kept it from being done has gone.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// When it may be tried again.
    pub(super) fn until(&self) -> Option<Instant> {
        self.0.as_ref().map(|failed| failed.until)
    }
}

#[cfg(test)]
mod tests {
    use super::super::problem::{CsiCause, CsiStep};
    use super::*;

    fn problem() -> CsiProblem {
        CsiProblem::new(CsiStep::SetUp, CsiCause::Call { text: "no".into(), finished: true })
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let mut pauses = Vec::new();
        for _ in 0..11 {
            let now = Instant::now();
            backoff.check(now).unwrap();
            backoff.failed(problem(), now);
            backoff.check(now).unwrap_err();
            let until = backoff.until().unwrap();
            pauses.push((until - now).as_millis());
            backoff.check(until - Duration::from_millis(1)).unwrap_err();
            tokio::time::advance(until - now).await;
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 122_000, 122_000, 122_000]);
        backoff.clear();
        backoff.failed(problem(), Instant::now());
        assert_eq!(backoff.until().unwrap() - Instant::now(), FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn what_asks_nobody_needs_no_pause() {
        let mut backoff = Backoff::default();
        backoff.failed(CsiProblem::new(CsiStep::SetUp, CsiCause::NotRegistered("d".into())), Instant::now());
        backoff.check(Instant::now()).unwrap();
    }
}
