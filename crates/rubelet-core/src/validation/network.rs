//! Host network, DNS, host aliases and host names.
//!
//! Owns the rules about what a pod says of its network identity; resolving it is [`crate::dns`]'s.

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use super::field::{Errors, Json, Path};
use super::{names, text};

const NAMESERVERS_LIMIT: usize = 3;
const SEARCHES_LIMIT: usize = 32;
const SEARCH_LENGTH_LIMIT: usize = 2048;

/// On the host's network a container's port is the host's port.
pub(super) fn host_network_ports(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    if spec.host_network != Some(true) {
        return;
    }
    for (index, container) in spec.containers.iter().enumerate() {
        let path = path.child("containers").index(index).child("ports");
        for (index, port) in container.ports.iter().flatten().enumerate() {
            if let Some(host_port) = port.host_port.filter(|host| *host != 0 && *host != port.container_port)
            {
                let rule = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&path.index(index).child("hostPort"), &host_port, rule);
            }
        }
    }
}

/// DNS, aliases, host name and user namespaces beside host namespaces.
pub(super) fn validate(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    dns(errors, spec, &path.child("dnsConfig"));
    if spec.host_users == Some(false) {
        host_users(errors, spec, path);
    }
    if let Some(name) = &spec.hostname_override {
        let path = path.child("hostnameOverride");
        if spec.set_hostname_as_fqdn == Some(true) {
            errors.forbidden(&path, "may not be specified when setHostnameAsFQDN is true");
        }
        if spec.host_network == Some(true) {
            errors.forbidden(&path, "may not be specified when hostNetwork is true");
        }
        if name.len() > 64 {
            errors.too_long(&path, 64);
        }
        errors.invalid_each(&path, name, names::dns_subdomain(name));
    }
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.child("hostAliases").index(index);
        errors.invalid_each(&path.child("ip"), &alias.ip, names::ip_address(&alias.ip));
        for (index, name) in alias.hostnames.iter().flatten().enumerate() {
            errors.invalid_each(&path.child("hostnames").index(index), name, names::dns_subdomain(name));
        }
    }
}

fn host_users(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    let namespaces =
        [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)];
    for (field, _) in namespaces.into_iter().filter(|(_, set)| *set == Some(true)) {
        errors.forbidden(&path.child(field), "when `hostUsers` is false");
    }
    let lists = [
        ("initContainers", spec.init_containers.as_deref().unwrap_or_default()),
        ("containers", spec.containers.as_slice()),
    ];
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            if container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
                let path = path.child(list).index(index).child("volumeDevices");
                errors.forbidden(&path, "when `hostUsers` is false");
            }
        }
    }
}

fn dns(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    let none = text(&spec.dns_policy) == "None";
    let Some(config) = &spec.dns_config else {
        if none {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let nameservers = config.nameservers.as_deref().unwrap_or_default();
    let path_of_nameservers = path.child("nameservers");
    if none && nameservers.is_empty() {
        let rule = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        return errors.required(&path_of_nameservers, rule);
    }
    if nameservers.len() > NAMESERVERS_LIMIT {
        let rule = format!("must not have more than {NAMESERVERS_LIMIT} nameservers");
        errors.invalid(&path_of_nameservers, &Json(&nameservers), rule);
    }
    for (index, address) in nameservers.iter().enumerate() {
        errors.invalid_each(&path_of_nameservers.index(index), address, names::ip_address(address));
    }
    searches_and_options(errors, config, path);
}

fn searches_and_options(errors: &mut Errors, config: &PodDNSConfig, path: &Path) {
    let searches = config.searches.as_deref().unwrap_or_default();
    let path_of_searches = path.child("searches");
    if searches.len() > SEARCHES_LIMIT {
        let rule = format!("must not have more than {SEARCHES_LIMIT} search paths");
        errors.invalid(&path_of_searches, &Json(&searches), rule);
    }
    if searches.join(" ").len() > SEARCH_LENGTH_LIMIT {
        let rule = format!(
            "must not have more than {SEARCH_LENGTH_LIMIT} characters (including spaces) in the search list"
        );
        errors.invalid(&path_of_searches, &Json(&searches), rule);
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        let path = path_of_searches.index(index);
        errors.invalid_each(&path, search, names::dns_subdomain_with_underscore(search));
    }
    for (index, option) in config.options.iter().flatten().enumerate() {
        if text(&option.name).is_empty() {
            errors.required(&path.child("options").index(index), "must not be empty");
        }
    }
}
