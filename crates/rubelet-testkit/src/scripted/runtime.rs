//! The runtime service of the scripted runtime: what each call does to the model.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use rubelet_cri::{ContainerEventStream, CriError, CriErrorKind, CriFuture, RuntimeService, v1};
use tokio::time::Instant;

use super::calls::{About, unreachable};
use super::history::{ExitCause, Subject};
use super::model::{Container, Model, Sandbox, subject_of_sandbox};
use super::op::Op;
use super::script::{ExecScript, RuntimeKind};
use super::{ScriptedCri, sleep_until};

impl ScriptedCri {
    /// A call whose effect happens at one instant.
    pub(super) fn at_once<T: Send + 'static>(
        &self,
        op: Op,
        about: About,
        deadline: Duration,
        act: impl FnOnce(&mut Model, Instant) -> Result<T, CriError> + Send + 'static,
    ) -> CriFuture<T> {
        self.call(op, about, deadline, move |cri| std::future::ready(cri.with(act)))
    }

    /// The same with nothing special about it: about the object of an ID, with the usual deadline.
    fn plain<T: Send + 'static>(
        &self,
        op: Op,
        id: &str,
        act: impl FnOnce(&mut Model, Instant) -> Result<T, CriError> + Send + 'static,
    ) -> CriFuture<T> {
        self.at_once(op, self.about(id), self.deadlines.request, act)
    }

    fn about(&self, id: &str) -> About {
        About::subject(self.with(|model, _| model.subject_of(id)))
    }

    fn unscripted<T: Send + 'static>(&self, op: Op, id: &str) -> CriFuture<T> {
        self.plain(op, id, move |_, _| {
            Err(CriError::new(op.name(), CriErrorKind::Unimplemented, "not part of the scripted runtime"))
        })
    }
}

/// Asks a container to end, waits, and kills it when the grace is over. When the caller goes away in between,
/// nobody kills.
async fn stop(cri: ScriptedCri, id: String, grace: Duration) -> Result<v1::StopContainerResponse, CriError> {
    let known = cri.with(|model, now| {
        let known = model.containers.contains_key(&id);
        if !grace.is_zero() {
            model.terminate(now, &id);
        }
        known || model.script.kind != RuntimeKind::Containerd16
    });
    if !known {
        let words = format!("an error occurred when try to find container {id:?}: not found");
        return Err(CriError::new(Op::StopContainer.name(), CriErrorKind::NotFound, words));
    }
    let ended = |model: &mut Model, _now| {
        let running = model.containers.get(&id).is_some_and(Container::is_running);
        (!running).then_some(())
    };
    if cri.wait_in_model(Some(Instant::now() + grace), ended).await.is_none() {
        cri.with(|model, now| model.end(&id, now, 137, ExitCause::Killed));
    }
    Ok(v1::StopContainerResponse {})
}

