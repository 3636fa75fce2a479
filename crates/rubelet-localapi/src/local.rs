//! A local API, put together: store, keys, engine, controllers, listener.
//!
//! Called by whoever runs one: `rubelet local`, and tests.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use rubelet_apimachinery::strategy::Settings;
use rubelet_apimachinery::user::MASTERS;
use rubelet_apimachinery::{ApiError, User, status};
use rubelet_server::listen::{Front, ListenError, Listener, Peer};
use rubelet_server::tls::{CaError, CertError, ClientCa, ServingCert, Tls, TlsError, TlsSettings};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::auth::authority::Authority;
use crate::auth::authorize::Rules;
use crate::auth::tokens::{KeyError, TokenKey};
use crate::controllers::{self, Advertised, ControllerOptions, Folders};
use crate::engine::{self, AdmitAll, Api, ApiOptions, Now, Stored};
use crate::node::{Body, NodeStreams};
use crate::pki::files::{self, FilesError};
use crate::pki::renewal::Renewal;
use crate::pki::{LIFETIME, PkiError};
use crate::store::{Backup, BackupError, OpenError, Store, StoreOptions};

/// Names by which the server is known besides its addresses.
const NAMES: [&str; 5] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];
/// How the owner of the machine is called.
const OWNER: &str = "kubernetes-admin";

/// The most that a request for a backup has to say.
const BACKUP_REQUEST: usize = 64 << 10;

/// A POST here with `{"path": …}` makes a copy of the store in a new file of the machine; only the owner may.
pub const BACKUP_PATH: &str = "/rubelet/backup";

/// What a local API is told.
pub struct LocalOptions {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where it listens; port 0 takes one that is free.
    pub address: SocketAddr,
    /// Where pods are told to connect, if not to the address.
    pub advertise: Option<IpAddr>,
    /// Where the owner's kubeconfig is written.
    pub kubeconfig: PathBuf,
    /// Who may do what.
    pub rules: Rules,
    /// Cluster IPs of Services.
    pub service_network: (Ipv4Addr, u8),
    /// The name of this machine's node, and who answers for its containers.
    pub node: (String, Arc<dyn NodeStreams>),
    /// Makes volumes.
    pub folders: Option<Arc<dyn Folders>>,
    /// The machine's clock.
    pub now: Now,
}

