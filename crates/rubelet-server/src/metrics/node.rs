//! What is counted of the node: the container runtime, the way to the API server, volumes, the node's own API.

use super::buckets::{CERTIFICATE_AGE, DRA, PLACING, REQUEST, REQUEST_SIZE, RUNTIME, SECONDS, STORAGE};
use super::families::{collected, families};

families! {
    /// Counted around calls of the container runtime and where its state is read.
    RuntimeMetrics {
        /// Calls of the container runtime.
        operations: Counter["operation_type"] "kubelet_runtime_operations_total" Alpha;
        /// Calls of the container runtime that failed.
        operation_errors: Counter["operation_type"] "kubelet_runtime_operations_errors_total" Alpha;
        /// Seconds that calls of the container runtime took.
        operation_duration: Histogram["operation_type"] "kubelet_runtime_operations_duration_seconds" Alpha (RUNTIME);
        /// Seconds that making sandboxes took, by the handler of their RuntimeClass.
        run_sandbox_duration: Histogram["runtime_handler"] "kubelet_run_podsandbox_duration_seconds" Alpha (SECONDS);
        /// Sandboxes that the runtime could not make, by the handler of their RuntimeClass.
        run_sandbox_errors: Counter["runtime_handler"] "kubelet_run_podsandbox_errors_total" Alpha;
        /// Seconds that full lists of what the runtime holds took.
        relist_duration: Histogram "kubelet_pleg_relist_duration_seconds" Alpha (SECONDS);
        /// Seconds between full lists. While events and process exits tell of every change there are few of them.
        relist_interval: Histogram "kubelet_pleg_relist_interval_seconds" Alpha (SECONDS);
        /// Seconds that reading one pod from the runtime took.
        pod_relist_duration: Histogram "kubelet_pleg_pod_relist_duration_seconds" Alpha (SECONDS);
        /// Changes that were dropped because nobody took them: hints are coalesced here, so there are none.
        discarded_events: Counter "kubelet_pleg_discard_events" Alpha;
        /// Streams of container events that could not be opened, or broke.
        event_stream_errors: Counter "kubelet_evented_pleg_connection_error_count" Alpha;
        /// Streams of container events that were opened.
        event_streams: Counter "kubelet_evented_pleg_connection_success_count" Alpha;
        /// Seconds from a container event in the runtime until it was heard here.
        event_latency: Histogram "kubelet_evented_pleg_connection_latency_seconds" Alpha (SECONDS);
        /// Pods of which a call has not been answered by the container runtime for too long, while it answers others.
        stuck_pods: Gauge "rubelet_runtime_stuck_pods" Alpha;
    }
}

families! {
    /// Counted on the way to the API server.
    ApiMetrics {
        /// Requests to the API server by status code, or <error> without an answer.
        requests: Counter["code", "method", "host"] "rest_client_requests_total" Alpha;
        /// Seconds until the API server answered.
        request_duration: Histogram["verb", "host"] "rest_client_request_duration_seconds" Alpha (REQUEST);
        /// Bytes of requests to the API server.
        request_size: Histogram["verb", "host"] "rest_client_request_size_bytes" Alpha (REQUEST_SIZE);
        /// Seconds that requests waited for the client's own rate limit.
        rate_limiter_duration: Histogram["verb", "host"] "rest_client_rate_limiter_duration_seconds" Alpha (REQUEST);
        /// Requests that were sent again because the API server asked for it.
        retries: Counter["code", "verb", "host"] "rest_client_request_retries_total" Alpha;
        /// Questions who a token is of.
        token_reviews: Counter["code"] "apiserver_delegated_authn_request_total" Alpha;
        /// Seconds that questions who a token is of took.
        token_review_duration: Histogram["code"] "apiserver_delegated_authn_request_duration_seconds" Alpha (&[0.25, 0.5, 0.7, 1.0, 1.5, 3.0, 5.0, 10.0]);
        /// Questions what a user may.
        access_reviews: Counter["code"] "apiserver_delegated_authz_request_total" Alpha;
        /// Seconds that questions what a user may took.
        access_review_duration: Histogram["code"] "apiserver_delegated_authz_request_duration_seconds" Alpha (&[0.25, 0.5, 0.7, 1.0, 1.5, 3.0, 5.0, 10.0]);
    }
}

