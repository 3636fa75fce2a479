//! Certificates and clients for tests: valid from 2020 to 2040 unless they say otherwise.

use std::sync::Arc;

use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use super::ServingCert;
use crate::listen::Peer;

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Pair {
    /// The certificate in DER.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap()
    }

    /// What a client that shows it looks like.
    pub(crate) fn peer(&self) -> Peer {
        Peer { certificates: vec![self.der()], address: ([127, 0, 0, 1], 1).into() }
    }

    /// What a server that shows it has.
    pub(crate) fn serving(&self) -> ServingCert {
        let cert = ServingCert::none();
        cert.replace(self.cert.as_bytes(), self.key.as_bytes()).unwrap();
        cert
    }
}

/// An authority.
pub(crate) struct TestCa {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        Self::until(name, 2040)
    }

    /// One that ends with the beginning of a year.
    pub(crate) fn until(name: &str, year: i32) -> Self {
        let mut params = params(name);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// For a server called `localhost`.
    pub(crate) fn server(&self) -> Pair {
        let mut params = params("server");
        params.subject_alt_names = vec![rcgen::SanType::DnsName("localhost".try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// For a client with this name and these groups.
    pub(crate) fn client(&self, name: &str, groups: &[&str]) -> Pair {
        let mut params = params(name);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { cert, key: key.serialize_pem() }
    }
}

/// Noon of New Year's Day.
pub(crate) fn year(year: i16) -> Timestamp {
    format!("{year}-01-01T12:00:00Z").parse().unwrap()
}

/// A client that believes `ca` and can do what it is told.
pub(crate) fn client_with(
    ca: &TestCa,
    identity: Option<&Pair>,
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &str,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(pair) => {
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![pair.der()], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config
}

/// A client that believes `ca` and can do everything.
pub(crate) fn client(ca: &TestCa, identity: Option<&Pair>, alpn: &str) -> ClientConfig {
    client_with(ca, identity, rustls::crypto::ring::default_provider(), rustls::ALL_VERSIONS, alpn)
}
