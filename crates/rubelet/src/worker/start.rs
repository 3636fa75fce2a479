//! Makes sandboxes and starts containers: image, files, configuration, create, start, postStart. What the
//! configuration holds is computed by `rubelet_core` and `rubelet_cri::translate`; this file gathers the facts
//! and makes the calls, each of which may be repeated after a failure.

use k8s_openapi::api::core::v1::{Container, Pod};
use rubelet_core::backoff::BackoffKey;
use rubelet_core::explain::PodStep;
use rubelet_core::ids::ContainerId;
use rubelet_core::kill::{ContainerKill, compute_container_kill};
use rubelet_core::observed::{ObservedPod, ObservedSandbox};
use rubelet_core::plan::{ContainerKind, KillReason, StartContainer};
use rubelet_core::status::StartError;
use rubelet_cri::v1;
use tracing::{Instrument as _, warn};

use super::config::Instance;
use super::explain::{Doing, unless_ending};
use super::hooks::{self, HookTarget};
use super::sync::Stop;
use super::{PodWorker, kill};
use crate::pod_dirs;
use crate::tracing_export::spans;
use rubelet_volumes::VolumePaths;

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
        // Pulls may take long and are given up when the pod is to end; the pulls themselves go on.
        let image_volumes = match self.ensure_image_volumes(pod, container).await {
            Ok(Some(images)) => images,
            Ok(None) => return Started::Ending,
            Err(error) => return Started::No(error),
        };
        let wanted = self.own_image(container);
        let image = match self.ensure_image(wanted).await {
            Ok(Some(image)) => image,
            Ok(None) => return Started::Ending,
            Err(error) => return Started::No(error),
        };
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
            image_volumes: &image_volumes,
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
        let created = self.through(Doing::Create(&container.name), creating).await;
        self.count_image_volumes(container, &image_volumes, created.as_ref().err());
        let id = match created {
            Ok(answer) => answer.container_id,
            Err(error) => {
                self.services.events.warning(&subject, "Failed", format!("Error: {error}"));
                return Started::No(failed("CreateContainerError", error.message));
            }
        };
        if start.kind != ContainerKind::Ephemeral {
            let (allocations, resources) = (&self.services.allocations, container.resources.as_ref());
            allocations.actuate_container(&self.uid, pod, &container.name, resources);
        }
        self.services.events.normal(&subject, "Created", "Container created");
        // Creating it may have taken long: nothing is started once the pod is to end.
        if self.mailbox.is_ending() {
            return Started::Ending;
        }
        if let Err(problem) = self.services.containers.before_start(&self.uid, &container.name).await {
            self.services.events.warning(&subject, "Failed", format!("Error: {problem}"));
            return Started::No(failed("PreStartHookError", problem));
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
