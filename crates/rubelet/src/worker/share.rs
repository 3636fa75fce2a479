//! The pod's share of the machine: asked for before anything of a new pod is made. What it is and whether the pod can
//! have it is the container manager's.

use rubelet_core::Pod;
use rubelet_core::explain::PodStep;
use rubelet_core::lifecycle::{Input, TerminationCause};
use rubelet_core::observed::{ObservedPod, ObservedState};
use rubelet_core::tally::rejection_label;

use super::PodWorker;
use super::explain::unless_ending;
use super::sync::Stop;
use crate::container_manager::Unallocated;
use crate::dra::FAILED_PREPARE;

impl PodWorker {
    /// Has the pod given its share of the machine: CPUs, memory nodes, devices.
    pub(super) async fn take_share(&mut self, pod: &Pod) -> Result<(), Stop> {
        let asking = unless_ending(&self.mailbox, self.services.containers.allocate(pod));
        match asking.await {
            None => Err(Stop::Ending),
            Some(Ok(())) => {
                self.explaining.done(PodStep::Resources);
                Ok(())
            }
            Some(Err(Unallocated::Waiting(text))) => {
                self.services.events.warning(&self.subject, "FailedSync", text.as_str());
                self.explaining.failed(PodStep::Resources, &text);
                Err(Stop::Failed)
            }
            Some(Err(Unallocated::Rejected(problem))) => Err(self.reject(problem.reason, problem.message)),
        }
    }

    /// Has what the pod claims prepared, before its sandbox is made.
    pub(super) async fn prepare_claims(&self, pod: &Pod, new_sandbox: bool) -> Result<(), Stop> {
        // On the heap: few pods have claims.
        let preparing = Box::pin(self.services.claims.prepare(pod, new_sandbox));
        match unless_ending(&self.mailbox, preparing).await {
            None => Err(Stop::Ending),
            Some(Ok(())) => {
                self.explaining.done(PodStep::Resources);
                Ok(())
            }
            Some(Err(error)) => {
                let problem = crate::logging::chain(&error);
                let text =
                    format!("Failed to prepare dynamic resources: prepare dynamic resources: {problem}");
                self.explaining.failed(PodStep::Resources, &text);
                self.services.events.warning(&self.subject, FAILED_PREPARE, text);
                Err(Stop::Failed)
            }
        }
    }

    /// Has what a pod that runs already has of the machine taken up, once.
    pub(super) async fn take_up_share(&mut self, pod: &Pod, observed: &ObservedPod) {
        if !std::mem::replace(&mut self.adopted, true) && observed.may_run() {
            let running =
                observed.containers.iter().filter(|container| container.state == ObservedState::Running);
            let names = running.map(|container| container.name.as_str()).collect();
            self.services.containers.adopt(pod, &names).await;
        }
    }

    /// The node cannot take the pod after all: it fails, so that it can be made anew elsewhere (upstream `rejectPod`).
    pub(super) fn reject(&mut self, reason: &'static str, message: String) -> Stop {
        self.services.metrics.pods.admission_rejections.with([rejection_label(reason)]).inc();
        self.services.events.warning(&self.subject, reason, message.clone());
        let cause = TerminationCause::Killed { reason, message, disruption: false };
        self.apply(Input::Terminate { cause, grace: self.own_grace() });
        Stop::Ending
    }
}
