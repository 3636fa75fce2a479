//! One sync of a pod that is to run: observe, publish, plan, execute. It ends early when the pod is to end;
//! what was begun is found again by the next observation.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use rubelet_core::actions::{PodActionInputs, compute_pod_actions};
use rubelet_core::containers::{ephemeral_as_container, init_containers};
use rubelet_core::explain::{PodStep, volumes_text};
use rubelet_core::kill::{compute_container_kill, compute_kill_plan};
use rubelet_core::lifecycle::Input;
use rubelet_core::observed::ObservedPod;
use rubelet_core::phase::Phase;
use rubelet_core::plan::{ContainerKind, KillReason, PodPlan, StartContainer};
use rubelet_core::status::{self, Ending};
use rubelet_cri::v1;
use rubelet_volumes::{VolumeError, VolumeFacts, VolumePaths};
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use super::explain::{Doing, unless_ending};
use super::kill::KILL;
use super::start::Started;
use super::{NETWORK_PAUSE, Pause, PodWorker, RETRY_FIRST, kill};
use crate::api_objects::ApiObjects;
use crate::pod_dirs;
use crate::tracing_export::spans;

/// Pause before volumes that could not be brought up to date are tried again.
const VOLUMES_RETRY: jiff::SignedDuration = jiff::SignedDuration::from_secs(10);
/// Reason of a pod that fails because a driver can have no more volumes on this node.
const VOLUME_LIMIT: &str = "VolumeAttachmentLimitExceeded";

/// Why a sync stopped before its plan was carried out.
pub(super) enum Stop {
    /// The pod is to end.
    Ending,
    /// A step failed and was told; look again after a while.
    Failed,
    /// The runtime has no network for pods.
    NoNetwork,
    /// Nothing is left to do but to wait for the back-off of image pulls.
    PullsBackOff,
}

impl PodWorker {
    pub(super) async fn sync(&mut self, operation: Option<&'static str>) -> Pause {
        let Some(pod) = self.pod.clone() else { return Pause::UntilInput };
        // The regular look at a pod at rest costs nothing while full lists show that nothing has changed.
        if let Some(at_rest) = self.at_rest
            && !self.volumes_are_due()
            && self.services.pleg.confirms(&self.uid, at_rest)
        {
            return self.until_next(&PodPlan::default());
        }
        let span = self.sync_span(&pod, operation);
        self.look_and_act(pod).instrument(span).await
    }

    /// The trace of this sync: the one that admission began, or one of its own.
    fn sync_span(&mut self, pod: &Pod, operation: Option<&'static str>) -> Span {
        let begun = std::mem::replace(&mut self.first_sync, Span::none());
        if begun.is_disabled() { spans::sync_pod(pod, operation.unwrap_or_default()) } else { begun }
    }

