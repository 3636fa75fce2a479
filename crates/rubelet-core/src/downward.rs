//! The downward API: pod fields and container resources as text.
//!
//! Owns which field paths and resources exist and how they print; never mounts or injects them. Called while
//! a container's environment is made, and later by downwardAPI volumes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};

use crate::containers::{regular_containers, spec_of};
use crate::quantity::{Amount, Format, listed};

/// What the downward API knows beside the pod object.
#[derive(Clone, Debug, Default)]
pub struct DownwardFacts {
    /// The node's addresses, primary family first.
    pub host_ips: Vec<String>,
    /// The pod's addresses, the node's primary family first; the node's own for host-network pods.
    pub pod_ips: Vec<String>,
    /// Allocatable resources of the node: what a missing limit counts as.
    pub node_allocatable: BTreeMap<String, Amount>,
}

/// Why a field or resource cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownwardError {
    /// `apiVersion` is not v1.
    #[error("unsupported pod version: {0}")]
    Version(String),
    /// No such field.
    #[error("field label not supported: {0}")]
    Field(String),
    /// `field['key']` on a field that is no map.
    #[error("field label does not support subscript: {0}")]
    Subscript(String),
    /// The key of a label or annotation is no qualified name.
    #[error("invalid key subscript in {path}: {problem}")]
    Key {
        /// The whole field path.
        path: String,
        /// What is wrong with the key.
        problem: String,
    },
    /// The field exists and can be selected on, but has no downward value.
    #[error("unsupported fieldPath: {0}")]
    NoValue(String),
    /// No such resource.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// `containerName` names nothing.
    #[error("container {0} not found")]
    Container(String),
    /// The node's addresses are not known yet.
    #[error("failed to get host IPs: the node has no addresses yet")]
    NoHostIp,
    /// The divisor is no quantity.
    #[error("invalid divisor {0:?}")]
    Divisor(String),
}

/// The value of `fieldRef` (upstream `podFieldSelectorRuntimeValue`).
pub fn field_value(
    selector: &ObjectFieldSelector,
    pod: &Pod,
    facts: &DownwardFacts,
) -> Result<String, DownwardError> {
    let version = selector.api_version.as_deref().unwrap_or("v1");
    if version != "v1" {
        return Err(DownwardError::Version(version.to_owned()));
    }
    let path = selector.field_path.as_str();
    let metadata = &pod.metadata;
    let spec = spec_of(pod);
    let text = |field: Option<&str>| Ok(field.unwrap_or_default().to_owned());
    if let Some((map, key)) = subscripted(path) {
        let (entries, checked_key) = match map {
            "metadata.annotations" => (metadata.annotations.as_ref(), key.to_lowercase()),
            "metadata.labels" => (metadata.labels.as_ref(), key.to_owned()),
            _ => return Err(DownwardError::Subscript(path.to_owned())),
        };
        if let Err(problem) = check_qualified_name(&checked_key) {
            return Err(DownwardError::Key { path: path.to_owned(), problem });
        }
        return text(entries.and_then(|entries| entries.get(key)).map(String::as_str));
    }
    match path {
        "metadata.annotations" => Ok(format_map(metadata.annotations.as_ref())),
        "metadata.labels" => Ok(format_map(metadata.labels.as_ref())),
        "metadata.name" => text(metadata.name.as_deref()),
        "metadata.namespace" => text(metadata.namespace.as_deref()),
        "metadata.uid" => text(metadata.uid.as_deref()),
        "spec.nodeName" | "spec.host" => text(spec.node_name.as_deref()),
        "spec.serviceAccountName" => text(spec.service_account_name.as_deref()),
        "status.hostIP" => facts.host_ips.first().cloned().ok_or(DownwardError::NoHostIp),
        "status.hostIPs" if facts.host_ips.is_empty() => Err(DownwardError::NoHostIp),
        "status.hostIPs" => Ok(facts.host_ips.join(",")),
        "status.podIP" => text(facts.pod_ips.first().map(String::as_str)),
        "status.podIPs" => Ok(facts.pod_ips.join(",")),
        "spec.restartPolicy" | "spec.schedulerName" | "status.phase" => {
            Err(DownwardError::NoValue(path.to_owned()))
        }
        _ => Err(DownwardError::Field(path.to_owned())),
    }
}

