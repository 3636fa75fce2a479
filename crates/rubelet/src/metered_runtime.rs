//! Calls of the container runtime, counted and timed (`kubelet_runtime_operations_*`, with upstream's names of the
//! operations). Passes everything on as it is; whoever calls notices nothing.
//!
//! All calls go through [`Meter::call`]: what else is to be known of every call belongs there.

use std::sync::Arc;
use std::time::Duration;

use rubelet_cri::service::ContainerEventStream;
use rubelet_cri::{CriFuture, ImageService, RuntimeService, v1};
use rubelet_server::metrics::{Histogram, Metrics};
use tokio::time::Instant;

/// Counts calls.
#[derive(Clone)]
struct Meter {
    metrics: Metrics,
}

impl Meter {
    /// Counts one call of `operation`. One that is given up counts as failed, as upstream's do.
    fn call<T: Send + 'static>(&self, operation: &'static str, call: CriFuture<T>) -> CriFuture<T> {
        let metrics = self.metrics.clone();
        Box::pin(async move {
            let mut timer = Timer { metrics, operation, began: Instant::now(), failed: true };
            let answer = call.await;
            timer.failed = answer.is_err();
            answer
        })
    }
}

/// A call under way; ends with being dropped.
struct Timer {
    metrics: Metrics,
    operation: &'static str,
    began: Instant,
    failed: bool,
}

impl Drop for Timer {
    fn drop(&mut self) {
        let runtime = &self.metrics.runtime;
        runtime.operations.with([self.operation]).inc();
        runtime.operation_duration.with([self.operation]).observe_duration(self.began.elapsed());
        if self.failed {
            runtime.operation_errors.with([self.operation]).inc();
        }
    }
}

/// Observes a duration when it is dropped.
struct Observe {
    histogram: Arc<Histogram>,
    began: Instant,
}

impl Drop for Observe {
    fn drop(&mut self) {
        self.histogram.observe_duration(self.began.elapsed());
    }
}

/// The services of a runtime, counted.
pub fn metered(
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
    metrics: &Metrics,
) -> (Arc<dyn RuntimeService>, Arc<dyn ImageService>) {
    let meter = Meter { metrics: metrics.clone() };
    (
        Arc::new(MeteredRuntime { inner: runtime, meter: meter.clone() }),
        Arc::new(MeteredImages { inner: images, meter }),
    )
}

struct MeteredRuntime {
    inner: Arc<dyn RuntimeService>,
    meter: Meter,
}

struct MeteredImages {
    inner: Arc<dyn ImageService>,
    meter: Meter,
}

