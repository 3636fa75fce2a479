//! Services and what is behind them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::columns::{AGE, NAME, string};
use super::{Printer, age, cell, first_few, name, number, or};
use crate::strategy::value::{entries, items, text, texts};

pub(super) static SERVICES: Printer = Printer {
    columns: &[
        NAME,
        string("Type", "How the service can be reached."),
        string("Cluster-IP", "Its first address inside the cluster."),
        string("External-IP", "Its addresses or name outside the cluster."),
        string("Port(s)", "Its ports, and those on nodes."),
        AGE,
        string("Selector", "The labels of the pods behind it.").wide(),
    ],
    cells: |service, now| {
        vec![
            name(service),
            cell(service, &["spec", "type"]),
            json!(cluster_ip(service)),
            json!(external(service)),
            json!(or(&ports(service), "<none>")),
            age(service, now),
            json!(or(&selector(service), "<none>")),
        ]
    },
};

pub(super) static ENDPOINTS: Printer = Printer {
    columns: &[NAME, string("Endpoints", "The first addresses behind the service."), AGE],
    cells: |endpoints, now| vec![name(endpoints), json!(addresses(endpoints)), age(endpoints, now)],
};

pub(super) static ENDPOINT_SLICES: Printer = Printer {
    columns: &[
        NAME,
        string("AddressType", "What kind of addresses it holds."),
        string("Ports", "The first of its ports."),
        string("Endpoints", "The first of its addresses."),
        AGE,
    ],
    cells: |slice, now| {
        let ports: Vec<String> = items(slice, &["ports"]).iter().map(slice_port).collect();
        let endpoints =
            items(slice, &["endpoints"]).iter().flat_map(|endpoint| texts(endpoint, &["addresses"]));
        let endpoints: Vec<String> = endpoints.map(str::to_owned).collect();
        vec![
            name(slice),
            cell(slice, &["addressType"]),
            json!(or(&first_few(&ports), "<unset>")),
            json!(or(&first_few(&endpoints), "<unset>")),
            age(slice, now),
        ]
    },
};

fn cluster_ip(service: &Value) -> &str {
    let first = texts(service, &["spec", "clusterIPs"]).next();
    or(first.unwrap_or_else(|| text(service, &["spec", "clusterIP"])), "<none>")
}

fn external(service: &Value) -> String {
    let kind = text(service, &["spec", "type"]);
    let mut addresses: Vec<&str> = Vec::new();
    let none = match kind {
        "ClusterIP" | "NodePort" => "<none>",
        "LoadBalancer" => {
            addresses.extend(balancers(service));
            "<pending>"
        }
        "ExternalName" => return text(service, &["spec", "externalName"]).to_owned(),
        _ => return "<unknown>".to_owned(),
    };
    addresses.extend(texts(service, &["spec", "externalIPs"]));
    or(&addresses.join(","), none).to_owned()
}

fn balancers(service: &Value) -> BTreeSet<&str> {
    items(service, &["status", "loadBalancer", "ingress"])
        .iter()
        .map(|ingress| or(text(ingress, &["ip"]), text(ingress, &["hostname"])))
        .filter(|address| !address.is_empty())
        .collect()
}

fn ports(service: &Value) -> String {
    let port = |port: &Value| {
        let protocol = text(port, &["protocol"]);
        match (number(port, &["port"]), number(port, &["nodePort"])) {
            (inside, on_nodes @ 1..) => format!("{inside}:{on_nodes}/{protocol}"),
            (inside, _) => format!("{inside}/{protocol}"),
        }
    };
    items(service, &["spec", "ports"]).iter().map(port).collect::<Vec<_>>().join(",")
}

fn selector(service: &Value) -> String {
    let labels = entries(service, &["spec", "selector"]);
    labels
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(",")
}

/// Every address with every port of its subset.
fn addresses(endpoints: &Value) -> String {
    let subsets = items(endpoints, &["subsets"]);
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut list = Vec::new();
    for subset in subsets {
        let ips = || items(subset, &["addresses"]).iter().map(|address| text(address, &["ip"]));
        let ports = items(subset, &["ports"]);
        if ports.is_empty() {
            list.extend(ips().map(str::to_owned));
        }
        for port in ports {
            let port = number(port, &["port"]);
            list.extend(ips().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{port}"),
                false => format!("{ip}:{port}"),
            }));
        }
    }
    first_few(&list)
}

fn slice_port(port: &Value) -> String {
    match (&port["port"], &port["name"]) {
        (Value::Number(port), _) => port.to_string(),
        (_, Value::String(name)) => name.clone(),
        _ => "*".to_owned(),
    }
}
