//! The server on a real socket: HTTP/1.1 and HTTP/2, plain or over TLS, and the kubeconfigs to reach it.
//!
//! For tests of connections and identity; everything else is tested in process.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rubelet_localapi::auth::peer::{Shown, shows};
use rubelet_localapi::engine::Stored;
use rubelet_localapi::pki::LIFETIME;
use rubelet_server::listen::Peer;
use rubelet_server::tls::{ClientCa, ServingCert, Tls, TlsSettings};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::fault::Outage;
use super::gate::Gated;
use super::{Disconnected, FakeApi, Identity, User};

/// A server on a socket of this machine. Dropping it closes the socket and its connections.
#[derive(Debug)]
pub struct Served {
    /// Such as `https://127.0.0.1:40123`.
    pub url: String,
    /// The authority of the server's certificate; empty without TLS.
    pub ca_pem: String,
    dir: PathBuf,
    api: FakeApi,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
        self.api.inner.gate.cut();
    }
}

impl std::fmt::Debug for FakeApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeApi")
    }
}

/// How connections are received.
enum Door {
    Plain(User),
    Tls(Tls, ClientCa),
}

impl FakeApi {
    /// Serves plain HTTP on a free port of the loopback, where everyone is this user.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn serve_plain(&self, user: &str) -> io::Result<Served> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        Ok(self.open(listener, Door::Plain(User::named(user)), url, String::new(), PathBuf::new()))
    }

    /// Serves TLS on a free port of the loopback. Kubeconfigs are written into `dir`. The clock should be
    /// [`super::Options::wall_clock`], since clients check certificates against theirs.
    ///
    /// # Errors
    /// When no port can be had or the certificates cannot be made.
    pub async fn serve_tls(&self, dir: &Path) -> io::Result<Served> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://{}", listener.local_addr()?);
        let now = self.inner.now();
        let ca = self.inner.state().signer.ca(now);
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let names = ["localhost", "kubernetes.default.svc"];
        let identity = ca.server(&names, &addresses, now, LIFETIME).map_err(io::Error::other)?;
        let clients = ClientCa::from_pem(ca.pem().as_bytes()).map_err(io::Error::other)?;
        let shown = ServingCert::none();
        let pair = shown.replace(identity.cert_pem.as_bytes(), identity.key_pem.as_bytes());
        pair.map_err(io::Error::other)?;
        let tls = Tls::new(&TlsSettings::default(), shown, clients.clone());
        let (tls, _) = tls.map_err(io::Error::other)?;
        Ok(self.open(listener, Door::Tls(tls, clients), url, ca.pem().to_owned(), dir.to_owned()))
    }

    fn open(&self, listener: TcpListener, door: Door, url: String, ca_pem: String, dir: PathBuf) -> Served {
        let accepted = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(self.clone(), listener, Arc::new(door), accepted.clone()));
        Served { url, ca_pem, dir, api: self.clone(), accepted, task }
    }

    /// Lets the bearer of `token` (of the form `abcdef.0123456789abcdef`) ask for certificates.
    pub fn add_bootstrap_token(&self, token: &str) {
        self.inner.state().bootstrap_tokens.insert(token.to_owned());
    }

    /// No bearer of the token is known any more.
    pub fn remove_bootstrap_token(&self, token: &str) {
        self.inner.state().bootstrap_tokens.remove(token);
    }
}

async fn accept(api: FakeApi, listener: TcpListener, door: Arc<Door>, accepted: Arc<AtomicUsize>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else { return };
        accepted.fetch_add(1, Ordering::SeqCst);
        let outage = api.inner.state().outage;
        if outage == Outage::Refuse {
            continue;
        }
        // Small frames of watches are to go out at once; a socket that cannot do that is slower, not wrong.
        let _ = stream.set_nodelay(true);
        let (stream, cut) = api.inner.gate.admit(stream);
        if outage == Outage::Hang {
            api.inner.gate.freeze();
        }
        tokio::spawn(receive(api.clone(), stream, from, cut, door.clone()));
    }
}

async fn receive(
    api: FakeApi,
    stream: Gated,
    from: SocketAddr,
    mut cut: tokio::sync::watch::Receiver<u64>,
    door: Arc<Door>,
) {
    let served = async {
        match door.as_ref() {
            Door::Plain(user) => converse(&api, stream, Client::Trusted(user.clone())).await,
            Door::Tls(tls, clients) => {
                let Ok((stream, peer)) = tls.accept(stream, from).await else { return };
                converse(&api, stream, Client::Shows(peer, clients.clone())).await;
            }
        }
    };
    // Cancel safe: a cut drops the connection, which is what it is for.
    tokio::select! { biased;
        _ = cut.changed() => {}
        () = served => {}
    }
}

