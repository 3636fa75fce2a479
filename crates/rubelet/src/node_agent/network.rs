//! Tells the runtime the node's pod CIDRs (CRI `UpdateRuntimeConfig`), for runtimes that write a CNI configuration
//! from them. Asks again until the runtime has taken them.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use rubelet_cri::{RuntimeService, v1};
use tokio::sync::watch;
use tracing::info;

use super::complaint::Complaint;

/// First pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub(super) struct NetworkTask {
    runtime: Arc<dyn RuntimeService>,
    node: watch::Receiver<Option<Arc<Node>>>,
}

impl NetworkTask {
    pub(super) fn new(runtime: Arc<dyn RuntimeService>, node: watch::Receiver<Option<Arc<Node>>>) -> Self {
        Self { runtime, node }
    }

    pub(super) async fn run(mut self) {
        let mut told = String::new();
        let mut pause = FIRST_PAUSE;
        let mut complaint = Complaint::default();
        loop {
            let wanted = self.node.borrow_and_update().as_deref().map(pod_cidrs).unwrap_or_default();
            let mut retry = None;
            // As upstream: nodes without a range say nothing, and a range that was taken away stays.
            if !wanted.is_empty() && wanted != told {
                let network_config = Some(v1::NetworkConfig { pod_cidr: wanted.clone() });
                let request = v1::UpdateRuntimeConfigRequest {
                    runtime_config: Some(v1::RuntimeConfig { network_config }),
                };
                match self.runtime.update_runtime_config(request).await {
                    Ok(_) => {
                        complaint.resolved("the runtime knows the pod CIDRs");
                        info!(cidrs = wanted, before = told, "told the runtime the node's pod CIDRs");
                        told = wanted;
                        pause = FIRST_PAUSE;
                    }
                    Err(error) => {
                        complaint.say(format!("cannot tell the runtime the pod CIDRs {wanted}: {error}"));
                        retry = Some(pause);
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
            }
            // Both arms are cancel-safe: the watch keeps its news, a sleep holds nothing.
            tokio::select! {
                biased;
                changed = self.node.changed() => {
                    if changed.is_err() {
                        // The writer is gone with the status task: the agent is stopping.
                        return std::future::pending().await;
                    }
                }
                () = sleep_or_never(retry) => {}
            }
        }
    }
}

async fn sleep_or_never(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

fn pod_cidrs(node: &Node) -> String {
    let Some(spec) = &node.spec else { return String::new() };
    spec.pod_cidrs.as_ref().map(|cidrs| cidrs.join(",")).unwrap_or_default()
}
