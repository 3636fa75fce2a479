//! Cluster IPs and node ports: what a Service keeps, asks for and is given.
//!
//! What is taken is read from the other Services, so nothing can leak and a run can be repeated: the lowest free address
//! or port is given. As in kube-apiserver, the low end of each range is left for those who ask by number.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use rubelet_core::validation::field::{Errors, Json, Path};
use serde_json::{Value, json};

use super::super::value::{copy, has, items, items_mut, remove, set, text, texts};
use super::super::{Change, builtin};
use super::{has_node_ports, is_headless, needs_health_check, node_ports, validate};
use crate::status::{self, ApiError};
use crate::user::MASTERS;

/// Ports of the node that Services may take, both ends included.
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30_000..=32_767;
/// Where ports begin that are given to those who do not ask by number.
const FIRST_GIVEN_PORT: i64 = 30_086;

/// Fills in addresses and ports.
pub(super) fn allocate(change: &Change<'_>, new: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
    let before = old.map(|old| &old["spec"]);
    if let (Some(before), Some(spec)) = (before, new.get_mut("spec")) {
        keep_allocated(spec, before);
    }
    let name = text(new, &["metadata", "name"]).to_owned();
    let Some(spec) = new.get_mut("spec") else { return Ok(()) };
    let taken = Taken::by_others(change, &name);
    let refuse = |errors: Errors| Err(status::invalid_fields(change.resource, &name, &errors.0));
    normalize_ips(spec, before);
    let mut errors = Errors::default();
    families(spec, before, &mut errors);
    if !errors.0.is_empty() {
        return refuse(errors);
    }
    // The Service of the API itself has the address where the server is; only the server's owner makes it so.
    let is_own = (name.as_str(), change.namespace) == builtin::API_SERVICE
        && change.user.is_in(MASTERS)
        && !text(spec, &["clusterIP"]).is_empty();
    if text(spec, &["type"]) != "ExternalName" && !is_headless(spec) && !is_own {
        give_ip(change, spec, before, &taken, &mut errors)
            .map_err(|()| status::internal(full("serviceIP for Service", &name)))?;
    }
    if has_node_ports(spec) {
        give_ports(spec, &taken, &mut errors)
            .map_err(|()| status::internal("failed to allocate a nodePort: range is full"))?;
    }
    if errors.0.is_empty() { Ok(()) } else { refuse(errors) }
}

fn full(what: &str, name: &str) -> String {
    format!("failed to allocate a {what} {name:?}: range is full")
}

/// What the other Services have.
struct Taken {
    ips: BTreeSet<String>,
    ports: BTreeSet<i64>,
}

impl Taken {
    fn by_others(change: &Change<'_>, name: &str) -> Self {
        let mut taken = Self { ips: BTreeSet::new(), ports: BTreeSet::new() };
        for service in change.lookup.list(change.resource, "") {
            let namespace = text(&service, &["metadata", "namespace"]);
            if namespace == change.namespace && text(&service, &["metadata", "name"]) == name {
                continue;
            }
            let spec = &service["spec"];
            taken.ips.extend(texts(spec, &["clusterIPs"]).map(str::to_owned));
            taken.ips.insert(text(spec, &["clusterIP"]).to_owned());
            taken.ports.extend(node_ports(spec));
            taken.ports.extend(spec["healthCheckNodePort"].as_i64());
        }
        taken
    }
}

/// Values given earlier stay, though a client that sends its file again does not know them.
fn keep_allocated(spec: &mut Value, before: &Value) {
    if text(before, &["type"]) != "ExternalName" && text(spec, &["type"]) != "ExternalName" {
        if text(spec, &["clusterIP"]).is_empty() {
            copy(spec, before, &["clusterIP"]);
        }
        if items(spec, &["clusterIPs"]).is_empty() {
            copy(spec, before, &["clusterIPs"]);
        }
    }
    if has_node_ports(before) && has_node_ports(spec) {
        let still: BTreeSet<i64> = node_ports(spec).collect();
        let kept: Vec<(Value, i64)> = items(before, &["ports"])
            .iter()
            .filter_map(|port| Some((port["name"].clone(), port["nodePort"].as_i64()?)))
            .filter(|(_, number)| *number != 0 && !still.contains(number))
            .collect();
        for port in items_mut(spec, &["ports"]).iter_mut().filter(|port| asked(port) == 0) {
            if let Some((_, number)) = kept.iter().find(|(name, _)| *name == port["name"]) {
                set(port, &["nodePort"], *number);
            }
        }
    }
    if needs_health_check(before)
        && needs_health_check(spec)
        && spec["healthCheckNodePort"].as_i64().unwrap_or(0) == 0
    {
        copy(spec, before, &["healthCheckNodePort"]);
    }
}

