//! The client: CRI over a unix socket. Every call has a deadline, kept here and told to the runtime.
//! Never retries and never caches. Made by the shell at start; one for the runtime and, where
//! `imageServiceEndpoint` differs, one more for the images. Every call but the endless one is a span, named and
//! described as OpenTelemetry's conventions for gRPC say; who takes spans is not known here.

use std::error::Error;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{Instrument as _, Span};

use crate::deadline::Deadlines;
use crate::endpoint::{CriEndpoint, EndpointError};
use crate::error::{CriError, CriErrorKind};
use crate::link::Link;
use crate::service::{ContainerEventStream, CriFuture, ImageService, RuntimeService};
use crate::v1;
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;

/// Largest message accepted or sent, in bytes; upstream's limit. tonic's own would be 4 MiB.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// How long the opening of the event stream waits for a refusal. A runtime that accepts sends nothing until
/// the first event, so silence must be taken for consent.
const EVENTS_REFUSAL_WAIT: Duration = Duration::from_millis(300);

/// Target of the spans of calls: a tracing layer that exports spans asks for it by this name.
pub const SPAN_TARGET: &str = "otel";

/// Adds to the metadata of a call, inside the call's span.
pub type MetadataHook = fn(&mut MetadataMap);

/// A client of one runtime endpoint. Cheap to clone; all clones share the connection.
#[derive(Clone, Debug)]
pub struct CriClient {
    channel: Channel,
    link: Arc<Link>,
    deadlines: Deadlines,
    metadata: Option<MetadataHook>,
}

impl CriClient {
    /// A client of an endpoint such as `unix:///run/containerd/containerd.sock`. Opens nothing yet; must be
    /// called within a tokio runtime, which then drives the connection.
    pub fn new(endpoint: &str, deadlines: Deadlines) -> Result<Self, EndpointError> {
        Ok(Self::at(CriEndpoint::parse(endpoint)?, deadlines))
    }

    /// The same for an endpoint that was parsed before.
    pub fn at(endpoint: CriEndpoint, deadlines: Deadlines) -> Self {
        let (channel, link) = Link::open(endpoint);
        Self { channel, link, deadlines, metadata: None }
    }

    /// The same client, whose calls carry what `hook` writes: the trace that a call belongs to.
    pub fn with_metadata(self, hook: MetadataHook) -> Self {
        Self { metadata: Some(hook), ..self }
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        self.link.path()
    }

