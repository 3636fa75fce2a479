//! Facts for the Node object: who this machine is, what it has, what is left of it, which addresses it has.
//!
//! Reads `/proc`, `/sys`, `/etc` and the kernel's interface list whenever it is asked; keeps nothing and decides
//! nothing. Called by the shell's node agent through its probe.

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;

use rubelet_core::node::capacity::{HugePages, count_cpus};
use rubelet_core::node::info::{MachineIdentity, go_arch};
use rubelet_core::node::pressure::Observation;

/// What the machine is and has; it changes with a reboot only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeMachine {
    /// Who it is.
    pub identity: MachineIdentity,
    /// Online logical CPUs, whatever this process may use of them.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Huge pages by size, smallest first.
    pub huge_pages: Vec<HugePages>,
}

/// Space and inodes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Bytes, those open to unprivileged users as available.
    pub bytes: Observation,
    /// Inodes; `None` on file systems that have no such limit.
    pub inodes: Option<Observation>,
}

/// Reads what the machine is and has. What cannot be read is empty or zero.
pub fn machine() -> NodeMachine {
    let meminfo = text("/proc/meminfo");
    let kib = |name: &str| meminfo_kib(&meminfo, name).unwrap_or(0).saturating_mul(1024);
    let system_uuid = first_text(&[
        "/sys/class/dmi/id/product_uuid",
        "/proc/device-tree/system-id",
        "/proc/device-tree/vm,uuid",
        "/etc/machine-id",
    ]);
    let machine_id = first_text(&[
        "/etc/machine-id",
        "/var/lib/dbus/machine-id",
        // Images without an ID of their own: better the firmware's than none.
        "/sys/class/dmi/id/product_uuid",
    ]);
    NodeMachine {
        identity: MachineIdentity {
            machine_id,
            system_uuid,
            boot_id: first_text(&["/proc/sys/kernel/random/boot_id"]),
            kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
            os_image: os_image(&["/etc/os-release", "/usr/lib/os-release"]),
            swap_bytes: kib("SwapTotal"),
            architecture: go_arch().to_owned(),
        },
        cpus: online_cpus(),
        memory_bytes: kib("MemTotal"),
        huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
    }
}

/// Memory that is free or can be had back at once, in upstream's sense: all but the working set.
pub fn memory_left() -> Option<Observation> {
    memory_left_of(&text("/proc/meminfo"))
}

fn memory_left_of(meminfo: &str) -> Option<Observation> {
    let bytes = |name: &str| i64::try_from(meminfo_kib(meminfo, name)?.saturating_mul(1024)).ok();
    // The root cgroup's usage is total minus free, and its working set leaves the inactive file cache out.
    Some(Observation {
        available: bytes("MemFree")?.saturating_add(bytes("Inactive(file)").unwrap_or(0)),
        capacity: bytes("MemTotal")?,
    })
}

/// Process IDs that are left.
pub fn pids_left() -> Option<Observation> {
    let limits = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
    let limit = limits.iter().filter_map(|path| text(path).trim().parse::<i64>().ok()).min()?;
    let tasks = tasks_of(&text("/proc/loadavg"))?;
    Some(Observation { available: limit - tasks, capacity: limit })
}

fn tasks_of(loadavg: &str) -> Option<i64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// Asks the file system that holds `path`.
///
/// # Errors
/// The system's.
pub fn file_system(path: &Path) -> io::Result<FileSystem> {
    let found = rustix::fs::statvfs(path)?;
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let bytes = |blocks: u64| number(blocks.saturating_mul(found.f_frsize));
    Ok(FileSystem {
        bytes: Observation { available: bytes(found.f_bavail), capacity: bytes(found.f_blocks) },
        // Btrfs and some others count no inodes.
        inodes: (found.f_files > 0)
            .then(|| Observation { available: number(found.f_ffree), capacity: number(found.f_files) }),
    })
}

/// The address this machine uses towards its default route, of the preferred family or else of the other; `None`
/// without such a route. Nothing is sent.
pub fn default_route_ip(prefer_v4: bool) -> Option<IpAddr> {
    // Connecting a datagram socket only makes the kernel choose a source address. Addresses of the documentation
    // ranges go by the default route wherever there is one.
    let chosen = |v4: bool| {
        let (bind, to) = if v4 { ("0.0.0.0:0", "192.0.2.1:9") } else { ("[::]:0", "[2001:db8::1]:9") };
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
    };
    chosen(prefer_v4).or_else(|| chosen(!prefer_v4))
}

