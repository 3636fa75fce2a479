//! Who this node is to the API server: the kubeconfig, the first certificate by TLS bootstrap, and its renewal. Joins
//! what `rubelet_apiclient` offers with the node's files; a new certificate ends the connections of the old one.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rubelet_apiclient::bootstrap::{BootstrapError, BootstrapParams, bootstrap, needed};
use rubelet_apiclient::cert_store::{CertPair, CertStore, PairError, StoreError};
use rubelet_apiclient::connection::{ConnectError, ConnectOptions, IdentityHandle, connect};
use rubelet_apiclient::csr::PrivateKey;
use rubelet_apiclient::identity::IdentityError;
use rubelet_apiclient::kubeconfig::{ClusterAccess, KubeconfigError, PemSource};
use rubelet_apiclient::rotation::{self, RotationParams, RotationStatus};
use rubelet_apiclient::{Connections, Now};
use rubelet_core::certificates::{CertificateFacts, CertificatePurpose, WantedCertificate};
use tokio::sync::watch;
use tracing::warn;

use super::ApiFiles;
use crate::fs_pool::{FsError, FsPool};

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
    /// A certificate or key that the kubeconfig names.
    #[error("{path} of --kubeconfig cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Certificate and key that the kubeconfig holds.
    #[error("the client certificate of --kubeconfig cannot be used")]
    Pair(#[from] PairError),
    /// The file system gives no answer.
    #[error("the files of this node's identity cannot be read")]
    Files(#[from] FsError),
}

/// The node's way in.
#[derive(Clone)]
pub(crate) struct Access {
    files: ApiFiles,
    /// `rotateCertificates`.
    rotate: bool,
    node_name: String,
    options: ConnectOptions,
    fs: FsPool,
    now: Now,
}

impl Access {
    /// A way in by these files; nothing is read yet.
    pub(crate) fn new(
        files: ApiFiles,
        rotate: bool,
        node_name: &str,
        options: ConnectOptions,
        fs: FsPool,
        now: Now,
    ) -> Self {
        Self { files, rotate, node_name: node_name.to_owned(), options, fs, now }
    }

    /// Connects if that needs no bootstrap; `None` when it does, see [`Self::bootstrap_and_connect`].
    ///
    /// # Errors
    /// Files that cannot be used as they are, which nobody but their owner can mend.
    pub(crate) async fn connect_now(&self) -> Result<Option<(Connections, IdentityHandle)>, AccessError> {
        if self.files.bootstrap_kubeconfig.is_some() {
            let (path, now) = (self.files.kubeconfig.clone(), (self.now)());
            let what = format!("look at {}", path.display());
            if let Some(reason) = self.fs.run(what, move || Ok(needed(&path, now))).await? {
                warn!("this node needs a certificate and asks for one with --bootstrap-kubeconfig: {reason}");
                return Ok(None);
            }
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
                let (fs, path, options) =
                    (self.fs.clone(), bootstrap_kubeconfig.clone(), self.options.clone());
                Arc::new(move || {
                    let (fs, path, options) = (fs.clone(), path.clone(), options.clone());
                    Box::pin(async move {
                        let access = load(&fs, &path).await??;
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
        let access = load(&self.fs, &self.files.kubeconfig).await??;
        let made = connect(access, self.options.clone()).await?;
        if self.rotate && self.borrowed().await?.is_some() {
            // The kubeconfig holds the certificate the node was installed with; a renewed one is better.
            let renewed = self.with_store(|store| store.load().ok()).await?;
            if let Some(renewed) = renewed
                && !renewed.facts().validity.is_expired((self.now)())
            {
                made.1.set_client_cert(renewed.to_combined_pem().as_bytes())?;
            }
        }
        Ok(made)
    }

    /// Opens the store of client certificates and does something with it, off the runtime's threads.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(CertStore) -> T + Send + 'static,
    ) -> Result<T, AccessError> {
        let directory = self.files.cert_dir.clone();
        let what = format!("read the certificates in {}", directory.display());
        let open = move || Ok(CertStore::open(&directory, CertificatePurpose::Client).map(work));
        Ok(self.fs.run(what, open).await??)
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
        let (store, borrowed) = loop {
            let opened = async { Ok((self.with_store(|store| store).await?, self.borrowed().await?)) };
            match opened.await {
                Ok(opened) => break opened,
                Err::<_, AccessError>(problem) => {
                    warn!("the client certificate cannot be renewed: {}", crate::logging::chain(&problem));
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let current = store.current_path();
        let wanted = watch::Sender::new(Some(WantedCertificate::node(&self.node_name)));
        let (files, fs, options) = (self.files.clone(), self.fs.clone(), self.options.clone());
        let by_bootstrap = files.bootstrap_kubeconfig.map(|path| -> rotation::ClientSource {
            Arc::new(move || {
                let (fs, path, options) = (fs.clone(), path.clone(), options.clone());
                Box::pin(async move {
                    let (connections, _) = connect(load(&fs, &path).await??, options).await?;
                    Ok(connections.requests)
                })
            })
        });
        rotation::run(RotationParams {
            store,
            purpose: CertificatePurpose::Client,
            wanted: wanted.subscribe(),
            borrowed,
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

    /// The certificate of the kubeconfig, when it is not the one that is renewed under `--cert-dir`. One that cannot
    /// be used is told and counts as none.
    async fn borrowed(&self) -> Result<Option<CertificateFacts>, FsError> {
        let files = self.files.clone();
        let what = format!("read the client certificate of {}", files.kubeconfig.display());
        let found = self.fs.run(what, move || Ok(borrowed(&files))).await?;
        Ok(found.unwrap_or_else(|problem| {
            warn!(
                "the certificate that this node was installed with is not known: {}",
                crate::logging::chain(&problem)
            );
            None
        }))
    }
}

/// Reads a kubeconfig off the runtime's threads.
async fn load(fs: &FsPool, path: &Path) -> Result<Result<ClusterAccess, KubeconfigError>, FsError> {
    let (what, path) = (format!("read kubeconfig {}", path.display()), path.to_owned());
    fs.run(what, move || Ok(ClusterAccess::load(&path))).await
}

/// Blocks.
fn borrowed(files: &ApiFiles) -> Result<Option<CertificateFacts>, AccessError> {
    let access = ClusterAccess::load(&files.kubeconfig)?;
    let Some((certificate, key)) = access.credentials.client_certificate else { return Ok(None) };
    if matches!(&certificate, PemSource::File(path) if path.starts_with(&files.cert_dir)) {
        return Ok(None);
    }
    let key = PrivateKey::from_pem(&read(&key)?).map_err(PairError::from)?;
    Ok(Some(CertPair::from_pem_and_key(&read(&certificate)?, key)?.facts().clone()))
}

/// Blocks.
fn read(source: &PemSource) -> Result<Vec<u8>, AccessError> {
    match source {
        PemSource::Data(data) => Ok(data.clone()),
        PemSource::File(path) => {
            std::fs::read(path).map_err(|source| AccessError::Read { path: path.clone(), source })
        }
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
