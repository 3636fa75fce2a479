//! Makes sandboxes and starts containers: image, files, configuration, create, start, postStart. What the
//! configuration holds is computed by `rubelet_core` and `rubelet_cri::translate`; this file gathers the facts
//! and makes the calls, each of which may be repeated after a failure.

use std::time::Duration;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Container, Pod};
use rubelet_core::backoff::BackoffKey;
use rubelet_core::explain::PodStep;
use rubelet_core::ids::ContainerId;
use rubelet_core::image::{self, ImageReason, PullDecision, PullPolicy};
use rubelet_core::kill::{ContainerKill, compute_container_kill};
use rubelet_core::observed::{ObservedPod, ObservedSandbox};
use rubelet_core::plan::{ContainerKind, KillReason, PodPlan, StartContainer};
use rubelet_core::status::StartError;
use rubelet_cri::v1;
use tokio::time::Instant;
use tracing::{Instrument as _, warn};

use super::config::Instance;
use super::explain::{Doing, unless_ending};
use super::hooks::{self, HookTarget};
use super::sync::{Stop, container_of};
use super::{PodWorker, kill};
use crate::events::EventSubject;
use crate::images::{Background, Found, PresentImage, PullAnswer, PullRequest};
use crate::pod_dirs;
use crate::pull_credentials::report_missing_pull_secrets;
use crate::tracing_export::spans;
use rubelet_volumes::VolumePaths;

/// How long what was found early may wait to be used.
const PREFETCH_FRESH: Duration = Duration::from_secs(60);
/// How long a pull that failed early counts; later it is tried again.
const PREFETCH_FAILED_FRESH: Duration = Duration::from_secs(10);

/// An image that was looked for, and perhaps pulled, before its container's turn.
pub(super) struct Prefetched {
    /// What was asked for: the definition may have changed since.
    image: String,
    begun: Instant,
    answer: Early,
}

enum Early {
    /// Policy Always: a pull.
    Pull(PullAnswer),
    /// IfNotPresent: a look, and a pull if it was missing.
    Look(Background),
}

/// What came of starting a container.
pub(super) enum Started {
    /// It was started, and its postStart hook returned.
    Yes,
    /// It was not; the pod says why.
    No(StartError),
    /// The pod is to end, so the attempt was given up.
    Ending,
}

fn failed(reason: impl ToString, message: impl Into<String>) -> StartError {
    StartError { reason: reason.to_string(), message: message.into() }
}

impl PodWorker {
    /// Looks for the images of every container that is about to start, at a pod's start for all of them, and
    /// begins the pulls that are needed.
    pub(super) fn prefetch(&mut self, pod: &Pod, plan: &PodPlan) {
        let Some(spec) = &pod.spec else { return };
        let now = self.services.clock.now();
        let coming: Vec<Container> = if plan.create_sandbox.is_some() {
            rubelet_core::containers::regular_containers(spec).cloned().collect()
        } else {
            plan.start.iter().filter_map(|start| container_of(pod, start)).collect()
        };
        for container in coming {
            let Ok(name) = image::image_with_default_tag(container.image.as_deref().unwrap_or_default())
            else {
                continue;
            };
            let policy = image::pull_policy(container.image_pull_policy.as_deref(), &name);
            let waits = self.pulls.wait_since_update(&BackoffKey::image(&self.uid, &name), now).is_some();
            if policy == PullPolicy::Never
                || waits
                || self.prefetched.get(&container.name).is_some_and(|p| p.image == name)
            {
                continue;
            }
            let (events, subject) = (self.services.events.clone(), self.container_subject(&container.name));
            let images = self.services.images.clone();
            let text = format!("Pulling image {name:?}");
            let request = self.pull_request(&subject, &name);
            let span = spans::prefetch_image(&name);
            let answer = span.in_scope(|| match policy {
                PullPolicy::Always if images.may_pull_now() => {
                    events.normal(&subject, "Pulling", text);
                    Some(Early::Pull(images.pull(request)))
                }
                PullPolicy::Always => None,
                _ => {
                    let limit = images.clone();
                    Some(Early::Look(images.find_or_pull(request, move || {
                        let allowed = limit.may_pull_now();
                        if allowed {
                            events.normal(&subject, "Pulling", text);
                        }
                        allowed
                    })))
                }
            });
            let Some(answer) = answer else { continue };
            self.prefetched
                .insert(container.name.clone(), Prefetched { image: name, begun: Instant::now(), answer });
        }
    }