/// Runs a scripted command; it ends early when its container does.
async fn exec(cri: ScriptedCri, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse, CriError> {
    let op = Op::ExecSync.name();
    let id = request.container_id;
    let script: ExecScript = cri.with(|model, now| {
        let wall = i64::try_from(model.wall(now).as_nanosecond()).unwrap_or(i64::MAX);
        let container = model.container(op, &id)?;
        if !container.is_running() {
            let words = format!("container is in {} state", container.state.as_str_name());
            return Err(CriError::from_answer(op, 2, words));
        }
        let age = u64::try_from(wall - container.started_at).map_or(Duration::ZERO, Duration::from_nanos);
        let subject = container.subject.clone();
        Ok(model.script.next_exec(&subject, &request.cmd.join(" "), age))
    })?;
    let limit = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let takes = limit.map_or(script.takes, |limit| script.takes.min(limit));
    let gone = |model: &mut Model, _now| {
        let running = model.containers.get(&id).is_some_and(Container::is_running);
        (!running).then_some(())
    };
    if cri.wait_in_model(Some(Instant::now() + takes), gone).await.is_some() {
        return Ok(v1::ExecSyncResponse { exit_code: 137, ..Default::default() });
    }
    if limit.is_some_and(|limit| limit < script.takes) {
        return Err(CriError::new(op, CriErrorKind::DeadlineExceeded, "command timed out"));
    }
    match script.error {
        Some(words) => Err(CriError::from_answer(op, 2, words)),
        None => Ok(v1::ExecSyncResponse {
            stdout: script.stdout.into_bytes(),
            stderr: vec![],
            exit_code: script.exit_code,
        }),
    }
}

fn has_labels(wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn matches_sandbox(filter: &v1::PodSandboxFilter, line: &v1::PodSandbox) -> bool {
    (filter.id.is_empty() || line.id.starts_with(&filter.id))
        && filter.state.is_none_or(|state| state.state == line.state)
        && has_labels(&filter.label_selector, &line.labels)
}

fn matches_container(filter: &v1::ContainerFilter, line: &v1::Container) -> bool {
    (filter.id.is_empty() || line.id.starts_with(&filter.id))
        && (filter.pod_sandbox_id.is_empty() || line.pod_sandbox_id.starts_with(&filter.pod_sandbox_id))
        && filter.state.is_none_or(|state| state.state == line.state)
        && has_labels(&filter.label_selector, &line.labels)
}

fn condition(name: &str, reason: &str, problem: Option<&String>) -> v1::RuntimeCondition {
    v1::RuntimeCondition {
        r#type: name.to_owned(),
        status: problem.is_none(),
        reason: if problem.is_some() { reason.to_owned() } else { String::new() },
        message: problem.cloned().unwrap_or_default(),
    }
}

fn status(model: &Model) -> v1::StatusResponse {
    let script = &model.script;
    let handler = |name: &str| v1::RuntimeHandler {
        name: name.to_owned(),
        features: Some(v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: true,
            user_namespaces: true,
        }),
    };
    let modern = script.kind.is_modern();
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus {
            conditions: vec![
                condition("RuntimeReady", "RuntimeNotReady", script.runtime_problem.as_ref()),
                condition("NetworkReady", "NetworkPluginNotReady", script.network_problem.as_ref()),
            ],
        }),
        info: BTreeMap::new(),
        runtime_handlers: if modern { vec![handler(""), handler("runc")] } else { vec![] },
        features: modern.then_some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
        }),
    }
}

