//! What an update of a pod keeps and what it is refused: `podStrategy` and `podStatusStrategy` as far as kubelets and
//! tests meet them.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::meta;
use super::references::items;

/// Fields of a pod that passed decoding but not validation: `(path, what is wrong)`.
pub(crate) type Causes = Vec<(String, String)>;

/// Takes over from the stored pod what a status update cannot change, and fills what old clients leave out.
pub(crate) fn prepare_status(old: &Value, new: &mut Value) {
    copy(old, new, "/metadata", "ownerReferences");
    if new["status"]["qosClass"].as_str().unwrap_or_default().is_empty() {
        copy(old, new, "/status", "qosClass");
    }
    if new["status"]["observedGeneration"].as_i64().unwrap_or(0) == 0 {
        copy(old, new, "/status", "observedGeneration");
    }
    let observed = |kind: &Value| {
        let found = items(&old["status"], "conditions").find(|condition| condition["type"] == *kind);
        found.and_then(|condition| condition.get("observedGeneration")).cloned()
    };
    if let Some(conditions) = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut) {
        for condition in conditions.iter_mut().filter(|c| c["observedGeneration"].as_i64().unwrap_or(0) == 0)
        {
            if let Some(generation) = observed(&condition["type"]) {
                condition["observedGeneration"] = generation;
            }
        }
    }
    agree(&mut new["status"], "podIP", "podIPs");
    agree(&mut new["status"], "hostIP", "hostIPs");
}

fn copy(old: &Value, new: &mut Value, part: &str, field: &str) {
    let value = old.pointer(part).and_then(|o| o.get(field)).cloned();
    if let Some(fields) = new.pointer_mut(part).and_then(Value::as_object_mut) {
        match value {
            Some(value) => fields.insert(field.to_owned(), value),
            None => fields.remove(field),
        };
    }
}

/// The single address and the list of them say the same: on disagreement the single one wins.
fn agree(status: &mut Value, single: &str, list: &str) {
    if !status.is_object() {
        return;
    }
    let address = status[single].as_str().unwrap_or_default().to_owned();
    let first = items(status, list).next().and_then(|item| item["ip"].as_str()).map(str::to_owned);
    match first {
        Some(first) if address.is_empty() => status[single] = json!(first),
        Some(first) if first != address => status[list] = json!([{"ip": address}]),
        None if !address.is_empty() => status[list] = json!([{"ip": address}]),
        _ => {}
    }
}

/// What is wrong with a new status.
pub(crate) fn validate_status(old: &Value, new: &Value) -> Causes {
    let mut causes = Causes::new();
    if new["status"]["qosClass"] != old["status"]["qosClass"] {
        let value = new["status"]["qosClass"].as_str().unwrap_or_default();
        causes.push(("status.qosClass".into(), format!("Invalid value: \"{value}\": field is immutable")));
    }
    if new["status"]["observedGeneration"].as_i64().is_some_and(|generation| generation < 0) {
        causes.push((
            "status.observedGeneration".into(),
            "Invalid value: must be a non-negative integer".into(),
        ));
    }
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        transitions(old, new, list, &mut causes);
    }
    for list in ["podIPs", "hostIPs"] {
        addresses(new, list, &mut causes);
    }
    causes
}

/// A terminated container that may not be started again may not leave the terminated state.
fn transitions(old: &Value, new: &Value, list: &str, causes: &mut Causes) {
    let spec_list = match list {
        "containerStatuses" => "containers",
        "initContainerStatuses" => "initContainers",
        _ => "ephemeralContainers",
    };
    for (index, before) in items(&old["status"], list).enumerate() {
        let Some(terminated) = before["state"].get("terminated") else { continue };
        let container = items(&old["spec"], spec_list).find(|container| container["name"] == before["name"]);
        let may_restart = spec_list != "ephemeralContainers"
            && container
                .is_some_and(|c| restarts(c, &old["spec"], terminated["exitCode"].as_i64().unwrap_or(0)));
        let left = items(&new["status"], list)
            .any(|after| after["name"] == before["name"] && after["state"].get("terminated").is_none());
        if left && !may_restart {
            let field = format!("status.{list}[{index}].state");
            causes.push((field, "Forbidden: may not be transitioned to non-terminated state".into()));
        }
    }
}

