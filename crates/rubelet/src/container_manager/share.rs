//! What a container gets of the machine besides what its pod says: values, nothing else.

use rubelet_core::cpu_set::CpuSet;
use rubelet_core::topology::NumaMask;
use rubelet_cri::v1;

/// What one container gets. Empty for one that nothing was assigned to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerShare {
    /// CPUs it may run on; `None` says nothing about them.
    pub cpus: Option<CpuSet>,
    /// The CPUs are its own, so that it needs no quota.
    pub exclusive_cpus: bool,
    /// NUMA nodes its memory comes from; `None` says nothing about them.
    pub memory_nodes: Option<NumaMask>,
    /// Device nodes.
    pub devices: Vec<v1::Device>,
    /// Mounts that devices need.
    pub mounts: Vec<v1::Mount>,
    /// Variables that devices need, before the pod's own.
    pub envs: Vec<(String, String)>,
    /// Annotations of the container for the runtime.
    pub annotations: Vec<(String, String)>,
    /// Names of CDI devices.
    pub cdi_devices: Vec<String>,
}

impl ContainerShare {
    /// Adds what another provider gives.
    pub fn add(&mut self, other: Self) {
        self.cpus = self.cpus.take().or(other.cpus);
        self.exclusive_cpus |= other.exclusive_cpus;
        self.memory_nodes = self.memory_nodes.or(other.memory_nodes);
        self.devices.extend(other.devices);
        self.mounts.extend(other.mounts);
        self.envs.extend(other.envs);
        self.annotations.extend(other.annotations);
        for name in other.cdi_devices {
            // A device by its plugin and by a claim is one device.
            if !self.cdi_devices.contains(&name) {
                self.cdi_devices.push(name);
            }
        }
    }
}
