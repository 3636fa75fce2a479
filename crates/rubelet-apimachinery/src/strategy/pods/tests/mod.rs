//! Tables of what kube-apiserver 1.36 answers, and what is stored. The words were taken from a real one.

mod binding;
mod creation;
mod properties;
mod scheduling;
mod status;
mod updates;

use serde_json::{Value, json};

use super::super::{Change, Lookup, Settings, Warnings};
use crate::kinds::{self, Resource};
use crate::status::ApiError;
use crate::user::User;

/// What is stored besides the pod.
struct Objects(Vec<Value>);

impl Lookup for Objects {
    fn get(&self, resource: &'static Resource, namespace: &str, name: &str) -> Option<Value> {
        self.list(resource, namespace).into_iter().find(|object| object["metadata"]["name"] == name)
    }

    fn list(&self, resource: &'static Resource, namespace: &str) -> Vec<Value> {
        let in_namespace = |o: &&Value| namespace.is_empty() || o["metadata"]["namespace"] == namespace;
        self.0.iter().filter(|object| object["kind"] == resource.kind).filter(in_namespace).cloned().collect()
    }
}

/// A namespace with two accounts, two priority classes, a runtime class, a node.
fn objects() -> Objects {
    Objects(vec![
        json!({"kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "shop"}}),
        json!({
            "kind": "ServiceAccount", "metadata": {"name": "quiet", "namespace": "shop"},
            "automountServiceAccountToken": false, "imagePullSecrets": [{"name": "registry"}],
        }),
        json!({
            "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never",
        }),
        json!({
            "kind": "RuntimeClass", "metadata": {"name": "kata"}, "handler": "kata",
            "overhead": {"podFixed": {"cpu": "250m", "memory": "120Mi"}},
            "scheduling": {
                "nodeSelector": {"kata": "yes"}, "tolerations": [{"key": "kata", "operator": "Exists"}],
            },
        }),
        json!({
            "kind": "Node",
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1", "disk": "ssd"}},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "9"}},
        }),
    ])
}

/// Calls `act` with a change of the pod `web` in namespace `shop`.
fn with_change<T>(subresource: &str, objects: &Objects, act: impl FnOnce(&Change<'_>) -> T) -> T {
    let user = User::admin();
    let settings = Settings { service_network: ([10, 96, 0, 0].into(), 16), root_ca: String::new() };
    act(&Change {
        resource: kinds::find("", "v1", "pods").unwrap(),
        subresource,
        namespace: "shop",
        name: "web",
        user: &user,
        now: "2026-01-01T00:00:00.5Z".parse().unwrap(),
        lookup: objects,
        random: &|length| "x".repeat(length),
        uid: &|| "new".to_owned(),
        settings: &settings,
    })
}

/// A pod with this spec and a container `app`, unless the spec has others.
fn pod(spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "u1", "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    });
    merge(&mut pod["spec"], &spec);
    pod
}

/// Puts the fields of `change` over those of an object; null takes a field away.
fn merge(object: &mut Value, change: &Value) {
    let Some(change) = change.as_object() else {
        *object = change.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (field, value) in change {
        if value.is_null() {
            object.as_object_mut().unwrap().remove(field);
        } else {
            merge(&mut object[field], value);
        }
    }
}

fn create(mut pod: Value) -> Result<(Value, Warnings), ApiError> {
    let warnings = with_change("", &objects(), |change| super::create(change, &mut pod))?;
    Ok((pod, warnings))
}

/// A pod as it is stored after its creation, with a resource version.
fn stored(spec: Value) -> Value {
    let (mut pod, _) = create(pod(spec)).unwrap();
    pod["metadata"]["resourceVersion"] = json!("7");
    pod
}

/// An update of a stored pod by the merge patch `change`.
fn update(subresource: &str, old: &Value, change: &Value) -> Result<Value, ApiError> {
    let mut new = old.clone();
    merge(&mut new, change);
    with_change(subresource, &objects(), |change| super::update(change, &mut new, old))?;
    Ok(new)
}

/// The causes of an error, `field: message`, or its message where it has none.
fn told(error: &ApiError) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match error.details["causes"].as_array() {
        Some(causes) => {
            causes.iter().map(|c| format!("{}: {}", text(&c["field"]), text(&c["message"]))).collect()
        }
        None => vec![error.message.clone()],
    }
}

/// The error's code, and its causes or message: each as expected, up to the line with our own differences.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ApiError>, code: u16, expected: &[&str]) {
    let error = result.unwrap_err();
    let mut told = told(&error);
    told.iter_mut().for_each(|line| *line = line.split('\n').next().unwrap_or_default().to_owned());
    assert_eq!((error.code, told), (code, expected.iter().map(|&line| line.to_owned()).collect()));
}
