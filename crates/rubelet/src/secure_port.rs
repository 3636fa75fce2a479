//! The kubelet API's own port (10250): TLS, then who may in, then what `rubelet_server::api` answers.
//!
//! Owns how the configuration's `authentication` and `authorization` become a gate. A node without an API server has
//! nobody to ask for reviews: where they are configured nobody passes, which is said once. Called by the wiring.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use rubelet_config::KubeletConfiguration;
use rubelet_server::Body;
use rubelet_server::api::Api;
use rubelet_server::auth::{
    AccessAnswer, AccessQuestion, AccessReviews, Authentication, Authorization, ByClientCa, Gate, GateError,
    ReviewError, hide_credentials,
};
use rubelet_server::listen::{Front, ListenError, Listener, Peer};
use rubelet_server::tls::{ClientCa, Tls};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::reviews::ApiReviews;

/// Why the port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SecurePortError {
    /// Nobody could get in by these settings.
    #[error("authentication")]
    Gate(#[from] GateError),
    /// The address cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// What the port is made of.
pub(crate) struct SecurePort<'a> {
    /// Who may in, and where.
    pub(crate) config: &'a KubeletConfiguration,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What is shown, and how it is spoken.
    pub(crate) tls: Tls,
    /// Judges certificates.
    pub(crate) clients: ClientCa,
    /// The API server; `None` on a node of its own.
    pub(crate) reviews: Option<ApiReviews>,
    /// What time it is, for certificates.
    pub(crate) clock: Clock,
    /// The node whose subresources are asked for.
    pub(crate) node_name: &'a str,
    /// What answers.
    pub(crate) api: Api,
}

impl SecurePort<'_> {
    /// Binds the port; the future serves it for ever. None where nobody could ever get in.
    ///
    /// # Errors
    /// [`SecurePortError`].
    pub(crate) async fn open(self) -> Result<Option<BoxFuture<'static, ()>>, SecurePortError> {
        let alone = self.reviews.is_none();
        let gate = match self.gate() {
            Err(GateError::NoAuthentication) if alone => {
                warn!(
                    "the kubelet API is not served: without an API server nobody can prove who they are (set \
                     authentication.x509.clientCAFile, or enableServer: false to have it quiet)"
                );
                return Ok(None);
            }
            gate => gate?,
        };
        let listener = Listener::bind("the kubelet API", self.address, Some(self.tls)).await?;
        info!(address = %listener.address(), "serving the kubelet API");
        let front = Arc::new(Guarded { gate, api: self.api });
        Ok(Some(async move { listener.serve(front, CancellationToken::new()).await }.boxed()))
    }

    fn gate(&self) -> Result<Gate, GateError> {
        let authentication = &self.config.authentication;
        let now = {
            let clock = self.clock.clone();
            Arc::new(move || clock.now())
        };
        let tokens = self.reviews.clone().filter(|_| authentication.webhook.enabled);
        let by_certificate = !authentication.x509.client_ca_file.is_empty();
        let authorization = &self.config.authorization;
        let ttls = (
            authorization.webhook.cache_authorized_ttl.to_std(),
            authorization.webhook.cache_unauthorized_ttl.to_std(),
        );
        let reviews: Option<Arc<dyn AccessReviews>> = match (authorization.mode.as_str(), &self.reviews) {
            ("AlwaysAllow", _) => None,
            (_, Some(reviews)) => Some(Arc::new(reviews.clone())),
            (mode, None) => {
                warn!(
                    "the kubelet API answers nobody: authorization.mode {mode} needs an API server, and this node has none \
                     (AlwaysAllow needs none, and lets in whoever is authenticated)"
                );
                Some(Arc::new(NobodyMay))
            }
        };
        Gate::new(
            Authentication {
                certificates: by_certificate
                    .then(|| Arc::new(ByClientCa { authorities: self.clients.clone(), now }) as Arc<_>),
                tokens: tokens
                    .map(|reviews| (Arc::new(reviews) as Arc<_>, authentication.webhook.cache_ttl.to_std())),
                anonymous: authentication.anonymous.enabled,
            },
            match reviews {
                None => Authorization::AlwaysAllow,
                Some(reviews) => {
                    Authorization::Webhook { reviews, authorized_ttl: ttls.0, unauthorized_ttl: ttls.1 }
                }
            },
            self.node_name,
        )
    }
}

/// Answers those who may ask.
struct Guarded {
    gate: Gate,
    api: Api,
}

impl Front for Guarded {
    fn answer<'a>(&'a self, peer: &'a Peer, mut request: Request<Body>) -> BoxFuture<'a, Response<Body>> {
        let admitted = self.gate.admit(peer, &request);
        // Nobody further in needs them; the gate has read them.
        hide_credentials(request.headers_mut());
        async move { self.api.answer_if(async move { admitted.await.map(drop) }, request).await }.boxed()
    }
}

/// Where there is nobody to ask.
struct NobodyMay;

impl AccessReviews for NobodyMay {
    fn review(&self, _: AccessQuestion) -> BoxFuture<'static, Result<AccessAnswer, ReviewError>> {
        futures::future::ready(Ok(AccessAnswer::default())).boxed()
    }
}
