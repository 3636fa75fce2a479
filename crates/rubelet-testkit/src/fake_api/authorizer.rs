//! Who may ask for what: the rules of the Node authorizer (with `AuthorizeNodeWithSelectors`, as 1.34 and later have
//! it) and of RBAC's bootstrap roles for the users a kubelet can be.
//!
//! As in the real authorizer a graph is kept of what the pods of nodes refer to, fed by what is written; what claims and
//! volumes refer to is looked up. Asked by the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rubelet_apimachinery::User;
use rubelet_apimachinery::strategy::Lookup;
use rubelet_localapi::engine::{Attributes, Authorize, Decision};
use rubelet_localapi::store::{Event, EventKind};
use serde_json::Value;

use super::admin::named;
use super::references;
use super::request::node_of;

/// The rules, and what they are asked about.
#[derive(Clone, Default)]
pub(crate) struct Nodes {
    /// By namespace and name.
    pods: Arc<Mutex<BTreeMap<(String, String), Known>>>,
    /// Rules that tests add: user, verb, and resource with subresource.
    granted: Arc<Mutex<BTreeSet<(String, String, String)>>>,
}

/// A pod, and what of it matters once that was asked for.
struct Known {
    bytes: Bytes,
    refers: Option<Arc<Refers>>,
}

/// What a pod is, to its node.
struct Refers {
    namespace: String,
    node: String,
    /// The names of objects by the plural of their kind; none for mirror pods, which give access to nothing.
    to: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Refers {
    fn of(pod: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut to = BTreeMap::new();
        if !references::is_mirror(pod) {
            to.insert("secrets", references::secrets(pod));
            to.insert("configmaps", references::config_maps(pod));
            to.insert("persistentvolumeclaims", references::claims(pod));
            to.insert("resourceclaims", references::resource_claims(pod));
            to.insert("serviceaccounts", BTreeSet::from([text(&pod["spec"]["serviceAccountName"])]));
        }
        Self { namespace: text(&pod["metadata"]["namespace"]), node: text(&pod["spec"]["nodeName"]), to }
    }

    fn has(&self, plural: &str, name: &str) -> bool {
        self.to.get(plural).is_some_and(|names| names.contains(name))
    }
}

impl Nodes {
    fn pods(&self) -> MutexGuard<'_, BTreeMap<(String, String), Known>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a user do more: `what` is a resource, with its subresource after a slash.
    pub(crate) fn grant(&self, user: &str, verb: &str, what: &str) {
        let rule = (user.to_owned(), verb.to_owned(), what.to_owned());
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).insert(rule);
    }

    fn is_granted(&self, user: &User, asked: &Attributes) -> bool {
        let what = match asked.subresource.as_str() {
            "" => asked.resource.clone(),
            subresource => format!("{}/{subresource}", asked.resource),
        };
        let rule = (user.name.clone(), asked.verb.clone(), what);
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).contains(&rule)
    }

    /// Takes note of what was written.
    pub(crate) fn see(&self, event: &Event) {
        if event.key.resource != "pods" {
            return;
        }
        let key = (event.key.namespace.clone(), event.key.name.clone());
        match event.kind {
            EventKind::Deleted => self.pods().remove(&key),
            _ => self.pods().insert(key, Known { bytes: event.bytes.clone(), refers: None }),
        };
    }

    /// What the node's pods refer to.
    fn pods_of(&self, node: &str) -> Vec<Arc<Refers>> {
        let mut pods = self.pods();
        let all = pods.values_mut().map(|known| {
            let read = || {
                // What is no pod refers to nothing.
                Arc::new(Refers::of(&serde_json::from_slice(&known.bytes).unwrap_or_default()))
            };
            known.refers.get_or_insert_with(read).clone()
        });
        all.filter(|pod| pod.node == node).collect()
    }

    /// Whether a path leads from the object over pods (and claims, and volumes) to the node.
    fn related(&self, lookup: &dyn Lookup, node: &str, asked: &Attributes) -> Result<(), String> {
        if asked.name.is_empty() {
            return Err("No Object name found".into());
        }
        let found = match asked.resource.as_str() {
            "pods" | "volumeattachments" => {
                let object = lookup.get(named(&asked.resource), &asked.namespace, &asked.name);
                object.is_some_and(|object| object["spec"]["nodeName"] == node)
            }
            // The graph is told of a write a moment after those who watch.
            _ => {
                leads_to(&self.pods_of(node), lookup, asked)
                    || leads_to(&stored_of(node, lookup), lookup, asked)
            }
        };
        if found { Ok(()) } else { Err(unrelated(node)) }
    }
}

