//! The content of a pod's `/etc/hosts`.
//!
//! Owns the text and whether it is mounted; the shell writes it at each container start.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Container, HostAlias, Pod};

use crate::containers::spec_of;
use crate::hostname::PodHostname;

/// Where the file is mounted in the container, and where the node's own stands.
pub const HOSTS_PATH: &str = "/etc/hosts";

/// Whether a container gets the managed file: not without an address, and not over a mount of its own.
pub fn mounts_hosts_file(pod: &Pod, container: &Container, pod_ips: &[String]) -> bool {
    let known = !pod_ips.is_empty() || spec_of(pod).host_network == Some(true);
    let own_mount = container.volume_mounts.iter().flatten().any(|mount| mount.mount_path == HOSTS_PATH);
    known && !own_mount
}

/// The file of a pod with its own network (upstream `managedHostsFileContent`).
pub fn managed_hosts(pod_ips: &[String], name: &PodHostname, aliases: &[HostAlias]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    let PodHostname { hostname, domain } = name;
    for ip in pod_ips {
        let _ = if domain.is_empty() {
            writeln!(out, "{ip}\t{hostname}")
        } else {
            writeln!(out, "{ip}\t{hostname}.{domain}\t{hostname}")
        };
    }
    push_aliases(&mut out, aliases);
    out
}

/// The file of a host-network pod: the node's own with a header and the pod's aliases.
pub fn host_network_hosts(node_hosts: &[u8], aliases: &[HostAlias]) -> Vec<u8> {
    let mut out = b"# Kubernetes-managed hosts file (host network).\n".to_vec();
    out.extend_from_slice(node_hosts);
    let mut tail = String::new();
    push_aliases(&mut tail, aliases);
    out.extend_from_slice(tail.as_bytes());
    out
}

fn push_aliases(out: &mut String, aliases: &[HostAlias]) {
    if aliases.is_empty() {
        return;
    }
    out.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(out, "{}\t{names}", alias.ip);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HEAD: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost \
        ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

    fn alias(ip: &str, names: &[&str]) -> HostAlias {
        HostAlias { ip: ip.into(), hostnames: Some(names.iter().map(|n| (*n).to_owned()).collect()) }
    }

    #[track_caller]
    fn check(ips: &[&str], domain: &str, aliases: &[HostAlias], tail: &str) {
        let ips: Vec<String> = ips.iter().map(|ip| (*ip).to_owned()).collect();
        let name = PodHostname { hostname: "web".into(), domain: domain.into() };
        assert_eq!(managed_hosts(&ips, &name, aliases), format!("{HEAD}{tail}"));
    }

    #[test]
    fn one_line_for_each_address() {
        check(&["10.0.0.7"], "", &[], "10.0.0.7\tweb\n");
        check(&["10.0.0.7", "fd00::7"], "", &[], "10.0.0.7\tweb\nfd00::7\tweb\n");
        check(&["10.0.0.7"], "s.ns.svc.c", &[], "10.0.0.7\tweb.s.ns.svc.c\tweb\n");
        check(
            &["10.0.0.7"],
            "",
            &[alias("1.2.3.4", &["a", "b"]), alias("::2", &["c"])],
            "10.0.0.7\tweb\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n::2\tc\n",
        );
    }

    #[test]
    fn host_network_keeps_the_nodes_file_byte_for_byte() {
        let found = host_network_hosts(b"127.0.0.1 node\xff\n", &[alias("1.2.3.4", &["a"])]);
        let expected: &[u8] = b"# Kubernetes-managed hosts file (host network).\n127.0.0.1 node\xff\n\n\
            # Entries added by HostAliases.\n1.2.3.4\ta\n";
        assert_eq!(found, expected);
    }

    #[test]
    fn mounted_with_an_address_and_no_mount_of_its_own() {
        let pod = |host_network: bool| -> Pod {
            serde_json::from_value(json!({"spec": {"hostNetwork": host_network, "containers": []}})).unwrap()
        };
        let container = |path: &str| -> Container {
            serde_json::from_value(json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": path}]}))
                .unwrap()
        };
        let ips = ["10.0.0.7".to_owned()];
        assert!(mounts_hosts_file(&pod(false), &container("/data"), &ips));
        assert!(mounts_hosts_file(&pod(true), &container("/data"), &[]));
        assert!(!mounts_hosts_file(&pod(false), &container("/data"), &[]));
        assert!(!mounts_hosts_file(&pod(false), &container("/etc/hosts"), &ips));
        assert!(mounts_hosts_file(&pod(false), &container("/etc/hosts.d"), &ips));
    }
}
