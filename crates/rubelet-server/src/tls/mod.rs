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

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::{NoServerSessionStorage, WantsServerCert};
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use client_ca::{CaError, ClientCa};
pub use serving_cert::{CertError, ServingCert};
pub use settings::{TlsError, TlsSettings};

use crate::listen::Peer;
use client_ca::Roots;

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

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

    /// Receives a client that connects from `from`: its stream, and what it shows.
    ///
    /// # Errors
    /// A handshake that fails or takes too long.
    pub async fn accept<S>(&self, stream: S, from: SocketAddr) -> io::Result<(Box<TlsStream<S>>, Peer)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // In a box of its own: what a handshake needs is not to be kept for the rest of the connection.
        let accepting = Box::pin(self.acceptor().accept(stream));
        let stream = Box::new(tokio::time::timeout(HANDSHAKE, accepting).await??);
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificates = shown.iter().map(|c| c.clone().into_owned()).collect();
        Ok((stream, Peer { certificates, address: from }))
    }

    /// What receives the next client.
    fn acceptor(&self) -> TlsAcceptor {
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
