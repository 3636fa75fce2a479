//! CPUs of its own for a container: the CPU manager.
//!
//! Owns who has which CPUs ([`CpuManager`]), the choice among those that are free (`take`, `distribute`), what it
//! says to the topology manager, and the text of its checkpoint. It never touches a cgroup or a file: the shell's
//! container manager asks it, writes [`CpuManager::state`] and gives containers [`CpuManager::cpus`].

mod checkpoint;
mod distribute;
mod hints;
mod layout;
mod manager;
mod options;
mod requests;
mod restore;
mod take;

#[cfg(test)]
mod machines;
#[cfg(test)]
mod tests;

pub use checkpoint::{Checkpoint, CheckpointError, Entries};
pub use manager::{CpuManager, CpuManagerError, Figures, ReservedCpus};
pub use options::{CpuPolicy, OptionsError, StaticOptions};
pub use requests::{exclusive_cpus, pod_exclusive_cpus};
pub use restore::{Restored, RunningContainer};

use std::collections::BTreeMap;

use crate::cpu_set::CpuSet;
use crate::ids::PodUid;

/// CPUs by pod and container.
pub type Assignments = BTreeMap<PodUid, BTreeMap<String, CpuSet>>;
