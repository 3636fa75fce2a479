//! What the API asks of the node agent beside it: what only the machine with the containers can answer.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use rubelet_core::stats::usage::NodeUsage;
use serde_json::Value;

/// The body of an answer, whole or as it comes.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Which of the kubelet's endpoints a request through the API is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `pods/log`.
    Log,
    /// `pods/exec`.
    Exec,
    /// `pods/attach`.
    Attach,
    /// `pods/portforward`.
    PortForward,
}

/// The node agent, as the API server calls it.
pub trait NodeStreams: Send + Sync {
    /// Serves `request` for `pod`, a stored Pod that is bound to this node.
    ///
    /// The request is the client's own: its query holds the endpoint's options, and it can be upgraded. The answer is
    /// the node's, errors (as `Status` objects) included.
    fn serve(
        &self,
        endpoint: Endpoint,
        pod: Value,
        request: http::Request<Body>,
    ) -> BoxFuture<'_, http::Response<Body>>;

    /// Answers a request for the agent's own API (`nodes/{name}/proxy`), as one that may do everything there: who asks
    /// was known and allowed before. The path is the agent's, such as `/stats/summary`; the request can be upgraded.
    fn proxy(&self, request: http::Request<Body>) -> BoxFuture<'_, http::Response<Body>>;

    /// What node and containers use of CPU and memory, at most a few seconds old; none while nobody measures it.
    fn usage(&self) -> BoxFuture<'_, Option<Arc<NodeUsage>>>;
}
