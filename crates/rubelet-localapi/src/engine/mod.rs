//! One request in, one answer out: the verbs of the Kubernetes API over the store.
//!
//! What an object may be is decided by `rubelet-apimachinery`; who asks, and who may, by `auth`; the engine reads the
//! request, carries it out in one transaction and writes the answer. `serve` hands it the requests of a listener,
//! [`Api::client_service`] those of a client in the same process.
//!
//! Files: `request`, `options`, `media`, `body` read a request; `dispatch` finds what it is for; `read`, `watch`,
//! `write`, `patch`, `delete`, `pods`, `reviews` are the verbs, `proxy` and `metrics` what is not the store's, `paths`
//! what is no resource; `lookup` shows the rules
//! what is stored; `encode`, `tables`, `page`, `respond` write the answer.

mod body;
mod delete;
mod dispatch;
mod encode;
mod hooks;
mod lookup;
mod media;
mod metrics;
mod options;
mod page;
mod patch;
mod paths;
mod pods;
mod proxy;
mod random;
mod read;
mod request;
mod respond;
mod reviews;
mod service;
mod tables;
#[cfg(test)]
mod tests;
mod watch;
mod write;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use http::{Method, Request, Response};
use jiff::Timestamp;
use rubelet_apimachinery::kinds::{Resource, Served};
use rubelet_apimachinery::strategy::Settings;
use rubelet_apimachinery::{ApiError, User, status};
use tokio_util::sync::CancellationToken;

pub use self::hooks::{
    Admit, AdmitAll, AllowAll, Attributes, Authorize, Decision, NoReviews, Operation, Reviews, TokenWish,
};
pub use self::lookup::Shown as Stored;
pub(crate) use self::random::uid;
pub use self::random::{Random, seeded, system};
pub use self::request::{Query, RequestInfo};
pub use self::service::ClientService;
use crate::node::{Body, NodeStreams};
use crate::store::Store;

/// Tells the server's time.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a server is made of.
pub struct ApiOptions {
    /// Where the objects are.
    pub store: Store,
    /// The server's clock.
    pub now: Now,
    /// What the rules of objects depend on.
    pub settings: Settings,
    /// Chance.
    pub random: Random,
    /// Group and plural of the kinds served only on request (`Served::OnRequest`).
    pub serve_on_request: BTreeSet<(String, String)>,
    /// The name of this machine's Node, and who answers for its pods' containers.
    pub node: Option<(String, Arc<dyn NodeStreams>)>,
    /// Keys and tokens.
    pub reviews: Arc<dyn Reviews>,
    /// Who may do what.
    pub authorize: Arc<dyn Authorize>,
    /// Who else has a say in writes.
    pub admit: Arc<dyn Admit>,
    /// Cancelled when the server stops; open watches end then.
    pub stopping: CancellationToken,
}

/// The server. Clones are the same server.
#[derive(Clone)]
pub struct Api {
    inner: Arc<ApiOptions>,
    /// What is kept between two readings of what the node uses.
    measured: Arc<metrics::Measured>,
}

/// The answer to a request that does not get as far as the engine, such as one of nobody that is known.
pub fn refusal(error: &ApiError) -> Response<Body> {
    respond::error(error, Default::default())
}

impl Api {
    /// A server of what the store holds.
    pub fn new(options: ApiOptions) -> Self {
        Self { inner: Arc::new(options), measured: Arc::default() }
    }

    /// Where the objects are.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Answers one request of an authenticated user. Errors are answers too: `Status` objects.
    pub async fn handle(&self, user: User, request: Request<Body>) -> Response<Body> {
        let bodiless = request.method() == Method::HEAD;
        // The engine has no state of its own that a panic could leave half changed: a transaction is dropped whole.
        let answered = AssertUnwindSafe(dispatch::answer(self, user, request)).catch_unwind().await;
        let mut response = answered.unwrap_or_else(|_| {
            tracing::error!("a request made the API panic; this is a bug");
            respond::error(&status::internal("the request could not be carried out"), Default::default())
        });
        if bodiless {
            *response.body_mut() = body::whole("");
        }
        response
    }

    /// A service for `kube::Client::new`: requests in this process, as `user`.
    pub fn client_service(&self, user: User) -> ClientService {
        ClientService::new(self.clone(), user)
    }

    /// Whether objects of the kind can be had here.
    pub fn serves(&self, resource: &Resource) -> bool {
        match resource.served {
            Served::Stored | Served::Answered => true,
            Served::OnRequest => {
                self.inner.serve_on_request.contains(&(resource.group.to_owned(), resource.plural.to_owned()))
            }
            Served::Measured => self.inner.node.is_some(),
            Served::NeedsCluster => false,
        }
    }

    /// The server's time.
    pub(crate) fn now(&self) -> Timestamp {
        (self.inner.now)()
    }

    /// The server's time as objects show it: whole seconds.
    pub(crate) fn time_text(&self) -> String {
        let now = self.now();
        Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
    }
}
