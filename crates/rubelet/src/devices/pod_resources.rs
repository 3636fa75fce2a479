//! What the podresources API tells: put together from pods that have not ended, their devices, CPUs, memory and claims.
//! Only reads; asked by the server in `rubelet_plugins::pod_resources`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Container;
use rubelet_core::Pod;
use rubelet_core::containers::{init_containers, is_sidecar, spec_of};
use rubelet_core::cpu_set::CpuSet;
use rubelet_core::devices::{Allocation, Device};
use rubelet_core::ids::{PodUid, pod_uid};
use rubelet_core::lifecycle::PodState;
use rubelet_core::phase::Phase;
use rubelet_core::token_bucket::TokenBucket;
use rubelet_core::topology::NumaMask;
use rubelet_plugins::pod_resources::{PodResources, Question, SOCKET, serve, v1};
use tokio::time::Instant;
use tracing::warn;

use super::Devices;
use crate::dra::{ClaimedDevice, ClaimedDevices};
use crate::services::Services;
use crate::table::PodRow;

/// Questions a second; upstream's `DefaultQPS`.
const PER_SECOND: f64 = 100.0;
/// Questions at once; upstream's `DefaultBurstTokens`.
const BURST: u32 = 10;
/// Folder of the socket, in the root directory.
const FOLDER: &str = "pod-resources";

/// Where answers come from.
pub(crate) struct PodResourcesSource {
    services: Arc<Services>,
    devices: Devices,
    born: Instant,
    rate: Mutex<TokenBucket>,
}

/// Serves the API on a node with this root directory, until dropped.
pub(crate) async fn serve_pod_resources(root_dir: PathBuf, source: PodResourcesSource) {
    if let Err(error) = serve(root_dir.join(FOLDER).join(SOCKET), Arc::new(source)).await {
        warn!("the podresources API is not served: {error}");
    }
}

impl PodResourcesSource {
    /// Answers of what these have.
    pub(crate) fn new(services: Arc<Services>, devices: Devices) -> Self {
        let rate = Mutex::new(TokenBucket::new(PER_SECOND, BURST, std::time::Duration::ZERO));
        Self { services, devices, born: Instant::now(), rate }
    }

    fn pod(&self, pod: &Pod) -> v1::PodResources {
        let spec = spec_of(pod);
        let sidecars = init_containers(spec).iter().filter(|init| is_sidecar(init));
        let containers = sidecars.chain(&spec.containers).map(|container| self.container(pod, container));
        v1::PodResources {
            name: pod.metadata.name.clone().unwrap_or_default(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            containers: containers.collect(),
        }
    }

    fn container(&self, pod: &Pod, container: &Container) -> v1::ContainerResources {
        let uid = pod_uid(pod);
        v1::ContainerResources {
            name: container.name.clone(),
            devices: self.devices_of(&uid, &container.name),
            cpu_ids: numbers(&self.services.containers.cpus(&uid, &container.name)),
            memory: self.services.containers.memory(&uid, &container.name).into_iter().map(memory).collect(),
            dynamic_resources: self
                .services
                .claims
                .of_container(pod, container)
                .into_iter()
                .map(claim)
                .collect(),
        }
    }

    fn devices_of(&self, uid: &PodUid, container: &str) -> Vec<v1::ContainerDevices> {
        let book = self.devices.state.book();
        let of = |(resource, had): (&str, &Allocation)| {
            let entry = |node: i64, id: &String| entry(resource, id, u32::try_from(node).ok());
            let nodes = had.devices.iter().flat_map(|(node, ids)| ids.iter().map(move |id| (*node, id)));
            nodes.map(|(node, id)| entry(node, id)).collect::<Vec<_>>()
        };
        book.of_container(uid, container).flat_map(of).collect()
    }
}

/// One device at one node, as upstream tells them: a device at two nodes is told twice.
fn entry(resource: &str, id: &str, node: Option<u32>) -> v1::ContainerDevices {
    let at = |node: u32| v1::TopologyInfo { nodes: vec![v1::NumaNode { id: i64::from(node) }] };
    v1::ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids: vec![id.to_owned()],
        topology: node.map(at),
    }
}

fn allocatable(devices: BTreeMap<String, BTreeMap<String, Device>>) -> Vec<v1::ContainerDevices> {
    let mut told = Vec::new();
    for (resource, devices) in devices {
        for (id, device) in devices {
            if device.nodes.is_empty() {
                told.push(entry(&resource, &id, None));
            }
            told.extend(device.nodes.iter().map(|node| entry(&resource, &id, Some(node))));
        }
    }
    told
}

fn numbers(cpus: &CpuSet) -> Vec<i64> {
    cpus.iter().map(i64::from).collect()
}

fn memory((kind, size, nodes): (String, u64, NumaMask)) -> v1::ContainerMemory {
    let nodes = nodes.iter().map(|node| v1::NumaNode { id: i64::from(node) }).collect();
    v1::ContainerMemory { memory_type: kind, size, topology: Some(v1::TopologyInfo { nodes }) }
}

fn claim(claim: ClaimedDevices) -> v1::DynamicResource {
    let resource = |device: ClaimedDevice| v1::ClaimResource {
        cdi_devices: device.cdi.into_iter().map(|name| v1::CdiDevice { name }).collect(),
        driver_name: device.driver,
        pool_name: device.pool,
        device_name: device.device,
        share_id: device.share_id,
    };
    v1::DynamicResource {
        claim_name: claim.name,
        claim_namespace: claim.namespace,
        claim_resources: claim.devices.into_iter().map(resource).collect(),
    }
}

/// Whether the pod counts: it has not ended, or is still being ended.
fn is_active(row: &PodRow) -> bool {
    matches!(row.state, PodState::Terminating { .. })
        || !Phase::of(&row.status).is_some_and(|phase| phase.is_terminal())
}

impl PodResources for PodResourcesSource {
    fn may_ask(&self) -> bool {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).try_take(self.born.elapsed())
    }

    fn count(&self, question: Question, failed: bool) {
        let metrics = &self.services.metrics.devices;
        let (version, requests, errors) = match question {
            Question::List => ("v1", Some(&metrics.list_requests), &metrics.list_errors),
            Question::Get => ("v1", Some(&metrics.get_requests), &metrics.get_errors),
            Question::Allocatable => ("v1", Some(&metrics.allocatable_requests), &metrics.allocatable_errors),
            Question::ListAlpha => ("v1alpha1", None, &metrics.list_errors),
        };
        if failed {
            errors.with([version]).inc();
            return;
        }
        metrics.pod_resources_requests.with([version]).inc();
        if let Some(requests) = requests {
            requests.with([version]).inc();
        }
    }

    fn list(&self) -> Vec<v1::PodResources> {
        let rows = self.services.table.snapshot();
        rows.values().filter(|row| is_active(row)).map(|row| self.pod(&row.pod)).collect()
    }

    fn get(&self, namespace: &str, name: &str) -> Option<v1::PodResources> {
        self.services.table.named(namespace, name).map(|row| self.pod(&row.pod))
    }

    fn allocatable(&self) -> v1::AllocatableResourcesResponse {
        let devices = self.devices.state.book().allocatable();
        v1::AllocatableResourcesResponse {
            devices: allocatable(devices),
            cpu_ids: numbers(&self.services.containers.allocatable_cpus()),
            memory: self.services.containers.allocatable_memory().into_iter().map(memory).collect(),
        }
    }
}
