//! The first certificate of a node, and the kubeconfig that names it (upstream `bootstrap.LoadClientCert`).
//!
//! Owns the way from the bootstrap credential to a kubeconfig of the node's own. Goes on trying for as long as
//! the server or an administrator may still come round, and ends with an error only where this machine's own
//! files are in the way. Never renews: `rotation` does. Called once at start, when `--bootstrap-kubeconfig` is
//! given and `needed` says why.
//!
//! - `kubeconfig_file`: the kubeconfig it writes

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use rubelet_core::certificates::{
    CertificatePurpose, ExistingIdentity, WantedCertificate, bootstrap_reason, jitter_fraction, retry_delay,
};
use tokio::time::{Instant, sleep, timeout};

use crate::Now;
use crate::cert_store::{CertPair, CertStore, PairError, StoreError, chain_not_after};
use crate::csr::{CsrError, Patience, PrivateKey, RequestError, generate_csr, obtain};
use crate::kubeconfig::{ClusterAccess, PemSource};
use crate::watch::chain;

mod kubeconfig_file;
mod repeat;
#[cfg(test)]
mod tests;

pub use kubeconfig_file::WriteKubeconfigError;
pub(crate) use repeat::Repeats;

/// How long one round of waiting for the server to be reachable lasts (upstream `waitForServer`).
const REACH_ROUND: Duration = Duration::from_secs(60);
/// Longest time one look at the server may take.
const REACH_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between looks at the server.
const REACH_PAUSE: Duration = Duration::from_secs(2);
/// How long one request is waited for before it is sent again.
const REQUEST_LIMIT: Duration = Duration::from_secs(3600);

/// Any error of the shell's.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Reads the bootstrap kubeconfig and connects with it. Called for every attempt, so that a renewed token counts.
pub type BootstrapConnect =
    Arc<dyn Fn() -> BoxFuture<'static, Result<(kube::Client, ClusterAccess), BoxError>> + Send + Sync>;

/// What bootstrap needs to know.
#[derive(Clone)]
pub struct BootstrapParams {
    /// The node's name.
    pub node_name: String,
    /// `--cert-dir`.
    pub cert_dir: PathBuf,
    /// `--kubeconfig`: where the kubeconfig of the node is written.
    pub kubeconfig: PathBuf,
    /// `--bootstrap-kubeconfig`, for messages; `connect` reads it.
    pub bootstrap_kubeconfig: PathBuf,
    /// Connects with the bootstrap credential.
    pub connect: BootstrapConnect,
    /// Tells the time.
    pub now: Now,
}

