//! One attempt to end a pod: kill everything with the grace that is left, then look whether anything can
//! still run. The stage is left only on that observation.

use rubelet_core::kill::compute_kill_plan;
use rubelet_core::lifecycle::{Input, PodState};
use rubelet_core::observed::ObservedPod;
use rubelet_core::plan::KillReason;
use rubelet_core::status::Ending;
use rubelet_cri::CriError;

use super::explain::Leaving;
use super::kill::KILL;
use super::{Pause, PodWorker, kill};

impl PodWorker {
    pub(super) async fn terminate(&mut self) -> Pause {
        let PodState::Terminating { grace, .. } = self.state else { return Pause::No };
        self.fresh = None;
        self.explaining.clear();
        let observed = match self.observe_leaving().await {
            Ok(observed) => observed,
            Err(pause) => return pause,
        };
        self.track_probes(&observed, true);
        self.publish(&observed, Ending::Stopping).await;
        if self.apply(Input::Observed(&observed)) {
            return Pause::No;
        }
        let pod = self.pod.clone();
        let plan = compute_kill_plan(pod.as_deref(), &observed, Some(grace), KillReason::PodEnds);
        let killing =
            kill::execute_kill_plan(&self.services, &self.subject, &observed, &plan, &self.kill_memory);
        // A shorter grace must reach the runtime: the attempt is given up (the runtime goes on with what it was
        // told) and the loop kills again. Both arms are cancel-safe: hooks are remembered, StopContainer may
        // be repeated.
        let result = tokio::select! {
            biased;
            result = killing => result,
            () = shortened(&self.mailbox, grace) => return Pause::No,
        };
        if let Err(errors) = result {
            self.tell_failed_kill(&errors);
            return self.pause_after_failure();
        }
        let observed = match self.observe_leaving().await {
            Ok(observed) => observed,
            Err(pause) => return pause,
        };
        // What has been stopped is not asked any more, however long the rest takes.
        self.track_probes(&observed, true);
        self.publish(&observed, Ending::Stopping).await;
        if self.apply(Input::Observed(&observed)) {
            self.fresh = Some(observed);
            return Pause::No;
        }
        let left: Vec<&str> = observed
            .containers
            .iter()
            .filter(|c| {
                use rubelet_core::observed::ObservedState::{Running, Unknown};
                matches!(c.state, Running | Unknown)
            })
            .map(|c| c.name.as_str())
            .collect();
        if self.kill_memory.ends.may_tell_error("outlived") {
            self.services.events.warning(
                &self.subject,
                "ExceededGracePeriod",
                match left.is_empty() {
                    true => "Pod does not end: its sandbox is still ready after it was stopped".to_owned(),
                    false => format!("Pod does not end: still running: {}", left.join(", ")),
                },
            );
        }
        self.pause_after_failure()
    }

    /// Reads a pod that ends from the runtime, and tells when the runtime takes long to answer.
    pub(super) async fn observe_leaving(&mut self) -> Result<ObservedPod, Pause> {
        let answer = self.leaving(Leaving::Observing, self.services.pleg.observe(&self.uid)).await;
        self.heard(answer)
    }

    /// Tells what could not be killed: at once, and when it goes on ever more rarely.
    pub(super) fn tell_failed_kill(&self, errors: &[CriError]) {
        if !self.kill_memory.ends.may_tell_error(KILL) {
            return;
        }
        let told = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let text = format!("error killing pod: {told}");
        self.services.events.warning(&self.subject, "FailedKillPod", text);
    }
}

/// Waits until the mailbox asks for a shorter grace than `grace`.
async fn shortened(mailbox: &super::mailbox::Mailbox, grace: u64) {
    while !mailbox.wants_grace_below(grace) {
        mailbox.changed().await;
    }
}
