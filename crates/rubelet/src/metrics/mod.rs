//! The agent's side of its metrics: where values come from that are asked for when `/metrics` is, and what turns what
//! other crates tell into counts. The metrics themselves are `rubelet_server::metrics`.
//!
//! - `collect`: values that the table of pods, Pleg, certificates and gates hold
//! - `startup`: how long pods take to start
//! - `node_startup`: how long the node took
//! - `observers`: requests to the API server, operations on volumes

mod collect;
mod node_startup;
mod observers;
mod startup;

pub use rubelet_server::metrics::Metrics;

pub use collect::serving_certificate;
pub(crate) use collect::{ClientCertificate, NodeFacts, PodFacts, certificates, node, plugins, pods};
pub(crate) use node_startup::NodeStartup;
pub(crate) use observers::{csi_calls, requests, volumes};
pub use startup::StartupLatency;
