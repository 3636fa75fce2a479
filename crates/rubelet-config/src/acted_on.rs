//! Which settings the agent acts on, so that it can say at start which ones it does not, yet.
//!
//! Owns two lists that grow with the agent; nothing else in the project knows about "not yet".

use crate::load::Loaded;

/// Top-level configuration fields that the agent honours, or that have no effect upstream either.
const FIELDS: &[&str] = &[
    "address",
    "allowedUnsafeSysctls",
    "cgroupDriver",
    "cgroupRoot",
    "cgroupsPerQOS",
    "clusterDNS",
    "clusterDomain",
    "configMapAndSecretChangeDetectionStrategy",
    "containerLogMaxFiles",
    "containerLogMaxSize",
    "containerLogMaxWorkers",
    "containerLogMonitorInterval",
    "containerRuntimeEndpoint",
    "cpuCFSQuota",
    "cpuCFSQuotaPeriod",
    "cpuManagerPolicy",
    "cpuManagerPolicyOptions",
    "cpuManagerReconcilePeriod",
    "crashLoopBackOff",
    // Only what the Node says of it.
    "enableControllerAttachDetach",
    "enforceNodeAllocatable",
    "eventBurst",
    "eventRecordQPS",
    // Only for conditions, allocatable and admission.
    "evictionHard",
    "evictionMaxPodGracePeriod",
    "evictionMinimumReclaim",
    "evictionPressureTransitionPeriod",
    "evictionSoft",
    "evictionSoftGracePeriod",
    "failCgroupV1",
    "failSwapOn",
    "featureGates",
    "fileCheckFrequency",
    "healthzBindAddress",
    "healthzPort",
    "httpCheckFrequency",
    "imageGCHighThresholdPercent",
    "imageGCLowThresholdPercent",
    "imageMaximumGCAge",
    "imageMinimumGCAge",
    "imagePullCredentialsVerificationPolicy",
    "imageServiceEndpoint",
    "kernelMemcgNotification",
    "kubeAPIBurst",
    "kubeAPIQPS",
    "kubeReserved",
    "kubeReservedCgroup",
    "localStorageCapacityIsolation",
    "logging",
    "maxOpenFiles",
    "maxParallelImagePulls",
    "maxPods",
    "memoryManagerPolicy",
    "memoryReservationPolicy",
    "memorySwap",
    "memoryThrottlingFactor",
    "mergeDefaultEvictionSettings",
    "nodeLeaseDurationSeconds",
    "nodeStatusMaxImages",
    "nodeStatusReportFrequency",
    "nodeStatusUpdateFrequency",
    "oomScoreAdj",
    "podCIDR",
    "podLogsDir",
    "podPidsLimit",
    "podsPerCore",
    "preloadedImagesVerificationAllowlist",
    "protectKernelDefaults",
    "providerID",
    "qosReserved",
    "readOnlyPort",
    "registerNode",
    "registerWithTaints",
    "registryBurst",
    "registryPullQPS",
    "reservedMemory",
    "reservedSystemCPUs",
    "resolvConf",
    "rotateCertificates",
    "runtimeRequestTimeout",
    "seccompDefault",
    "serializeImagePulls",
    "singleProcessOOMKill",
    "shutdownGracePeriod",
    "shutdownGracePeriodByPodPriority",
    "shutdownGracePeriodCriticalPods",
    "staticPodPath",
    "staticPodURL",
    "staticPodURLHeader",
    "syncFrequency",
    "systemReserved",
    "systemReservedCgroup",
    "userNamespaces",
    "authentication",
    "authorization",
    "enableDebugFlagsHandler",
    "enableDebuggingHandlers",
    "enableProfilingHandler",
    "enableServer",
    "enableSystemLogHandler",
    "enableSystemLogQuery",
    "port",
    "serverTLSBootstrap",
    "tlsCertFile",
    "tlsCipherSuites",
    "tlsCurvePreferences",
    "tlsMinVersion",
    "tlsPrivateKeyFile",
    "topologyManagerPolicy",
    "topologyManagerPolicyOptions",
    "topologyManagerScope",
    "tracing",
    "volumeStatsAggPeriod",
    // Only for figures.
    "kubeletCgroups",
    // Only for figures.
    "systemCgroups",
    // Requests are JSON whatever it says.
    "contentType",
    // No effect upstream.
    "enableContentionProfiling",
    "hairpinMode",
    "iptablesDropBit",
    "iptablesMasqueradeBit",
    "runOnce",
    "streamingConnectionIdleTimeout",
];

/// Flags that are no fields and that the agent honours; leftovers of cAdvisor are reported as
/// deprecated and need no second word.
const FLAGS: &[&str] = &[
    "application-metrics-count-limit",
    "boot-id-file",
    "bootstrap-kubeconfig",
    "cert-dir",
    "cloud-provider",
    "config",
    "config-dir",
    "container-hints",
    "containerd",
    "containerd-namespace",
    "enable-load-reader",
    "event-storage-age-limit",
    "event-storage-event-limit",
    "experimental-allocatable-ignore-eviction",
    "global-housekeeping-interval",
    "help",
    "hostname-override",
    "image-credential-provider-bin-dir",
    "image-credential-provider-config",
    "kubeconfig",
    "log-cadvisor-usage",
    "machine-id-file",
    "maximum-dead-containers",
    "maximum-dead-containers-per-container",
    "minimum-container-ttl-duration",
    "node-ip",
    "node-labels",
    "root-dir",
    "runtime-cgroups",
    "seccomp-default",
    "storage-driver-buffer-duration",
    "storage-driver-db",
    "storage-driver-host",
    "storage-driver-password",
    "storage-driver-secure",
    "storage-driver-table",
    "storage-driver-user",
    "version",
];

/// What the user set and the agent accepts without acting on it yet, each with its place.
#[must_use]
pub fn not_acted_on(loaded: &Loaded) -> Vec<String> {
    let fields = loaded.origins.top_level().into_iter().filter(|field| !FIELDS.contains(field));
    let flags = loaded.flags_given.iter().filter(|flag| !FLAGS.contains(flag));
    fields
        .map(|field| format!("{field} ({})", loaded.origins.of_anything_in(field)))
        .chain(flags.map(|flag| format!("--{flag}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KubeletConfiguration;

    #[test]
    fn the_lists_name_only_what_exists() {
        for field in FIELDS {
            assert!(KubeletConfiguration::FIELDS.contains(field), "{field}");
        }
        for flag in FLAGS {
            assert!(crate::flags::exists(flag), "{flag}");
        }
    }
}
