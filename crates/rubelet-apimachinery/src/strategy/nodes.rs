//! Nodes, and the Leases they show their life with.

use rubelet_core::validation::field::{Errors, Path};
use rubelet_core::validation::names;
use serde_json::{Value, json};

use super::rules::Rules;
use super::value::{at, copy, entries, has, items, remove, set, text, texts};
use super::{Change, checks};

/// The rules of Nodes.
pub(crate) struct Nodes;

impl Rules for Nodes {
    fn defaults(&self, node: &mut Value) {
        if !has(node, &["status", "allocatable"]) && has(node, &["status", "capacity"]) {
            let capacity = node["status"]["capacity"].clone();
            set(node, &["status", "allocatable"], capacity);
        }
    }

    fn prepare(&self, change: &Change<'_>, new: &mut Value, old: Option<&Value>) {
        match old {
            // A new node may say its status: the agent that registers it knows.
            None => {
                remove(new, &["spec", "configSource"]);
                remove(new, &["status", "config"]);
            }
            Some(old) if change.subresource == "status" => copy(new, old, &["spec"]),
            Some(old) => copy(new, old, &["status"]),
        }
        for part in ["spec", "status"] {
            if !has(new, &[part]) {
                set(new, &[part], json!({}));
            }
        }
    }

    fn validate(&self, change: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        validate_taints(new, errors);
        for list in ["capacity", "allocatable"] {
            for (name, quantity) in entries(new, &["status", list]) {
                checks::quantity(errors, &Path::new("status").child(list).child(name), quantity);
            }
        }
        if change.subresource.is_empty() {
            validate_pod_networks(new, errors);
        }
        let Some(old) = old else { return };
        let addresses = items(new, &["status", "addresses"]);
        for (index, address) in addresses.iter().enumerate() {
            if addresses.iter().take(index).any(|earlier| earlier == address) {
                let path = Path::new("status").child("addresses").index(index);
                checks::duplicate(errors, &path, address);
            }
        }
        let spec = Path::new("spec");
        if !items(old, &["spec", "podCIDRs"]).is_empty()
            && items(old, &["spec", "podCIDRs"]) != items(new, &["spec", "podCIDRs"])
        {
            let rule = "node updates may not change podCIDR except from \"\" to valid";
            errors.forbidden(&spec.child("podCIDRs"), rule);
        }
        let provider = text(old, &["spec", "providerID"]);
        if !provider.is_empty() && provider != text(new, &["spec", "providerID"]) {
            let rule = "node updates may not change providerID except from \"\" to valid";
            errors.forbidden(&spec.child("providerID"), rule);
        }
        if at(old, &["spec", "externalID"]) != at(new, &["spec", "externalID"]) {
            errors.forbidden(&spec.child("externalID"), "may not be updated");
        }
    }
}

fn validate_taints(node: &Value, errors: &mut Errors) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (index, taint) in items(node, &["spec", "taints"]).iter().enumerate() {
        // Upstream looks for taints below metadata.
        let path = Path::new("metadata").child("taints").index(index);
        let (key, value, effect) = (text(taint, &["key"]), text(taint, &["value"]), text(taint, &["effect"]));
        errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
        errors.invalid_each(&path.child("value"), value, names::label_value(value));
        errors.one_of(&path.child("effect"), Some(effect), &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if seen.contains(&(key, effect)) {
            checks::duplicate(errors, &path, taint);
        }
        seen.push((key, effect));
    }
}

fn validate_pod_networks(node: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("podCIDRs");
    let networks: Vec<&str> = texts(node, &["spec", "podCIDRs"]).collect();
    for (index, network) in networks.iter().enumerate() {
        checks::cidr(errors, &path.index(index), network);
    }
    let families = networks.iter().filter(|network| network.contains(':')).count();
    if networks.len() > 2 || (networks.len() == 2 && families != 1) {
        let shown = json!(networks);
        let rule = "may specify no more than one CIDR for each IP family";
        errors.invalid(&path, &rubelet_core::validation::field::Json(&shown), rule);
    }
}

/// The rules of Leases.
pub(crate) struct Leases;

impl Rules for Leases {
    fn overwrites(&self) -> bool {
        false
    }

    fn created_by_update(&self) -> bool {
        true
    }

    fn prepare(&self, _: &Change<'_>, new: &mut Value, _: Option<&Value>) {
        if !has(new, &["spec"]) {
            set(new, &["spec"], json!({}));
        }
    }

    fn validate(&self, _: &Change<'_>, new: &Value, _: Option<&Value>, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = &new["spec"];
        if let Some(seconds) = spec["leaseDurationSeconds"].as_i64().filter(|seconds| *seconds <= 0) {
            errors.invalid(&path.child("leaseDurationSeconds"), &seconds, "must be greater than 0");
        }
        if let Some(count) = spec["leaseTransitions"].as_i64().filter(|count| *count < 0) {
            errors.invalid(&path.child("leaseTransitions"), &count, "must be greater than or equal to 0");
        }
        if !text(spec, &["preferredHolder"]).is_empty() && text(spec, &["strategy"]).is_empty() {
            errors
                .forbidden(&path.child("preferredHolder"), "may only be specified if `strategy` is defined");
        }
    }
}
