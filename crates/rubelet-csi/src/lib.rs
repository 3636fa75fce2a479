//! The Container Storage Interface (CSI 1.x): wire types generated from `proto/csi.proto` ([`v1`]), and a client of a
//! driver's identity and node services with deadlines ([`CsiClient`]). It speaks; what to call when, and how often, is
//! `rubelet-volumes`'. Knows no other crate of the agent.

pub mod client;
pub mod error;
mod redact;
pub mod request;
mod socket;
pub mod v1;

pub use client::{
    CallObserver, CallRecord, CsiClient, CsiDeadlines, NodeCapabilities, NodeInfo, PluginInfo, Usage,
    VolumeCondition, VolumeStats,
};
pub use error::CsiError;
pub use request::{Access, Capability, ExpandRequest, PublishRequest, Secrets, StageRequest, StatsRequest};
/// Codes of gRPC, with which drivers say what went wrong.
pub use tonic::Code;
/// Who may use a volume at the same time, in the protocol's words.
pub use v1::volume_capability::access_mode::Mode as AccessMode;
