//! The agent, as the local API calls it: the API is there before the agent is.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use k8s_openapi::api::core::v1::Pod;
use rubelet_core::stats::usage::NodeUsage;
use rubelet_localapi::node::{Body, Endpoint, NodeStreams};
use rubelet_server::Problem;
use rubelet_server::node::{Extent, Way};
use rubelet_server::streams::Dialect;
use serde_json::Value;
use tokio::sync::watch;

use crate::kubelet::KubeletHandle;
use crate::pod_streams::PodStreams;

/// How long a client waits for an agent that is still starting.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers requests for the agent's own API (`/stats/summary` and the like) for one that may do everything there.
pub type AgentApi = Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;
/// Reads what node and containers use of CPU and memory.
pub type AgentUsage = Arc<dyn Fn() -> BoxFuture<'static, Arc<NodeUsage>> + Send + Sync>;

/// The agent, as the local API calls it.
#[derive(Clone)]
pub struct Agent {
    streams: PodStreams,
    api: Option<AgentApi>,
    usage: Option<AgentUsage>,
}

impl Agent {
    /// An agent that serves its pods' logs and streams.
    pub fn new(streams: PodStreams) -> Self {
        Self { streams, api: None, usage: None }
    }

    /// The same, and its own API behind `nodes/{name}/proxy`.
    #[must_use]
    pub fn with_api(self, api: AgentApi) -> Self {
        Self { api: Some(api), ..self }
    }

    /// The same, and what it measures, for `metrics.k8s.io`.
    #[must_use]
    pub fn with_usage(self, usage: AgentUsage) -> Self {
        Self { usage: Some(usage), ..self }
    }
}

impl From<&KubeletHandle> for Agent {
    /// The agent with everything that the local API asks of it.
    fn from(kubelet: &KubeletHandle) -> Self {
        let (api, usage) = (kubelet.api(), kubelet.usage());
        Self::new(kubelet.streams())
            .with_api(Arc::new(move |request| {
                let api = api.clone();
                async move { api.answer(request).await }.boxed()
            }))
            .with_usage(Arc::new(move || {
                let usage = usage.clone();
                async move { usage.usage(Extent::CpuAndMemory).await }.boxed()
            }))
    }
}

impl From<PodStreams> for Agent {
    fn from(streams: PodStreams) -> Self {
        Self::new(streams)
    }
}

/// Where the agent is handed in, once.
pub struct Door(watch::Sender<Option<Agent>>);

impl Door {
    /// From now on requests are answered.
    pub fn open(self, agent: impl Into<Agent>) {
        self.0.send_replace(Some(agent.into()));
    }
}

/// An agent that comes later.
pub(super) struct Deferred(watch::Receiver<Option<Agent>>);

impl Deferred {
    /// The agent, when it is there; none when it takes too long.
    async fn agent(&self) -> Option<Agent> {
        let mut receiver = self.0.clone();
        // The sender goes when it has handed the agent in; what it said last stays.
        let there = async { receiver.wait_for(Option::is_some).await.ok().and_then(|agent| agent.clone()) };
        tokio::time::timeout(PATIENCE, there).await.ok().flatten()
    }
}

/// The two ends.
pub(super) fn deferred() -> (Door, Deferred) {
    let (sender, receiver) = watch::channel(None);
    (Door(sender), Deferred(receiver))
}

fn not_ready() -> Response<Body> {
    Problem::internal("the node agent is not ready").response()
}

impl NodeStreams for Deferred {
    fn serve(&self, endpoint: Endpoint, pod: Value, request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        async move {
            let Some(Agent { streams, .. }) = self.agent().await else { return not_ready() };
            let Ok(pod) = rubelet_core::json::from_value::<Pod>(&pod) else {
                return Problem::internal("the pod cannot be read").response();
            };
            let query = request.uri().query().unwrap_or_default().to_owned();
            let way = match endpoint {
                Endpoint::Log => None,
                Endpoint::Exec => Some(Way::Exec),
                Endpoint::Attach => Some(Way::Attach),
                Endpoint::PortForward => Some(Way::PortForward),
            };
            let answered = match way {
                None => streams.log(&pod, None, &query).await,
                Some(way) => streams.open(way, &pod, None, Dialect::Api, request).await,
            };
            answered.unwrap_or_else(|problem| problem.response())
        }
        .boxed()
    }

    fn proxy(&self, request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        async move {
            match self.agent().await {
                Some(Agent { api: Some(api), .. }) => api(request).await,
                Some(_) => Problem::not_found("this node agent has no API of its own").response(),
                None => not_ready(),
            }
        }
        .boxed()
    }

    fn usage(&self) -> BoxFuture<'_, Option<Arc<NodeUsage>>> {
        async move { Some(self.agent().await?.usage?().await) }.boxed()
    }
}
