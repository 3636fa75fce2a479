//! Endpoints and EndpointSlices.

use rubelet_core::validation::field::{Errors, Path};
use rubelet_core::validation::names;
use serde_json::{Value, json};

use super::rules::Rules;
use super::value::{has, items, items_mut, remove, set_default, text, texts};
use super::{Change, Warnings, checks, meta};

/// The rules of Endpoints.
pub(crate) struct Endpoints;

impl Rules for Endpoints {
    fn created_by_update(&self) -> bool {
        true
    }

    fn defaults(&self, endpoints: &mut Value) {
        for subset in items_mut(endpoints, &["subsets"]) {
            for port in items_mut(subset, &["ports"]) {
                set_default(port, &["protocol"], "TCP");
            }
        }
    }

    fn validate(&self, _: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        if old.is_some_and(|old| old["subsets"] == new["subsets"]) {
            return;
        }
        for (index, subset) in items(new, &["subsets"]).iter().enumerate() {
            let path = Path::new("subsets").index(index);
            let lists = ["addresses", "notReadyAddresses"];
            if lists.iter().all(|list| items(subset, &[list]).is_empty()) {
                errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
            }
            for list in lists {
                for (index, address) in items(subset, &[list]).iter().enumerate() {
                    validate_address(&path.child(list).index(index), address, errors);
                }
            }
            let ports = items(subset, &["ports"]);
            for (index, port) in ports.iter().enumerate() {
                let path = path.child("ports").index(index);
                match text(port, &["name"]) {
                    "" if ports.len() > 1 => errors.required(&path.child("name"), ""),
                    "" => {}
                    name => errors.invalid_each(&path.child("name"), name, names::dns_label(name)),
                }
                checks::port_number(errors, &path.child("port"), &port["port"]);
                checks::protocols(errors, &path, port);
            }
        }
    }

    fn warnings(&self, _: &Value, _: Option<&Value>) -> Warnings {
        vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()]
    }
}

fn validate_address(path: &Path, address: &Value, errors: &mut Errors) {
    let ip = text(address, &["ip"]);
    checks::legacy_ip(errors, &path.child("ip"), ip);
    if !text(address, &["hostname"]).is_empty() {
        let hostname = text(address, &["hostname"]);
        errors.invalid_each(&path.child("hostname"), hostname, names::dns_label(hostname));
    }
    if has(address, &["nodeName"]) {
        let node = text(address, &["nodeName"]);
        errors.invalid_each(&path.child("nodeName"), node, names::dns_subdomain(node));
    }
    checks::endpoint_ip(errors, &path.child("ip"), ip);
}

/// The rules of EndpointSlices.
pub(crate) struct Slices;

impl Rules for Slices {
    fn defaults(&self, slice: &mut Value) {
        for port in items_mut(slice, &["ports"]) {
            set_default(port, &["name"], "");
            set_default(port, &["protocol"], "TCP");
        }
    }

    fn prepare(&self, _: &Change<'_>, new: &mut Value, old: Option<&Value>) {
        for endpoint in items_mut(new, &["endpoints"]) {
            // Reserved by the first version of the API.
            remove(endpoint, &["deprecatedTopology"]);
        }
        let changed = old.is_some_and(|old| {
            ["addressType", "endpoints", "ports"].iter().any(|field| new[*field] != old[*field])
                || new["metadata"]["labels"] != old["metadata"]["labels"]
        });
        meta::count_generation(new, old, changed);
    }

    fn validate(&self, _: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        errors.one_of(&Path::new("addressType"), new["addressType"].as_str(), &["FQDN", "IPv4", "IPv6"]);
        self.validate_ports(new, errors);
        if old.is_none_or(|old| old["endpoints"] != new["endpoints"]) {
            self.validate_endpoints(new, errors);
        }
        if let Some(old) = old {
            checks::immutable(errors, &Path::new("addressType"), &new["addressType"], &old["addressType"]);
        }
    }
}

impl Slices {
    fn validate_ports(&self, slice: &Value, errors: &mut Errors) {
        let path = Path::new("ports");
        let ports = items(slice, &["ports"]);
        if ports.len() > 20_000 {
            return errors.too_many(&path, ports.len(), 20_000);
        }
        let mut seen = std::collections::BTreeSet::new();
        for (index, port) in ports.iter().enumerate() {
            let path = path.index(index);
            let name = text(port, &["name"]);
            if !name.is_empty() {
                errors.invalid_each(&path.child("name"), name, names::dns_label(name));
            }
            if !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
            checks::protocols(errors, &path, port);
        }
    }

    fn validate_endpoints(&self, slice: &Value, errors: &mut Errors) {
        let path = Path::new("endpoints");
        let endpoints = items(slice, &["endpoints"]);
        if endpoints.len() > 1000 {
            return errors.too_many(&path, endpoints.len(), 1000);
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let path = path.index(index);
            let at = path.child("addresses");
            match items(endpoint, &["addresses"]).len() {
                0 => errors.required(&at, "must contain at least 1 address"),
                count if count > 100 => errors.too_many(&at, count, 100),
                _ => {}
            }
            for (index, address) in texts(endpoint, &["addresses"]).enumerate() {
                slice_address(text(slice, &["addressType"]), &at, index, address, errors);
            }
            if has(endpoint, &["nodeName"]) {
                let node = text(endpoint, &["nodeName"]);
                errors.invalid_each(&path.child("nodeName"), node, names::dns_subdomain(node));
            }
            if has(endpoint, &["hostname"]) {
                let hostname = text(endpoint, &["hostname"]);
                errors.invalid_each(&path.child("hostname"), hostname, names::dns_label(hostname));
            }
            for (list, rule) in [
                ("forZones", names::label_value as fn(&str) -> Vec<String>),
                ("forNodes", names::dns_subdomain),
            ] {
                validate_hints(
                    &path.child("hints").child(list),
                    items(endpoint, &["hints", list]),
                    rule,
                    errors,
                );
            }
        }
    }
}

fn slice_address(kind: &str, path: &Path, index: usize, address: &str, errors: &mut Errors) {
    let item = path.index(index);
    match kind {
        "FQDN" => {
            let name = address.strip_suffix('.').unwrap_or(address);
            if name.is_empty() {
                return errors.required(&item, "");
            }
            errors.invalid_each(&item, name, names::dns_subdomain(name));
            if !name.contains('.') {
                errors.invalid(
                    &item,
                    address,
                    "should be a domain with at least two segments separated by dots",
                );
            }
        }
        "IPv4" | "IPv6" => {
            if !checks::legacy_ip(errors, &item, address) {
                return;
            }
            if address.contains(':') != (kind == "IPv6") {
                errors.invalid(path, address, format!("must be an {kind} address"));
            }
            checks::endpoint_ip(errors, &item, address);
        }
        _ => {}
    }
}

fn validate_hints(path: &Path, hints: &[Value], rule: fn(&str) -> Vec<String>, errors: &mut Errors) {
    if hints.len() > 8 {
        return errors.too_many(path, hints.len(), 8);
    }
    for (index, hint) in hints.iter().enumerate() {
        let path = path.index(index).child("name");
        let name = text(hint, &["name"]);
        if hints.iter().take(index).any(|earlier| earlier["name"] == json!(name)) {
            errors.duplicate(&path, name);
        }
        errors.invalid_each(&path, name, rule(name));
    }
}
