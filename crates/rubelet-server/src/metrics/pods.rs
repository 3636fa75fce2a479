//! What is counted of pods and containers, of their images, and of what they could tell by probes.

use rubelet_core::stats::usage::NodeUsage;

use super::buckets::{CONTAINERS, IMAGE_PULL, POD_START, RESIZE, SECONDS, STATUS_SYNC};
use super::families::{collected, families};
use super::render::Collected;

families! {
    /// Counted by workers, the sync loop and the status writer.
    PodMetrics {
        /// Seconds that a pod's worker took for one round, by what the round was for: create, update, sync, kill or terminated.
        worker_duration: Histogram["operation_type"] "kubelet_pod_worker_duration_seconds" Alpha (SECONDS);
        /// Seconds from the moment a pod was first seen until its worker began.
        worker_start_duration: Histogram "kubelet_pod_worker_start_duration_seconds" Alpha (SECONDS);
        /// Seconds from the moment a pod was first seen until it ran.
        start_duration: Histogram "kubelet_pod_start_duration_seconds" Alpha (POD_START);
        /// Seconds from a pod's creation until the API shows all its containers started, without image pulls and init containers; pods with volumes that keep data are not counted.
        start_sli_duration: Histogram "kubelet_pod_start_sli_duration_seconds" Alpha (POD_START);
        /// Seconds from a pod's creation until the API shows all its containers started, with everything that took.
        start_total_duration: Histogram "kubelet_pod_start_total_duration_seconds" Alpha (POD_START);
        /// Seconds that the first pod with a network of its own took to start, without image pulls and init containers.
        first_network_start_sli: Gauge "kubelet_first_network_pod_start_sli_duration_seconds" Internal;
        /// Seconds from a change of a pod's status until the API server had it.
        status_sync_duration: Histogram "kubelet_pod_status_sync_duration_seconds" Alpha (STATUS_SYNC);
        /// Containers of each pod that was begun, init containers not counted.
        containers_per_pod: Histogram "kubelet_containers_per_pod_count" Alpha (CONTAINERS);
        /// Sandboxes that were begun.
        started: Counter "kubelet_started_pods_total" Alpha;
        /// Sandboxes that could not be made.
        start_errors: Counter "kubelet_started_pods_errors_total" Alpha;
        /// Sandboxes in a user namespace of their own that were begun.
        user_namespaced_started: Counter "kubelet_started_user_namespaced_pods_total" Alpha;
        /// Sandboxes in a user namespace of their own that could not be made.
        user_namespaced_start_errors: Counter "kubelet_started_user_namespaced_pods_errors_total" Alpha;
        /// Containers that were begun, failures included.
        containers_started: Counter["container_type"] "kubelet_started_containers_total" Alpha;
        /// Containers that could not be started, by the reason that the pod's status shows.
        container_start_errors: Counter["container_type", "code"] "kubelet_started_containers_errors_total" Alpha;
        /// Containers that ended.
        containers_terminated: Counter["container_type", "exit_code", "reason"] "kubelet_terminated_containers_total" Alpha;
        /// Pods that came back with the UID of one that had just been removed.
        restarted: Counter["static"] "kubelet_restarted_pods_total" Alpha;
        /// Pods that only the container runtime knew and that were removed.
        orphaned_runtime: Counter "kubelet_orphaned_runtime_pods_total" Alpha;
        /// Pods that were not admitted to this node; rare reasons are counted together.
        admission_rejections: Counter["reason"] "kubelet_admission_rejections_total" Alpha;
        /// Pods evicted, by the signal that they were evicted for.
        evictions: Counter["eviction_signal"] "kubelet_evictions" Alpha;
        /// Seconds since what a pod was evicted for was measured.
        eviction_stats_age: Histogram["eviction_signal"] "kubelet_eviction_stats_age_seconds" Alpha (SECONDS);
        /// Pods preempted for a critical one, by the resource that it missed first.
        preemptions: Counter["preemption_signal"] "kubelet_preemptions" Alpha;
        /// Changes of containers' resources that specs asked for; several of one container are counted each.
        resizes_requested: Counter["resource", "requirement", "operation"] "kubelet_container_requested_resizes_total" Alpha;
        /// Milliseconds that carrying out a pod's resize took.
        resize_duration: Histogram["success"] "kubelet_pod_resize_duration_milliseconds" Alpha (RESIZE);
        /// Pods whose resize waits or cannot be given.
        resizes_pending: Gauge["reason"] "kubelet_pod_pending_resizes" Alpha;
        /// Resizes that this node can never give.
        resizes_infeasible: Counter["reason_detail"] "kubelet_pod_infeasible_resizes_total" Alpha;
        /// Pods whose resize is being carried out.
        resizes_in_progress: Gauge "kubelet_pod_in_progress_resizes" Alpha;
        /// Resizes that were given after they had waited, by what made room.
        resizes_accepted_late: Counter["retry_trigger"] "kubelet_pod_deferred_accepted_resizes_total" Alpha;
        /// Hooks over HTTPS that were run over HTTP, since their servers speak that.
        http_hook_fallbacks: Counter "kubelet_lifecycle_handler_http_fallbacks_total" Alpha;
        /// Sleeps before a container's end that were cut short.
        sleep_terminated_early: Counter "kubelet_sleep_action_terminated_early_total" Alpha;
        /// Pods gone from this node whose volumes the last look at leftovers removed.
        orphan_volumes_cleaned: Gauge "kubelet_orphan_pod_cleaned_volumes" Alpha;
        /// Pods gone from this node whose volumes the last look at leftovers could not remove.
        orphan_volumes_errors: Gauge "kubelet_orphan_pod_cleaned_volumes_errors" Alpha;
    }
}

