//! What happens after nothing of a pod can run: volumes and cgroups are given back, the last status is
//! published, and when nobody asks for the pod any more its containers, logs and directories go.

use futures::future::join_all;
use rubelet_core::ids::ContainerId;
use rubelet_core::kill::compute_kill_plan;
use rubelet_core::lifecycle::{ContainersStopped, Input, PodState, TerminationCause};
use rubelet_core::observed::{ObservedContainer, ObservedPod, ObservedState};
use rubelet_core::paths::PodPaths;
use rubelet_core::plan::KillReason;
use rubelet_core::status::{self, Ending};
use rubelet_cri::v1;
use tracing::warn;

use super::explain::Leaving;
use super::{Pause, PodWorker, kill};
use crate::cgroups::CgroupError;
use crate::pod_dirs;

/// The clean-up as a step of an end, for the pace of its errors.
const CLEAN_UP: &str = "clean up";

impl PodWorker {
    pub(super) async fn clean_up(&mut self) -> Pause {
        let PodState::Terminated { cause } = self.state.clone() else { return Pause::No };
        // The last look of the termination is good for one attempt, and so is the proof it gave.
        let observed = match self.fresh.take() {
            Some(observed) => observed,
            None => {
                self.proof = None;
                let observed = match self.observe_leaving().await {
                    Ok(observed) => observed,
                    Err(pause) => return pause,
                };
                self.apply(Input::Observed(&observed));
                observed
            }
        };
        let Some(proof) = self.proof.take() else {
            // Something has come to life again: a sandbox that was given up and came late.
            let pod = self.pod.clone();
            let plan = compute_kill_plan(pod.as_deref(), &observed, Some(1), KillReason::PodEnds);
            let killed =
                kill::execute_kill_plan(&self.services, &self.subject, &observed, &plan, &self.kill_memory)
                    .await;
            if let Err(errors) = killed {
                self.tell_failed_kill(&errors);
            }
            return self.pause_after_failure();
        };
        // Before the end is told, upon which claims are given to others.
        if let Err(error) = self.leaving(Leaving::Claims, self.services.claims.unprepare(&proof)).await {
            let told = format!("Pod waits for its claims: {}", crate::logging::chain(&error));
            self.tell_failure("FailedKillPod", told);
            return self.pause_after_failure();
        }
        self.publish(&observed, Ending::Stopped).await;
        if let Err(error) = self.kill_left(&proof).await {
            let text = format!("error killing pod: {}", crate::logging::chain(&error));
            self.tell_failure("FailedKillPod", text);
            return self.pause_after_failure();
        }
        // Names that are no path never got a directory of ours.
        let paths = self.paths().ok();
        if let Some(paths) = &paths {
            let tear_down = self.services.volumes.tear_down(&proof, &paths.dir);
            if let Err(error) = self.leaving(Leaving::Volumes(&paths.dir), tear_down).await {
                let chain = crate::logging::chain(&error);
                self.tell_failure("FailedUnmount", format!("Pod waits for its volumes: {chain}"));
                return self.pause_after_failure();
            }
        }
        self.services.containers.release(&proof).await;
        if let Some(api) = &self.services.api {
            api.release(&self.uid);
        }
        self.remove_cgroup(&proof).await;
        if let Some(pod) = self.pod.clone()
            && let Some(previous) = self.desk.status()
        {
            let desk = self.desk.clone();
            let turn = desk.turn().await;
            let last = status::finalize_terminated(&pod, &previous, self.services.clock.now());
            self.publish_status(&turn, &pod, &last, false).await;
        }
        if cause.forgets_pod() && self.remove_everything(&observed, paths.as_ref()).await.is_err() {
            return self.pause_after_failure();
        }
        {
            let mut told = self.desk.told();
            told.record.finished = true;
            told.dirty = true;
        }
        self.apply(Input::CleanedUp);
        Pause::No
    }

    /// The last act of a worker.
    pub(super) async fn leave(&mut self, cause: &TerminationCause) {
        self.services.prober.forget(&self.uid);
        self.services.logs.forget(&self.uid);
        if cause.forgets_pod() {
            self.services.table.remove(&self.uid);
            self.services.pleg.forget(&self.uid);
            // How the pod ended is not forgotten before the API has been told and has let the pod go.
            if *cause == TerminationCause::Deleted && self.services.api.is_some() {
                self.save().await;
                return;
            }
            if let Err(error) = self.services.journal.remove(&self.uid).await {
                warn!(pod = self.subject.name, "{}", crate::logging::chain(&error));
            }
        } else {
            self.save().await;
        }
    }

