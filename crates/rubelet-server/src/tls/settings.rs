//! Versions, cipher suites and key exchanges: the words of the configuration, and what this program can do of them.
//!
//! Upstream's are Go's, some of which nothing here implements because they are weak, and some because the cryptography
//! in use lacks them. A word that Go does not know is an error, as upstream; what cannot be done is left out and told,
//! unless nothing would be left. What is left out never makes a connection weaker.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ConfigBuilder, NamedGroup, ServerConfig, SupportedProtocolVersion, WantsVerifier};

/// What the configuration says of TLS. Empty words and lists mean the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// `tlsMinVersion`: `VersionTLS10` to `VersionTLS13`.
    pub min_version: String,
    /// `tlsCipherSuites`: suites of TLS 1.2 by their names in Go. Those of TLS 1.3 cannot be chosen.
    pub cipher_suites: Vec<String>,
    /// `tlsCurvePreferences`: numbers of key exchanges that are allowed, in any order.
    pub curves: Vec<i32>,
}

/// Why these settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A version nobody knows.
    #[error("unknown tls version {0:?}")]
    Version(String),
    /// A suite nobody knows.
    #[error("Cipher suite {0} not supported or doesn't exist")]
    CipherSuite(String),
    /// A number that cannot be a curve's.
    #[error("curve preference {0} is out of range (must be 1-65535)")]
    CurveRange(i32),
    /// A curve that is there twice.
    #[error("duplicate curve preference {0}")]
    CurveTwice(i32),
    /// No curve would be left.
    #[error(
        "none of tlsCurvePreferences is supported: 23 (P-256), 24 (P-384) and 29 (X25519) are, add one of them"
    )]
    NoCurve,
    /// They contradict each other.
    #[error("these TLS settings cannot be used together")]
    Together(#[from] rustls::Error),
}

/// What becomes of a suite's name.
enum Suite {
    /// It is done.
    Done(CipherSuite),
    /// It is one of TLS 1.3, which are always done.
    Tls13,
    /// Go knows it, and it is not done here.
    Lacking,
}

impl TlsSettings {
    /// The settings as rustls has them, and what of them cannot be done.
    pub(super) fn builder(
        &self,
    ) -> Result<(ConfigBuilder<ServerConfig, WantsVerifier>, Vec<String>), TlsError> {
        let mut warnings = vec![];
        let (tls12, tls13): (_, &[&SupportedProtocolVersion]) = (&[&TLS13, &TLS12], &[&TLS13]);
        let mut versions: &[&SupportedProtocolVersion] = match self.min_version.as_str() {
            "" | "VersionTLS12" => tls12,
            "VersionTLS13" => tls13,
            "VersionTLS10" | "VersionTLS11" => {
                let asked = &self.min_version;
                warnings.push(format!(
                    "tlsMinVersion {asked}: older versions than TLS 1.2 are not supported, 1.2 and 1.3 are served"
                ));
                tls12
            }
            other => return Err(TlsError::Version(other.to_owned())),
        };
        let mut provider = ring::default_provider();
        let left = self.choose_suites(&mut provider, &mut warnings, versions.len() == 1)?;
        if !left {
            versions = tls13;
        }
        self.choose_curves(&mut provider, &mut warnings)?;
        let builder = ServerConfig::builder_with_provider(Arc::new(provider));
        Ok((builder.with_protocol_versions(versions)?, warnings))
    }

    /// Returns whether a suite of TLS 1.2 is left.
    fn choose_suites(
        &self,
        provider: &mut CryptoProvider,
        warnings: &mut Vec<String>,
        only_tls13: bool,
    ) -> Result<bool, TlsError> {
        if self.cipher_suites.is_empty() {
            return Ok(true);
        }
        let (mut wanted, mut lacking) = (vec![], vec![]);
        for name in &self.cipher_suites {
            match suite(name).ok_or_else(|| TlsError::CipherSuite(name.clone()))? {
                Suite::Done(suite) => wanted.push(suite),
                Suite::Tls13 => {}
                Suite::Lacking => lacking.push(name.as_str()),
            }
        }
        if only_tls13 {
            warnings.push(
                "tlsCipherSuites: the suites of TLS 1.3 cannot be chosen, with tlsMinVersion VersionTLS13 it is ignored"
                    .to_owned(),
            );
            return Ok(true);
        }
        if !lacking.is_empty() {
            warnings.push(format!("tlsCipherSuites: not supported and left out: {}", lacking.join(", ")));
        }
        if wanted.is_empty() {
            warnings.push("tlsCipherSuites: no suite of TLS 1.2 is left, only TLS 1.3 is served".to_owned());
        }
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || wanted.contains(&suite.suite()));
        Ok(!wanted.is_empty())
    }

    fn choose_curves(
        &self,
        provider: &mut CryptoProvider,
        warnings: &mut Vec<String>,
    ) -> Result<(), TlsError> {
        if self.curves.is_empty() {
            return Ok(());
        }
        let (mut wanted, mut lacking) = (vec![], vec![]);
        for (index, &number) in self.curves.iter().enumerate() {
            let id = u16::try_from(number).ok().filter(|id| *id > 0);
            let group = NamedGroup::from(id.ok_or(TlsError::CurveRange(number))?);
            if self.curves[..index].contains(&number) {
                return Err(TlsError::CurveTwice(number));
            }
            if provider.kx_groups.iter().any(|known| known.name() == group) {
                wanted.push(group);
            } else {
                lacking.push(curve_words(number));
            }
        }
        if wanted.is_empty() {
            return Err(TlsError::NoCurve);
        }
        if !lacking.is_empty() {
            warnings.push(format!("tlsCurvePreferences: not supported and left out: {}", lacking.join(", ")));
        }
        provider.kx_groups.retain(|group| wanted.contains(&group.name()));
        Ok(())
    }
}

/// What is done of a suite that Go's crypto/tls knows.
fn suite(name: &str) -> Option<Suite> {
    use CipherSuite as S;
    Some(match name {
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => Suite::Done(S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => Suite::Done(S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        // The names without a hash are older.
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => {
            Suite::Done(S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256)
        }
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => Suite::Done(S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => Suite::Done(S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" | "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" => {
            Suite::Done(S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256)
        }
        "TLS_AES_128_GCM_SHA256" | "TLS_AES_256_GCM_SHA384" | "TLS_CHACHA20_POLY1305_SHA256" => Suite::Tls13,
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"
        | "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256"
        | "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"
        | "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA"
        | "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA"
        | "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"
        | "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256"
        | "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"
        | "TLS_ECDHE_RSA_WITH_RC4_128_SHA"
        | "TLS_RSA_WITH_3DES_EDE_CBC_SHA"
        | "TLS_RSA_WITH_AES_128_CBC_SHA"
        | "TLS_RSA_WITH_AES_128_CBC_SHA256"
        | "TLS_RSA_WITH_AES_128_GCM_SHA256"
        | "TLS_RSA_WITH_AES_256_CBC_SHA"
        | "TLS_RSA_WITH_AES_256_GCM_SHA384"
        | "TLS_RSA_WITH_RC4_128_SHA" => Suite::Lacking,
        _ => return None,
    })
}

fn curve_words(number: i32) -> String {
    let name = match number {
        25 => " (P-521)",
        4587 => " (SecP256r1MLKEM768)",
        4588 => " (X25519MLKEM768)",
        4589 => " (SecP384r1MLKEM1024)",
        _ => "",
    };
    format!("{number}{name}")
}
