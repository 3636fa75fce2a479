//! The `KubeletConfiguration` of `kubelet.config.k8s.io/v1beta1` at Kubernetes 1.36: every field,
//! its JSON name, its default and what an explicit zero means (upstream `SetDefaults_KubeletConfiguration`).
//!
//! Owns names and defaults only. Reading is in `fields`, meaning in `validate`, sources in `load`.
//! Defaults that depend on other fields or on feature gates are settled in `load`.

use std::collections::BTreeMap;

use crate::duration::GoDuration;
use crate::fields::config_struct;
use crate::types::*;

config_struct! {
    /// The agent's configuration, complete: every field has its final value.
    ///
    /// `default()` is what upstream uses for a file that sets nothing, without the hard eviction
    /// thresholds that loading such a file adds.
    pub struct KubeletConfiguration {
        /// Whether the HTTPS server runs.
        enable_server: bool = "enableServer", zero_is_kept, true;
        /// Directory or single file of static pods; empty is none.
        static_pod_path: String = "staticPodPath", zero_is_default, String::new();
        /// Root of the pods' log directories; absolute, clean, ASCII.
        pod_logs_dir: String = "podLogsDir", zero_is_default, "/var/log/pods".into();
        /// Longest time between two full looks at one pod.
        sync_frequency: GoDuration = "syncFrequency", zero_is_default, GoDuration::from_mins(1);
        /// Poll period of the static pod path.
        file_check_frequency: GoDuration = "fileCheckFrequency", zero_is_default, GoDuration::from_secs(20);
        /// Poll period of the static pod URL.
        http_check_frequency: GoDuration = "httpCheckFrequency", zero_is_default, GoDuration::from_secs(20);
        /// HTTP source of static pods; empty is none.
        static_pod_url: String = "staticPodURL", zero_is_default, String::new();
        /// Headers for that source; printed masked, as they carry tokens.
        static_pod_url_header: HttpHeaders = "staticPodURLHeader", zero_is_default, HttpHeaders::default();
        /// IP address the HTTPS and read-only servers bind to.
        address: String = "address", zero_is_default, "0.0.0.0".into();
        /// Port of the HTTPS server.
        port: i32 = "port", zero_is_default, 10250;
        /// Port of the server without authentication; 0 is off.
        read_only_port: i32 = "readOnlyPort", zero_is_default, 0;
        /// Serving certificate; empty means self-signed or bootstrapped.
        tls_cert_file: String = "tlsCertFile", zero_is_default, String::new();
        /// Private key of the serving certificate.
        tls_private_key_file: String = "tlsPrivateKeyFile", zero_is_default, String::new();
        /// Allowed TLS 1.2 suites by Go name; empty means the default set.
        tls_cipher_suites: Vec<String> = "tlsCipherSuites", zero_is_default, Vec::new();
        /// Allowed key exchanges by numeric CurveID; empty means the default set.
        tls_curve_preferences: Vec<i32> = "tlsCurvePreferences", zero_is_default, Vec::new();
        /// `VersionTLS10` to `VersionTLS13`; empty means 1.2.
        tls_min_version: String = "tlsMinVersion", zero_is_default, String::new();
        /// Whether the client certificate is renewed by CSR.
        rotate_certificates: bool = "rotateCertificates", zero_is_default, false;
        /// Whether the serving certificate comes from a CSR.
        server_tls_bootstrap: bool = "serverTLSBootstrap", zero_is_default, false;
        /// How the HTTPS server authenticates.
        authentication: KubeletAuthentication = "authentication", zero_is_default, KubeletAuthentication::default();
        /// How the HTTPS server authorises.
        authorization: KubeletAuthorization = "authorization", zero_is_default, KubeletAuthorization::default();
        /// Image pulls per second; 0 is unlimited.
        registry_pull_qps: i32 = "registryPullQPS", zero_is_kept, 5;
        /// Image pulls allowed at once above the rate.
        registry_burst: i32 = "registryBurst", zero_is_default, 10;
        /// Whose credentials must be checked before a present image is used.
        image_pull_credentials_verification_policy: String = "imagePullCredentialsVerificationPolicy", zero_is_default, "NeverVerifyPreloadedImages".into();
        /// Image patterns exempt from that check.
        preloaded_images_verification_allowlist: Vec<String> = "preloadedImagesVerificationAllowlist", zero_is_default, Vec::new();
        /// Events per second; 0 is unlimited.
        event_record_qps: i32 = "eventRecordQPS", zero_is_kept, 50;
        /// Events allowed at once above the rate.
        event_burst: i32 = "eventBurst", zero_is_default, 100;
        /// Whether exec, attach, logs and the like are served.
        enable_debugging_handlers: bool = "enableDebuggingHandlers", zero_is_kept, true;
        /// Go's block profiling; has no meaning here.
        enable_contention_profiling: bool = "enableContentionProfiling", zero_is_default, false;
        /// Port of the plain health endpoint; 0 is off.
        healthz_port: i32 = "healthzPort", zero_is_kept, 10248;
        /// IP address of the plain health endpoint.
        healthz_bind_address: String = "healthzBindAddress", zero_is_default, "127.0.0.1".into();
        /// The agent's own OOM score adjustment, -1000 to 1000.
        oom_score_adj: i32 = "oomScoreAdj", zero_is_kept, -999;
        /// DNS domain of the cluster, added to pods' search path.
        cluster_domain: String = "clusterDomain", zero_is_default, String::new();
        /// DNS server addresses for pods with dnsPolicy ClusterFirst.
        cluster_dns: Vec<String> = "clusterDNS", zero_is_default, Vec::new();
        /// No effect since 1.36; accepted.
        streaming_connection_idle_timeout: GoDuration = "streamingConnectionIdleTimeout", zero_is_default, GoDuration::from_mins(240);
        /// How often node status is computed.
        node_status_update_frequency: GoDuration = "nodeStatusUpdateFrequency", zero_is_default, GoDuration::from_secs(10);
        /// How often unchanged node status is posted; follows the update frequency when a file sets only that.
        node_status_report_frequency: GoDuration = "nodeStatusReportFrequency", zero_is_default, GoDuration::from_mins(5);
        /// Lease duration in seconds; renewed every quarter of it.
        node_lease_duration_seconds: i32 = "nodeLeaseDurationSeconds", zero_is_default, 40;
        /// Youngest age of an unused image that may be removed.
        image_minimum_gc_age: GoDuration = "imageMinimumGCAge", zero_is_default, GoDuration::from_mins(2);
        /// Age at which an unused image is removed whatever the disk says; 0 is off.
        image_maximum_gc_age: GoDuration = "imageMaximumGCAge", zero_is_default, GoDuration::ZERO;
        /// Disk use in percent that starts image collection.
        image_gc_high_threshold_percent: i32 = "imageGCHighThresholdPercent", zero_is_kept, 85;
        /// Disk use in percent that image collection aims for.
        image_gc_low_threshold_percent: i32 = "imageGCLowThresholdPercent", zero_is_kept, 80;
        /// How often volume use is measured; negative is off.
        volume_stats_agg_period: GoDuration = "volumeStatsAggPeriod", zero_is_default, GoDuration::from_mins(1);
        /// Cgroup the agent moves itself into.
        kubelet_cgroups: String = "kubeletCgroups", zero_is_default, String::new();
        /// Cgroup for system processes outside any other; needs cgroupRoot.
        system_cgroups: String = "systemCgroups", zero_is_default, String::new();
        /// Cgroup above all pods; empty is the runtime's default.
        cgroup_root: String = "cgroupRoot", zero_is_default, String::new();
        /// Whether QoS and pod cgroups are made.
        cgroups_per_qos: bool = "cgroupsPerQOS", zero_is_kept, true;
        /// `cgroupfs` or `systemd`; the runtime's answer wins.
        cgroup_driver: String = "cgroupDriver", zero_is_default, "cgroupfs".into();
        /// `none` or `static`.
        cpu_manager_policy: String = "cpuManagerPolicy", zero_is_default, "none".into();
        /// Whether the OOM killer takes one process instead of the whole container; unset follows the cgroup version.
        single_process_oom_kill: Option<bool> = "singleProcessOOMKill", zero_is_kept, None;
        /// Fine tuning of the static CPU policy.
        cpu_manager_policy_options: BTreeMap<String, String> = "cpuManagerPolicyOptions", zero_is_default, BTreeMap::new();
        /// How often CPU sets are re-asserted.
        cpu_manager_reconcile_period: GoDuration = "cpuManagerReconcilePeriod", zero_is_default, GoDuration::from_secs(10);
        /// `None` or `Static`.
        memory_manager_policy: String = "memoryManagerPolicy", zero_is_default, "None".into();
        /// `none`, `best-effort`, `restricted` or `single-numa-node`.
        topology_manager_policy: String = "topologyManagerPolicy", zero_is_default, "none".into();
        /// `container` or `pod`.
        topology_manager_scope: String = "topologyManagerScope", zero_is_default, "container".into();
        /// Fine tuning of the topology policy.
        topology_manager_policy_options: BTreeMap<String, String> = "topologyManagerPolicyOptions", zero_is_default, BTreeMap::new();
        /// Percentage of memory requests withheld from lower QoS classes.
        qos_reserved: BTreeMap<String, String> = "qosReserved", zero_is_default, BTreeMap::new();
        /// Deadline of CRI calls other than pull, logs, exec and attach.
        runtime_request_timeout: GoDuration = "runtimeRequestTimeout", zero_is_default, GoDuration::from_mins(2);
        /// Accepted; no effect with CRI, as upstream.
        hairpin_mode: String = "hairpinMode", zero_is_default, "promiscuous-bridge".into();
        /// Most pods on this node.
        max_pods: i32 = "maxPods", zero_is_default, 110;
        /// Pod address range in standalone mode.
        pod_cidr: String = "podCIDR", zero_is_default, String::new();
        /// Most processes per pod; -1 is the node's limit.
        pod_pids_limit: i64 = "podPidsLimit", zero_is_kept, -1;
        /// Source of pods' DNS settings; empty means none from the host.
        resolv_conf: String = "resolvConf", zero_is_kept, "/etc/resolv.conf".into();
        /// Removed upstream; must not be set.
        run_once: bool = "runOnce", zero_is_default, false;
        /// Whether CPU limits become CFS quotas.
        cpu_cfs_quota: bool = "cpuCFSQuota", zero_is_kept, true;
        /// CFS period, 1ms to 1s.
        cpu_cfs_quota_period: GoDuration = "cpuCFSQuotaPeriod", zero_is_kept, GoDuration::from_millis(100);
        /// Most images in node status; -1 is no cap, 0 is none.
        node_status_max_images: i32 = "nodeStatusMaxImages", zero_is_kept, 50;
        /// The agent's own limit of open files.
        max_open_files: i64 = "maxOpenFiles", zero_is_default, 1_000_000;
        /// Content type of requests to the API server.
        content_type: String = "contentType", zero_is_default, "application/vnd.kubernetes.protobuf".into();
        /// Requests per second to the API server.
        kube_api_qps: i32 = "kubeAPIQPS", zero_is_kept, 50;
        /// Requests allowed at once above the rate.
        kube_api_burst: i32 = "kubeAPIBurst", zero_is_default, 100;
        /// Whether images are pulled one at a time; defaults to false when maxParallelImagePulls is 2 or more.
        serialize_image_pulls: bool = "serializeImagePulls", zero_is_kept, true;
        /// Most pulls at once; unset is no limit.
        max_parallel_image_pulls: Option<i32> = "maxParallelImagePulls", zero_is_kept, None;
        /// Hard eviction thresholds by signal; a `--config` file without them gets the defaults.
        eviction_hard: BTreeMap<String, String> = "evictionHard", zero_is_kept, BTreeMap::new();
        /// Soft eviction thresholds by signal; each needs a grace period.
        eviction_soft: BTreeMap<String, String> = "evictionSoft", zero_is_default, BTreeMap::new();
        /// Grace periods of the soft thresholds.
        eviction_soft_grace_period: BTreeMap<String, String> = "evictionSoftGracePeriod", zero_is_default, BTreeMap::new();
        /// How long pressure is still reported after it has gone.
        eviction_pressure_transition_period: GoDuration = "evictionPressureTransitionPeriod", zero_is_default, GoDuration::from_mins(5);
        /// Longest grace in seconds for pods evicted softly.
        eviction_max_pod_grace_period: i32 = "evictionMaxPodGracePeriod", zero_is_default, 0;
        /// Least amount an eviction must free, by signal.
        eviction_minimum_reclaim: BTreeMap<String, String> = "evictionMinimumReclaim", zero_is_default, BTreeMap::new();
        /// Whether defaults fill the hard signals that a file leaves out.
        merge_default_eviction_settings: bool = "mergeDefaultEvictionSettings", zero_is_kept, false;
        /// Most pods per core; 0 is no such limit.
        pods_per_core: i32 = "podsPerCore", zero_is_default, 0;
        /// Whether the controller attaches volumes; CSI needs it.
        enable_controller_attach_detach: bool = "enableControllerAttachDetach", zero_is_kept, true;
        /// Whether unexpected sysctls are an error instead of being written.
        protect_kernel_defaults: bool = "protectKernelDefaults", zero_is_default, false;
        /// Whether the utility chains for iptables are kept.
        make_iptables_util_chains: bool = "makeIPTablesUtilChains", zero_is_kept, true;
        /// No effect; 0 to 31.
        iptables_masquerade_bit: i32 = "iptablesMasqueradeBit", zero_is_kept, 14;
        /// No effect; 0 to 31.
        iptables_drop_bit: i32 = "iptablesDropBit", zero_is_kept, 15;
        /// Feature gates that are set explicitly; see [`crate::FeatureGates`].
        feature_gates: BTreeMap<String, bool> = "featureGates", zero_is_default, BTreeMap::new();
        /// Whether swap on the node is an error at start.
        fail_swap_on: bool = "failSwapOn", zero_is_kept, true;
        /// How pods may use swap.
        memory_swap: MemorySwapConfiguration = "memorySwap", zero_is_default, MemorySwapConfiguration::default();
        /// Size at which a container log is rotated; negative is never.
        container_log_max_size: String = "containerLogMaxSize", zero_is_default, "10Mi".into();
        /// Log files kept per container, at least 2.
        container_log_max_files: i32 = "containerLogMaxFiles", zero_is_kept, 5;
        /// Parallel log rotations.
        container_log_max_workers: i32 = "containerLogMaxWorkers", zero_is_kept, 1;
        /// How often logs are measured, at least 3s.
        container_log_monitor_interval: GoDuration = "containerLogMonitorInterval", zero_is_kept, GoDuration::from_secs(10);
        /// `Get`, `Cache` or `Watch`.
        config_map_and_secret_change_detection_strategy: String = "configMapAndSecretChangeDetectionStrategy", zero_is_default, "Watch".into();
        /// Resources kept for the system: cpu, memory, ephemeral-storage, pid.
        system_reserved: BTreeMap<String, String> = "systemReserved", zero_is_default, BTreeMap::new();
        /// Resources kept for Kubernetes daemons: cpu, memory, ephemeral-storage, pid.
        kube_reserved: BTreeMap<String, String> = "kubeReserved", zero_is_default, BTreeMap::new();
        /// CPUs kept for the system, such as `0-1,4`; overrides cpu in both reservations.
        reserved_system_cpus: String = "reservedSystemCPUs", zero_is_default, String::new();
        /// Shows metrics hidden since this release; only the previous minor is allowed.
        show_hidden_metrics_for_version: String = "showHiddenMetricsForVersion", zero_is_default, String::new();
        /// Cgroup that systemReserved is enforced on.
        system_reserved_cgroup: String = "systemReservedCgroup", zero_is_default, String::new();
        /// Cgroup that kubeReserved is enforced on.
        kube_reserved_cgroup: String = "kubeReservedCgroup", zero_is_default, String::new();
        /// What allocatable is enforced on.
        enforce_node_allocatable: Vec<String> = "enforceNodeAllocatable", zero_is_kept, vec!["pods".into()];
        /// Unsafe sysctls or patterns ending in `*` that pods may set.
        allowed_unsafe_sysctls: Vec<String> = "allowedUnsafeSysctls", zero_is_default, Vec::new();
        /// Directory of flexvolume plugins.
        volume_plugin_dir: String = "volumePluginDir", zero_is_default, "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/".into();
        /// The node's identity at its cloud provider.
        provider_id: String = "providerID", zero_is_default, String::new();
        /// Whether memory thresholds use kernel notifications.
        kernel_memcg_notification: bool = "kernelMemcgNotification", zero_is_default, false;
        /// The agent's own log.
        logging: LoggingConfiguration = "logging", zero_is_default, LoggingConfiguration::default();
        /// Whether /logs/ is served.
        enable_system_log_handler: bool = "enableSystemLogHandler", zero_is_kept, true;
        /// Whether /logs/ takes queries.
        enable_system_log_query: bool = "enableSystemLogQuery", zero_is_kept, false;
        /// Time a node shutdown is delayed for pods; 0 is off.
        shutdown_grace_period: GoDuration = "shutdownGracePeriod", zero_is_default, GoDuration::ZERO;
        /// Part of that time kept for critical pods.
        shutdown_grace_period_critical_pods: GoDuration = "shutdownGracePeriodCriticalPods", zero_is_default, GoDuration::ZERO;
        /// Shutdown time by pod priority, instead of the two above.
        shutdown_grace_period_by_pod_priority: Vec<ShutdownGracePeriodByPodPriority> = "shutdownGracePeriodByPodPriority", zero_is_default, Vec::new();
        /// Limits of container restart back-off.
        crash_loop_back_off: CrashLoopBackOffConfig = "crashLoopBackOff", zero_is_default, CrashLoopBackOffConfig::default();
        /// Memory kept per NUMA node for the static memory policy.
        reserved_memory: Vec<MemoryReservation> = "reservedMemory", zero_is_default, Vec::new();
        /// Whether /debug/pprof is served.
        enable_profiling_handler: bool = "enableProfilingHandler", zero_is_kept, true;
        /// Whether /debug/flags/v is served.
        enable_debug_flags_handler: bool = "enableDebugFlagsHandler", zero_is_kept, true;
        /// Whether pods without a seccomp profile get RuntimeDefault.
        seccomp_default: bool = "seccompDefault", zero_is_kept, false;
        /// Part of the limit at which MemoryQoS throttles, above 0 up to 1.
        memory_throttling_factor: Option<f64> = "memoryThrottlingFactor", zero_is_kept, Some(0.9);
        /// `None` or `TieredReservation` (needs MemoryQoS).
        memory_reservation_policy: String = "memoryReservationPolicy", zero_is_default, "None".into();
        /// Taints the node is created with.
        register_with_taints: Vec<Taint> = "registerWithTaints", zero_is_default, Vec::new();
        /// Whether the node registers itself.
        register_node: bool = "registerNode", zero_is_kept, true;
        /// Where traces go; unset is nowhere.
        tracing: Option<TracingConfiguration> = "tracing", zero_is_kept, None;
        /// Whether ephemeral storage is accounted.
        local_storage_capacity_isolation: bool = "localStorageCapacityIsolation", zero_is_kept, true;
        /// CRI socket of the runtime service.
        container_runtime_endpoint: String = "containerRuntimeEndpoint", zero_is_default, "unix:///run/containerd/containerd.sock".into();
        /// CRI socket of the image service; empty is the runtime's.
        image_service_endpoint: String = "imageServiceEndpoint", zero_is_default, String::new();
        /// Whether a cgroup v1 host is an error at start; the shell decides.
        fail_cgroup_v1: bool = "failCgroupV1", zero_is_kept, true;
        /// Sizes of user namespaces.
        user_namespaces: Option<UserNamespaces> = "userNamespaces", zero_is_kept, None;
    }
}
