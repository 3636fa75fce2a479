//! The flag table: each flag's name, field, status and help, and the removed flags with advice.
//!
//! Owns the mapping from flag to field; a new flag is one line here. The names and which of them
//! are deprecated are those of `cmd/kubelet/app/options` at Kubernetes 1.36.

use crate::configuration::KubeletConfiguration;
use crate::duration::GoDuration;
use crate::flags::own::KubeletFlags;
use crate::flags::value::{
    FlagValue, ip_address, labels, less_than_pairs, single_pair,
};

/// What flags write to.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) config: KubeletConfiguration,
    pub(crate) flags: KubeletFlags,
}

/// Whether a flag has a future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// To stay.
    Current,
    /// Works; belongs into the configuration file.
    Deprecated,
    /// Accepted for old command lines; does nothing.
    NoEffect,
}

/// Reads a flag's text into its place; the last argument is true for the flag's first use.
pub(crate) type Setter = fn(&mut Settings, &str, bool) -> Result<(), String>;

/// One flag.
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    /// The configuration field it sets, in JSON names.
    pub(crate) field: Option<&'static str>,
    pub(crate) status: Status,
    /// What help calls the value; empty when the flag can stand alone.
    pub(crate) value_name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) set: Setter,
}

impl Flag {
    /// Whether the flag without a value means `true`.
    pub(crate) fn stands_alone(&self) -> bool {
        self.value_name.is_empty() || self.name == "version"
    }

    /// The flag with this name; underscores are dashes already.
    pub(crate) fn named(name: &str) -> Option<&'static Flag> {
        FLAGS.iter().find(|flag| flag.name == name)
    }
}

/// The name of a place's value in help.
const fn value_name<T: FlagValue>(_: fn(&mut Settings) -> &mut T) -> &'static str {
    T::NAME
}

macro_rules! flag {
    ($name:literal, $field:expr, $status:ident, $help:literal, $root:ident $(.$part:ident)+) => {
        Flag {
            name: $name,
            field: $field,
            status: Status::$status,
            value_name: value_name(|s| &mut s.$root $(.$part)+),
            help: $help,
            set: |s, text, first| s.$root $(.$part)+.set_flag(text, first),
        }
    };
    ($name:literal, $field:expr, $status:ident, $help:literal, $root:ident $(.$part:ident)+, $parse:ident, $value:literal) => {
        Flag {
            name: $name,
            field: $field,
            status: Status::$status,
            value_name: $value,
            help: $help,
            set: |s, text, first| $parse(&mut s.$root $(.$part)+, text, first),
        }
    };
}

/// A flag that is checked and then forgotten.
macro_rules! no_effect {
    ($name:literal, $type:ty) => {
        Flag {
            name: $name,
            field: None,
            status: Status::NoEffect,
            value_name: <$type as FlagValue>::NAME,
            help: "Leftover of cAdvisor; no effect.",
            set: |_, text, first| <$type>::default().set_flag(text, first),
        }
    };
}

