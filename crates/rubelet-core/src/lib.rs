//! The vocabulary and every decision of the node agent, as pure functions.
//!
//! This crate knows no clock, file, socket, lock or task. Functions take what was desired, what was
//! observed, the facts they need and `now`; they return plans and statuses, which are values. The shell
//! carries plans out and decides nothing. `cargo xtask tidy` holds the crate to its dependency allow-list.

pub mod actions;
pub mod admission;
pub mod backoff;
pub mod certificates;
pub mod claims;
pub mod container_gc;
pub mod container_log;
pub mod containers;
pub mod cpu_manager;
pub mod cpu_set;
pub mod defaults;
pub mod devices;
pub mod dns;
pub mod downward;
pub mod dra;
pub mod env;
pub mod event_correlation;
pub mod eviction;
pub mod explain;
mod go_dump;
pub mod hash;
pub mod hostname;
pub mod hosts;
pub mod ids;
pub mod image;
pub mod image_credentials;
pub mod image_gc;
pub mod image_volumes;
pub mod json;
pub mod kill;
pub mod labels;
pub mod lifecycle;
pub mod log_rotation;
pub mod memory_manager;
pub mod mirror;
pub mod mounts;
pub mod node;
pub mod node_authz;
pub mod observed;
pub mod oom;
pub mod paths;
pub mod phase;
pub mod plan;
pub mod pod_builder;
pub mod pod_change;
pub mod preemption;
pub mod preflight;
pub mod probes;
pub mod projection;
pub mod pull_progress;
pub mod pulled_images;
pub mod qos;
pub mod quantity;
pub mod resize;
pub mod resources;
pub mod restart;
pub mod runtime_class;
pub mod security;
pub mod service_env;
pub mod shutdown;
pub mod startup_latency;
pub mod static_pod;
pub mod stats;
pub mod status;
pub mod tally;
pub mod termination;
pub mod token_bucket;
pub mod topology;
pub mod topology_manager;
pub mod validation;
pub mod verdicts;
pub mod volumes;

#[cfg(test)]
mod fixtures;

pub use k8s_openapi::api::core::v1::Pod;
