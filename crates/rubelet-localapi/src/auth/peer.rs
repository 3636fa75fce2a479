//! Who a request over TCP comes from: a client certificate of the server's authority, or a bearer token.
//!
//! As in kube-apiserver a bad certificate does not end the handshake: its requests get 401, and so do those on a
//! connection whose certificate has expired since.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use rubelet_apimachinery::User;
use rubelet_server::listen::Peer;
use rubelet_server::tls::ClientCa;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

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

/// What a request with these headers, on a connection of `peer`, shows. A valid certificate wins over a token.
pub fn shows<'a>(peer: &Peer, ca: &ClientCa, headers: &'a HeaderMap, now: Timestamp) -> Shown<'a> {
    if let Some(own) = ca.verify(peer, now) {
        return subject(own).map_or(Shown::Invalid, Shown::Certificate);
    }
    match bearer_token(headers) {
        Some("") => Shown::Invalid,
        Some(token) => Shown::Token(token),
        None if peer.certificates.is_empty() => Shown::Nothing,
        None => Shown::Invalid,
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