/// The value of `resourceFieldRef`, rounded up to whole divisors. A missing limit counts as the pod's own limit
/// and else as what the node can allocate; a missing request is zero.
pub fn resource_value(
    selector: &ResourceFieldSelector,
    pod: &Pod,
    container: &Container,
    facts: &DownwardFacts,
) -> Result<String, DownwardError> {
    let container = match selector.container_name.as_deref() {
        None | Some("") => container,
        Some(name) if name == container.name => container,
        Some(name) => regular_containers(spec_of(pod))
            .find(|c| c.name == name)
            .ok_or_else(|| DownwardError::Container(name.to_owned()))?,
    };
    let unknown = || DownwardError::Resource(selector.resource.clone());
    let (is_limit, name) = match selector.resource.split_once('.') {
        Some(("limits", name)) => (true, name),
        Some(("requests", name)) => (false, name),
        _ => return Err(unknown()),
    };
    let defaulted = matches!(name, "cpu" | "memory" | "ephemeral-storage");
    if !defaulted && !name.starts_with("hugepages-") {
        return Err(unknown());
    }
    let divisor = match &selector.divisor {
        None => Amount::ZERO,
        Some(text) => Amount::of(text).map_err(|_| DownwardError::Divisor(text.0.clone()))?,
    };
    let divisor = if divisor.is_zero() { Amount::units(1, Format::DecimalSi) } else { divisor };
    let resources = container.resources.as_ref();
    let list = if is_limit {
        resources.and_then(|r| r.limits.as_ref())
    } else {
        resources.and_then(|r| r.requests.as_ref())
    };
    let mut amount = listed(list, name).unwrap_or(Amount::ZERO);
    if is_limit && defaulted && amount.is_zero() {
        amount = default_limit(pod, name, facts);
    }
    // CPU is compared in thousandths and all else in whole units, each side rounded up first, as upstream does.
    let quotient = if name == "cpu" {
        divided_up(amount.milli_value(), divisor.milli_value())
    } else {
        divided_up(amount.value(), divisor.value())
    };
    Ok(quotient.to_string())
}

fn divided_up(amount: i64, divisor: i64) -> i128 {
    let (amount, divisor) = (i128::from(amount), i128::from(divisor).max(1));
    (amount + divisor - 1).div_euclid(divisor)
}

fn default_limit(pod: &Pod, name: &str, facts: &DownwardFacts) -> Amount {
    let Some(allocatable) = facts.node_allocatable.get(name).copied() else {
        return Amount::ZERO;
    };
    let pod_limits = spec_of(pod).resources.as_ref().and_then(|resources| resources.limits.as_ref());
    match listed(pod_limits, name) {
        Some(limit) if name != "ephemeral-storage" && !limit.is_zero() => limit,
        _ => allocatable,
    }
}

/// `path['key']` taken apart.
fn subscripted(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    if map.is_empty() { None } else { Some((map, key)) }
}

/// A map as `key="value"` lines, sorted by key (upstream `FormatMap`).
pub fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let mut out = String::new();
    for (key, value) in map.into_iter().flatten() {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(key);
        out.push('=');
        push_go_quoted(&mut out, value);
    }
    out
}

