//! The variables by which containers find Services (upstream `getServiceEnvVarMap` and `envvars.FromServices`).
//!
//! Owns which Services count and what the variables are called; never lists Services. The result goes into
//! [`crate::env::make_env`].

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort};

/// The namespace of Services that every pod is told about.
const MASTER_NAMESPACE: &str = "default";
/// The Service that every pod is told about.
const MASTER_SERVICE: &str = "kubernetes";

/// The variables for a pod in `namespace`. Only Services with a cluster address count: headless and ExternalName
/// ones do not. `enable_links` is the pod's `enableServiceLinks`; without it, only the API server's own Service
/// is told. A Service `kubernetes` of the pod's own namespace wins over that one.
pub fn service_env<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    enable_links: bool,
) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, (&str, &Service)> = BTreeMap::new();
    for service in services {
        let Some(address) = cluster_address(service) else { continue };
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let of = service.metadata.namespace.as_deref().unwrap_or_default();
        if of == MASTER_NAMESPACE && name == MASTER_SERVICE {
            chosen.entry(name).or_insert((address, service));
        } else if of == namespace && enable_links {
            chosen.insert(name, (address, service));
        }
    }
    let mut env = BTreeMap::new();
    for (name, (address, service)) in chosen {
        add_service(&mut env, name, address, service);
    }
    env
}

fn cluster_address(service: &Service) -> Option<&str> {
    let address = service.spec.as_ref()?.cluster_ip.as_deref()?;
    (!address.is_empty() && address != "None").then_some(address)
}

fn add_service(env: &mut BTreeMap<String, String>, name: &str, address: &str, service: &Service) {
    let prefix = variable_name(name);
    let ports: Vec<&ServicePort> = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).collect();
    env.insert(format!("{prefix}_SERVICE_HOST"), address.to_owned());
    if let Some(first) = ports.first() {
        env.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        env.insert(format!("{prefix}_PORT"), url(address, first));
    }
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            env.insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.port.to_string());
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol(port).to_uppercase());
        env.insert(format!("{link}_PROTO"), protocol(port).to_lowercase());
        env.insert(format!("{link}_PORT"), port.port.to_string());
        env.insert(format!("{link}_ADDR"), address.to_owned());
        env.insert(link, url(address, port));
    }
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP")
}

fn url(address: &str, port: &ServicePort) -> String {
    let (protocol, port) = (protocol(port).to_lowercase(), port.port);
    if address.contains(':') {
        format!("{protocol}://[{address}]:{port}")
    } else {
        format!("{protocol}://{address}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(namespace: &str, name: &str, ip: &str, ports: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": ip, "ports": ports},
        }))
        .unwrap()
    }

    #[track_caller]
    fn check(services: &[Service], namespace: &str, links: bool, expected: &[&str]) {
        let env = service_env(services, namespace, links);
        let lines: Vec<_> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(lines, expected);
    }

    #[test]
    fn variables_of_services() {
        let services = [
            service("ns", "foo-bar", "1.2.3.4", json!([{"port": 8080, "protocol": "TCP"}])),
            service(
                "ns",
                "abc-123",
                "5.6.7.8",
                json!([{"name": "u-d-p", "port": 8081, "protocol": "UDP"},
                       {"name": "t-c-p", "port": 8082}]),
            ),
            service("ns", "v6", "2001:DB8::1", json!([{"port": 99, "protocol": "SCTP"}])),
            service("ns", "headless", "None", json!([{"port": 1}])),
            service("ns", "external", "", json!([{"port": 1}])),
            service("ns", "portless", "9.9.9.9", json!(null)),
            service("other", "elsewhere", "1.1.1.1", json!([{"port": 1}])),
        ];
        check(
            &services,
            "ns",
            true,
            &[
                "FOO_BAR_SERVICE_HOST=1.2.3.4",
                "FOO_BAR_SERVICE_PORT=8080",
                "FOO_BAR_PORT=tcp://1.2.3.4:8080",
                "FOO_BAR_PORT_8080_TCP=tcp://1.2.3.4:8080",
                "FOO_BAR_PORT_8080_TCP_PROTO=tcp",
                "FOO_BAR_PORT_8080_TCP_PORT=8080",
                "FOO_BAR_PORT_8080_TCP_ADDR=1.2.3.4",
                "ABC_123_SERVICE_HOST=5.6.7.8",
                "ABC_123_SERVICE_PORT=8081",
                "ABC_123_SERVICE_PORT_U_D_P=8081",
                "ABC_123_SERVICE_PORT_T_C_P=8082",
                "ABC_123_PORT=udp://5.6.7.8:8081",
                "ABC_123_PORT_8081_UDP=udp://5.6.7.8:8081",
                "ABC_123_PORT_8081_UDP_PROTO=udp",
                "ABC_123_PORT_8081_UDP_PORT=8081",
                "ABC_123_PORT_8081_UDP_ADDR=5.6.7.8",
                "ABC_123_PORT_8082_TCP=tcp://5.6.7.8:8082",
                "ABC_123_PORT_8082_TCP_PROTO=tcp",
                "ABC_123_PORT_8082_TCP_PORT=8082",
                "ABC_123_PORT_8082_TCP_ADDR=5.6.7.8",
                "V6_SERVICE_HOST=2001:DB8::1",
                "V6_SERVICE_PORT=99",
                "V6_PORT=sctp://[2001:DB8::1]:99",
                "V6_PORT_99_SCTP=sctp://[2001:DB8::1]:99",
                "V6_PORT_99_SCTP_PROTO=sctp",
                "V6_PORT_99_SCTP_PORT=99",
                "V6_PORT_99_SCTP_ADDR=2001:DB8::1",
                "PORTLESS_SERVICE_HOST=9.9.9.9",
            ],
        );
        check(&services, "ns", false, &[]);
    }

    #[test]
    fn the_api_servers_service_is_always_told() {
        let host = |services: &[Service], namespace: &str, links: bool| {
            service_env(services, namespace, links).get("KUBERNETES_SERVICE_HOST").cloned()
        };
        let master = service("default", "kubernetes", "10.0.0.1", json!([{"port": 443}]));
        let own = service("ns", "kubernetes", "10.0.0.2", json!([{"port": 443}]));
        let other = service("default", "db", "10.0.0.3", json!([{"port": 443}]));
        let both = [master.clone(), own.clone(), other.clone()];
        let turned = [own, master, other];
        for services in [&both, &turned] {
            assert_eq!(host(services, "ns", false).as_deref(), Some("10.0.0.1"));
            assert_eq!(host(services, "ns", true).as_deref(), Some("10.0.0.2"));
            assert_eq!(host(services, "default", false).as_deref(), Some("10.0.0.1"));
            assert!(!service_env(services, "ns", true).contains_key("DB_SERVICE_HOST"));
            assert!(!service_env(services, "default", false).contains_key("DB_SERVICE_HOST"));
            assert!(service_env(services, "default", true).contains_key("DB_SERVICE_HOST"));
        }
    }
}
