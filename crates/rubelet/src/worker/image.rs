//! Images that containers need: their own, and those they mount as volumes. Looked for and pulled early where that can
//! be, and waited for when it is the container's turn. Whether to pull is `rubelet_core::image`'s decision, and which
//! runtimes mount images `rubelet_core::image_volumes`'.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Container, Pod};
use rubelet_core::backoff::BackoffKey;
use rubelet_core::image::{self, ImageReason, PullDecision, PullPolicy};
use rubelet_core::image_credentials::pod_credentials;
use rubelet_core::image_volumes::{image_volumes, mounts_parts, unsupported_by};
use rubelet_core::plan::PodPlan;
use rubelet_core::status::StartError;
use rubelet_cri::v1;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::PodWorker;
use super::explain::{Doing, unless_ending};
use super::sync::container_of;
use crate::events::EventSubject;
use crate::images::{Background, CredentialLookup, Found, PresentImage, PullAnswer, PullRequest};
use crate::pull_credentials::report_missing_pull_secrets;
use crate::tracing_export::spans;

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

/// An image that a container needs.
pub(super) struct ImageWanted {
    /// The container.
    container: String,
    /// Names it among what was looked for early: the container, or `volume <name>`, which no container can be called.
    key: String,
    /// As written.
    image: String,
    policy: Option<String>,
    /// Whom events are about.
    subject: EventSubject,
}

/// Images that a container mounts, by volume, as the runtime is to be told.
pub(super) type ImageMounts = BTreeMap<String, v1::ImageSpec>;

fn failed(reason: impl ToString, message: impl Into<String>) -> StartError {
    StartError { reason: reason.to_string(), message: message.into() }
}

impl PodWorker {
    /// The image a container is made of.
    pub(super) fn own_image(&self, container: &Container) -> ImageWanted {
        ImageWanted {
            container: container.name.clone(),
            key: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            policy: container.image_pull_policy.clone(),
            subject: self.container_subject(&container.name),
        }
    }

    /// The images a container mounts, by volume.
    fn mounted_images(&self, pod: &Pod, container: &Container) -> Vec<(String, ImageWanted)> {
        let volumes = image_volumes(pod, container).into_iter();
        let wanted = volumes.map(|(name, source)| {
            let wanted = ImageWanted {
                container: container.name.clone(),
                key: format!("volume {name}"),
                image: source.reference.clone().unwrap_or_default(),
                policy: source.pull_policy.clone(),
                // As upstream: it is the pod's volume.
                subject: self.subject.clone(),
            };
            (name.to_owned(), wanted)
        });
        wanted.collect()
    }

    /// The images that a container mounts, pulled where needed; `None` when the pod is to end.
    pub(super) async fn ensure_image_volumes(
        &mut self,
        pod: &Pod,
        container: &Container,
    ) -> Result<Option<ImageMounts>, StartError> {
        let mut mounts = ImageMounts::new();
        let wanted = self.mounted_images(pod, container);
        if wanted.is_empty() {
            return Ok(Some(mounts));
        }
        let told = |worker: &Self, error: StartError| {
            let subject = worker.container_subject(&container.name);
            worker.services.events.warning(&subject, "Failed", format!("Error: {}", error.message));
            error
        };
        let info = self.services.runtime_state.borrow().info.clone();
        let part = mounts_parts(pod, container);
        if let Some(problem) = info.and_then(|info| unsupported_by(&info.name, &info.version, part)) {
            let volumes: Vec<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
            let message = format!("cannot mount image volumes ({}): {problem}", volumes.join(", "));
            return Err(told(self, failed("CreateContainerError", message)));
        }
        let handler = self.runtime_handler(pod).await;
        let handler = handler.map_err(|problem| told(self, failed("CreateContainerConfigError", problem)))?;
        for (name, wanted) in wanted {
            let user_specified_image = wanted.image.clone();
            let image = match self.ensure_image(wanted).await {
                Ok(Some(image)) => image,
                Ok(None) => return Ok(None),
                Err(error) => return Err(told(self, error)),
            };
            let spec = v1::ImageSpec {
                image: image.reference,
                user_specified_image,
                runtime_handler: handler.clone(),
                annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
                ..v1::ImageSpec::default()
            };
            mounts.insert(name, spec);
        }
        Ok(Some(mounts))
    }

    /// Looks for the images of every container that is about to start, at a pod's start for all of them, and
    /// begins the pulls that are needed.
    pub(super) fn prefetch(&mut self, pod: &Pod, plan: &PodPlan) {
        let Some(spec) = &pod.spec else { return };
        let coming: Vec<Container> = if plan.create_sandbox.is_some() {
            rubelet_core::containers::regular_containers(spec).cloned().collect()
        } else {
            plan.start.iter().filter_map(|start| container_of(pod, start)).collect()
        };
        for container in coming {
            let own = self.own_image(&container);
            let mounted = self.mounted_images(pod, &container).into_iter().map(|(_, wanted)| wanted);
            for wanted in [own].into_iter().chain(mounted) {
                self.prefetch_image(wanted);
            }
        }
    }

    fn prefetch_image(&mut self, wanted: ImageWanted) {
        let Ok(name) = image::image_with_default_tag(&wanted.image) else { return };
        let policy = image::pull_policy(wanted.policy.as_deref(), &name);
        let now = self.services.clock.now();
        let waits = self.pulls.wait_since_update(&BackoffKey::image(&self.uid, &name), now).is_some();
        if policy == PullPolicy::Never
            || waits
            || self.prefetched.get(&wanted.key).is_some_and(|p| p.image == name)
        {
            return;
        }
        let (events, subject) = (self.services.events.clone(), wanted.subject);
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
        if let Some(answer) = answer {
            self.prefetched.insert(wanted.key, Prefetched { image: name, begun: Instant::now(), answer });
        }
    }