/// Appends a double-quoted string as Go's `strconv.Quote` prints it.
pub fn push_go_quoted(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            ' '..='~' => out.push(character),
            '\0'..='\u{1f}' | '\u{7f}' => {
                let _ = write!(out, "\\x{:02x}", character as u32);
            }
            _ if !is_printable(character) => {
                let code = character as u32;
                let _ =
                    if code < 0x1_0000 { write!(out, "\\u{code:04x}") } else { write!(out, "\\U{code:08x}") };
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

fn is_printable(character: char) -> bool {
    !character.is_control()
        && !character.is_whitespace()
        && !matches!(character,
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{10ffff}')
}

/// Whether a text is `[prefix/]name` as label and annotation keys are (upstream `IsQualifiedName`).
fn check_qualified_name(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix
        && !crate::hostname::is_dns_subdomain(prefix)
    {
        return Err("prefix part must be a lower-case DNS subdomain".to_owned());
    }
    if name.is_empty() {
        return Err("name part must be non-empty".to_owned());
    }
    if name.len() > 63 {
        return Err("name part must be no more than 63 bytes".to_owned());
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edges = name.bytes().next().zip(name.bytes().last());
    let edges_fit = edges.is_some_and(|(a, b)| a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric());
    if !edges_fit || !name.bytes().all(inner) {
        return Err("name part must consist of alphanumeric characters, '-', '_' or '.', \
                    and must start and end with an alphanumeric character"
            .to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u-1",
                "labels": {"app": "a\"b", "zone": "1\n2"},
                "annotations": {"example.com/Team": "blue"},
            },
            "spec": {
                "nodeName": "n1", "serviceAccountName": "sa",
                "containers": [
                    {"name": "app", "resources": {"limits": {"cpu": "1500m"}, "requests": {"cpu": "100m", "memory": "64Mi"}}},
                    {"name": "side", "resources": {"limits": {"memory": "1Gi", "hugepages-2Mi": "4Mi"}}},
                ],
            },
        }))
        .unwrap()
    }

    fn facts() -> DownwardFacts {
        let allocatable = [("cpu", "4"), ("memory", "8Gi"), ("ephemeral-storage", "100G")];
        DownwardFacts {
            host_ips: vec!["10.0.0.1".into(), "fd00::1".into()],
            pod_ips: vec!["10.1.0.7".into(), "fd01::7".into()],
            node_allocatable: allocatable
                .map(|(name, text)| (name.to_owned(), Amount::parse(text).unwrap()))
                .into(),
        }
    }

    #[track_caller]
    fn field(path: &str, expected: Result<&str, &str>) {
        let selector = ObjectFieldSelector { api_version: None, field_path: path.into() };
        let found = field_value(&selector, &pod(), &facts()).map_err(|error| error.to_string());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{path}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{path}: {found}"),
            (found, _) => panic!("{path}: {found:?}"),
        }
    }

    #[test]
    fn fields_of_the_pod() {
        field("metadata.name", Ok("web"));
        field("metadata.namespace", Ok("shop"));
        field("metadata.uid", Ok("u-1"));
        field("metadata.labels", Ok("app=\"a\\\"b\"\nzone=\"1\\n2\""));
        field("metadata.labels['app']", Ok("a\"b"));
        field("metadata.labels['absent']", Ok(""));
        field("metadata.annotations['example.com/Team']", Ok("blue"));
        field("spec.nodeName", Ok("n1"));
        field("spec.host", Ok("n1"));
        field("spec.serviceAccountName", Ok("sa"));
        field("status.hostIP", Ok("10.0.0.1"));
        field("status.hostIPs", Ok("10.0.0.1,fd00::1"));
        field("status.podIP", Ok("10.1.0.7"));
        field("status.podIPs", Ok("10.1.0.7,fd01::7"));
        field("spec.subdomain", Err("field label not supported: spec.subdomain"));
        field("status.phase", Err("unsupported fieldPath: status.phase"));
        field("metadata.name['x']", Err("does not support subscript"));
        field("metadata.labels['']", Err("invalid key subscript in metadata.labels['']"));
        field("metadata.labels['a b']", Err("invalid key subscript"));
        field("metadata.labels['UP/x']", Err("prefix part"));
    }

    #[test]
    fn other_versions_and_missing_addresses_are_errors() {
        let selector =
            ObjectFieldSelector { api_version: Some("v2".into()), field_path: "metadata.name".into() };
        assert_eq!(field_value(&selector, &pod(), &facts()), Err(DownwardError::Version("v2".into())));
        let host_ip = ObjectFieldSelector { api_version: None, field_path: "status.hostIP".into() };
        assert_eq!(field_value(&host_ip, &pod(), &DownwardFacts::default()), Err(DownwardError::NoHostIp));
    }

    #[track_caller]
    fn resource(container: &str, name: &str, divisor: &str, expected: Result<&str, &str>) {
        let pod = pod();
        let selector = ResourceFieldSelector {
            container_name: Some(container.into()),
            divisor: Some(Quantity(divisor.into())),
            resource: name.into(),
        };
        let own = &pod.spec.as_ref().unwrap().containers[0];
        let found = resource_value(&selector, &pod, own, &facts()).map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{container} {name} {divisor}");
    }

    #[test]
    fn resources_of_containers() {
        resource("app", "limits.cpu", "0", Ok("2"));
        resource("app", "limits.cpu", "1m", Ok("1500"));
        resource("app", "requests.cpu", "1", Ok("1"));
        resource("app", "requests.memory", "1Mi", Ok("64"));
        resource("app", "limits.memory", "1Gi", Ok("8"));
        resource("app", "limits.ephemeral-storage", "1", Ok("100000000000"));
        resource("app", "requests.ephemeral-storage", "1", Ok("0"));
        resource("side", "limits.memory", "1Mi", Ok("1024"));
        resource("side", "limits.cpu", "1", Ok("4"));
        resource("side", "limits.hugepages-2Mi", "1Mi", Ok("4"));
        resource("side", "requests.hugepages-2Mi", "1Mi", Ok("0"));
        resource("none", "limits.cpu", "1", Err("container none not found"));
        resource("app", "limits.gpu", "1", Err("unsupported container resource : limits.gpu"));
        resource("app", "cpu", "1", Err("unsupported container resource : cpu"));
        resource("app", "limits.cpu", "x", Err("invalid divisor \"x\""));
    }

    #[test]
    fn a_pod_level_limit_stands_in_for_the_node() {
        let mut pod = pod();
        let limits = json!({"limits": {"cpu": "3"}});
        pod.spec.as_mut().unwrap().resources = Some(serde_json::from_value(limits).unwrap());
        let selector = ResourceFieldSelector {
            container_name: Some("side".into()),
            divisor: None,
            resource: "limits.cpu".into(),
        };
        let own = pod.spec.as_ref().unwrap().containers[0].clone();
        assert_eq!(resource_value(&selector, &pod, &own, &facts()), Ok("3".into()));
    }
}
