//! A client certificate with its key, read from PEM text: what TLS presents, and what messages say of it.
//!
//! No files and no clock here; `credentials` reads the files, callers say what time it is.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// PEM text that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Broken PEM.
    #[error("the PEM text is damaged: {0}")]
    Pem(String),
    /// No certificate in it.
    #[error("there is no certificate in it; it must hold a PEM block of type CERTIFICATE")]
    NoCertificate,
    /// No key in it.
    #[error(
        "there is no private key in it; it must hold a PEM block of type PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY"
    )]
    NoKey,
    /// The certificate is not X.509.
    #[error("the certificate cannot be decoded: {0}")]
    Certificate(String),
    /// The key is of another certificate.
    #[error(
        "the certificate and the private key do not belong together; both must be replaced at the same time"
    )]
    Mismatch,
    /// The key is of a kind that cannot be used.
    #[error("the private key cannot be used (RSA of at least 2048 bits, P-256, P-384 and Ed25519 can): {0}")]
    Key(String),
}

/// A client certificate, its key and what is worth telling about it.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// What TLS presents.
    pub certified: Arc<CertifiedKey>,
    /// The common name of the subject, `system:node:<name>` for a node.
    pub common_name: String,
    /// The subject's organizations, the groups it is in.
    pub organizations: Vec<String>,
    /// First moment of validity.
    pub not_before: Timestamp,
    /// Last moment of validity.
    pub not_after: Timestamp,
}

impl ClientIdentity {
    /// From a chain (own certificate first) and a key; both may be the same text with both in it.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = parse_certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            rustls::pki_types::pem::Error::NoItemsFound => IdentityError::NoKey,
            other => IdentityError::Pem(other.to_string()),
        })?;
        let leaf = chain.first().ok_or(IdentityError::NoCertificate)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
            .map_err(|error| IdentityError::Certificate(error.to_string()))?;
        let names = |list: Vec<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
            list.iter().filter_map(|name| name.as_str().ok().map(str::to_owned)).collect::<Vec<_>>()
        };
        let common_name =
            names(parsed.subject().iter_common_name().collect()).into_iter().next().unwrap_or_default();
        let organizations = names(parsed.subject().iter_organization().collect());
        let time = |seconds: i64| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
        let not_before = time(parsed.validity().not_before.timestamp());
        let not_after = time(parsed.validity().not_after.timestamp());
        let certified = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => IdentityError::Mismatch,
                other => IdentityError::Key(other.to_string()),
            })?;
        Ok(Self { certified: Arc::new(certified), common_name, organizations, not_before, not_after })
    }
}

/// The certificates in a PEM text; at least one.
pub fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| IdentityError::Pem(error.to_string()))?;
    if certificates.is_empty() { Err(IdentityError::NoCertificate) } else { Ok(certificates) }
}
