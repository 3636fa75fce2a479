//! Who a request over TCP comes from: a client certificate of the server's authority, or a bearer token.
//!
//! As in kube-apiserver a bad certificate does not end the handshake: its requests get 401, and so do those on a
//! connection whose certificate has expired since.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use rubelet_apimachinery::User;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Lets every certificate through the handshake whose key the client has.
#[derive(Debug)]
pub(crate) struct AskAndAccept(pub(crate) Arc<dyn ClientCertVerifier>);

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

/// What a connection shows of its client: the certificates of the handshake, if any, and what judges them.
#[derive(Clone)]
pub struct Peer {
    pub(crate) certificates: Arc<[CertificateDer<'static>]>,
    pub(crate) verifier: Arc<dyn ClientCertVerifier>,
}

/// What a request shows of its user.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown<'a> {
    /// A certificate of ours names this user.
    Certificate(User),
    /// A bearer token, to be looked at.
    Token(&'a str),
    /// Nothing at all.
    Nothing,
    /// Something that is not valid.
    Invalid,
}

impl Peer {
    /// What a request with these headers shows. A valid certificate wins over a token.
    pub fn shows<'a>(&self, headers: &'a HeaderMap, now: Timestamp) -> Shown<'a> {
        if let Some((end, others)) = self.certificates.split_first() {
            let seconds = u64::try_from(now.as_second()).unwrap_or(0);
            let moment = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            if self.verifier.verify_client_cert(end, others, moment).is_ok() {
                return subject(end).map_or(Shown::Invalid, Shown::Certificate);
            }
        }
        match bearer_token(headers) {
            Some("") => Shown::Invalid,
            Some(token) => Shown::Token(token),
            None if self.certificates.is_empty() => Shown::Nothing,
            None => Shown::Invalid,
        }
    }
}

/// The token of an `Authorization: Bearer` header.
pub fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The user a certificate names: common name and organizations.
pub fn subject(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().unwrap_or_default().to_owned()
    };
    let name = parsed.subject().iter_common_name().next().map(text)?;
    let groups: Vec<String> = parsed.subject().iter_organization().map(text).collect();
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    (!name.is_empty()).then(|| User::new(name, &groups))
}