fn asked(port: &Value) -> i64 {
    port["nodePort"].as_i64().unwrap_or(0)
}

/// The one address and the list of them say the same, whichever the client knows.
fn normalize_ips(spec: &mut Value, before: Option<&Value>) {
    let single = text(spec, &["clusterIP"]).to_owned();
    let Some(before) = before else {
        if !single.is_empty() && items(spec, &["clusterIPs"]).is_empty() {
            set(spec, &["clusterIPs"], json!([single]));
        }
        return;
    };
    let was = text(before, &["clusterIP"]);
    if items(spec, &["clusterIPs"]).is_empty() && single == was {
        copy(spec, before, &["clusterIPs"]);
    }
    if single != was && spec["clusterIPs"] == before["clusterIPs"] {
        if single.is_empty() {
            remove(spec, &["clusterIPs"]);
        } else {
            set(spec, &["clusterIPs"], json!([single]));
        }
    }
}

/// Fills in address families; this server has IPv4 only.
fn families(spec: &mut Value, before: Option<&Value>, errors: &mut Errors) {
    if text(spec, &["type"]) == "ExternalName" {
        return;
    }
    let selectorless = spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    let headless = text(spec, &["clusterIP"]) == "None";
    if !has(spec, &["ipFamilyPolicy"]) {
        let known =
            before.map(|before| text(before, &["ipFamilyPolicy"])).filter(|policy| !policy.is_empty());
        let policy = match known {
            Some(policy) => policy,
            None if headless && selectorless => "RequireDualStack",
            None => "SingleStack",
        };
        set(spec, &["ipFamilyPolicy"], policy);
    }
    validate::cluster_ips(spec, errors);
    if !errors.0.is_empty() {
        return;
    }
    let path = Path::new("spec");
    let policy = text(spec, &["ipFamilyPolicy"]).to_owned();
    if policy == "SingleStack" {
        for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if items(spec, &[field]).len() == 2 {
                let rule = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                );
                errors.invalid(&path.child("ipFamilyPolicy"), &policy, rule);
            }
        }
    }
    let mut families: Vec<String> = texts(spec, &["ipFamilies"]).map(str::to_owned).collect();
    for (index, ip) in texts(spec, &["clusterIPs"]).enumerate().skip(families.len()) {
        if ip == "None" {
            break;
        }
        if ip.contains(':') {
            let shown = &spec["clusterIPs"];
            let rule = "IPv6 is not configured on this cluster";
            errors.invalid(&path.child("clusterIPs").index(index), &Json(shown), rule);
        } else {
            families.push("IPv4".to_owned());
        }
    }
    if !errors.0.is_empty() {
        return;
    }
    if families.is_empty() {
        families.push("IPv4".to_owned());
    }
    if headless && selectorless {
        // Whoever makes the endpoints decides; both families are possible.
        if families.len() < 2 && policy != "SingleStack" {
            let other = if families.first().is_some_and(|family| family == "IPv4") { "IPv6" } else { "IPv4" };
            families.push(other.to_owned());
        }
        return set(spec, &["ipFamilies"], families);
    }
    if policy == "RequireDualStack" {
        let rule = "this cluster is not configured for dual-stack services";
        errors.invalid(&path.child("ipFamilyPolicy"), &policy, rule);
    }
    for (index, family) in families.iter().enumerate().filter(|(_, family)| *family != "IPv4") {
        errors.invalid(&path.child("ipFamilies").index(index), family, "not configured on this cluster");
    }
    set(spec, &["ipFamilies"], families);
}

/// An address for a Service that has none yet, or the one it asks for. Fails when there is none left.
fn give_ip(
    change: &Change<'_>,
    spec: &mut Value,
    before: Option<&Value>,
    taken: &Taken,
    errors: &mut Errors,
) -> Result<(), ()> {
    let asked = text(spec, &["clusterIP"]).to_owned();
    if before.is_some_and(|before| text(before, &["type"]) != "ExternalName") {
        // It has one, and whether it may change is validation's question.
        return Ok(());
    }
    let range = Range::of(change.settings.service_network);
    if asked.is_empty() {
        let given = range.first_free(&taken.ips).ok_or(())?.to_string();
        set(spec, &["clusterIPs"], json!([given]));
        set(spec, &["clusterIP"], given);
        return Ok(());
    }
    let refused = match super::super::checks::sloppy_ip(&asked) {
        Some(std::net::IpAddr::V4(ip)) if range.holds(ip) => {
            if !taken.ips.contains(&ip.to_string()) {
                return Ok(());
            }
            "provided IP is already allocated".to_owned()
        }
        _ => {
            format!("the provided IP ({asked}) is not in the valid range. The range of valid IPs is {range}")
        }
    };
    let path = Path::new("spec").child("clusterIPs");
    let shown = spec["clusterIPs"].clone();
    errors.invalid(&path, &Json(&shown), format!("failed to allocate IP {asked}: {refused}"));
    Ok(())
}

