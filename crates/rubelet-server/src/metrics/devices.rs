//! What is counted of device plugins and of the podresources API.

use super::buckets::SECONDS;
use super::families::families;

families! {
    /// Counted by the shell's `devices`.
    DeviceMetrics {
        /// How often a device plugin asked to register.
        registrations: Counter["resource_name"] "kubelet_device_plugin_registration_total" Alpha;
        /// Seconds that a device plugin took to prepare devices for a container.
        alloc_duration: Histogram["resource_name"] "kubelet_device_plugin_alloc_duration_seconds" Alpha (SECONDS);
        /// Questions to the podresources API.
        pod_resources_requests: Counter["server_api_version"] "kubelet_pod_resources_endpoint_requests_total" Alpha;
        /// Questions to the podresources API for all pods.
        list_requests: Counter["server_api_version"] "kubelet_pod_resources_endpoint_requests_list" Alpha;
        /// Questions to the podresources API for one pod.
        get_requests: Counter["server_api_version"] "kubelet_pod_resources_endpoint_requests_get" Alpha;
        /// Questions to the podresources API for what the node could give.
        allocatable_requests: Counter["server_api_version"] "kubelet_pod_resources_endpoint_requests_get_allocatable" Alpha;
        /// Questions for all pods that could not be answered.
        list_errors: Counter["server_api_version"] "kubelet_pod_resources_endpoint_errors_list" Alpha;
        /// Questions for one pod that could not be answered.
        get_errors: Counter["server_api_version"] "kubelet_pod_resources_endpoint_errors_get" Alpha;
        /// Questions for what the node could give that could not be answered.
        allocatable_errors: Counter["server_api_version"] "kubelet_pod_resources_endpoint_errors_get_allocatable" Alpha;
    }
}
