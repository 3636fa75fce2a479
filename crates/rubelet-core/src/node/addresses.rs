//! The addresses a node says it has.
//!
//! Owns the meaning of `--node-ip`, which addresses may be used, and which one is chosen (upstream
//! `ParseNodeIPArgument`, `validateNodeIP` and the setter `NodeAddress`). Never asks the kernel or DNS: the
//! shell brings [`AddressFacts`], and asks [`AddressConfig::needs_lookup`] first.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{NodeAddress, NodeStatus};

/// The annotation that tells an external cloud provider which addresses the node was given.
pub const PROVIDED_NODE_IP: &str = "alpha.kubernetes.io/provided-node-ip";

/// Why there is no address, or an address cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// More than two addresses, or two of one family.
    #[error("--node-ip {0:?} must be one address or one of each family (such as 192.0.2.10,2001:db8::10)")]
    NotAPair(String),
    /// A family preference beside an address.
    #[error("--node-ip {0:?}: 0.0.0.0 and :: choose a family and cannot be part of a pair")]
    UnspecifiedInPair(String),
    /// An address of a kind that nobody else can reach.
    #[error(
        "node address {ip} is {kind}: others cannot reach the node by it; set --node-ip to an address of this machine"
    )]
    Unusable {
        /// The address.
        ip: IpAddr,
        /// What it is.
        kind: &'static str,
    },
    /// An address of another machine.
    #[error(
        "node address {0} is on no network interface of this machine; correct --node-ip or bring the interface up"
    )]
    NotHere(IpAddr),
    /// Nothing was found.
    #[error(
        "no address for node {node} was found: its name has no usable address in DNS or /etc/hosts{}, and there is no default route; set --node-ip",
        .lookup.as_ref().map(|problem| format!(" ({problem})")).unwrap_or_default()
    )]
    NothingFound {
        /// The node.
        node: String,
        /// Why the last address that was looked up cannot be used.
        lookup: Option<Box<AddressError>>,
    },
}

/// What `--node-ip` said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeIps {
    /// The addresses, primary family first; at most two. An unspecified one is a family preference.
    pub ips: Vec<IpAddr>,
    /// Parts that are no addresses; upstream says so and goes on without them.
    pub ignored: Vec<String>,
}

/// Reads `--node-ip`.
///
/// # Errors
/// When the addresses are neither one nor a dual-stack pair.
pub fn parse_node_ips(text: &str) -> Result<NodeIps, AddressError> {
    let mut found = NodeIps::default();
    if text.is_empty() {
        return Ok(found);
    }
    for part in text.split(',').map(str::trim) {
        match part.parse::<IpAddr>() {
            Ok(ip) => found.ips.push(ip.to_canonical()),
            Err(_) => found.ignored.push(part.to_owned()),
        }
    }
    match found.ips.as_slice() {
        [] | [_] => Ok(found),
        [first, second] if first.is_ipv4() != second.is_ipv4() => {
            if first.is_unspecified() || second.is_unspecified() {
                return Err(AddressError::UnspecifiedInPair(text.to_owned()));
            }
            Ok(found)
        }
        _ => Err(AddressError::NotAPair(text.to_owned())),
    }
}

/// Whether the node may say that this is its address.
///
/// # Errors
/// Why not.
pub fn validate(ip: IpAddr, interfaces: &[IpAddr]) -> Result<(), AddressError> {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let kind = match () {
        () if ip.is_loopback() => "a loopback address",
        () if ip.is_multicast() => "a multicast address",
        () if link_local => "a link-local address",
        () if ip.is_unspecified() => "the unspecified address",
        () if interfaces.contains(&ip) => return Ok(()),
        () => return Err(AddressError::NotHere(ip)),
    };
    Err(AddressError::Unusable { ip, kind })
}

/// What was configured about addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressConfig {
    /// Node name, for lookups and messages.
    pub node_name: String,
    /// What address `Hostname` shows: the host name, or `--hostname-override`.
    pub hostname: String,
    /// `--node-ip` as read by [`parse_node_ips`].
    pub node_ips: Vec<IpAddr>,
    /// `--cloud-provider=external`.
    pub external_cloud: bool,
}

/// What is known of this machine's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressFacts {
    /// Addresses on network interfaces.
    pub interfaces: Vec<IpAddr>,
    /// Addresses of the node's name in DNS or `/etc/hosts`, in the order of the answer.
    pub looked_up: Vec<IpAddr>,
    /// The source address towards the default route, by [`AddressConfig::prefers_v4`]'s family or else the other.
    pub default_route: Option<IpAddr>,
}

impl AddressConfig {
    fn chosen(&self, index: usize) -> Option<IpAddr> {
        self.node_ips.get(index).copied().filter(|ip| !ip.is_unspecified())
    }

    /// Whether IPv4 is preferred: yes, unless `--node-ip` starts with an IPv6 address or is `::`.
    pub fn prefers_v4(&self) -> bool {
        self.node_ips.first().is_none_or(IpAddr::is_ipv4)
    }