    /// Removes the pod's containers, sandboxes, logs and directory: nobody can ask for them any more.
    async fn remove_everything(
        &mut self,
        observed: &ObservedPod,
        paths: Option<&PodPaths>,
    ) -> Result<(), ()> {
        let services = self.services.clone();
        let removals = observed.containers.iter().map(|container| async {
            let request = v1::RemoveContainerRequest { container_id: container.id.to_string() };
            let removed = services.runtime.remove_container(request).await.map(|_| ());
            self.remove_logs_of(container).await;
            removed
        });
        let removing = async {
            let mut results = join_all(removals).await;
            results.extend(
                join_all(observed.sandboxes.iter().map(|sandbox| {
                    services.runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest {
                        pod_sandbox_id: sandbox.id.to_string(),
                    })
                }))
                .await
                .into_iter()
                .map(|result| result.map(|_| ())),
            );
            let errors: Vec<String> = results
                .into_iter()
                .filter_map(Result::err)
                .filter(|error| !error.is_not_found())
                .map(|error| error.to_string())
                .collect();
            if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
        };
        if let Err(told) = self.leaving(Leaving::Removal, removing).await {
            let text = format!("cannot remove what is left of the pod: {told}");
            self.tell_failure("FailedKillPod", text);
            return Err(());
        }
        for dir in paths.iter().flat_map(|paths| [&paths.logs, &paths.dir]) {
            let removing = pod_dirs::remove(&self.services.fs, dir);
            if let Err(error) = self.leaving(Leaving::Directories, removing).await {
                let chain = crate::logging::chain(&error);
                self.tell_failure("FailedKillPod", format!("Pod waits for its directories: {chain}"));
                return Err(());
            }
        }
        Ok(())
    }

    /// Tells what the pod's clean-up fails at: at once, and when it goes on ever more rarely.
    fn tell_failure(&self, reason: &str, text: String) {
        if self.kill_memory.ends.may_tell_error(CLEAN_UP) {
            self.services.events.warning(&self.subject, reason, text);
        }
    }

    /// Removes the log and the legacy symlink of one container instance; what cannot be removed is told and
    /// left to the next sweep.
    pub(super) async fn remove_logs_of(&self, container: &ObservedContainer) {
        let node = &self.services.node;
        let dirs = (&*node.pod_logs_dir, &*node.container_logs_dir);
        let pod = self.identity();
        if let Err(error) = pod_dirs::remove_container_logs(&self.services.fs, &pod, container, dirs).await {
            warn!(pod = self.subject.name, "{}", crate::logging::chain(&error));
        }
    }

    /// Keeps one dead instance of each container and one dead sandbox besides the ready one; removes older ones
    /// (upstream: container garbage collection with one dead container per container).
    /// Returns whether there was anything to remove.
    pub(super) async fn prune_dead(&self, observed: &ObservedPod) -> bool {
        let dead = |c: &&ObservedContainer| c.state == ObservedState::Exited;
        let mut kept: std::collections::BTreeSet<&str> = Default::default();
        let old: Vec<&ContainerId> = observed
            .containers
            .iter()
            .filter(dead)
            .filter(|container| !kept.insert(&container.name))
            .map(|container| &container.id)
            .collect();
        let mut any = !old.is_empty();
        for id in old {
            let request = v1::RemoveContainerRequest { container_id: id.to_string() };
            match self.services.runtime.remove_container(request).await {
                Ok(_) => {
                    if let Some(container) = observed.containers.iter().find(|c| c.id == *id) {
                        self.remove_logs_of(container).await;
                    }
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => warn!(pod = self.subject.name, "an old container stays: {error}"),
            }
        }
        let unused = observed.sandboxes.iter().skip(1).filter(|sandbox| {
            !sandbox.ready && !observed.containers.iter().any(|container| container.sandbox_id == sandbox.id)
        });
        for sandbox in unused {
            any = true;
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id.to_string() };
            if let Err(error) = self.services.runtime.remove_pod_sandbox(request).await
                && !error.is_not_found()
            {
                warn!(pod = self.subject.name, "an old sandbox stays: {error}");
            }
        }
        any
    }

    /// Ends what runs in the pod's control group although its containers have ended, before its volumes go.
    async fn kill_left(&self, proof: &ContainersStopped) -> Result<(), CgroupError> {
        let Some(pod) = &self.pod else { return Ok(()) };
        let cgroup = super::config::pod_cgroup(&self.services, pod, &self.uid);
        self.leaving(Leaving::Cgroup(&cgroup), self.services.cgroups.kill_left(proof, pod)).await
    }

    async fn remove_cgroup(&self, proof: &ContainersStopped) {
        let Some(pod) = &self.pod else { return };
        let cgroup = super::config::pod_cgroup(&self.services, pod, &self.uid);
        let removing = self.services.cgroups.remove_pod(proof, pod, &self.uid);
        if let Err(error) = self.leaving(Leaving::Cgroup(&cgroup), removing).await {
            warn!(pod = self.subject.name, "{}", crate::logging::chain(&error));
        }
    }
}
