//! Who this node is to the API server: the kubeconfig, the first certificate by TLS bootstrap, and its renewal. Joins
//! what `rubelet_apiclient` offers with the node's files; a new certificate ends the connections of the old one.

use std::convert::Infallible;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rubelet_apiclient::bootstrap::{BootstrapError, BootstrapParams, bootstrap, needed};
use rubelet_apiclient::cert_store::{CertPair, CertStore, StoreError};
use rubelet_apiclient::connection::{ConnectError, ConnectOptions, IdentityHandle, connect};
use rubelet_apiclient::csr::PrivateKey;
use rubelet_apiclient::identity::IdentityError;
use rubelet_apiclient::kubeconfig::{ClusterAccess, KubeconfigError, PemSource};
use rubelet_apiclient::rotation::{self, RotationParams, RotationStatus};
use rubelet_apiclient::{Connections, Now};
use rubelet_core::certificates::{CertificateFacts, CertificatePurpose, WantedCertificate};
use tokio::sync::watch;
use tracing::{info, warn};

use super::ApiFiles;

/// How long a look at a broken credential lasts before the next one.
const RETRY: Duration = Duration::from_secs(10);

/// Why the API server cannot be reached with the files there are.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The kubeconfig.
    #[error("--kubeconfig cannot be used")]
    Kubeconfig(#[from] KubeconfigError),
    /// What the kubeconfig refers to.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The certificate directory.
    #[error("--cert-dir cannot be used")]
    Store(#[from] StoreError),
    /// The first certificate.
    #[error("this node cannot get its first certificate")]
    Bootstrap(#[from] BootstrapError),
    /// A certificate in the directory.
    #[error("the certificate in --cert-dir cannot be used")]
    Identity(#[from] IdentityError),
}

/// The node's way in.
#[derive(Clone)]
pub(crate) struct Access {
    files: ApiFiles,
    /// `rotateCertificates`.
    rotate: bool,
    node_name: String,
    options: ConnectOptions,
    now: Now,
}

impl Access {
    /// A way in by these files; nothing is read yet.
    pub(crate) fn new(
        files: ApiFiles,
        rotate: bool,
        node_name: &str,
        options: ConnectOptions,
        now: Now,
    ) -> Self {
        Self { files, rotate, node_name: node_name.to_owned(), options, now }
    }

    /// Connects if that needs no bootstrap; `None` when it does, see [`Self::bootstrap_and_connect`].
    ///
    /// # Errors
    /// Files that cannot be used as they are, which nobody but their owner can mend.
    pub(crate) async fn connect_now(&self) -> Result<Option<(Connections, IdentityHandle)>, AccessError> {
        if self.files.bootstrap_kubeconfig.is_some()
            && let Some(reason) = needed(&self.files.kubeconfig, (self.now)())
        {
            info!("this node needs a certificate: {reason}");
            return Ok(None);
        }
        self.connect().await.map(Some)
    }

    /// Gets the first certificate, however long that takes, and connects with it. Cancel-safe: a request that was
    /// sent is found again.
    ///
    /// # Errors
    /// Directories that cannot be written.
    pub(crate) async fn bootstrap_and_connect(&self) -> Result<(Connections, IdentityHandle), AccessError> {
        let Some(bootstrap_kubeconfig) = self.files.bootstrap_kubeconfig.clone() else {
            return self.connect().await;
        };
        bootstrap(&BootstrapParams {
            node_name: self.node_name.clone(),
            cert_dir: self.files.cert_dir.clone(),
            kubeconfig: self.files.kubeconfig.clone(),
            connect: {
                let (path, options) = (bootstrap_kubeconfig.clone(), self.options.clone());
                Arc::new(move || {
                    let (path, options) = (path.clone(), options.clone());
                    Box::pin(async move {
                        let access = ClusterAccess::load(&path)?;
                        let (connections, _) = connect(access.clone(), options).await?;
                        Ok((connections.requests, access))
                    })
                })
            },
            bootstrap_kubeconfig,
            now: self.now.clone(),
        })
        .await?;
        self.connect().await
    }

    async fn connect(&self) -> Result<(Connections, IdentityHandle), AccessError> {
        let access = ClusterAccess::load(&self.files.kubeconfig)?;
        let made = connect(access, self.options.clone()).await?;
        if self.rotate && self.borrowed().is_some() {
            // The kubeconfig holds the certificate the node was installed with; a renewed one is better.
            let store = CertStore::open(&self.files.cert_dir, CertificatePurpose::Client)?;
            if let Ok(renewed) = store.load()
                && !renewed.facts().validity.is_expired((self.now)())
            {
                made.1.set_client_cert(renewed.to_combined_pem().as_bytes())?;
            }
        }
        Ok(made)
    }

    /// Keeps the client certificate fresh, for ever; without `rotateCertificates` does nothing.
    pub(crate) async fn keep_fresh(
        &self,
        connections: Connections,
        identity: IdentityHandle,
        status: watch::Sender<RotationStatus>,
    ) -> Infallible {
        if !self.rotate || identity.identity().is_none() {
            return std::future::pending().await;
        }
        let store = loop {
            match CertStore::open(&self.files.cert_dir, CertificatePurpose::Client) {
                Ok(store) => break store,
                Err(problem) => {
                    warn!("the client certificate cannot be renewed: {}", crate::logging::chain(&problem));
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let current = store.current_path();
        let wanted = watch::Sender::new(Some(WantedCertificate::node(&self.node_name)));
        let (files, options) = (self.files.clone(), self.options.clone());
        let by_bootstrap = files.bootstrap_kubeconfig.map(|path| -> rotation::ClientSource {
            Arc::new(move || {
                let (path, options) = (path.clone(), options.clone());
                Box::pin(async move {
                    let (connections, _) = connect(ClusterAccess::load(&path)?, options).await?;
                    Ok(connections.requests)
                })
            })
        });
        rotation::run(RotationParams {
            store,
            purpose: CertificatePurpose::Client,
            wanted: wanted.subscribe(),
            borrowed: self.borrowed(),
            current: Arc::new(move || {
                let client = connections.requests.clone();
                Box::pin(async move { Ok(client) })
            }),
            bootstrap: by_bootstrap,
            rotated: Arc::new(move || {
                let (identity, current) = (identity.clone(), current.clone());
                Box::pin(async move {
                    if let Err(problem) = adopt(&identity, &current).await {
                        warn!(
                            "the new client certificate cannot be used: {}",
                            crate::logging::chain(&*problem)
                        );
                    }
                })
            }),
            now: self.now.clone(),
            status,
        })
        .await
    }

    /// The certificate of the kubeconfig, when it is not the one that is renewed under `--cert-dir`.
    fn borrowed(&self) -> Option<CertificateFacts> {
        let access = ClusterAccess::load(&self.files.kubeconfig).ok()?;
        let (certificate, key) = access.credentials.client_certificate?;
        if matches!(&certificate, PemSource::File(path) if path.starts_with(&self.files.cert_dir)) {
            return None;
        }
        let key = PrivateKey::from_pem(&read(&key)?).ok()?;
        Some(CertPair::from_pem_and_key(&read(&certificate)?, key).ok()?.facts().clone())
    }
}

fn read(source: &PemSource) -> Option<Vec<u8>> {
    match source {
        PemSource::Data(data) => Some(data.clone()),
        PemSource::File(path) => std::fs::read(path).ok(),
    }
}

/// Goes on with the certificate that is in the store now.
async fn adopt(identity: &IdentityHandle, current: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    if !identity.reload().await? {
        // The kubeconfig does not name the store.
        identity.set_client_cert(&tokio::fs::read(current).await?)?;
    }
    Ok(())
}