    /// The value of annotation [`PROVIDED_NODE_IP`]; `None` when the node must not have it.
    pub fn provided_annotation(&self) -> Option<String> {
        let primary = self.chosen(0).filter(|_| self.external_cloud)?;
        Some(match self.chosen(1) {
            Some(secondary) => format!("{primary},{secondary}"),
            None => primary.to_string(),
        })
    }

    /// Whether [`AddressFacts::looked_up`] and [`AddressFacts::default_route`] will be used.
    pub fn needs_lookup(&self, has_addresses: bool) -> bool {
        let left_to_cloud = self.external_cloud && (has_addresses || self.node_ips.is_empty());
        !left_to_cloud && self.chosen(0).is_none() && self.hostname.parse::<IpAddr>().is_err()
    }

    /// The addresses to publish. `present` are those the Node has now: a cloud's are kept.
    ///
    /// # Errors
    /// When an address that was configured cannot be used, or none was found; the present ones stay then.
    pub fn addresses(
        &self,
        present: &[NodeAddress],
        facts: &AddressFacts,
    ) -> Result<Vec<NodeAddress>, AddressError> {
        for ip in [self.chosen(0), self.chosen(1)].into_iter().flatten() {
            validate(ip, &facts.interfaces)?;
        }
        let hostname = || address("Hostname", self.hostname.clone());
        let internal = |ip: IpAddr| address("InternalIP", ip.to_string());
        if self.external_cloud {
            if !present.is_empty() {
                return Ok(present.to_vec());
            }
            if self.node_ips.is_empty() {
                return Ok(vec![hostname()]);
            }
        }
        if let (Some(primary), Some(secondary)) = (self.chosen(0), self.chosen(1)) {
            return Ok(vec![internal(primary), internal(secondary), hostname()]);
        }
        let ip = match self.chosen(0).or_else(|| self.hostname.parse().ok()) {
            Some(ip) => ip,
            None => self.found(facts)?,
        };
        Ok(vec![internal(ip), hostname()])
    }

    fn found(&self, facts: &AddressFacts) -> Result<IpAddr, AddressError> {
        let mut problem = None;
        let mut usable = Vec::new();
        for ip in &facts.looked_up {
            match validate(*ip, &facts.interfaces) {
                Ok(()) => usable.push(*ip),
                Err(error) => problem = Some(Box::new(error)),
            }
        }
        let preferred = usable.iter().find(|ip| ip.is_ipv4() == self.prefers_v4());
        preferred
            .or(usable.first())
            .copied()
            .or(facts.default_route)
            .ok_or_else(|| AddressError::NothingFound { node: self.node_name.clone(), lookup: problem })
    }
}

/// The addresses of a node that pods get as host IPs: the first, and the first of the other family; internal ones
/// before external ones (upstream `GetNodeHostIPs`).
pub fn host_ips(status: &NodeStatus) -> Vec<IpAddr> {
    let of_kind = |kind: &'static str| {
        let addresses = status.addresses.iter().flatten();
        addresses
            .filter(move |address| address.type_ == kind)
            .filter_map(|address| address.address.parse().ok())
    };
    let all: Vec<IpAddr> = of_kind("InternalIP").chain(of_kind("ExternalIP")).collect();
    let Some(first) = all.first().copied() else { return vec![] };
    let second = all.into_iter().find(|ip| ip.is_ipv4() != first.is_ipv4());
    [Some(first), second].into_iter().flatten().collect()
}

