//! A certificate with its chain and private key, read and checked. Never touches a file.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use rubelet_core::certificates::{CertificateFacts, Validity};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::csr::{KeyError, PrivateKey, encode_pem};

/// Why a certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// There is no certificate in the text.
    #[error("it holds no certificate in PEM")]
    NoCertificate,
    /// The text is not PEM.
    #[error("it is not PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// A certificate is damaged.
    #[error("certificate {position} of the chain is damaged")]
    Certificate {
        /// Place in the chain; the leaf is 1.
        position: usize,
        /// Why.
        #[source]
        source: x509_parser::nom::Err<x509_parser::error::X509Error>,
    },
    /// A time in a certificate is out of range.
    #[error("the validity of the certificate is out of range")]
    Validity,
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key is not the certificate's.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
}

/// A certificate, its chain and its private key, which match.
#[derive(Clone, Debug)]
pub struct CertPair {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    facts: CertificateFacts,
}

impl CertPair {
    /// Reads certificates and key from one text, as the store keeps them.
    pub fn from_combined_pem(pem: &[u8]) -> Result<Self, PairError> {
        let chain = read_chain(pem)?;
        Self::new(chain, PrivateKey::from_pem(pem)?)
    }

    /// Puts the certificates of a text and a key together.
    pub fn from_pem_and_key(certificates: &[u8], key: PrivateKey) -> Result<Self, PairError> {
        Self::new(read_chain(certificates)?, key)
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKey) -> Result<Self, PairError> {
        let leaf = chain.first().ok_or(PairError::NoCertificate)?;
        let leaf = parse(leaf, 1)?;
        if leaf.public_key().raw != key.public_key_der() {
            return Err(PairError::Mismatch);
        }
        let facts = facts(&leaf)?;
        Ok(Self { chain, key, facts })
    }

    /// What the leaf says.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// The key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// The certificates; the leaf is the first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Certificates and key in one text, leaf first and key last, as upstream keeps them.
    pub fn to_combined_pem(&self) -> String {
        let mut pem: String = self.chain.iter().map(|der| encode_pem("CERTIFICATE", der)).collect();
        pem.push_str(&self.key.to_pem());
        pem
    }
}

/// The end of every certificate in a text: what decides whether a kubeconfig will do.
pub fn chain_not_after(pem: &[u8]) -> Result<Vec<Timestamp>, PairError> {
    let chain = read_chain(pem)?;
    let ends = chain.iter().enumerate().map(|(index, der)| Ok(validity(&parse(der, index + 1)?)?.not_after));
    ends.collect()
}

fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PairError> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(PairError::Pem)?;
    for (index, der) in chain.iter().enumerate() {
        parse(der, index + 1)?;
    }
    if chain.is_empty() { Err(PairError::NoCertificate) } else { Ok(chain) }
}

fn parse<'a>(der: &'a CertificateDer<'_>, position: usize) -> Result<X509Certificate<'a>, PairError> {
    let parsed = X509Certificate::from_der(der);
    Ok(parsed.map_err(|source| PairError::Certificate { position, source })?.1)
}

fn validity(certificate: &X509Certificate<'_>) -> Result<Validity, PairError> {
    let time = |second| Timestamp::from_second(second).map_err(|_| PairError::Validity);
    let validity = certificate.validity();
    Ok(Validity {
        not_before: time(validity.not_before.timestamp())?,
        not_after: time(validity.not_after.timestamp())?,
    })
}

fn facts(leaf: &X509Certificate<'_>) -> Result<CertificateFacts, PairError> {
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().map(str::to_owned).unwrap_or_default()
    };
    let (mut dns_names, mut ip_addresses) = (BTreeSet::new(), BTreeSet::new());
    // A list of names that cannot be read counts as empty: a certificate that lacks names is renewed.
    let names = leaf.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => {
                dns_names.insert((*name).to_owned());
            }
            GeneralName::IPAddress(bytes) => {
                ip_addresses.extend(<[u8; 4]>::try_from(*bytes).map(IpAddr::from).ok());
                ip_addresses.extend(<[u8; 16]>::try_from(*bytes).map(IpAddr::from).ok());
            }
            _ => {}
        }
    }
    Ok(CertificateFacts {
        validity: validity(leaf)?,
        // Of several names the last counts, as in Go.
        common_name: leaf.subject().iter_common_name().last().map(text).unwrap_or_default(),
        organizations: leaf.subject().iter_organization().map(text).collect(),
        dns_names,
        ip_addresses,
    })
}