impl RuntimeService for MeteredRuntime {
    fn version(&self, request: v1::VersionRequest) -> CriFuture<v1::VersionResponse> {
        self.meter.call("version", self.inner.version(request))
    }
    fn status(&self, request: v1::StatusRequest) -> CriFuture<v1::StatusResponse> {
        self.meter.call("status", self.inner.status(request))
    }
    fn runtime_config(&self, request: v1::RuntimeConfigRequest) -> CriFuture<v1::RuntimeConfigResponse> {
        self.meter.call("runtime_config", self.inner.runtime_config(request))
    }
    fn update_runtime_config(
        &self,
        request: v1::UpdateRuntimeConfigRequest,
    ) -> CriFuture<v1::UpdateRuntimeConfigResponse> {
        self.meter.call("update_runtime_config", self.inner.update_runtime_config(request))
    }
    fn stop_pod_sandbox(&self, request: v1::StopPodSandboxRequest) -> CriFuture<v1::StopPodSandboxResponse> {
        self.meter.call("stop_podsandbox", self.inner.stop_pod_sandbox(request))
    }
    fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> CriFuture<v1::RemovePodSandboxResponse> {
        self.meter.call("remove_podsandbox", self.inner.remove_pod_sandbox(request))
    }
    fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> CriFuture<v1::PodSandboxStatusResponse> {
        self.meter.call("podsandbox_status", self.inner.pod_sandbox_status(request))
    }
    fn list_pod_sandbox(&self, request: v1::ListPodSandboxRequest) -> CriFuture<v1::ListPodSandboxResponse> {
        self.meter.call("list_podsandbox", self.inner.list_pod_sandbox(request))
    }
    fn update_pod_sandbox_resources(
        &self,
        request: v1::UpdatePodSandboxResourcesRequest,
    ) -> CriFuture<v1::UpdatePodSandboxResourcesResponse> {
        self.meter.call("update_podsandbox_resources", self.inner.update_pod_sandbox_resources(request))
    }
    fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> CriFuture<v1::CreateContainerResponse> {
        self.meter.call("create_container", self.inner.create_container(request))
    }
    fn start_container(&self, request: v1::StartContainerRequest) -> CriFuture<v1::StartContainerResponse> {
        self.meter.call("start_container", self.inner.start_container(request))
    }
    fn stop_container(&self, request: v1::StopContainerRequest) -> CriFuture<v1::StopContainerResponse> {
        self.meter.call("stop_container", self.inner.stop_container(request))
    }
    fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> CriFuture<v1::RemoveContainerResponse> {
        self.meter.call("remove_container", self.inner.remove_container(request))
    }
    fn list_containers(&self, request: v1::ListContainersRequest) -> CriFuture<v1::ListContainersResponse> {
        self.meter.call("list_containers", self.inner.list_containers(request))
    }
    fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> CriFuture<v1::ContainerStatusResponse> {
        self.meter.call("container_status", self.inner.container_status(request))
    }
    fn update_container_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> CriFuture<v1::UpdateContainerResourcesResponse> {
        self.meter.call("update_container", self.inner.update_container_resources(request))
    }
    fn reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
    ) -> CriFuture<v1::ReopenContainerLogResponse> {
        self.meter.call("reopen_container_log", self.inner.reopen_container_log(request))
    }
    fn checkpoint_container(
        &self,
        request: v1::CheckpointContainerRequest,
    ) -> CriFuture<v1::CheckpointContainerResponse> {
        self.meter.call("checkpoint_container", self.inner.checkpoint_container(request))
    }
    fn exec_sync(&self, request: v1::ExecSyncRequest) -> CriFuture<v1::ExecSyncResponse> {
        self.meter.call("exec_sync", self.inner.exec_sync(request))
    }
    fn exec(&self, request: v1::ExecRequest) -> CriFuture<v1::ExecResponse> {
        self.meter.call("exec", self.inner.exec(request))
    }
    fn attach(&self, request: v1::AttachRequest) -> CriFuture<v1::AttachResponse> {
        self.meter.call("attach", self.inner.attach(request))
    }
    fn port_forward(&self, request: v1::PortForwardRequest) -> CriFuture<v1::PortForwardResponse> {
        self.meter.call("port_forward", self.inner.port_forward(request))
    }
    fn container_stats(&self, request: v1::ContainerStatsRequest) -> CriFuture<v1::ContainerStatsResponse> {
        self.meter.call("container_stats", self.inner.container_stats(request))
    }
    fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> CriFuture<v1::ListContainerStatsResponse> {
        self.meter.call("list_container_stats", self.inner.list_container_stats(request))
    }
    fn pod_sandbox_stats(
        &self,
        request: v1::PodSandboxStatsRequest,
    ) -> CriFuture<v1::PodSandboxStatsResponse> {
        self.meter.call("podsandbox_stats", self.inner.pod_sandbox_stats(request))
    }
    fn list_pod_sandbox_stats(
        &self,
        request: v1::ListPodSandboxStatsRequest,
    ) -> CriFuture<v1::ListPodSandboxStatsResponse> {
        self.meter.call("list_podsandbox_stats", self.inner.list_pod_sandbox_stats(request))
    }
    fn list_metric_descriptors(
        &self,
        request: v1::ListMetricDescriptorsRequest,
    ) -> CriFuture<v1::ListMetricDescriptorsResponse> {
        self.meter.call("list_metric_descriptors", self.inner.list_metric_descriptors(request))
    }
    fn list_pod_sandbox_metrics(
        &self,
        request: v1::ListPodSandboxMetricsRequest,
    ) -> CriFuture<v1::ListPodSandboxMetricsResponse> {
        self.meter.call("list_podsandbox_metrics", self.inner.list_pod_sandbox_metrics(request))
    }
    fn run_pod_sandbox(&self, request: v1::RunPodSandboxRequest) -> CriFuture<v1::RunPodSandboxResponse> {
        let handler = request.runtime_handler.clone();
        let metrics = self.meter.metrics.clone();
        let call = self.inner.run_pod_sandbox(request);
        let counted = async move {
            let runtime = &metrics.runtime;
            let histogram = runtime.run_sandbox_duration.with([&handler]);
            let timer = Observe { histogram, began: Instant::now() };
            let answer = call.await;
            drop(timer);
            if answer.is_err() {
                runtime.run_sandbox_errors.with([&handler]).inc();
            }
            answer
        };
        self.meter.call("run_podsandbox", Box::pin(counted))
    }
    fn container_events(&self) -> CriFuture<ContainerEventStream> {
        self.meter.call("get_container_events", self.inner.container_events())
    }
}

