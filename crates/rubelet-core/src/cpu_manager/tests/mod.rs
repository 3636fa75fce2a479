//! Tests of the CPU manager: upstream's vectors, exhaustive search, and random lives of pods.

mod choice;
mod life;
mod restart;

use super::machines::set;
use super::{CpuManager, CpuPolicy, ReservedCpus, StaticOptions};
use crate::topology::MachineTopology;

/// A static manager that reserves these CPUs.
fn manager(machine: &MachineTopology, options: StaticOptions, reserved: &str) -> CpuManager {
    let reserved = ReservedCpus { explicit: set(reserved), count: 0 };
    CpuManager::new(machine.clone(), CpuPolicy::Static(options), &reserved).unwrap()
}
