//! The node agent: keeps the agent's own Node object and Lease in the API what the node is.
//!
//! Owns registration, the status (`status`), the heartbeat (`lease`), the runtime's knowledge of the pod network
//! (`network`), and the facts for them (`gather`, through the `probe`). Decides nothing about the object: that is
//! `rubelet_core::node`. Never touches a pod. Made and run by the wiring.
//!
//! | task | reads | writes |
//! |---|---|---|
//! | status | runtime state, own Node watch, machine, runtime's images, a clock tick | `nodes`, `nodes/status`, the [`NodeView`], events |
//! | lease | the Node's UID | the Lease |
//! | `csi_node` | the Node's UID, drivers | the CSINode, the Node's annotation and labels of drivers |
//! | network | the Node's pod CIDRs | the runtime's configuration |

mod complaint;
mod csi_node;
mod gather;
mod lease;
mod network;
mod probe;
mod requests;
mod settings;
mod status;
#[cfg(test)]
mod tests;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use rubelet_apiclient::wake::Wake;
use rubelet_cri::{ImageService, RuntimeService};
use rubelet_linux::node_facts::NodeMachine;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::devices::Devices;
use crate::events::EventRecorder;
use crate::eviction::PressureView;
use crate::fs_pool::FsPool;
use crate::metrics::Metrics;
use crate::node_view::NodeView;
use crate::runtime_monitor::RuntimeState;
use crate::volumes_in_use::VolumesInUse;

pub use csi_node::CsiNodes;
pub use probe::{FixedProbe, MachineProbe, NodeProbe, Usage};
pub use settings::{NodeAgentSettings, NodeFlags, SettingsError};

/// Ends connections that do not answer, so that the next request opens new ones.
pub type CloseConnections = Arc<dyn Fn() + Send + Sync>;

/// What a node agent works with.
pub struct NodeAgentParams {
    /// Settings, from the configuration and the flags.
    pub settings: NodeAgentSettings,
    /// What the machine is and has.
    pub machine: NodeMachine,
    /// How to look at the machine.
    pub probe: Arc<dyn NodeProbe>,
    /// Where looking happens.
    pub fs: FsPool,
    /// Client for heartbeats. It must be connected or fail; one that makes requests wait looks like a server that
    /// does not answer.
    pub client: kube::Client,
    /// Called when heartbeats failed twice without an answer.
    pub close_connections: CloseConnections,
    /// News that the server answers again.
    pub wake: Wake,
    /// The own Node as a watch of it sees it: how changes by others are noticed before the next report (labels, pod
    /// CIDRs, and above all a Ready that controllers set to Unknown while the API was away).
    pub watched: watch::Receiver<Option<Arc<Node>>>,
    /// The runtime's state.
    pub runtime_state: watch::Receiver<RuntimeState>,
    /// The runtime, told of pod CIDRs.
    pub runtime: Arc<dyn RuntimeService>,
    /// Its images.
    pub images: Arc<dyn ImageService>,
    /// Wall clock.
    pub clock: Clock,
    /// Events.
    pub events: EventRecorder,
    /// Where it is counted how long the node took to start.
    pub metrics: Metrics,
    /// Volumes that must not be detached.
    pub volumes_in_use: VolumesInUse,
    /// What device plugins offer.
    pub devices: Devices,
    /// Whether the node is shutting down.
    pub shutting_down: watch::Receiver<bool>,
    /// What the node is short of, as eviction sees it.
    pub pressures: PressureView,
}

/// The node agent, ready to run.
pub struct NodeAgent {
    status: status::StatusTask,
    lease: lease::LeaseTask,
    network: network::NetworkTask,
    csi_nodes: CsiNodes,
}

impl NodeAgent {
    /// Makes the agent and the view of the Node it keeps. Must be called inside a tokio runtime.
    pub fn new(params: NodeAgentParams) -> (Self, NodeView) {
        let (node, node_view) = watch::channel(None);
        let (refresh, refreshes) = mpsc::channel(1);
        let name = params.settings.node.addresses.node_name.clone();
        let lease = lease::LeaseTask::new(
            name,
            &params.settings,
            params.client.clone(),
            params.clock.clone(),
            node_view.clone(),
            params.close_connections.clone(),
            params.wake.clone(),
        );
        let network = network::NetworkTask::new(params.runtime.clone(), node_view.clone());
        let view = NodeView::new(node_view, refresh);
        let csi_nodes = CsiNodes::new(
            params.client.clone(),
            params.settings.node.addresses.node_name.clone(),
            params.settings.request_limit(),
            view.clone(),
        );
        let status = status::StatusTask::new(params, csi_nodes.clone(), node, refreshes);
        (Self { status, lease, network, csi_nodes }, view)
    }

    /// What tells the API server of CSI drivers.
    pub fn csi_nodes(&self) -> CsiNodes {
        self.csi_nodes.clone()
    }

    /// Runs until dropped. Ends only when one of its tasks does, which is a bug.
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        tasks.spawn(self.status.run());
        tasks.spawn(self.lease.run());
        tasks.spawn(self.network.run());
        tasks.spawn(self.csi_nodes.run());
        if let Some(Err(problem)) = tasks.join_next().await {
            tracing::error!("a task of the node agent failed: {problem}");
        }
    }
}

/// A share from 0 to 1 that differs between nodes and between counts, and is the same in every run.
fn spread(node: &str, count: u64) -> f64 {
    let mut hasher = DefaultHasher::new();
    (node, count).hash(&mut hasher);
    (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64
}
