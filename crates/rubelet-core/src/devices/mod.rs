//! Devices that plugins offer, and which container has which.
//!
//! Owns the book of both ([`DeviceBook`]): what a node tells of its devices, where a request could be served from, which
//! IDs a container gets, and what is written down of it. Never talks to a plugin, never looks at a clock: `now` is the
//! span since any fixed moment. Called by the shell's `devices`, which carries out what this decides.
//!
//! Rules are upstream's (`cm/devicemanager`), but for one: where upstream fails a pod because a plugin has not come back
//! yet, the pod waits ([`Need::Wait`]), as long as the node still tells the plugin's devices.

mod checkpoint;
mod choice;
mod hints;
mod pods;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use checkpoint::{Checkpoint, CheckpointError, Entry};
pub use choice::{Ask, Choice, Need, Refusal};
pub use pods::Allocation;

use crate::ids::PodUid;
use crate::topology::NumaMask;

/// How long a plugin that has gone, or is not back after a restart, is waited for (upstream `endpointStopGracePeriod`).
pub const PLUGIN_GRACE: Duration = Duration::from_secs(300);
/// How long a plugin that has just registered may take until all its devices are healthy.
pub const SETTLING: Duration = Duration::from_secs(30);
/// Node of devices that tell none, in the checkpoint (upstream `nodeWithoutTopology`).
const NO_NODE: i64 = -1;

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Whether its plugin calls it healthy.
    pub healthy: bool,
    /// The NUMA nodes of this machine that it is at; none when it does not matter.
    pub nodes: NumaMask,
}

/// A device as its plugin tells of it: unchecked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToldDevice {
    /// Its ID.
    pub id: String,
    /// Whether it is healthy.
    pub healthy: bool,
    /// NUMA nodes.
    pub nodes: Vec<i64>,
}

/// What a plugin wants to be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PluginOptions {
    /// Before each start of a container with its devices.
    pub pre_start: bool,
    /// Which devices it would rather give.
    pub preferred: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plugin {
    /// It is not there; it is given up at this time. `options`: what it wanted when it was; `None` when it was not there
    /// since the agent started.
    Missing { until: Duration, options: Option<PluginOptions> },
    /// It is there since then. `listed`: it has told its devices.
    Here { since: Duration, options: PluginOptions, listed: bool },
}

#[derive(Clone, Debug)]
struct Resource {
    plugin: Plugin,
    devices: BTreeMap<String, Device>,
}

impl Resource {
    fn is_here(&self) -> bool {
        matches!(self.plugin, Plugin::Here { .. })
    }

    /// Healthy devices; those of a plugin that is gone are not.
    fn healthy(&self) -> impl Iterator<Item = &str> {
        let here = self.is_here();
        self.devices.iter().filter(move |(_, device)| here && device.healthy).map(|(id, _)| id.as_str())
    }

    /// Whether any device tells a NUMA node: then they all care (upstream `deviceHasTopologyAlignment`).
    fn is_aligned(&self) -> bool {
        self.devices.values().any(|device| !device.nodes.is_empty())
    }
}

/// What a new list of devices means for others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Pods whose devices have become healthy or ill.
    pub pods: BTreeSet<PodUid>,
    /// The node has other devices than before.
    pub changed: bool,
    /// The checkpoint has to be written: other devices are healthy than before.
    pub registered: bool,
    /// What the plugin said that cannot be.
    pub problems: Vec<String>,
}

/// How many devices of a resource there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All.
    pub capacity: i64,
    /// Healthy ones.
    pub allocatable: i64,
}

/// The book.
#[derive(Clone, Debug, Default)]
pub struct DeviceBook {
    /// NUMA nodes of the machine.
    nodes: NumaMask,
    resources: BTreeMap<String, Resource>,
    /// Resources whose plugins were given up: the node tells that there are none.
    removed: BTreeSet<String>,
    /// By pod, container and resource.
    pods: BTreeMap<PodUid, BTreeMap<String, BTreeMap<String, Allocation>>>,
}

impl DeviceBook {
    /// An empty book, of a machine with these NUMA nodes.
    pub fn new(nodes: NumaMask) -> Self {
        Self { nodes, ..Self::default() }
    }

    /// Takes over what an earlier run wrote down. Its plugins are waited for from `now` on.
    pub fn restore(&mut self, checkpoint: Checkpoint, now: Duration) {
        for name in checkpoint.registered.into_keys() {
            let plugin = Plugin::Missing { until: now + PLUGIN_GRACE, options: None };
            self.resources.entry(name).or_insert(Resource { plugin, devices: BTreeMap::new() });
        }
        for entry in checkpoint.entries {
            let allocation = Allocation { devices: entry.devices, response: entry.response };
            let containers = self.pods.entry(entry.pod).or_default();
            containers.entry(entry.container).or_default().insert(entry.resource, allocation);
        }
    }

    /// What is to be written down.
    pub fn checkpoint(&self) -> Checkpoint {
        let healthy = |resource: &Resource| resource.healthy().map(str::to_owned).collect();
        let registered = self.resources.iter().map(|(name, resource)| (name.clone(), healthy(resource)));
        let mut entries = Vec::new();
        for (pod, containers) in &self.pods {
            for (container, resources) in containers {
                entries.extend(resources.iter().map(|(resource, allocation)| Entry {
                    pod: pod.clone(),
                    container: container.clone(),
                    resource: resource.clone(),
                    devices: allocation.devices.clone(),
                    response: allocation.response.clone(),
                }));
            }
        }
        Checkpoint { entries, registered: registered.collect() }
    }

