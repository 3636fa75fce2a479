//! The certificate authority of the fake cluster: signs requests, and makes what a TLS server and its clients need.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// A certificate authority with its key.
pub(crate) struct Ca {
    /// The certificate, for trust bundles.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ca")
    }
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub cert_pem: String,
    /// The private key.
    pub key_pem: String,
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

/// How long before now certificates become valid, against clocks that differ.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// How long ago a certificate ended that was to have no lifetime.
const EXPIRED: Duration = Duration::from_secs(60);

impl Ca {
    /// A new authority, valid for ten years around `now`.
    pub(crate) fn new(now: Timestamp) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let decade = Duration::from_secs(10 * 365 * 24 * 3600);
        valid(&mut params, now.checked_sub(decade).unwrap_or(now), after(now, decade));
        let certificate = params.self_signed(&key)?;
        Ok(Self { pem: certificate.pem(), issuer: Issuer::new(params, key) })
    }

    /// Signs a request in PEM with the usages it is for.
    pub(crate) fn sign(
        &self,
        request_pem: &str,
        server: bool,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<String, rcgen::Error> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)?;
        let params = &mut request.params;
        lasting(params, now, lifetime);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage(server)];
        params.is_ca = IsCa::NoCa;
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// A certificate for a client with this name and these organizations, valid from before now for `lifetime`.
    pub(crate) fn client(
        &self,
        name: &str,
        groups: &[String],
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Identity, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        lasting(&mut params, now, lifetime);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage(false)];
        self.issue(params)
    }

    /// A certificate for a server on this machine.
    pub(crate) fn server(&self, now: Timestamp, lifetime: Duration) -> Result<Identity, rcgen::Error> {
        let names = ["127.0.0.1", "::1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        lasting(&mut params, now, lifetime);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage(true)];
        self.issue(params)
    }

    fn issue(&self, params: CertificateParams) -> Result<Identity, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn usage(server: bool) -> ExtendedKeyUsagePurpose {
    if server { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth }
}