/// Whether a container that ended with this code is started again.
fn restarts(container: &Value, spec: &Value, exit_code: i64) -> bool {
    let own = container["restartPolicy"].as_str();
    if own.is_some() {
        for rule in items(container, "restartPolicyRules") {
            let listed = items(&rule["exitCodes"], "values").any(|value| value.as_i64() == Some(exit_code));
            let met = match rule["exitCodes"]["operator"].as_str() {
                Some("In") => listed,
                Some("NotIn") => !listed,
                _ => false,
            };
            if met {
                return matches!(rule["action"].as_str(), Some("Restart" | "RestartAllContainers"));
            }
        }
    }
    match own.or_else(|| spec["restartPolicy"].as_str()).unwrap_or("Always") {
        "Always" => true,
        "OnFailure" => exit_code != 0,
        _ => false,
    }
}

fn addresses(new: &Value, list: &str, causes: &mut Causes) {
    let mut families = Vec::new();
    for (index, item) in items(&new["status"], list).enumerate() {
        let text = item["ip"].as_str().unwrap_or_default();
        match text.parse::<IpAddr>() {
            Ok(address) => families.push(address.is_ipv4()),
            Err(_) => causes.push((
                format!("status.{list}[{index}]"),
                format!(
                    "Invalid value: \"{text}\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
                ),
            )),
        }
    }
    let single = families.len() < 2 || (families.len() == 2 && families[0] != families[1]);
    if !single {
        causes.push((
            format!("status.{list}"),
            "Invalid value: may specify no more than one IP for each IP family".into(),
        ));
    }
}

/// What is wrong with a new pod; far from everything a real server finds.
pub(crate) fn validate_new(pod: &Value) -> Causes {
    let mut causes = Causes::new();
    let containers: Vec<&Value> = items(&pod["spec"], "containers").collect();
    if containers.is_empty() {
        causes.push(("spec.containers".into(), "Required value".into()));
    }
    for (index, container) in containers.iter().enumerate() {
        for field in ["name", "image"] {
            if container[field].as_str().unwrap_or_default().is_empty() {
                causes.push((format!("spec.containers[{index}].{field}"), "Required value".into()));
            }
        }
    }
    causes
}

/// The generation after an update of the spec.
pub(crate) fn count_generation(old: &Value, new: &mut Value) {
    if new["spec"] != old["spec"] {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        new["metadata"]["generation"] = json!(generation + 1);
    }
}

/// What a status update of a node may not do.
pub(crate) fn validate_node(old: &Value, new: &Value) -> Causes {
    let mut causes = Causes::new();
    let mut seen: Vec<&Value> = Vec::new();
    for (index, address) in items(&new["status"], "addresses").enumerate() {
        if seen.contains(&address) {
            causes.push((format!("status.addresses[{index}]"), format!("Duplicate value: {address}")));
        }
        seen.push(address);
    }
    let provider = |node: &Value| node["spec"]["providerID"].as_str().unwrap_or_default().to_owned();
    if !provider(old).is_empty() && provider(old) != provider(new) {
        causes.push((
            "spec.providerID".into(),
            "Forbidden: node updates may not change providerID except from \"\" to valid".into(),
        ));
    }
    if items(&old["spec"], "podCIDRs").next().is_some() && old["spec"]["podCIDRs"] != new["spec"]["podCIDRs"]
    {
        causes.push((
            "spec.podCIDRs".into(),
            "Forbidden: node updates may not change podCIDR except from \"\" to valid".into(),
        ));
    }
    causes
}

/// What is wrong with an event: its namespace and that of its object.
pub(crate) fn validate_event(event: &Value) -> Causes {
    let namespace = meta::namespace(event);
    let involved = event["involvedObject"]["namespace"].as_str().unwrap_or_default();
    let agrees = if involved.is_empty() { namespace == "default" } else { involved == namespace };
    if agrees {
        return Causes::new();
    }
    vec![(
        "involvedObject.namespace".into(),
        format!("Invalid value: \"{involved}\": does not match event.namespace"),
    )]
}
