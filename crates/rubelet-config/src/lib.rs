//! The agent's configuration: flags, files and drop-ins in, one validated value or all errors out.
//!
//! Owns `KubeletConfiguration` v1beta1 as of Kubernetes 1.36 (fields, defaults, validation, feature
//! gates) and the kubelet's command line. It never starts anything, never looks at the machine
//! beyond the files it is told to read, and never writes. The shell calls [`load`] once; library
//! users fill a [`KubeletConfiguration`] and call [`KubeletConfiguration::validate`].
//!
//! The way of a value: `tree` (text to located values) → `document` (right kind?) → `fields`
//! (types, merging onto `configuration`) → `load` (order of sources, `flags` on top) →
//! `validate` (meaning). Problems carry their place all the way and are never cut short.

mod acted_on;
mod configuration;
mod document;
mod duration;
mod fields;
mod files;
mod flags;
mod gate_table;
mod gates;
mod load;
mod local;
mod local_defaults;
mod problem;
mod suggest;
mod tree;
mod types;
mod validate;

pub use acted_on::not_acted_on;
pub use configuration::KubeletConfiguration;
pub use duration::{GoDuration, LogFlushFrequency, ParseDurationError};
pub use files::{Files, OsFiles};
pub use flags::{KubeletFlags, flags_in_force};
pub use gate_table::Gate;
pub use gates::{FeatureGates, GateSpec, Stage};
pub use load::{KUBERNETES_VERSION, LoadErrors, Loaded, Outcome, load, load_from};
pub use local::{LocalCommand, LocalFlags, ServiceAccountAccess, parse_local};
pub use local_defaults::apply_local_defaults;
pub use problem::{Origin, Origins, Problem};
pub use types::*;