/// The addresses on this machine's network interfaces, sorted.
///
/// # Errors
/// When the kernel does not list them.
#[allow(unsafe_code, reason = "the interface list has no safe form in std or rustix")]
pub fn interface_ips() -> io::Result<Vec<IpAddr>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the pointer is valid for writing; on success it holds a list that is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut ips = BTreeSet::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: `next` is an element of the list, which lives until freeifaddrs.
        let entry = unsafe { &*next };
        if !entry.ifa_addr.is_null() {
            // SAFETY: the kernel's list holds for every address a sockaddr of the size its family has.
            ips.extend(unsafe { socket_ip(entry.ifa_addr.cast()) });
        }
        next = entry.ifa_next;
    }
    // SAFETY: the list came from getifaddrs and no reference into it is left.
    unsafe { libc::freeifaddrs(list) };
    Ok(ips.into_iter().collect())
}

/// # Safety
/// `address` points to a socket address that is as long as its family says.
#[allow(unsafe_code, reason = "a socket address is read by its family")]
unsafe fn socket_ip(address: *const c_void) -> Option<IpAddr> {
    // SAFETY: every socket address starts with its family.
    let family = i32::from(unsafe { (*address.cast::<libc::sockaddr>()).sa_family });
    match family {
        libc::AF_INET => {
            // SAFETY: the family says so.
            let v4 = unsafe { &*address.cast::<libc::sockaddr_in>() };
            Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr))))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says so.
            let v6 = unsafe { &*address.cast::<libc::sockaddr_in6>() };
            Some(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)))
        }
        _ => None,
    }
}

fn online_cpus() -> u32 {
    match count_cpus(text("/sys/devices/system/cpu/online").trim()) {
        0 => std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        cpus => cpus,
    }
}

pub(crate) fn huge_pages(dir: &Path) -> Vec<HugePages> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut sizes: Vec<HugePages> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
            Some(HugePages { page_bytes: kib.saturating_mul(1024), count })
        })
        .collect();
    sizes.sort();
    sizes
}

fn os_image(paths: &[&str]) -> String {
    let Some(text) = paths.iter().find_map(|path| fs::read_to_string(path).ok()) else {
        return "Unknown".to_owned();
    };
    let line = text.lines().find_map(|line| line.trim().strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim().trim_matches(['"', '\'']).to_owned())
}

fn meminfo_kib(meminfo: &str, name: &str) -> Option<u64> {
    meminfo.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?.strip_prefix(':')?;
        rest.trim().strip_suffix("kB")?.trim().parse().ok()
    })
}

/// The first of these files that can be read and is not empty, trimmed.
fn first_text(paths: &[&str]) -> String {
    let found =
        paths.iter().map(|path| text(path)).map(|text| text.trim_matches(['\0', '\n', ' ']).to_owned());
    found.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_machine() {
        let machine = machine();
        assert!(machine.cpus > 0 && machine.memory_bytes > 0);
        assert!(!machine.identity.boot_id.is_empty() && !machine.identity.kernel_release.is_empty());
        let memory = memory_left().unwrap();
        assert!(memory.available > 0 && memory.available <= memory.capacity);
        let pids = pids_left().unwrap();
        assert!(pids.available < pids.capacity);
        let root = file_system(Path::new("/")).unwrap();
        assert!(root.bytes.capacity > 0 && root.bytes.available <= root.bytes.capacity);
        assert!(file_system(Path::new("/nowhere/at/all")).is_err());
        assert!(interface_ips().unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
        if let Some(ip) = default_route_ip(true) {
            assert!(interface_ips().unwrap().contains(&ip));
        }
    }

    #[test]
    fn parses_texts() {
        let meminfo = "MemTotal: 1000 kB\nMemFree: 100 kB\nInactive: 999 kB\nInactive(file):  50 kB\n";
        assert_eq!(memory_left_of(meminfo), Some(Observation { available: 150 << 10, capacity: 1000 << 10 }));
        assert_eq!(memory_left_of("nonsense"), None);
        assert_eq!(tasks_of("1.36 3.49 4.53 2/3518 3715089\n"), Some(3518));
        assert_eq!(tasks_of("1.36"), None);
        let dir = tempfile::tempdir().unwrap();
        for (name, count) in [("hugepages-1048576kB", "0\n"), ("hugepages-2048kB", "12\n"), ("other", "1")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("nr_hugepages"), count).unwrap();
        }
        assert_eq!(
            huge_pages(dir.path()),
            [HugePages { page_bytes: 2 << 20, count: 12 }, HugePages { page_bytes: 1 << 30, count: 0 }]
        );
        let release = dir.path().join("os-release");
        fs::write(&release, "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n").unwrap();
        assert_eq!(os_image(&["/nowhere", release.to_str().unwrap()]), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(os_image(&["/nowhere"]), "Unknown");
    }
}