/// Whose a connection is.
enum Client {
    /// Everyone on it is this user.
    Trusted(User),
    /// Whoever the certificate of the handshake or a request's token names.
    Shows(Peer, ClientCa),
}

impl Client {
    /// The user of a request on this connection; `None` when what it shows is not valid.
    fn user(&self, api: &FakeApi, headers: &HeaderMap) -> Option<User> {
        let (peer, clients) = match self {
            Self::Trusted(user) => return Some(user.clone()),
            Self::Shows(peer, clients) => (peer, clients),
        };
        match shows(peer, clients, headers, api.inner.now()) {
            Shown::Certificate(user) => Some(user.into()),
            Shown::Token(token) if api.inner.state().bootstrap_tokens.contains(token) => {
                let id = token.split('.').next().unwrap_or_default();
                Some(User::named(&format!("system:bootstrap:{id}")))
            }
            Shown::Token(token) => api.bearer(token),
            Shown::Nothing => Some(User::named("system:anonymous")),
            Shown::Invalid => None,
        }
    }
}

impl FakeApi {
    /// Who the bearer of a service account's token is, while it and what it is bound to last.
    pub(crate) fn bearer(&self, token: &str) -> Option<User> {
        let shown = Stored::new(self.inner.engine.store());
        self.inner.authority.bearer_of(token, &shown).ok().map(User::from)
    }
}

/// Unlike the engine's own, a connection that a fault can break in the middle of a request.
async fn converse(
    api: &FakeApi,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Client,
) {
    let client = Arc::new(client);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (api, client) = (api.clone(), client.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(|_| Disconnected)?.to_bytes();
            let request = http::Request::from_parts(parts, body);
            match client.user(&api, request.headers()) {
                Some(user) => api.handle(&user, request).await,
                None => Ok(api.unauthenticated(&request).await),
            }
        }
    });
    // How a connection ends is for the client to notice.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

impl Served {
    /// How many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Closes every open connection.
    pub fn cut(&self) {
        self.api.inner.gate.cut();
    }

    /// Makes every open connection silent, as a cable pulled out does; new ones work.
    pub fn freeze(&self) {
        self.api.inner.gate.freeze();
    }

    /// A kubeconfig of a node with a client certificate that lasts a year.
    pub fn node_kubeconfig(&self, node: &str) -> PathBuf {
        self.node_kubeconfig_lasting(node, LIFETIME)
    }

    /// A kubeconfig of a node with a client certificate that lasts so long; not at all with zero.
    pub fn node_kubeconfig_lasting(&self, node: &str, lifetime: Duration) -> PathBuf {
        self.kubeconfig(&User::named(&format!("system:node:{node}")), lifetime)
    }

    /// A kubeconfig of the cluster's administrator.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.kubeconfig(&User::named("admin"), LIFETIME)
    }

    fn kubeconfig(&self, user: &User, lifetime: Duration) -> PathBuf {
        let identity = self.identity(user, lifetime);
        let user_part = format!(
            "    client-certificate-data: {}\n    client-key-data: {}\n",
            STANDARD.encode(&identity.cert_pem),
            STANDARD.encode(&identity.key_pem)
        );
        self.write(&format!("{}.conf", user.name.replace(':', "-")), &user_part)
    }

    /// A client certificate for a user, signed by the cluster's authority.
    pub fn identity(&self, user: &User, lifetime: Duration) -> Identity {
        let now = self.api.inner.now();
        let ca = self.api.inner.state().signer.ca(now);
        let identity = ca.client(&user.name, &user.groups, now, lifetime);
        identity.unwrap_or_else(|e| panic!("no client certificate: {e}"))
    }

    /// A kubeconfig with a bootstrap token, which is made known to the server.
    pub fn bootstrap_kubeconfig(&self) -> PathBuf {
        let token = "abcdef.0123456789abcdef";
        self.api.add_bootstrap_token(token);
        self.token_kubeconfig("bootstrap.conf", token)
    }

    /// A kubeconfig with any bearer token, under this file name.
    pub fn token_kubeconfig(&self, file: &str, token: &str) -> PathBuf {
        self.write(file, &format!("    token: {token}\n"))
    }

    fn write(&self, file: &str, user_part: &str) -> PathBuf {
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: fake\n  cluster:\n    server: {}\n    \
             certificate-authority-data: {}\nusers:\n- name: me\n  user:\n{user_part}contexts:\n- name: me@fake\n  \
             context:\n    cluster: fake\n    user: me\ncurrent-context: me@fake\n",
            self.url,
            STANDARD.encode(&self.ca_pem),
        );
        let path = self.dir.join(file);
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        path
    }
}