families! {
    /// Counted where images are looked for and pulled.
    ImageMetrics {
        /// Seconds that pulls of images took with waiting, by the size of the image.
        pull_duration: Histogram["image_size_in_bytes"] "kubelet_image_pull_duration_seconds" Alpha (IMAGE_PULL);
        /// Images that were asked for as volumes of containers.
        volumes_requested: Counter "kubelet_image_volume_requested_total" Beta;
        /// Images that were mounted as volumes.
        volumes_mounted: Counter "kubelet_image_volume_mounted_succeed_total" Beta;
        /// Images that the runtime could not mount as volumes.
        volumes_failed: Counter "kubelet_image_volume_mounted_errors_total" Beta;
        /// How often the image of a container was asked for, by policy, whether it was there, and whether it had to be pulled.
        ensure_requests: Counter["pull_policy", "present_locally", "pull_required"] "kubelet_image_manager_ensure_image_requests_total" Alpha;
        /// Images that were removed, by why.
        garbage_collected: Counter["reason"] "kubelet_image_garbage_collected_total" Alpha;
        /// How often it was checked whether a pod may use an image that is there, by what came of it.
        must_pull_checks: Counter["result"] "kubelet_imagemanager_image_mustpull_checks_total" Alpha;
        /// Records on disk of pulls that were begun.
        pull_intents: Gauge "kubelet_imagemanager_ondisk_pullintents" Alpha;
        /// Records on disk of images that were pulled.
        pulled_records: Gauge "kubelet_imagemanager_ondisk_pulledrecords" Alpha;
        /// Runs of a credential provider plugin that failed.
        plugin_errors: Counter["plugin_name"] "kubelet_credential_provider_plugin_errors_total" Alpha;
        /// Seconds that runs of a credential provider plugin took.
        plugin_duration: Histogram["plugin_name"] "kubelet_credential_provider_plugin_duration" Alpha (SECONDS);
    }
}

families! {
    /// The page of probes. `metrics.forget_probes` drops what a pod leaves.
    ProbeMetrics {
        /// Probes of containers by their result.
        total: Counter["probe_type", "result", "container", "pod", "namespace", "pod_uid"] "prober_probe_total" Beta;
        /// Seconds until a probe was answered.
        duration: Histogram["probe_type", "container", "pod", "namespace"] "prober_probe_duration_seconds" Alpha (SECONDS);
    }
}

