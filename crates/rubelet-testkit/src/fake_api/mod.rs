//! A Kubernetes API server for tests: what a kubelet uses of it, as strict as the real one, with faults to order.
//!
//! In process ([`FakeApi::client`]) it needs no socket and is deterministic on a paused clock. It runs no controllers
//! and no scheduler: tests are those, through the admin side (`admin`).
//!
//! Files: `request` reads a request, `handle` leads it through faults, `authorizer`, `restriction` and `verbs`;
//! `kinds` knows what differs between kinds; `store` holds the objects, `watch` and `selector` serve them; `patch` and
//! `strategic` change them, `normalize` writes them as Go would; `admin` is the tests' side.

#![expect(clippy::panic, reason = "tests that ask for what cannot be are to fail where they ask")]

mod admin;
mod authenticate;
mod authorizer;
mod body;
mod csr;
mod delete;
mod discovery;
mod fault;
mod gate;
mod handle;
mod kinds;
mod meta;
mod normalize;
mod patch;
mod pki;
mod pod_defaults;
mod pod_rules;
mod references;
mod request;
mod resources;
mod restriction;
mod selector;
mod serve;
mod status;
mod store;
mod strategic;
mod subresources;
#[cfg(test)]
mod tests;
mod tokens;
mod verbs;
mod watch;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};

pub use body::{Disconnected, ResponseBody};
pub use csr::Signing;
pub use fault::{Failure, Fault, FaultHandle, Outage};
use gate::Gate;
pub use pki::Identity;
pub use request::{ApiRequest, User};
pub use serve::Served;
pub use tokens::API_AUDIENCE;

/// Tells the server's time.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How strict the server is, and what it does by itself.
#[derive(Clone)]
pub struct Options {
    /// The server's clock.
    pub now: Now,
    /// The Node authorizer and RBAC; without it everyone may do everything.
    pub authorize: bool,
    /// The NodeRestriction admission plugin.
    pub restrict: bool,
    /// Fills in defaults and runs the mutating admission plugins on pods that clients create.
    pub defaults: bool,
    /// Adds the projected service account volume to pods, and gives each namespace its `default` ServiceAccount and
    /// `kube-root-ca.crt` ConfigMap.
    pub service_accounts: bool,
    /// How many changes watches can resume over.
    pub log_limit: usize,
}

/// Where the default clock begins: 2026-01-01T00:00:00Z.
const EPOCH: i64 = 1_767_225_600;

impl Default for Options {
    /// Strict in everything; a clock that begins at 2026-01-01 and goes on with tokio's, paused or not.
    fn default() -> Self {
        let start = tokio::time::Instant::now();
        let now = move || {
            let passed = SignedDuration::try_from(start.elapsed()).unwrap_or(SignedDuration::MAX);
            Timestamp::from_second(EPOCH).unwrap_or(Timestamp::UNIX_EPOCH) + passed
        };
        Self {
            now: Arc::new(now),
            authorize: true,
            restrict: true,
            defaults: true,
            service_accounts: false,
            log_limit: 10_000,
        }
    }
}

impl Options {
    /// Strict in everything, on the machine's clock: for servers that are met over TLS, where both sides look at it.
    #[expect(clippy::disallowed_methods, reason = "certificates are checked against the machine's clock")]
    pub fn wall_clock() -> Self {
        Self { now: Arc::new(Timestamp::now), ..Self::default() }
    }
}

/// A request as it was answered.
#[derive(Debug, Clone)]
pub struct RecordedRequest {
    /// When the answer began, by the server's clock.
    pub at: Timestamp,
    /// Who asked for what.
    pub request: ApiRequest,
    /// The body sent.
    pub body: Bytes,
    /// The HTTP code; 0 when there was no answer.
    pub code: u16,
    /// The length of the answer's body; 0 for a watch.
    pub bytes: usize,
}

/// A request that authorization or NodeRestriction refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Who asked.
    pub user: String,
    /// The verb, as in [`ApiRequest`].
    pub verb: &'static str,
    /// The resource in the plural.
    pub resource: String,
    /// Empty without one.
    pub subresource: String,
    /// Empty for cluster-wide requests.
    pub namespace: String,
    /// The object's name, if the request named one.
    pub name: String,
    /// What the refusal said.
    pub message: String,
}

/// The server. Clones are the same server.
#[derive(Clone)]
pub struct FakeApi {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    options: Options,
    state: Mutex<State>,
    gate: Gate,
}

/// Everything under the lock.
pub(crate) struct State {
    store: store::Store,
    requests: Vec<RecordedRequest>,
    violations: Vec<Violation>,
    signer: csr::Signer,
    bootstrap_tokens: BTreeSet<String>,
    faults: fault::Faults,
    outage: Outage,
    latency: Duration,
}

impl Inner {
    /// The state. Never held over an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for FakeApi {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeApi {
    /// A strict server with the default options.
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    /// A server with these options and the namespaces every cluster has.
    pub fn with(options: Options) -> Self {
        let state = State {
            store: store::Store::new(options.log_limit),
            requests: Vec::new(),
            violations: Vec::new(),
            signer: csr::Signer::default(),
            bootstrap_tokens: BTreeSet::new(),
            faults: fault::Faults::default(),
            outage: Outage::None,
            latency: Duration::ZERO,
        };
        let api =
            Self { inner: Arc::new(Inner { options, state: Mutex::new(state), gate: Gate::default() }) };
        for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            api.ensure_namespace(namespace);
        }
        api
    }

    /// A client of this server without a socket, for a user with the groups its name implies (see [`User::named`]).
    ///
    /// Must be called inside a tokio runtime, as every `kube::Client` must.
    pub fn client(&self, user: &str) -> kube::Client {
        self.client_as(User::named(user))
    }

    /// A client of this server for any user.
    pub fn client_as(&self, user: User) -> kube::Client {
        let api = self.clone();
        let user = Arc::new(user);
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (api, user) = (api.clone(), user.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map_err(|_| Disconnected)?.to_bytes();
                api.handle(&user, http::Request::from_parts(parts, body)).await
            }
        });
        kube::Client::new(service, "default")
    }
}