    async fn look_and_act(&mut self, pod: Arc<Pod>) -> Pause {
        let looked = Instant::now();
        // The sync before may have ended by reading what came of it.
        let observed = match self.fresh.take() {
            Some(observed) => observed,
            None => match self.observe().await {
                Ok(observed) => observed,
                Err(pause) => return pause,
            },
        };
        self.take_up_share(&pod, &observed).await;
        self.track_probes(&observed, false);
        let now = self.services.clock.now();
        let (told, verdicts) = {
            let told = self.desk.told();
            (told.record.status.clone(), told.verdicts())
        };
        let mut plan = compute_pod_actions(&PodActionInputs {
            pod: &pod,
            observed: &observed,
            verdicts: &verdicts,
            backoff: &self.restarts,
            // Without a journal of its own (another agent ran this node) what the API was told counts.
            reported: told.as_deref().or(pod.status.as_ref()),
            ending: false,
            hash: rubelet_core::hash::container_hash,
            now,
        });
        self.plan_resize(&pod, &observed, &mut plan);
        for waiting in &plan.backing_off {
            self.start_errors.insert(waiting.name.clone(), status::crash_loop_error(&pod, waiting));
        }
        let generated = self.publish(&observed, Ending::No).await;
        if self.deadline().is_some_and(|at| at <= now) {
            self.apply(Input::Terminate { cause: super::deadline_exceeded(), grace: self.own_grace() });
            return Pause::No;
        }
        if plan.pod_done || Phase::of(&generated).is_some_and(Phase::is_terminal) {
            self.apply(Input::PodDone { grace: self.own_grace() });
            return Pause::No;
        }
        if plan.create_sandbox.is_none() && plan.start.is_empty() && self.volumes_are_due() {
            self.refresh_volumes(&pod, &observed).await;
        }
        if plan.is_empty() {
            self.retry = RETRY_FIRST;
            (self.sandbox_config, self.last_plan) = (None, None);
            self.at_rest = (plan.backing_off.is_empty() && self.deadline().is_none()).then_some(looked);
            self.tell_back_offs(&pod, &plan);
            return self.until_next(&plan);
        }
        let replaced = |start: &&StartContainer| plan.kill.iter().any(|kill| kill.name == start.name);
        self.replacing = plan.start.iter().filter(replaced).map(|start| start.name.clone()).collect();
        let outcome = self.execute(&pod, observed, &plan).await;
        self.replacing.clear();
        match outcome {
            Ok(()) => {
                self.tell_back_offs(&pod, &plan);
                // A plan that was carried out and comes again has changed nothing: no faster than failures.
                if self.last_plan.as_ref() == Some(&plan) {
                    return self.pause_after_failure();
                }
                self.retry = RETRY_FIRST;
                self.last_plan = Some(plan);
                Pause::No
            }
            Err(Stop::PullsBackOff) => {
                spans::failed(&Span::current(), "image pulls wait for their back-off");
                let now = self.services.clock.now();
                let waits =
                    self.pulls.entries().filter_map(|(key, _)| self.pulls.wait_since_update(key, now));
                match waits.map(|wait| self.services.clock.until(wait.until)).min() {
                    Some(wait) => self.at_most(&plan, wait),
                    None => self.pause_after_failure(),
                }
            }
            Err(Stop::Ending) => Pause::No,
            Err(Stop::NoNetwork) => {
                spans::failed(&Span::current(), "the container runtime has no network for pods");
                Pause::For(NETWORK_PAUSE)
            }
            Err(Stop::Failed) => {
                spans::failed(&Span::current(), "a step failed");
                if let Ok(observed) = self.observe().await {
                    self.publish(&observed, Ending::No).await;
                }
                match self.pause_after_failure() {
                    Pause::For(pause) => self.at_most(&plan, pause),
                    other => other,
                }
            }
        }
    }

    /// A pause, or less when a back-off or the deadline ends before it.
    fn at_most(&self, plan: &PodPlan, pause: Duration) -> Pause {
        match self.until_next(plan) {
            Pause::For(known) if known < pause => Pause::For(known),
            _ => Pause::For(pause + Duration::from_millis(1)),
        }
    }

    /// The next moment at which time alone changes what is to be done.
    fn until_next(&self, plan: &PodPlan) -> Pause {
        let clock = &self.services.clock;
        // Spread over half a period by the UID, so that pods do not all look at once.
        let spread =
            self.uid.as_str().bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let resync = self.services.node.sync_frequency.mul_f64(1.0 + f64::from(spread % 512) / 1024.0);
        let deadline = self.deadline().map(|at| clock.until(at));
        let volumes = self.volumes_at.map(|at| clock.until(at));
        let back_offs = plan.backing_off.iter().map(|waiting| clock.until(waiting.until));
        let next = back_offs.chain(deadline).chain(volumes).chain([resync]).min().unwrap_or(resync);
        // A timer that fires a hair early would find the time not come and spin; a millisecond is enough.
        Pause::For(next + Duration::from_millis(1))
    }

    fn tell_back_offs(&self, pod: &Pod, plan: &PodPlan) {
        for waiting in &plan.backing_off {
            let subject = self.container_subject(&waiting.name);
            self.services.events.warning(
                &subject,
                "BackOff",
                format!(
                    "Back-off restarting failed container {} in pod {}",
                    waiting.name,
                    rubelet_core::containers::described(pod)
                ),
            );
        }
    }

