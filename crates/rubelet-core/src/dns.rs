//! The DNS settings of a pod.
//!
//! Owns how they follow from policy, node and cluster (upstream `dns.Configurer`); never reads `resolv.conf`:
//! its text comes in. Problems come back as events beside the result, for a partial result is still used.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfigOption};

use crate::containers::{described, spec_of};

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_LIST: usize = 2048;
const MAX_SEARCH: usize = 253;

/// DNS settings: of the node's file, or of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsSettings {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

/// What the agent is configured with.
#[derive(Clone, Debug, Default)]
pub struct DnsFacts {
    /// `clusterDNS`.
    pub cluster_dns: Vec<IpAddr>,
    /// `clusterDomain`.
    pub cluster_domain: String,
    /// The node's settings; `None` when `resolvConf` is the empty string, which disables look-ups.
    pub node: Option<DnsSettings>,
    /// The node's addresses, for the loopback servers when look-ups are disabled.
    pub node_ips: Vec<IpAddr>,
}

/// Something to tell the user. All are warnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsEvent {
    /// `DNSConfigForming` or `MissingClusterDNS`.
    pub reason: &'static str,
    /// Message.
    pub message: String,
    /// Whether the event is about the node instead of the pod.
    pub on_node: bool,
}

/// A `resolv.conf` line that says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("encountered error while parsing resolv conf file: line {line}: nameserver list is empty")]
pub struct ResolvConfError {
    /// Line number, from 1.
    pub line: usize,
}