    /// A plugin has registered, for the first time or anew. What it had before counts until it lists its devices.
    pub fn connected(&mut self, resource: &str, options: PluginOptions, now: Duration) {
        self.removed.remove(resource);
        let plugin = Plugin::Here { since: now, options, listed: false };
        match self.resources.get_mut(resource) {
            // One that takes the place of another is as good as that until it lists.
            Some(known) => {
                let listed = matches!(known.plugin, Plugin::Here { listed: true, .. });
                known.plugin = Plugin::Here { since: now, options, listed };
            }
            None => {
                self.resources.insert(resource.to_owned(), Resource { plugin, devices: BTreeMap::new() });
            }
        }
    }

    /// A plugin tells all its devices.
    pub fn listed(&mut self, resource: &str, told: Vec<ToldDevice>) -> Listed {
        let mut news = Listed::default();
        let Some(known) = self.resources.get_mut(resource) else { return news };
        let Plugin::Here { listed, .. } = &mut known.plugin else { return news };
        news.changed = !*listed;
        news.registered = !*listed;
        *listed = true;
        let mut devices = BTreeMap::new();
        for ToldDevice { id, healthy, nodes } in told {
            if id.is_empty() {
                news.problems.push("a device without an ID".to_owned());
                continue;
            }
            let on = |node: &i64| u32::try_from(*node).ok().filter(|node| self.nodes.contains(*node));
            if let Some(unknown) = nodes.iter().find(|node| on(node).is_none()) {
                news.problems.push(format!(
                    "device {id:?} is on NUMA node {unknown}, which this machine does not have"
                ));
            }
            let device = Device { healthy, nodes: nodes.iter().filter_map(on).collect() };
            if devices.insert(id.clone(), device).is_some() {
                news.problems.push(format!("device {id:?} twice"));
            }
        }
        let before = std::mem::replace(&mut known.devices, devices);
        let known = &self.resources[resource];
        news.changed |= before != known.devices;
        let was_healthy = before.iter().filter(|(_, device)| device.healthy).map(|(id, _)| id.as_str());
        news.registered |= !was_healthy.eq(known.healthy());
        let differs = |id: &str| {
            let is = known.devices.get(id).map(|device| device.healthy);
            is.is_some() && is != before.get(id).map(|device| device.healthy)
        };
        news.pods = self.holders(resource, differs);
        news
    }

    /// A plugin has gone. Its devices are ill from now on, and after [`PLUGIN_GRACE`] there are none.
    pub fn disconnected(&mut self, resource: &str, now: Duration) {
        if let Some(known) = self.resources.get_mut(resource) {
            let options = match known.plugin {
                Plugin::Here { options, .. } => Some(options),
                Plugin::Missing { options, .. } => options,
            };
            known.plugin = Plugin::Missing { until: now + PLUGIN_GRACE, options };
        }
    }

    /// Gives up plugins that did not come back; says which.
    pub fn expire(&mut self, now: Duration) -> Vec<String> {
        let gone = |_: &String, known: &mut Resource| matches!(known.plugin, Plugin::Missing { until, .. } if until <= now);
        let names: Vec<String> = self.resources.extract_if(.., gone).map(|(name, _)| name).collect();
        self.removed.extend(names.iter().cloned());
        names
    }

    /// When the next plugin is given up.
    pub fn next_expiry(&self) -> Option<Duration> {
        let until = |known: &Resource| match known.plugin {
            Plugin::Missing { until, .. } => Some(until),
            Plugin::Here { .. } => None,
        };
        self.resources.values().filter_map(until).min()
    }

    /// What the node tells of devices. Of a plugin that is not back since the agent started nothing is said, so that what
    /// the node said before stays true until it is back or given up.
    pub fn counts(&self) -> BTreeMap<String, Count> {
        let count = |known: &Resource| Count {
            capacity: i64::try_from(known.devices.len()).unwrap_or(i64::MAX),
            allocatable: i64::try_from(known.healthy().count()).unwrap_or(i64::MAX),
        };
        let told = |known: &Resource| match known.plugin {
            Plugin::Missing { options, .. } => options.is_some(),
            Plugin::Here { listed, .. } => listed,
        };
        let here = self.resources.iter().filter(|(_, known)| told(known));
        let mut counts: BTreeMap<_, _> = here.map(|(name, known)| (name.clone(), count(known))).collect();
        counts.extend(self.removed.iter().map(|name| (name.clone(), Count::default())));
        counts
    }

    /// Healthy devices by resource and ID: what could be given in all.
    pub fn allocatable(&self) -> BTreeMap<String, BTreeMap<String, Device>> {
        let of = |known: &Resource| {
            known.healthy().filter_map(|id| Some((id.to_owned(), *known.devices.get(id)?))).collect()
        };
        self.resources.iter().map(|(name, known)| (name.clone(), of(known))).collect()
    }

    /// What the plugin of a resource wants to be asked, or wanted when it was last there.
    pub fn options(&self, resource: &str) -> Option<PluginOptions> {
        match self.resources.get(resource)?.plugin {
            Plugin::Here { options, .. } => Some(options),
            Plugin::Missing { options, .. } => options,
        }
    }

    /// Pods that have a device of the resource which the test is true for.
    fn holders(&self, resource: &str, test: impl Fn(&str) -> bool) -> BTreeSet<PodUid> {
        let holds = |containers: &BTreeMap<String, BTreeMap<String, Allocation>>| {
            let mut had = containers.values().filter_map(|resources| resources.get(resource));
            had.any(|allocation| allocation.ids().any(&test))
        };
        self.pods.iter().filter(|(_, containers)| holds(containers)).map(|(uid, _)| uid.clone()).collect()
    }
}
