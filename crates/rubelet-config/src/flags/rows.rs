//! The rows of the flag table: every flag, and the removed ones with advice.
//!
//! Data only. A row is `status "name" place = "field" ("help")`, with `via(parser, "VALUE")` before
//! the help for a special grammar. The names and which of them are deprecated are those of
//! `cmd/kubelet/app/options` at Kubernetes 1.36.

use crate::duration::GoDuration;
use crate::flags::table::{Flag, Status, value_name};
use crate::flags::value::{FlagValue, ip_address, labels, less_than_pairs, single_pair};

macro_rules! flags {
    ($($status:ident $name:literal $root:ident $(.$part:ident)* $(= $field:literal)? $(via($parse:ident, $value:literal))? ($help:literal);)*) => {
        /// Every flag, in the order of help.
        pub(crate) const FLAGS: &[Flag] = &[$(Flag {
            name: $name,
            field: flags!(@field $($field)?),
            status: Status::$status,
            value_name: flags!(@value_name [$root $($part)*] $($value)?),
            help: $help,
            set: flags!(@set [$root $($part)*] $($parse)?),
            get: flags!(@get [$root $($part)*]),
        },)*];
    };
    (@field) => { None };
    (@field $field:literal) => { Some($field) };
    // A place that is a type is a value that is checked and then forgotten.
    (@value_name [$type:ident]) => { <$type as FlagValue>::NAME };
    (@value_name [$($place:ident)+]) => { value_name(|s| flags!(@place s $($place)+)) };
    (@value_name [$($place:ident)+] $value:literal) => { $value };
    (@set [$type:ident]) => { |_, text, first| <$type>::default().set_flag(text, first) };
    (@set [$($place:ident)+]) => { |s, text, first| flags!(@place s $($place)+).set_flag(text, first) };
    (@set [$($place:ident)+] $parse:ident) => { |s, text, first| $parse(flags!(@place s $($place)+), text, first) };
    (@get [$type:ident]) => { |_| <$type>::default().show() };
    (@get [$($place:ident)+]) => { |s| s $(.$place)+ .show() };
    (@place $s:ident $($place:ident)+) => { &mut $s $(.$place)+ };
}

