//! The keys of the kubelet API for one run: an authority, what the agent shows, and the client that it believes.
//!
//! Owns the files that the agent's configuration names and the settings of TLS made of them. Called by the plan of
//! this part before anything starts.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

/// The authority and whom it vouches for.
pub(super) struct Pki {
    authority: CertificateDer<'static>,
    client: CertificateDer<'static>,
    client_key: PrivateKeyDer<'static>,
    dir: PathBuf,
}

impl Pki {
    /// Makes everything anew; files go to `dir`.
    pub(super) fn make(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let key = KeyPair::generate()?;
        let mut own = params("bench authority");
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = own.self_signed(&key)?;
        let issuer = Issuer::new(own, key);
        let sign = |params: CertificateParams| -> Result<(String, String)> {
            let key = KeyPair::generate()?;
            Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
        };
        let mut server = params("server");
        server.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (server, server_key) = sign(server)?;
        let mut client = params("kube-apiserver-kubelet-client");
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (client, client_key) = sign(client)?;
        for (name, text) in [("ca.crt", authority.pem()), ("server.crt", server), ("server.key", server_key)]
        {
            fs::write(dir.join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
        Ok(Self {
            authority: authority.der().clone(),
            client: CertificateDer::from_pem_slice(client.as_bytes())?,
            client_key: PrivateKeyDer::from_pem_slice(client_key.as_bytes())?,
            dir: dir.to_owned(),
        })
    }

    /// What the agent's configuration says of them: who shows a certificate of the authority may do anything.
    pub(super) fn configuration(&self) -> Value {
        json!({
            "tlsCertFile": self.dir.join("server.crt"),
            "tlsPrivateKeyFile": self.dir.join("server.key"),
            "authentication": {
                "x509": {"clientCAFile": self.dir.join("ca.crt")},
                "webhook": {"enabled": false},
                "anonymous": {"enabled": false},
            },
            "authorization": {"mode": "AlwaysAllow"},
        })
    }

    /// How the client connects to speak `protocol` (`h2` or `http/1.1`).
    pub(super) fn connector(&self, protocol: &str) -> Result<TlsConnector> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![self.client.clone()], self.client_key.clone_key())?;
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params
}