    /// Carries the plan out in the order the plan promises.
    async fn execute(&mut self, pod: &Arc<Pod>, observed: ObservedPod, plan: &PodPlan) -> Result<(), Stop> {
        if plan.create_sandbox.is_some() && !host_network(pod) {
            let problem = self.services.runtime_state.borrow().network_problem.clone();
            if let Some(problem) = problem {
                let text = format!("network is not ready: container runtime network not ready: {problem}");
                self.explaining.failed(PodStep::Network, &text);
                self.services.events.warning(&self.subject, "NetworkNotReady", text);
                return Err(Stop::NoNetwork);
            }
        }
        let mailbox = self.mailbox.clone();
        // A pod that is to end is killed with its own grace: kills with a longer one are given up for that.
        tokio::select! {
            biased;
            done = self.execute_kills(pod, &observed, plan) => done?,
            () = mailbox.ending() => return Err(Stop::Ending),
        }
        self.execute_removals(&observed, plan).await?;
        // On the heap: a worker at rest does not carry it. What cannot be resized now keeps nothing from starting.
        let resized = Box::pin(self.execute_resize(pod, &observed, &plan.resize)).await;
        if plan.create_sandbox.is_none() && plan.start.is_empty() {
            return resized;
        }
        if self.mailbox.is_ending() {
            return Err(Stop::Ending);
        }
        if !observed.may_run() {
            self.take_share(pod).await?;
        }
        // Images are fetched while directories, volumes and the sandbox are made.
        self.prefetch(pod, plan);
        let volumes = traced(spans::volumes(), self.prepare_volumes(pod, observed.may_run())).await?;
        self.prepare_claims(pod, plan.create_sandbox.is_some()).await?;
        let observed = match plan.create_sandbox {
            Some(attempt) => {
                self.ensure_cgroup(pod).await?;
                traced(spans::create_sandbox(), self.create_sandbox(pod, attempt)).await?;
                let observed = self.observe().await.map_err(|_| Stop::Failed)?;
                // One that died at once, or has no address (yet), gets no containers: they would only be killed.
                let usable = observed
                    .sandboxes
                    .first()
                    .is_some_and(|made| made.ready && (host_network(pod) || !made.ips.is_empty()));
                if !usable {
                    self.publish(&observed, Ending::No).await;
                    return Err(Stop::Failed);
                }
                // Clients see PodReadyToStartContainers and the IP before any container starts.
                self.publish(&observed, Ending::No).await;
                observed
            }
            None => observed,
        };
        self.execute_starts(pod, observed, plan, &volumes).await?;
        resized
    }

    /// Makes the pod's control group: what it may use is set before anything of it runs.
    async fn ensure_cgroup(&self, pod: &Pod) -> Result<(), Stop> {
        self.services.cgroups.ensure_pod(pod, &self.uid).await.map_err(|error| {
            let text = format!("unable to ensure pod container exists: {}", crate::logging::chain(&error));
            self.services.events.warning(&self.subject, "FailedCreatePodContainer", text);
            Stop::Failed
        })
    }

    async fn execute_kills(&mut self, pod: &Pod, observed: &ObservedPod, plan: &PodPlan) -> Result<(), Stop> {
        if plan.kill_pod {
            if !observed.sandboxes.is_empty() && plan.create_sandbox.is_some() {
                self.services.events.normal(
                    &self.subject,
                    "SandboxChanged",
                    "Pod sandbox changed, it will be killed and re-created.",
                );
            }
            let kill_plan = compute_kill_plan(Some(pod), observed, None, KillReason::SandboxChanged);
            let killing = kill::execute_kill_plan(
                &self.services,
                &self.subject,
                observed,
                &kill_plan,
                &self.kill_memory,
            );
            return self.killed(killing.await);
        }
        let kills: Vec<_> = plan
            .kill
            .iter()
            .filter_map(|wanted| {
                let container = observed.containers.iter().find(|c| c.id == wanted.id)?;
                Some(compute_container_kill(Some(pod), container, wanted.reason, &wanted.message))
            })
            .collect();
        let in_order = plan.kill.iter().any(|wanted| wanted.reason == KillReason::RestartAll);
        let kill_one = |wanted| {
            kill::kill_container(&self.services, &self.subject, observed, wanted, &[], &self.kill_memory)
        };
        let mut errors = vec![];
        if in_order {
            for wanted in &kills {
                errors.extend(kill_one(wanted).await.err());
            }
        } else {
            errors.extend(join_all(kills.iter().map(kill_one)).await.into_iter().filter_map(Result::err));
        }
        self.killed(if errors.is_empty() { Ok(()) } else { Err(errors) })
    }

