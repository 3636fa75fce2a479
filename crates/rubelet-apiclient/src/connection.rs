//! Connections to the API server: HTTP/2 over TLS with an identity that may change, one set for requests and one for
//! heartbeats.
//!
//! `connect` gives the clients and an `IdentityHandle` that changes the identity and ends connections. Files:
//! - `tls`: what TLS checks and presents; the authority's file is read again at each new connection
//! - `dial`, `proxy`: from a name to a stream that HTTP can run on: DNS, TCP, proxy, TLS
//! - `pool`: which connection a request goes over, and the switch that ends them all
//! - `service`: one request: pace, credentials, retries, deadline, counts
//! - `body`: an answer's body, which keeps its place on the connection until it is read
//! - `observe`: what is told of each request, for metrics
//! - `explain`: what to tell a person about an error; `teller`: when to
//!
//! There is no timer and no task here while nothing is asked, except what HTTP/2 needs while a stream is open.

mod body;
mod dial;
mod error;
mod explain;
mod observe;
mod pool;
mod proxy;
mod service;
mod teller;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use teller::Trouble;
use tokio::time::Instant;
use tracing::{info, warn};

pub use error::{ConnectFailure, TransportError};
pub use explain::{Facts, explain};
pub use observe::{Observed, Observer};
pub use proxy::ProxyError;
pub use service::Urgent;

use crate::credentials::{CredentialError, Credentials};
use crate::identity::{ClientIdentity, IdentityError};
use crate::kubeconfig::{CaSource, ClusterAccess, PemSource};
use crate::rate_limit::{Pause, TokenBucket};
use crate::wake::{Wake, Waker};
use crate::{Connections, Now};

/// What a connection says that [`IdentityHandle::close_all`] has ended.
pub(crate) const CLOSED_BY_AGENT: &str = "closed by the agent";

/// How to talk to the API server. Times are bounds, not periods.
#[derive(Clone)]
pub struct ConnectOptions {
    /// Sent with every request.
    pub user_agent: String,
    /// `kubeAPIQPS`: requests a second over time; 0 or less: no limit. Heartbeats and urgent requests are free.
    pub qps: f64,
    /// `kubeAPIBurst`: requests at once.
    pub burst: u32,
    /// For a request with all its retries, and for a watch until it is accepted. The API server's own is 60 s.
    pub request_timeout: Duration,
    /// The same for heartbeats: nodeStatusUpdateFrequency, or the lease's duration when that is less.
    pub heartbeat_timeout: Duration,
    /// For DNS, TCP, proxy and TLS together.
    pub connect_timeout: Duration,
    /// How long a connection with an open request may be silent before the server is asked whether it is there.
    pub keep_alive_interval: Duration,
    /// How long it may take to answer that.
    pub keep_alive_timeout: Duration,
    /// Looks up `HTTPS_PROXY` and its like, for a kubeconfig without proxy-url; as the upstream agent does.
    pub environment: fn(&str) -> Option<String>,
    /// The wall clock, for certificates and plugins.
    pub now: Now,
    /// Told of every request, for metrics.
    pub observer: Observer,
}

impl ConnectOptions {
    /// The defaults, for an agent of this version that speaks `kubernetes` (such as `v1.36.2`).
    pub fn new(version: &str, kubernetes: &str, now: Now) -> Self {
        let machine = rubelet_core::node::info::go_arch();
        Self {
            user_agent: format!(
                "rubelet/{version} ({}/{machine}) kubernetes/{kubernetes}",
                std::env::consts::OS
            ),
            qps: 50.0,
            burst: 100,
            request_timeout: Duration::from_secs(60),
            heartbeat_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            keep_alive_interval: Duration::from_secs(5),
            keep_alive_timeout: Duration::from_secs(3),
            environment: |name| std::env::var(name).ok(),
            now,
            observer: Observer::default(),
        }
    }
}