families! {
    /// Counted where the node is registered and its certificates renewed.
    NodeMetrics {
        /// Seconds from the machine's start until its new Node was Ready.
        startup: Gauge "kubelet_node_startup_duration_seconds" Alpha;
        /// Seconds from the machine's start until this agent began.
        startup_pre_kubelet: Gauge "kubelet_node_startup_pre_kubelet_duration_seconds" Alpha;
        /// Seconds from this agent's beginning until it first tried to register its Node.
        startup_pre_registration: Gauge "kubelet_node_startup_pre_registration_duration_seconds" Alpha;
        /// Seconds from the first try until the new Node was registered.
        startup_registration: Gauge "kubelet_node_startup_registration_duration_seconds" Alpha;
        /// Seconds from the new Node's registration until it was Ready.
        startup_post_registration: Gauge "kubelet_node_startup_post_registration_duration_seconds" Alpha;
        /// When the last graceful shutdown began, seconds since 1970; 0 is never.
        shutdown_began: Gauge "kubelet_graceful_shutdown_start_time_seconds" Alpha;
        /// When pods had ended at the last graceful shutdown, seconds since 1970; 0 is never, or not yet.
        shutdown_ended: Gauge "kubelet_graceful_shutdown_end_time_seconds" Alpha;
        /// Seconds that the serving certificate before this one had lived.
        server_certificate_age: Histogram "kubelet_certificate_manager_server_rotation_seconds" Alpha (CERTIFICATE_AGE);
        /// Seconds that calls of CSI drivers took, by what came of them.
        csi_operation: Histogram["driver_name", "method_name", "grpc_status_code", "migrated"] "csi_operations_seconds" Alpha (STORAGE);
        /// Seconds that calls of DRA drivers took, by what came of them.
        dra_grpc_operation: Histogram["driver_name", "method_name", "grpc_status_code"] "dra_grpc_operations_duration_seconds" Alpha (DRA);
        /// Seconds that preparing all ResourceClaims of a pod took, and giving them back.
        dra_operation: Histogram["operation_name", "is_error"] "dra_operations_duration_seconds" Alpha (DRA);
        /// Seconds that making (create), setting (update) and removing (destroy) control groups took.
        cgroup_duration: Histogram["operation_type"] "kubelet_cgroup_manager_duration_seconds" Alpha (SECONDS);
        /// Memory that guaranteed pods are protected with, bytes; there with the feature gate MemoryQoS.
        memory_qos_min: Gauge "kubelet_memory_qos_node_memory_min_bytes" Alpha;
        /// Memory that burstable pods are protected with, bytes; there with the feature gate MemoryQoS.
        memory_qos_low: Gauge "kubelet_memory_qos_node_memory_low_bytes" Alpha;
        /// Containers that asked for CPUs of their own.
        cpu_requests: Counter "kubelet_cpu_manager_pinning_requests_total" Alpha;
        /// Containers that asked for CPUs of their own and could not have them.
        cpu_errors: Counter "kubelet_cpu_manager_pinning_errors_total" Alpha;
        /// Containers whose memory was to be assigned to NUMA nodes.
        memory_requests: Counter "kubelet_memory_manager_pinning_requests_total" Alpha;
        /// Containers whose memory could not be assigned to NUMA nodes.
        memory_errors: Counter "kubelet_memory_manager_pinning_errors_total" Alpha;
        /// Pods that were to be given a place on the machine.
        topology_requests: Counter "kubelet_topology_manager_admission_requests_total" Alpha;
        /// Pods for which there was no place.
        topology_errors: Counter "kubelet_topology_manager_admission_errors_total" Alpha;
        /// Milliseconds that finding a place took, what device plugins took included.
        topology_duration: Histogram "kubelet_topology_manager_admission_duration_ms" Alpha (PLACING);
        /// Containers and pods that got everything within a boundary of the machine.
        aligned: Counter["scope", "boundary"] "kubelet_container_aligned_compute_resources_count" Alpha;
        /// Containers and pods that were to get everything within a boundary and could not.
        misaligned: Counter["scope", "boundary"] "kubelet_container_aligned_compute_resources_failure_count" Alpha;
        /// Seconds that operations on volumes took, by kind of volume and by result.
        storage_operation: Histogram["volume_plugin", "operation_name", "status", "migrated"] "storage_operation_duration_seconds" Alpha (STORAGE);
    }
}

