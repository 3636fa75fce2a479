//! Pod sources: each delivers full sets of pods to `PodConfig` and nothing else.

pub mod api;
pub mod file;
pub mod http;
pub mod yaml;
