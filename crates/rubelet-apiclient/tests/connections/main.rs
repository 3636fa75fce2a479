//! The agent's connections against a small API server over real sockets and TLS, on loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod certs;
mod credentials;
mod explanations;
mod identity;
mod server;
mod setup;
mod transport;
