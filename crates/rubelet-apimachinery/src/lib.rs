//! What a Kubernetes API server decides, without doing any of it: kinds and their types, decoding, patches, field
//! ownership, selectors, defaults and validation, printed columns, discovery and OpenAPI.
//!
//! Pure: values in, values out. No clock, file, socket, lock or task; who calls passes the time, the user and a way to
//! look things up. `rubelet-localapi` is the server around it.
//!
//! Objects are `serde_json::Value`s that follow the published types ([`schema`]), so that one body of code serves every
//! kind; rules that belong to one kind are in [`strategy`].

pub mod binding;
pub mod decode;
pub mod discovery;
pub mod events;
pub mod kinds;
pub mod managed_fields;
pub mod node_metrics;
pub mod node_taints;
pub mod openapi;
pub mod partial;
pub mod patch;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod table;
pub mod user;

pub use kinds::Resource;
pub use status::ApiError;
pub use user::User;
