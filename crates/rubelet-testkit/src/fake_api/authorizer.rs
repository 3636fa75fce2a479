//! Who may ask for what: the rules of the Node authorizer (with `AuthorizeNodeWithSelectors`, as 1.34 and later have
//! it) and of RBAC's bootstrap roles for the users a kubelet can be.
//!
//! The graph of the real authorizer is read off the stored pods at each question.

use std::sync::Arc;

use serde_json::Value;

use super::State;
use super::handle::Call;
use super::references;
use super::request::ApiRequest;
use super::resources::{self, ResourceRef};
use super::status::{self, ApiError};
use super::store::Key;

/// Whether the request may go on.
pub(crate) fn authorize(state: &State, call: &Call<'_>, resource: ResourceRef) -> Result<(), ApiError> {
    let (user, request) = (call.user, call.request);
    let has_group = |group: &str| user.groups.iter().any(|g| g == group);
    let verdict = if has_group("system:masters") || user.name.starts_with("system:kube-") {
        Ok(())
    } else if let Some(node) = user.node() {
        node_may(state, node, request)
    } else if has_group("system:bootstrappers") {
        bootstrapper_may(request)
    } else {
        Err(String::new())
    };
    verdict.map_err(|reason| status::forbidden(resource, &request.name, &explain(request, &reason)))
}

/// The sentence of a 403, with the authorizer's reason where it gave one.
fn explain(request: &ApiRequest, reason: &str) -> String {
    let what = if request.subresource.is_empty() {
        request.resource.clone()
    } else {
        format!("{}/{}", request.resource, request.subresource)
    };
    let scope = if request.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", request.namespace)
    };
    let sentence = format!(
        "User \"{}\" cannot {} resource \"{what}\" in API group \"{}\" {scope}",
        request.user, request.verb, request.group
    );
    if reason.is_empty() { sentence } else { format!("{sentence}: {reason}") }
}

/// `system:node-bootstrapper`, and kubeadm's leave to look whether a node of that name exists.
fn bootstrapper_may(request: &ApiRequest) -> Result<(), String> {
    let signing = request.resource == "certificatesigningrequests" && request.subresource.is_empty();
    let allowed = signing && matches!(request.verb, "create" | "get" | "list" | "watch")
        || request.resource == "nodes" && request.verb == "get" && request.subresource.is_empty();
    if allowed { Ok(()) } else { Err(String::new()) }
}

fn node_may(state: &State, node: &str, request: &ApiRequest) -> Result<(), String> {
    let (verb, sub) = (request.verb, request.subresource.as_str());
    let refuse = |reason: &str| Err(reason.to_owned());
    match (request.group.as_str(), request.resource.as_str()) {
        ("", "secrets" | "configmaps") => match verb {
            "get" | "list" | "watch" if !sub.is_empty() => refuse("cannot read subresource"),
            "get" | "list" | "watch" if request.namespace.is_empty() => {
                refuse("can only read namespaced object of this type")
            }
            "get" | "list" | "watch" => related(state, node, request),
            _ => refuse("can only read resources of this type"),
        },
        ("", "persistentvolumeclaims") if sub == "status" => match verb {
            "update" | "patch" => related(state, node, request),
            _ => refuse("can only get/update/patch this type"),
        },
        ("", "persistentvolumeclaims" | "persistentvolumes")
        | ("resource.k8s.io", "resourceclaims")
        | ("storage.k8s.io", "volumeattachments") => match verb {
            "get" if sub.is_empty() => related(state, node, request),
            "get" => refuse("cannot get subresource"),
            _ => refuse("can only get individual resources of this type"),
        },
        ("", "serviceaccounts") => match (verb, sub) {
            ("get", "") => related(state, node, request),
            ("create", "token") if !request.name.is_empty() => related(state, node, request),
            ("create", _) if !request.name.is_empty() => {
                refuse("can only create token subresource of serviceaccount")
            }
            _ => refuse("can only create tokens for individual service accounts"),
        },
        ("coordination.k8s.io", "leases") => own_lease(node, request),
        ("storage.k8s.io", "csinodes") => own_csi_node(node, request),
        ("resource.k8s.io", "resourceslices") => own_slices(state, node, request),
        ("", "nodes") => own_node(node, request),
        ("", "pods") => own_pods(state, node, request),
        _ if by_rule(request) => Ok(()),
        _ => Err(String::new()),
    }
}

/// The rules of `NodeRules` that no part of the node authorizer refines.
fn by_rule(request: &ApiRequest) -> bool {
    let read = matches!(request.verb, "get" | "list" | "watch");
    if !request.subresource.is_empty() {
        return false;
    }
    match (request.group.as_str(), request.resource.as_str()) {
        ("", "services") | ("node.k8s.io", "runtimeclasses") | ("storage.k8s.io", "csidrivers") => read,
        ("certificates.k8s.io", "clustertrustbundles") => read,
        ("", "endpoints") => request.verb == "get",
        ("" | "events.k8s.io", "events") => matches!(request.verb, "create" | "update" | "patch"),
        ("certificates.k8s.io", "certificatesigningrequests") => read || request.verb == "create",
        ("authentication.k8s.io", "tokenreviews") => request.verb == "create",
        ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews") => {
            request.verb == "create"
        }
        _ => false,
    }
}