    /// What to pull, with the credentials that are looked up once it is really pulled.
    fn pull_request(&self, subject: &EventSubject, image: &str) -> PullRequest {
        let services = self.services.clone();
        let (pod, subject, name) = (self.identity(), subject.clone(), image.to_owned());
        let annotations = pod.metadata.annotations.clone().unwrap_or_default();
        let credentials = async move {
            let secrets = match &services.api {
                Some(api) => {
                    let (found, missing) = api.pull_secrets(&pod).await;
                    report_missing_pull_secrets(&services.events, &subject, &missing);
                    found
                }
                None => vec![],
            };
            let events = services.events.clone();
            services.pull_credentials.for_pull(pod, &name, secrets, events, subject).await
        };
        PullRequest {
            image: image.to_owned(),
            annotations: annotations.into_iter().collect(),
            sandbox: self.sandbox_config.as_ref().map(|(_, config)| config.clone()),
            credentials: Some(credentials.boxed()),
        }
    }

    /// Makes the pod's sandbox.
    pub(super) async fn create_sandbox(&mut self, pod: &Pod, attempt: u32) -> Result<(), Stop> {
        self.count_sandbox(pod, false);
        let tell = |worker: &Self, problem: String| {
            worker.count_sandbox(pod, true);
            let text = format!("Failed to create pod sandbox: {problem}");
            worker.explaining.failed(PodStep::Sandbox, &text);
            worker.services.events.warning(&worker.subject, "FailedCreatePodSandBox", text);
            Stop::Failed
        };
        let (config, handler) = match self.sandbox_config(pod, attempt).await {
            Ok(made) => made,
            Err(problem) => return Err(tell(self, problem)),
        };
        if let Err(error) =
            pod_dirs::make_log_dir(&self.services.fs, std::path::Path::new(&config.log_directory)).await
        {
            return Err(tell(self, crate::logging::chain(&error)));
        }
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler };
        // A network that does not come up must not keep the pod from ending.
        let making = unless_ending(&self.mailbox, self.services.runtime.run_pod_sandbox(request));
        let Some(made) = self.through(Doing::Sandbox, making).await else { return Err(Stop::Ending) };
        match made {
            Ok(answer) => {
                self.explaining.done(PodStep::Network);
                self.explaining.done(PodStep::Sandbox);
                self.sandbox_config = Some((answer.pod_sandbox_id.into(), config));
                Ok(())
            }
            Err(error) => Err(tell(self, error.to_string())),
        }
    }

    /// The configuration a sandbox was made from: remembered, or after a restart of the agent made anew.
    async fn sandbox_config_of(
        &mut self,
        pod: &Pod,
        sandbox: &ObservedSandbox,
    ) -> Result<v1::PodSandboxConfig, StartError> {
        if let Some((_, config)) = self.sandbox_config.as_ref().filter(|(id, _)| *id == sandbox.id) {
            return Ok(config.clone());
        }
        let made = self.sandbox_config(pod, sandbox.attempt).await;
        let (config, _) = made.map_err(|problem| failed("CreateContainerConfigError", problem))?;
        self.sandbox_config = Some((sandbox.id.clone(), config.clone()));
        Ok(config)
    }

    /// Starts one container.
    pub(super) async fn start_container(
        &mut self,
        pod: &Pod,
        container: &Container,
        start: &StartContainer,
        sandbox: &ObservedSandbox,
        observed: &ObservedPod,
        volumes: &VolumePaths,
    ) -> Started {
        // The pull may take long and is given up when the pod is to end; the pull itself goes on.
        let span = spans::ensure_image(container);
        let image = match self.ensure_image(container).instrument(span.clone()).await {
            Ok(Some(image)) => image,
            Ok(None) => return Started::Ending,
            Err(error) => {
                spans::failed(&span, &error.message);
                return Started::No(error);
            }
        };
        drop(span);
        let subject = self.container_subject(&container.name);
        let count = match self.next_restart_count(container, observed).await {
            Ok(count) => count,
            Err(error) => return Started::No(error),
        };
        let sandbox_config = match self.sandbox_config_of(pod, sandbox).await {
            Ok(config) => config,
            Err(error) => return Started::No(error),
        };
        let instance = Instance {
            start,
            sandbox,
            sandbox_config: &sandbox_config,
            observed,
            image: &image,
            count,
            volumes,
        };
        let (config, sandbox_config) = match self.container_config(pod, container, &instance).await {
            Ok(made) => made,
            Err(error) => {
                self.services.events.warning(&subject, "Failed", format!("Error: {}", error.message));
                return Started::No(error);
            }
        };
        if self.mailbox.is_ending() {
            return Started::Ending;
        }
        if let Some(since) = start.restart_since {
            self.restarts.next(BackoffKey::container(pod, container), since, self.services.clock.now());
            // Written before the start: an agent that is killed right after it still knows the delay.
            self.save().await;
        }
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.id.to_string(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let creating = self.services.runtime.create_container(request);
        let id = match self.through(Doing::Create(&container.name), creating).await {
            Ok(answer) => answer.container_id,
            Err(error) => {
                self.services.events.warning(&subject, "Failed", format!("Error: {error}"));
                return Started::No(failed("CreateContainerError", error.message));
            }
        };
        self.services.events.normal(&subject, "Created", "Container created");
        // Creating it may have taken long: nothing is started once the pod is to end.
        if self.mailbox.is_ending() {
            return Started::Ending;
        }
        let request = v1::StartContainerRequest { container_id: id.clone() };
        let starting = self.services.runtime.start_container(request);
        if let Err(error) = self.through(Doing::Start(&container.name), starting).await {
            self.services.events.warning(&subject, "Failed", format!("Error: {error}"));
            return Started::No(failed("RunContainerError", error.message));
        }
        self.services.events.normal(&subject, "Started", "Container started");
        self.link_log(pod, container, &id, count).await;
        if start.kind != ContainerKind::Ephemeral {
            return self.post_start(pod, container, &id.as_str().into(), sandbox).await;
        }
        Started::Yes
    }

    async fn post_start(
        &mut self,
        pod: &Pod,
        container: &Container,
        id: &ContainerId,
        sandbox: &ObservedSandbox,
    ) -> Started {
        let Some(handler) = container.lifecycle.as_ref().and_then(|hooks| hooks.post_start.as_ref()) else {
            return Started::Yes;
        };
        let pod_ip = sandbox.ips.first().map(String::as_str);
        let ports = container.ports.as_deref().unwrap_or_default();
        let target = HookTarget { id, ports, pod_ip };
        // A hook without an end must not keep the pod from ending.
        let hook = hooks::run(&*self.services.runtime, handler, target, None).instrument(spans::post_start());
        let hook = unless_ending(&self.mailbox, hook);
        let Some(result) = self.through(Doing::PostStart(&container.name), hook).await else {
            return Started::Ending;
        };
        let error = match result {
            Ok(ran) => {
                ran.tell(&self.services, &self.subject);
                return Started::Yes;
            }
            Err(error) => error,
        };
        let message = format!("PostStartHook failed: {}", crate::logging::chain(&error));
        let subject = self.container_subject(&container.name);
        self.services.events.warning(&subject, "FailedPostStartHook", message.clone());
        if !error.is_verdict() {
            // The runtime went away or gave up in the middle: that says nothing against the container.
            return Started::Yes;
        }
        let observed = match self.services.pleg.observe(&self.uid).await {
            Ok(observed) => observed,
            Err(_) => ObservedPod::absent(self.uid.clone()),
        };
        let kill = match observed.containers.iter().find(|c| c.id == *id) {
            Some(running) => {
                compute_container_kill(Some(pod), running, KillReason::PostStartHook, "FailedPostStartHook")
            }
            // It cannot be observed right now, and is to be killed all the same.
            None => ContainerKill {
                id: id.clone(),
                name: container.name.clone(),
                reason: KillReason::PostStartHook,
                message: format!("Stopping container {}", container.name),
                grace_seconds: i64::try_from(self.own_grace()).unwrap_or(i64::MAX),
                pre_stop: container.lifecycle.as_ref().and_then(|hooks| hooks.pre_stop.clone()),
                wait_for: vec![],
            },
        };
        let killing =
            kill::kill_container(&self.services, &self.subject, &observed, &kill, &[], &self.kill_memory);
        // The end of the pod kills it too, with a grace that may be shorter.
        tokio::select! {
            biased;
            killed = killing => if let Err(error) = killed {
                warn!(pod = self.subject.name, "{error}");
            },
            () = self.mailbox.ending() => return Started::Ending,
        }
        Started::No(failed("PostStartHookError", message))
    }

    /// Waits for something about a container's image, and tells of it when it takes long; `None` when the pod is to
    /// end.
    async fn for_image<T>(
        &self,
        container: &Container,
        image: &str,
        since: Instant,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let doing = Doing::Image { container: &container.name, image, since };
        self.through(doing, unless_ending(&self.mailbox, work)).await
    }

    /// The image of a container, pulled if its policy asks for it; `None` when the pod is to end.
    async fn ensure_image(&mut self, container: &Container) -> Result<Option<PresentImage>, StartError> {
        let subject = self.container_subject(&container.name);
        let events = self.services.events.clone();
        let no = |reason: ImageReason, message: String| {
            events.warning(&subject, "Failed", format!("Error: {reason}"));
            failed(reason, message)
        };
        let written = container.image.as_deref().unwrap_or_default();
        let name = image::image_with_default_tag(written).map_err(|error| {
            events.warning(
                &subject,
                "InspectFailed",
                format!("Failed to apply default image tag {written:?}: {error}"),
            );
            no(ImageReason::InvalidImageName, error.to_string())
        })?;
        let policy = image::pull_policy(container.image_pull_policy.as_deref(), &name);
        let key = BackoffKey::image(&self.uid, &name);
        let prefetched = self.prefetched.remove(&container.name);
        let early = match prefetched.filter(|prefetched| prefetched.image == name) {
            Some(prefetched) => {
                let age = prefetched.begun.elapsed();
                let answer = async {
                    match prefetched.answer {
                        Early::Pull(pull) => Some(Found::Pulled(pull.get().await)),
                        Early::Look(look) => look.get().await,
                    }
                };
                let answer = self.for_image(container, &name, prefetched.begun, answer);
                let Some(found) = answer.await else { return Ok(None) };
                // What was found long ago, because another container came first, is looked for again.
                found.filter(|found| match found {
                    Found::Pulled(Err(_)) => age < PREFETCH_FAILED_FRESH,
                    _ => age < PREFETCH_FRESH,
                })
            }
            None => None,
        };
        let looked = (policy != PullPolicy::Always).then_some(false);
        let result = match early {
            Some(Found::Pulled(result)) => {
                self.count_image(policy, looked, Some(true));
                result
            }
            early => {
                let present = match (early, policy) {
                    (Some(Found::Present(image)), _) => Some(image),
                    (_, PullPolicy::Always) => None,
                    _ => {
                        let look = self.services.images.find(&name);
                        let look = self.for_image(container, &name, Instant::now(), look);
                        let Some(found) = look.await else { return Ok(None) };
                        found.map_err(|error| {
                            self.count_image(policy, None, None);
                            let message = format!("Failed to inspect image {name:?}: {error}");
                            events.warning(&subject, "InspectFailed", message.clone());
                            no(ImageReason::ImageInspectError, message)
                        })?
                    }
                };
                match image::decide_pull(policy, &name, present.is_some()) {
                    PullDecision::UsePresent(message) => {
                        self.count_image(policy, Some(true), Some(false));
                        events.normal(&subject, "Pulled", message);
                        return Ok(Some(present.unwrap_or_default()));
                    }
                    PullDecision::Missing(message) => {
                        self.count_image(policy, Some(false), None);
                        events.warning(&subject, "ErrImageNeverPull", message.clone());
                        return Err(no(ImageReason::ErrImageNeverPull, message));
                    }
                    PullDecision::Pull => self.count_image(policy, looked, Some(true)),
                }
                if let Some(wait) = self.pulls.wait_since_update(&key, self.services.clock.now()) {
                    let previous = self.start_errors.get(&container.name);
                    let previous = previous.map(|error| (error.reason.as_str(), error.message.as_str()));
                    let (event, waiting) = image::back_off_messages(&name, previous, wait.until);
                    events.normal(&subject, "BackOff", event);
                    return Err(no(ImageReason::ImagePullBackOff, waiting));
                }
                if !self.services.images.may_pull_now() {
                    // Nothing has failed: it is not its turn.
                    return Err(failed(ImageReason::ErrImagePull, "pull QPS exceeded"));
                }
                events.normal(&subject, "Pulling", format!("Pulling image {name:?}"));
                let pull = self.services.images.pull(self.pull_request(&subject, &name)).get();
                let pull = self.for_image(container, &name, Instant::now(), pull);
                let Some(pulled) = pull.await else { return Ok(None) };
                pulled
            }
        };
        match result {
            Ok(pulled) => {
                self.pulls.forget(&key);
                self.count_pull(&pulled);
                events.normal(
                    &subject,
                    "Pulled",
                    format!(
                        "Successfully pulled image {name:?} in {} ({} including waiting). Image size: {} bytes.",
                        go_seconds(pulled.took),
                        go_seconds(pulled.waited),
                        pulled.image.size
                    ),
                );
                Ok(Some(pulled.image))
            }
            Err(error) => {
                let now = self.services.clock.now();
                self.pulls.next(key, now, now);
                let (reason, message) = image::pull_failure(&name, &error.message);
                events.warning(
                    &subject,
                    "Failed",
                    format!("Failed to pull image {name:?}: {}", error.message),
                );
                Err(no(reason, message))
            }
        }
    }

    /// The restart count of the next instance: one more than the newest, or what the logs tell when the runtime
    /// has forgotten the container; never less than what was reported.
    async fn next_restart_count(
        &self,
        container: &Container,
        observed: &ObservedPod,
    ) -> Result<u32, StartError> {
        if let Some(newest) = observed.newest_container(&container.name) {
            return Ok(newest.facts.restart_count.max(newest.attempt).saturating_add(1));
        }
        let paths = self.paths().map_err(|error| failed("CreateContainerConfigError", error.to_string()))?;
        let dir = paths
            .container_logs(&container.name)
            .map_err(|e| failed("CreateContainerConfigError", e.to_string()))?;
        pod_dirs::restart_count_from_logs(&self.services.fs, &dir)
            .await
            .map_err(|error| failed("CreateContainerConfigError", crate::logging::chain(&error)))
    }

    /// Puts the legacy symlink in place; without it only log collectors that use it miss the container.
    async fn link_log(&self, pod: &Pod, container: &Container, id: &str, count: u32) {
        let Ok(paths) = self.paths() else { return };
        let log = paths.container_log(&container.name, count);
        let link = rubelet_core::paths::legacy_log_link(pod, &container.name, id);
        if let (Ok(log), Ok(link)) = (log, link) {
            let link = self.services.node.container_logs_dir.join(link);
            if let Err(error) = pod_dirs::link_log(&self.services.fs, &link, &log).await {
                warn!(pod = self.subject.name, "{}", crate::logging::chain(&error));
            }
        }
    }
}

/// A duration as Go prints it to the millisecond: `1.234s`, `12ms`.
fn go_seconds(time: Duration) -> String {
    match time.as_millis() {
        millis if millis < 1000 => format!("{millis}ms"),
        _ => format!("{:.3}s", time.as_secs_f64()),
    }
}
