//! Rules about flags that are no configuration fields (upstream `ValidateKubeletFlags` and the
//! checks made while starting).

use std::net::IpAddr;

use crate::flags::KubeletFlags;
use crate::problem::{Origin, Problem};
use crate::validate::names;

/// Label keys in Kubernetes' own namespaces that a node may give itself.
const OWN_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Namespaces in which a node may use any key.
const OWN_NAMESPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Everything that is wrong with the flags.
pub(crate) fn check_flags(flags: &KubeletFlags) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut refuse = |flag: &str, value: &str, message: String| {
        let mut problem = Problem::field("", value, message);
        problem.origin = Origin::Flag(flag.to_owned());
        problems.push(problem);
    };
    for (key, value) in &flags.node_labels {
        let pair = format!("{key}={value}");
        if is_reserved(key) && !is_own(key) {
            let message = format!(
                "this key in the kubernetes.io or k8s.io namespace is not for nodes to set; allowed are the prefixes {} and the keys {}",
                OWN_NAMESPACES.join(", "),
                OWN_LABELS.join(", ")
            );
            refuse("node-labels", &pair, message);
        }
        if let Err(why) = names::qualified_name(key) {
            refuse("node-labels", &pair, why);
        }
        if let Err(why) = names::label_value(value) {
            refuse("node-labels", &pair, why);
        }
    }
    if !["", "external"].contains(&flags.cloud_provider.as_str()) {
        let message = "must be empty or external; in-tree cloud providers have been removed";
        refuse("cloud-provider", &flags.cloud_provider, message.to_owned());
    }
    if let Err(why) = node_ip(&flags.node_ip) {
        refuse("node-ip", &flags.node_ip, why);
    }
    if flags.exit_on_lock_contention && flags.lock_file.is_empty() {
        refuse("exit-on-lock-contention", "true", "needs --lock-file".to_owned());
    }
    problems
}

fn namespace(key: &str) -> &str {
    key.split_once('/').map_or("", |(namespace, _)| namespace)
}

fn within(namespace: &str, parent: &str) -> bool {
    namespace.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn is_reserved(key: &str) -> bool {
    within(namespace(key), "kubernetes.io") || within(namespace(key), "k8s.io")
}

fn is_own(key: &str) -> bool {
    OWN_LABELS.contains(&key) || OWN_NAMESPACES.iter().any(|own| within(namespace(key), own))
}

/// The parts of `--node-ip` that are no addresses; upstream skips them.
pub(crate) fn skipped_node_ips(text: &str) -> Vec<&str> {
    let parts = text.split(',').map(str::trim);
    parts.filter(|part| !text.is_empty() && part.parse::<IpAddr>().is_err()).collect()
}

/// One address, or one of each family. Parts that are no addresses are skipped as upstream does,
/// but when nothing is left, that is an error: a node with a guessed address helps nobody.
fn node_ip(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let addresses: Vec<IpAddr> = text.split(',').filter_map(|part| part.trim().parse().ok()).collect();
    match addresses.as_slice() {
        [] => Err("not an IP address".to_owned()),
        [_] => Ok(()),
        [one, other] if one.is_ipv4() != other.is_ipv4() => {
            if one.is_unspecified() || other.is_unspecified() {
                return Err("a dual-stack pair cannot contain 0.0.0.0 or ::".to_owned());
            }
            Ok(())
        }
        _ => Err("must be one IP address, or one IPv4 and one IPv6 address".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut KubeletFlags), expected: &[&str]) {
        let mut flags = KubeletFlags::default();
        change(&mut flags);
        let actual: Vec<String> = check_flags(&flags).iter().map(ToString::to_string).collect();
        assert_eq!(actual, expected);
    }

    #[test]
    fn labels() {
        let label = |key: &str| (key.to_owned(), "x".to_owned());
        for key in [
            "role",
            "example.com/role",
            "node.kubernetes.io/x",
            "a.kubelet.kubernetes.io/x",
            "kubernetes.io/os",
        ] {
            check(|f| f.node_labels.extend([label(key)]), &[]);
        }
        let mut flags = KubeletFlags::default();
        flags.node_labels.extend([label("node-role.kubernetes.io/worker"), label("a.k8s.io/b")]);
        assert_eq!(check_flags(&flags).len(), 2);
        check(
            |f| f.node_labels.extend([("a".to_owned(), "b c".to_owned())]),
            &[
                "flag --node-labels: \"a=b c\": a label value must be at most 63 letters, digits, '-', '_' or '.', starting and ending with a letter or digit",
            ],
        );
    }

    #[test]
    fn addresses_and_the_rest() {
        for ip in ["", "10.0.0.1", "::", "10.0.0.1,fd00::1", "10.0.0.1,x"] {
            check(|f| f.node_ip = ip.into(), &[]);
        }
        check(|f| f.node_ip = "10.0.0".into(), &["flag --node-ip: \"10.0.0\": not an IP address"]);
        check(
            |f| f.node_ip = "10.0.0.1,10.0.0.2".into(),
            &[
                "flag --node-ip: \"10.0.0.1,10.0.0.2\": must be one IP address, or one IPv4 and one IPv6 address",
            ],
        );
        check(
            |f| f.node_ip = "0.0.0.0,fd00::1".into(),
            &["flag --node-ip: \"0.0.0.0,fd00::1\": a dual-stack pair cannot contain 0.0.0.0 or ::"],
        );
        check(
            |f| {
                f.cloud_provider = "aws".into();
                f.exit_on_lock_contention = true;
            },
            &[
                "flag --cloud-provider: \"aws\": must be empty or external; in-tree cloud providers have been removed",
                "flag --exit-on-lock-contention: true: needs --lock-file",
            ],
        );
    }
}
