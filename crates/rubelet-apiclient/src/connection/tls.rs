//! What TLS checks and presents. The server's certificate is checked against the authority, whose file is read again
//! at each new connection; the agent's own is looked up at each handshake, so a rotated one is used by the next.
//!
//! Sessions are never resumed: a resumed session would keep the identity it began with.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::error::ConnectFailure;
use crate::Now;
use crate::credentials::Credentials;
use crate::identity::{IdentityError, parse_certificates};
use crate::kubeconfig::{CaSource, ClusterAccess, PemSource};

/// Where distributions keep their bundle; the list that Go's crypto/x509 goes through.
const SYSTEM_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// TLS for one server.
pub(super) struct Tls {
    ca: CaSource,
    insecure: bool,
    kubeconfig: std::path::PathBuf,
    server_name: String,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn TimeProvider>,
    resolver: Arc<Resolver>,
    /// The last configuration and the authority's text it was made of.
    made: Mutex<Option<(Vec<u8>, Arc<ClientConfig>)>>,
    /// It was told that the last one goes on although the authority cannot be used as it is now.
    stale: AtomicBool,
}

impl Tls {
    pub(super) fn new(access: &ClusterAccess, credentials: Arc<Credentials>, now: Now) -> Self {
        Self {
            ca: access.ca.clone(),
            insecure: access.insecure_skip_tls_verify,
            kubeconfig: access.kubeconfig.clone(),
            server_name: access.tls_server_name.clone().unwrap_or_else(|| access.host().to_owned()),
            provider: Arc::new(ring::default_provider()),
            clock: Arc::new(WallClock(now)),
            resolver: Arc::new(Resolver(credentials)),
            made: Mutex::default(),
            stale: AtomicBool::new(false),
        }
    }

    /// The name that the server's certificate must bear.
    pub(super) fn server_name(&self) -> Result<ServerName<'static>, ConnectFailure> {
        ServerName::try_from(self.server_name.clone())
            .map_err(|_| ConnectFailure::ServerName { name: self.server_name.clone() })
    }

    /// The configuration for the next connection. An authority that cannot be read or used for a moment (a file that
    /// is being replaced) costs nothing: the last good one goes on.
    pub(super) async fn config(&self) -> Result<Arc<ClientConfig>, ConnectFailure> {
        let read = if self.insecure { Ok((Vec::new(), String::new())) } else { self.read_ca().await };
        let last = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let made = read.and_then(|(text, origin)| {
            let config = self.make(&text, &origin, last.as_ref())?;
            Ok((text, config))
        });
        match (made, last) {
            (Ok((text, config)), _) => {
                *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Some((text, config.clone()));
                self.stale.store(false, Ordering::Relaxed);
                Ok(config)
            }
            (Err(error), Some((_, config))) => {
                if !self.stale.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        error = crate::credentials::chain(&error),
                        "the last certificate authority stays in use"
                    );
                }
                Ok(config)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn make(
        &self,
        text: &[u8],
        origin: &str,
        last: Option<&(Vec<u8>, Arc<ClientConfig>)>,
    ) -> Result<Arc<ClientConfig>, ConnectFailure> {
        if let Some((known, config)) = last
            && known == text
        {
            return Ok(config.clone());
        }
        let builder = ClientConfig::builder_with_details(self.provider.clone(), self.clock.clone())
            .with_safe_default_protocol_versions()
            .map_err(ConnectFailure::Setup)?;
        let builder = if self.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TakeAny(self.provider.clone())))
        } else {
            builder.with_root_certificates(roots(text, origin)?)
        };
        let mut config = builder.with_client_cert_resolver(self.resolver.clone());
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    async fn read_ca(&self) -> Result<(Vec<u8>, String), ConnectFailure> {
        match &self.ca {
            CaSource::Pem(PemSource::Data(data)) => {
                Ok((data.clone(), format!("certificate-authority-data in {}", self.kubeconfig.display())))
            }
            CaSource::Pem(PemSource::File(path)) => {
                let text = tokio::fs::read(path)
                    .await
                    .map_err(|source| ConnectFailure::CaRead { path: path.clone(), source })?;
                Ok((text, path.display().to_string()))
            }
            CaSource::System => {
                for path in SYSTEM_BUNDLES {
                    if let Ok(text) = tokio::fs::read(Path::new(path)).await {
                        return Ok((text, path.to_owned()));
                    }
                }
                Err(ConnectFailure::NoCa { kubeconfig: self.kubeconfig.clone() })
            }
        }
    }
}

fn roots(text: &[u8], origin: &str) -> Result<RootCertStore, ConnectFailure> {
    let unusable = |source| ConnectFailure::Ca { origin: origin.to_owned(), source };
    let certificates = parse_certificates(text).map_err(unusable)?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(unusable(IdentityError::Certificate(
            "none of them is a certificate of an authority".to_owned(),
        )));
    }
    Ok(roots)
}

/// rustls asks this one for the time.
struct WallClock(Now);

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from((self.0)().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// rustls asks this one whom to come as.
struct Resolver(Arc<Credentials>);

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.identity().map(|identity| identity.certified.clone())
    }

    fn has_certs(&self) -> bool {
        self.0.identity().is_some()
    }
}

/// For insecure-skip-tls-verify: any certificate will do, as long as the server has its key.
#[derive(Debug)]
struct TakeAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
