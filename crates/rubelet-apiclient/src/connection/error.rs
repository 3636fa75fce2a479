//! What can go wrong between the agent and an answer of the API server. `explain` turns it into advice.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::credentials::CredentialError;
use crate::identity::IdentityError;

/// Why there is no connection. Shared by all requests that waited for it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// The name has no address.
    #[error("{host} cannot be resolved")]
    Dns {
        /// The name.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody answers there.
    #[error("no TCP connection to {address}")]
    Tcp {
        /// Host and port.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// All steps together took too long.
    #[error("no connection to {address} within {} s", after.as_secs_f32())]
    TimedOut {
        /// Host and port.
        address: String,
        /// The bound.
        after: Duration,
    },
    /// The proxy does not let us through.
    #[error("proxy {proxy} gives no tunnel to {address}: {answer}")]
    Proxy {
        /// The proxy's host and port.
        proxy: String,
        /// The server's host and port.
        address: String,
        /// Its status line, or what happened instead.
        answer: String,
    },
    /// TLS found fault with the server, or the server with us.
    #[error("no TLS connection to {address}")]
    Tls {
        /// Host and port.
        address: String,
        /// Why; a `rustls::Error` is inside when it is TLS's.
        source: std::io::Error,
    },
    /// The authority's certificates cannot be read.
    #[error(
        "certificate authority {path} cannot be read; check that it exists and that the agent may read it"
    )]
    CaRead {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The authority's certificates cannot be used.
    #[error("certificate authority {origin} cannot be used")]
    Ca {
        /// The file or field.
        origin: String,
        /// Why.
        source: IdentityError,
    },
    /// The machine has no certificate bundle and the kubeconfig names no authority.
    #[error(
        "no certificate authority: {kubeconfig} names none and this machine has no bundle; set certificate-authority"
    )]
    NoCa {
        /// The kubeconfig.
        kubeconfig: PathBuf,
    },
    /// The server's name cannot be checked.
    #[error("{name:?} cannot be the name in a server certificate; set tls-server-name in the kubeconfig")]
    ServerName {
        /// The host or tls-server-name.
        name: String,
    },
    /// TLS cannot be set up at all.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    /// Certificate, token or plugin.
    #[error("no credentials")]
    Credentials(#[source] CredentialError),
    /// HTTP does not start on the new connection.
    #[error("no HTTP connection to {address}")]
    Http {
        /// Host and port.
        address: String,
        /// Why.
        source: hyper::Error,
    },
    /// The task that made the connection ended; a fault of the agent.
    #[error("the connection attempt was given up")]
    GivenUp,
}

/// Why a request got no answer. Inside `kube::Error::Service`.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// There is no connection.
    #[error("the API server cannot be reached")]
    Connect(#[source] Arc<ConnectFailure>),
    /// Certificate, token or plugin.
    #[error("no credentials for the request")]
    Credentials(#[source] CredentialError),
    /// The connection ended before the answer.
    #[error("{method} {path}: the connection ended before the answer came{}", reason(io))]
    Lost {
        /// The request's method.
        method: http::Method,
        /// Its path.
        path: String,
        /// What the stream below reported first, if anything.
        io: Option<Arc<std::io::Error>>,
        /// What HTTP made of it.
        source: hyper::Error,
    },
    /// No answer in time.
    #[error("{method} {path}: no answer within {} s", after.as_secs_f32())]
    Deadline {
        /// The request's method.
        method: http::Method,
        /// Its path.
        path: String,
        /// The bound.
        after: Duration,
    },
    /// The answer's body did not come in time.
    #[error("the answer did not end in time")]
    BodyDeadline,
    /// The answer's body broke off.
    #[error("the answer broke off")]
    Body(#[source] hyper::Error),
    /// The request's body could not be read.
    #[error("the request has no readable body: {0}")]
    RequestBody(String),
    /// The request has no usable path.
    #[error("the request's address cannot be built from {0}")]
    Address(String),
}

fn reason(io: &Option<Arc<std::io::Error>>) -> String {
    io.as_ref().map_or_else(String::new, |io| format!(" ({io})"))
}