flags! {
    // Flags that are no configuration fields.
    Current "config" flags.config ("Configuration file.");
    Current "config-dir" flags.config_dir
        ("Directory of drop-in files (*.conf) laid over the configuration file.");
    Current "kubeconfig" flags.kubeconfig
        ("How to reach the API server; without it the agent is standalone.");
    Current "bootstrap-kubeconfig" flags.bootstrap_kubeconfig ("How to get the first client certificate.");
    Current "hostname-override" flags.hostname_override ("Name of the node instead of the host name.");
    Current "node-ip" flags.node_ip
        ("Address of the node, a dual-stack pair, or :: or 0.0.0.0 to prefer a family.");
    Current "cert-dir" flags.cert_dir ("Directory of the agent's certificates.");
    Current "cloud-provider" flags.cloud_provider ("Empty or external.");
    Current "root-dir" flags.root_dir ("Directory of pods' files and the agent's state.");
    Current "seccomp-default" flags.seccomp_default ("Give pods without a seccomp profile RuntimeDefault.");
    Current "node-labels" flags.node_labels via(labels, "key=value,...") ("Labels the node registers with.");
    Current "lock-file" flags.lock_file ("File the agent holds locked while it runs.");
    Current "exit-on-lock-contention" flags.exit_on_lock_contention
        ("Exit when somebody else opens the lock file.");
    Current "runtime-cgroups" flags.runtime_cgroups ("Cgroup the container runtime runs in.");
    Current "image-credential-provider-config" flags.image_credential_provider_config
        ("File or directory that configures credential plugins.");
    Current "image-credential-provider-bin-dir" flags.image_credential_provider_bin_dir
        ("Directory of credential plugins.");
    Current "housekeeping-interval" flags.housekeeping_interval ("Base period of container statistics.");
    Current "max-housekeeping-interval" flags.max_housekeeping_interval
        ("Longest period of container statistics.");
    Current "help" flags.help ("Print this help.");
    Current "version" flags.version ("Print the version; --version=raw prints more.");
    Deprecated "minimum-container-ttl-duration" flags.minimum_container_ttl_duration
        ("Youngest age of a dead container that may be removed.");
    Deprecated "maximum-dead-containers-per-container" flags.maximum_dead_containers_per_container
        ("Dead instances kept per container.");
    Deprecated "maximum-dead-containers" flags.maximum_dead_containers
        ("Dead containers kept in all; negative is no limit.");
    Deprecated "experimental-mounter-path" flags.experimental_mounter_path ("Mount binary.");
    Deprecated "experimental-allocatable-ignore-eviction" flags.experimental_allocatable_ignore_eviction
        ("Leave hard eviction thresholds out of allocatable.");
    // Configuration fields that are to stay as flags.
    Current "provider-id" config.provider_id = "providerID" ("Identity of the node at its cloud provider.");
    Current "fail-cgroupv1" config.fail_cgroup_v1 = "failCgroupV1" ("Refuse to start on a cgroup v1 host.");
    Current "v" config.logging.verbosity = "logging.verbosity" ("Log verbosity.");
    Current "vmodule" config.logging.vmodule = "logging.vmodule" ("Log verbosity of single source files.");
    Current "log-flush-frequency" config.logging.flush_frequency = "logging.flushFrequency"
        ("Longest time between two flushes of the log.");
    // Configuration fields; the configuration file is the place for them.
    Deprecated "logging-format" config.logging.format = "logging.format" ("text or json.");
    Deprecated "log-text-split-stream" config.logging.options.text.split_stream = "logging.options.text.splitStream"
        ("Text log: errors to stderr, the rest to stdout.");
    Deprecated "log-text-info-buffer-size" config.logging.options.text.info_buffer_size = "logging.options.text.infoBufferSize"
        ("Text log: buffer of the info stream.");
    Deprecated "log-json-split-stream" config.logging.options.json.split_stream = "logging.options.json.splitStream"
        ("JSON log: errors to stderr, the rest to stdout.");
    Deprecated "log-json-info-buffer-size" config.logging.options.json.info_buffer_size = "logging.options.json.infoBufferSize"
        ("JSON log: buffer of the info stream.");
    Deprecated "enable-server" config.enable_server = "enableServer" ("Run the HTTPS server.");
    Deprecated "fail-swap-on" config.fail_swap_on = "failSwapOn" ("Refuse to start when swap is on.");
    Deprecated "pod-manifest-path" config.static_pod_path = "staticPodPath"
        ("Directory or file of static pods.");
    Deprecated "sync-frequency" config.sync_frequency = "syncFrequency"
        ("Longest time between two looks at a pod.");
    Deprecated "file-check-frequency" config.file_check_frequency = "fileCheckFrequency"
        ("Poll period of the static pod path.");
    Deprecated "http-check-frequency" config.http_check_frequency = "httpCheckFrequency"
        ("Poll period of the static pod URL.");
    Deprecated "manifest-url" config.static_pod_url = "staticPodURL" ("URL of static pods.");
    Deprecated "manifest-url-header" config.static_pod_url_header = "staticPodURLHeader"
        ("Headers for that URL.");
    Deprecated "address" config.address = "address" via(ip_address, "ip") ("IP address of the servers.");
    Deprecated "port" config.port = "port" ("Port of the HTTPS server.");
    Deprecated "read-only-port" config.read_only_port = "readOnlyPort"
        ("Port of the server without authentication; 0 is off.");
    Deprecated "container-runtime-endpoint" config.container_runtime_endpoint = "containerRuntimeEndpoint"
        ("CRI socket of the runtime.");
    Deprecated "image-service-endpoint" config.image_service_endpoint = "imageServiceEndpoint"
        ("CRI socket of the image service, if it is another one.");
    Deprecated "anonymous-auth" config.authentication.anonymous.enabled = "authentication.anonymous.enabled"
        ("Let requests without credentials through to authorization.");
    Deprecated "authentication-token-webhook" config.authentication.webhook.enabled = "authentication.webhook.enabled"
        ("Check bearer tokens with the API server.");
    Deprecated "authentication-token-webhook-cache-ttl" config.authentication.webhook.cache_ttl = "authentication.webhook.cacheTTL"
        ("How long token answers are kept.");
    Deprecated "client-ca-file" config.authentication.x509.client_ca_file = "authentication.x509.clientCAFile"
        ("Authorities of accepted client certificates.");
    Deprecated "authorization-mode" config.authorization.mode = "authorization.mode"
        ("AlwaysAllow or Webhook.");
    Deprecated "authorization-webhook-cache-authorized-ttl" config.authorization.webhook.cache_authorized_ttl = "authorization.webhook.cacheAuthorizedTTL"
        ("How long a yes is kept.");
    Deprecated "authorization-webhook-cache-unauthorized-ttl" config.authorization.webhook.cache_unauthorized_ttl = "authorization.webhook.cacheUnauthorizedTTL"
        ("How long a no is kept.");
    Deprecated "tls-cert-file" config.tls_cert_file = "tlsCertFile" ("Serving certificate.");
    Deprecated "tls-private-key-file" config.tls_private_key_file = "tlsPrivateKeyFile"
        ("Private key of the serving certificate.");
    Deprecated "rotate-server-certificates" config.server_tls_bootstrap = "serverTLSBootstrap"
        ("Get the serving certificate by CSR.");
    Deprecated "tls-cipher-suites" config.tls_cipher_suites = "tlsCipherSuites" ("Allowed TLS 1.2 suites.");
    Deprecated "tls-min-version" config.tls_min_version = "tlsMinVersion" ("VersionTLS10 to VersionTLS13.");
    Deprecated "rotate-certificates" config.rotate_certificates = "rotateCertificates"
        ("Renew the client certificate by CSR.");
    Deprecated "registry-qps" config.registry_pull_qps = "registryPullQPS"
        ("Image pulls per second; 0 is unlimited.");
    Deprecated "registry-burst" config.registry_burst = "registryBurst"
        ("Image pulls at once above the rate.");
    Deprecated "event-qps" config.event_record_qps = "eventRecordQPS" ("Events per second; 0 is unlimited.");
    Deprecated "event-burst" config.event_burst = "eventBurst" ("Events at once above the rate.");
    Deprecated "enable-debugging-handlers" config.enable_debugging_handlers = "enableDebuggingHandlers"
        ("Serve exec, attach, logs and the like.");
    Deprecated "contention-profiling" config.enable_contention_profiling = "enableContentionProfiling"
        ("Go's block profiling; no meaning here.");
    Deprecated "healthz-port" config.healthz_port = "healthzPort" ("Port of the health endpoint; 0 is off.");
    Deprecated "healthz-bind-address" config.healthz_bind_address = "healthzBindAddress" via(ip_address, "ip")
        ("IP address of the health endpoint.");
    Deprecated "oom-score-adj" config.oom_score_adj = "oomScoreAdj" ("The agent's own OOM score adjustment.");
    Deprecated "cluster-domain" config.cluster_domain = "clusterDomain" ("DNS domain of the cluster.");
    Deprecated "volume-plugin-dir" config.volume_plugin_dir = "volumePluginDir"
        ("Directory of flexvolume plugins.");
    Deprecated "cluster-dns" config.cluster_dns = "clusterDNS" ("DNS servers for pods.");
    Deprecated "streaming-connection-idle-timeout" config.streaming_connection_idle_timeout = "streamingConnectionIdleTimeout"
        ("No effect since 1.36.");
    Deprecated "node-status-update-frequency" config.node_status_update_frequency = "nodeStatusUpdateFrequency"
        ("How often node status is computed.");
    Deprecated "minimum-image-ttl-duration" config.image_minimum_gc_age = "imageMinimumGCAge"
        ("Youngest age of an unused image that may be removed.");
    Deprecated "image-gc-high-threshold" config.image_gc_high_threshold_percent = "imageGCHighThresholdPercent"
        ("Disk use in percent that starts image collection.");
    Deprecated "image-gc-low-threshold" config.image_gc_low_threshold_percent = "imageGCLowThresholdPercent"
        ("Disk use in percent that image collection aims for.");
    Deprecated "volume-stats-agg-period" config.volume_stats_agg_period = "volumeStatsAggPeriod"
        ("How often volume use is measured.");
    Deprecated "feature-gates" config.feature_gates = "featureGates"
        ("Feature gates; merged with those of the files, gate by gate.");
    Deprecated "kubelet-cgroups" config.kubelet_cgroups = "kubeletCgroups"
        ("Cgroup the agent moves itself into.");
    Deprecated "system-cgroups" config.system_cgroups = "systemCgroups"
        ("Cgroup for other system processes.");
    Deprecated "cgroups-per-qos" config.cgroups_per_qos = "cgroupsPerQOS" ("Make QoS and pod cgroups.");
    Deprecated "cgroup-driver" config.cgroup_driver = "cgroupDriver"
        ("cgroupfs or systemd; the runtime's answer wins.");
    Deprecated "cgroup-root" config.cgroup_root = "cgroupRoot" ("Cgroup above all pods.");
    Deprecated "cpu-manager-policy" config.cpu_manager_policy = "cpuManagerPolicy" ("none or static.");
    Deprecated "cpu-manager-policy-options" config.cpu_manager_policy_options = "cpuManagerPolicyOptions" via(single_pair, "key=value")
        ("Fine tuning of the CPU policy; one option per use.");
    Deprecated "cpu-manager-reconcile-period" config.cpu_manager_reconcile_period = "cpuManagerReconcilePeriod"
        ("How often CPU sets are re-asserted.");
    Deprecated "qos-reserved" config.qos_reserved = "qosReserved"
        ("Percentage of requests withheld from lower QoS classes.");
    Deprecated "topology-manager-policy" config.topology_manager_policy = "topologyManagerPolicy"
        ("none, best-effort, restricted or single-numa-node.");
    Deprecated "topology-manager-scope" config.topology_manager_scope = "topologyManagerScope"
        ("container or pod.");
    Deprecated "topology-manager-policy-options" config.topology_manager_policy_options = "topologyManagerPolicyOptions"
        ("Fine tuning of the topology policy.");
    Deprecated "memory-manager-policy" config.memory_manager_policy = "memoryManagerPolicy"
        ("None or Static.");
    Deprecated "reserved-memory" config.reserved_memory = "reservedMemory" ("Memory kept per NUMA node.");
    Deprecated "runtime-request-timeout" config.runtime_request_timeout = "runtimeRequestTimeout"
        ("Deadline of CRI calls.");
    Deprecated "hairpin-mode" config.hairpin_mode = "hairpinMode" ("No effect with CRI.");
    Deprecated "max-pods" config.max_pods = "maxPods" ("Most pods on this node.");
    Deprecated "pods-per-core" config.pods_per_core = "podsPerCore"
        ("Most pods per core; 0 is no such limit.");
    Deprecated "pod-cidr" config.pod_cidr = "podCIDR" ("Pod address range in standalone mode.");
    Deprecated "pod-max-pids" config.pod_pids_limit = "podPidsLimit"
        ("Most processes per pod; -1 is the node's limit.");
    Deprecated "resolv-conf" config.resolv_conf = "resolvConf" ("Source of pods' DNS settings.");
    Deprecated "runonce" config.run_once = "runOnce" ("Removed mode; must be false.");
    Deprecated "cpu-cfs-quota" config.cpu_cfs_quota = "cpuCFSQuota" ("Turn CPU limits into CFS quotas.");
    Deprecated "cpu-cfs-quota-period" config.cpu_cfs_quota_period = "cpuCFSQuotaPeriod" ("CFS period.");
    Deprecated "enable-controller-attach-detach" config.enable_controller_attach_detach = "enableControllerAttachDetach"
        ("Let the controller attach volumes.");
    Deprecated "make-iptables-util-chains" config.make_iptables_util_chains = "makeIPTablesUtilChains"
        ("Keep the utility chains for iptables.");
    Deprecated "container-log-max-size" config.container_log_max_size = "containerLogMaxSize"
        ("Size at which a container log is rotated.");
    Deprecated "container-log-max-files" config.container_log_max_files = "containerLogMaxFiles"
        ("Log files kept per container.");
    Deprecated "allowed-unsafe-sysctls" config.allowed_unsafe_sysctls = "allowedUnsafeSysctls"
        ("Unsafe sysctls or patterns that pods may set.");
    Deprecated "node-status-max-images" config.node_status_max_images = "nodeStatusMaxImages"
        ("Most images in node status; -1 is no cap.");
    Deprecated "kernel-memcg-notification" config.kernel_memcg_notification = "kernelMemcgNotification"
        ("Use kernel notifications for memory thresholds.");
    Deprecated "local-storage-capacity-isolation" config.local_storage_capacity_isolation = "localStorageCapacityIsolation"
        ("Account ephemeral storage.");
    Deprecated "max-open-files" config.max_open_files = "maxOpenFiles"
        ("The agent's own limit of open files.");
    Deprecated "kube-api-content-type" config.content_type = "contentType"
        ("Content type of requests to the API server.");
    Deprecated "kube-api-qps" config.kube_api_qps = "kubeAPIQPS" ("Requests per second to the API server.");
    Deprecated "kube-api-burst" config.kube_api_burst = "kubeAPIBurst" ("Requests at once above the rate.");
    Deprecated "serialize-image-pulls" config.serialize_image_pulls = "serializeImagePulls"
        ("Pull images one at a time.");
    Deprecated "eviction-hard" config.eviction_hard = "evictionHard" via(less_than_pairs, "signal<amount,...")
        ("Hard eviction thresholds.");
    Deprecated "eviction-soft" config.eviction_soft = "evictionSoft" via(less_than_pairs, "signal<amount,...")
        ("Soft eviction thresholds.");
    Deprecated "eviction-soft-grace-period" config.eviction_soft_grace_period = "evictionSoftGracePeriod"
        ("Grace periods of the soft thresholds.");
    Deprecated "eviction-pressure-transition-period" config.eviction_pressure_transition_period = "evictionPressureTransitionPeriod"
        ("How long pressure is still reported.");
    Deprecated "eviction-max-pod-grace-period" config.eviction_max_pod_grace_period = "evictionMaxPodGracePeriod"
        ("Longest grace of softly evicted pods in seconds.");
    Deprecated "eviction-minimum-reclaim" config.eviction_minimum_reclaim = "evictionMinimumReclaim"
        ("Least amount an eviction must free.");
    Deprecated "protect-kernel-defaults" config.protect_kernel_defaults = "protectKernelDefaults"
        ("Fail on unexpected sysctls instead of writing them.");
    Deprecated "reserved-cpus" config.reserved_system_cpus = "reservedSystemCPUs"
        ("CPUs kept for the system.");
    Deprecated "system-reserved" config.system_reserved = "systemReserved" ("Resources kept for the system.");
    Deprecated "kube-reserved" config.kube_reserved = "kubeReserved"
        ("Resources kept for Kubernetes daemons.");
    Deprecated "enforce-node-allocatable" config.enforce_node_allocatable = "enforceNodeAllocatable"
        ("What allocatable is enforced on.");
    Deprecated "system-reserved-cgroup" config.system_reserved_cgroup = "systemReservedCgroup"
        ("Cgroup systemReserved is enforced on.");
    Deprecated "kube-reserved-cgroup" config.kube_reserved_cgroup = "kubeReservedCgroup"
        ("Cgroup kubeReserved is enforced on.");
    Deprecated "register-node" config.register_node = "registerNode" ("Register the node.");
    Deprecated "register-with-taints" config.register_with_taints = "registerWithTaints"
        ("Taints the node is created with.");
    // Leftovers of cAdvisor.
    NoEffect "application-metrics-count-limit" i64 ("Leftover of cAdvisor; no effect.");
    NoEffect "boot-id-file" String ("Leftover of cAdvisor; no effect.");
    NoEffect "container-hints" String ("Leftover of cAdvisor; no effect.");
    NoEffect "containerd" String ("Leftover of cAdvisor; no effect.");
    NoEffect "containerd-namespace" String ("Leftover of cAdvisor; no effect.");
    NoEffect "enable-load-reader" bool ("Leftover of cAdvisor; no effect.");
    NoEffect "event-storage-age-limit" String ("Leftover of cAdvisor; no effect.");
    NoEffect "event-storage-event-limit" String ("Leftover of cAdvisor; no effect.");
    NoEffect "global-housekeeping-interval" GoDuration ("Leftover of cAdvisor; no effect.");
    NoEffect "log-cadvisor-usage" bool ("Leftover of cAdvisor; no effect.");
    NoEffect "machine-id-file" String ("Leftover of cAdvisor; no effect.");
    NoEffect "storage-driver-user" String ("Leftover of cAdvisor; no effect.");
    NoEffect "storage-driver-password" String ("Leftover of cAdvisor; no effect.");
    NoEffect "storage-driver-host" String ("Leftover of cAdvisor; no effect.");
    NoEffect "storage-driver-db" String ("Leftover of cAdvisor; no effect.");
    NoEffect "storage-driver-table" String ("Leftover of cAdvisor; no effect.");
    NoEffect "storage-driver-secure" bool ("Leftover of cAdvisor; no effect.");
    NoEffect "storage-driver-buffer-duration" GoDuration ("Leftover of cAdvisor; no effect.");
}