    /// The connection, for other services of the same process.
    pub(crate) fn connection(&self) -> (Channel, Arc<Link>) {
        (self.channel.clone(), Arc::clone(&self.link))
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn image(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Bounds a call by its deadline and puts its failure into our words. `method` is the full name of the RPC.
    fn bounded<T: Send + 'static>(
        &self,
        method: &'static str,
        operation: &'static str,
        deadline: Duration,
        call: impl Future<Output = Result<Response<T>, Status>> + Send + 'static,
    ) -> CriFuture<T> {
        let link = Arc::clone(&self.link);
        async move {
            match tokio::time::timeout(deadline, call).await {
                Ok(Ok(answer)) => {
                    Span::current().record("rpc.response.status_code", "OK");
                    Ok(answer.into_inner())
                }
                Ok(Err(status)) => {
                    let error = error_of(operation, deadline, &link, &status);
                    tell_failure(status.code(), &error);
                    Err(error)
                }
                Err(_elapsed) => {
                    let error = no_answer(operation, deadline);
                    tell_failure(Code::DeadlineExceeded, &error);
                    Err(error)
                }
            }
        }
        .instrument(span_of(method))
        .boxed()
    }
}

/// The span of one call.
fn span_of(method: &'static str) -> Span {
    tracing::info_span!(
        target: SPAN_TARGET,
        "call",
        otel.name = method,
        otel.kind = "client",
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = tracing::field::Empty,
        otel.status_description = tracing::field::Empty,
    )
}

/// Says in the current span, a call's, how it failed.
fn tell_failure(code: Code, error: &CriError) {
    let span = Span::current();
    span.record("rpc.response.status_code", code_name(code));
    span.record("otel.status_description", error.message.as_str());
}

/// A status code as gRPC for Go writes it, which is what traces and texts of upstream hold.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// The full name of an RPC.
macro_rules! full_name {
    (runtime, $operation:literal) => {
        concat!("runtime.v1.RuntimeService/", $operation)
    };
    (image, $operation:literal) => {
        concat!("runtime.v1.ImageService/", $operation)
    };
}

/// One call of one service: `unary!(self, service, "Operation", method, deadline, request)`.
macro_rules! unary {
    ($self:ident, $service:ident, $operation:literal, $method:ident, $deadline:expr, $request:expr) => {{
        let deadline = $deadline;
        let mut request = Request::new($request);
        request.set_timeout(deadline);
        let mut client = $self.$service();
        let metadata = $self.metadata;
        $self.bounded(full_name!($service, $operation), $operation, deadline, async move {
            if let Some(hook) = metadata {
                hook(request.metadata_mut());
            }
            client.$method(request).await
        })
    }};
}

impl RuntimeService for CriClient {
    fn version(&self, request: v1::VersionRequest) -> CriFuture<v1::VersionResponse> {
        unary!(self, runtime, "Version", version, self.deadlines.request, request)
    }
    fn status(&self, request: v1::StatusRequest) -> CriFuture<v1::StatusResponse> {
        unary!(self, runtime, "Status", status, self.deadlines.request, request)
    }
    fn runtime_config(&self, request: v1::RuntimeConfigRequest) -> CriFuture<v1::RuntimeConfigResponse> {
        unary!(self, runtime, "RuntimeConfig", runtime_config, self.deadlines.request, request)
    }
    fn update_runtime_config(
        &self,
        request: v1::UpdateRuntimeConfigRequest,
    ) -> CriFuture<v1::UpdateRuntimeConfigResponse> {
        unary!(self, runtime, "UpdateRuntimeConfig", update_runtime_config, self.deadlines.request, request)
    }
    fn run_pod_sandbox(&self, request: v1::RunPodSandboxRequest) -> CriFuture<v1::RunPodSandboxResponse> {
        unary!(self, runtime, "RunPodSandbox", run_pod_sandbox, self.deadlines.run_pod_sandbox(), request)
    }
    fn stop_pod_sandbox(&self, request: v1::StopPodSandboxRequest) -> CriFuture<v1::StopPodSandboxResponse> {
        unary!(self, runtime, "StopPodSandbox", stop_pod_sandbox, self.deadlines.request, request)
    }
    fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> CriFuture<v1::RemovePodSandboxResponse> {
        unary!(self, runtime, "RemovePodSandbox", remove_pod_sandbox, self.deadlines.request, request)
    }
    fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> CriFuture<v1::PodSandboxStatusResponse> {
        unary!(self, runtime, "PodSandboxStatus", pod_sandbox_status, self.deadlines.request, request)
    }
    fn list_pod_sandbox(&self, request: v1::ListPodSandboxRequest) -> CriFuture<v1::ListPodSandboxResponse> {
        unary!(self, runtime, "ListPodSandbox", list_pod_sandbox, self.deadlines.request, request)
    }
    fn update_pod_sandbox_resources(
        &self,
        request: v1::UpdatePodSandboxResourcesRequest,
    ) -> CriFuture<v1::UpdatePodSandboxResourcesResponse> {
        unary!(
            self,
            runtime,
            "UpdatePodSandboxResources",
            update_pod_sandbox_resources,
            self.deadlines.request,
            request
        )
    }
    fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> CriFuture<v1::CreateContainerResponse> {
        unary!(self, runtime, "CreateContainer", create_container, self.deadlines.request, request)
    }
    fn start_container(&self, request: v1::StartContainerRequest) -> CriFuture<v1::StartContainerResponse> {
        unary!(self, runtime, "StartContainer", start_container, self.deadlines.request, request)
    }
    fn stop_container(&self, request: v1::StopContainerRequest) -> CriFuture<v1::StopContainerResponse> {
        unary!(
            self,
            runtime,
            "StopContainer",
            stop_container,
            self.deadlines.stop_container(request.timeout),
            request
        )
    }
    fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> CriFuture<v1::RemoveContainerResponse> {
        unary!(self, runtime, "RemoveContainer", remove_container, self.deadlines.request, request)
    }
    fn list_containers(&self, request: v1::ListContainersRequest) -> CriFuture<v1::ListContainersResponse> {
        unary!(self, runtime, "ListContainers", list_containers, self.deadlines.request, request)
    }
    fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> CriFuture<v1::ContainerStatusResponse> {
        unary!(self, runtime, "ContainerStatus", container_status, self.deadlines.request, request)
    }
    fn update_container_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> CriFuture<v1::UpdateContainerResourcesResponse> {
        unary!(
            self,
            runtime,
            "UpdateContainerResources",
            update_container_resources,
            self.deadlines.request,
            request
        )
    }
    fn reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
    ) -> CriFuture<v1::ReopenContainerLogResponse> {
        unary!(self, runtime, "ReopenContainerLog", reopen_container_log, self.deadlines.request, request)
    }
    fn checkpoint_container(
        &self,
        request: v1::CheckpointContainerRequest,
    ) -> CriFuture<v1::CheckpointContainerResponse> {
        unary!(
            self,
            runtime,
            "CheckpointContainer",
            checkpoint_container,
            self.deadlines.checkpoint_container(request.timeout),
            request
        )
    }
    fn exec_sync(&self, request: v1::ExecSyncRequest) -> CriFuture<v1::ExecSyncResponse> {
        unary!(self, runtime, "ExecSync", exec_sync, self.deadlines.exec_sync(request.timeout), request)
    }
    fn exec(&self, request: v1::ExecRequest) -> CriFuture<v1::ExecResponse> {
        unary!(self, runtime, "Exec", exec, self.deadlines.request, request)
    }
    fn attach(&self, request: v1::AttachRequest) -> CriFuture<v1::AttachResponse> {
        unary!(self, runtime, "Attach", attach, self.deadlines.request, request)
    }
    fn port_forward(&self, request: v1::PortForwardRequest) -> CriFuture<v1::PortForwardResponse> {
        unary!(self, runtime, "PortForward", port_forward, self.deadlines.request, request)
    }
    fn container_stats(&self, request: v1::ContainerStatsRequest) -> CriFuture<v1::ContainerStatsResponse> {
        unary!(self, runtime, "ContainerStats", container_stats, self.deadlines.request, request)
    }
    fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> CriFuture<v1::ListContainerStatsResponse> {
        unary!(self, runtime, "ListContainerStats", list_container_stats, self.deadlines.request, request)
    }
    fn pod_sandbox_stats(
        &self,
        request: v1::PodSandboxStatsRequest,
    ) -> CriFuture<v1::PodSandboxStatsResponse> {
        unary!(self, runtime, "PodSandboxStats", pod_sandbox_stats, self.deadlines.request, request)
    }
    fn list_pod_sandbox_stats(
        &self,
        request: v1::ListPodSandboxStatsRequest,
    ) -> CriFuture<v1::ListPodSandboxStatsResponse> {
        unary!(self, runtime, "ListPodSandboxStats", list_pod_sandbox_stats, self.deadlines.request, request)
    }
    fn list_metric_descriptors(
        &self,
        request: v1::ListMetricDescriptorsRequest,
    ) -> CriFuture<v1::ListMetricDescriptorsResponse> {
        unary!(
            self,
            runtime,
            "ListMetricDescriptors",
            list_metric_descriptors,
            self.deadlines.request,
            request
        )
    }
    fn list_pod_sandbox_metrics(
        &self,
        request: v1::ListPodSandboxMetricsRequest,
    ) -> CriFuture<v1::ListPodSandboxMetricsResponse> {
        unary!(
            self,
            runtime,
            "ListPodSandboxMetrics",
            list_pod_sandbox_metrics,
            self.deadlines.request,
            request
        )
    }
    fn container_events(&self) -> CriFuture<ContainerEventStream> {
        const OPERATION: &str = "GetContainerEvents";
        let link = Arc::clone(&self.link);
        let mut client = self.runtime();
        let mut opening: BoxFuture<'static, Result<Response<Streaming<v1::ContainerEventResponse>>, Status>> =
            async move { client.get_container_events(v1::GetEventsRequest {}).await }.boxed();
        async move {
            let answer = match tokio::time::timeout(EVENTS_REFUSAL_WAIT, &mut opening).await {
                Ok(Ok(answer)) => futures::future::ready(Ok(answer)).boxed(),
                Ok(Err(status)) => return Err(error_of(OPERATION, EVENTS_REFUSAL_WAIT, &link, &status)),
                Err(_silence) => opening,
            };
            let events = stream::once(answer).flat_map(move |opened| {
                let link = Arc::clone(&link);
                match opened {
                    Ok(answer) => answer
                        .into_inner()
                        .map(move |item| {
                            item.map_err(|s| error_of(OPERATION, EVENTS_REFUSAL_WAIT, &link, &s))
                        })
                        .boxed(),
                    Err(status) => {
                        let error = error_of(OPERATION, EVENTS_REFUSAL_WAIT, &link, &status);
                        stream::once(futures::future::ready(Err(error))).boxed()
                    }
                }
            });
            Ok(events.boxed())
        }
        .boxed()
    }
}

