//! Who a request over TCP comes from: a client certificate of the cluster's authority, a bootstrap token or a service
//! account token.
//!
//! As in a real server a bad certificate does not end the handshake: its requests get 401, and so do those on a
//! connection whose certificate has expired since.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls::DigitallySignedStruct;
use rustls::DistinguishedName;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::request::User;
use super::{Inner, tokens};

/// Lets every certificate through the handshake whose key the client has.
#[derive(Debug)]
pub(crate) struct AskAndAccept(pub Arc<dyn ClientCertVerifier>);

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

/// What a connection says of its client.
pub(crate) enum Peer {
    /// Everyone on it is this user.
    Trusted(User),
    /// The certificates of the handshake, if any, and what judges them.
    Tls(Vec<CertificateDer<'static>>, Arc<dyn ClientCertVerifier>),
}

impl Peer {
    /// The user of a request on this connection; `None` when what it shows is not valid.
    pub(crate) fn user(&self, api: &Inner, headers: &HeaderMap) -> Option<User> {
        let (certificates, verifier) = match self {
            Self::Trusted(user) => return Some(user.clone()),
            Self::Tls(certificates, verifier) => (certificates, verifier),
        };
        let now = (api.options.now)();
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        if let Some((end, others)) = certificates.split_first() {
            let moment = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            if verifier.verify_client_cert(end, others, moment).is_ok() {
                return subject(end);
            }
        }
        let bearer =
            headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
        match bearer {
            Some(token) => {
                let state = api.state();
                if state.bootstrap_tokens.contains(token) {
                    let id = token.split('.').next().unwrap_or_default();
                    return Some(User::named(&format!("system:bootstrap:{id}")));
                }
                tokens::bearer(&state, token, now)
            }
            None if certificates.is_empty() => Some(User::named("system:anonymous")),
            None => None,
        }
    }
}

/// The user a certificate names: common name and organizations.
fn subject(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().unwrap_or_default().to_owned()
    };
    Some(User {
        name: parsed.subject().iter_common_name().next().map(text)?,
        groups: parsed.subject().iter_organization().map(text).collect(),
    })
}