fn address(kind: &str, address: String) -> NodeAddress {
    NodeAddress { type_: kind.to_owned(), address }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn facts(looked_up: &[&str], default_route: Option<&str>) -> AddressFacts {
        AddressFacts {
            interfaces: ["127.0.0.1", "192.0.2.10", "2001:db8::10", "fe80::1"]
                .iter()
                .map(|t| ip(t))
                .collect(),
            looked_up: looked_up.iter().map(|t| ip(t)).collect(),
            default_route: default_route.map(ip),
        }
    }

    #[track_caller]
    fn check(node_ip: &str, cloud: bool, present: &[(&str, &str)], facts: &AddressFacts, expected: &str) {
        check_named("node-1", node_ip, cloud, present, facts, expected);
    }

    #[track_caller]
    fn check_named(
        hostname: &str,
        node_ip: &str,
        cloud: bool,
        present: &[(&str, &str)],
        facts: &AddressFacts,
        expected: &str,
    ) {
        let config = AddressConfig {
            node_name: hostname.into(),
            hostname: hostname.into(),
            node_ips: parse_node_ips(node_ip).unwrap().ips,
            external_cloud: cloud,
        };
        let present: Vec<NodeAddress> =
            present.iter().map(|(kind, text)| address(kind, (*text).to_owned())).collect();
        let found = match config.addresses(&present, facts) {
            Ok(found) => {
                found.iter().map(|a| format!("{}={}", a.type_, a.address)).collect::<Vec<_>>().join(" ")
            }
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn node_ip_wins_over_everything_else() {
        let none = facts(&[], None);
        check("192.0.2.10", false, &[], &none, "InternalIP=192.0.2.10 Hostname=node-1");
        check("2001:db8::10", false, &[], &none, "InternalIP=2001:db8::10 Hostname=node-1");
        check(
            "2001:db8::10,192.0.2.10",
            false,
            &[],
            &none,
            "InternalIP=2001:db8::10 InternalIP=192.0.2.10 Hostname=node-1",
        );
        check(
            "127.0.0.1",
            false,
            &[],
            &none,
            "error: node address 127.0.0.1 is a loopback address: others cannot reach the node by it; set --node-ip to an address of this machine",
        );
        check(
            "192.0.2.99",
            false,
            &[],
            &none,
            "error: node address 192.0.2.99 is on no network interface of this machine; correct --node-ip or bring the interface up",
        );
        check(
            "fe80::1",
            false,
            &[],
            &none,
            "error: node address fe80::1 is a link-local address: others cannot reach the node by it; set --node-ip to an address of this machine",
        );
    }

    #[test]
    fn without_node_ip_the_name_is_looked_up_and_then_the_default_route() {
        check_named(
            "192.0.2.7",
            "",
            false,
            &[],
            &facts(&[], None),
            "InternalIP=192.0.2.7 Hostname=192.0.2.7",
        );
        let both = facts(&["2001:db8::10", "192.0.2.10"], Some("192.0.2.10"));
        check("", false, &[], &both, "InternalIP=192.0.2.10 Hostname=node-1");
        check("::", false, &[], &both, "InternalIP=2001:db8::10 Hostname=node-1");
        check("0.0.0.0", false, &[], &both, "InternalIP=192.0.2.10 Hostname=node-1");
        check("", false, &[], &facts(&["2001:db8::10"], None), "InternalIP=2001:db8::10 Hostname=node-1");
        check(
            "",
            false,
            &[],
            &facts(&["127.0.1.1"], Some("192.0.2.10")),
            "InternalIP=192.0.2.10 Hostname=node-1",
        );
        check(
            "",
            false,
            &[],
            &facts(&["127.0.1.1"], None),
            "error: no address for node node-1 was found: its name has no usable address in DNS or /etc/hosts (node address 127.0.1.1 is a loopback address: others cannot reach the node by it; set --node-ip to an address of this machine), and there is no default route; set --node-ip",
        );
    }

    #[test]
    fn a_cloud_provider_has_the_last_word() {
        let facts = facts(&["192.0.2.10"], None);
        check("", true, &[], &facts, "Hostname=node-1");
        check("192.0.2.10", true, &[], &facts, "InternalIP=192.0.2.10 Hostname=node-1");
        check("0.0.0.0", true, &[], &facts, "InternalIP=192.0.2.10 Hostname=node-1");
        check("192.0.2.10", true, &[("ExternalIP", "198.51.100.1")], &facts, "ExternalIP=198.51.100.1");
        let config = |ips: &str, cloud| AddressConfig {
            node_ips: parse_node_ips(ips).unwrap().ips,
            external_cloud: cloud,
            ..Default::default()
        };
        assert_eq!(
            config("192.0.2.10,2001:db8::10", true).provided_annotation().as_deref(),
            Some("192.0.2.10,2001:db8::10")
        );
        assert_eq!(config("::", true).provided_annotation(), None);
        assert_eq!(config("192.0.2.10", false).provided_annotation(), None);
        assert!(!config("", true).needs_lookup(false));
        assert!(config("::", true).needs_lookup(false));
        assert!(!config("::", true).needs_lookup(true));
        assert!(config("", false).needs_lookup(true));
        assert!(!config("192.0.2.10", false).needs_lookup(true));
    }

    #[test]
    fn node_ip_texts() {
        let read = |text: &str| parse_node_ips(text).map(|found| (found.ips.len(), found.ignored));
        assert_eq!(read(""), Ok((0, vec![])));
        assert_eq!(read("1.2.3.4, nonsense"), Ok((1, vec!["nonsense".to_owned()])));
        assert_eq!(read("::ffff:1.2.3.4, ::1"), Ok((2, vec![])));
        assert!(matches!(read("1.2.3.4,5.6.7.8"), Err(AddressError::NotAPair(_))));
        assert!(matches!(read("1.2.3.4,::1,5.6.7.8"), Err(AddressError::NotAPair(_))));
        assert!(matches!(read("0.0.0.0,::1"), Err(AddressError::UnspecifiedInPair(_))));
    }

    #[test]
    fn host_ips_of_a_status() {
        let check = |addresses: &[(&str, &str)], expected: &[&str]| {
            let status = NodeStatus {
                addresses: Some(
                    addresses.iter().map(|(kind, text)| address(kind, (*text).to_owned())).collect(),
                ),
                ..Default::default()
            };
            assert_eq!(host_ips(&status), expected.iter().map(|t| ip(t)).collect::<Vec<_>>());
        };
        check(
            &[
                ("ExternalIP", "198.51.100.1"),
                ("InternalIP", "::1"),
                ("InternalIP", "10.0.0.1"),
                ("InternalIP", "10.0.0.2"),
            ],
            &["::1", "10.0.0.1"],
        );
        check(&[("ExternalIP", "198.51.100.1"), ("Hostname", "10.0.0.1")], &["198.51.100.1"]);
        check(&[], &[]);
    }
}
