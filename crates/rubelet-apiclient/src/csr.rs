//! A request for a certificate: the key, what it asks for, and its way through the API server.
//!
//! Owns the CertificateSigningRequest from its making to the certificate. Never touches a file: `cert_store`
//! keeps keys and certificates. Called by `bootstrap` and `rotation`.
//!
//! - `key`: private keys
//! - `obtain`: creating the request, or finding it again, and waiting for its certificate

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType};
use rubelet_core::certificates::{CertificatePurpose, WantedCertificate};
use sha2::{Digest as _, Sha512_256};

mod key;
mod obtain;
#[cfg(test)]
pub(crate) mod test_ca;
#[cfg(test)]
pub(crate) mod test_log;

pub(crate) use key::encode_pem;
pub use key::{KeyError, PrivateKey};
pub use obtain::{Patience, RequestError, obtain};

/// Why a request could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// A name is not one a certificate can hold.
    #[error("{name:?} cannot be a name in a certificate")]
    Name {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The request could not be written or signed.
    #[error("the certificate request could not be signed")]
    Sign(#[source] rcgen::Error),
}

/// The API object that asks for `wanted`, signed with `key`.
///
/// Its name follows from the key and what is asked for, as in upstream's bootstrap (`digestedName`): asking
/// again with the same key finds the same request, so retries and restarts pile nothing up.
/// `expiration_seconds` is the life to ask for; the signer may choose another.
pub fn generate_csr(
    key: &PrivateKey,
    wanted: &WantedCertificate,
    purpose: CertificatePurpose,
    expiration_seconds: Option<i32>,
) -> Result<CertificateSigningRequest, CsrError> {
    let usages = purpose.usages(key.is_rsa());
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta { name: Some(digested_name(key, wanted, &usages)), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request_pem(key, wanted)?.into_bytes()),
            signer_name: purpose.signer_name().to_owned(),
            usages: Some(usages.into_iter().map(str::to_owned).collect()),
            expiration_seconds,
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    })
}

/// The PKCS #10 request in PEM.
fn request_pem(key: &PrivateKey, wanted: &WantedCertificate) -> Result<String, CsrError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for organization in &wanted.organizations {
        params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
    }
    params.distinguished_name.push(DnType::CommonName, wanted.common_name.as_str());
    for name in &wanted.dns_names {
        let text = name.as_str().try_into();
        let text = text.map_err(|source| CsrError::Name { name: name.clone(), source })?;
        params.subject_alt_names.push(SanType::DnsName(text));
    }
    params.subject_alt_names.extend(wanted.ip_addresses.iter().map(|address| SanType::IpAddress(*address)));
    let request = params.serialize_request(key).map_err(CsrError::Sign)?;
    Ok(encode_pem("CERTIFICATE REQUEST", request.der()))
}

/// Upstream's `digestedName`: SHA-512/256 over the parts, each in URL-safe base64 with a delimiter. Names and
/// addresses of a serving certificate, which upstream has no digest for, follow after the usages.
fn digested_name(key: &PrivateKey, wanted: &WantedCertificate, usages: &[&str]) -> String {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut hash = Sha512_256::new();
    let mut write = |part: &[u8]| {
        hash.update(base64.encode(part));
        hash.update(b"|");
    };
    write(key.public_key_der());
    write(wanted.common_name.as_bytes());
    wanted.organizations.iter().for_each(|organization| write(organization.as_bytes()));
    usages.iter().for_each(|usage| write(usage.as_bytes()));
    wanted.dns_names.iter().for_each(|name| write(name.as_bytes()));
    wanted.ip_addresses.iter().for_each(|address| write(address.to_string().as_bytes()));
    format!("node-csr-{}", base64.encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

    use super::*;

    fn client_csr(key_pem: &str) -> CertificateSigningRequest {
        let key = PrivateKey::from_pem(key_pem.as_bytes()).unwrap();
        generate_csr(&key, &WantedCertificate::node("n1"), CertificatePurpose::Client, None).unwrap()
    }

    #[test]
    fn the_request_is_the_one_upstream_would_make() {
        let csr = client_csr(include_str!("csr/testdata/go-sec1.pem"));
        // The name was computed by Go for the same key.
        assert_eq!(
            csr.metadata.name.as_deref(),
            Some("node-csr-CLOefqR2G_0sfagAROtptwFbeuUIhmTzNj06f7E540E")
        );
        assert_eq!(csr.spec.signer_name, "kubernetes.io/kube-apiserver-client-kubelet");
        assert_eq!(csr.spec.usages.unwrap(), ["digital signature", "client auth"]);
        assert_eq!(csr.spec.expiration_seconds, None);
        let (_, pem) = x509_parser::pem::parse_x509_pem(&csr.spec.request.0).unwrap();
        assert_eq!(pem.label, "CERTIFICATE REQUEST");
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).unwrap();
        let info = &request.certification_request_info;
        assert_eq!(info.subject.to_string(), "O=system:nodes, CN=system:node:n1");
        // No names and no addresses: the approver refuses client requests that have some.
        assert_eq!(request.requested_extensions().map(Iterator::count).unwrap_or_default(), 0);
    }

    #[test]
    fn an_rsa_key_of_upstream_signs_too_and_asks_for_encipherment() {
        let csr = client_csr(include_str!("csr/testdata/go-rsa.pem"));
        assert_eq!(csr.spec.usages.unwrap(), ["digital signature", "key encipherment", "client auth"]);
        let request = String::from_utf8(csr.spec.request.0).unwrap();
        // Parsing verifies the signature.
        rcgen::CertificateSigningRequestParams::from_pem(&request).unwrap();
    }

    #[test]
    fn the_name_follows_from_key_and_content() {
        let key = PrivateKey::generate().unwrap();
        let name = |wanted: &WantedCertificate, purpose| {
            generate_csr(&key, wanted, purpose, None).unwrap().metadata.name.unwrap()
        };
        let node = WantedCertificate::node("n1");
        let serving =
            WantedCertificate { ip_addresses: BTreeSet::from(["10.0.0.1".parse().unwrap()]), ..node.clone() };
        let first = name(&node, CertificatePurpose::Client);
        assert_eq!(first, name(&node, CertificatePurpose::Client));
        assert_ne!(first, name(&node, CertificatePurpose::Serving));
        assert_ne!(name(&serving, CertificatePurpose::Serving), name(&node, CertificatePurpose::Serving));
    }
}
