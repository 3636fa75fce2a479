//! What the kubelet API asks of the agent behind it: only what the machine with the containers can answer.
//!
//! Implemented by the shell; called by `api`, by the local API when it proxies to this node, and by tests with a node
//! of their own. Nothing here knows who asks: that was settled before.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use k8s_openapi::api::core::v1::Pod;
use rubelet_core::stats::usage::NodeUsage;
use serde_json::Value;

use crate::body::Body;
use crate::problem::Problem;

/// The way into a container or pod that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A command of its own.
    Exec,
    /// The container's first process.
    Attach,
    /// Ports of the pod.
    PortForward,
}

/// Whether one of the agent's duties is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name below `/healthz/`.
    pub name: &'static str,
    /// What is wrong with it, if anything: the check fails, and whoever watches may restart the agent.
    pub problem: Option<String>,
    /// What is worth knowing although the check passes: trouble that restarting the agent would not mend.
    pub note: Option<String>,
}

impl Check {
    /// A check that fails when there is a problem.
    pub fn new(name: &'static str, problem: Option<String>) -> Self {
        Self { name, problem, note: None }
    }

    /// A check that passes, whatever there is to say.
    pub fn passed(name: &'static str, note: Option<String>) -> Self {
        Self { name, problem: None, note }
    }
}

/// How much of the node's use is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// CPU and memory of control groups.
    CpuAndMemory,
    /// What logs and volumes of pods take, and nothing of control groups: what `/metrics` tells.
    Storage,
    /// What `/stats/summary` tells: networks, file systems, pressure and processes too.
    Summary,
    /// Everything that `/metrics/cadvisor` tells.
    Everything,
}

/// The agent, as its API sees it.
pub trait Node: Send + Sync + 'static {
    /// A v1 PodList of every pod that is desired, each with its newest status, as JSON.
    fn pods(&self) -> Result<Bytes, Problem>;
    /// A v1 PodList of what the runtime runs, built from nothing but the runtime's own words (upstream
    /// `GetRunningPods`), as JSON.
    fn running_pods(&self) -> BoxFuture<'_, Result<Bytes, Problem>>;
    /// The pod of this name, and of this UID when one is given.
    fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<Pod>>;
    /// A container's log, as the query of `/containerLogs` wants it.
    fn log(
        &self,
        pod: Arc<Pod>,
        container: String,
        query: String,
    ) -> BoxFuture<'_, Result<Response<Body>, Problem>>;
    /// Opens streams on the request's connection. `container` is empty for port-forward.
    fn stream(
        &self,
        way: Way,
        pod: Arc<Pod>,
        container: String,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, Problem>>;
    /// Runs a command to its end and answers what it wrote; no shell takes part.
    fn run(
        &self,
        pod: Arc<Pod>,
        container: String,
        command: Vec<String>,
    ) -> BoxFuture<'_, Result<Bytes, Problem>>;
    /// Writes a checkpoint of a container and answers where it is. Without a timeout the runtime's own holds.
    fn checkpoint(
        &self,
        pod: Arc<Pod>,
        container: String,
        timeout: Option<Duration>,
    ) -> BoxFuture<'_, Result<String, Problem>>;
    /// The checks of `/healthz`, in the order they are told.
    fn checks(&self) -> Vec<Check>;
    /// The merged KubeletConfiguration, as JSON.
    fn config(&self) -> Value;
    /// Every flag and the value in force.
    fn flags(&self) -> Vec<(String, String)>;
    /// What node and pods use, at most a few seconds old.
    fn usage(&self, extent: Extent) -> BoxFuture<'_, Arc<NodeUsage>>;
    /// Sets how much is logged (klog's `-v`).
    ///
    /// # Errors
    /// A text that says why not.
    fn set_verbosity(&self, level: u8) -> Result<(), String>;
}