/// Every flag, in the order of help.
pub(crate) const FLAGS: &[Flag] = &[
    // Flags that are no configuration fields.
    flag!("config", None, Current, "Configuration file.", flags.config),
    flag!("config-dir", None, Current, "Directory of drop-in files (*.conf) laid over the configuration file.", flags.config_dir),
    flag!("kubeconfig", None, Current, "How to reach the API server; without it the agent is standalone.", flags.kubeconfig),
    flag!("bootstrap-kubeconfig", None, Current, "How to get the first client certificate.", flags.bootstrap_kubeconfig),
    flag!("hostname-override", None, Current, "Name of the node instead of the host name.", flags.hostname_override),
    flag!("node-ip", None, Current, "Address of the node, a dual-stack pair, or :: or 0.0.0.0 to prefer a family.", flags.node_ip),
    flag!("cert-dir", None, Current, "Directory of the agent's certificates.", flags.cert_dir),
    flag!("cloud-provider", None, Current, "Empty or external.", flags.cloud_provider),
    flag!("root-dir", None, Current, "Directory of pods' files and the agent's state.", flags.root_dir),
    flag!("seccomp-default", None, Current, "Give pods without a seccomp profile RuntimeDefault.", flags.seccomp_default),
    flag!("node-labels", None, Current, "Labels the node registers with.", flags.node_labels, labels, "key=value,..."),
    flag!("lock-file", None, Current, "File the agent holds locked while it runs.", flags.lock_file),
    flag!("exit-on-lock-contention", None, Current, "Exit when somebody else opens the lock file.", flags.exit_on_lock_contention),
    flag!("runtime-cgroups", None, Current, "Cgroup the container runtime runs in.", flags.runtime_cgroups),
    flag!("image-credential-provider-config", None, Current, "File or directory that configures credential plugins.", flags.image_credential_provider_config),
    flag!("image-credential-provider-bin-dir", None, Current, "Directory of credential plugins.", flags.image_credential_provider_bin_dir),
    flag!("housekeeping-interval", None, Current, "Base period of container statistics.", flags.housekeeping_interval),
    flag!("max-housekeeping-interval", None, Current, "Longest period of container statistics.", flags.max_housekeeping_interval),
    flag!("help", None, Current, "Print this help.", flags.help),
    flag!("version", None, Current, "Print the version; --version=raw prints more.", flags.version),
    flag!("minimum-container-ttl-duration", None, Deprecated, "Youngest age of a dead container that may be removed.", flags.minimum_container_ttl_duration),
    flag!("maximum-dead-containers-per-container", None, Deprecated, "Dead instances kept per container.", flags.maximum_dead_containers_per_container),
    flag!("maximum-dead-containers", None, Deprecated, "Dead containers kept in all; negative is no limit.", flags.maximum_dead_containers),
    flag!("experimental-mounter-path", None, Deprecated, "Mount binary.", flags.experimental_mounter_path),
    flag!("experimental-allocatable-ignore-eviction", None, Deprecated, "Leave hard eviction thresholds out of allocatable.", flags.experimental_allocatable_ignore_eviction),
    // Configuration fields that are to stay as flags.
    flag!("provider-id", Some("providerID"), Current, "Identity of the node at its cloud provider.", config.provider_id),
    flag!("fail-cgroupv1", Some("failCgroupV1"), Current, "Refuse to start on a cgroup v1 host.", config.fail_cgroup_v1),
    flag!("v", Some("logging.verbosity"), Current, "Log verbosity.", config.logging.verbosity),
    flag!("vmodule", Some("logging.vmodule"), Current, "Log verbosity of single source files.", config.logging.vmodule),
    flag!("log-flush-frequency", Some("logging.flushFrequency"), Current, "Longest time between two flushes of the log.", config.logging.flush_frequency),
    // Configuration fields; the configuration file is the place for them.
    flag!("logging-format", Some("logging.format"), Deprecated, "text or json.", config.logging.format),
    flag!("log-text-split-stream", Some("logging.options.text.splitStream"), Deprecated, "Text log: errors to stderr, the rest to stdout.", config.logging.options.text.split_stream),
    flag!("log-text-info-buffer-size", Some("logging.options.text.infoBufferSize"), Deprecated, "Text log: buffer of the info stream.", config.logging.options.text.info_buffer_size),
    flag!("log-json-split-stream", Some("logging.options.json.splitStream"), Deprecated, "JSON log: errors to stderr, the rest to stdout.", config.logging.options.json.split_stream),
    flag!("log-json-info-buffer-size", Some("logging.options.json.infoBufferSize"), Deprecated, "JSON log: buffer of the info stream.", config.logging.options.json.info_buffer_size),
    flag!("enable-server", Some("enableServer"), Deprecated, "Run the HTTPS server.", config.enable_server),
    flag!("fail-swap-on", Some("failSwapOn"), Deprecated, "Refuse to start when swap is on.", config.fail_swap_on),
    flag!("pod-manifest-path", Some("staticPodPath"), Deprecated, "Directory or file of static pods.", config.static_pod_path),
    flag!("sync-frequency", Some("syncFrequency"), Deprecated, "Longest time between two looks at a pod.", config.sync_frequency),
    flag!("file-check-frequency", Some("fileCheckFrequency"), Deprecated, "Poll period of the static pod path.", config.file_check_frequency),
    flag!("http-check-frequency", Some("httpCheckFrequency"), Deprecated, "Poll period of the static pod URL.", config.http_check_frequency),
    flag!("manifest-url", Some("staticPodURL"), Deprecated, "URL of static pods.", config.static_pod_url),
    flag!("manifest-url-header", Some("staticPodURLHeader"), Deprecated, "Headers for that URL.", config.static_pod_url_header),
    flag!("address", Some("address"), Deprecated, "IP address of the servers.", config.address, ip_address, "ip"),
    flag!("port", Some("port"), Deprecated, "Port of the HTTPS server.", config.port),
    flag!("read-only-port", Some("readOnlyPort"), Deprecated, "Port of the server without authentication; 0 is off.", config.read_only_port),
    flag!("container-runtime-endpoint", Some("containerRuntimeEndpoint"), Deprecated, "CRI socket of the runtime.", config.container_runtime_endpoint),
    flag!("image-service-endpoint", Some("imageServiceEndpoint"), Deprecated, "CRI socket of the image service, if it is another one.", config.image_service_endpoint),
    flag!("anonymous-auth", Some("authentication.anonymous.enabled"), Deprecated, "Let requests without credentials through to authorization.", config.authentication.anonymous.enabled),
    flag!("authentication-token-webhook", Some("authentication.webhook.enabled"), Deprecated, "Check bearer tokens with the API server.", config.authentication.webhook.enabled),
    flag!("authentication-token-webhook-cache-ttl", Some("authentication.webhook.cacheTTL"), Deprecated, "How long token answers are kept.", config.authentication.webhook.cache_ttl),
    flag!("client-ca-file", Some("authentication.x509.clientCAFile"), Deprecated, "Authorities of accepted client certificates.", config.authentication.x509.client_ca_file),
    flag!("authorization-mode", Some("authorization.mode"), Deprecated, "AlwaysAllow or Webhook.", config.authorization.mode),
    flag!("authorization-webhook-cache-authorized-ttl", Some("authorization.webhook.cacheAuthorizedTTL"), Deprecated, "How long a yes is kept.", config.authorization.webhook.cache_authorized_ttl),
    flag!("authorization-webhook-cache-unauthorized-ttl", Some("authorization.webhook.cacheUnauthorizedTTL"), Deprecated, "How long a no is kept.", config.authorization.webhook.cache_unauthorized_ttl),
    flag!("tls-cert-file", Some("tlsCertFile"), Deprecated, "Serving certificate.", config.tls_cert_file),
    flag!("tls-private-key-file", Some("tlsPrivateKeyFile"), Deprecated, "Private key of the serving certificate.", config.tls_private_key_file),
    flag!("rotate-server-certificates", Some("serverTLSBootstrap"), Deprecated, "Get the serving certificate by CSR.", config.server_tls_bootstrap),
    flag!("tls-cipher-suites", Some("tlsCipherSuites"), Deprecated, "Allowed TLS 1.2 suites.", config.tls_cipher_suites),
    flag!("tls-min-version", Some("tlsMinVersion"), Deprecated, "VersionTLS10 to VersionTLS13.", config.tls_min_version),
    flag!("rotate-certificates", Some("rotateCertificates"), Deprecated, "Renew the client certificate by CSR.", config.rotate_certificates),
    flag!("registry-qps", Some("registryPullQPS"), Deprecated, "Image pulls per second; 0 is unlimited.", config.registry_pull_qps),
    flag!("registry-burst", Some("registryBurst"), Deprecated, "Image pulls at once above the rate.", config.registry_burst),
    flag!("event-qps", Some("eventRecordQPS"), Deprecated, "Events per second; 0 is unlimited.", config.event_record_qps),
    flag!("event-burst", Some("eventBurst"), Deprecated, "Events at once above the rate.", config.event_burst),
    flag!("enable-debugging-handlers", Some("enableDebuggingHandlers"), Deprecated, "Serve exec, attach, logs and the like.", config.enable_debugging_handlers),
    flag!("contention-profiling", Some("enableContentionProfiling"), Deprecated, "Go's block profiling; no meaning here.", config.enable_contention_profiling),
    flag!("healthz-port", Some("healthzPort"), Deprecated, "Port of the health endpoint; 0 is off.", config.healthz_port),
    flag!("healthz-bind-address", Some("healthzBindAddress"), Deprecated, "IP address of the health endpoint.", config.healthz_bind_address, ip_address, "ip"),
    flag!("oom-score-adj", Some("oomScoreAdj"), Deprecated, "The agent's own OOM score adjustment.", config.oom_score_adj),
    flag!("cluster-domain", Some("clusterDomain"), Deprecated, "DNS domain of the cluster.", config.cluster_domain),
    flag!("volume-plugin-dir", Some("volumePluginDir"), Deprecated, "Directory of flexvolume plugins.", config.volume_plugin_dir),
    flag!("cluster-dns", Some("clusterDNS"), Deprecated, "DNS servers for pods.", config.cluster_dns),
    flag!("streaming-connection-idle-timeout", Some("streamingConnectionIdleTimeout"), Deprecated, "No effect since 1.36.", config.streaming_connection_idle_timeout),
    flag!("node-status-update-frequency", Some("nodeStatusUpdateFrequency"), Deprecated, "How often node status is computed.", config.node_status_update_frequency),
    flag!("minimum-image-ttl-duration", Some("imageMinimumGCAge"), Deprecated, "Youngest age of an unused image that may be removed.", config.image_minimum_gc_age),
    flag!("image-gc-high-threshold", Some("imageGCHighThresholdPercent"), Deprecated, "Disk use in percent that starts image collection.", config.image_gc_high_threshold_percent),
    flag!("image-gc-low-threshold", Some("imageGCLowThresholdPercent"), Deprecated, "Disk use in percent that image collection aims for.", config.image_gc_low_threshold_percent),
    flag!("volume-stats-agg-period", Some("volumeStatsAggPeriod"), Deprecated, "How often volume use is measured.", config.volume_stats_agg_period),
    flag!("feature-gates", Some("featureGates"), Deprecated, "Feature gates; merged with those of the files, gate by gate.", config.feature_gates),
    flag!("kubelet-cgroups", Some("kubeletCgroups"), Deprecated, "Cgroup the agent moves itself into.", config.kubelet_cgroups),
    flag!("system-cgroups", Some("systemCgroups"), Deprecated, "Cgroup for other system processes.", config.system_cgroups),
    flag!("cgroups-per-qos", Some("cgroupsPerQOS"), Deprecated, "Make QoS and pod cgroups.", config.cgroups_per_qos),
    flag!("cgroup-driver", Some("cgroupDriver"), Deprecated, "cgroupfs or systemd; the runtime's answer wins.", config.cgroup_driver),
    flag!("cgroup-root", Some("cgroupRoot"), Deprecated, "Cgroup above all pods.", config.cgroup_root),
    flag!("cpu-manager-policy", Some("cpuManagerPolicy"), Deprecated, "none or static.", config.cpu_manager_policy),
    flag!("cpu-manager-policy-options", Some("cpuManagerPolicyOptions"), Deprecated, "Fine tuning of the CPU policy; one option per use.", config.cpu_manager_policy_options, single_pair, "key=value"),
    flag!("cpu-manager-reconcile-period", Some("cpuManagerReconcilePeriod"), Deprecated, "How often CPU sets are re-asserted.", config.cpu_manager_reconcile_period),
    flag!("qos-reserved", Some("qosReserved"), Deprecated, "Percentage of requests withheld from lower QoS classes.", config.qos_reserved),
    flag!("topology-manager-policy", Some("topologyManagerPolicy"), Deprecated, "none, best-effort, restricted or single-numa-node.", config.topology_manager_policy),
    flag!("topology-manager-scope", Some("topologyManagerScope"), Deprecated, "container or pod.", config.topology_manager_scope),
    flag!("topology-manager-policy-options", Some("topologyManagerPolicyOptions"), Deprecated, "Fine tuning of the topology policy.", config.topology_manager_policy_options),
    flag!("memory-manager-policy", Some("memoryManagerPolicy"), Deprecated, "None or Static.", config.memory_manager_policy),
    flag!("reserved-memory", Some("reservedMemory"), Deprecated, "Memory kept per NUMA node.", config.reserved_memory),
    flag!("runtime-request-timeout", Some("runtimeRequestTimeout"), Deprecated, "Deadline of CRI calls.", config.runtime_request_timeout),
    flag!("hairpin-mode", Some("hairpinMode"), Deprecated, "No effect with CRI.", config.hairpin_mode),
    flag!("max-pods", Some("maxPods"), Deprecated, "Most pods on this node.", config.max_pods),
    flag!("pods-per-core", Some("podsPerCore"), Deprecated, "Most pods per core; 0 is no such limit.", config.pods_per_core),
    flag!("pod-cidr", Some("podCIDR"), Deprecated, "Pod address range in standalone mode.", config.pod_cidr),
    flag!("pod-max-pids", Some("podPidsLimit"), Deprecated, "Most processes per pod; -1 is the node's limit.", config.pod_pids_limit),
    flag!("resolv-conf", Some("resolvConf"), Deprecated, "Source of pods' DNS settings.", config.resolv_conf),
    flag!("runonce", Some("runOnce"), Deprecated, "Removed mode; must be false.", config.run_once),
    flag!("cpu-cfs-quota", Some("cpuCFSQuota"), Deprecated, "Turn CPU limits into CFS quotas.", config.cpu_cfs_quota),
    flag!("cpu-cfs-quota-period", Some("cpuCFSQuotaPeriod"), Deprecated, "CFS period.", config.cpu_cfs_quota_period),
    flag!("enable-controller-attach-detach", Some("enableControllerAttachDetach"), Deprecated, "Let the controller attach volumes.", config.enable_controller_attach_detach),
    flag!("make-iptables-util-chains", Some("makeIPTablesUtilChains"), Deprecated, "Keep the utility chains for iptables.", config.make_iptables_util_chains),
    flag!("container-log-max-size", Some("containerLogMaxSize"), Deprecated, "Size at which a container log is rotated.", config.container_log_max_size),
    flag!("container-log-max-files", Some("containerLogMaxFiles"), Deprecated, "Log files kept per container.", config.container_log_max_files),
    flag!("allowed-unsafe-sysctls", Some("allowedUnsafeSysctls"), Deprecated, "Unsafe sysctls or patterns that pods may set.", config.allowed_unsafe_sysctls),
    flag!("node-status-max-images", Some("nodeStatusMaxImages"), Deprecated, "Most images in node status; -1 is no cap.", config.node_status_max_images),
    flag!("kernel-memcg-notification", Some("kernelMemcgNotification"), Deprecated, "Use kernel notifications for memory thresholds.", config.kernel_memcg_notification),
    flag!("local-storage-capacity-isolation", Some("localStorageCapacityIsolation"), Deprecated, "Account ephemeral storage.", config.local_storage_capacity_isolation),
    flag!("max-open-files", Some("maxOpenFiles"), Deprecated, "The agent's own limit of open files.", config.max_open_files),
    flag!("kube-api-content-type", Some("contentType"), Deprecated, "Content type of requests to the API server.", config.content_type),
    flag!("kube-api-qps", Some("kubeAPIQPS"), Deprecated, "Requests per second to the API server.", config.kube_api_qps),
    flag!("kube-api-burst", Some("kubeAPIBurst"), Deprecated, "Requests at once above the rate.", config.kube_api_burst),
    flag!("serialize-image-pulls", Some("serializeImagePulls"), Deprecated, "Pull images one at a time.", config.serialize_image_pulls),
    flag!("eviction-hard", Some("evictionHard"), Deprecated, "Hard eviction thresholds.", config.eviction_hard, less_than_pairs, "signal<amount,..."),
    flag!("eviction-soft", Some("evictionSoft"), Deprecated, "Soft eviction thresholds.", config.eviction_soft, less_than_pairs, "signal<amount,..."),
    flag!("eviction-soft-grace-period", Some("evictionSoftGracePeriod"), Deprecated, "Grace periods of the soft thresholds.", config.eviction_soft_grace_period),
    flag!("eviction-pressure-transition-period", Some("evictionPressureTransitionPeriod"), Deprecated, "How long pressure is still reported.", config.eviction_pressure_transition_period),
    flag!("eviction-max-pod-grace-period", Some("evictionMaxPodGracePeriod"), Deprecated, "Longest grace of softly evicted pods in seconds.", config.eviction_max_pod_grace_period),
    flag!("eviction-minimum-reclaim", Some("evictionMinimumReclaim"), Deprecated, "Least amount an eviction must free.", config.eviction_minimum_reclaim),
    flag!("protect-kernel-defaults", Some("protectKernelDefaults"), Deprecated, "Fail on unexpected sysctls instead of writing them.", config.protect_kernel_defaults),
    flag!("reserved-cpus", Some("reservedSystemCPUs"), Deprecated, "CPUs kept for the system.", config.reserved_system_cpus),
    flag!("system-reserved", Some("systemReserved"), Deprecated, "Resources kept for the system.", config.system_reserved),
    flag!("kube-reserved", Some("kubeReserved"), Deprecated, "Resources kept for Kubernetes daemons.", config.kube_reserved),
    flag!("enforce-node-allocatable", Some("enforceNodeAllocatable"), Deprecated, "What allocatable is enforced on.", config.enforce_node_allocatable),
    flag!("system-reserved-cgroup", Some("systemReservedCgroup"), Deprecated, "Cgroup systemReserved is enforced on.", config.system_reserved_cgroup),
    flag!("kube-reserved-cgroup", Some("kubeReservedCgroup"), Deprecated, "Cgroup kubeReserved is enforced on.", config.kube_reserved_cgroup),
    flag!("register-node", Some("registerNode"), Deprecated, "Register the node.", config.register_node),
    flag!("register-with-taints", Some("registerWithTaints"), Deprecated, "Taints the node is created with.", config.register_with_taints),
    // Leftovers of cAdvisor.
    no_effect!("application-metrics-count-limit", i64),
    no_effect!("boot-id-file", String),
    no_effect!("container-hints", String),
    no_effect!("containerd", String),
    no_effect!("containerd-namespace", String),
    no_effect!("enable-load-reader", bool),
    no_effect!("event-storage-age-limit", String),
    no_effect!("event-storage-event-limit", String),
    no_effect!("global-housekeeping-interval", GoDuration),
    no_effect!("log-cadvisor-usage", bool),
    no_effect!("machine-id-file", String),
    no_effect!("storage-driver-user", String),
    no_effect!("storage-driver-password", String),
    no_effect!("storage-driver-host", String),
    no_effect!("storage-driver-db", String),
    no_effect!("storage-driver-table", String),
    no_effect!("storage-driver-secure", bool),
    no_effect!("storage-driver-buffer-duration", GoDuration),
];

