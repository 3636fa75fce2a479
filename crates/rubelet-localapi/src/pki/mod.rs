//! The certificate authority of a node of its own: what the server shows, and what its clients show it.
//!
//! Makes and signs; [`files`] keeps what was made. Called at start, and by whoever signs requests.

pub mod files;
pub(crate) mod renewal;

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

/// How long the authority lasts.
pub const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long certificates last that it makes for itself and its owner.
pub const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long before now certificates become valid, against clocks that differ.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// How long ago a certificate ended that was to have no lifetime.
const EXPIRED: Duration = Duration::from_secs(60);

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate")]
pub struct PkiError(#[from] rcgen::Error);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub cert_pem: String,
    /// The private key.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

/// What a signed certificate is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Servers show it.
    Server,
    /// Clients show it.
    Client,
}

/// A certificate authority with its key.
pub struct Ca {
    pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ca")
    }
}

/// Sets the days of validity; through seconds since 1970, since rcgen's type of dates is another crate's.
fn valid(params: &mut CertificateParams, from: Timestamp, until: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |at: Timestamp| Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0));
    params.not_before = epoch + since(from);
    params.not_after = epoch + since(until);
}

/// From a little before now until the end of the lifetime; without one the certificate has just expired.
fn lasting(params: &mut CertificateParams, now: Timestamp, lifetime: Duration) {
    let from = now.checked_sub(BACKDATE).unwrap_or(now);
    let until =
        if lifetime.is_zero() { now.checked_sub(EXPIRED).unwrap_or(now) } else { after(now, lifetime) };
    valid(params, from, until);
}

fn after(at: Timestamp, duration: Duration) -> Timestamp {
    at.checked_add(duration).unwrap_or(Timestamp::MAX)
}

fn purposes(usage: Usage) -> Vec<ExtendedKeyUsagePurpose> {
    vec![match usage {
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }]
}

impl Ca {
    /// A new authority of this name, valid from a little before `now` for [`CA_LIFETIME`].
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn new(name: &str, now: Timestamp) -> Result<Self, PkiError> {
        Self::self_signed(name, KeyPair::generate()?, now)
    }

    /// The authority of this key (PEM) and name with a new certificate: who trusts another of the two trusts it too.
    ///
    /// # Errors
    /// [`PkiError`] when the key cannot be read.
    pub fn with_key(name: &str, key_pem: &str, now: Timestamp) -> Result<Self, PkiError> {
        Self::self_signed(name, KeyPair::from_pem(key_pem)?, now)
    }

    fn self_signed(name: &str, key: KeyPair, now: Timestamp) -> Result<Self, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        lasting(&mut params, now, CA_LIFETIME);
        let pem = params.self_signed(&key)?.pem();
        let key_pem = key.serialize_pem();
        Ok(Self { pem, key_pem, issuer: Issuer::new(params, key) })
    }

    /// The authority of this certificate and key.
    ///
    /// # Errors
    /// [`PkiError`] when one of them cannot be read.
    pub fn from_pem(identity: Identity) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(&identity.key_pem)?;
        let issuer = Issuer::from_ca_cert_pem(&identity.cert_pem, key)?;
        Ok(Self { pem: identity.cert_pem, key_pem: identity.key_pem, issuer })
    }

    /// The certificate, for trust bundles, in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Certificate and key, to be kept.
    pub fn identity(&self) -> Identity {
        Identity { cert_pem: self.pem.clone(), key_pem: self.key_pem.clone() }
    }

    /// Signs a request in PEM: its subject and names, for this use and time. A lifetime of zero gives a certificate
    /// that has just expired, for tests.
    ///
    /// # Errors
    /// [`PkiError`] when the request cannot be read.
    pub fn sign(
        &self,
        request_pem: &str,
        usage: Usage,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<String, PkiError> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)?;
        let params = &mut request.params;
        lasting(params, now, lifetime);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = purposes(usage);
        params.is_ca = IsCa::NoCa;
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// A certificate for a client with this name and these groups.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn client(
        &self,
        name: &str,
        groups: &[String],
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Identity, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        self.issue(params, Usage::Client, now, lifetime)
    }

    /// A certificate for a server that is known by these DNS names and addresses.
    ///
    /// # Errors
    /// [`PkiError`], also when a name cannot be in a certificate.
    pub fn server(
        &self,
        names: &[&str],
        addresses: &[IpAddr],
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Identity, PkiError> {
        let mut params = CertificateParams::new(names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>())?;
        params.subject_alt_names.extend(addresses.iter().map(|&ip| SanType::IpAddress(ip)));
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        self.issue(params, Usage::Server, now, lifetime)
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        usage: Usage,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Identity, PkiError> {
        lasting(&mut params, now, lifetime);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = purposes(usage);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}