/// Why bootstrap cannot succeed on this machine.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The certificate directory is in the way.
    #[error("the certificate directory cannot be used; see --cert-dir")]
    Store(#[from] StoreError),
    /// The kubeconfig cannot be written.
    #[error("the kubeconfig of the node cannot be written; see --kubeconfig")]
    Kubeconfig(#[from] WriteKubeconfigError),
    /// The node's name cannot be in a certificate.
    #[error("no certificate can be requested for this node; see --hostname-override")]
    Request(#[from] CsrError),
}

/// Why one attempt came to nothing.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Local(#[from] BootstrapError),
    #[error("cannot connect with the bootstrap credential")]
    Connect(#[source] BoxError),
    #[error("the API server {server} is not reachable")]
    Unreachable {
        server: String,
        #[source]
        source: Option<Box<kube::Error>>,
    },
    #[error(
        "the API server does not accept the bootstrap credential of {}: a token may have expired; \
         make a new one (kubeadm token create) and write it to that file", path.display()
    )]
    Unauthorized {
        path: PathBuf,
        #[source]
        source: RequestError,
    },
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Why the kubeconfig at `path` will not do, as words for a log line; nothing when it names a client certificate
/// that is whole and not expired.
pub fn needed(path: &Path, now: Timestamp) -> Option<String> {
    bootstrap_reason(&existing_identity(path), now)
}

/// What the kubeconfig at `path` offers.
fn existing_identity(path: &Path) -> ExistingIdentity {
    if path.try_exists().is_ok_and(|exists| !exists) {
        return ExistingIdentity::NoKubeconfig;
    }
    let access = match ClusterAccess::load(path) {
        Ok(access) => access,
        Err(error) => return ExistingIdentity::Unusable(chain(&error)),
    };
    let Some((certificate, key)) = &access.credentials.client_certificate else {
        return ExistingIdentity::NoCertificate;
    };
    let unusable = |error: &(dyn std::error::Error + 'static)| ExistingIdentity::Unusable(chain(error));
    let (certificate, key) = match (read(certificate), read(key)) {
        (Ok(certificate), Ok(key)) => (certificate, key),
        (Err(error), _) | (_, Err(error)) => return unusable(&error),
    };
    let whole = PrivateKey::from_pem(&key)
        .map_err(PairError::from)
        .and_then(|key| CertPair::from_pem_and_key(&certificate, key))
        .and_then(|_| chain_not_after(&certificate));
    match whole {
        Ok(not_after) => ExistingIdentity::Certificate { not_after },
        Err(error) => unusable(&error),
    }
}

fn read(source: &PemSource) -> Result<Vec<u8>, StoreError> {
    match source {
        PemSource::Data(data) => Ok(data.clone()),
        PemSource::File(path) => std::fs::read(path).map_err(|source| StoreError::Io {
            action: "read",
            path: path.clone(),
            source,
        }),
    }
}

/// Gets the node's first certificate and writes its kubeconfig; does not look whether that is needed.
///
/// Tries for as long as it takes. Cancel safe: what was begun is found by the next call.
pub async fn bootstrap(params: &BootstrapParams) -> Result<(), BootstrapError> {
    let store = CertStore::open(&params.cert_dir, CertificatePurpose::Client)?;
    let mut said = Repeats::default();
    let (mut failures, mut reuse_current) = (0_u32, true);
    loop {
        match attempt(params, &store, reuse_current).await {
            Ok(()) => return Ok(()),
            Err(AttemptError::Local(error)) => return Err(error),
            Err(error) => {
                if matches!(&error, AttemptError::Request(request) if request.wants_new_key()) {
                    reuse_current = false;
                    store.blocking(CertStore::discard_pending_key).await?;
                }
                failures = failures.saturating_add(1);
                let text = chain(&error);
                if said.is_news(&text, Instant::now()) {
                    tracing::warn!(failures, "no certificate for this node yet, goes on trying: {text}");
                }
            }
        }
        sleep(retry_delay(failures, jitter_fraction(&params.node_name, u64::from(failures)))).await;
    }
}

/// `reuse_current` says that the key of a certificate that is still good may be used again, as upstream does: when
/// only the kubeconfig was lost, the request of that time is found and answers at once.
async fn attempt(
    params: &BootstrapParams,
    store: &CertStore,
    reuse_current: bool,
) -> Result<(), AttemptError> {
    let (client, access) = (params.connect)().await.map_err(AttemptError::Connect)?;
    let now = (params.now)();
    let key = store.blocking(move |store| match store.load() {
        Ok(pair) if reuse_current && !pair.facts().validity.is_expired(now) => Ok(pair.key().clone()),
        _ => store.pending_key(),
    });
    let key = key.await.map_err(BootstrapError::Store)?;
    wait_for_server(&client, &access, &params.node_name).await?;
    let wanted = WantedCertificate::node(&params.node_name);
    let request =
        generate_csr(&key, &wanted, CertificatePurpose::Client, None).map_err(BootstrapError::Request)?;
    let obtained = obtain(&client, &request, &key, Patience::for_at_most(REQUEST_LIMIT), &*params.now).await;
    let pair = obtained.map_err(|source| match source.is_unauthorized() {
        true => AttemptError::Unauthorized { path: params.bootstrap_kubeconfig.clone(), source },
        false => AttemptError::Request(source),
    })?;
    let (now, kubeconfig) = ((params.now)(), params.kubeconfig.clone());
    let not_after = pair.facts().validity.not_after;
    let kept = store.blocking(move |store| -> Result<(), BootstrapError> {
        store.store(&pair, now)?;
        kubeconfig_file::write(&kubeconfig, &access, &store.current_path())?;
        // Last: until the kubeconfig is there, another start asks again, and with this key finds the answer.
        Ok(store.discard_pending_key()?)
    });
    kept.await?;
    tracing::info!(kubeconfig = %params.kubeconfig.display(), %not_after, "the node has its first certificate");
    Ok(())
}

/// Looks until the server answers at all, for at most one round. Any answer will do: whether the credential is
/// good shows with the request.
async fn wait_for_server(
    client: &kube::Client,
    access: &ClusterAccess,
    node_name: &str,
) -> Result<(), AttemptError> {
    let end = Instant::now() + REACH_ROUND;
    let mut source = None;
    let mut looks = 0_u64;
    while Instant::now() < end {
        let mut request = http::Request::new(Vec::new());
        *request.uri_mut() = http::Uri::from_static("/healthz");
        match timeout(REACH_TIMEOUT, client.request_text(request)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code < 500 => return Ok(()),
            Ok(Err(error)) => source = Some(Box::new(error)),
            Err(_) => {}
        }
        looks += 1;
        sleep(REACH_PAUSE.mul_f64(1.0 + 0.2 * jitter_fraction(node_name, looks))).await;
    }
    Err(AttemptError::Unreachable { server: access.server.to_string(), source })
}