/// What the pods that are stored for the node refer to.
fn stored_of(node: &str, lookup: &dyn Lookup) -> Vec<Arc<Refers>> {
    let pods = lookup.list(named("pods"), "");
    pods.iter().map(Refers::of).filter(|pod| pod.node == node).map(Arc::new).collect()
}

/// Whether one of these pods refers to the object, itself or through its volumes.
fn leads_to(pods: &[Arc<Refers>], lookup: &dyn Lookup, asked: &Attributes) -> bool {
    let (namespace, name) = (asked.namespace.as_str(), asked.name.as_str());
    let referred = |plural: &str| pods.iter().any(|p| p.namespace == namespace && p.has(plural, name));
    match asked.resource.as_str() {
        "persistentvolumes" => volumes_of(pods, lookup).any(|volume| volume == name),
        "secrets" => {
            referred("secrets")
                || volumes_of(pods, lookup).any(|v| secret_of_volume(lookup, &v, namespace, name))
        }
        plural => referred(plural),
    }
}

/// The volumes bound to the claims of these pods.
fn volumes_of(pods: &[Arc<Refers>], lookup: &dyn Lookup) -> impl Iterator<Item = String> {
    pods.iter().flat_map(move |pod| {
        let claims = pod.to.get("persistentvolumeclaims").into_iter().flatten();
        claims.filter_map(move |claim| {
            let claim = lookup.get(named("persistentvolumeclaims"), &pod.namespace, claim)?;
            claim["spec"]["volumeName"].as_str().map(str::to_owned)
        })
    })
}

impl Authorize for Nodes {
    fn allowed(&self, user: &User, asked: &Attributes, lookup: &dyn Lookup) -> Decision {
        // Paths that are no resources are for everyone here.
        let verdict = if asked.resource.is_empty()
            || user.is_in("system:masters")
            || user.name.starts_with("system:kube-")
            || self.is_granted(user, asked)
        {
            Ok(())
        } else if let Some(node) = node_of(user) {
            self.node_may(lookup, node, asked)
        } else if user.is_in("system:bootstrappers") {
            bootstrapper_may(asked)
        } else {
            Err(String::new())
        };
        verdict.map_or_else(Decision::Deny, |()| Decision::Allow)
    }
}

/// The value that the field selector demands of a field, when it demands exactly one.
fn selected<'a>(asked: &'a Attributes, field: &str) -> Option<&'a str> {
    asked.field_selector.split(',').find_map(|term| {
        let (key, value) = term.split_once('=')?;
        (key == field).then(|| value.trim_start_matches('='))
    })
}

impl Nodes {
    fn node_may(&self, lookup: &dyn Lookup, node: &str, asked: &Attributes) -> Result<(), String> {
        let (verb, sub) = (asked.verb.as_str(), asked.subresource.as_str());
        let refuse = |reason: &str| Err(reason.to_owned());
        match (asked.group.as_str(), asked.resource.as_str()) {
            ("", "secrets" | "configmaps") => match verb {
                "get" | "list" | "watch" if !sub.is_empty() => refuse("cannot read subresource"),
                "get" | "list" | "watch" if asked.namespace.is_empty() => {
                    refuse("can only read namespaced object of this type")
                }
                "get" | "list" | "watch" => self.related(lookup, node, asked),
                _ => refuse("can only read resources of this type"),
            },
            ("", "persistentvolumeclaims") if sub == "status" => match verb {
                "update" | "patch" => self.related(lookup, node, asked),
                _ => refuse("can only get/update/patch this type"),
            },
            ("", "persistentvolumeclaims" | "persistentvolumes")
            | ("resource.k8s.io", "resourceclaims")
            | ("storage.k8s.io", "volumeattachments") => match verb {
                "get" if sub.is_empty() => self.related(lookup, node, asked),
                "get" => refuse("cannot get subresource"),
                _ => refuse("can only get individual resources of this type"),
            },
            ("", "serviceaccounts") => match (verb, sub) {
                ("get", "") => self.related(lookup, node, asked),
                ("create", "token") if !asked.name.is_empty() => self.related(lookup, node, asked),
                ("create", _) if !asked.name.is_empty() => {
                    refuse("can only create token subresource of serviceaccount")
                }
                _ => refuse("can only create tokens for individual service accounts"),
            },
            ("coordination.k8s.io", "leases") => own_lease(node, asked),
            ("storage.k8s.io", "csinodes") => own_csi_node(node, asked),
            ("resource.k8s.io", "resourceslices") => own_slices(lookup, node, asked),
            ("", "nodes") => own_node(node, asked),
            ("", "pods") => self.own_pods(lookup, node, asked),
            _ if by_rule(asked) => Ok(()),
            _ => Err(String::new()),
        }
    }