fn own_lease(node: &str, request: &ApiRequest) -> Result<(), String> {
    if !matches!(request.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".into());
    }
    if request.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    if request.verb != "create" && request.name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn own_csi_node(node: &str, request: &ApiRequest) -> Result<(), String> {
    if !matches!(request.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".into());
    }
    if !request.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".into());
    }
    if request.verb != "create" && request.name != node {
        return Err("can only access CSINode with the same name as the requesting node".into());
    }
    Ok(())
}

fn own_slices(state: &State, node: &str, request: &ApiRequest) -> Result<(), String> {
    match request.verb {
        "create" => Ok(()),
        "get" | "update" | "patch" | "delete" => {
            let key = Key::new(resources::named("resourceslices"), "", &request.name);
            let own = state.store.get(&key).is_some_and(|slice| slice["spec"]["nodeName"] == node);
            if own { Ok(()) } else { Err(unrelated(node)) }
        }
        _ if request.selected("spec.nodeName").as_deref() == Some(node) => Ok(()),
        _ => Err("can only list/watch/deletecollection resourceslices with nodeName field selector".into()),
    }
}

fn own_node(node: &str, request: &ApiRequest) -> Result<(), String> {
    match (request.subresource.as_str(), request.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") => match request.name.as_str() {
            name if name == node => Ok(()),
            "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => Err(format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        _ => Err(String::new()),
    }
}

fn own_pods(state: &State, node: &str, request: &ApiRequest) -> Result<(), String> {
    match (request.subresource.as_str(), request.verb) {
        ("", "get") => related(state, node, request),
        ("", "list" | "watch") if request.selected("spec.nodeName").as_deref() == Some(node) => Ok(()),
        ("", "list" | "watch") if !request.name.is_empty() => related(state, node, request),
        ("", "list" | "watch") => Err("can only list/watch pods with spec.nodeName field selector".into()),
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
        _ => Err(String::new()),
    }
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

/// Whether a path leads from the object over pods (and claims, and volumes) to the node.
fn related(state: &State, node: &str, request: &ApiRequest) -> Result<(), String> {
    if request.name.is_empty() {
        return Err("No Object name found".into());
    }
    let (namespace, name) = (request.namespace.as_str(), request.name.as_str());
    let found = match request.resource.as_str() {
        "pods" => pods_of(state, node).any(|(key, _)| key.namespace == namespace && key.name == name),
        "volumeattachments" => {
            let key = Key::new(resources::named("volumeattachments"), "", name);
            state.store.get(&key).is_some_and(|attachment| attachment["spec"]["nodeName"] == node)
        }
        "persistentvolumes" => volumes_of(state, node).any(|volume| volume == name),
        "secrets" => {
            let by_pod = pods_in(state, node, namespace).any(|pod| references::secrets(pod).contains(name));
            by_pod || volumes_of(state, node).any(|volume| secret_of_volume(state, &volume, namespace, name))
        }
        "configmaps" => {
            pods_in(state, node, namespace).any(|pod| references::config_maps(pod).contains(name))
        }
        "persistentvolumeclaims" => {
            pods_in(state, node, namespace).any(|pod| references::claims(pod).contains(name))
        }
        "resourceclaims" => {
            pods_in(state, node, namespace).any(|pod| references::resource_claims(pod).contains(name))
        }
        "serviceaccounts" => {
            pods_in(state, node, namespace).any(|pod| pod["spec"]["serviceAccountName"] == name)
        }
        _ => false,
    };
    if found { Ok(()) } else { Err(unrelated(node)) }
}

fn pods_of<'a>(state: &'a State, node: &'a str) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
    state.store.all(resources::named("pods")).filter(move |(_, pod)| pod["spec"]["nodeName"] == node)
}

/// The node's pods of a namespace that can give it access to anything: mirror pods cannot.
fn pods_in<'a>(state: &'a State, node: &'a str, namespace: &'a str) -> impl Iterator<Item = &'a Value> {
    pods_of(state, node)
        .filter(move |(key, pod)| key.namespace == namespace && !references::is_mirror(pod))
        .map(|(_, pod)| pod.as_ref())
}

/// The volumes bound to the claims of the node's pods.
fn volumes_of<'a>(state: &'a State, node: &'a str) -> impl Iterator<Item = String> + 'a {
    let claims = resources::named("persistentvolumeclaims");
    pods_of(state, node).filter(|(_, pod)| !references::is_mirror(pod)).flat_map(move |(key, pod)| {
        let names = references::claims(pod);
        let bound = names.into_iter().filter_map(move |claim| {
            let claim = state.store.get(&Key::new(claims, &key.namespace, &claim))?;
            claim["spec"]["volumeName"].as_str().map(str::to_owned)
        });
        bound.collect::<Vec<String>>()
    })
}

fn secret_of_volume(state: &State, volume: &str, namespace: &str, secret: &str) -> bool {
    let key = Key::new(resources::named("persistentvolumes"), "", volume);
    let Some(csi) = state.store.get(&key).map(|volume| &volume["spec"]["csi"]) else { return false };
    ["controllerPublishSecretRef", "nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"]
        .iter()
        .any(|field| csi[*field]["name"] == secret && csi[*field]["namespace"] == namespace)
}
