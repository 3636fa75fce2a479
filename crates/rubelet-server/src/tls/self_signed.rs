//! A certificate for a server that nobody gave one (upstream `GenerateSelfSignedCertKey`).
//!
//! Makes values only; the shell keeps them. An authority is made for the occasion and its key forgotten, so that nobody
//! can ever sign with it. Keys are P-256 where upstream's are RSA.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// How long it is valid, from an hour before now.
pub const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long before now it becomes valid, against clocks that differ.
const BACKDATE: Duration = Duration::from_secs(3600);

/// The certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate for {host:?}")]
pub struct SelfSignedError {
    /// Who it was for.
    pub host: String,
    /// Why not.
    pub source: rcgen::Error,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct SelfSigned {
    /// The certificate, then that of the authority.
    pub certificates: String,
    /// The private key.
    pub key: String,
}

/// A pair for a server that is called `host`, a name or an address, and has these addresses too.
///
/// # Errors
/// [`SelfSignedError`], when `host` cannot be in a certificate.
pub fn self_signed(host: &str, addresses: &[IpAddr], now: Timestamp) -> Result<SelfSigned, SelfSignedError> {
    make(host, addresses, now).map_err(|source| SelfSignedError { host: host.to_owned(), source })
}

fn make(host: &str, addresses: &[IpAddr], now: Timestamp) -> Result<SelfSigned, rcgen::Error> {
    let second = now.as_second();
    let params = |name: String| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let from = epoch + Duration::from_secs(u64::try_from(second).unwrap_or(0)) - BACKDATE;
        (params.not_before, params.not_after) = (from, from + LIFETIME);
        params
    };
    let mut authority = params(format!("{host}-ca@{second}"));
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    let authority_key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&authority_key)?.pem();

    let mut own = params(format!("{host}@{second}"));
    own.is_ca = IsCa::ExplicitNoCa;
    own.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    own.subject_alt_names = vec![match host.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(Ia5String::try_from(host)?),
    }];
    for address in addresses.iter().map(|address| SanType::IpAddress(*address)) {
        if !own.subject_alt_names.contains(&address) {
            own.subject_alt_names.push(address);
        }
    }
    own.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = own.signed_by(&key, &Issuer::new(authority, authority_key))?;
    Ok(SelfSigned { certificates: format!("{}{authority_pem}", certificate.pem()), key: key.serialize_pem() })
}

/// Whether this is the common name of a certificate that was made as [`self_signed`] does, upstream included: the host
/// and the second it was made.
pub fn is_self_signed(common_name: &str) -> bool {
    common_name
        .rsplit_once('@')
        .is_some_and(|(host, second)| !host.is_empty() && second.parse::<u64>().is_ok())
}