/// An access that cannot be used as it is. Whether the server answers is not tried here.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Certificate, token or plugin.
    #[error("no credentials for {server}")]
    Credentials {
        /// The server's URL.
        server: String,
        /// Why.
        source: CredentialError,
    },
    /// TLS cannot be set up.
    #[error("no connection to {server} can be made")]
    Tls {
        /// The server's URL.
        server: String,
        /// Why.
        source: ConnectFailure,
    },
    /// The environment names a proxy that cannot be used.
    #[error("no connection to {server} can be made")]
    Proxy {
        /// The server's URL.
        server: String,
        /// Why.
        source: ProxyError,
    },
    /// The User-Agent has characters that cannot be sent.
    #[error("the user agent {0:?} cannot be sent in a header")]
    UserAgent(String),
}

/// Changes who the agent is, and ends connections. Cheap to clone.
#[derive(Clone)]
pub struct IdentityHandle {
    hub: Arc<Hub>,
}

/// What all connections to one server share.
pub(crate) struct Hub {
    access: ClusterAccess,
    credentials: Arc<Credentials>,
    pools: [pool::Pool; 2],
    teller: teller::Teller,
    waker: Waker,
    now: Now,
    observer: Observer,
    /// The server's host with its port, as it is told to the observer.
    host: String,
}

/// Gives clients for the server. Credentials are loaded, so that a wrong file or plugin shows at once; the server is
/// not asked. Must be called inside a tokio runtime.
pub async fn connect(
    access: ClusterAccess,
    options: ConnectOptions,
) -> Result<(Connections, IdentityHandle), ConnectError> {
    let user_agent = http::HeaderValue::from_str(&options.user_agent)
        .map_err(|_| ConnectError::UserAgent(options.user_agent.clone()))?;
    let credentials = Arc::new(Credentials::new(
        access.credentials.clone(),
        cluster_info(&access).await,
        options.now.clone(),
    ));
    let no_credentials = |source| ConnectError::Credentials { server: access.server_url(), source };
    credentials.prepare().await.map_err(no_credentials)?;
    credentials.authorization().await.map_err(no_credentials)?;
    let tls = if access.is_tls() {
        let tls = tls::Tls::new(&access, credentials.clone(), options.now.clone());
        tls.config().await.map_err(|source| ConnectError::Tls { server: access.server_url(), source })?;
        Some(tls)
    } else {
        None
    };
    let proxy = proxy::Proxy::find(&access, options.environment)
        .map_err(|source| ConnectError::Proxy { server: access.server_url(), source })?;
    let dialer = Arc::new(dial::Dialer::new(&access, tls, proxy, credentials.clone(), &options));
    let pools = [pool::Pool::new(dialer.clone()), pool::Pool::new(dialer)];
    let [requests_pool, heartbeats_pool] = pools.clone();
    let namespace = access.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let host = access.server.authority().map_or_else(String::new, |authority| {
        let authority = authority.as_str();
        authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned()
    });
    let hub = Arc::new(Hub {
        access,
        credentials,
        pools,
        teller: teller::Teller::default(),
        waker: Waker::default(),
        now: options.now.clone(),
        observer: options.observer.clone(),
        host,
    });
    let ordinary = service::Lane {
        pool: requests_pool,
        bucket: TokenBucket::new(options.qps, options.burst).map(Arc::new),
        pause: Arc::new(Pause::default()),
        timeout: options.request_timeout,
    };
    let urgent = service::Lane { bucket: None, ..ordinary.clone() };
    let beats = service::Lane {
        pool: heartbeats_pool,
        bucket: None,
        pause: Arc::new(Pause::default()),
        timeout: options.heartbeat_timeout,
    };
    let client = |lane| {
        kube::Client::new(service::ApiService::new(hub.clone(), lane, user_agent.clone()), namespace.clone())
    };
    let connections =
        Connections { requests: client(ordinary), urgent: client(urgent), heartbeats: client(beats) };
    Ok((connections, IdentityHandle { hub }))
}

impl IdentityHandle {
    /// Reads certificate and key files again. When they hold another identity, all connections end and the next ones
    /// present it. True when they did.
    pub async fn reload(&self) -> Result<bool, CredentialError> {
        let changed = self.hub.credentials.reload().await?;
        if changed {
            self.close_all();
        }
        Ok(changed)
    }

    /// Ends every connection at once, open watches too. Requests after this one go over new connections.
    pub fn close_all(&self) {
        self.hub.close_all();
    }

