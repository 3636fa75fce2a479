//! The calls of a runtime service that are nobody's pod's, or of which nobody waits for the end: passed on unwatched.

/// Passes calls on to `self.inner`: the rest of an `impl RuntimeService`.
macro_rules! passed {
    () => {
        $crate::node_health::passed::passed! {
            version: VersionRequest => VersionResponse,
            status: StatusRequest => StatusResponse,
            runtime_config: RuntimeConfigRequest => RuntimeConfigResponse,
            update_runtime_config: UpdateRuntimeConfigRequest => UpdateRuntimeConfigResponse,
            list_pod_sandbox: ListPodSandboxRequest => ListPodSandboxResponse,
            update_pod_sandbox_resources: UpdatePodSandboxResourcesRequest => UpdatePodSandboxResourcesResponse,
            list_containers: ListContainersRequest => ListContainersResponse,
            update_container_resources: UpdateContainerResourcesRequest => UpdateContainerResourcesResponse,
            reopen_container_log: ReopenContainerLogRequest => ReopenContainerLogResponse,
            checkpoint_container: CheckpointContainerRequest => CheckpointContainerResponse,
            exec_sync: ExecSyncRequest => ExecSyncResponse,
            exec: ExecRequest => ExecResponse,
            attach: AttachRequest => AttachResponse,
            port_forward: PortForwardRequest => PortForwardResponse,
            container_stats: ContainerStatsRequest => ContainerStatsResponse,
            list_container_stats: ListContainerStatsRequest => ListContainerStatsResponse,
            pod_sandbox_stats: PodSandboxStatsRequest => PodSandboxStatsResponse,
            list_pod_sandbox_stats: ListPodSandboxStatsRequest => ListPodSandboxStatsResponse,
            list_metric_descriptors: ListMetricDescriptorsRequest => ListMetricDescriptorsResponse,
            list_pod_sandbox_metrics: ListPodSandboxMetricsRequest => ListPodSandboxMetricsResponse,
        }
        fn container_events(&self) -> rubelet_cri::CriFuture<rubelet_cri::service::ContainerEventStream> {
            self.inner.container_events()
        }
    };
    ($($call:ident: $request:ident => $response:ident,)+) => {
        $(fn $call(&self, request: rubelet_cri::v1::$request) -> rubelet_cri::CriFuture<rubelet_cri::v1::$response> {
            self.inner.$call(request)
        })+
    };
}

pub(in crate::node_health) use passed;
