//! Eviction: POST to `pods/{name}/eviction`, a deletion that disruption budgets can refuse.
//!
//! Owns upstream's `EvictionREST`: which budget counts, and what it says. Who counts healthy pods, and so keeps budgets
//! true, is a controller's business.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::super::Change;
use super::schedule::selects;
use super::{condition, read};
use crate::kinds;
use crate::status::{self, ApiError};

/// Most evictions that a budget remembers and that its controller has not seen yet.
const DISRUPTED_LIMIT: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// What an allowed eviction does: these are stored, then the pod is deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct Eviction {
    /// The pod with the condition that says why it goes.
    pub pod: Value,
    /// The budget that has one disruption less now, if one counts.
    pub budget: Option<Value>,
    /// The `DeleteOptions` to delete the pod with.
    pub options: Value,
}

/// Whether a pod may be evicted.
///
/// # Errors
/// 400 when the eviction names another pod, 409 when the pod is another one than meant, 429 when its budget allows no
/// disruption now, 500 when it has several budgets.
pub fn evict(change: &Change<'_>, old: &Value, eviction: &Value) -> Result<Eviction, ApiError> {
    if eviction["metadata"]["name"].as_str().unwrap_or_default() != change.name {
        return Err(status::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
    preconditions(change, old, &options["preconditions"])?;
    let budget = if is_exempt(old) { None } else { spend(change, old)? };
    let mut pod = old.clone();
    let going = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    });
    condition::update(&mut pod, going, change.now);
    Ok(Eviction { pod, budget, options })
}

/// UID and resource version, where the eviction says them, are those of the pod that was meant.
fn preconditions(change: &Change<'_>, old: &Value, wanted: &Value) -> Result<(), ApiError> {
    let rules = [
        ("uid", "UID", "The object might have been deleted and then recreated"),
        ("resourceVersion", "ResourceVersion", "The object might have been modified"),
    ];
    for (field, what, why) in rules {
        let wanted = wanted[field].as_str().unwrap_or_default();
        let there = old["metadata"][field].as_str().unwrap_or_default();
        if !wanted.is_empty() && wanted != there {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({there}). {why}"
            );
            // Upstream names the kind here.
            let kind = kinds::Resource { plural: "Pod", ..*change.resource };
            return Err(status::conflict(&kind, change.name, &why));
        }
    }
    Ok(())
}

/// Pods that serve nobody: ended ones, ones that have not begun, and ones that go already.
fn is_exempt(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
        || pod["metadata"]["deletionTimestamp"].is_string()
}

/// Takes one disruption from the pod's budget, if it has one that counts.
fn spend(change: &Change<'_>, pod: &Value) -> Result<Option<Value>, ApiError> {
    let budgets = kinds::find("policy", "v1", "poddisruptionbudgets");
    let stored = budgets.map(|resource| change.lookup.list(resource, change.namespace)).unwrap_or_default();
    let mut counting = Vec::new();
    for budget in stored {
        if budget["spec"]["selector"].is_object() {
            let selector: LabelSelector = read(&budget["spec"]["selector"])?;
            if selects(&selector, |key| pod["metadata"]["labels"][key].as_str()) {
                counting.push(budget);
            }
        }
    }
    let Some(mut budget) = counting.pop() else { return Ok(None) };
    if !counting.is_empty() {
        let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(ApiError::new(500, "", why));
    }
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let (healthy, desired) = (number("currentHealthy"), number("desiredHealthy"));
    if !is_ready(pod) {
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        if always || (healthy >= desired && desired > 0) {
            return Ok(None);
        }
    }
    let allowed = number("disruptionsAllowed");
    let name = budget["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(refused(
            &format!("The disruption budget {name} is still being processed by the server."),
            10,
        ));
    }
    let disrupted = budget["status"]["disruptedPods"].as_object().map_or(0, serde_json::Map::len);
    let forbidden = |why: &str| {
        let resource = budgets.unwrap_or(change.resource);
        Err(status::forbidden(&kinds::Resource { plural: "poddisruptionbudget", ..*resource }, &name, why))
    };
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if disrupted > DISRUPTED_LIMIT {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return forbidden(why);
    }
    if allowed == 0 {
        return Err(refused(&reason(&budget, &name, healthy, desired), 0));
    }
    budget["status"]["disruptionsAllowed"] = json!(allowed - 1);
    if allowed == 1 {
        let exhausted = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": budget["metadata"]["generation"],
        });
        condition::update(&mut budget, exhausted, change.now);
    }
    let now = jiff::Timestamp::from_second(change.now.as_second()).unwrap_or(change.now);
    budget["status"]["disruptedPods"][change.name] = json!(now.to_string());
    Ok(Some(budget))
}

fn reason(budget: &Value, name: &str, healthy: i64, desired: i64) -> String {
    let conditions = budget["status"]["conditions"].as_array();
    let condition =
        conditions.into_iter().flatten().find(|condition| condition["type"] == "DisruptionAllowed");
    let told = condition.filter(|condition| condition["status"] == "False").and_then(|condition| {
        let message = condition["message"].as_str().filter(|message| !message.is_empty())?;
        Some((condition["reason"].as_str().unwrap_or_default(), message))
    });
    match told {
        Some(("SyncFailed", message)) => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        ),
        _ if healthy <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
        }
        Some((reason, message)) => {
            format!(
                "The disruption budget {name} does not allow evicting pods currently ({reason}): {message}"
            )
        }
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

fn refused(why: &str, retry_after: u32) -> ApiError {
    let mut error = ApiError::new(429, "TooManyRequests", REFUSED);
    error.details = json!({"causes": [{"reason": "DisruptionBudget", "message": why}]});
    error.retry_after = Some(retry_after).filter(|seconds| *seconds > 0);
    error
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
