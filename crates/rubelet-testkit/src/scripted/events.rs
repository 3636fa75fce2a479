//! Container events of the scripted runtime: who listens, what is on its way to whom, and the answers of lists
//! and statuses, which events carry too. Faults of events are drawn here.

use rubelet_cri::v1;
use tokio::time::Instant;

use super::model::{Container, Model, Sandbox, namespaces_of};

/// One open event stream.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) id: u64,
    /// Events with the instant at which each arrives.
    pub(super) on_the_way: Vec<(Instant, v1::ContainerEventResponse)>,
}

impl Model {
    /// Opens a stream and returns its ID.
    pub(super) fn subscribe(&mut self) -> u64 {
        let id = self.subscribers.iter().map(|s| s.id + 1).max().unwrap_or_default().max(self.version + 1);
        self.subscribers.push(Subscriber { id, on_the_way: Vec::new() });
        self.version = id;
        id
    }

    /// Sends an event about a container, or about a sandbox when the two IDs are equal, to every listener.
    pub(super) fn announce(&mut self, at: Instant, sandbox: &str, id: &str, kind: v1::ContainerEventType) {
        self.version += 1;
        if self.subscribers.is_empty() || self.down_until.is_some() {
            return;
        }
        let inside = self.containers.values().filter(|c| c.sandbox_id == sandbox);
        let event = v1::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: i64::try_from(self.wall(at).as_nanosecond()).unwrap_or(i64::MAX),
            pod_sandbox_status: self.sandboxes.get(sandbox).map(Sandbox::status),
            containers_statuses: inside.map(|c| self.status_of(c)).collect(),
        };
        for subscriber in &mut self.subscribers {
            let delivery = self.faults.for_event();
            for _ in 0..delivery.copies {
                subscriber.on_the_way.push((at + delivery.late_by, event.clone()));
            }
        }
    }

    /// The next event that has arrived for a listener.
    pub(super) fn take_event(&mut self, subscriber: u64, now: Instant) -> Option<v1::ContainerEventResponse> {
        let subscriber = self.subscribers.iter_mut().find(|s| s.id == subscriber)?;
        let arrived = subscriber.on_the_way.iter().enumerate().filter(|(_, (at, _))| *at <= now);
        let (index, _) = arrived.min_by_key(|(index, (at, _))| (*at, *index))?;
        Some(subscriber.on_the_way.remove(index).1)
    }

    /// When the next event arrives for a listener.
    pub(super) fn next_arrival(&self, subscriber: u64) -> Option<Instant> {
        let subscriber = self.subscribers.iter().find(|s| s.id == subscriber)?;
        subscriber.on_the_way.iter().map(|(at, _)| *at).min()
    }

    /// The full status of a container.
    pub(super) fn status_of(&self, container: &Container) -> v1::ContainerStatus {
        let modern = self.script.kind.is_modern();
        let image = self.images.get(&container.image_id);
        let digest = image.and_then(|image| image.repo_digests.first()).cloned();
        let tag = image.and_then(|image| image.repo_tags.first()).cloned();
        let user = v1::ContainerUser { linux: Some(v1::LinuxContainerUser::default()) };
        v1::ContainerStatus {
            id: container.id.clone(),
            metadata: container.config.metadata.clone(),
            state: container.state as i32,
            created_at: container.created_at,
            started_at: container.started_at,
            finished_at: container.finished_at,
            exit_code: container.exit_code,
            image: Some(v1::ImageSpec {
                image: tag.unwrap_or_else(|| container.image_id.clone()),
                ..Default::default()
            }),
            image_ref: digest.unwrap_or_else(|| container.image_id.clone()),
            image_id: if modern { container.image_id.clone() } else { String::new() },
            reason: container.reason.clone(),
            message: container.message.clone(),
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
            mounts: container.config.mounts.clone(),
            log_path: container.log_path.clone(),
            resources: container
                .config
                .linux
                .as_ref()
                .map(|linux| v1::ContainerResources { linux: linux.resources.clone(), windows: None }),
            user: modern.then_some(user),
            stop_signal: container.config.stop_signal,
        }
    }
}

impl Sandbox {
    fn state(&self) -> i32 {
        if self.ready {
            v1::PodSandboxState::SandboxReady as i32
        } else {
            v1::PodSandboxState::SandboxNotready as i32
        }
    }

    /// Its line in the list.
    pub(super) fn line(&self) -> v1::PodSandbox {
        v1::PodSandbox {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state(),
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.handler.clone(),
        }
    }

    /// Its full status.
    pub(super) fn status(&self) -> v1::PodSandboxStatus {
        let options = namespaces_of(&self.config).cloned();
        // A stopped sandbox has lost its address, as in containerd.
        let ip = if self.ready { self.ip.clone() } else { String::new() };
        v1::PodSandboxStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state(),
            created_at: self.created_at,
            network: Some(v1::PodSandboxNetworkStatus { ip, additional_ips: vec![] }),
            linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options }) }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.handler.clone(),
        }
    }
}

impl Container {
    /// Its line in the list.
    pub(super) fn line(&self) -> v1::Container {
        v1::Container {
            id: self.id.clone(),
            pod_sandbox_id: self.sandbox_id.clone(),
            metadata: self.config.metadata.clone(),
            image: self.config.image.clone(),
            image_ref: self.image_id.clone(),
            state: self.state as i32,
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            image_id: self.image_id.clone(),
        }
    }
}