    fn killed(&self, result: Result<(), Vec<rubelet_cri::CriError>>) -> Result<(), Stop> {
        let Err(errors) = result else {
            self.kill_memory.ends.done(KILL);
            return Ok(());
        };
        self.tell_failed_kill(&errors);
        Err(Stop::Failed)
    }

    async fn execute_removals(&mut self, observed: &ObservedPod, plan: &PodPlan) -> Result<(), Stop> {
        let with_logs =
            plan.prune.iter().map(|id| (id, true)).chain(plan.remove.iter().map(|id| (id, false)));
        for (id, logs_too) in with_logs {
            let request = v1::RemoveContainerRequest { container_id: id.to_string() };
            if let Err(error) = self.services.runtime.remove_container(request).await
                && !error.is_not_found()
            {
                self.services.events.warning(
                    &self.subject,
                    "FailedSync",
                    format!("cannot remove container {id}: {error}"),
                );
                if logs_too {
                    // Nothing depends on what is only pruned.
                    continue;
                }
                return Err(Stop::Failed);
            }
            if logs_too && let Some(container) = observed.containers.iter().find(|c| c.id == *id) {
                self.remove_logs_of(container).await;
            }
        }
        Ok(())
    }

    /// Makes the volumes ready. `running`: containers of the pod run already, which nothing of this ends.
    async fn prepare_volumes(&mut self, pod: &Pod, running: bool) -> Result<VolumePaths, Stop> {
        let dir = match self.paths() {
            Ok(paths) => paths.dir,
            Err(error) => {
                self.services.events.warning(
                    &self.subject,
                    "Failed",
                    format!("error making pod data directories: {error}"),
                );
                return Err(Stop::Failed);
            }
        };
        // Reading a Secret, or a volume that hangs, must not keep the pod from ending.
        let dirs = unless_ending(&self.mailbox, pod_dirs::make_pod_dirs(&self.services.fs, &dir));
        let Some(dirs) = self.through(Doing::Volumes, dirs).await else { return Err(Stop::Ending) };
        if let Err(error) = dirs {
            self.services.events.warning(
                &self.subject,
                "Failed",
                format!("error making pod data directories: {}", crate::logging::chain(&error)),
            );
            return Err(Stop::Failed);
        }
        let now = self.services.clock.now();
        let downward = self.services.downward(vec![]);
        let node = self.services.own_node.get();
        // What changes from here on is news again.
        self.volumes_due = false;
        let facts = VolumeFacts { downward, node, now };
        // On the heap: a worker at rest does not carry what mounting takes.
        let set_up = Box::pin(self.services.volumes.set_up(pod, &dir, &facts));
        let set_up = unless_ending(&self.mailbox, set_up);
        let Some(set_up) = self.through(Doing::Volumes, set_up).await else { return Err(Stop::Ending) };
        match set_up {
            Ok(mounted) => {
                self.explaining.done(PodStep::Volumes);
                self.volumes_at = mounted.refresh_at.into_iter().chain(self.next_look(pod)).min();
                self.tell_volumes(&mounted.behind);
                let events = &self.services.events;
                for told in mounted.warnings {
                    if told.normal {
                        events.normal(&self.subject, told.reason, told.message);
                    } else {
                        events.warning(&self.subject, told.reason, told.message);
                    }
                }
                Ok(mounted.paths)
            }
            Err(errors) => {
                self.tell_volumes(&errors.0);
                let problems = errors.0.iter();
                let problems = problems.map(|e| (e.volume.as_str(), crate::logging::chain(&e.problem)));
                self.explaining.failed(PodStep::Volumes, &volumes_text(problems));
                match errors.0.iter().find(|error| !running && error.is_out_of_room()) {
                    Some(error) => Err(self.out_of_room(error)),
                    None => Err(Stop::Failed),
                }
            }
        }
    }

    /// The node cannot take one of the pod's volumes: the pod fails, so that it can be made anew elsewhere.
    fn out_of_room(&mut self, error: &VolumeError) -> Stop {
        self.reject(VOLUME_LIMIT, error.event_message())
    }

