//! Serving certificates that the API server signs (`serverTLSBootstrap`): asked for under the names and addresses that
//! the Node has, kept as `kubelet-server-current.pem`, and renewed (upstream `NewKubeletServerCertificateManager`).
//!
//! Nobody approves such requests by himself: until somebody does, nothing is shown and handshakes fail, which is said.
//! A certificate whose time is over is shown until the next one is there: who checks it refuses it anyway.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeAddress};
use rubelet_apiclient::Now;
use rubelet_apiclient::cert_store::{CertStore, StoreError};
use rubelet_apiclient::rotation::{self, RotationParams, RotationStatus};
use rubelet_core::certificates::{CertificatePurpose, SERVING_SIGNER, WantedCertificate};
use rubelet_server::tls::ServingCert;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::fs_pool::FsPool;
use crate::logging::chain;
use crate::node_view::NodeView;

/// How long to wait before a directory is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// What is needed to ask, and where the answer goes.
pub(super) struct Bootstrap {
    pub(super) cert_dir: PathBuf,
    pub(super) node_name: String,
    /// Gate `AllowDNSOnlyNodeCSR`.
    pub(super) dns_only: bool,
    /// Files that the configuration names, shown until the first certificate is there.
    pub(super) given: Option<(PathBuf, PathBuf)>,
    pub(super) cert: ServingCert,
    pub(super) fs: FsPool,
    pub(super) now: Now,
}

impl Bootstrap {
    /// Shows what an earlier run got, if there is something.
    pub(super) async fn begin(&self) {
        let shown = match self.open().await {
            Ok(store) => show(&store, &self.cert, &self.fs).await,
            Err(problem) => Err(problem),
        };
        match shown {
            Ok(true) => {}
            Ok(false) => warn!(
                "serverTLSBootstrap: there is no serving certificate yet, and TLS handshakes with the kubelet API fail \
                 until one is issued. It is asked for once the Node has addresses; requests of {SERVING_SIGNER} are not \
                 approved by Kubernetes itself: see kubectl get csr, and kubectl certificate approve <name>"
            ),
            Err(problem) => error!("serverTLSBootstrap: the serving certificate cannot be read: {problem}"),
        }
    }

    /// Asks and renews, for ever.
    pub(super) async fn run(
        self,
        node: NodeView,
        client: Option<kube::Client>,
        status: watch::Sender<RotationStatus>,
    ) {
        let Some(client) = client else {
            error!(
                "serverTLSBootstrap asks an API server for the serving certificate, and this node has none: give it \
                 --kubeconfig, or set serverTLSBootstrap: false"
            );
            return std::future::pending().await;
        };
        let store = loop {
            match self.open().await {
                Ok(store) => break store,
                Err(problem) => {
                    warn!("serverTLSBootstrap: no serving certificate can be asked for: {problem}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let wanted = watch::Sender::new(None);
        let params = RotationParams {
            store: store.clone(),
            purpose: CertificatePurpose::Serving,
            wanted: wanted.subscribe(),
            borrowed: None,
            current: Arc::new(move || {
                let client = client.clone();
                Box::pin(async move { Ok(client) })
            }),
            bootstrap: None,
            rotated: {
                let (cert, fs) = (self.cert.clone(), self.fs.clone());
                Arc::new(move || {
                    let (store, cert, fs) = (store.clone(), cert.clone(), fs.clone());
                    Box::pin(async move {
                        if let Err(problem) = show(&store, &cert, &fs).await {
                            warn!("the new serving certificate cannot be shown: {problem}");
                        }
                    })
                })
            },
            now: self.now.clone(),
            status,
        };
        let names = follow_names(node, &self.node_name, self.dns_only, wanted);
        // Neither ends.
        tokio::join!(rotation::run(params), names);
    }

    async fn open(&self) -> Result<CertStore, String> {
        let (directory, given) = (self.cert_dir.clone(), self.given.clone());
        let open = move || {
            let store = CertStore::open(&directory, CertificatePurpose::Serving);
            Ok(store.map(|store| match given {
                Some((certificate, key)) => store.with_fallback(certificate, key),
                None => store,
            }))
        };
        let what = format!("read the certificates in {}", self.cert_dir.display());
        match self.fs.run(what, open).await {
            Ok(Ok(store)) => Ok(store),
            Ok(Err(problem)) => Err(chain(&problem)),
            Err(problem) => Err(chain(&problem)),
        }
    }
}

/// Shows what is in the store; returns whether there is something.
async fn show(store: &CertStore, cert: &ServingCert, fs: &FsPool) -> Result<bool, String> {
    let (reading, what) = (store.clone(), format!("read {}", store.current_path().display()));
    let pair = match fs.run(what, move || Ok(reading.load())).await {
        Ok(Ok(pair)) => pair,
        Ok(Err(StoreError::Missing { .. })) => return Ok(false),
        Ok(Err(problem)) => return Err(chain(&problem)),
        Err(problem) => return Err(chain(&problem)),
    };
    let pem = pair.to_combined_pem();
    cert.replace(pem.as_bytes(), pem.as_bytes()).map_err(|problem| chain(&problem))?;
    info!(not_after = %pair.facts().validity.not_after, "serves with the certificate of kubelet-server-current.pem");
    Ok(true)
}

/// Wants a certificate for what the Node is called, whenever that changes. A Node that is gone keeps its names.
async fn follow_names(
    mut node: NodeView,
    node_name: &str,
    dns_only: bool,
    wanted: watch::Sender<Option<WantedCertificate>>,
) -> Infallible {
    loop {
        if let Some(names) = node.get().and_then(|node| names(&node, node_name, dns_only)) {
            wanted.send_if_modified(|current| {
                let changed = current.as_ref() != Some(&names);
                *current = Some(names);
                changed
            });
        }
        node.changed().await;
    }
}

/// What to ask for (upstream `addressesToHostnamesAndIPs`): nothing without an address, since the approver would have
/// nothing to go by; with `dns_only` a name is enough.
pub(super) fn names(node: &Node, node_name: &str, dns_only: bool) -> Option<WantedCertificate> {
    let (mut dns_names, mut ip_addresses) = (BTreeSet::new(), BTreeSet::new());
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    for NodeAddress { address, type_ } in addresses {
        let ip = address.parse::<IpAddr>().ok();
        match (type_.as_str(), ip) {
            ("Hostname" | "InternalIP" | "ExternalIP", Some(ip)) => {
                ip_addresses.insert(ip);
            }
            ("Hostname", None) | ("InternalDNS" | "ExternalDNS", _) if !address.is_empty() => {
                dns_names.insert(address.clone());
            }
            _ => {}
        }
    }
    let enough = !ip_addresses.is_empty() || (dns_only && !dns_names.is_empty());
    enough.then(|| WantedCertificate { dns_names, ip_addresses, ..WantedCertificate::node(node_name) })
}
