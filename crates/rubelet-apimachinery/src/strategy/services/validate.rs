//! Every rule a Service can break, in upstream's order and words.

use rubelet_core::validation::field::{Errors, Json, Path};
use rubelet_core::validation::names;
use serde_json::{Value, json};

use super::super::checks::{self, PROTOCOLS};
use super::super::value::{at, has, items, text, texts};
use super::{is_external, is_headless, needs_health_check};

/// The rules of the spec; `old` is the stored Service.
pub(super) fn service(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = &new["spec"];
    let path = Path::new("spec");
    if let Some(old) = old {
        changes(spec, &old["spec"], errors);
    }
    let kind = text(spec, &["type"]);
    let headless = is_headless(spec);
    if items(spec, &["ports"]).is_empty() && !headless && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    if headless && matches!(kind, "LoadBalancer" | "NodePort") {
        let rule = format!("may not be set to 'None' for {kind} services");
        errors.invalid(&path.child("clusterIPs").index(0), "None", rule);
    }
    if kind == "ExternalName" {
        external_name(spec, &path, errors);
    }
    ports(spec, &path.child("ports"), errors);
    checks::labels(errors, &path.child("selector"), &spec["selector"]);
    affinity(spec, &path, errors);
    cluster_ips(spec, errors);
    for (index, ip) in texts(spec, &["externalIPs"]).enumerate() {
        let path = path.child("externalIPs").index(index);
        if checks::legacy_ip(errors, &path, ip) {
            checks::endpoint_ip(errors, &path, ip);
        }
    }
    errors.one_of(
        &path.child("type"),
        spec["type"].as_str(),
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    unique_ports(spec, &path.child("ports"), errors);
    load_balancer(new, spec, &path, errors);
    traffic(spec, &path, errors);
}

/// The rules of the status.
pub(super) fn status(new: &Value, errors: &mut Errors) {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let ingress = items(new, &["status", "loadBalancer", "ingress"]);
    if text(new, &["spec", "type"]) != "LoadBalancer" && !ingress.is_empty() {
        return errors.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    for (index, item) in ingress.iter().enumerate() {
        let path = path.index(index);
        let ip = text(item, &["ip"]);
        if !ip.is_empty() {
            checks::legacy_ip(errors, &path.child("ip"), ip);
        }
        match item["ipMode"].as_str() {
            None if !ip.is_empty() => {
                errors.required(&path.child("ipMode"), "must be specified when `ip` is set");
            }
            Some(_) if ip.is_empty() => {
                errors.forbidden(&path.child("ipMode"), "may not be specified when `ip` is not set");
            }
            mode => errors.optional_one_of(&path.child("ipMode"), mode, &["Proxy", "VIP"]),
        }
        let hostname = text(item, &["hostname"]);
        if !hostname.is_empty() {
            errors.invalid_each(&path.child("hostname"), hostname, names::dns_subdomain(hostname));
            if checks::sloppy_ip(hostname).is_some() {
                errors.invalid(&path.child("hostname"), hostname, "must be a DNS name, not an IP address");
            }
        }
    }
}

/// Cluster IPs and their families fit together; also looked at before any are given.
pub(super) fn cluster_ips(spec: &Value, errors: &mut Errors) {
    if text(spec, &["type"]) == "ExternalName" {
        return;
    }
    let path = Path::new("spec");
    let at = path.child("clusterIPs");
    let ips: Vec<&str> = texts(spec, &["clusterIPs"]).collect();
    let shown = json!(ips);
    match (text(spec, &["clusterIP"]), ips.first()) {
        ("", Some(_)) => {
            errors.invalid(&at, &Json(&shown), "must be empty when `clusterIP` is not specified")
        }
        ("", None) => {}
        (_, None) => errors.required(&at, ""),
        (single, Some(first)) if single != *first => {
            errors.invalid(&at, &Json(&shown), "first value must match `clusterIP`");
        }
        _ => {}
    }
    let families: Vec<&str> = texts(spec, &["ipFamilies"]).collect();
    for (index, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(index);
        errors.optional_one_of(&path, Some(family), &["IPv4", "IPv6"]);
        if families.iter().take(index).any(|earlier| earlier == family) {
            errors.duplicate(&path, family);
        }
    }
    errors.optional_one_of(
        &path.child("ipFamilyPolicy"),
        spec["ipFamilyPolicy"].as_str(),
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    );
    let mut broken = false;
    for (index, ip) in ips.iter().enumerate() {
        if index == 0 && *ip == "None" {
            if ips.len() > 1 {
                broken = true;
                errors.invalid(&at, &Json(&shown), "'None' must be the first and only value");
            }
        } else {
            broken |= !checks::legacy_ip(errors, &at.index(index), ip);
        }
    }
    if ips.len() > 2 {
        errors.invalid(&at, &Json(&shown), "may only hold up to 2 values");
    }
    if broken || is_headless(spec) {
        return;
    }
    if ips.len() > 1 && ips.iter().filter(|ip| ip.contains(':')).count() != 1 {
        errors.invalid(&at, &Json(&shown), "may specify no more than one IP for each IP family");
    }
    for (index, (ip, family)) in ips.iter().zip(&families).enumerate() {
        if matches!(*family, "IPv4" | "IPv6") && ip.contains(':') != (*family == "IPv6") {
            let rule = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.invalid(&at.index(index), *ip, rule);
        }
    }
}

/// What may not change.
fn changes(spec: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let addressed = |spec: &Value| text(spec, &["type"]) != "ExternalName";
    let (was_headless, headless) = (is_headless(old), is_headless(spec));
    if addressed(spec) && addressed(old) {
        if !(was_headless && headless) {
            stays(
                spec,
                old,
                "clusterIPs",
                ("primary clusterIP can not be unset", "secondary clusterIP"),
                errors,
            );
        }
        if !was_headless && !headless {
            stays(
                spec,
                old,
                "ipFamilies",
                ("primary ipFamily can not be unset", "secondary ipFamily"),
                errors,
            );
        }
    }
    let balanced = |spec: &Value| text(spec, &["type"]) == "LoadBalancer";
    if balanced(old) && balanced(spec) && old["loadBalancerClass"] != spec["loadBalancerClass"] {
        let shown = Json(&spec["loadBalancerClass"]);
        errors.invalid(&path.child("loadBalancerClass"), &shown, "may not change once set");
    }
    if needs_health_check(old)
        && needs_health_check(spec)
        && old["healthCheckNodePort"] != spec["healthCheckNodePort"]
    {
        errors.forbidden(&path.child("healthCheckNodePort"), "field is immutable");
    }
}

fn stays(spec: &Value, old: &Value, field: &str, (unset, second): (&str, &str), errors: &mut Errors) {
    let path = Path::new("spec").child(field);
    let (new_list, old_list) = (items(spec, &[field]), items(old, &[field]));
    let shown = Json(at(spec, &[field]));
    let changed = "may not change once set";
    if new_list.is_empty() && !old_list.is_empty() {
        return errors.invalid(&path.index(0), &Json(&json!(new_list)), unset);
    }
    let compared = if new_list.len() == old_list.len() { old_list.len() } else { 1 };
    for (index, (new, old)) in new_list.iter().zip(old_list).take(compared).enumerate() {
        if new != old {
            errors.invalid(&path.index(index), &shown, changed);
        }
    }
    if old_list.len() > new_list.len() && text(spec, &["ipFamilyPolicy"]) != "SingleStack" {
        let rule = format!("must be set to 'SingleStack' when releasing the {second}");
        errors.invalid(&Path::new("spec").child("ipFamilyPolicy"), &Json(&spec["ipFamilyPolicy"]), rule);
    }
}

fn external_name(spec: &Value, path: &Path, errors: &mut Errors) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if has(spec, &[field]) && spec[field] != json!([]) {
            errors.forbidden(&path.child(field), "may not be set for ExternalName services");
        }
    }
    let name = text(spec, &["externalName"]);
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.required(&path.child("externalName"), ""),
        name => errors.invalid_each(&path.child("externalName"), name, names::dns_subdomain(name)),
    }
}