    /// When objects that nobody tells changes of are looked at again.
    fn next_look(&self, pod: &Pod) -> Option<jiff::Timestamp> {
        let polled = self.services.api.as_ref().is_some_and(ApiObjects::is_polled);
        if !polled || rubelet_core::projection::references(pod).is_empty() {
            return None;
        }
        self.services.clock.now().checked_add(self.services.node.sync_frequency).ok()
    }

    fn tell_volumes(&self, problems: &[VolumeError]) {
        for problem in problems {
            self.services.events.warning(&self.subject, problem.event_reason(), problem.event_message());
        }
    }

    /// Whether what volumes show may be out of date.
    fn volumes_are_due(&self) -> bool {
        self.volumes_due || self.volumes_at.is_some_and(|at| at <= self.services.clock.now())
    }

    /// Brings the volumes of running containers up to date; what fails is told and tried again.
    async fn refresh_volumes(&mut self, pod: &Pod, observed: &ObservedPod) {
        self.volumes_due = false;
        if !observed.may_run() {
            return;
        }
        let made = traced(spans::volumes(), self.prepare_volumes(pod, true)).await;
        // Containers run: they wait for nothing.
        self.explaining.done(PodStep::Volumes);
        if made.is_err() {
            let again = self.services.clock.now().checked_add(VOLUMES_RETRY);
            self.volumes_at = again.ok();
        }
    }

    /// Starts containers one after another; a later one is tried although an earlier one failed, except after
    /// a regular init container.
    async fn execute_starts(
        &mut self,
        pod: &Arc<Pod>,
        mut observed: ObservedPod,
        plan: &PodPlan,
        volumes: &VolumePaths,
    ) -> Result<(), Stop> {
        let (mut failed, mut only_pulls) = (false, true);
        for start in &plan.start {
            if self.mailbox.is_ending() {
                return Err(Stop::Ending);
            }
            let Some(container) = container_of(pod, start) else { continue };
            let Some(sandbox) = observed.sandboxes.first().filter(|s| s.ready).cloned() else {
                return Err(Stop::Failed);
            };
            self.count_start(start.kind, None);
            let span = spans::start_container(&container);
            let starting = self.start_container(pod, &container, start, &sandbox, &observed, volumes);
            let started = starting.instrument(span.clone()).await;
            self.explaining.container_done();
            self.replacing.retain(|name| *name != start.name);
            match started {
                Started::Yes => {
                    self.start_errors.remove(&start.name);
                }
                Started::Ending => return Err(Stop::Ending),
                Started::No(error) => {
                    self.count_start(start.kind, Some(&error.reason));
                    spans::failed(&span, format_args!("{}: {}", error.reason, error.message));
                    only_pulls &= error.reason == "ImagePullBackOff";
                    self.start_errors.insert(start.name.clone(), error);
                    failed = true;
                    let sidecar = rubelet_core::containers::is_sidecar(&container);
                    if start.kind == ContainerKind::Init && !sidecar {
                        break;
                    }
                }
            }
            // What has become of it is published before the next one begins, and it is probed while that one has its
            // image pulled.
            observed = self.observe().await.map_err(|_| Stop::Failed)?;
            self.track_probes(&observed, false);
            self.publish(&observed, Ending::No).await;
        }
        let pruned = self.prune_dead(&observed).await;
        if failed {
            return Err(if only_pulls { Stop::PullsBackOff } else { Stop::Failed });
        }
        if !pruned {
            self.fresh = Some(observed);
        }
        Ok(())
    }
}

/// A step within a span of its own; why it failed is in the span's events.
async fn traced<T>(span: Span, step: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
    let done = step.instrument(span.clone()).await;
    if let Err(Stop::Failed) = done {
        spans::failed(&span, "it failed");
    }
    done
}

/// Whether the pod shares the node's network.
pub(super) fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// The container a plan means.
pub(super) fn container_of(
    pod: &Pod,
    start: &StartContainer,
) -> Option<k8s_openapi::api::core::v1::Container> {
    let spec = pod.spec.as_ref()?;
    match start.kind {
        ContainerKind::Init => init_containers(spec).get(start.index).cloned(),
        ContainerKind::App => spec.containers.get(start.index).cloned(),
        ContainerKind::Ephemeral => {
            spec.ephemeral_containers.as_ref()?.get(start.index).map(ephemeral_as_container)
        }
    }
}