const DOCKERSHIM: &str =
    "it belonged to dockershim; remove it, the container runtime and CNI have their own configuration";
const KLOG: &str = "it was removed with klog's file logging; remove it, logs go to standard error";

/// Flags that upstream has removed, with what to do instead.
pub(crate) const REMOVED: &[(&str, &str)] = &[
    (
        "pod-infra-container-image",
        "remove it; the sandbox image is set in the container runtime's configuration",
    ),
    ("cloud-config", "remove it; cloud providers are external and read their own configuration"),
    (
        "container-runtime",
        "remove it; CRI is the only kind, its socket is set with containerRuntimeEndpoint in the --config file",
    ),
    ("keep-terminated-pod-volumes", "remove it; volumes of terminated pods are always cleaned up"),
    ("network-plugin", DOCKERSHIM),
    ("cni-bin-dir", DOCKERSHIM),
    ("cni-conf-dir", DOCKERSHIM),
    ("cni-cache-dir", DOCKERSHIM),
    ("network-plugin-mtu", DOCKERSHIM),
    ("docker-endpoint", DOCKERSHIM),
    ("image-pull-progress-deadline", DOCKERSHIM),
    ("experimental-dockershim-root-directory", DOCKERSHIM),
    ("non-masquerade-cidr", DOCKERSHIM),
    ("experimental-bootstrap-kubeconfig", "use --bootstrap-kubeconfig"),
    ("experimental-kernel-memcg-notification", "use kernelMemcgNotification in the --config file"),
    ("experimental-check-node-capabilities-before-mount", "remove it; CSI drivers check for themselves"),
    ("experimental-logging-sanitization", "remove it"),
    ("dynamic-config-dir", "use --config and --config-dir; the file is read at start"),
    ("seccomp-profile-root", "remove it; profiles are in the seccomp directory under --root-dir"),
    ("register-schedulable", "use registerWithTaints in the --config file"),
    ("allow-privileged", "remove it; admission in the API server decides"),
    ("api-servers", "use --kubeconfig"),
    ("require-kubeconfig", "remove it; --kubeconfig is enough"),
    ("cadvisor-port", "remove it; metrics are at /metrics/cadvisor"),
    ("enable-cadvisor-json-endpoints", "remove it; use /stats/summary"),
    ("chaos-chance", "remove it"),
    ("really-crash-for-testing", "remove it"),
    ("redirect-container-streaming", "remove it"),
    ("master-service-namespace", "remove it"),
    ("logtostderr", KLOG),
    ("alsologtostderr", KLOG),
    ("stderrthreshold", KLOG),
    ("log-dir", KLOG),
    ("log-file", KLOG),
    ("log-file-max-size", KLOG),
    ("log-backtrace-at", KLOG),
    ("skip-headers", KLOG),
    ("skip-log-headers", KLOG),
    ("add-dir-header", KLOG),
    ("one-output", KLOG),
    ("windows-service", "it exists on Windows only"),
    ("windows-priorityclass", "it exists on Windows only"),
];