impl RuntimeService for ScriptedCri {
    fn version(&self, _request: v1::VersionRequest) -> CriFuture<v1::VersionResponse> {
        self.plain(Op::Version, "", |model, _| {
            Ok(v1::VersionResponse {
                version: "0.1.0".to_owned(),
                runtime_name: model.script.kind.name().to_owned(),
                runtime_version: model.script.kind.version().to_owned(),
                runtime_api_version: "v1".to_owned(),
            })
        })
    }
    fn status(&self, _request: v1::StatusRequest) -> CriFuture<v1::StatusResponse> {
        self.plain(Op::Status, "", |model, _| Ok(status(model)))
    }
    fn runtime_config(&self, _request: v1::RuntimeConfigRequest) -> CriFuture<v1::RuntimeConfigResponse> {
        let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: v1::CgroupDriver::Cgroupfs as i32 };
        self.plain(Op::RuntimeConfig, "", move |_, _| Ok(v1::RuntimeConfigResponse { linux: Some(linux) }))
    }
    fn update_runtime_config(
        &self,
        _request: v1::UpdateRuntimeConfigRequest,
    ) -> CriFuture<v1::UpdateRuntimeConfigResponse> {
        self.plain(Op::UpdateRuntimeConfig, "", |_, _| Ok(v1::UpdateRuntimeConfigResponse {}))
    }
    fn run_pod_sandbox(&self, request: v1::RunPodSandboxRequest) -> CriFuture<v1::RunPodSandboxResponse> {
        let config = request.config.unwrap_or_default();
        let about = About::subject(subject_of_sandbox(&config, ""));
        self.at_once(Op::RunPodSandbox, about, self.deadlines.run_pod_sandbox(), move |model, now| {
            let pod_sandbox_id = model.run_sandbox(now, config, request.runtime_handler)?;
            Ok(v1::RunPodSandboxResponse { pod_sandbox_id })
        })
    }
    fn stop_pod_sandbox(&self, request: v1::StopPodSandboxRequest) -> CriFuture<v1::StopPodSandboxResponse> {
        let id = request.pod_sandbox_id;
        self.plain(Op::StopPodSandbox, &id.clone(), move |model, now| {
            if model.script.kind == RuntimeKind::Containerd16 && !model.sandboxes.contains_key(&id) {
                let words = format!("an error occurred when try to find sandbox {id:?}: not found");
                return Err(CriError::new(Op::StopPodSandbox.name(), CriErrorKind::NotFound, words));
            }
            model.stop_sandbox(now, &id, ExitCause::SandboxStopped);
            Ok(v1::StopPodSandboxResponse {})
        })
    }
    fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> CriFuture<v1::RemovePodSandboxResponse> {
        let id = request.pod_sandbox_id;
        self.plain(Op::RemovePodSandbox, &id.clone(), move |model, now| {
            model.remove_sandbox(now, &id);
            Ok(v1::RemovePodSandboxResponse {})
        })
    }
    fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> CriFuture<v1::PodSandboxStatusResponse> {
        let id = request.pod_sandbox_id;
        self.plain(Op::PodSandboxStatus, &id.clone(), move |model, _| {
            let words = || format!("an error occurred when try to find sandbox {id:?}: not found");
            let sandbox = model
                .sandboxes
                .get(&id)
                .ok_or_else(|| CriError::new(Op::PodSandboxStatus.name(), CriErrorKind::NotFound, words()))?;
            Ok(v1::PodSandboxStatusResponse { status: Some(sandbox.status()), ..Default::default() })
        })
    }
    fn list_pod_sandbox(&self, request: v1::ListPodSandboxRequest) -> CriFuture<v1::ListPodSandboxResponse> {
        let filter = request.filter.unwrap_or_default();
        self.plain(Op::ListPodSandbox, "", move |model, _| {
            let lines = model.sandboxes.values().map(Sandbox::line);
            Ok(v1::ListPodSandboxResponse {
                items: lines.filter(|line| matches_sandbox(&filter, line)).collect(),
            })
        })
    }
    fn update_pod_sandbox_resources(
        &self,
        request: v1::UpdatePodSandboxResourcesRequest,
    ) -> CriFuture<v1::UpdatePodSandboxResourcesResponse> {
        self.plain(Op::UpdatePodSandboxResources, &request.pod_sandbox_id, |_, _| {
            Ok(v1::UpdatePodSandboxResourcesResponse {})
        })
    }
    fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> CriFuture<v1::CreateContainerResponse> {
        let config = request.config.unwrap_or_default();
        let metadata = config.metadata.clone().unwrap_or_default();
        let pod = request.sandbox_config.as_ref().map(|config| subject_of_sandbox(config, ""));
        let subject =
            Subject { container: metadata.name, attempt: metadata.attempt, ..pod.unwrap_or_default() };
        let deadline = self.deadlines.request;
        self.at_once(Op::CreateContainer, About::subject(subject), deadline, move |model, now| {
            let container_id = model.create_container(now, &request.pod_sandbox_id, config)?;
            Ok(v1::CreateContainerResponse { container_id })
        })
    }
    fn start_container(&self, request: v1::StartContainerRequest) -> CriFuture<v1::StartContainerResponse> {
        let id = request.container_id;
        self.plain(Op::StartContainer, &id.clone(), move |model, now| {
            model.start_container(now, &id).map(|()| v1::StartContainerResponse {})
        })
    }
    fn stop_container(&self, request: v1::StopContainerRequest) -> CriFuture<v1::StopContainerResponse> {
        let mut about = self.about(&request.container_id);
        about.grace = Some(request.timeout);
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or_default());
        let deadline = self.deadlines.stop_container(request.timeout);
        self.call(Op::StopContainer, about, deadline, move |cri| stop(cri, request.container_id, grace))
    }
    fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> CriFuture<v1::RemoveContainerResponse> {
        let id = request.container_id;
        self.plain(Op::RemoveContainer, &id.clone(), move |model, now| {
            model.remove_container(now, &id);
            Ok(v1::RemoveContainerResponse {})
        })
    }
    fn list_containers(&self, request: v1::ListContainersRequest) -> CriFuture<v1::ListContainersResponse> {
        let filter = request.filter.unwrap_or_default();
        self.plain(Op::ListContainers, "", move |model, _| {
            let lines = model.containers.values().map(Container::line);
            let containers = lines.filter(|line| matches_container(&filter, line)).collect();
            Ok(v1::ListContainersResponse { containers })
        })
    }
    fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> CriFuture<v1::ContainerStatusResponse> {
        let id = request.container_id;
        self.plain(Op::ContainerStatus, &id.clone(), move |model, _| {
            model.container(Op::ContainerStatus.name(), &id)?;
            let status = model.containers.get(&id).map(|container| model.status_of(container));
            Ok(v1::ContainerStatusResponse { status, info: BTreeMap::new() })
        })
    }
    fn update_container_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> CriFuture<v1::UpdateContainerResourcesResponse> {
        let id = request.container_id;
        self.plain(Op::UpdateContainerResources, &id.clone(), move |model, _| {
            let container = model.container(Op::UpdateContainerResources.name(), &id)?;
            container.config.linux.get_or_insert_default().resources = request.linux;
            Ok(v1::UpdateContainerResourcesResponse {})
        })
    }
    fn reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
    ) -> CriFuture<v1::ReopenContainerLogResponse> {
        let id = request.container_id;
        self.plain(Op::ReopenContainerLog, &id.clone(), move |model, _| {
            let container = model.container(Op::ReopenContainerLog.name(), &id)?;
            if container.is_running() {
                return Ok(v1::ReopenContainerLogResponse {});
            }
            Err(CriError::from_answer(Op::ReopenContainerLog.name(), 2, "container is not running"))
        })
    }
    fn checkpoint_container(
        &self,
        request: v1::CheckpointContainerRequest,
    ) -> CriFuture<v1::CheckpointContainerResponse> {
        let id = request.container_id;
        let deadline = self.deadlines.checkpoint_container(request.timeout);
        self.at_once(Op::CheckpointContainer, self.about(&id), deadline, move |model, _| {
            model.container(Op::CheckpointContainer.name(), &id)?;
            Ok(v1::CheckpointContainerResponse {})
        })
    }
    fn exec_sync(&self, request: v1::ExecSyncRequest) -> CriFuture<v1::ExecSyncResponse> {
        let mut about = self.about(&request.container_id);
        about.grace = Some(request.timeout);
        about.command.clone_from(&request.cmd);
        let deadline = self.deadlines.exec_sync(request.timeout);
        let code = |answer: &v1::ExecSyncResponse| Some(answer.exit_code);
        self.call_with_code(Op::ExecSync, about, deadline, move |cri| exec(cri, request), code)
    }
    fn exec(&self, request: v1::ExecRequest) -> CriFuture<v1::ExecResponse> {
        self.unscripted(Op::Exec, &request.container_id)
    }
    fn attach(&self, request: v1::AttachRequest) -> CriFuture<v1::AttachResponse> {
        self.unscripted(Op::Attach, &request.container_id)
    }
    fn port_forward(&self, request: v1::PortForwardRequest) -> CriFuture<v1::PortForwardResponse> {
        self.unscripted(Op::PortForward, &request.pod_sandbox_id)
    }
    fn container_stats(&self, request: v1::ContainerStatsRequest) -> CriFuture<v1::ContainerStatsResponse> {
        self.unscripted(Op::ContainerStats, &request.container_id)
    }
    fn list_container_stats(
        &self,
        _request: v1::ListContainerStatsRequest,
    ) -> CriFuture<v1::ListContainerStatsResponse> {
        self.plain(Op::ListContainerStats, "", |model, now| {
            let stats = model.containers.values().map(|container| v1::ContainerStats {
                attributes: Some(v1::ContainerAttributes {
                    id: container.id.clone(),
                    metadata: container.config.metadata.clone(),
                    labels: container.config.labels.clone(),
                    annotations: container.config.annotations.clone(),
                }),
                // Every writable layer takes as much, on the file system of images.
                writable_layer: Some(v1::FilesystemUsage {
                    timestamp: i64::try_from(model.wall(now).as_nanosecond()).unwrap_or_default(),
                    fs_id: Some(v1::FilesystemIdentifier { mountpoint: "/var/lib/scripted".to_owned() }),
                    used_bytes: Some(v1::UInt64Value { value: 4096 }),
                    inodes_used: Some(v1::UInt64Value { value: 2 }),
                }),
                ..Default::default()
            });
            Ok(v1::ListContainerStatsResponse { stats: stats.collect() })
        })
    }
    fn pod_sandbox_stats(
        &self,
        request: v1::PodSandboxStatsRequest,
    ) -> CriFuture<v1::PodSandboxStatsResponse> {
        self.unscripted(Op::PodSandboxStats, &request.pod_sandbox_id)
    }
    fn list_pod_sandbox_stats(
        &self,
        _request: v1::ListPodSandboxStatsRequest,
    ) -> CriFuture<v1::ListPodSandboxStatsResponse> {
        self.unscripted(Op::ListPodSandboxStats, "")
    }
    fn list_metric_descriptors(
        &self,
        _request: v1::ListMetricDescriptorsRequest,
    ) -> CriFuture<v1::ListMetricDescriptorsResponse> {
        self.unscripted(Op::ListMetricDescriptors, "")
    }
    fn list_pod_sandbox_metrics(
        &self,
        _request: v1::ListPodSandboxMetricsRequest,
    ) -> CriFuture<v1::ListPodSandboxMetricsResponse> {
        self.unscripted(Op::ListPodSandboxMetrics, "")
    }
    fn container_events(&self) -> CriFuture<ContainerEventStream> {
        let op = Op::GetContainerEvents;
        let cri = self.clone();
        self.at_once(op, About::default(), self.deadlines.request, move |model, _| {
            let id = model.subscribe();
            // The third part of the state says whether the stream has ended.
            let events = stream::unfold((cri, id, false), move |(cri, id, ended)| async move {
                if ended {
                    return None;
                }
                match next_event(&cri, id).await {
                    Some(event) => Some((Ok(event), (cri, id, false))),
                    None => Some((Err(unreachable(op)), (cri, id, true))),
                }
            });
            Ok(events.boxed())
        })
    }
}

/// The next event of a listener; `None` when its stream was broken.
async fn next_event(cri: &ScriptedCri, subscriber: u64) -> Option<v1::ContainerEventResponse> {
    loop {
        let mut changed = pin!(cri.shared.changed.notified());
        changed.as_mut().enable();
        let (open, event, wake) = cri.with(|model, now| {
            let open = model.subscribers.iter().any(|s| s.id == subscriber);
            let event = model.take_event(subscriber, now);
            (open, event, model.next_due().into_iter().chain(model.next_arrival(subscriber)).min())
        });
        if event.is_some() || !open {
            return event;
        }
        tokio::select! {
            biased;
            () = changed => {}
            () = sleep_until(wake) => {}
        }
    }
}
