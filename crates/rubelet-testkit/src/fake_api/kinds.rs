//! Where kinds differ: what the server fills in, refuses and does by itself for each of them.
//!
//! A switchboard; the rules of pods, certificates and tokens are in their own files.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Secret};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::State;
use super::handle::{Call, Reply};
use super::request::User;
use super::resources::{self, ResourceRef};
use super::status::{self, ApiError};
use super::store::Key;
use super::{csr, meta, pod_defaults, pod_rules, subresources, tokens, verbs};

/// Subresources besides `status`.
pub(crate) fn has_subresource(resource: ResourceRef, sub: &str) -> bool {
    matches!(
        (resource.plural, sub),
        ("pods", "eviction" | "binding" | "ephemeralcontainers" | "resize")
            | ("serviceaccounts", "token")
            | ("certificatesigningrequests", "approval")
            | ("namespaces", "finalize")
    )
}

/// POST to a subresource.
pub(crate) fn create_subresource(
    state: &mut State,
    call: &Call<'_>,
    resource: ResourceRef,
) -> Result<Reply, ApiError> {
    match (resource.plural, call.request.subresource.as_str()) {
        ("pods", "eviction") => subresources::evict(state, call, resource),
        ("pods", "binding") => subresources::bind(state, call, resource),
        ("serviceaccounts", "token") => tokens::create(state, call, resource),
        _ => Err(status::method_not_allowed(resource)),
    }
}

/// Reviews are answered, not stored.
pub(crate) fn answer_without_storing(
    state: &mut State,
    call: &Call<'_>,
    resource: ResourceRef,
    object: &Value,
) -> Result<Option<Reply>, ApiError> {
    let mut answer = object.clone();
    match resource.plural {
        "tokenreviews" => {
            let token = object["spec"]["token"].as_str().unwrap_or_default();
            answer["status"] = match tokens::bearer(state, token, call.now) {
                Some(user) => {
                    json!({"authenticated": true, "user": {"username": user.name, "groups": user.groups}})
                }
                None => json!({"authenticated": false, "error": "invalid bearer token"}),
            };
        }
        "subjectaccessreviews" => {
            let user = User::named(object["spec"]["user"].as_str().unwrap_or_default());
            let asked: Vec<&str> =
                super::references::items(&object["spec"], "groups").filter_map(Value::as_str).collect();
            let allowed =
                user.groups.iter().any(|g| g == "system:masters") || asked.contains(&"system:masters");
            answer["status"] = json!({"allowed": allowed});
        }
        _ => return Ok(None),
    }
    Ok(Some(Reply::Object(201, answer)))
}

/// Refuses what does not decode into the kind's type.
fn check_types(resource: ResourceRef, object: &Value) -> Result<(), ApiError> {
    fn decodes<T: DeserializeOwned>(object: &Value) -> Result<(), String> {
        T::deserialize(object).map(|_| ()).map_err(|e| e.to_string())
    }
    let checked = match resource.plural {
        "pods" => decodes::<Pod>(object),
        "nodes" => decodes::<Node>(object),
        "leases" => decodes::<Lease>(object),
        "events" => decodes::<Event>(object),
        "configmaps" => decodes::<ConfigMap>(object),
        "secrets" => decodes::<Secret>(object),
        "certificatesigningrequests" => decodes::<CertificateSigningRequest>(object),
        _ => Ok(()),
    };
    checked.map_err(|why| {
        status::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: json: cannot unmarshal: {why}",
            resource.kind, resource.version, resource.kind
        ))
    })
}

fn refuse(resource: ResourceRef, object: &Value, causes: &[(String, String)]) -> Result<(), ApiError> {
    if causes.is_empty() { Ok(()) } else { Err(status::invalid(resource, meta::name(object), causes)) }
}

/// Fills in what the server decides at creation.
pub(crate) fn prepare_create(
    state: &mut State,
    call: &Call<'_>,
    resource: ResourceRef,
    object: &mut Value,
) -> Result<(), ApiError> {
    check_types(resource, object)?;
    match resource.plural {
        "pods" => pod_defaults::prepare(state, call, resource, object)?,
        "certificatesigningrequests" => csr::prepare(call, object),
        "namespaces" => object["status"] = json!({"phase": "Active"}),
        "nodes" if call.options.defaults => taint_new_node(object),
        _ => {}
    }
    Ok(())
}

