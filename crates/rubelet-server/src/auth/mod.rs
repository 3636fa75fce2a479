//! Who may in on the kubelet API's port: who asks (client certificate, bearer token, nobody), and whether they may.
//!
//! Owns the order, the caches and the wording of upstream (`pkg/kubelet/server/auth.go`, apiserver's delegated
//! authentication and authorization). Makes no request itself: the shell makes reviews ([`TokenReviews`],
//! [`AccessReviews`]), `tls` judges certificates ([`ClientCertificates`]). Called by the front of the listener, before
//! any endpoint sees a request.
//!
//! - `credentials`: what a request shows; `certificate`: the user a certificate names
//! - `tokens`, `access`: the two reviews with their caches (`cache`), one at a time for one question (`flights`), tried
//!   again after passing trouble (`reviews`)

mod access;
mod cache;
mod certificate;
mod credentials;
mod flights;
mod reviews;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use ring::rand::SystemRandom;
use rubelet_core::node_authz::{NodeAccess, access};
use rustls::pki_types::CertificateDer;

pub use credentials::hide_credentials;
pub use reviews::{AccessAnswer, AccessQuestion, AccessReviews, ReviewError, TokenAnswer, TokenReviews};

use crate::body::Body;
use crate::listen::Peer;
use crate::path;
use crate::problem::Problem;
use crate::tls::ClientCa;
use access::AccessCheck;
use credentials::Shown;
use tokens::TokenCheck;

/// Everyone who has proved who they are.
const AUTHENTICATED: &str = "system:authenticated";
/// Everyone who has not.
const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user of requests without credentials.
const ANONYMOUS: &str = "system:anonymous";

/// An authenticated user, as `authentication.k8s.io`'s `UserInfo` says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The unique name, such as `kube-apiserver-kubelet-client`.
    pub name: String,
    /// An identifier that outlives renames; empty where there is none.
    pub uid: String,
    /// The groups, as the authenticator gave them.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// The user, in the group of those who have proved who they are (upstream `AuthenticatedGroupAdder`).
    fn authenticated(mut self) -> Self {
        let known = |group: &String| group == AUTHENTICATED || group == UNAUTHENTICATED;
        if self.name != ANONYMOUS && !self.groups.iter().any(known) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

/// Judges the certificates of a connection by the client CA as it is now.
pub trait ClientCertificates: Send + Sync + 'static {
    /// The client's own certificate, when it is good for a client and of an authority that counts. Not asked for
    /// connections without certificates.
    fn verify<'a>(&self, peer: &'a Peer) -> Option<&'a CertificateDer<'static>>;
}

/// The client CA and the wall clock: what certificates are judged by.
pub struct ByClientCa {
    /// The authorities that count.
    pub authorities: ClientCa,
    /// What time it is.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl ClientCertificates for ByClientCa {
    fn verify<'a>(&self, peer: &'a Peer) -> Option<&'a CertificateDer<'static>> {
        self.authorities.verify(peer, (self.now)())
    }
}

/// How users prove who they are (`authentication` of the configuration).
#[derive(Default)]
pub struct Authentication {
    /// By certificate (`x509.clientCAFile`); without it certificates are not looked at.
    pub certificates: Option<Arc<dyn ClientCertificates>>,
    /// By bearer token (`webhook`), and how long an answer holds (`webhook.cacheTTL`); without it tokens are not
    /// looked at.
    pub tokens: Option<(Arc<dyn TokenReviews>, Duration)>,
    /// Whether requests that show nothing go on as `system:anonymous` (`anonymous.enabled`).
    pub anonymous: bool,
}

/// Who may do what (`authorization` of the configuration).
pub enum Authorization {
    /// Everyone who is somebody may everything.
    AlwaysAllow,
    /// The API server is asked.
    Webhook {
        /// How.
        reviews: Arc<dyn AccessReviews>,
        /// How long a yes holds (`webhook.cacheAuthorizedTTL`).
        authorized_ttl: Duration,
        /// How long a no holds (`webhook.cacheUnauthorizedTTL`).
        unauthorized_ttl: Duration,
    },
}

/// Why there can be no gate.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// Nobody could ever get in.
    #[error("no authentication method configured")]
    NoAuthentication,
    /// The system gave no random bytes for the caches' keys.
    #[error("no random bytes to be had for the caches of authentication")]
    Random,
}

/// Decides about each request. Cheap to clone.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    certificates: Option<Arc<dyn ClientCertificates>>,
    tokens: Option<TokenCheck>,
    anonymous: Option<Arc<UserInfo>>,
    /// None: everyone may everything.
    access: Option<AccessCheck>,
}

/// What is needed of a request; the request itself, with its body, stays where it is.
struct Asked {
    shown: Shown,
    access: NodeAccess,
}