families! {
    /// Counted by the node's own API.
    ServerMetrics {
        /// Requests to this node's API.
        http_requests: Counter["method", "path", "server_type", "long_running"] "kubelet_http_requests_total" Alpha;
        /// Seconds that requests to this node's API took.
        http_duration: Histogram["method", "path", "server_type", "long_running"] "kubelet_http_requests_duration_seconds" Alpha (SECONDS);
        /// Requests to this node's API that are under way.
        http_inflight: Gauge["method", "path", "server_type", "long_running"] "kubelet_http_inflight_requests" Alpha;
        /// Streams into pods that were asked for over WebSocket.
        websocket_streams: Counter["subresource"] "kubelet_websocket_streaming_requests_total" Alpha;
    }
}

families! {
    /// The page of service level indicators.
    SliMetrics {
        /// Whether a check was passed when it was last made: 1 or 0.
        healthcheck: Gauge["name", "type"] "kubernetes_healthcheck" Stable;
        /// Checks that were made, by result.
        healthchecks: Counter["name", "type", "status"] "kubernetes_healthchecks_total" Stable;
    }
}

collected! {
    /// The node's name; always 1.
    NODE_NAME: Gauge["node"] "kubelet_node_name" Alpha;
    /// Version of control groups on this machine: 1 or 2.
    CGROUP_VERSION: Gauge "kubelet_cgroup_version" Alpha;
    /// ResourceClaims that are prepared, by driver; <any> counts all of them.
    DRA_CLAIMS_IN_USE: Gauge["driver_name"] "dra_resource_claims_in_use" Alpha;
    /// CPUs that containers share, without reserved ones, thousandths of a CPU.
    CPUS_SHARED: Gauge "kubelet_cpu_manager_shared_pool_size_millicores" Alpha;
    /// CPUs that containers have for their own.
    CPUS_EXCLUSIVE: Gauge "kubelet_cpu_manager_exclusive_cpu_allocation_count" Alpha;
    /// CPUs that containers have for their own, by NUMA node.
    CPUS_BY_NODE: Gauge["numa_node"] "kubelet_cpu_manager_allocation_per_numa" Alpha;
    /// Where the figures of containers come from; always 1. cadvisor: from control groups, as cAdvisor reads them.
    METRICS_PROVIDER: Gauge["provider"] "kubelet_metrics_provider" Alpha;
    /// When the runtime's containers were last listed in full, seconds since 1970.
    PLEG_LAST_SEEN: Gauge "kubelet_pleg_last_seen_seconds" Alpha;
    /// Seconds until the certificate ends that this node shows to the API server; +Inf without one.
    CLIENT_CERTIFICATE_TTL: Gauge "kubelet_certificate_manager_client_ttl_seconds" Alpha;
    /// Tries to renew the client certificate that failed.
    CLIENT_RENEW_ERRORS: Counter "kubelet_certificate_manager_client_expiration_renew_errors" Alpha;
    /// Seconds until the certificate of this node's API ends; +Inf without one.
    SERVER_CERTIFICATE_TTL: Gauge "kubelet_certificate_manager_server_ttl_seconds" Alpha;
    /// Tries to renew the serving certificate that failed.
    SERVER_RENEW_ERRORS: Counter "kubelet_server_expiration_renew_errors" Alpha;
    /// The version of Kubernetes that this agent behaves as; always 1.
    BUILD_INFO: Gauge["major", "minor", "git_version", "git_commit", "git_tree_state", "build_date", "go_version", "compiler", "platform"] "kubernetes_build_info" Beta;
    /// Whether a feature gate is on: 1 or 0.
    FEATURE_ENABLED: Gauge["name", "stage"] "kubernetes_feature_enabled" Beta;
}
