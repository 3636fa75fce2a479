//! The Container Runtime Interface, v1: everything the agent says to containerd or CRI-O goes through here.
//!
//! Owns the wire types ([`v1`]), the two service traits that the rest of the agent programs against
//! ([`RuntimeService`], [`ImageService`]), the client over a unix socket in which every call has a deadline
//! ([`CriClient`]), the start-up check ([`connect`]) and the translation of the runtime's answers into the
//! agent's vocabulary ([`observe`]).
//! Never decides what to do with a pod and never retries a call: both belong to the caller.

pub mod backoff;
pub mod client;
pub mod connect;
pub mod containerd_content;
pub mod deadline;
pub mod endpoint;
pub mod error;
mod link;
pub mod observe;
mod redact;
pub mod service;
pub mod translate;
pub mod v1;

pub use client::{CriClient, MetadataHook, SPAN_TARGET, code_name};
pub use containerd_content::{ContainerdContent, PullWatch};
pub use deadline::Deadlines;
pub use endpoint::{CriEndpoint, EndpointError};
pub use error::{CriError, CriErrorKind, Disposition};
pub use service::{ContainerEventStream, CriFuture, ImageService, RuntimeService};
