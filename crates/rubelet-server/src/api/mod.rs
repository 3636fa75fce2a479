//! The node's API (upstream `pkg/kubelet/server`): every route, each with the methods, codes and texts its clients know.
//!
//! Answers requests of people who have been admitted already, on one of three ports ([`Site`]). What only the node
//! knows is asked of a [`Node`]; who may ask is settled before, by `auth`; connections are `listen`'s.
//!
//! - `routing`: which endpoint a request is for, pure
//! - `answers`, `form`: how answers are written and forms read
//! - `containers`, `pods`, `stats`, `health`, `debug`, `zpages`: the endpoints

mod answers;
mod containers;
mod debug;
mod form;
mod health;
mod pods;
mod routing;
mod settings;
mod stats;
#[cfg(test)]
mod tests;
mod zpages;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tracing::Instrument as _;

pub use settings::{ApiSettings, RequestSpan, Site, SystemLogs};

use crate::body::Body;
use crate::metrics::{Metrics, RequestInFlight, ServerType};
use crate::node::{Node, Way};
use crate::path;
use crate::streams::Held;
use routing::{Endpoint, Routed};

/// The API as one port serves it; cheap to clone.
#[derive(Clone)]
pub struct Api {
    node: Arc<dyn Node>,
    site: Site,
    settings: Arc<ApiSettings>,
    metrics: Metrics,
}

impl Api {
    /// The API of `node` on the port `site`, counting in `metrics`.
    pub fn new(node: Arc<dyn Node>, site: Site, settings: ApiSettings, metrics: Metrics) -> Self {
        Self { node, site, settings: Arc::new(settings), metrics }
    }

    /// The same API on another port.
    pub fn at(&self, site: Site) -> Self {
        Self { site, ..self.clone() }
    }

    /// Answers a request of somebody who may make it. The answer may go on for as long as its body is read, or its
    /// connection is open.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        self.answer_if(std::future::ready(Ok(())), request).await
    }

    /// Answers a request if it is let in, else with the refusal. Either way it counts from now on, as upstream's do.
    pub async fn answer_if(
        &self,
        admitted: impl Future<Output = Result<(), Response<Body>>>,
        mut request: Request<Body>,
    ) -> Response<Body> {
        let server = match self.site {
            Site::Full => ServerType::ReadWrite,
            Site::ReadOnly => ServerType::ReadOnly,
            Site::Healthz => return self.respond_if(admitted, request).await,
        };
        let path = path::decoded(request.uri().path()).unwrap_or_default();
        let counted = Arc::new(self.metrics.http(request.method().as_str(), &path, server));
        request.extensions_mut().insert(Held(counted.clone()));
        let response = self.respond_if(admitted, request).await;
        response.map(|body| Counted { body, _counted: counted }.boxed_unsync())
    }

    async fn respond_if(
        &self,
        admitted: impl Future<Output = Result<(), Response<Body>>>,
        request: Request<Body>,
    ) -> Response<Body> {
        if let Err(refusal) = admitted.await {
            return refusal;
        }
        let Some(span) = self.settings.span.map(|make| make(&request)) else {
            return self.respond(request).await;
        };
        let response = self.respond(request).instrument(span.clone()).await;
        span.record("http.response.status_code", response.status().as_u16());
        response
    }

    async fn respond(&self, request: Request<Body>) -> Response<Body> {
        let accept = request.headers().get(ACCEPT).map(|value| value.to_str().unwrap_or_default());
        let path = request.uri().path();
        match routing::route(self.site, &self.settings, request.method(), path, accept) {
            Routed::To(endpoint) => self.serve(endpoint, request).await,
            Routed::Malformed => answers::text(StatusCode::BAD_REQUEST, "400 Bad Request"),
            Routed::Elsewhere(path) => path::redirect(request.method(), &path, request.uri().query()),
            Routed::Nothing => nothing_here(),
            Routed::NothingBelow => answers::text(StatusCode::NOT_FOUND, "404: Page Not Found"),
            Routed::Method(allowed) => {
                let mut response = answers::text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
                response
            }
            Routed::NotAcceptable => answers::text(
                StatusCode::NOT_ACCEPTABLE,
                "406: Not Acceptable\n\nAvailable representations: application/json",
            ),
            Routed::Off(why) => answers::error(StatusCode::METHOD_NOT_ALLOWED, why),
        }
    }

    async fn serve(&self, endpoint: Endpoint, request: Request<Body>) -> Response<Body> {
        let query = request.uri().query();
        match endpoint {
            Endpoint::Health(check) => self.health(check.as_deref(), query),
            Endpoint::Metrics => self.kubelet_metrics(request.headers()).await,
            Endpoint::Cadvisor => self.cadvisor(request.headers()).await,
            Endpoint::Resource => self.resource(request.headers()).await,
            Endpoint::Probes => self.probes(request.headers()),
            Endpoint::Slis => self.slis(request.method(), request.headers()),
            Endpoint::Pods => self.pods(),
            Endpoint::RunningPods => self.running_pods().await,
            Endpoint::Summary => self.summary(request).await,
            Endpoint::Logs => match &self.settings.system_logs {
                Some(serve) => serve(request).await,
                None => nothing_here(),
            },
            Endpoint::ContainerLogs(target) => self.container_logs(target, query).await,
            Endpoint::Exec(target) => self.stream(Way::Exec, target, request).await,
            Endpoint::Attach(target) => self.stream(Way::Attach, target, request).await,
            Endpoint::PortForward(target) => self.stream(Way::PortForward, target, request).await,
            Endpoint::Run(target) => self.run(target, request).await,
            Endpoint::Checkpoint(target) => self.checkpoint(target, query).await,
            Endpoint::Configz => self.configz(),
            Endpoint::Flagz => self.flagz(request.headers()),
            Endpoint::Statusz => self.statusz(request.headers()),
            Endpoint::Verbosity => self.verbosity(request).await,
            Endpoint::Pprof(name) => self.pprof(&name, query),
        }
    }
}

/// What is answered where nothing is served.
fn nothing_here() -> Response<Body> {
    answers::error(StatusCode::NOT_FOUND, "404 page not found")
}

/// A body whose request is under way until it is sent or given up.
struct Counted {
    body: Body,
    _counted: Arc<RequestInFlight>,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
