//! What pods ask for and what they have.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceHealth, ResourceStatus};

use super::{Device, DeviceBook, NO_NODE};
use crate::containers::{init_containers, is_sidecar, spec_of};
use crate::ids::{PodUid, pod_uid};
use crate::quantity::Amount;
use crate::resources::pod_limits;
use crate::topology::NumaMask;

/// Devices of one resource that a container has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// IDs by NUMA node, -1 for those that tell none; a device at two nodes is named twice.
    pub devices: BTreeMap<i64, Vec<String>>,
    /// The plugin's answer as it came over the wire (`ContainerAllocateResponse`).
    pub response: Vec<u8>,
}

impl Allocation {
    /// The IDs, one that is at several nodes several times.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.devices.values().flatten().map(String::as_str)
    }

    /// The IDs, each once.
    pub fn id_set(&self) -> BTreeSet<&str> {
        self.ids().collect()
    }
}

impl DeviceBook {
    /// Whether a resource is one of device plugins: of one that is there, was there, or whose devices somebody has.
    pub fn is_device(&self, resource: &str) -> bool {
        let mut had = self.pods.values().flat_map(BTreeMap::values);
        self.resources.contains_key(resource)
            || self.removed.contains(resource)
            || had.any(|resources| resources.contains_key(resource))
    }

    /// How many devices of which resource a container asks for. Those that a resource claim stands for are not the
    /// plugins' to give.
    pub fn wishes(&self, pod: &Pod, container: &Container) -> BTreeMap<String, usize> {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let claimed = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
        let by_claim = |resource: &str| {
            let mut mappings = claimed.into_iter().flat_map(|claimed| &claimed.request_mappings);
            mappings.any(|one| one.container_name == container.name && one.resource_name == resource)
        };
        let wish = |(name, quantity): (&String, _)| {
            let count =
                usize::try_from(Amount::of(quantity).ok()?.value()).ok().filter(|count| *count > 0)?;
            (self.is_device(name) && !by_claim(name)).then(|| (name.clone(), count))
        };
        limits.into_iter().flatten().filter_map(wish).collect()
    }

    /// How many devices of which resource a pod asks for at its most.
    pub(super) fn pod_wishes(&self, pod: &Pod) -> BTreeMap<String, usize> {
        let spec = spec_of(pod);
        let all = init_containers(spec).iter().chain(&spec.containers);
        let named: BTreeSet<String> =
            all.flat_map(|container| self.wishes(pod, container).into_keys()).collect();
        let count = |amount: Amount| usize::try_from(amount.value()).ok().filter(|count| *count > 0);
        let limits = pod_limits(pod, false).into_iter().filter(|(name, _)| named.contains(name));
        limits.filter_map(|(name, amount)| Some((name, count(amount)?))).collect()
    }

    /// Whether a pod asks for devices.
    pub fn concerns(&self, pod: &Pod) -> bool {
        let spec = spec_of(pod);
        let mut all = init_containers(spec).iter().chain(&spec.containers);
        self.pods.contains_key(&pod_uid(pod)) || all.any(|container| !self.wishes(pod, container).is_empty())
    }

    /// Devices that init containers of the pod had for themselves and no container that stays has taken over.
    pub(super) fn reusable(&self, pod: &Pod, container: &Container, resource: &str) -> BTreeSet<String> {
        let spec = spec_of(pod);
        let Some(had) = self.pods.get(&pod_uid(pod)) else { return BTreeSet::new() };
        let ids = |name: &str| {
            let allocation = had.get(name).and_then(|resources| resources.get(resource));
            allocation.into_iter().flat_map(Allocation::ids)
        };
        let before = init_containers(spec).iter().take_while(|init| init.name != container.name);
        let mut free = BTreeSet::new();
        for init in before.filter(|init| !is_sidecar(init)) {
            free.extend(ids(&init.name));
        }
        let stay = init_containers(spec).iter().filter(|init| is_sidecar(init)).chain(&spec.containers);
        for other in stay.filter(|other| other.name != container.name) {
            for id in ids(&other.name) {
                free.remove(id);
            }
        }
        free.into_iter().map(str::to_owned).collect()
    }

    /// Writes down what a container got; what it had of the resource before it has no more.
    pub fn commit(
        &mut self,
        (uid, container): (&PodUid, &str),
        resource: &str,
        ids: &[String],
        response: Vec<u8>,
    ) {
        let known = self.resources.get(resource);
        let mut devices: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for id in ids {
            let nodes = known
                .and_then(|known| known.devices.get(id))
                .map_or(NumaMask::default(), |device| device.nodes);
            if nodes.is_empty() {
                devices.entry(NO_NODE).or_default().push(id.clone());
            }
            for node in nodes.iter() {
                devices.entry(i64::from(node)).or_default().push(id.clone());
            }
        }
        let containers = self.pods.entry(uid.clone()).or_default();
        let resources = containers.entry(container.to_owned()).or_default();
        resources.insert(resource.to_owned(), Allocation { devices, response });
    }

    /// What a container has, by resource.
    pub fn of_container(&self, uid: &PodUid, container: &str) -> impl Iterator<Item = (&str, &Allocation)> {
        let resources = self.pods.get(uid).and_then(|containers| containers.get(container));
        resources.into_iter().flatten().map(|(name, allocation)| (name.as_str(), allocation))
    }

    /// Takes back what a pod has; whether it had anything.
    pub fn release(&mut self, uid: &PodUid) -> bool {
        self.pods.remove(uid).is_some()
    }

    /// Takes back what pods have that are gone; says which they were.
    pub fn retain(&mut self, lives: impl Fn(&PodUid) -> bool) -> Vec<PodUid> {
        self.pods.extract_if(.., |uid, _| !lives(uid)).map(|(uid, _)| uid).collect()
    }

    /// IDs of a resource that pods have, but for what one container has.
    pub(super) fn in_use(&self, resource: &str, except: (&PodUid, &str)) -> BTreeSet<&str> {
        let mut used = BTreeSet::new();
        for (uid, containers) in &self.pods {
            for (container, resources) in containers {
                if (uid, container.as_str()) != except
                    && let Some(allocation) = resources.get(resource)
                {
                    used.extend(allocation.ids());
                }
            }
        }
        used
    }

    /// What the status of a container says of its devices (`allocatedResourcesStatus`). One that its plugin does not name
    /// any more counts as healthy, as upstream's does.
    pub fn health(&self, uid: &PodUid, container: &str) -> Vec<ResourceStatus> {
        let of = |(resource, allocation): (&str, &Allocation)| {
            let known =
                |id: &str| self.resources.get(resource).and_then(|known| known.devices.get(id)).copied();
            let ill = |id: &str| matches!(known(id), Some(Device { healthy: false, .. }));
            let health = |id: &str| ResourceHealth {
                health: Some(if ill(id) { "Unhealthy" } else { "Healthy" }.to_owned()),
                resource_id: id.to_owned(),
                ..ResourceHealth::default()
            };
            let resources = allocation.id_set().into_iter().map(health).collect();
            ResourceStatus { name: resource.to_owned(), resources: Some(resources) }
        };
        self.of_container(uid, container).map(of).collect()
    }
}