/// Reads the text of a `resolv.conf`: name servers accumulate, the last search line wins, options merge by name.
pub fn parse_resolv_conf(text: &str) -> Result<DnsSettings, ResolvConfError> {
    let mut settings = DnsSettings::default();
    for (index, line) in text.lines().enumerate() {
        let mut fields = line.split_whitespace();
        match fields.next() {
            Some("nameserver") => match fields.next() {
                Some(server) => settings.servers.push(server.to_owned()),
                None => return Err(ResolvConfError { line: index + 1 }),
            },
            Some("search") => {
                let domains = fields.filter(|domain| *domain != ".");
                settings.searches =
                    domains.map(|domain| domain.strip_suffix('.').unwrap_or(domain).to_owned()).collect();
            }
            Some("options") => {
                for option in fields {
                    let name = option.split(':').next();
                    settings.options.retain(|known| known.split(':').next() != name);
                    settings.options.push(option.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(settings)
}

enum Source {
    Cluster,
    Node,
    Nothing,
}

/// The settings of a pod and what there is to say about them (upstream `GetPodDNS`).
pub fn pod_dns(pod: &Pod, facts: &DnsFacts) -> (DnsSettings, Vec<DnsEvent>) {
    let spec = spec_of(pod);
    let mut events = Vec::new();
    let source = match spec.dns_policy.as_deref() {
        Some("None") => Source::Nothing,
        Some("Default") => Source::Node,
        Some("ClusterFirst") if spec.host_network == Some(true) => Source::Node,
        // An unknown policy counts as ClusterFirst.
        _ => Source::Cluster,
    };
    let source = if matches!(source, Source::Cluster) && facts.cluster_dns.is_empty() {
        events.extend(missing_cluster_dns(pod));
        Source::Node
    } else {
        source
    };
    let mut dns = match source {
        Source::Nothing => DnsSettings::default(),
        Source::Node => facts.node.clone().unwrap_or_else(|| loopback(&facts.node_ips)),
        Source::Cluster => cluster_settings(pod, facts),
    };
    if let Some(own) = &spec.dns_config {
        dns.servers.extend(own.nameservers.iter().flatten().cloned());
        dns.searches.extend(own.searches.iter().flatten().cloned());
        dns.servers = unique(dns.servers);
        dns.searches = unique(dns.searches);
        dns.options = merged_options(dns.options, own.options.as_deref().unwrap_or_default());
    }
    events.extend(cut_to_limits(&mut dns));
    (dns, events)
}

fn cluster_settings(pod: &Pod, facts: &DnsFacts) -> DnsSettings {
    let domain = &facts.cluster_domain;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let node_searches = facts.node.iter().flat_map(|node| node.searches.iter().cloned());
    let searches = if domain.is_empty() {
        node_searches.collect()
    } else {
        let cluster = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        unique(cluster.into_iter().chain(node_searches).collect())
    };
    DnsSettings {
        servers: facts.cluster_dns.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

/// Settings that make the resolver ask the local machine, which is how look-ups are switched off.
fn loopback(node_ips: &[IpAddr]) -> DnsSettings {
    let mut servers: Vec<String> =
        node_ips.iter().map(|ip| if ip.is_ipv6() { "::1" } else { "127.0.0.1" }.to_owned()).collect();
    if servers.is_empty() {
        servers.push("127.0.0.1".to_owned());
    }
    DnsSettings { servers, searches: vec![".".to_owned()], options: Vec::new() }
}

/// The reason of events about pods that want a cluster's DNS on a node that was not told of one.
pub const MISSING_CLUSTER_DNS: &str = "MissingClusterDNS";

fn missing_cluster_dns(pod: &Pod) -> [DnsEvent; 2] {
    let message = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. \
                   Falling back to \"Default\" policy.";
    let event = |message, on_node| DnsEvent { reason: MISSING_CLUSTER_DNS, message, on_node };
    [event(message.to_owned(), true), event(format!("pod: {:?}. {message}", described(pod)), false)]
}

fn unique(list: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    list.into_iter().filter(|entry| seen.insert(entry.clone())).collect()
}

/// Options by name: the pod's replace the node's, an empty value prints as the bare name.
fn merged_options(existing: Vec<String>, own: &[PodDNSConfigOption]) -> Vec<String> {
    let mut merged: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| match merged.iter_mut().find(|(known, _)| known == name) {
        Some(entry) => value.clone_into(&mut entry.1),
        None => merged.push((name.to_owned(), value.to_owned())),
    };
    for option in &existing {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        set(name, value);
    }
    for option in own {
        set(option.name.as_deref().unwrap_or_default(), option.value.as_deref().unwrap_or_default());
    }
    merged
        .into_iter()
        .map(|(name, value)| if value.is_empty() { name } else { format!("{name}:{value}") })
        .collect()
}

fn cut_to_limits(dns: &mut DnsSettings) -> Vec<DnsEvent> {
    let mut events = Vec::new();
    let event = |message| DnsEvent { reason: "DNSConfigForming", message, on_node: false };
    if dns.servers.len() > MAX_NAMESERVERS {
        dns.servers.truncate(MAX_NAMESERVERS);
        events.push(event(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            dns.servers.join(" ")
        )));
    }
    let before = dns.searches.len();
    dns.searches.truncate(MAX_SEARCHES);
    // glibc aborts on a longer search path, so these are left out wherever they stand.
    dns.searches.retain(|search| search.len() <= MAX_SEARCH);
    while dns.searches.iter().map(|search| search.len() + 1).sum::<usize>() > MAX_SEARCH_LIST + 1 {
        dns.searches.pop();
    }
    if dns.searches.len() < before {
        events.push(event(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            dns.searches.join(" ")
        )));
    }
    events
}

/// What is wrong with the node's own search line, if anything: an event `CheckLimitsForResolvConf` on the node.
pub fn check_node_searches(path: &str, node: &DnsSettings, cluster_domain: &str) -> Option<String> {
    let limit = if cluster_domain.is_empty() { MAX_SEARCHES } else { MAX_SEARCHES - 3 };
    if node.searches.len() > limit {
        return Some(format!(
            "Resolv.conf file '{path}' contains search line consisting of more than {limit} domains!"
        ));
    }
    if node.searches.iter().any(|search| search.len() > MAX_SEARCH) {
        return Some(format!(
            "Resolv.conf file {path:?} contains a search path which length is more than allowed {MAX_SEARCH} chars!"
        ));
    }
    if node.searches.join(" ").len() > MAX_SEARCH_LIST {
        return Some(format!(
            "Resolv.conf file '{path}' contains search line which length is more than allowed {MAX_SEARCH_LIST} chars!"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(
            json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": spec}),
        )
        .unwrap()
    }

    fn facts() -> DnsFacts {
        DnsFacts {
            cluster_dns: vec!["10.96.0.10".parse().unwrap()],
            cluster_domain: "cluster.local".into(),
            node: Some(
                parse_resolv_conf("nameserver 8.8.8.8\nsearch corp.example\noptions rotate ndots:2").unwrap(),
            ),
            node_ips: vec!["10.0.0.1".parse().unwrap()],
        }
    }

    #[track_caller]
    fn check(spec: Value, facts: &DnsFacts, expected: [&str; 3], reasons: &[&str]) {
        let (dns, events) = pod_dns(&pod(spec), facts);
        assert_eq!([dns.servers.join(" "), dns.searches.join(" "), dns.options.join(" ")], expected);
        assert_eq!(events.iter().map(|event| event.reason).collect::<Vec<_>>(), reasons);
    }

    #[test]
    fn policies() {
        let cluster =
            ["10.96.0.10", "shop.svc.cluster.local svc.cluster.local cluster.local corp.example", "ndots:5"];
        let node = ["8.8.8.8", "corp.example", "rotate ndots:2"];
        check(json!({}), &facts(), cluster, &[]);
        check(json!({"dnsPolicy": "ClusterFirst"}), &facts(), cluster, &[]);
        check(json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), &facts(), node, &[]);
        check(json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), &facts(), cluster, &[]);
        check(json!({"dnsPolicy": "Default"}), &facts(), node, &[]);
        check(json!({"dnsPolicy": "None"}), &facts(), ["", "", ""], &[]);
        check(json!({"dnsPolicy": "Odd"}), &facts(), cluster, &[]);
    }

    #[test]
    fn without_cluster_dns_the_nodes_settings_are_used_and_said() {
        let facts = DnsFacts { cluster_dns: vec![], ..facts() };
        check(
            json!({"dnsPolicy": "ClusterFirst"}),
            &facts,
            ["8.8.8.8", "corp.example", "rotate ndots:2"],
            &["MissingClusterDNS", "MissingClusterDNS"],
        );
        let (_, events) = pod_dns(&pod(json!({})), &facts);
        assert!(events[0].on_node && !events[1].on_node);
        assert!(
            events[1]
                .message
                .starts_with("pod: \"web_shop(u)\". kubelet does not have ClusterDNS IP configured")
        );
    }

    #[test]
    fn an_empty_resolv_conf_disables_look_ups() {
        let mut facts = DnsFacts { node: None, ..facts() };
        check(json!({"dnsPolicy": "Default"}), &facts, ["127.0.0.1", ".", ""], &[]);
        facts.node_ips = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        check(json!({"dnsPolicy": "Default"}), &facts, ["127.0.0.1 ::1", ".", ""], &[]);
        facts.node_ips.clear();
        check(json!({"dnsPolicy": "Default"}), &facts, ["127.0.0.1", ".", ""], &[]);
        check(
            json!({}),
            &facts,
            ["10.96.0.10", "shop.svc.cluster.local svc.cluster.local cluster.local", "ndots:5"],
            &[],
        );
    }

    #[test]
    fn dns_config_is_merged() {
        let own = json!({"nameservers": ["1.1.1.1", "8.8.8.8"], "searches": ["my.ns", "corp.example"],
            "options": [{"name": "ndots", "value": "1"}, {"name": "rotate"}, {"name": "edns0"}]});
        check(
            json!({"dnsPolicy": "None", "dnsConfig": own}),
            &facts(),
            ["1.1.1.1 8.8.8.8", "my.ns corp.example", "ndots:1 rotate edns0"],
            &[],
        );
        check(
            json!({"dnsPolicy": "Default", "dnsConfig": own}),
            &facts(),
            ["8.8.8.8 1.1.1.1", "corp.example my.ns", "rotate ndots:1 edns0"],
            &[],
        );
    }

    #[test]
    fn excess_is_cut_and_said() {
        let own = json!({"nameservers": ["1.0.0.1", "1.0.0.2", "1.0.0.3", "1.0.0.4"]});
        check(
            json!({"dnsPolicy": "None", "dnsConfig": own}),
            &facts(),
            ["1.0.0.1 1.0.0.2 1.0.0.3", "", ""],
            &["DNSConfigForming"],
        );
        let searches: Vec<String> = (0..40).map(|i| format!("s{i}")).collect();
        let (dns, events) =
            pod_dns(&pod(json!({"dnsPolicy": "None", "dnsConfig": {"searches": searches}})), &facts());
        assert_eq!(dns.searches.len(), 32);
        assert!(
            events[0]
                .message
                .starts_with("Search Line limits were exceeded, some search paths have been omitted")
        );
    }

    #[test]
    fn resolv_conf_lines() {
        let parsed = parse_resolv_conf(
            "# c\n  nameserver 1.1.1.1 # x\nnameserver\t2.2.2.2\nsearch a b.\nsearch c. . d\noptions a:1 b\noptions a:2\nsortlist x\n\n",
        )
        .unwrap();
        assert_eq!(parsed.servers, ["1.1.1.1", "2.2.2.2"]);
        assert_eq!(parsed.searches, ["c", "d"]);
        assert_eq!(parsed.options, ["b", "a:2"]);
        assert_eq!(parse_resolv_conf("\nnameserver"), Err(ResolvConfError { line: 2 }));
    }

    #[test]
    fn the_nodes_own_search_line_is_checked() {
        let with = |searches: Vec<String>| DnsSettings { searches, ..DnsSettings::default() };
        assert_eq!(check_node_searches("/r", &with(vec!["a".into(); 29]), "c"), None);
        assert!(
            check_node_searches("/r", &with(vec!["a".into(); 30]), "c")
                .unwrap()
                .contains("more than 29 domains")
        );
        assert_eq!(check_node_searches("/r", &with(vec!["a".into(); 32]), ""), None);
        assert!(check_node_searches("/r", &with(vec!["a".repeat(254)]), "").unwrap().contains("253 chars"));
        assert!(
            check_node_searches("/r", &with(vec!["a".repeat(250); 9]), "").unwrap().contains("2048 chars")
        );
    }

    proptest! {
        #[test]
        fn limits_hold_whatever_comes_in(searches in proptest::collection::vec("[a-z.]{0,300}", 0..50),
                                         servers in proptest::collection::vec("[0-9.]{1,8}", 0..9)) {
            let mut dns = DnsSettings { servers, searches: searches.clone(), options: vec![] };
            let events = cut_to_limits(&mut dns);
            prop_assert!(dns.servers.len() <= MAX_NAMESERVERS && dns.searches.len() <= MAX_SEARCHES);
            prop_assert!(dns.searches.join(" ").len() <= MAX_SEARCH_LIST);
            prop_assert!(dns.searches.iter().all(|s| s.len() <= MAX_SEARCH));
            prop_assert_eq!(events.iter().any(|e| e.message.starts_with("Search")), dns.searches.len() < searches.len());
        }
    }
}
