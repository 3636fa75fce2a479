//! One probe of one container, carried out: HTTP, TCP, gRPC and exec, each with upstream's idea of what success is.
//!
//! A probe is given everything it needs and returns a [`ProbeOutcome`] within its timeout; it neither knows when it is
//! due nor what follows from it: `rubelet_core::probes` decides that, the prober of the shell calls both. Lifecycle
//! hooks over HTTP use the same client.

mod dial;
pub mod exec;
pub mod grpc;
pub mod http;
pub mod target;
pub mod tcp;
mod words;

pub use rubelet_core::probes::ProbeOutcome;
