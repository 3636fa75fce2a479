//! The machine as pinning sees it, and where on it resources may come from.
//!
//! Owns the shape of a machine ([`MachineTopology`]), sets of its NUMA nodes ([`NumaMask`]) and what providers of
//! resources ([`HintProvider`]) say of them ([`Hint`]); never reads a machine and never assigns anything.

mod machine;
mod mask;
mod provider;

pub use machine::{Cpu, MachineTopology, NumaNode};
pub use mask::NumaMask;
pub use provider::{HintProvider, Unallocatable};

use std::collections::BTreeMap;

/// One way to serve a request: from these NUMA nodes (upstream `TopologyHint`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The nodes; `None` is any.
    pub nodes: Option<NumaMask>,
    /// Whether it uses as few nodes as the request could ever need.
    pub preferred: bool,
}

/// What one provider (CPUs, memory, devices) says of a request, by resource. `None` has no wish; an empty list means
/// that it cannot be served at all.
pub type ProviderHints = BTreeMap<String, Option<Vec<Hint>>>;
