//! A Kubernetes API server for tests: `rubelet-localapi`'s engine over a store in memory, with what a kubelet meets of a
//! cluster around it: the Node authorizer, NodeRestriction, certificate signing, and faults to order.
//!
//! In process ([`FakeApi::client`]) it needs no socket and is deterministic on a paused clock: writes run where they are
//! asked for, chance is seeded. What an object may be, what verbs do and what watches see is the engine's; nothing of it
//! is repeated here. There is no scheduler: tests bind pods, through the admin side (`admin`).
//!
//! Files: `request` says what is asked, `handle` leads a request through faults to the engine and keeps a record;
//! `authorizer` and `restriction` are what the engine asks; `watch` has open watches in hand, `history` what was stored;
//! `controllers` is what a cluster does by itself, `csr` the part of it that signs; `serve` and `gate` are sockets,
//! `admin` the tests' side.

#![expect(clippy::panic, reason = "tests that ask for what cannot be are to fail where they ask")]

mod admin;
mod authorizer;
mod body;
mod controllers;
mod csr;
mod fault;
mod gate;
mod handle;
mod history;
mod references;
mod request;
mod restriction;
mod serve;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use rubelet_apimachinery::kinds::{self, Served as Kind};
use rubelet_apimachinery::strategy::{Settings, builtin};
use rubelet_localapi::auth::authority::Authority;
use rubelet_localapi::auth::tokens::TokenKey;
use rubelet_localapi::engine::{AllowAll, Api, ApiOptions, Authorize, seeded};
use rubelet_localapi::store::{LogLimits, Store, StoreOptions};
use tokio_util::sync::CancellationToken;

pub use body::{Disconnected, ResponseBody};
pub use csr::Signing;
pub use fault::{Failure, Fault, FaultHandle, Outage};
use gate::Gate;
pub use request::{ApiRequest, User};
pub use rubelet_localapi::auth::tokens::ISSUER as API_AUDIENCE;
pub use rubelet_localapi::engine::Now;
pub use rubelet_localapi::pki::Identity;
pub use serve::Served;

/// How strict the server is, and what it does by itself.
#[derive(Clone)]
pub struct Options {
    /// The server's clock.
    pub now: Now,
    /// The Node authorizer and RBAC; without it everyone may do everything.
    pub authorize: bool,
    /// The NodeRestriction admission plugin.
    pub restrict: bool,
    /// Gives pods the projected service account volume, and each namespace its `kube-root-ca.crt`. Without it the
    /// `default` ServiceAccount of each namespace is one whose pods get no token.
    pub service_accounts: bool,
    /// How many changes watches can resume over.
    pub log_limit: usize,
    /// Where UIDs and generated names come from.
    pub seed: u64,
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
            service_accounts: false,
            log_limit: 10_000,
            seed: 0,
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
    engine: Api,
    authority: Arc<Authority>,
    nodes: authorizer::Nodes,
    gate: Gate,
    state: Mutex<State>,
    /// The version of the latest change.
    changed: tokio::sync::watch::Sender<u64>,
}

/// What is not the engine's.
pub(crate) struct State {
    history: history::History,
    requests: Vec<RecordedRequest>,
    violations: Vec<Violation>,
    signer: csr::Signer,
    bootstrap_tokens: BTreeSet<String>,
    faults: fault::Faults,
    outage: Outage,
    latency: Duration,
    /// Open watches, in the order in which they came.
    watches: BTreeMap<u64, watch::Open>,
    next_watch: u64,
}

impl Inner {
    /// The state. Never held over an await or a call of the engine.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server's time.
    pub(crate) fn now(&self) -> Timestamp {
        (self.options.now)()
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
        let log = LogLimits { changes: options.log_limit as u64, bytes: u64::MAX / 2, age: Duration::MAX };
        let store = Store::in_memory(StoreOptions { log, ..StoreOptions::new(options.now.clone()) })
            .unwrap_or_else(|e| panic!("no store: {e}"));
        let random = seeded(options.seed);
        let key = rcgen::KeyPair::generate().map_err(|e| e.to_string());
        let key = key.and_then(|key| TokenKey::new(&key.serialize_der()).map_err(|e| e.to_string()));
        let key = key.unwrap_or_else(|e| panic!("no key for tokens: {e}"));
        let url = "https://localhost".to_owned();
        let authority = Arc::new(Authority::new(key, options.now.clone(), random.clone(), url));
        let nodes = authorizer::Nodes::default();
        let authorize: Arc<dyn Authorize> =
            if options.authorize { Arc::new(nodes.clone()) } else { Arc::new(AllowAll) };
        let on_request = kinds::all().iter().filter(|kind| kind.served == Kind::OnRequest);
        let engine = Api::new(ApiOptions {
            store,
            now: options.now.clone(),
            settings: settings(String::new()),
            random,
            serve_on_request: on_request.map(|k| (k.group.to_owned(), k.plural.to_owned())).collect(),
            node: None,
            reviews: authority.clone(),
            authorize,
            admit: Arc::new(restriction::Plugins { restrict: options.restrict }),
            stopping: CancellationToken::new(),
        });
        let state = State {
            history: history::History::new(engine.store()),
            requests: Vec::new(),
            violations: Vec::new(),
            signer: csr::Signer::default(),
            bootstrap_tokens: BTreeSet::new(),
            faults: fault::Faults::default(),
            outage: Outage::None,
            latency: Duration::ZERO,
            watches: BTreeMap::new(),
            next_watch: 0,
        };
        let changed = tokio::sync::watch::Sender::new(engine.store().revision());
        let (gate, state) = (Gate::default(), Mutex::new(state));
        let api = Self { inner: Arc::new(Inner { options, engine, authority, nodes, gate, state, changed }) };
        for namespace in builtin::namespaces() {
            api.create_json(&namespace);
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

/// What the server is set up as; `root_ca` is its authority, in PEM.
fn settings(root_ca: String) -> Settings {
    Settings { service_network: (Ipv4Addr::new(10, 0, 0, 0), 8), root_ca }
}
