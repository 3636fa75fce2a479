//! HTTP probes over TLS: servers are what counts, and nobody asks whose certificate theirs is.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};

use crate::node::Node;
use crate::probes_cases::{Want, check};
use crate::probes_http::{SLOW, get};
use crate::probes_servers::{Answer, HealthServer, Web, loopback};

use Want::{Fails, Passes};

/// Changes what a self-signed certificate says.
pub fn certificate(
    change: impl FnOnce(&mut rcgen::CertificateParams),
    algorithm: &'static rcgen::SignatureAlgorithm,
) -> (Vec<u8>, rcgen::KeyPair) {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    change(&mut params);
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    (params.self_signed(&key).unwrap().der().to_vec(), key)
}

/// A server's configuration with any bytes for a certificate.
pub fn config(
    versions: &[&'static rustls::SupportedProtocolVersion],
    certificate: Vec<u8>,
    key: &rcgen::KeyPair,
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let certified = CertifiedKey::new(vec![CertificateDer::from(certificate)], key);
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
}

/// The certificate as version 1, as `openssl x509 -req` makes them: without its version and its extensions. That
/// breaks its signature, which says nothing about one that signs itself.
fn as_version_1(der: &[u8]) -> Vec<u8> {
    /// Splits the first element off: its tag, its content, and what comes after it.
    fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
        let (header, length) = match der[1] {
            0x81 => (3, usize::from(der[2])),
            0x82 => (4, usize::from(u16::from_be_bytes([der[2], der[3]]))),
            short => (2, usize::from(short)),
        };
        (der[0], &der[header..header + length], &der[header + length..])
    }
    fn wrapped(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82, length[0], length[1]], content].concat()
    }
    let (_, certificate, _) = element(der);
    let (_, mut fields, signature) = element(certificate);
    let mut kept = vec![];
    while !fields.is_empty() {
        let (tag, content, rest) = element(fields);
        if ![0xa0, 0xa3].contains(&tag) {
            kept.extend(wrapped(tag, content));
        }
        fields = rest;
    }
    wrapped(0x30, &[&wrapped(0x30, &kept), signature].concat())
}

#[test]
fn probes_https_certificates_of_every_kind() {
    let node = Node::start();
    let web = Web::start();
    web.page("/well", Answer::code(200));
    web.page("/ill", Answer::code(503));
    let (p256, p384, ed25519) =
        (&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519);
    let (v12, v13): (&[_], &[_]) = (&[&rustls::version::TLS12], &[&rustls::version::TLS13]);
    let https = |name, path: &str, config: ServerConfig, want| {
        get(name, web.serve_tls(config), path, ", scheme: HTTPS", want)
    };
    let well = |name, versions, (der, key): (Vec<u8>, rcgen::KeyPair)| {
        https(name, "/well", config(versions, der, &key), Passes)
    };
    let (plain, key) = certificate(|_| (), p256);
    let mut by_name = config(v13, plain.clone(), &key);
    by_name.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A server for gRPC answers whatever is asked, with 200.
    let grpc = HealthServer::new();
    let listener = loopback();
    let only_h2 = listener.local_addr().unwrap().port();
    grpc.serve_tls(listener, config(v13, plain.clone(), &key));
    let for_members = {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(plain.clone())).unwrap();
        let members = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(members.unwrap())
            .with_single_cert(
                vec![CertificateDer::from(plain.clone())],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap()
    };
    let silent = loopback();
    let silent_port = silent.local_addr().unwrap().port();
    let cases = [
        well("self-signed", v13, certificate(|_| (), p256)),
        well("TLS 1.2", v12, certificate(|_| (), p384)),
        well("Ed25519", v13, certificate(|_| (), ed25519)),
        well("expired", v13, certificate(|params| params.not_after = rcgen::date_time_ymd(2001, 1, 1), p256)),
        well(
            "not yet valid",
            v12,
            certificate(|params| params.not_before = rcgen::date_time_ymd(3000, 1, 1), p256),
        ),
        well(
            "an authority's",
            v13,
            certificate(
                |params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
                p256,
            ),
        ),
        well("without a name", v13, certificate(|params| params.subject_alt_names = vec![], p256)),
        well(
            "for clients",
            v13,
            certificate(
                |params| params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth],
                p256,
            ),
        ),
        https("version 1", "/well", config(v13, as_version_1(&plain), &key), Passes),
        https("version 1 by TLS 1.2", "/well", config(v12, as_version_1(&plain), &key), Passes),
        https("HTTP/1 by name", "/well", by_name, Passes),
        get("HTTP/2 only", only_h2, "/", ", scheme: HTTPS", Passes),
        https(
            "ill",
            "/ill",
            config(v13, plain.clone(), &key),
            Fails("HTTP probe failed with statuscode: 503"),
        ),
        https("to be shown one", "/well", for_members, Fails("tls: ")),
        get(
            "HTTP for HTTPS",
            web.port,
            "/well",
            ", scheme: HTTPS",
            Fails("server gave HTTP response to HTTPS client"),
        ),
        get(
            "HTTPS for HTTP",
            web.serve_tls(config(v13, plain, &key)),
            "/well",
            "",
            Fails("malformed HTTP response"),
        ),
        get("a silent handshake", silent_port, "/", ", scheme: HTTPS", Fails(SLOW)),
    ];
    check(&node, "certificates", "", &cases, |_| ());
    drop(silent);
}
