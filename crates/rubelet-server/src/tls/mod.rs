//! TLS of the kubelet API: what is spoken, what the server shows, and whose client certificates count.
//!
//! What the server shows and whom it believes can be replaced at any time: connections that are open go on, the next
//! ones get the new. Reads no file and asks no clock. Put together by the shell; used by the listener (to receive) and
//! by authentication (to judge what a client showed).
//!
//! - `settings`: versions, cipher suites and key exchanges, as configured
//! - `serving_cert`: what the server shows
//! - `client_ca`: whose certificates clients may show
//! - `self_signed`: a certificate for a server that nobody gave one

mod client_ca;
pub mod self_signed;
mod serving_cert;
mod settings;
#[cfg(test)]
pub(crate) mod test_pki;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{NoServerSessionStorage, WantsServerCert};
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier};
use tokio_rustls::TlsAcceptor;

pub use client_ca::{CaError, ClientCa};
pub use serving_cert::{CertError, ServingCert};
pub use settings::{TlsError, TlsSettings};

use client_ca::Roots;

/// What it takes to receive clients over TLS. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    builder: ConfigBuilder<ServerConfig, WantsVerifier>,
    cert: ServingCert,
    ca: ClientCa,
    /// Made for the authorities that were known last: a handshake names them, so that clients can choose.
    made: ArcSwap<Made>,
}

struct Made {
    roots: Arc<Roots>,
    config: Arc<ServerConfig>,
}

impl Tls {
    /// A server that speaks as `settings` say, shows `cert`, and asks clients for certificates of `ca`; without
    /// authorities nobody is asked. Also returns what is configured and cannot be done, to be told.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(
        settings: &TlsSettings,
        cert: ServingCert,
        ca: ClientCa,
    ) -> Result<(Self, Vec<String>), TlsError> {
        let (builder, warnings) = settings.builder()?;
        let made = make(builder.clone(), &cert, ca.roots());
        Ok((Self(Arc::new(Shared { builder, cert, ca, made: ArcSwap::from_pointee(made) })), warnings))
    }

    /// What receives the next client.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let (made, roots) = (self.0.made.load(), self.0.ca.roots());
        if Arc::ptr_eq(&made.roots, &roots) {
            return TlsAcceptor::from(made.config.clone());
        }
        let made = make(self.0.builder.clone(), &self.0.cert, roots);
        let config = made.config.clone();
        self.0.made.store(Arc::new(made));
        TlsAcceptor::from(config)
    }
}

fn make(builder: ConfigBuilder<ServerConfig, WantsVerifier>, cert: &ServingCert, roots: Arc<Roots>) -> Made {
    let builder: ConfigBuilder<ServerConfig, WantsServerCert> = match roots.asker() {
        Some(asker) => builder.with_client_cert_verifier(asker),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(cert.clone()));
    // A resumed session would keep the identity that was shown at its beginning.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Made { roots, config: Arc::new(config) }
}
