//! What the world hears of a run: events and metrics, worded and counted as upstream's (`prober.probe`,
//! `worker.doProbe`). And, rarely, that there is more to probe than can be done.

use std::time::Duration;

use rubelet_core::Pod;
use rubelet_core::ids::PodUid;
use rubelet_core::probes::{ProbeKind, ProbeOutcome};
use tokio::time::Instant;
use tracing::warn;

use crate::events::{EventRecorder, EventSubject};
use crate::metrics::Metrics;

/// Bytes of a message that are kept. Events are cut to 1 KiB before they are sent, and say then that they are: this
/// leaves that to them, and keeps 10 KiB of output out of the memory and the log.
const MESSAGE_LIMIT: usize = 1100;
/// Runs that were not made are told of no more often than this.
const SKIPS_EVERY: Duration = Duration::from_secs(60);

/// Whose probe it was.
pub(super) struct Probed<'a> {
    pub(super) uid: &'a PodUid,
    pub(super) pod: &'a Pod,
    pub(super) container: &'a str,
    pub(super) kind: ProbeKind,
}

/// Tells of an answer. An error is an event and nothing else; only what went well has a duration. `early`: a failure
/// does not count, and nobody needs to know of it.
pub(super) fn answered(
    events: &EventRecorder,
    metrics: &Metrics,
    probed: &Probed<'_>,
    outcome: &ProbeOutcome,
    took: Duration,
    early: bool,
) {
    let Probed { uid, pod, container, kind } = probed;
    let kind = kind.as_str();
    let event = match outcome {
        ProbeOutcome::Success => None,
        ProbeOutcome::Warning(output) => Some(("ProbeWarning", format!("{kind} probe warning: {output}"))),
        ProbeOutcome::Failure(_) if early => None,
        ProbeOutcome::Failure(output) => Some(("Unhealthy", format!("{kind} probe failed: {output}"))),
        ProbeOutcome::Error(error) => {
            Some(("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {error}")))
        }
    };
    if let Some((reason, mut message)) = event {
        message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
        let subject = EventSubject { container: Some((*container).to_owned()), ..EventSubject::pod(pod) };
        events.warning(&subject, reason, message);
    }
    let well = match outcome {
        ProbeOutcome::Success | ProbeOutcome::Warning(_) => true,
        ProbeOutcome::Failure(_) => false,
        ProbeOutcome::Error(_) => return,
    };
    let (namespace, name) = names(pod);
    let result = if well { "successful" } else { "failed" };
    metrics.probes.total.with([kind, result, container, name, namespace, uid.as_str()]).inc();
    if well {
        metrics.probes.duration.with([kind, container, name, namespace]).observe_duration(took);
    }
}

/// Drops what was counted of a pod that is gone.
pub(super) fn forget(metrics: &Metrics, uid: &PodUid, pod: &Pod) {
    let (namespace, name) = names(pod);
    metrics.forget_probes(namespace, name, uid.as_str());
}

fn names(pod: &Pod) -> (&str, &str) {
    (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default())
}

/// Says in the log that runs are not made, with how many there were since it last did.
#[derive(Default)]
pub(super) struct Skips {
    told: Option<Instant>,
    untold: u64,
}

impl Skips {
    /// A run was not made.
    pub(super) fn skipped(&mut self, probed: &Probed<'_>, now: Instant) {
        if self.told.is_some_and(|told| now.duration_since(told) < SKIPS_EVERY) {
            self.untold += 1;
            return;
        }
        let others = std::mem::take(&mut self.untold);
        let (namespace, name) = names(probed.pod);
        let (container, probe) = (probed.container, probed.kind.as_str());
        warn!(
            pod = format_args!("{namespace}/{name}"),
            container, probe, others, "too many probes at a time: no run before the next one was due"
        );
        self.told = Some(now);
    }
}