/// The addresses of a network that Services may have.
struct Range {
    network: u32,
    length: u8,
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.network), self.length)
    }
}

impl Range {
    fn of((address, length): (Ipv4Addr, u8)) -> Self {
        let length = length.min(32);
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        Self { network: address.to_bits() & mask, length }
    }

    /// The offsets of usable addresses: without those of the network itself and of broadcasts.
    fn offsets(&self) -> std::ops::Range<u32> {
        let size = 1u64 << (32 - u32::from(self.length));
        1..u32::try_from(size.saturating_sub(1)).unwrap_or(u32::MAX)
    }

    fn holds(&self, ip: Ipv4Addr) -> bool {
        ip.to_bits().checked_sub(self.network).is_some_and(|offset| self.offsets().contains(&offset))
    }

    /// The lowest free address above the band for those who ask by number; one of that band when there is no other.
    /// The first address is that of the `kubernetes` Service and never given.
    fn first_free(&self, taken: &BTreeSet<String>) -> Option<Ipv4Addr> {
        let offsets = self.offsets();
        let size = offsets.end.saturating_add(1);
        let band = if size < 16 { 0 } else { (size / 16).clamp(16, 256) };
        let upper = band.max(2)..offsets.end;
        let lower = 2..band.max(2).min(offsets.end);
        upper
            .chain(lower)
            .map(|offset| Ipv4Addr::from_bits(self.network.wrapping_add(offset)))
            .find(|ip| !taken.contains(&ip.to_string()))
    }
}

/// Node ports for all ports that have none. Fails when there is none left.
fn give_ports(spec: &mut Value, taken: &Taken, errors: &mut Errors) -> Result<(), ()> {
    let automatic =
        text(spec, &["type"]) == "NodePort" || spec["allocateLoadBalancerNodePorts"] != json!(false);
    let refused = |number: i64| {
        if !NODE_PORTS.contains(&number) {
            Some("provided port is not in the valid range. The range of valid ports is 30000-32767")
        } else if taken.ports.contains(&number) {
            Some("provided port is already allocated")
        } else {
            None
        }
    };
    let mut used = taken.ports.clone();
    // One port number, over several protocols, has one node port.
    let mut by_port: Vec<(i64, i64)> = Vec::new();
    for (index, port) in items(spec, &["ports"]).iter().enumerate() {
        let number = asked(port);
        if number == 0 {
            continue;
        }
        if let Some(rule) = refused(number) {
            errors.invalid(&Path::new("spec").child("ports").index(index).child("nodePort"), &number, rule);
        }
        used.insert(number);
        by_port.push((port["port"].as_i64().unwrap_or(0), number));
    }
    let health = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
    used.extend((health != 0).then_some(health));
    if automatic {
        let protocols: Vec<(i64, Value)> =
            items(spec, &["ports"]).iter().map(|port| (asked(port), port["protocol"].clone())).collect();
        for port in items_mut(spec, &["ports"]).iter_mut().filter(|port| asked(port) == 0) {
            let number = port["port"].as_i64().unwrap_or(0);
            let shared = by_port.iter().find(|(other, node)| {
                *other == number && !protocols.contains(&(*node, port["protocol"].clone()))
            });
            let given = match shared {
                Some((_, node)) => *node,
                None => first_free_port(&used).ok_or(())?,
            };
            used.insert(given);
            by_port.push((number, given));
            set(port, &["nodePort"], given);
        }
    }
    if needs_health_check(spec) {
        match health {
            0 => set(spec, &["healthCheckNodePort"], first_free_port(&used).ok_or(())?),
            number => {
                if let Some(rule) = refused(number) {
                    let rule = format!("failed to allocate requested HealthCheck NodePort {number}: {rule}");
                    errors.invalid(&Path::new("spec").child("healthCheckNodePort"), &number, rule);
                }
            }
        }
    }
    Ok(())
}

fn first_free_port(used: &BTreeSet<i64>) -> Option<i64> {
    (FIRST_GIVEN_PORT..=*NODE_PORTS.end())
        .chain(*NODE_PORTS.start()..FIRST_GIVEN_PORT)
        .find(|port| !used.contains(port))
}
