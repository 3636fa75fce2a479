//! The kubelet API's own port (10250): TLS, then who may in, then what `rubelet_server::api` answers.
//!
//! Owns how the configuration's `authentication` and `authorization` become a gate. A node without an API server has
//! nobody to ask for reviews; where nobody could get in without, there is no port. Called by the wiring.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use rubelet_config::KubeletConfiguration;
use rubelet_server::Body;
use rubelet_server::api::Api;
use rubelet_server::auth::{Authentication, Authorization, ByClientCa, Gate, GateError, hide_credentials};
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
    /// Binds the port; the future serves it for ever.
    ///
    /// # Errors
    /// [`SecurePortError`].
    pub(crate) async fn open(self) -> Result<BoxFuture<'static, ()>, SecurePortError> {
        let gate = self.gate()?;
        if self.config.authentication.anonymous.enabled && self.config.authorization.mode == "AlwaysAllow" {
            warn!(
                "the kubelet API lets everybody do everything, as a kubelet without a configuration file does: whoever \
                 reaches the port is root in every pod (authentication.anonymous.enabled and authorization.mode)"
            );
        }
        let listener = Listener::bind("the kubelet API", self.address, Some(self.tls)).await?;
        info!(address = %listener.address(), "serving the kubelet API");
        let front = Arc::new(Guarded { gate, api: self.api });
        Ok(async move { listener.serve(front, CancellationToken::new()).await }.boxed())
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
        Gate::new(
            Authentication {
                certificates: by_certificate
                    .then(|| Arc::new(ByClientCa { authorities: self.clients.clone(), now }) as Arc<_>),
                tokens: tokens
                    .map(|reviews| (Arc::new(reviews) as Arc<_>, authentication.webhook.cache_ttl.to_std())),
                anonymous: authentication.anonymous.enabled,
            },
            match (authorization.mode.as_str(), &self.reviews) {
                ("AlwaysAllow", _) => Authorization::AlwaysAllow,
                (_, Some(reviews)) => Authorization::Webhook {
                    reviews: Arc::new(reviews.clone()),
                    authorized_ttl: ttls.0,
                    unauthorized_ttl: ttls.1,
                },
                // There is nobody to ask; see `serves_alone`.
                (_, None) => return Err(GateError::NoAuthentication),
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

/// Whether anybody can ever get in on a node without an API server, which is there to ask for reviews.
pub(crate) fn serves_alone(config: &KubeletConfiguration) -> bool {
    let authentication = &config.authentication;
    let known = authentication.anonymous.enabled || !authentication.x509.client_ca_file.is_empty();
    known && config.authorization.mode == "AlwaysAllow"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_alone_is_served_for_those_who_can_get_in_without_being_asked_about() {
        let check = |ca: &str, anonymous: bool, mode: &str, expected: bool| {
            let mut config = KubeletConfiguration::default();
            config.authentication.x509.client_ca_file = ca.to_owned();
            config.authentication.anonymous.enabled = anonymous;
            config.authorization.mode = mode.to_owned();
            assert_eq!(serves_alone(&config), expected, "{ca:?} {anonymous} {mode}");
        };
        check("", false, "Webhook", false);
        check("/ca.crt", false, "Webhook", false);
        check("", true, "Webhook", false);
        check("", false, "AlwaysAllow", false);
        check("/ca.crt", false, "AlwaysAllow", true);
        check("", true, "AlwaysAllow", true);
    }
}
