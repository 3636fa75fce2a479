//! The node agent's settings: what configuration and flags say about the Node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use rubelet_config::{FeatureGates, KUBERNETES_VERSION, KubeletConfiguration, KubeletFlags};
use rubelet_core::node::NodeConfig;
use rubelet_core::node::addresses::{AddressConfig, AddressError, parse_node_ips};
use rubelet_core::node::capacity::{CapacityFacts, Reservations, count_cpus};
use rubelet_core::node::info::kubelet_version;
use rubelet_linux::node_facts::NodeMachine;
use tracing::warn;

/// Flags that say something about the Node and are no configuration fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFlags {
    /// `--node-ip`.
    pub node_ip: String,
    /// `--node-labels`.
    pub node_labels: BTreeMap<String, String>,
    /// `--cloud-provider=external`.
    pub external_cloud: bool,
    /// `--experimental-allocatable-ignore-eviction`.
    pub allocatable_ignores_eviction: bool,
}

impl From<&KubeletFlags> for NodeFlags {
    fn from(flags: &KubeletFlags) -> Self {
        Self {
            node_ip: flags.node_ip.clone(),
            node_labels: flags.node_labels.clone(),
            external_cloud: flags.cloud_provider == "external",
            allocatable_ignores_eviction: flags.experimental_allocatable_ignore_eviction,
        }
    }
}

/// Why the node cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// `--node-ip` makes no sense.
    #[error(transparent)]
    NodeIp(#[from] AddressError),
}

/// Settings of a node agent.
#[derive(Clone, Debug)]
pub struct NodeAgentSettings {
    /// What the Node is to say.
    pub node: NodeConfig,
    /// `registerNode`.
    pub register: bool,
    /// `--root-dir`.
    pub root_dir: PathBuf,
    /// `nodeStatusUpdateFrequency`.
    pub update_frequency: Duration,
    /// `nodeStatusReportFrequency`.
    pub report_frequency: Duration,
    /// `nodeLeaseDurationSeconds`.
    pub lease_seconds: i32,
    /// `maxPods`.
    pub max_pods: i32,
    /// `podsPerCore`.
    pub pods_per_core: i32,
    /// Feature gates that are on, for declared features.
    pub gates: Vec<&'static str>,
}

impl NodeAgentSettings {
    /// From the configuration and the flags of node `name`.
    ///
    /// # Errors
    /// When a flag makes no sense.
    pub fn new(
        config: &KubeletConfiguration,
        flags: &NodeFlags,
        name: &str,
        root_dir: impl Into<PathBuf>,
    ) -> Result<Self, SettingsError> {
        let node_ips = parse_node_ips(&flags.node_ip)?;
        if !node_ips.ignored.is_empty() {
            warn!("--node-ip: {} is no address and is ignored", node_ips.ignored.join(", "));
        }
        let gates = FeatureGates::from_settings(&config.feature_gates).0;
        Ok(Self {
            node: NodeConfig {
                addresses: AddressConfig {
                    node_name: name.to_owned(),
                    // Without a cloud provider inside the agent the two are the same.
                    hostname: name.to_owned(),
                    node_ips: node_ips.ips,
                    external_cloud: flags.external_cloud,
                },
                labels: flags.node_labels.clone(),
                taints: config.register_with_taints.iter().map(taint).collect(),
                provider_id: config.provider_id.clone(),
                controller_attach: config.enable_controller_attach_detach,
                reservations: reservations(config, flags),
                max_images: config.node_status_max_images,
                port: config.port,
                local_storage: config.local_storage_capacity_isolation,
                kubelet_version: kubelet_version(KUBERNETES_VERSION, env!("CARGO_PKG_VERSION")),
            },
            register: config.register_node,
            root_dir: root_dir.into(),
            update_frequency: config.node_status_update_frequency.to_std(),
            report_frequency: config.node_status_report_frequency.to_std(),
            lease_seconds: config.node_lease_duration_seconds,
            max_pods: config.max_pods,
            pods_per_core: config.pods_per_core,
            gates: gates.all().filter(|(_, on)| *on).map(|(spec, _)| spec.name).collect(),
        })
    }

    /// What capacity follows from on this machine, with this much ephemeral storage.
    pub fn capacity(&self, machine: &NodeMachine, ephemeral_storage_bytes: Option<u64>) -> CapacityFacts {
        CapacityFacts {
            cpus: machine.cpus,
            memory_bytes: machine.memory_bytes,
            huge_pages: machine.huge_pages.clone(),
            ephemeral_storage_bytes: ephemeral_storage_bytes.filter(|_| self.node.local_storage),
            max_pods: self.max_pods,
            pods_per_core: self.pods_per_core,
        }
    }

    /// How long a heartbeat may take: a later one would come too late anyway.
    pub(super) fn request_limit(&self) -> Duration {
        let lease = Duration::from_secs(u64::try_from(self.lease_seconds).unwrap_or(40));
        self.update_frequency.min(lease).max(Duration::from_secs(1))
    }
}

fn reservations(config: &KubeletConfiguration, flags: &NodeFlags) -> Reservations {
    let none = BTreeMap::new();
    let eviction_hard = if flags.allocatable_ignores_eviction { &none } else { &config.eviction_hard };
    let cpus = count_cpus(&config.reserved_system_cpus);
    Reservations::new(&config.kube_reserved, &config.system_reserved, cpus, eviction_hard)
}

fn taint(taint: &rubelet_config::Taint) -> Taint {
    Taint {
        key: taint.key.clone(),
        value: (!taint.value.is_empty()).then(|| taint.value.clone()),
        effect: taint.effect.clone(),
        time_added: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_and_flags_become_settings() {
        let config = KubeletConfiguration {
            eviction_hard: [("memory.available".to_owned(), "100Mi".to_owned())].into(),
            register_with_taints: vec![rubelet_config::Taint {
                key: "a".into(),
                effect: "NoSchedule".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut flags = NodeFlags { node_ip: "192.0.2.1,nonsense".into(), ..Default::default() };
        let settings = NodeAgentSettings::new(&config, &flags, "node-1", "/var/lib/kubelet").unwrap();
        assert_eq!(settings.node.taints[0].value, None);
        assert_eq!(settings.node.addresses.node_ips.len(), 1);
        assert!(settings.node.kubelet_version.starts_with("v1.36."));
        assert!(settings.gates.contains(&"NodeDeclaredFeatures"));
        assert_eq!(settings.request_limit(), Duration::from_secs(10));
        let machine = NodeMachine { cpus: 2, memory_bytes: 1 << 30, ..Default::default() };
        let left = |settings: &NodeAgentSettings| {
            let facts = settings.capacity(&machine, None);
            rubelet_core::node::capacity::node_allocatable(&facts, &settings.node.reservations)["memory"]
                .to_string()
        };
        assert_eq!(left(&settings), "924Mi");
        flags.allocatable_ignores_eviction = true;
        let settings = NodeAgentSettings::new(&config, &flags, "node-1", "/var/lib/kubelet").unwrap();
        assert_eq!(left(&settings), "1Gi");
        flags.node_ip = "192.0.2.1,192.0.2.2".into();
        assert!(NodeAgentSettings::new(&config, &flags, "node-1", "/").is_err());
    }
}
