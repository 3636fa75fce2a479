//! What the server shows: a certificate with its chain and key, which can be replaced.
//!
//! While there is none, handshakes fail, as upstream's do. Decides nothing about when to replace it.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Why a certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The certificates are not PEM.
    #[error("the certificate is not PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// There is none.
    #[error("it holds no certificate in PEM")]
    NoCertificate,
    /// There is no key.
    #[error("it holds no private key in PEM")]
    NoKey(#[source] rustls::pki_types::pem::Error),
    /// They cannot be used, or not together.
    #[error("certificate and private key cannot be used")]
    Pair(#[source] rustls::Error),
}

/// What the server shows. Clones are the same.
#[derive(Clone, Default)]
pub struct ServingCert(Arc<ArcSwapOption<CertifiedKey>>);

impl ServingCert {
    /// Nothing to show yet.
    pub fn none() -> Self {
        Self::default()
    }

    /// Shows the first key of `key` with all certificates of `certificates`, leaf first, from the next handshake on.
    /// Both are PEM and may be one text.
    ///
    /// # Errors
    /// [`CertError`]; then what was shown before stays.
    pub fn replace(&self, certificates: &[u8], key: &[u8]) -> Result<(), CertError> {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(certificates).collect::<Result<_, _>>().map_err(CertError::Pem)?;
        if chain.is_empty() {
            return Err(CertError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(CertError::NoKey)?;
        let provider = rustls::crypto::ring::default_provider();
        let pair = CertifiedKey::from_der(chain, key, &provider).map_err(CertError::Pair)?;
        self.0.store(Some(Arc::new(pair)));
        Ok(())
    }

    /// The server's own certificate, the first of those that are shown.
    pub fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.0.load().as_ref().and_then(|pair| pair.cert.first().cloned())
    }
}

impl ResolvesServerCert for ServingCert {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl fmt::Debug for ServingCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServingCert")
    }
}
