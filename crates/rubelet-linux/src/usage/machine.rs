//! What the machine is, and since when it runs. Reads procfs; keeps nothing.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rubelet_core::stats::usage::{MachineUsage, Pressure};

use super::parse::{lines, meminfo, number, value};
use super::psi;
use crate::node_facts::NodeMachine;

/// Memory and swap of the machine, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineMemory {
    /// Memory.
    pub total: Option<u64>,
    /// Swap.
    pub swap_total: Option<u64>,
    /// Swap in use.
    pub swap_used: Option<u64>,
}

impl MachineMemory {
    /// As it is now.
    pub fn read() -> Self {
        Self::of(&std::fs::read("/proc/meminfo").unwrap_or_default())
    }

    fn of(text: &[u8]) -> Self {
        let swap_total = meminfo(text, "SwapTotal");
        let swap_used = swap_total.zip(meminfo(text, "SwapFree")).map(|(all, free)| all.saturating_sub(free));
        Self { total: meminfo(text, "MemTotal"), swap_total, swap_used }
    }
}

/// What the machine is, in the words of its statistics.
pub fn machine_usage(machine: &NodeMachine) -> MachineUsage {
    let (cores, sockets) = topology(&std::fs::read("/proc/cpuinfo").unwrap_or_default());
    let identity = &machine.identity;
    MachineUsage {
        cpus: u64::from(machine.cpus),
        physical_cores: cores,
        sockets,
        memory: machine.memory_bytes,
        swap: identity.swap_bytes,
        machine_id: identity.machine_id.clone(),
        system_uuid: identity.system_uuid.clone(),
        boot_id: identity.boot_id.clone(),
        kernel: identity.kernel_release.clone(),
        os: identity.os_image.clone(),
    }
}

/// When the machine was started.
pub fn boot_time() -> Option<Timestamp> {
    let seconds = value(&std::fs::read("/proc/stat").ok()?, "btime")?;
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}

/// Pressure on the machine.
pub fn machine_pressure() -> Pressure {
    let read = |name: &str| psi::pressure(&std::fs::read(format!("/proc/pressure/{name}")).ok()?);
    Pressure { cpu: read("cpu"), memory: read("memory"), io: read("io") }
}

/// Physical cores and sockets in `/proc/cpuinfo`; where it does not tell, what sysfs says.
fn topology(cpuinfo: &[u8]) -> (u64, u64) {
    let (mut cores, mut sockets, mut socket) = (BTreeSet::new(), BTreeSet::new(), 0);
    for line in lines(cpuinfo) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (key, value) = (line[..colon].trim_ascii(), number(&line[colon + 1..]));
        match (key, value) {
            (b"physical id", Some(id)) => {
                socket = id;
                sockets.insert(id);
            }
            // Each socket numbers its cores from zero.
            (b"core id", Some(id)) => {
                cores.insert((socket, id));
            }
            _ => {}
        }
    }
    if !cores.is_empty() && !sockets.is_empty() {
        return (cores.len() as u64, sockets.len() as u64);
    }
    topology_of_sysfs()
}

fn topology_of_sysfs() -> (u64, u64) {
    let (mut cores, mut sockets) = (BTreeSet::new(), BTreeSet::new());
    for cpu in std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten() {
        let id = |name: &str| number(&std::fs::read(cpu.path().join("topology").join(name)).ok()?);
        if let Some(core) = id("core_id") {
            let socket = id("physical_package_id").unwrap_or(0);
            cores.insert((socket, core));
            sockets.insert(socket);
        }
    }
    (cores.len() as u64, sockets.len() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cores_are_counted_in_each_socket() {
        let cpu = |socket, core| {
            format!("processor\t: 0\nphysical id\t: {socket}\ncpu cores\t: 2\ncore id\t\t: {core}\n\n")
        };
        let text = [cpu(0, 0), cpu(0, 1), cpu(0, 0), cpu(1, 0), cpu(1, 1)].concat();
        assert_eq!(topology(text.as_bytes()), (4, 2));
    }

    #[test]
    fn memory_and_swap() {
        let memory = MachineMemory::of(b"MemTotal: 100 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n");
        assert_eq!(memory.total, Some(100 << 10));
        assert_eq!((memory.swap_total, memory.swap_used), (Some(10 << 10), Some(6 << 10)));
        assert_eq!(MachineMemory::of(b"nonsense"), MachineMemory::default());
    }

    #[test]
    fn this_machine() {
        let machine = machine_usage(&crate::node_facts::machine());
        assert!(machine.cpus > 0 && machine.memory > 0 && !machine.boot_id.is_empty());
        let boot = boot_time().unwrap();
        assert!(boot > Timestamp::UNIX_EPOCH);
        assert!(MachineMemory::read().total.unwrap() > 0);
        let _ = machine_pressure();
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (MachineMemory::of(&bytes), topology(&bytes));
        }
    }
}
