//! One run of one probe: waits for its slot, asks, and asks again at once when the asking itself failed.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rubelet_core::probes::ProbeOutcome;
use tokio::time::{Instant, timeout};
use tracing::error;

use super::book::{Ask, Begun, Ran};
use super::slots::{Lane, Slots};

/// How often a probe is made at most in one run, because it could not be made before (upstream `maxProbeRetries`).
const TRIES: u32 = 3;
/// A handler ends a probe at its timeout, and needs a moment for it. One that needs longer than this is given up.
const MERCY: Duration = Duration::from_secs(20);

/// Asks containers. Behind a trait so that the prober can be tested without containers.
pub(super) trait Handlers: Send + Sync {
    /// Makes one probe, within its timeout.
    fn ask<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, ProbeOutcome>;
}

/// Carries out a run.
pub(super) async fn run(begun: &Begun, handlers: &dyn Handlers, slots: &Slots) -> Ran {
    let is_exec = begun.ask.probe().is_some_and(|(_, probe)| probe.exec.is_some());
    let lane = if is_exec { Lane::Exec { proven: begun.proven } } else { Lane::Socket };
    let Some(slot) = slots.take(lane, begun.give_up).await else { return Ran::Skipped };
    let began = Instant::now();
    let late = began.saturating_duration_since(begun.due);
    let tries = AssertUnwindSafe(tries(begun, handlers)).catch_unwind();
    let outcome = slots.carry(slot, tries).await.unwrap_or_else(|_| {
        error!(container_id = begun.ask.id.as_str(), probe = begun.ask.kind.as_str(), "a panic in a probe");
        ProbeOutcome::Error("the agent failed while it made the probe".to_owned())
    });
    Ran::Made { outcome, took: began.elapsed(), late }
}

/// Asks until there is an answer, a few times at most and not into the time of the next run.
async fn tries(begun: &Begun, handlers: &dyn Handlers) -> ProbeOutcome {
    let mut left = TRIES;
    loop {
        left -= 1;
        let began = Instant::now();
        let limit = begun.ask.timeout.saturating_add(MERCY);
        let outcome = timeout(limit, handlers.ask(&begun.ask)).await.unwrap_or_else(|_| {
            ProbeOutcome::Error(format!("no end within {} s of its timeout", MERCY.as_secs()))
        });
        match outcome {
            // If it takes as long as it just did.
            ProbeOutcome::Error(_) if left > 0 && Instant::now() + began.elapsed() < begun.give_up => {}
            outcome => return outcome,
        }
    }
}
