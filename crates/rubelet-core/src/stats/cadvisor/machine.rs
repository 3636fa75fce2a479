//! The machine. Called by `cadvisor`.

use crate::stats::exposition::{Exposition, Kind};
use crate::stats::usage::{MachineUsage, NodeUsage};

/// Writes the versions of kernel and operating system; cAdvisor's own are empty in a kubelet.
pub(super) fn write_version(machine: &MachineUsage, document: &mut Exposition) {
    if machine.kernel.is_empty() && machine.os.is_empty() {
        return;
    }
    let name = "cadvisor_version_info";
    document.family(
        name,
        "Always 1; its labels tell the versions of kernel and operating system",
        Kind::Gauge,
    );
    let labels = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", machine.kernel.as_str()),
        ("osVersion", machine.os.as_str()),
    ];
    document.sample(name, &labels, 1u64, None);
}

/// Writes what is known of the machine.
pub(super) fn write(usage: &NodeUsage, document: &mut Exposition) {
    let machine = &usage.machine;
    let labels = [
        ("boot_id", machine.boot_id.as_str()),
        ("machine_id", machine.machine_id.as_str()),
        ("system_uuid", machine.system_uuid.as_str()),
    ];
    let at = Some(usage.root.at.as_millisecond()).filter(|at| *at > 0);
    let known = |count: u64| Some(count).filter(|count| *count > 0);
    // A machine without memory is one that was not read; without swap there are many.
    let swap = known(machine.memory).map(|_| machine.swap);
    for (name, help, value) in [
        ("machine_cpu_cores", "Logical CPUs", known(machine.cpus)),
        ("machine_cpu_physical_cores", "Physical cores", known(machine.physical_cores)),
        ("machine_cpu_sockets", "CPU sockets", known(machine.sockets)),
        ("machine_memory_bytes", "Memory of the machine, in bytes", known(machine.memory)),
    ] {
        document.family(name, help, Kind::Gauge);
        if let Some(value) = value {
            document.sample(name, &labels, value, at);
        }
    }
    let name = "machine_scrape_error";
    document.family(name, "1 when the machine could not be read, otherwise 0", Kind::Gauge);
    document.sample(name, &[], machine.memory == 0 || machine.cpus == 0, None);
    let name = "machine_swap_bytes";
    document.family(name, "Swap of the machine, in bytes", Kind::Gauge);
    if let Some(swap) = swap {
        document.sample(name, &labels, swap, at);
    }
}