    fn own_pods(&self, lookup: &dyn Lookup, node: &str, asked: &Attributes) -> Result<(), String> {
        match (asked.subresource.as_str(), asked.verb.as_str()) {
            ("", "get") => self.related(lookup, node, asked),
            ("", "list" | "watch") if selected(asked, "spec.nodeName") == Some(node) => Ok(()),
            ("", "list" | "watch") if !asked.name.is_empty() => self.related(lookup, node, asked),
            ("", "list" | "watch") => {
                Err("can only list/watch pods with spec.nodeName field selector".into())
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err(String::new()),
        }
    }
}

/// `system:node-bootstrapper`, and kubeadm's leave to look whether a node of that name exists.
fn bootstrapper_may(asked: &Attributes) -> Result<(), String> {
    let signing = asked.resource == "certificatesigningrequests" && asked.subresource.is_empty();
    let allowed = signing && matches!(asked.verb.as_str(), "create" | "get" | "list" | "watch")
        || asked.resource == "nodes" && asked.verb == "get" && asked.subresource.is_empty();
    if allowed { Ok(()) } else { Err(String::new()) }
}

/// The rules of `NodeRules` that no part of the node authorizer refines.
fn by_rule(asked: &Attributes) -> bool {
    let read = matches!(asked.verb.as_str(), "get" | "list" | "watch");
    if !asked.subresource.is_empty() {
        return false;
    }
    match (asked.group.as_str(), asked.resource.as_str()) {
        ("", "services") | ("node.k8s.io", "runtimeclasses") | ("storage.k8s.io", "csidrivers") => read,
        ("certificates.k8s.io", "clustertrustbundles") => read,
        ("", "endpoints") => asked.verb == "get",
        ("" | "events.k8s.io", "events") => matches!(asked.verb.as_str(), "create" | "update" | "patch"),
        ("certificates.k8s.io", "certificatesigningrequests") => read || asked.verb == "create",
        ("authentication.k8s.io", "tokenreviews") => asked.verb == "create",
        ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews") => {
            asked.verb == "create"
        }
        _ => false,
    }
}

fn own_lease(node: &str, asked: &Attributes) -> Result<(), String> {
    if !matches!(asked.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".into());
    }
    if asked.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    if asked.verb != "create" && asked.name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn own_csi_node(node: &str, asked: &Attributes) -> Result<(), String> {
    if !matches!(asked.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".into());
    }
    if !asked.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".into());
    }
    if asked.verb != "create" && asked.name != node {
        return Err("can only access CSINode with the same name as the requesting node".into());
    }
    Ok(())
}

fn own_slices(lookup: &dyn Lookup, node: &str, asked: &Attributes) -> Result<(), String> {
    match asked.verb.as_str() {
        "create" => Ok(()),
        "get" | "update" | "patch" | "delete" => {
            let slice = lookup.get(named("resourceslices"), "", &asked.name);
            let own = slice.is_some_and(|slice| slice["spec"]["nodeName"] == node);
            if own { Ok(()) } else { Err(unrelated(node)) }
        }
        _ if selected(asked, "spec.nodeName") == Some(node) => Ok(()),
        _ => Err("can only list/watch/deletecollection resourceslices with nodeName field selector".into()),
    }
}

fn own_node(node: &str, asked: &Attributes) -> Result<(), String> {
    match (asked.subresource.as_str(), asked.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") => match asked.name.as_str() {
            name if name == node => Ok(()),
            "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => Err(format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        _ => Err(String::new()),
    }
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn secret_of_volume(lookup: &dyn Lookup, volume: &str, namespace: &str, secret: &str) -> bool {
    let Some(volume) = lookup.get(named("persistentvolumes"), "", volume) else { return false };
    let csi = &volume["spec"]["csi"];
    ["controllerPublishSecretRef", "nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"]
        .iter()
        .any(|field| csi[*field]["name"] == secret && csi[*field]["namespace"] == namespace)
}