    /// Comes with this certificate from now on; all connections end. `pem` holds certificate and key, as
    /// `kubelet-client-current.pem` does.
    pub fn set_client_cert(&self, pem: &[u8]) -> Result<(), IdentityError> {
        self.hub.credentials.set_identity(ClientIdentity::from_pem(pem, pem)?);
        self.close_all();
        Ok(())
    }

    /// When the client certificate ends; none without one.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.hub.credentials.identity().map(|identity| identity.not_after)
    }

    /// The client certificate's common name; none without one.
    pub fn subject(&self) -> Option<String> {
        self.hub.credentials.identity().map(|identity| identity.common_name.clone())
    }

    /// The client certificate in use.
    pub fn identity(&self) -> Option<Arc<ClientIdentity>> {
        self.hub.credentials.identity()
    }

    /// News that the server answers again.
    pub fn wake(&self) -> Wake {
        self.hub.waker.subscribe()
    }

    /// The server these connections lead to.
    pub fn access(&self) -> &ClusterAccess {
        &self.hub.access
    }

    /// What an error means and what to do about it, in whole sentences.
    pub fn explain(&self, error: &kube::Error) -> String {
        self.hub.with_facts(|access, facts| explain(error, access, facts))
    }
}

impl Hub {
    fn close_all(&self) {
        for pool in &self.pools {
            pool.close_all();
        }
    }

    fn with_facts<T>(&self, look: impl FnOnce(&ClusterAccess, &Facts<'_>) -> T) -> T {
        let identity = self.credentials.identity();
        let facts = Facts {
            now: (self.now)(),
            identity: identity.as_deref(),
            certificate: self.credentials.describe_certificate(),
        };
        look(&self.access, &facts)
    }

    /// Tells of a failure that every request has, if it is news.
    fn tell_failure(&self, error: &TransportError) {
        let trouble = Trouble::of(error, explain::is_tls(error));
        if trouble.is_some_and(|trouble| self.teller.is_news(trouble, Instant::now())) {
            self.with_facts(|access, facts| {
                if let Some(text) = explain::transport(error, access, facts) {
                    warn!("{text}");
                }
            });
        }
    }

    /// The same of an answer.
    fn tell_answer(&self, code: http::StatusCode) {
        if code == http::StatusCode::UNAUTHORIZED {
            if self.teller.is_news(Trouble::Unauthorized, Instant::now()) {
                self.with_facts(|access, facts| warn!("{}", explain::unauthorized(access, facts)));
            }
        } else if self.teller.is_over() {
            info!("{} answers again", self.access.server_url());
            self.waker.wake();
        }
    }

    fn count(&self, method: &http::Method, code: Option<u16>, took: Duration, bytes: usize) {
        self.observer.tell(&Observed::Answered { method, host: &self.host, code, took, bytes });
    }

    /// Looks at the certificate files in the background when that is due.
    fn look_at_files(self: &Arc<Self>) {
        if self.credentials.look_is_due() {
            let hub = self.clone();
            tokio::spawn(async move {
                if let Ok(true) = hub.credentials.reload().await {
                    hub.close_all();
                }
            });
        }
    }
}

/// What an exec plugin may learn of the cluster, with the field names of `ExecCredential.spec.cluster`.
async fn cluster_info(access: &ClusterAccess) -> serde_json::Value {
    use base64::Engine as _;
    let mut info = serde_json::json!({ "server": access.server_url() });
    if let Some(name) = &access.tls_server_name {
        info["tls-server-name"] = name.as_str().into();
    }
    if access.insecure_skip_tls_verify {
        info["insecure-skip-tls-verify"] = true.into();
    }
    if let Some(proxy) = &access.proxy_url {
        info["proxy-url"] = proxy.to_string().into();
    }
    let ca = match &access.ca {
        CaSource::System => None,
        CaSource::Pem(PemSource::Data(data)) => Some(data.clone()),
        // An unreadable file is reported when the connection is set up.
        CaSource::Pem(PemSource::File(path)) => tokio::fs::read(path).await.ok(),
    };
    if let Some(ca) = ca {
        info["certificate-authority-data"] = base64::engine::general_purpose::STANDARD.encode(ca).into();
    }
    info
}
