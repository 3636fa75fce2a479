//! What a node agent serves of its pods: logs, and the streams of exec, attach and port-forward.
//!
//! Each is a function from a request to a response; who may ask is decided by whoever listens. Nothing here knows
//! which pods there are or calls the container runtime's API: the caller names the log file, or the streaming URL
//! that the runtime gave for a command.

pub mod api;
pub mod auth;
mod body;
pub mod listen;
pub mod logs;
pub mod metrics;
pub mod node;
pub mod node_logs;
mod path;
mod problem;
mod query;
pub mod streams;
pub mod tls;

pub use body::Body;
pub use problem::Problem;
