//! Services: what is filled in, which addresses and ports they get, what they must say.
//!
//! One IPv4 network; nothing here sends traffic anywhere. After upstream's service strategy and storage.

mod allocate;
mod validate;

use rubelet_core::validation::field::Errors;
use rubelet_core::validation::names;
use serde_json::{Value, json};

use super::rules::Rules;
use super::value::{at, copy, has, items, items_mut, remove, set, set_default, text, texts};
use super::{Change, Warnings};
use crate::status::ApiError;

/// The rules of Services.
pub(crate) struct Services;

impl Rules for Services {
    fn name(&self, name: &str) -> Vec<String> {
        names::dns_label(name)
    }

    fn created_by_update(&self) -> bool {
        true
    }

    fn defaults(&self, service: &mut Value) {
        let spec = &["spec"];
        if !has(service, spec) {
            set(service, spec, json!({}));
        }
        let Some(spec) = service.get_mut("spec") else { return };
        default_affinity(spec);
        set_default(spec, &["type"], "ClusterIP");
        for port in items_mut(spec, &["ports"]) {
            set_default(port, &["protocol"], "TCP");
            let target = &port["targetPort"];
            if target.is_null() || *target == json!(0) || *target == json!("") {
                copy_within(port, "port", "targetPort");
            }
        }
        if is_external(spec) {
            set_default(spec, &["externalTrafficPolicy"], "Cluster");
        }
        let kind = text(spec, &["type"]).to_owned();
        if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            set_default(spec, &["internalTrafficPolicy"], "Cluster");
        }
        if kind == "LoadBalancer" {
            set_default(spec, &["allocateLoadBalancerNodePorts"], true);
            for ingress in items_mut(service, &["status", "loadBalancer", "ingress"]) {
                if !text(ingress, &["ip"]).is_empty() {
                    set_default(ingress, &["ipMode"], "VIP");
                }
            }
        }
    }

    fn allocate(&self, change: &Change<'_>, new: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        allocate::allocate(change, new, old)
    }

    fn prepare(&self, change: &Change<'_>, new: &mut Value, old: Option<&Value>) {
        match old {
            None => set(new, &["status"], json!({"loadBalancer": {}})),
            Some(old) if change.subresource == "status" => copy(new, old, &["spec"]),
            Some(old) => {
                copy(new, old, &["status"]);
                drop_unused(new, old);
            }
        }
    }

    fn validate(&self, change: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        if change.subresource == "status" {
            validate::status(new, errors);
        } else {
            validate::service(new, old, errors);
        }
    }

    fn warnings(&self, service: &Value, _: Option<&Value>) -> Warnings {
        let mut warnings = Warnings::new();
        let spec = &service["spec"];
        let mut warn = |applies: bool, text: &str| {
            if applies {
                warnings.push(text.to_owned());
            }
        };
        let headless = text(spec, &["type"]) == "ClusterIP" && text(spec, &["clusterIP"]) == "None";
        let external_ips = !items(spec, &["externalIPs"]).is_empty();
        let external_name = text(spec, &["type"]) == "ExternalName";
        warn(
            has(service, &["metadata", "annotations", "service.kubernetes.io/topology-aware-hints"]),
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
             service.kubernetes.io/topology-mode instead",
        );
        warn(
            headless && has(spec, &["loadBalancerIP"]),
            "spec.loadBalancerIP is ignored for headless services",
        );
        warn(headless && external_ips, "spec.externalIPs is ignored for headless services");
        warn(
            headless && text(spec, &["sessionAffinity"]) != "None",
            "spec.SessionAffinity is ignored for headless services",
        );
        warn(
            external_ips && !headless && !external_name,
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
        );
        warn(external_ips && external_name, "spec.externalIPs is ignored when spec.type is \"ExternalName\"");
        warn(
            !external_name && !text(spec, &["externalName"]).is_empty(),
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
        );
        warn(
            text(spec, &["trafficDistribution"]) == "PreferClose",
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        );
        warnings
    }
}

fn default_affinity(spec: &mut Value) {
    set_default(spec, &["sessionAffinity"], "None");
    match text(spec, &["sessionAffinity"]) {
        "None" => {
            remove(spec, &["sessionAffinityConfig"]);
        }
        "ClientIP" if !has(spec, &["sessionAffinityConfig", "clientIP", "timeoutSeconds"]) => {
            // Three hours.
            set(spec, &["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10_800}}));
        }
        _ => {}
    }
}

fn copy_within(object: &mut Value, from: &str, to: &str) {
    let value = object[from].clone();
    if !value.is_null() {
        set(object, &[to], value);
    }
}

/// Whether traffic from outside the cluster may come to it (`ExternallyAccessible`).
fn is_external(spec: &Value) -> bool {
    match text(spec, &["type"]) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !items(spec, &["externalIPs"]).is_empty(),
        _ => false,
    }
}

fn needs_health_check(spec: &Value) -> bool {
    text(spec, &["type"]) == "LoadBalancer" && text(spec, &["externalTrafficPolicy"]) == "Local"
}

fn is_headless(spec: &Value) -> bool {
    texts(spec, &["clusterIPs"]).eq(["None"])
}

fn has_node_ports(spec: &Value) -> bool {
    matches!(text(spec, &["type"]), "NodePort" | "LoadBalancer")
}

/// The node ports in use, 0 left out.
fn node_ports(spec: &Value) -> impl Iterator<Item = i64> {
    items(spec, &["ports"]).iter().filter_map(|port| port["nodePort"].as_i64()).filter(|port| *port != 0)
}

/// When the type changes, what the new one has no use for goes, unless the client has changed it too.
fn drop_unused(new: &mut Value, old: &Value) {
    let before = &old["spec"];
    let Some(spec) = new.get_mut("spec") else { return };
    let kind = text(spec, &["type"]).to_owned();
    let was = text(before, &["type"]);
    let same = |spec: &Value, field: &str| spec[field] == before[field];
    let mut unused: Vec<&str> = Vec::new();
    if was != "ExternalName" && kind == "ExternalName" {
        if same(spec, "clusterIP") && same(spec, "clusterIPs") {
            unused.extend(["clusterIP", "clusterIPs"]);
        }
        unused.extend(["ipFamilies", "ipFamilyPolicy"].iter().filter(|field| same(spec, field)));
    }
    if needs_health_check(before) && !needs_health_check(spec) && same(spec, "healthCheckNodePort") {
        unused.push("healthCheckNodePort");
    }
    if was == "LoadBalancer" && kind != "LoadBalancer" {
        let fields = ["allocateLoadBalancerNodePorts", "loadBalancerClass"];
        unused.extend(fields.iter().filter(|field| same(spec, field)));
    }
    if is_external(before) && !is_external(spec) && same(spec, "externalTrafficPolicy") {
        unused.push("externalTrafficPolicy");
    }
    for field in unused {
        remove(spec, &[field]);
    }
    if has_node_ports(before) && !has_node_ports(spec) {
        let known: Vec<i64> = node_ports(before).collect();
        if node_ports(spec).all(|port| known.contains(&port)) {
            for port in items_mut(spec, &["ports"]) {
                remove(port, &["nodePort"]);
            }
        }
    }
    if kind != "LoadBalancer" && has(at(new, &["status"]), &["loadBalancer"]) {
        set(new, &["status", "loadBalancer"], json!({}));
    }
}
