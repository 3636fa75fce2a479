//! A private key of the agent: made, read from PEM, written as PEM, and able to sign a certificate request.
//!
//! Reads what upstream writes (SEC1 for P-256, PKCS#1 for RSA) beside PKCS#8, and writes a key back in the
//! form it came in; new keys are P-256 in PKCS#8, which upstream reads. Never touches a file.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Why a private key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No key could be generated.
    #[error("no new private key could be generated")]
    Generate(#[source] rcgen::Error),
    /// The text has no private key.
    #[error("it holds no private key in PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// The key is damaged or of a kind that is not known.
    #[error(
        "the private key is damaged or of a kind that is not supported (P-256, P-384, RSA and Ed25519 are)"
    )]
    Load(#[source] rustls::Error),
    /// The key does not tell its public half.
    #[error("the public half of the private key is not known")]
    NoPublicKey,
}

/// A private key. Cheap to clone; its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct PrivateKey {
    der: Arc<PrivateKeyDer<'static>>,
    signing: Arc<dyn SigningKey>,
    /// SubjectPublicKeyInfo in DER.
    spki: Arc<[u8]>,
    /// The bit string within `spki`, which rcgen wants.
    public_bits: Arc<[u8]>,
    scheme: SignatureScheme,
    algorithm: &'static rcgen::SignatureAlgorithm,
}

impl PrivateKey {
    /// A new P-256 key.
    pub fn generate() -> Result<Self, KeyError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(KeyError::Generate)?;
        Self::from_der(PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }

    /// The first private key in a PEM text; other sections are passed over.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        Self::from_der(PrivateKeyDer::from_pem_slice(pem).map_err(KeyError::Pem)?)
    }

    fn from_der(der: PrivateKeyDer<'static>) -> Result<Self, KeyError> {
        let signing = rustls::crypto::ring::sign::any_supported_type(&der).map_err(KeyError::Load)?;
        let (scheme, algorithm) = [
            (SignatureScheme::ECDSA_NISTP256_SHA256, &rcgen::PKCS_ECDSA_P256_SHA256),
            (SignatureScheme::ECDSA_NISTP384_SHA384, &rcgen::PKCS_ECDSA_P384_SHA384),
            (SignatureScheme::RSA_PKCS1_SHA256, &rcgen::PKCS_RSA_SHA256),
            (SignatureScheme::ED25519, &rcgen::PKCS_ED25519),
        ]
        .into_iter()
        .find(|(scheme, _)| signing.choose_scheme(&[*scheme]).is_some())
        .ok_or(KeyError::NoPublicKey)?;
        let spki: Arc<[u8]> = signing.public_key().ok_or(KeyError::NoPublicKey)?.as_ref().into();
        let (_, parsed) = SubjectPublicKeyInfo::from_der(&spki).map_err(|_| KeyError::NoPublicKey)?;
        let public_bits = parsed.subject_public_key.data.as_ref().into();
        Ok(Self { der: Arc::new(der), signing, spki, public_bits, scheme, algorithm })
    }

    /// The key as PEM, under the label that belongs to its form.
    pub fn to_pem(&self) -> String {
        let label = match &*self.der {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        encode_pem(label, self.der.secret_der())
    }

    /// The public half: SubjectPublicKeyInfo in DER, as Go's `MarshalPKIXPublicKey` writes it.
    pub fn public_key_der(&self) -> &[u8] {
        &self.spki
    }

    /// Whether this is an RSA key, which may also encipher keys.
    pub fn is_rsa(&self) -> bool {
        matches!(self.signing.algorithm(), rustls::SignatureAlgorithm::RSA)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

impl rcgen::PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public_bits
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signer = self.signing.choose_scheme(&[self.scheme]).ok_or(rcgen::Error::RemoteKeyError)?;
        signer.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// One PEM section, in lines of 64 characters.
pub(crate) fn encode_pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by Go's `x509.MarshalECPrivateKey`, as upstream's kubelet stores its keys.
    const SEC1: &str = include_str!("testdata/go-sec1.pem");

    #[test]
    fn a_new_key_survives_a_round_trip() {
        let key = PrivateKey::generate().unwrap();
        let pem = key.to_pem();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{pem}");
        assert_eq!(PrivateKey::from_pem(pem.as_bytes()).unwrap().public_key_der(), key.public_key_der());
        assert!(!key.is_rsa());
    }

    #[test]
    fn a_key_of_upstream_is_read_and_written_back_as_it_was() {
        let key = PrivateKey::from_pem(SEC1.as_bytes()).unwrap();
        assert_eq!(key.to_pem(), SEC1);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert!(PrivateKey::from_pem(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let key = PrivateKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey { scheme: ECDSA_NISTP256_SHA256, .. }");
    }
}