/// The TaintNodesByCondition plugin: a node is not ready until its conditions have been looked at.
fn taint_new_node(node: &mut Value) {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let mut taints: Vec<Value> = super::references::items(&node["spec"], "taints").cloned().collect();
    if !taints.iter().any(|t| t["key"] == taint["key"] && t["effect"] == taint["effect"]) {
        taints.push(taint);
        node["spec"]["taints"] = json!(taints);
    }
}

/// Refuses what the kind's validation refuses.
pub(crate) fn validate_create(resource: ResourceRef, object: &Value) -> Result<(), ApiError> {
    let causes = match resource.plural {
        "pods" => pod_rules::validate_new(object),
        "events" => pod_rules::validate_event(object),
        "certificatesigningrequests" => csr::validate(object),
        _ => vec![],
    };
    refuse(resource, object, &causes)
}

/// Takes over from the stored object what this path cannot change.
pub(crate) fn prepare_update(
    _call: &Call<'_>,
    resource: ResourceRef,
    sub: &str,
    old: &Value,
    new: &mut Value,
) -> Result<(), ApiError> {
    if resource.has_status {
        let kept: &[&str] = match sub {
            "status" | "approval" => &["spec"],
            _ => &["status"],
        };
        for part in kept {
            match old.get(*part) {
                Some(value) => new[*part] = value.clone(),
                None => {
                    if let Some(fields) = new.as_object_mut() {
                        fields.remove(*part);
                    }
                }
            }
        }
    }
    match (resource.plural, sub) {
        ("pods", "status") => pod_rules::prepare_status(old, new),
        ("pods", _) => pod_rules::count_generation(old, new),
        _ => {}
    }
    check_types(resource, new)
}

/// Refuses what the kind's update validation refuses.
pub(crate) fn validate_update(
    resource: ResourceRef,
    sub: &str,
    old: &Value,
    new: &Value,
) -> Result<(), ApiError> {
    let causes = match (resource.plural, sub) {
        ("pods", "status") => pod_rules::validate_status(old, new),
        ("nodes", _) => pod_rules::validate_node(old, new),
        ("events", _) => pod_rules::validate_event(new),
        _ => vec![],
    };
    refuse(resource, new, &causes)
}

/// What the server (or a controller) does once the object is there.
pub(crate) fn after_create(state: &mut State, call: &Call<'_>, resource: ResourceRef, stored: &Value) {
    match resource.plural {
        "certificatesigningrequests" => csr::after_create(state, call.now, meta::name(stored)),
        "namespaces" if call.options.service_accounts => furnish(state, call, meta::name(stored)),
        _ => {}
    }
}

/// What controllers put into every namespace.
fn furnish(state: &mut State, call: &Call<'_>, namespace: &str) {
    let metadata = |name: &str| json!({"name": name, "namespace": namespace});
    let ca = state.signer.ca(call.now).pem.clone();
    let objects = [
        (
            "serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata("default")}),
        ),
        (
            "configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("kube-root-ca.crt"),
                   "data": {"ca.crt": ca}}),
        ),
    ];
    for (plural, object) in objects {
        let resource = resources::named(plural);
        if state.store.get(&Key::new(resource, namespace, meta::name(&object))).is_none()
            && let Err(error) = verbs::store_new(state, call, resource, object)
        {
            panic!("cannot furnish namespace {namespace}: {}", error.message);
        }
    }
}

/// What the server (or a controller) does after a change.
pub(crate) fn after_update(state: &mut State, call: &Call<'_>, resource: ResourceRef, stored: &Value) {
    let approved = |object: &Value| {
        super::references::items(&object["status"], "conditions").any(|c| c["type"] == "Approved")
    };
    let unsigned = stored["status"].get("certificate").is_none();
    if resource.plural == "certificatesigningrequests" && approved(stored) && unsigned {
        csr::sign_approved(state, call.now, meta::name(stored));
    }
}
