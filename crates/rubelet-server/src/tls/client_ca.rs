//! The authorities whose client certificates count.
//!
//! As in upstream a bad certificate does not end the handshake: whoever answers requests has it verified and decides.
//! Verification looks at the authorities of the moment, so that one that is replaced counts no longer, not even on
//! connections that are open. Knows nothing of users: who a certificate names is read by authentication.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::listen::Peer;

/// Why a bundle of authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The text is not PEM.
    #[error("it is not PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// There is nothing in it.
    #[error("it holds no certificate in PEM")]
    NoCertificate,
    /// A certificate is damaged.
    #[error("certificate {position} of the bundle cannot be used")]
    Certificate {
        /// Its place; the first is 1.
        position: usize,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// They cannot be used together.
    #[error("the certificates of the bundle cannot be used")]
    Bundle(#[source] VerifierBuilderError),
}

/// The authorities, which can be replaced. Clones are the same.
#[derive(Clone)]
pub struct ClientCa(Arc<ArcSwap<Roots>>);

/// The authorities of one moment.
pub(super) struct Roots {
    pem: Vec<u8>,
    authorities: Vec<Authority>,
    /// By all of them.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// One authority, and when it counts: seconds since 1970. The library does not ask that of authorities; Go does.
struct Authority {
    certificate: CertificateDer<'static>,
    valid: RangeInclusive<i64>,
}

impl ClientCa {
    /// No authority: nobody is asked for a certificate, and none counts.
    pub fn none() -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Roots { pem: vec![], authorities: vec![], verifier: None })))
    }

    /// The certificates of a text; sections that are no certificates are passed over.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, CaError> {
        let ca = Self::none();
        ca.replace(pem)?;
        Ok(ca)
    }

    /// Goes on with the certificates of this text. Returns whether it is another than before.
    ///
    /// # Errors
    /// [`CaError`]; then those before stay.
    pub fn replace(&self, pem: &[u8]) -> Result<bool, CaError> {
        if self.0.load().pem == pem && !pem.is_empty() {
            return Ok(false);
        }
        self.0.store(Arc::new(Roots::from_pem(pem)?));
        Ok(true)
    }

    /// The certificate that `peer` showed, if an authority vouches for it now: valid at `now`, and for clients.
    pub fn verify<'a>(&self, peer: &'a Peer, now: Timestamp) -> Option<&'a CertificateDer<'static>> {
        let (own, others) = peer.certificates.split_first()?;
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        let moment = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let roots = self.0.load();
        match roots.verifier_at(now)?.verify_client_cert(own, others, moment) {
            Ok(_) => Some(own),
            Err(problem) => {
                tracing::debug!("the client certificate of {} does not count: {problem}", peer.address);
                None
            }
        }
    }

    pub(super) fn roots(&self) -> Arc<Roots> {
        self.0.load_full()
    }
}

impl fmt::Debug for ClientCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCa")
    }
}

impl Roots {
    fn from_pem(pem: &[u8]) -> Result<Self, CaError> {
        let (mut roots, mut authorities) = (RootCertStore::empty(), Vec::new());
        for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let damaged = |source| CaError::Certificate { position: index + 1, source };
            let certificate = certificate.map_err(CaError::Pem)?;
            roots.add(certificate.clone()).map_err(damaged)?;
            let valid =
                validity(&certificate).ok_or_else(|| damaged(CertificateError::BadEncoding.into()))?;
            authorities.push(Authority { certificate, valid });
        }
        if roots.is_empty() {
            return Err(CaError::NoCertificate);
        }
        let verifier = verifier(roots).map_err(CaError::Bundle)?;
        Ok(Self { pem: pem.to_vec(), authorities, verifier: Some(verifier) })
    }

    /// What verifies by the authorities that count at `now`, if any does. Where one has ended the others are put
    /// together for each question: such a bundle is to be mended.
    fn verifier_at(&self, now: Timestamp) -> Option<Arc<dyn ClientCertVerifier>> {
        let now = now.as_second();
        if self.authorities.iter().all(|authority| authority.valid.contains(&now)) {
            return self.verifier.clone();
        }
        let mut roots = RootCertStore::empty();
        for authority in self.authorities.iter().filter(|authority| authority.valid.contains(&now)) {
            // It could be added before.
            roots.add(authority.certificate.clone()).ok()?;
        }
        verifier(roots).ok()
    }

    /// What asks clients for a certificate in the handshake, if anybody's counts.
    pub(super) fn asker(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        let verifier = self.verifier.clone()?;
        Some(Arc::new(AskAndAccept(verifier)))
    }
}

/// Verifies by these authorities; an error when there are none.
fn verifier(roots: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()
}

fn validity(certificate: &CertificateDer<'_>) -> Option<RangeInclusive<i64>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let validity = parsed.validity();
    Some(validity.not_before.timestamp()..=validity.not_after.timestamp())
}

/// Lets every certificate through the handshake whose key the client has.
#[derive(Debug)]
struct AskAndAccept(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AskAndAccept {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
