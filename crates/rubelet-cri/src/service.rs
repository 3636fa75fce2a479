//! The two services of a container runtime, as the agent programs against them.
//!
//! Object safe, so that the agent holds `Arc<dyn RuntimeService>` and a test hands in a scripted runtime.
//! One method per RPC, named after it; each takes the request and returns the response of the protocol. Every
//! implementation answers within a deadline. The 1.36 streaming lists are not part of the seam: the plain
//! lists answer the same question. Implemented by [`crate::CriClient`] and by the testkit.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::error::CriError;
use crate::v1;

/// The answer to a call. It does not borrow the service, so it can be spawned or raced freely; dropping it
/// gives the call up (the runtime may still carry it out).
pub type CriFuture<T> = BoxFuture<'static, Result<T, CriError>>;

/// Events of containers, until the stream breaks: then it yields one error and ends, and the caller has lost
/// an unknown number of events.
pub type ContainerEventStream = BoxStream<'static, Result<v1::ContainerEventResponse, CriError>>;

/// The runtime service: sandboxes and containers.
pub trait RuntimeService: Send + Sync {
    /// Names the runtime and the version of CRI it speaks.
    fn version(&self, request: v1::VersionRequest) -> CriFuture<v1::VersionResponse>;
    /// Conditions, handlers and features of the runtime.
    fn status(&self, request: v1::StatusRequest) -> CriFuture<v1::StatusResponse>;
    /// The cgroup driver the runtime is set to; Unimplemented before containerd 2.0.
    fn runtime_config(&self, request: v1::RuntimeConfigRequest) -> CriFuture<v1::RuntimeConfigResponse>;
    /// Tells the runtime the pod CIDR of the node.
    fn update_runtime_config(
        &self,
        request: v1::UpdateRuntimeConfigRequest,
    ) -> CriFuture<v1::UpdateRuntimeConfigResponse>;
    /// Creates and starts a sandbox. Has twice the usual deadline: it may have to pull the sandbox image.
    fn run_pod_sandbox(&self, request: v1::RunPodSandboxRequest) -> CriFuture<v1::RunPodSandboxResponse>;
    /// Stops what still runs in a sandbox and frees its network. May be repeated.
    fn stop_pod_sandbox(&self, request: v1::StopPodSandboxRequest) -> CriFuture<v1::StopPodSandboxResponse>;
    /// Removes a sandbox, its containers by force. May be repeated.
    fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> CriFuture<v1::RemovePodSandboxResponse>;
    /// One sandbox in full.
    fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> CriFuture<v1::PodSandboxStatusResponse>;
    /// All sandboxes that match.
    fn list_pod_sandbox(&self, request: v1::ListPodSandboxRequest) -> CriFuture<v1::ListPodSandboxResponse>;
    /// Tells the runtime of a resized pod; Unimplemented on older runtimes.
    fn update_pod_sandbox_resources(
        &self,
        request: v1::UpdatePodSandboxResourcesRequest,
    ) -> CriFuture<v1::UpdatePodSandboxResourcesResponse>;
    /// Creates a container in a ready sandbox; the image must be there.
    fn create_container(&self, request: v1::CreateContainerRequest)
    -> CriFuture<v1::CreateContainerResponse>;
    /// Starts a created container.
    fn start_container(&self, request: v1::StartContainerRequest) -> CriFuture<v1::StartContainerResponse>;
    /// Sends the stop signal, waits the request's timeout, then kills. May be repeated. The deadline is the
    /// timeout and the usual one together.
    fn stop_container(&self, request: v1::StopContainerRequest) -> CriFuture<v1::StopContainerResponse>;
    /// Removes a container, by force when it runs. May be repeated.
    fn remove_container(&self, request: v1::RemoveContainerRequest)
    -> CriFuture<v1::RemoveContainerResponse>;
    /// All containers that match.
    fn list_containers(&self, request: v1::ListContainersRequest) -> CriFuture<v1::ListContainersResponse>;
    /// One container in full.
    fn container_status(&self, request: v1::ContainerStatusRequest)
    -> CriFuture<v1::ContainerStatusResponse>;
    /// Changes the resources of a running container.
    fn update_container_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> CriFuture<v1::UpdateContainerResourcesResponse>;
    /// Makes the runtime open the log file anew, after a rotation.
    fn reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
    ) -> CriFuture<v1::ReopenContainerLogResponse>;
    /// Writes a checkpoint of a running container.
    fn checkpoint_container(
        &self,
        request: v1::CheckpointContainerRequest,
    ) -> CriFuture<v1::CheckpointContainerResponse>;
    /// Runs a command in a container and returns its output. The deadline is the request's timeout and the
    /// usual one together; without a timeout [`Deadlines::exec_without_timeout`](crate::Deadlines).
    fn exec_sync(&self, request: v1::ExecSyncRequest) -> CriFuture<v1::ExecSyncResponse>;
    /// The URL at which a command can be streamed.
    fn exec(&self, request: v1::ExecRequest) -> CriFuture<v1::ExecResponse>;
    /// The URL at which the first process can be streamed.
    fn attach(&self, request: v1::AttachRequest) -> CriFuture<v1::AttachResponse>;
    /// The URL at which ports of a sandbox can be streamed.
    fn port_forward(&self, request: v1::PortForwardRequest) -> CriFuture<v1::PortForwardResponse>;
    /// Usage of one container.
    fn container_stats(&self, request: v1::ContainerStatsRequest) -> CriFuture<v1::ContainerStatsResponse>;
    /// Usage of all containers that match.
    fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> CriFuture<v1::ListContainerStatsResponse>;
    /// Usage of one sandbox.
    fn pod_sandbox_stats(
        &self,
        request: v1::PodSandboxStatsRequest,
    ) -> CriFuture<v1::PodSandboxStatsResponse>;
    /// Usage of all sandboxes that match.
    fn list_pod_sandbox_stats(
        &self,
        request: v1::ListPodSandboxStatsRequest,
    ) -> CriFuture<v1::ListPodSandboxStatsResponse>;
    /// What metrics the runtime offers.
    fn list_metric_descriptors(
        &self,
        request: v1::ListMetricDescriptorsRequest,
    ) -> CriFuture<v1::ListMetricDescriptorsResponse>;
    /// The metrics themselves.
    fn list_pod_sandbox_metrics(
        &self,
        request: v1::ListPodSandboxMetricsRequest,
    ) -> CriFuture<v1::ListPodSandboxMetricsResponse>;
    /// Opens the stream of container events. Returns as soon as the runtime accepted the call or kept silent
    /// for a moment (runtimes send nothing before the first event); Unimplemented, on containerd 1.6, comes
    /// from here or as the first item.
    fn container_events(&self) -> CriFuture<ContainerEventStream>;
}

/// The image service: which may be another process than the runtime service.
pub trait ImageService: Send + Sync {
    /// All images that match.
    fn list_images(&self, request: v1::ListImagesRequest) -> CriFuture<v1::ListImagesResponse>;
    /// One image; no image in the answer when the runtime does not have it.
    fn image_status(&self, request: v1::ImageStatusRequest) -> CriFuture<v1::ImageStatusResponse>;
    /// Removes an image. May be repeated.
    fn remove_image(&self, request: v1::RemoveImageRequest) -> CriFuture<v1::RemoveImageResponse>;
    /// The file systems images and writable layers lie on.
    fn image_fs_info(&self, request: v1::ImageFsInfoRequest) -> CriFuture<v1::ImageFsInfoResponse>;
    /// Pulls an image and returns the reference it is known by. Takes as long as it takes, at most `limit`.
    fn pull_image(&self, request: v1::PullImageRequest, limit: Duration) -> CriFuture<v1::PullImageResponse>;
}
