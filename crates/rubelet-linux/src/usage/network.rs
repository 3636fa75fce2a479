//! What the interfaces of a network namespace have carried.
//!
//! Read through a process that is in the namespace, and never kept open: an open file there would keep the namespace
//! of an ended pod alive.

use std::io;

use jiff::Timestamp;
use rubelet_core::stats::usage::{InterfaceUsage, NetworkUsage};

use super::parse::{lines, number, words};

/// Interfaces whose names begin so, in any case of letters, are left out (cAdvisor `ignoredDevicePrefixes`).
const LEFT_OUT: [&[u8]; 4] = [b"lo", b"veth", b"docker", b"nerdctl"];

/// The network that a process is in.
///
/// # Errors
/// When the process has ended.
pub fn network_of(pid: i32, at: Timestamp) -> io::Result<NetworkUsage> {
    let mut interfaces = interfaces(&std::fs::read(format!("/proc/{pid}/net/dev"))?);
    if interfaces.len() > 1 && !interfaces.iter().any(|interface| interface.name == "eth0") {
        let routes = std::fs::read(format!("/proc/{pid}/net/route")).unwrap_or_default();
        default_first(&mut interfaces, default_route(&routes));
    } else {
        default_first(&mut interfaces, Some("eth0"));
    }
    Ok(NetworkUsage { at, interfaces })
}

/// The node's network: that of its first process (as cAdvisor).
///
/// # Errors
/// When procfs is not there.
pub fn node_network(at: Timestamp) -> io::Result<NetworkUsage> {
    network_of(1, at).or_else(|_| network_of(std::process::id().try_into().unwrap_or(1), at))
}

fn default_first(interfaces: &mut [InterfaceUsage], name: Option<&str>) {
    let found = name.and_then(|name| interfaces.iter().position(|interface| interface.name == name));
    if let Some(index) = found {
        interfaces[..=index].rotate_right(1);
    }
}

/// `/proc/<pid>/net/dev`, in the kernel's order. A line that is not understood is left out.
fn interfaces(text: &[u8]) -> Vec<InterfaceUsage> {
    lines(text).filter_map(interface).collect()
}

fn interface(line: &[u8]) -> Option<InterfaceUsage> {
    // A name may hold a colon (an alias); the numbers do not.
    let colon = line.iter().rposition(|byte| *byte == b':')?;
    let name = line[..colon].trim_ascii();
    let left_out = LEFT_OUT
        .iter()
        .any(|prefix| name.len() >= prefix.len() && name[..prefix.len()].eq_ignore_ascii_case(prefix));
    if name.is_empty() || left_out {
        return None;
    }
    let mut numbers = [0; 16];
    let mut words = words(&line[colon + 1..]);
    for target in &mut numbers {
        *target = number(words.next()?)?;
    }
    let [
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        _,
        _,
        _,
        _,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
        ..,
    ] = numbers;
    let name = String::from_utf8_lossy(name).into_owned();
    let usage = InterfaceUsage {
        name,
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    };
    Some(usage)
}

/// The interface of the default route in `/proc/<pid>/net/route`.
fn default_route(text: &[u8]) -> Option<&str> {
    lines(text).skip(1).find_map(|line| {
        let mut words = words(line);
        let (name, destination) = (words.next()?, words.next()?);
        let mask = words.nth(5)?;
        (destination == b"00000000" && mask == b"00000000").then_some(())?;
        std::str::from_utf8(name).ok()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEV: &[u8] = b"Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 123 5 0 4 0     0          0         0 123 5    0    0    0     0       0          0
 net1: 9 8 7 6 0 0 0 0 5 4 3 2 0 0 0 0
  eth0:1860 564 1 2 0     0          0         0  3211   391    3    4    0     0       0          0
veth4463d11b: 542 7 0 0 0 0 0 0 2886 33 0 0 0 0 0 0
Docker0: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0
  odd: 1 2 3
";

    #[test]
    fn interfaces_that_count_are_told_with_the_default_one_first() {
        let mut found = interfaces(DEV);
        let names = |found: &[InterfaceUsage]| found.iter().map(|i| i.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found), ["net1", "eth0"]);
        let eth0 = &found[1];
        assert_eq!((eth0.rx_bytes, eth0.rx_packets, eth0.rx_errors, eth0.rx_dropped), (1860, 564, 1, 2));
        assert_eq!((eth0.tx_bytes, eth0.tx_packets, eth0.tx_errors, eth0.tx_dropped), (3211, 391, 3, 4));
        default_first(&mut found, Some("eth0"));
        assert_eq!(names(&found), ["eth0", "net1"]);
        default_first(&mut found, Some("other"));
        assert_eq!(names(&found), ["eth0", "net1"]);
    }

    #[test]
    fn the_default_route_names_an_interface() {
        let routes = b"Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
ens5\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
ens6\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0
";
        assert_eq!(default_route(routes), Some("ens6"));
        assert_eq!(default_route(b"Iface\n"), None);
    }

    #[test]
    fn this_machine_and_an_ended_process() {
        let own = i32::try_from(std::process::id()).unwrap();
        network_of(own, Timestamp::UNIX_EPOCH).unwrap();
        node_network(Timestamp::UNIX_EPOCH).unwrap();
        assert!(network_of(i32::MAX, Timestamp::UNIX_EPOCH).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (interfaces(&bytes), default_route(&bytes));
        }
    }
}
