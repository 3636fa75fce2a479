//! Where a probe or a hook goes: host and port, and what is wrong with them.
//!
//! Nothing here asks anybody. The rules are those of upstream's `ResolveContainerPort`; for a name that is unknown
//! upstream says that it is not a number, which helps nobody.

use k8s_openapi::api::core::v1::{Container, ContainerPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The container that is probed.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its spec, for named ports.
    pub container: &'a Container,
    /// The pod's IP; empty while it has none.
    pub pod_ip: &'a str,
}

impl<'a> Target<'a> {
    /// The container's ports.
    pub fn ports(&self) -> &'a [ContainerPort] {
        self.container.ports.as_deref().unwrap_or_default()
    }
}

/// Why there is nothing to connect to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Neither a port of the container nor a number.
    #[error("port {name:?} not found: the container has {has}")]
    UnknownPort {
        /// What was asked for.
        name: String,
        /// The names that it has.
        has: String,
    },
    /// No port has this number.
    #[error("invalid port number: {0}")]
    InvalidPort(i64),
    /// Upstream would connect to the node itself.
    #[error("no host to connect to: the pod has no IP and `host` is not set")]
    NoHost,
}

/// The number of a port: by number, by name, or a number written as a name, in this order.
///
/// # Errors
/// When the container has no port of this name, or the number is none of a port.
pub fn resolve_port(port: &IntOrString, ports: &[ContainerPort]) -> Result<u16, TargetError> {
    let number = match port {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(name) => {
            match ports.iter().find(|port| port.name.as_deref().unwrap_or_default() == name) {
                Some(port) => i64::from(port.container_port),
                None => name.parse().map_err(|_| unknown(name, ports))?,
            }
        }
    };
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or(TargetError::InvalidPort(number))
}

/// The host: what the handler names, or the pod's IP.
///
/// # Errors
/// When there is neither. Upstream connects to the node then, and whoever listens there answers for the container.
pub fn resolve_host<'a>(host: Option<&'a str>, pod_ip: &'a str) -> Result<&'a str, TargetError> {
    match host.filter(|host| !host.is_empty()).unwrap_or(pod_ip) {
        "" => Err(TargetError::NoHost),
        host => Ok(host),
    }
}

fn unknown(name: &str, ports: &[ContainerPort]) -> TargetError {
    let names: Vec<_> = ports.iter().filter_map(|port| port.name.as_deref()).collect();
    let has = match names.is_empty() {
        true => "no named ports".to_owned(),
        false => names.join(", "),
    };
    TargetError::UnknownPort { name: name.to_owned(), has }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_by_number_name_and_number_as_a_name() {
        let port = |name: &str, container_port| ContainerPort {
            name: Some(name.into()),
            container_port,
            ..Default::default()
        };
        let ports = [port("web", 8080), port("81", 8081), port("low", -1), port("high", 65_536)];
        let check = |asked: IntOrString, expected: Result<u16, &str>| {
            let found = resolve_port(&asked, &ports).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{asked:?}");
        };
        let (int, name) = (IntOrString::Int, |name: &str| IntOrString::String(name.into()));
        check(int(80), Ok(80));
        check(int(65_535), Ok(65_535));
        check(int(0), Err("invalid port number: 0"));
        check(int(-1), Err("invalid port number: -1"));
        check(int(65_536), Err("invalid port number: 65536"));
        check(name("web"), Ok(8080));
        check(name("81"), Ok(8081));
        check(name("82"), Ok(82));
        check(name("+82"), Ok(82));
        check(name("0"), Err("invalid port number: 0"));
        check(name("low"), Err("invalid port number: -1"));
        check(name("high"), Err("invalid port number: 65536"));
        check(name("Web"), Err("port \"Web\" not found: the container has web, 81, low, high"));
        check(name(""), Err("port \"\" not found: the container has web, 81, low, high"));
        let none = resolve_port(&name("web"), &[]).map_err(|error| error.to_string());
        assert_eq!(none, Err("port \"web\" not found: the container has no named ports".to_owned()));
    }

    #[test]
    fn no_host_is_not_the_node() {
        assert_eq!(resolve_host(None, "10.0.0.1"), Ok("10.0.0.1"));
        assert_eq!(resolve_host(Some(""), "10.0.0.1"), Ok("10.0.0.1"));
        assert_eq!(resolve_host(Some("x"), ""), Ok("x"));
        assert_eq!(resolve_host(None, ""), Err(TargetError::NoHost));
        assert_eq!(resolve_host(Some(""), ""), Err(TargetError::NoHost));
    }
}
