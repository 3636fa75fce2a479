//! The spans that the agent makes, with upstream's names and attributes where upstream has them: `syncPod`,
//! `syncTerminatingPod` and `syncTerminatedPod` begin traces of their own. Only `tracing` is used here: whether
//! anybody takes the spans is not known. The calls of the runtime are in `rubelet_cri`.

use k8s_openapi::api::core::v1::{Container, Pod};
use tracing::Span;

/// Target of every span that is exported, and of the events in them; the logger leaves it out.
pub const TARGET: &str = rubelet_cri::SPAN_TARGET;

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// One request to the kubelet API by somebody who may make it, named by its endpoint; a child of the span that the
/// client names, if it names one.
pub fn request(request: &http::Request<rubelet_server::Body>) -> Span {
    let path = request.uri().path();
    let endpoint = path.get(1..).and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let span = tracing::info_span!(
        target: TARGET,
        parent: None,
        "request",
        otel.name = format!("/{endpoint}"),
        otel.kind = "server",
        http.request.method = request.method().as_str(),
        url.path = path,
        http.response.status_code = tracing::field::Empty,
    );
    super::follow_headers(&span, request.headers());
    span
}

/// One sync of a pod that is to run; `update_type` is upstream's word for what it is for: `create`, `update`, `sync`.
pub fn sync_pod(pod: &Pod, update_type: &str) -> Span {
    tracing::info_span!(
        target: TARGET,
        parent: None,
        "syncPod",
        k8s.pod.uid = uid(pod),
        k8s.pod = format!("{}/{}", namespace(pod), name(pod)),
        k8s.pod.name = name(pod),
        k8s.pod.update_type = update_type,
        k8s.namespace.name = namespace(pod),
        otel.status_description = tracing::field::Empty,
    )
}

/// One attempt to end a pod.
pub fn sync_terminating_pod(pod: &Pod) -> Span {
    tracing::info_span!(
        target: TARGET,
        parent: None,
        "syncTerminatingPod",
        k8s.pod.uid = uid(pod),
        k8s.pod = format!("{}/{}", namespace(pod), name(pod)),
        k8s.pod.name = name(pod),
        k8s.namespace.name = namespace(pod),
        otel.status_description = tracing::field::Empty,
    )
}

/// One clean-up after a pod that has ended.
pub fn sync_terminated_pod(pod: &Pod) -> Span {
    tracing::info_span!(
        target: TARGET,
        parent: None,
        "syncTerminatedPod",
        k8s.pod.uid = uid(pod),
        k8s.pod = format!("{}/{}", namespace(pod), name(pod)),
        k8s.pod.name = name(pod),
        k8s.namespace.name = namespace(pod),
        otel.status_description = tracing::field::Empty,
    )
}

/// Whether the node takes a pod.
pub fn admission() -> Span {
    tracing::info_span!(target: TARGET, "admitPod", otel.status_description = tracing::field::Empty)
}

/// Making the volumes of a pod ready.
pub fn volumes() -> Span {
    tracing::info_span!(
        target: TARGET,
        "WaitForAttachAndMount",
        otel.status_description = tracing::field::Empty
    )
}

/// Making the sandbox of a pod; holds the runtime's `RunPodSandbox`.
pub fn create_sandbox() -> Span {
    tracing::info_span!(
        target: TARGET,
        "createPodSandbox",
        otel.status_description = tracing::field::Empty
    )
}

/// Starting one container, from its image to its postStart hook.
pub fn start_container(container: &Container) -> Span {
    tracing::info_span!(
        target: TARGET,
        "startContainer",
        k8s.container.name = container.name,
        container.image.name = container.image,
        otel.status_description = tracing::field::Empty,
    )
}

/// Waiting for the image of one container.
pub fn ensure_image(image: &str) -> Span {
    tracing::info_span!(
        target: TARGET,
        "EnsureImageExists",
        container.image.name = image,
        otel.status_description = tracing::field::Empty,
    )
}

/// A postStart hook.
pub fn post_start() -> Span {
    tracing::info_span!(target: TARGET, "postStart", otel.status_description = tracing::field::Empty)
}

/// Looking for an image, and pulling it, before its container's turn.
pub fn prefetch_image(image: &str) -> Span {
    tracing::info_span!(target: TARGET, "prefetchImage", container.image.name = image)
}

/// What a span stands for has failed, for this reason.
pub fn failed(span: &Span, reason: impl std::fmt::Display) {
    span.record("otel.status_description", tracing::field::display(reason));
}

/// Something that a user can see has happened; an event of the current span.
pub fn event(reason: &str, message: &str) {
    tracing::info!(target: TARGET, text = message, "{reason}");
}
