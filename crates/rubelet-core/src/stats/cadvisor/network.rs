//! Network interfaces: a pod's with its sandbox, the node's with the root. Called by `cadvisor`.

use super::subjects::Subject;
use super::{Family, Samples, Tell, between, counter};
use crate::stats::told;
use crate::stats::usage::InterfaceUsage;

pub(super) const FAMILIES: &[Family] = &[
    counter(
        "container_network_receive_bytes_total",
        "Bytes received",
        Tell::Each(|subject, samples| interfaces(subject, samples, |interface| interface.rx_bytes)),
    ),
    counter(
        "container_network_receive_errors_total",
        "Receive errors",
        Tell::Each(|subject, samples| interfaces(subject, samples, |interface| interface.rx_errors)),
    ),
    counter(
        "container_network_receive_packets_dropped_total",
        "Received packets that were dropped",
        Tell::Each(|subject, samples| interfaces(subject, samples, |interface| interface.rx_dropped)),
    ),
    counter(
        "container_network_receive_packets_total",
        "Packets received",
        Tell::Each(|subject, samples| interfaces(subject, samples, |interface| interface.rx_packets)),
    ),
    counter(
        "container_network_transmit_bytes_total",
        "Bytes sent",
        Tell::Each(|subject, samples| interfaces(subject, samples, |interface| interface.tx_bytes)),
    ),
    counter(
        "container_network_transmit_errors_total",
        "Send errors",
        Tell::Each(|subject, samples| interfaces(subject, samples, |interface| interface.tx_errors)),
    ),
    counter(
        "container_network_transmit_packets_dropped_total",
        "Packets that were dropped instead of sent",
        Tell::Each(|subject, samples| interfaces(subject, samples, |interface| interface.tx_dropped)),
    ),
    counter(
        "container_network_transmit_packets_total",
        "Packets sent",
        Tell::Each(|subject, samples| interfaces(subject, samples, |interface| interface.tx_packets)),
    ),
];

fn interfaces(subject: &Subject<'_>, samples: &mut Samples<'_>, figure: fn(&InterfaceUsage) -> u64) {
    let Some(network) = subject.network else { return };
    let at = Some(network.at.as_millisecond()).filter(|at| *at > 0).or(subject.at);
    for interface in told::interfaces(network) {
        samples.push_at(&[(between::IMAGE, "interface", &interface.name)], figure(interface), at);
    }
}
