//! The node's streams, as the local API asks for them: the API is there before the agent is.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use k8s_openapi::api::core::v1::Pod;
use rubelet_localapi::node::{Body, Endpoint, NodeStreams};
use rubelet_server::Problem;
use rubelet_server::streams::Dialect;
use serde_json::Value;
use tokio::sync::watch;

use crate::pod_streams::PodStreams;

/// How long a client waits for an agent that is still starting.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the agent's streams are handed in, once.
pub struct Door(watch::Sender<Option<PodStreams>>);

impl Door {
    /// From now on requests are answered.
    pub fn open(self, streams: PodStreams) {
        self.0.send_replace(Some(streams));
    }
}

/// The streams of an agent that comes later.
pub(super) struct Deferred(watch::Receiver<Option<PodStreams>>);

/// The two ends.
pub(super) fn deferred() -> (Door, Deferred) {
    let (sender, receiver) = watch::channel(None);
    (Door(sender), Deferred(receiver))
}

impl NodeStreams for Deferred {
    fn serve(&self, endpoint: Endpoint, pod: Value, request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        let mut receiver = self.0.clone();
        async move {
            // The sender goes when it has handed the streams in; what it said last stays.
            let there =
                async { receiver.wait_for(Option::is_some).await.ok().and_then(|streams| streams.clone()) };
            let Ok(Some(streams)) = tokio::time::timeout(PATIENCE, there).await else {
                return Problem::internal("the node agent is not ready").response();
            };
            let Ok(pod) = rubelet_core::json::from_value::<Pod>(&pod) else {
                return Problem::internal("the pod cannot be read").response();
            };
            let query = request.uri().query().unwrap_or_default().to_owned();
            let answered = match endpoint {
                Endpoint::Log => streams.log(&pod, &query).await,
                Endpoint::Exec => streams.exec(&pod, Dialect::Api, request).await,
                Endpoint::Attach => streams.attach(&pod, Dialect::Api, request).await,
                Endpoint::PortForward => streams.port_forward(&pod, Dialect::Api, request).await,
            };
            answered.unwrap_or_else(|problem| problem.response())
        }
        .boxed()
    }
}