    /// The credentials that the pod has for an image, looked up when they are waited for.
    fn credentials(&self, subject: &EventSubject, image: &str) -> CredentialLookup {
        let services = self.services.clone();
        let (pod, subject, name) = (self.identity(), subject.clone(), image.to_owned());
        let lookup = async move {
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
        lookup.boxed()
    }

    /// What to pull, with the credentials that are looked up once it is really pulled.
    fn pull_request(&self, subject: &EventSubject, image: &str) -> PullRequest {
        let annotations = self.identity().metadata.annotations.clone().unwrap_or_default();
        PullRequest {
            image: image.to_owned(),
            annotations: annotations.into_iter().collect(),
            sandbox: self.sandbox_config.as_ref().map(|(_, config)| config.clone()),
            credentials: Some(self.credentials(subject, image)),
        }
    }

    /// What to do about an image: what is there is used only by a pod that may use it, and whoever may not is told the
    /// same as if it were not there. `None` when the pod is to end.
    async fn decide_pull(
        &self,
        container: &str,
        (policy, name): (PullPolicy, &str),
        subject: &EventSubject,
        present: Option<&PresentImage>,
    ) -> Option<PullDecision> {
        let decision = image::decide_pull(policy, name, present.is_some());
        let (PullDecision::UsePresent(_), Some(present)) = (&decision, present) else {
            return Some(decision);
        };
        let credentials = self.credentials(subject, name);
        let credentials = async { pod_credentials(&credentials.await) };
        let check = self.services.pulled.check(name, &present.reference, credentials);
        let checked = self.for_image(container, name, Instant::now(), check).await?;
        Some(if checked.may_use() { decision } else { image::decide_pull(policy, name, false) })
    }

    /// Waits for something about a container's image, and tells of it when it takes long; `None` when the pod is to
    /// end.
    async fn for_image<T>(
        &self,
        container: &str,
        image: &str,
        since: Instant,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let doing = Doing::Image { container, image, since };
        self.through(doing, unless_ending(&self.mailbox, work)).await
    }

    /// An image, pulled if its policy asks for it; `None` when the pod is to end.
    pub(super) async fn ensure_image(
        &mut self,
        wanted: ImageWanted,
    ) -> Result<Option<PresentImage>, StartError> {
        let span = spans::ensure_image(&wanted.image);
        let ensured = self.find_or_pull(wanted).instrument(span.clone()).await;
        if let Err(error) = &ensured {
            spans::failed(&span, &error.message);
        }
        ensured
    }

    async fn find_or_pull(&mut self, wanted: ImageWanted) -> Result<Option<PresentImage>, StartError> {
        let ImageWanted { container, key: place, image: written, policy, subject } = wanted;
        let events = self.services.events.clone();
        let no = |reason: ImageReason, message: String| {
            events.warning(&subject, "Failed", format!("Error: {reason}"));
            failed(reason, message)
        };
        let name = image::image_with_default_tag(&written).map_err(|error| {
            events.warning(
                &subject,
                "InspectFailed",
                format!("Failed to apply default image tag {written:?}: {error}"),
            );
            no(ImageReason::InvalidImageName, error.to_string())
        })?;
        let policy = image::pull_policy(policy.as_deref(), &name);
        let key = BackoffKey::image(&self.uid, &name);
        let prefetched = self.prefetched.remove(&place);
        let early = match prefetched.filter(|prefetched| prefetched.image == name) {
            Some(prefetched) => {
                let age = prefetched.begun.elapsed();
                let answer = async {
                    match prefetched.answer {
                        Early::Pull(pull) => Some(Found::Pulled(pull.get().await)),
                        Early::Look(look) => look.get().await,
                    }
                };
                let answer = self.for_image(&container, &name, prefetched.begun, answer);
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
                        let look = self.for_image(&container, &name, Instant::now(), look);
                        let Some(found) = look.await else { return Ok(None) };
                        found.map_err(|error| {
                            self.count_image(policy, None, None);
                            let message = format!("Failed to inspect image {name:?}: {error}");
                            events.warning(&subject, "InspectFailed", message.clone());
                            no(ImageReason::ImageInspectError, message)
                        })?
                    }
                };
                let decision = self.decide_pull(&container, (policy, &name), &subject, present.as_ref());
                let Some(decision) = decision.await else { return Ok(None) };
                let looked = looked.map(|_| present.is_some());
                match decision {
                    PullDecision::UsePresent(message) => {
                        self.count_image(policy, Some(true), Some(false));
                        events.normal(&subject, "Pulled", message);
                        return Ok(Some(present.unwrap_or_default()));
                    }
                    PullDecision::Missing(message) => {
                        self.count_image(policy, looked, None);
                        events.warning(&subject, "ErrImageNeverPull", message.clone());
                        return Err(no(ImageReason::ErrImageNeverPull, message));
                    }
                    PullDecision::Pull => self.count_image(policy, looked, Some(true)),
                }
                if let Some(wait) = self.pulls.wait_since_update(&key, self.services.clock.now()) {
                    let previous = self.start_errors.get(&container);
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
                let pull = self.for_image(&container, &name, Instant::now(), pull);
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
}

/// A duration as Go prints it to the millisecond: `1.234s`, `12ms`.
fn go_seconds(time: Duration) -> String {
    match time.as_millis() {
        millis if millis < 1000 => format!("{millis}ms"),
        _ => format!("{:.3}s", time.as_secs_f64()),
    }
}
