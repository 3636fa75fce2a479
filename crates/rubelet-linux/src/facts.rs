//! Facts about the machine from `/proc` and the kernel, read once when asked.

use std::fs;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

/// What the agent needs to know of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineFacts {
    /// Memory in bytes.
    pub memory: u64,
    /// Logical CPUs this process may use.
    pub cpus: u32,
    /// Host name as the kernel has it.
    pub hostname: String,
    /// Kernel release, for example `6.1.0-18-amd64`.
    pub kernel_release: String,
    /// Kernel version as (major, minor).
    pub kernel: (u32, u32),
    /// Boot ID.
    pub boot_id: String,
    /// Swap devices are in use.
    pub swap_in_use: bool,
    /// The unified cgroup hierarchy is mounted at `/sys/fs/cgroup`.
    pub cgroup_v2: bool,
    /// AppArmor is enabled in the kernel.
    pub apparmor: bool,
    /// SELinux is enabled in the kernel.
    pub selinux: bool,
    /// `thermal_throttle` directories of CPUs, which tell a container about its neighbours.
    pub thermal_throttle_paths: Vec<String>,
}

/// Reads the facts.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn machine() -> io::Result<MachineFacts> {
    let uname = rustix::system::uname();
    let kernel_release = uname.release().to_string_lossy().into_owned();
    let read = |path: &str| fs::read_to_string(path);
    Ok(MachineFacts {
        memory: memory_total(&read("/proc/meminfo")?),
        cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        hostname: uname.nodename().to_string_lossy().into_owned(),
        kernel: kernel_version(&kernel_release),
        kernel_release,
        boot_id: read("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
        swap_in_use: read("/proc/swaps").is_ok_and(|text| text.lines().count() > 1),
        cgroup_v2: Path::new(crate::cgroup::MOUNT).join("cgroup.controllers").exists(),
        apparmor: read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y')),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        thermal_throttle_paths: thermal_throttle_paths(),
    })
}

/// The address this machine uses towards its default route, without sending anything; loopback when there is no
/// route at all.
pub fn default_route_ips() -> Vec<IpAddr> {
    // Connecting a datagram socket only makes the kernel choose a source address.
    let chosen = |bind: &str, to: &str| {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    };
    // Addresses of the documentation ranges: routed by the default route wherever there is one.
    let found: Vec<IpAddr> = [chosen("0.0.0.0:0", "192.0.2.1:9"), chosen("[::]:0", "[2001:db8::1]:9")]
        .into_iter()
        .flatten()
        .collect();
    if found.is_empty() { vec![IpAddr::from([127, 0, 0, 1])] } else { found }
}

fn thermal_throttle_paths() -> Vec<String> {
    let cpus = fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let mut paths: Vec<String> = cpus
        .map(|cpu| cpu.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .filter_map(|path| path.into_os_string().into_string().ok())
        .collect();
    paths.sort();
    paths
}

fn memory_total(meminfo: &str) -> u64 {
    let kib = meminfo.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kib.unwrap_or(0) * 1024
}

fn kernel_version(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_machine_and_parses_text() {
        let facts = machine().unwrap();
        assert!(facts.memory > 0 && facts.cpus > 0 && !facts.hostname.is_empty());
        assert_eq!(memory_total("MemTotal:       16384 kB\nMemFree: 1 kB\n"), 16384 * 1024);
        assert_eq!(memory_total("nonsense"), 0);
        assert_eq!(kernel_version("6.18.44-fc-v657"), (6, 18));
        assert_eq!(kernel_version("nonsense"), (0, 0));
    }
}
