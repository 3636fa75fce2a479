//! What the kubelet API shows over TLS and whom it believes: where both come from, and how they stay current.
//!
//! Owns `kubelet.crt` and `kubelet.key` under `--cert-dir` when nobody gave a certificate, and through
//! `rubelet_apiclient` the `kubelet-server-*.pem` files of certificates that were asked for. Never writes files that the
//! configuration names. No file can keep the agent from starting: while something cannot be used, what worked before
//! is used, handshakes fail, or nobody is known by a certificate; the log says which, and a file that is mended is
//! taken up at once. Called once by the wiring, which spawns the task.
//!
//! - `follow`: looks at files again when they may have changed
//! - `pair`: certificate and key in two files, given or made
//! - `bootstrap`: certificates that the API server signs (`serverTLSBootstrap`)
//! - `authorities`: `clientCAFile`

mod authorities;
mod bootstrap;
mod follow;
mod pair;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rubelet_apiclient::Now;
use rubelet_apiclient::rotation::RotationStatus;
use rubelet_config::{FeatureGates, Gate, KubeletConfiguration};
use rubelet_server::tls::{ClientCa, ServingCert, Tls, TlsError, TlsSettings};
use tokio::sync::watch;
use tracing::warn;

use crate::clock::Clock;
use crate::fs_pool::FsPool;
use crate::node_view::NodeView;
use authorities::Authorities;
use bootstrap::Bootstrap;
use pair::{OwnPair, PairFiles};

/// Where certificates are kept when nobody says (upstream `--cert-dir`).
pub const DEFAULT_CERT_DIR: &str = "/var/lib/kubelet/pki";

/// What is known when the agent is put together.
pub struct ServingParams<'a> {
    /// Everything that is configured.
    pub config: &'a KubeletConfiguration,
    /// `--cert-dir`.
    pub cert_dir: &'a Path,
    /// The node's name.
    pub node_name: &'a str,
    /// Addresses of the node that are known already.
    pub node_ips: &'a [IpAddr],
    /// The Node, whose addresses a certificate is asked for.
    pub node: NodeView,
    /// What a certificate is asked for with; without an API server nothing.
    pub client: Option<kube::Client>,
    /// Tells the time.
    pub clock: Clock,
    /// Does what touches files.
    pub fs: FsPool,
}

/// What it takes to serve.
pub struct Serving {
    /// Receives clients.
    pub tls: Tls,
    /// What is shown; replaced by the task.
    pub cert: ServingCert,
    /// Judges what clients show; replaced by the task.
    pub clients: ClientCa,
    /// What is known about a certificate that the API server signs: for
    /// `kubelet_certificate_manager_server_ttl_seconds` and its like.
    pub status: watch::Receiver<RotationStatus>,
    /// Keeps all of it current, for ever.
    pub task: BoxFuture<'static, ()>,
}

/// Settings that cannot be served with.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// Versions, suites and curves.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Half of a pair.
    #[error("tlsCertFile and tlsPrivateKeyFile belong together: {0} is not set")]
    HalfAPair(&'static str),
}

/// Reads what there is, makes what nobody gave, and says what is wrong with it.
///
/// # Errors
/// [`ServingError`]: only for settings; what is wrong with files is told and does not last.
pub async fn prepare(params: ServingParams<'_>) -> Result<Serving, ServingError> {
    let ServingParams { config, cert_dir, node_name, node_ips, node, client, clock, fs } = params;
    let gates = FeatureGates::from_settings(&config.feature_gates).0;
    let given = given(config)?;
    let (cert, clients) = (ServingCert::none(), ClientCa::none());
    let (tls, warnings) = Tls::new(&settings(config), cert.clone(), clients.clone())?;
    for warning in warnings {
        warn!("{warning}");
    }
    let (publish, status) = watch::channel(RotationStatus::default());
    let asks = config.server_tls_bootstrap && gates.enabled(Gate::RotateKubeletServerCertificate);
    if asks && client.is_none() {
        warn!(
            "serverTLSBootstrap: there is no API server to ask for a certificate: the kubelet API shows a self-signed one"
        );
    }
    let now: Now = {
        let clock = clock.clone();
        Arc::new(move || clock.now())
    };
    let keep_cert = if asks && client.is_some() {
        let bootstrap = Bootstrap {
            cert_dir: cert_dir.to_owned(),
            node_name: node_name.to_owned(),
            dns_only: gates.enabled(Gate::AllowDNSOnlyNodeCSR),
            given,
            cert: cert.clone(),
            fs: fs.clone(),
            now,
        };
        bootstrap.begin().await;
        bootstrap.run(node, client, publish).boxed()
    } else {
        let (files, reload) = match given {
            Some((certificate, key)) => {
                let reload = gates.enabled(Gate::ReloadKubeletServerCertificateFile);
                (PairFiles::given(certificate, key, cert.clone(), fs.clone()), reload)
            }
            None => {
                let own = OwnPair::new(cert_dir, node_name, &own_addresses(config, node_ips), now);
                (PairFiles::own(own, cert.clone(), fs.clone()), true)
            }
        };
        follow::begin(files, fs.clone(), reload).await
    };
    let ca_file = &config.authentication.x509.client_ca_file;
    let keep_clients = if ca_file.is_empty() {
        std::future::pending().boxed()
    } else {
        let file = Authorities::new(PathBuf::from(ca_file), clients.clone(), fs.clone());
        follow::begin(file, fs, gates.enabled(Gate::ReloadKubeletClientCAFile)).await
    };
    let task = async move {
        tokio::join!(keep_cert, keep_clients);
    };
    Ok(Serving { tls, cert, clients, status, task: task.boxed() })
}

/// Where a self-signed certificate is good for: the node's addresses, and where the port listens.
fn own_addresses(config: &KubeletConfiguration, node_ips: &[IpAddr]) -> Vec<IpAddr> {
    let mut addresses = node_ips.to_vec();
    let listens = config.address.parse().ok().filter(|address: &IpAddr| !address.is_unspecified());
    addresses.extend(listens.filter(|address| !node_ips.contains(address)));
    addresses
}

/// What the configuration says of versions, suites and curves.
fn settings(config: &KubeletConfiguration) -> TlsSettings {
    TlsSettings {
        min_version: config.tls_min_version.clone(),
        cipher_suites: config.tls_cipher_suites.clone(),
        curves: config.tls_curve_preferences.clone(),
    }
}

/// The files that the configuration names. Upstream takes half a pair and serves nothing.
fn given(config: &KubeletConfiguration) -> Result<Option<(PathBuf, PathBuf)>, ServingError> {
    match (config.tls_cert_file.as_str(), config.tls_private_key_file.as_str()) {
        ("", "") => Ok(None),
        ("", _) => Err(ServingError::HalfAPair("tlsCertFile")),
        (_, "") => Err(ServingError::HalfAPair("tlsPrivateKeyFile")),
        (certificate, key) => Ok(Some((certificate.into(), key.into()))),
    }
}