impl Gate {
    /// A gate for the kubelet API of the node `node`.
    ///
    /// # Errors
    /// [`GateError`].
    pub fn new(
        authentication: Authentication,
        authorization: Authorization,
        node: &str,
    ) -> Result<Self, GateError> {
        let Authentication { certificates, tokens, anonymous } = authentication;
        if certificates.is_none() && tokens.is_none() && !anonymous {
            return Err(GateError::NoAuthentication);
        }
        let random = SystemRandom::new();
        let tokens = tokens.map(|(reviews, ttl)| TokenCheck::new(reviews, ttl, &random)).transpose();
        let access = match authorization {
            Authorization::AlwaysAllow => Ok(None),
            Authorization::Webhook { reviews, authorized_ttl, unauthorized_ttl } => {
                let ttls = (authorized_ttl, unauthorized_ttl);
                AccessCheck::new(reviews, ttls, node, &random).map(Some)
            }
        };
        Ok(Self(Arc::new(Inner {
            certificates,
            tokens: tokens.map_err(|_| GateError::Random)?,
            anonymous: anonymous.then(|| Arc::new(UserInfo::anonymous())),
            access: access.map_err(|_| GateError::Random)?,
        })))
    }

    /// Who asks, if they may; otherwise the answer: 401, 403, or 500 when the API server could not be asked. A path that
    /// is not clean is sent to the clean one first, as Go's mux does, so that what is judged is what is routed.
    ///
    /// Whoever passes the request on hides its credentials ([`hide_credentials`]).
    #[allow(clippy::result_large_err, reason = "the answer is what the caller sends; it is made once")]
    pub fn admit<B>(
        &self,
        peer: &Peer,
        request: &Request<B>,
    ) -> impl Future<Output = Result<Arc<UserInfo>, Response<Body>>> + Send + use<B> {
        let inner = self.0.clone();
        let certified = inner.certified(peer);
        let asked = inner.asked(request);
        async move {
            let asked = asked?;
            let user = match inner.authenticate(certified, asked.shown).await {
                Ok(user) => user,
                Err(why) => {
                    tracing::debug!("a request to the kubelet API is not authenticated: {why}");
                    return Err(refusal(StatusCode::UNAUTHORIZED, "Unauthorized"));
                }
            };
            inner.authorize(&user, asked.access).await?;
            Ok(user)
        }
    }
}

/// What a connection's certificate says: a user, nothing (there is none, or it is not looked at, or it names nobody),
/// or that it is no good.
type Certified = Result<Option<UserInfo>, String>;

impl Inner {
    fn certified(&self, peer: &Peer) -> Certified {
        let Some(judge) = &self.certificates else { return Ok(None) };
        if peer.certificates.is_empty() {
            return Ok(None);
        }
        let leaf = judge.verify(peer).ok_or_else(|| "the certificate is not accepted".to_owned())?;
        certificate::user(leaf)
    }

    #[allow(clippy::result_large_err, reason = "the answer is what the caller sends; it is made once")]
    fn asked<B>(&self, request: &Request<B>) -> Result<Asked, Response<Body>> {
        let sent = request.uri().path();
        let Some(path) = path::decoded(sent) else {
            return Err(refusal(StatusCode::BAD_REQUEST, "400 Bad Request"));
        };
        let clean = path::clean(sent);
        if clean != sent && request.method() != Method::CONNECT {
            return Err(path::redirect(request.method(), &clean, request.uri().query()));
        }
        let shown = match self.tokens {
            Some(_) => Shown::by(request.headers()),
            None => Shown::default(),
        };
        Ok(Asked { shown, access: access(request.method().as_str(), &path) })
    }

    /// The first that names a user counts. Something wrong is a refusal only when nothing else is right, and always
    /// then: a bad token does not make its bearer anonymous.
    async fn authenticate(&self, certified: Certified, shown: Shown) -> Result<Arc<UserInfo>, String> {
        let mut wrong = Vec::new();
        match certified {
            Ok(Some(user)) => return Ok(Arc::new(user.authenticated())),
            Ok(None) => {}
            Err(why) => wrong.push(why),
        }
        if let Some(tokens) = &self.tokens {
            for token in [shown.bearer, shown.websocket] {
                let checked = match token {
                    Ok(None) => continue,
                    Ok(Some(token)) => tokens.check(token).await,
                    Err(why) => Err(why.to_owned()),
                };
                match checked {
                    Ok(user) => return Ok(user),
                    Err(why) => wrong.push(why),
                }
            }
        }
        match &self.anonymous {
            _ if !wrong.is_empty() => Err(wrong.join("; ")),
            Some(anonymous) => Ok(anonymous.clone()),
            None => Err("it shows no credentials".to_owned()),
        }
    }

    #[allow(clippy::result_large_err, reason = "the answer is what the caller sends; it is made once")]
    async fn authorize(&self, user: &Arc<UserInfo>, wanted: NodeAccess) -> Result<(), Response<Body>> {
        let Some(check) = &self.access else { return Ok(()) };
        let NodeAccess { verb, subresources } = wanted;
        for subresource in subresources {
            match check.allows(user, verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(why) => {
                    tracing::warn!(user = user.name, verb, subresource, "cannot authorize a request: {why}");
                    return Err(refusal(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        format!(
                            "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                            user.name
                        ),
                    ));
                }
            }
        }
        Err(refusal(
            StatusCode::FORBIDDEN,
            format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
                user.name,
                subresources.join(" ")
            ),
        ))
    }
}

fn refusal(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    Problem::new(code, text).text_response()
}
