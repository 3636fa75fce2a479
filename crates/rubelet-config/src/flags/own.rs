//! The flags that belong to one node and one process, not to a shared configuration file.
//!
//! Owns names and defaults (upstream `KubeletFlags`, `ContainerRuntimeOptions` and the two cAdvisor
//! flags that tests rely on).

use std::collections::BTreeMap;

use crate::duration::GoDuration;

/// Values of the flags that are not configuration fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeletFlags {
    /// `--config`: the configuration file; empty is none.
    pub config: String,
    /// `--config-dir`: directory of drop-in files; empty is none.
    pub config_dir: String,
    /// `--kubeconfig`: how to reach the API server; empty is standalone.
    pub kubeconfig: String,
    /// `--bootstrap-kubeconfig`: used to get the first client certificate.
    pub bootstrap_kubeconfig: String,
    /// `--hostname-override`: the node's name; empty is the lower-cased host name.
    pub hostname_override: String,
    /// `--node-ip`: an address, a dual-stack pair, or `::`/`0.0.0.0` as a family preference.
    pub node_ip: String,
    /// `--cert-dir`: where certificates are kept.
    pub cert_dir: String,
    /// `--cloud-provider`: empty or `external`.
    pub cloud_provider: String,
    /// `--root-dir`: where pods' files and state are kept.
    pub root_dir: String,
    /// `--seccomp-default`: or-ed with the configuration field.
    pub seccomp_default: bool,
    /// `--node-labels`: labels the node registers with.
    pub node_labels: BTreeMap<String, String>,
    /// `--lock-file`: held while the agent runs; empty is none.
    pub lock_file: String,
    /// `--exit-on-lock-contention`: give way when somebody else opens the lock file.
    pub exit_on_lock_contention: bool,
    /// `--runtime-cgroups`: cgroup the runtime runs in.
    pub runtime_cgroups: String,
    /// `--image-credential-provider-config`: file or directory.
    pub image_credential_provider_config: String,
    /// `--image-credential-provider-bin-dir`: directory of credential plugins.
    pub image_credential_provider_bin_dir: String,
    /// `--minimum-container-ttl-duration`: youngest age of a dead container that may be removed.
    pub minimum_container_ttl_duration: GoDuration,
    /// `--maximum-dead-containers-per-container`: dead instances kept per container.
    pub maximum_dead_containers_per_container: i32,
    /// `--maximum-dead-containers`: dead containers kept in all; negative is no limit.
    pub maximum_dead_containers: i32,
    /// `--experimental-mounter-path`: mount binary; empty is the default.
    pub experimental_mounter_path: String,
    /// `--experimental-allocatable-ignore-eviction`: leave hard thresholds out of allocatable.
    pub experimental_allocatable_ignore_eviction: bool,
    /// `--housekeeping-interval`: base period of container statistics.
    pub housekeeping_interval: GoDuration,
    /// `--max-housekeeping-interval`: longest period of container statistics.
    pub max_housekeeping_interval: GoDuration,
    /// `--help`.
    pub(crate) help: bool,
    /// `--version`: empty, `true`, `false` or `raw`.
    pub(crate) version: String,
}

impl Default for KubeletFlags {
    fn default() -> Self {
        Self {
            config: String::new(),
            config_dir: String::new(),
            kubeconfig: String::new(),
            bootstrap_kubeconfig: String::new(),
            hostname_override: String::new(),
            node_ip: String::new(),
            cert_dir: "/var/lib/kubelet/pki".into(),
            cloud_provider: String::new(),
            root_dir: "/var/lib/kubelet".into(),
            seccomp_default: false,
            node_labels: BTreeMap::new(),
            lock_file: String::new(),
            exit_on_lock_contention: false,
            runtime_cgroups: String::new(),
            image_credential_provider_config: String::new(),
            image_credential_provider_bin_dir: String::new(),
            minimum_container_ttl_duration: GoDuration::ZERO,
            maximum_dead_containers_per_container: 1,
            maximum_dead_containers: -1,
            experimental_mounter_path: String::new(),
            experimental_allocatable_ignore_eviction: false,
            housekeeping_interval: GoDuration::from_secs(10),
            max_housekeeping_interval: GoDuration::from_secs(15),
            help: false,
            version: String::new(),
        }
    }
}