collected! {
    /// Pods with a sandbox that is ready.
    RUNNING_PODS: Gauge "kubelet_running_pods" Alpha;
    /// Containers in the container runtime, by state.
    RUNNING_CONTAINERS: Gauge["container_state"] "kubelet_running_containers" Alpha;
    /// Pods that this node is to run; static ones come from elsewhere than an API server.
    DESIRED_PODS: Gauge["static"] "kubelet_desired_pods" Alpha;
    /// Pods that count when another one is to be admitted.
    ACTIVE_PODS: Gauge["static"] "kubelet_active_pods" Alpha;
    /// Static pods that the API server is to show.
    MIRROR_PODS: Gauge "kubelet_mirror_pods" Alpha;
    /// Pods with a worker, by stage and by whether their source still gives them; runtime_only ones never had a source here.
    WORKING_PODS: Gauge["lifecycle", "config", "static"] "kubelet_working_pods" Alpha;
    /// Ephemeral containers of the pods that this node is to run.
    EPHEMERAL_CONTAINERS: Gauge "kubelet_managed_ephemeral_containers" Alpha;
    /// Bytes that a container's logs take on the disk.
    LOG_BYTES: Gauge["uid", "namespace", "pod", "container"] "kubelet_container_log_filesystem_used_bytes" Alpha;
    /// Bytes that a claim's volume can hold.
    VOLUME_CAPACITY: Gauge["namespace", "persistentvolumeclaim"] "kubelet_volume_stats_capacity_bytes" Alpha;
    /// Bytes that are free in a claim's volume.
    VOLUME_AVAILABLE: Gauge["namespace", "persistentvolumeclaim"] "kubelet_volume_stats_available_bytes" Alpha;
    /// Bytes in use in a claim's volume.
    VOLUME_USED: Gauge["namespace", "persistentvolumeclaim"] "kubelet_volume_stats_used_bytes" Alpha;
    /// Inodes that a claim's volume can hold.
    VOLUME_INODES: Gauge["namespace", "persistentvolumeclaim"] "kubelet_volume_stats_inodes" Alpha;
    /// Inodes that are free in a claim's volume.
    VOLUME_INODES_FREE: Gauge["namespace", "persistentvolumeclaim"] "kubelet_volume_stats_inodes_free" Alpha;
    /// Inodes in use in a claim's volume.
    VOLUME_INODES_USED: Gauge["namespace", "persistentvolumeclaim"] "kubelet_volume_stats_inodes_used" Alpha;
    /// Whether a claim's volume is in trouble, as its driver tells: 1 or 0.
    VOLUME_ABNORMAL: Gauge["namespace", "persistentvolumeclaim"] "kubelet_volume_stats_health_status_abnormal" Alpha;
    /// Sockets of plugins in the folder that they register in (desired_state_of_world), and those of them that are registered (actual_state_of_world).
    TOTAL_PLUGINS: Gauge["socket_path", "state"] "plugin_manager_total_plugins" Alpha;
    /// Volumes of pods by kind: those wanted (desired_state_of_world) and those made (actual_state_of_world).
    TOTAL_VOLUMES: Gauge["plugin_name", "state"] "volume_manager_total_volumes" Alpha;
}

/// Tells what a reading of the node says of volumes and logs.
pub(super) fn tell_usage(usage: &NodeUsage, out: &mut Collected) {
    for pod in &usage.pods {
        let meta = &pod.pod.metadata;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (uid, namespace, name) = (text(&meta.uid), text(&meta.namespace), text(&meta.name));
        for container in &pod.containers {
            if let Some(used) = container.logs.as_ref().and_then(|logs| logs.used) {
                out.tell(&LOG_BYTES, &[&uid, &namespace, &name, &container.name], used as f64);
            }
        }
        for volume in &pod.volumes {
            let Some((namespace, claim)) = &volume.claim else { continue };
            // A claim that several pods use is told once: the second time is left out.
            let told = [
                (&VOLUME_CAPACITY, volume.fs.capacity),
                (&VOLUME_AVAILABLE, volume.fs.available),
                (&VOLUME_USED, volume.fs.used),
                (&VOLUME_INODES, volume.fs.inodes),
                (&VOLUME_INODES_FREE, volume.fs.inodes_free),
                (&VOLUME_INODES_USED, volume.fs.inodes_used),
                (&VOLUME_ABNORMAL, volume.abnormal.map(u64::from)),
            ];
            for (desc, value) in told {
                if let Some(value) = value {
                    out.tell(desc, &[namespace, claim], value as f64);
                }
            }
        }
    }
}