impl ImageService for MeteredImages {
    fn list_images(&self, request: v1::ListImagesRequest) -> CriFuture<v1::ListImagesResponse> {
        self.meter.call("list_images", self.inner.list_images(request))
    }
    fn image_status(&self, request: v1::ImageStatusRequest) -> CriFuture<v1::ImageStatusResponse> {
        self.meter.call("image_status", self.inner.image_status(request))
    }
    fn remove_image(&self, request: v1::RemoveImageRequest) -> CriFuture<v1::RemoveImageResponse> {
        self.meter.call("remove_image", self.inner.remove_image(request))
    }
    fn image_fs_info(&self, request: v1::ImageFsInfoRequest) -> CriFuture<v1::ImageFsInfoResponse> {
        self.meter.call("image_fs_info", self.inner.image_fs_info(request))
    }
    fn pull_image(&self, request: v1::PullImageRequest, limit: Duration) -> CriFuture<v1::PullImageResponse> {
        self.meter.call("pull_image", self.inner.pull_image(request, limit))
    }
}

#[cfg(test)]
mod tests {
    use rubelet_cri::CriErrorKind;
    use rubelet_testkit::scripted::{RuntimeKind, ScriptedCri};

    use super::*;

    fn counts(metrics: &Metrics, operation: &str) -> (u64, u64, u64) {
        let runtime = &metrics.runtime;
        (
            runtime.operations.with([operation]).get(),
            runtime.operation_errors.with([operation]).get(),
            runtime.operation_duration.with([operation]).count(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn calls_and_failures_are_counted_and_answers_pass() {
        let (cri, metrics) = (Arc::new(ScriptedCri::new(RuntimeKind::Containerd17)), Metrics::new());
        let (runtime, images) = metered(cri.clone(), cri, &metrics);
        let version = runtime.version(v1::VersionRequest::default()).await.unwrap();
        assert_eq!(version.runtime_name, "containerd");
        let error = runtime
            .container_status(v1::ContainerStatusRequest { container_id: "x".into(), verbose: false })
            .await
            .unwrap_err();
        assert_eq!(error.kind, CriErrorKind::NotFound);
        images.list_images(v1::ListImagesRequest::default()).await.unwrap();
        assert_eq!(counts(&metrics, "version"), (1, 0, 1));
        assert_eq!(counts(&metrics, "container_status"), (1, 1, 1));
        assert_eq!(counts(&metrics, "list_images"), (1, 0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn sandboxes_are_counted_by_their_handler() {
        let (cri, metrics) = (Arc::new(ScriptedCri::new(RuntimeKind::Containerd17)), Metrics::new());
        let (runtime, _) = metered(cri.clone(), cri, &metrics);
        // Without a configuration no runtime makes a sandbox.
        let request = v1::RunPodSandboxRequest { config: None, runtime_handler: "kata".into() };
        runtime.run_pod_sandbox(request).await.unwrap_err();
        assert_eq!(metrics.runtime.run_sandbox_errors.with(["kata"]).get(), 1);
        assert_eq!(metrics.runtime.run_sandbox_duration.with(["kata"]).count(), 1);
        assert_eq!(counts(&metrics, "run_podsandbox"), (1, 1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_given_up_counts_as_failed_after_its_time() {
        let metrics = Metrics::new();
        let meter = Meter { metrics: metrics.clone() };
        let call = meter.call::<()>("exec_sync", Box::pin(std::future::pending()));
        tokio::time::timeout(Duration::from_secs(7), call).await.unwrap_err();
        assert_eq!(counts(&metrics, "exec_sync"), (1, 1, 1));
        assert!((metrics.runtime.operation_duration.with(["exec_sync"]).sum() - 7.0).abs() < 0.01);
        // One that was never begun was never made.
        drop(meter.call::<()>("exec", Box::pin(std::future::pending())));
        assert_eq!(counts(&metrics, "exec"), (0, 0, 0));
    }
}
