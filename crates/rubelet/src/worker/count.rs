//! What a worker counts of its pod: rounds, starts, ends of containers, pulls. Counts only; decides nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodStatus};
use rubelet_core::Pod;
use rubelet_core::image::PullPolicy;
use rubelet_core::lifecycle::PodState;
use rubelet_core::phase::Phase;
use rubelet_core::plan::ContainerKind;
use rubelet_core::static_pod::CONFIG_SEEN_ANNOTATION;
use rubelet_core::tally::{image_size_label, terminations};
use rubelet_cri::CriError;

use super::PodWorker;
use super::image::ImageMounts;
use crate::images::Pulled;

/// How a runtime begins to say that it could not mount an image.
const IMAGE_VOLUME_FAILED: &str = "ImageVolumeMountFailed";

/// What is known of the rounds of a worker.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// It has begun its pod.
    begun: bool,
    /// Its pod was changed since the last round.
    pub(super) updated: bool,
}

impl PodWorker {
    /// What the next round is for, in upstream's words; `None` while the pod waits for another one, and
    /// when all is done.
    pub(super) fn operation(&self) -> Option<&'static str> {
        match self.state {
            PodState::WaitingForPredecessor | PodState::Finished { .. } => None,
            PodState::Syncing if !self.rounds.begun => Some("create"),
            PodState::Syncing if self.rounds.updated => Some("update"),
            PodState::Syncing => Some("sync"),
            PodState::Terminating { .. } => Some("kill"),
            PodState::Terminated { .. } => Some("terminated"),
        }
    }

    /// A round begins.
    pub(super) fn count_begin(&mut self) {
        if !matches!(self.state, PodState::Syncing) {
            return;
        }
        self.rounds.updated = false;
        if std::mem::replace(&mut self.rounds.begun, true) {
            return;
        }
        let pods = &self.services.metrics.pods;
        if let Some(pod) = &self.pod {
            let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
            pods.containers_per_pod.observe(containers as f64);
        }
        if let Some(age) = self.since_seen() {
            pods.worker_start_duration.observe_duration(age);
        }
    }

    /// A round has ended.
    pub(super) fn count_round(&self, operation: Option<&'static str>, took: Duration) {
        if let Some(operation) = operation {
            self.services.metrics.pods.worker_duration.with([operation]).observe_duration(took);
        }
    }

    /// A status is about to be published instead of `before`.
    pub(super) fn count_status(&self, before: Option<&PodStatus>, after: &PodStatus) {
        let pods = &self.services.metrics.pods;
        for end in terminations(before, after) {
            let code = end.exit_code.to_string();
            pods.containers_terminated.with([end.container_type, &code, end.reason]).inc();
        }
        let was_pending = before.and_then(Phase::of).is_none_or(|phase| phase == Phase::Pending);
        if was_pending
            && Phase::of(after) == Some(Phase::Running)
            && let Some(age) = self.since_seen()
        {
            pods.start_duration.observe_duration(age);
        }
    }

    /// A sandbox is about to be made, or could not be.
    pub(super) fn count_sandbox(&self, pod: &Pod, failed: bool) {
        let pods = &self.services.metrics.pods;
        let own_users = pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false);
        if failed {
            pods.start_errors.inc();
        } else {
            pods.started.inc();
        }
        match (own_users, failed) {
            (false, _) => {}
            (true, false) => pods.user_namespaced_started.inc(),
            (true, true) => pods.user_namespaced_start_errors.inc(),
        }
    }

    /// A container is about to be started, or could not be for this reason.
    pub(super) fn count_start(&self, kind: ContainerKind, failed: Option<&str>) {
        let pods = &self.services.metrics.pods;
        let container_type = match kind {
            ContainerKind::Init => "init_container",
            ContainerKind::App => "container",
            ContainerKind::Ephemeral => "ephemeral_container",
        };
        match failed {
            None => pods.containers_started.with([container_type]).inc(),
            Some(reason) => pods.container_start_errors.with([container_type, reason]).inc(),
        }
    }

    /// A container that mounts these images was created, or could not be for this reason.
    pub(super) fn count_image_volumes(
        &self,
        container: &Container,
        mounted: &ImageMounts,
        failed: Option<&CriError>,
    ) {
        let images = &self.services.metrics.images;
        let failed = failed.is_some_and(|error| error.message.starts_with(IMAGE_VOLUME_FAILED));
        mounted.keys().for_each(|_| images.volumes_requested.inc());
        for _ in container.volume_mounts.iter().flatten().filter(|mount| mounted.contains_key(&mount.name)) {
            if failed { images.volumes_failed.inc() } else { images.volumes_mounted.inc() }
        }
    }

    /// An image was asked for. `present`: whether it was there, where that was looked at; `pull`: whether it has to be
    /// pulled, where that was decided.
    pub(super) fn count_image(&self, policy: PullPolicy, present: Option<bool>, pull: Option<bool>) {
        let word = |known: Option<bool>| match known {
            Some(true) => "true",
            Some(false) => "false",
            None => "unknown",
        };
        let policy = match policy {
            PullPolicy::Always => "always",
            PullPolicy::IfNotPresent => "ifnotpresent",
            PullPolicy::Never => "never",
        };
        self.services.metrics.images.ensure_requests.with([policy, word(present), word(pull)]).inc();
    }

    /// An image was pulled for this pod.
    pub(super) fn count_pull(&self, pulled: &Pulled) {
        let size = image_size_label(pulled.image.size);
        self.services.metrics.images.pull_duration.with([size]).observe_duration(pulled.waited);
        let ago = jiff::SignedDuration::try_from(pulled.ended.elapsed()).unwrap_or_default();
        if let Ok(end) = self.services.clock.now().checked_sub(ago) {
            self.services.startups.pulled(&self.uid, pulled.waited, end);
        }
    }

    /// How long ago the pod was first seen by this agent.
    fn since_seen(&self) -> Option<Duration> {
        let annotations = self.pod.as_ref()?.metadata.annotations.as_ref()?;
        let seen: jiff::Timestamp = annotations.get(CONFIG_SEEN_ANNOTATION)?.parse().ok()?;
        self.services.clock.now().duration_since(seen).try_into().ok()
    }
}