const DOCKERSHIM: &str = "it belonged to dockershim; remove it, the container runtime and CNI have their own configuration";
const KLOG: &str = "it was removed with klog's file logging; remove it, logs go to standard error";

/// Flags that upstream has removed, with what to do instead.
pub(crate) const REMOVED: &[(&str, &str)] = &[
    ("pod-infra-container-image", "remove it; the sandbox image is set in the container runtime's configuration"),
    ("cloud-config", "remove it; cloud providers are external and read their own configuration"),
    ("container-runtime", "remove it; CRI is the only kind, its socket is set with containerRuntimeEndpoint in the --config file"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Field;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_fields_exist() {
        let names: BTreeSet<&str> = FLAGS.iter().map(|flag| flag.name).collect();
        assert_eq!(names.len(), FLAGS.len());
        for (removed, _) in REMOVED {
            assert!(!names.contains(removed), "{removed}");
        }
        for flag in FLAGS {
            assert!(!flag.name.contains('_'), "{}", flag.name);
            if let Some(field) = flag.field {
                let top = field.split('.').next().unwrap_or(field);
                assert!(KubeletConfiguration::FIELDS.contains(&top), "{field}");
            }
        }
    }

    /// Sets each configuration flag to a value that differs from the default and checks that
    /// exactly the field named in the table changes.
    #[test]
    fn each_flag_sets_the_field_it_names() {
        for flag in FLAGS {
            let Some(field) = flag.field else { continue };
            let fresh =
                || Settings { config: KubeletConfiguration::default(), flags: KubeletFlags::default() };
            let before = fresh().config.to_json();
            let texts = ["true", "false", "77", "7h", "7.7.7.7", "a=7", "a<7", "a=true", "a:b", "a=b:c", "0:memory=7", "other"];
            let changed: BTreeSet<String> = texts
                .iter()
                .flat_map(|text| {
                    let mut settings = fresh();
                    let _ = (flag.set)(&mut settings, text, true);
                    difference("", &before, &settings.config.to_json())
                })
                .collect();
            assert!(!changed.is_empty(), "--{} sets nothing", flag.name);
            for path in changed {
                assert!(path.starts_with(field), "--{} sets {path}, not {field}", flag.name);
            }
        }
    }

    fn difference(path: &str, a: &serde_json::Value, b: &serde_json::Value) -> Vec<String> {
        match (a, b) {
            (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
                let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
                keys.into_iter()
                    .flat_map(|key| {
                        let dot = if path.is_empty() { "" } else { "." };
                        let null = serde_json::Value::Null;
                        difference(
                            &format!("{path}{dot}{key}"),
                            a.get(key).unwrap_or(&null),
                            b.get(key).unwrap_or(&null),
                        )
                    })
                    .collect()
            }
            _ if a == b => Vec::new(),
            _ => vec![path.to_owned()],
        }
    }
}
