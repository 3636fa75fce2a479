//! A Kubernetes API for one node: `rubelet-apimachinery`'s decisions around an embedded store.
//!
//! Tasks and values: `store` holds every object and tells of changes; `engine` answers one request; `auth` says who asks
//! and who may; `controllers` make true what only a control plane can; `local` puts them together behind the listener of
//! `rubelet-server`. It knows nothing of containers: what a node does for a request (logs, exec) is asked of a
//! [`node::NodeStreams`].

pub mod auth;
pub mod controllers;
pub mod engine;
pub mod local;
pub mod node;
pub mod pki;
pub mod store;