impl ImageService for CriClient {
    fn list_images(&self, request: v1::ListImagesRequest) -> CriFuture<v1::ListImagesResponse> {
        unary!(self, image, "ListImages", list_images, self.deadlines.request, request)
    }
    fn image_status(&self, request: v1::ImageStatusRequest) -> CriFuture<v1::ImageStatusResponse> {
        unary!(self, image, "ImageStatus", image_status, self.deadlines.request, request)
    }
    fn remove_image(&self, request: v1::RemoveImageRequest) -> CriFuture<v1::RemoveImageResponse> {
        unary!(self, image, "RemoveImage", remove_image, self.deadlines.request, request)
    }
    fn image_fs_info(&self, request: v1::ImageFsInfoRequest) -> CriFuture<v1::ImageFsInfoResponse> {
        unary!(self, image, "ImageFsInfo", image_fs_info, self.deadlines.request, request)
    }
    fn pull_image(&self, request: v1::PullImageRequest, limit: Duration) -> CriFuture<v1::PullImageResponse> {
        unary!(self, image, "PullImage", pull_image, self.deadlines.pull_image(limit), request)
    }
}

pub(crate) fn no_answer(operation: &'static str, deadline: Duration) -> CriError {
    CriError::new(
        operation,
        CriErrorKind::DeadlineExceeded,
        format!("no answer from the runtime within {deadline:?}"),
    )
}

/// Tells apart what the runtime answered and what went wrong on the way to it: only failures of our own
/// transport have a source.
pub(crate) fn error_of(
    operation: &'static str,
    deadline: Duration,
    link: &Link,
    status: &Status,
) -> CriError {
    let Some(source) = status.source() else {
        return CriError::from_answer(operation, status.code() as i32, status.message());
    };
    let causes: Vec<&(dyn Error + 'static)> =
        std::iter::successors(Some(source), |e| (*e).source()).collect();
    if causes.iter().any(|cause| cause.is::<tonic::TimeoutExpired>()) {
        return no_answer(operation, deadline);
    }
    if let Some((reason, retry_in)) = link.failure() {
        let mut error = CriError::new(operation, CriErrorKind::Unreachable, reason);
        error.retry_in = Some(retry_in);
        return error;
    }
    let detail = causes.last().map(|cause| cause.to_string()).unwrap_or_default();
    let message = format!("the connection to {} failed: {detail}", link.path().display());
    CriError::new(operation, CriErrorKind::Unreachable, message)
}