/// Why there is no local API.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Keys or certificates cannot be used.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The key for tokens cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A certificate cannot be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The address cannot be had.
    #[error("cannot listen on {address} (--bind-address and --secure-port choose another)")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The server's certificate and key do not go together.
    #[error("the server's certificate cannot be used")]
    ServerCert(#[from] CertError),
    /// The authority's certificate.
    #[error("the certificate of this server's authority cannot be used")]
    Ca(#[from] CaError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What every server has could not be written.
    #[error(transparent)]
    Prepare(#[from] controllers::StartError),
    /// The kubeconfig cannot be written.
    #[error("cannot write the kubeconfig {0}")]
    Kubeconfig(PathBuf, #[source] io::Error),
    /// A thread of this process ended.
    #[error("cannot start the local API")]
    Thread(#[source] tokio::task::JoinError),
}

impl From<ListenError> for LocalError {
    fn from(ListenError { address, source, .. }: ListenError) -> Self {
        Self::Bind { address, source }
    }
}

/// A local API that listens and is not served yet.
pub struct LocalApi {
    api: Api,
    listener: Listener,
    authority: Arc<Authority>,
    clients: ClientCa,
    controllers: ControllerOptions,
    renewal: Renewal,
    stopping: CancellationToken,
    kubeconfig: PathBuf,
}

/// Where the store of a data folder is.
pub fn store_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

/// Where the authority and the keys of a data folder are.
pub fn pki_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("pki")
}

impl LocalApi {
    /// Opens or makes everything in the data folder, and binds the address. Clients may connect from then on and are
    /// answered once [`Self::run`] does.
    ///
    /// # Errors
    /// [`LocalError`].
    pub async fn open(options: LocalOptions) -> Result<Self, LocalError> {
        let LocalOptions {
            data_dir,
            address,
            advertise,
            kubeconfig,
            rules,
            service_network,
            node,
            folders,
            now,
        } = options;
        let advertised = advertise.unwrap_or(address.ip());
        let (folder, clock) = (data_dir.clone(), now.clone());
        // File work, with fsyncs: not on a thread of the runtime.
        let opened = tokio::task::spawn_blocking(move || {
            let store = Store::open(&store_dir(&folder), StoreOptions::new(clock.clone()))?;
            let mut addresses =
                vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST), advertised];
            if !address.ip().is_unspecified() {
                addresses.push(address.ip());
            }
            addresses.sort();
            addresses.dedup();
            let files = files::open(&pki_dir(&folder), &NAMES, &addresses, clock())?;
            Ok::<_, LocalError>((store, files, addresses))
        });
        let (store, files, addresses) = opened.await.map_err(LocalError::Thread)??;
        let clients = ClientCa::from_pem(files.ca.pem().as_bytes())?;
        let shown = ServingCert::none();
        shown.replace(files.server.cert_pem.as_bytes(), files.server.key_pem.as_bytes())?;
        // With defaults there is nothing to warn of.
        let (tls, _) = Tls::new(&TlsSettings::default(), shown.clone(), clients.clone())?;
        let listener = Listener::bind("the local API", address, Some(tls)).await?;
        let port = listener.address().port();
        let url = format!("https://{}", SocketAddr::new(advertised, port));
        let random = engine::system();
        let key = TokenKey::new(&files.token_key)?;
        let authority = Arc::new(Authority::new(key, now.clone(), random.clone(), url.clone()));
        let settings = Settings { service_network, root_ca: files.ca.pem().to_owned() };
        let stopping = CancellationToken::new();
        let name = node.0.clone();
        let api = Api::new(ApiOptions {
            store,
            now: now.clone(),
            settings: settings.clone(),
            random,
            serve_on_request: Default::default(),
            node: Some(node),
            reviews: authority.clone(),
            authorize: Arc::new(rules),
            admit: Arc::new(AdmitAll),
            stopping: stopping.clone(),
        });
        controllers::prepare(&api, &settings, Some(Advertised { address: advertised, port })).await?;
        let owner = files.ca.client(OWNER, &[MASTERS.to_owned()], now(), LIFETIME)?;
        let text = files::kubeconfig(&url, files.ca.pem(), OWNER, &owner);
        let path = kubeconfig.clone();
        tokio::task::spawn_blocking(move || {
            files::write_kubeconfig(&path, &text).map_err(|e| LocalError::Kubeconfig(path, e))
        })
        .await
        .map_err(LocalError::Thread)??;
        let controllers = ControllerOptions { node: name, settings, folders };
        let renewal = Renewal {
            dir: pki_dir(&data_dir),
            names: &NAMES,
            addresses,
            shown,
            owner: (OWNER, vec![MASTERS.to_owned()]),
            kubeconfig: kubeconfig.clone(),
            url,
            written: now(),
            now,
        };
        Ok(Self { api, listener, authority, clients, controllers, renewal, stopping, kubeconfig })
    }

    /// The server itself, for clients in this process.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Where the owner's kubeconfig is.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Answers clients and runs the controllers until `end`; then open requests have a moment to finish.
    pub async fn run(self, end: impl Future<Output = ()>) {
        info!(address = %self.address(), kubeconfig = %self.kubeconfig.display(), "the local API answers");
        let front =
            Arc::new(Door { api: self.api.clone(), authority: self.authority, clients: self.clients });
        let mut serving = std::pin::pin!(self.listener.serve(front, self.stopping.clone()));
        // Cancel safe: the listener is polled on, the controllers are not needed any more.
        tokio::select! { biased;
            () = end => {}
            () = &mut serving => return,
            // The store is closed, which only its owner does; nothing is left to be served.
            () = controllers::run(self.api, self.controllers) => {}
            () = self.renewal.run() => {}
        }
        self.stopping.cancel();
        serving.await;
    }
}

/// Knows who asks before the engine does.
struct Door {
    api: Api,
    authority: Arc<Authority>,
    clients: ClientCa,
}

impl Front for Door {
    fn answer<'a>(
        &'a self,
        peer: &'a Peer,
        request: http::Request<Body>,
    ) -> BoxFuture<'a, http::Response<Body>> {
        let user = self.authority.user(peer, &self.clients, request.headers(), &Stored(self.api.store()));
        match user.and_then(|user| acts_as_itself(request.headers()).map(|()| user)) {
            Ok(user) if request.uri().path() == BACKUP_PATH => self.backup(user, request).boxed(),
            Ok(user) => self.api.handle(user, request).boxed(),
            Err(refusal) => {
                let response = engine::refusal(&refusal);
                async move { response }.boxed()
            }
        }
    }
}

/// Nobody acts as somebody else here. Who asks for it is told so: what was meant to be done with the rights of another
/// is not to be done with more.
fn acts_as_itself(headers: &http::HeaderMap) -> Result<(), ApiError> {
    if headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        let message = "this node's local API does not impersonate users: ask as yourself";
        return Err(ApiError::new(403, "Forbidden", message));
    }
    Ok(())
}

impl Door {
    async fn backup(&self, user: User, request: http::Request<Body>) -> http::Response<Body> {
        match self.make_backup(&user, request).await {
            Ok(made) => {
                let text = json!({"revision": made.revision, "objects": made.objects}).to_string();
                let body = http_body_util::Full::new(Bytes::from(text)).map_err(|never| match never {});
                let mut response = http::Response::new(body.boxed_unsync());
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Err(refusal) => engine::refusal(&refusal),
        }
    }

    async fn make_backup(&self, user: &User, request: http::Request<Body>) -> Result<Backup, ApiError> {
        if !user.is_in(MASTERS) {
            return Err(ApiError::new(403, "Forbidden", "backups are for the owner of this machine only"));
        }
        if request.method() != http::Method::POST {
            return Err(ApiError::new(405, "MethodNotAllowed", "backups are made by POST"));
        }
        let limited = http_body_util::Limited::new(request.into_body(), BACKUP_REQUEST).collect().await;
        let bytes = limited.map_err(|e| status::bad_request(e.to_string()))?.to_bytes();
        let asked: Value = serde_json::from_slice(&bytes).map_err(|e| status::bad_request(e.to_string()))?;
        let path = PathBuf::from(asked["path"].as_str().unwrap_or_default());
        if !path.is_absolute() {
            return Err(status::bad_request("path has to be the absolute path of a file to be made"));
        }
        let store = self.api.store().clone();
        let made = tokio::task::spawn_blocking(move || store.backup(&path)).await;
        made.map_err(status::internal)?.map_err(|problem| match problem {
            BackupError::Exists { .. } => ApiError::new(409, "AlreadyExists", problem.to_string()),
            BackupError::Write { ref source, .. } => status::internal(format!("{problem}: {source}")),
            BackupError::Store(_) => status::internal(problem),
        })
    }
}
