//! The agent's configuration: files, drop-ins and flags in; one validated value or all errors out.
pub mod duration;
mod configuration;
mod fields;
mod gate_table;
mod flags;
mod gates;
pub use flags::KubeletFlags;
pub use gate_table::Gate;
pub use gates::*;
mod problem;
mod suggest;
mod tree;
mod types;
pub use configuration::KubeletConfiguration;
pub use types::*;
pub use problem::*;