fn ports(spec: &Value, path: &Path, errors: &mut Errors) {
    let ports = items(spec, &["ports"]);
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        match text(port, &["name"]) {
            "" if ports.len() > 1 => errors.required(&path.child("name"), ""),
            "" => {}
            name => {
                errors.invalid_each(&path.child("name"), name, names::dns_label(name));
                if ports.iter().take(index).any(|earlier| text(earlier, &["name"]) == name) {
                    errors.duplicate(&path.child("name"), name);
                }
            }
        }
        checks::port_number(errors, &path.child("port"), &port["port"]);
        errors.one_of(&path.child("protocol"), port["protocol"].as_str(), PROTOCOLS);
        let target = &port["targetPort"];
        match target.as_str() {
            Some(name) => errors.invalid_each(&path.child("targetPort"), name, names::port_name(name)),
            None => checks::port_number(errors, &path.child("targetPort"), target),
        }
        if has(port, &["appProtocol"]) {
            checks::qualified(errors, &path.child("appProtocol"), text(port, &["appProtocol"]));
        }
    }
}

fn unique_ports(spec: &Value, path: &Path, errors: &mut Errors) {
    let ports = items(spec, &["ports"]);
    let number = |port: &Value| port["nodePort"].as_i64().unwrap_or(0);
    for (index, port) in ports.iter().enumerate() {
        let at = path.index(index);
        if text(spec, &["type"]) == "ClusterIP" && number(port) != 0 {
            errors.forbidden(&at.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
    }
    let earlier = |index: usize, field: &str| {
        let port = &ports[index];
        ports
            .iter()
            .take(index)
            .any(|earlier| earlier["protocol"] == port["protocol"] && earlier[field] == port[field])
    };
    for (index, port) in ports.iter().enumerate() {
        if number(port) != 0 && earlier(index, "nodePort") {
            checks::duplicate(errors, &path.index(index).child("nodePort"), &port["nodePort"]);
        }
    }
    for (index, port) in ports.iter().enumerate() {
        if earlier(index, "port") {
            let key = json!({"protocol": port["protocol"], "port": port["port"]});
            checks::duplicate(errors, &path.index(index), &key);
        }
    }
}

fn affinity(spec: &Value, path: &Path, errors: &mut Errors) {
    let kind = spec["sessionAffinity"].as_str();
    errors.one_of(&path.child("sessionAffinity"), kind, &["ClientIP", "None"]);
    let path = path.child("sessionAffinityConfig");
    match kind {
        Some("ClientIP") => {
            let path = path.child("clientIP").child("timeoutSeconds");
            match at(spec, &["sessionAffinityConfig", "clientIP", "timeoutSeconds"]).as_i64() {
                None => errors.required(&path, "when session affinity type is ClientIP"),
                Some(seconds) if !(1..=86_400).contains(&seconds) => {
                    errors.invalid(&path, &seconds, "must be greater than 0 and less than 86400");
                }
                Some(_) => {}
            }
        }
        Some("None") if has(spec, &["sessionAffinityConfig"]) => {
            errors.forbidden(&path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn load_balancer(new: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    let only = "may only be used when `type` is 'LoadBalancer'";
    let balanced = text(spec, &["type"]) == "LoadBalancer";
    let annotation = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let ranges = path.child("LoadBalancerSourceRanges");
    if !items(spec, &["loadBalancerSourceRanges"]).is_empty() {
        if !balanced {
            errors.forbidden(&ranges, only);
        }
        for (index, range) in texts(spec, &["loadBalancerSourceRanges"]).enumerate() {
            checks::cidr(errors, &ranges.index(index), range.trim());
        }
    } else if has(new, &["metadata", "annotations", annotation]) {
        let path = Path::new("metadata").child("annotations").key(annotation);
        if !balanced {
            errors.forbidden(&path, only);
        }
        let listed = text(new, &["metadata", "annotations", annotation]).trim();
        for range in listed.split(',').filter(|_| !listed.is_empty()) {
            checks::cidr(errors, &path, range.trim());
        }
    }
    match (has(spec, &["allocateLoadBalancerNodePorts"]), balanced) {
        (true, false) => errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), only),
        (false, true) => errors.required(&Path::new("allocateLoadBalancerNodePorts"), ""),
        _ => {}
    }
    if has(spec, &["loadBalancerClass"]) {
        let path = path.child("loadBalancerClass");
        if balanced {
            checks::qualified(errors, &path, text(spec, &["loadBalancerClass"]));
        } else {
            errors.forbidden(&path, only);
        }
    }
}

fn traffic(spec: &Value, path: &Path, errors: &mut Errors) {
    let external = path.child("externalTrafficPolicy");
    let policy = text(spec, &["externalTrafficPolicy"]);
    if is_external(spec) {
        errors.one_of(&external, Some(policy), &["Cluster", "Local"]);
    } else if !policy.is_empty() {
        errors.invalid(&external, policy, "may only be set for externally-accessible services");
    }
    let health = path.child("healthCheckNodePort");
    match (spec["healthCheckNodePort"].as_i64().unwrap_or(0), needs_health_check(spec)) {
        (0, true) => errors.required(&health, ""),
        (number, false) if number != 0 => errors.invalid(
            &health,
            &number,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
        (_, true) => checks::port_number(errors, &health, &spec["healthCheckNodePort"]),
        _ => {}
    }
    let internal = path.child("internalTrafficPolicy");
    match spec["internalTrafficPolicy"].as_str() {
        None if matches!(text(spec, &["type"]), "ClusterIP" | "NodePort" | "LoadBalancer") => {
            errors.required(&internal, "");
        }
        policy => errors.optional_one_of(&internal, policy, &["Cluster", "Local"]),
    }
    errors.optional_one_of(
        &path.child("trafficDistribution"),
        spec["trafficDistribution"].as_str(),
        &["PreferClose", "PreferSameZone", "PreferSameNode"],
    );
}
