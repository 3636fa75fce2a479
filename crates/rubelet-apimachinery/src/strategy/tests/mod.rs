//! The rules of all kinds, by tables. [`World`] holds what is stored and makes the changes.

mod deletion;
mod metadata;
mod others;
mod services;
mod storage;

use std::cell::Cell;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::*;
use crate::kinds;

/// What is stored, and a clock that stands still.
pub(crate) struct World {
    objects: Vec<(&'static Resource, Value)>,
    settings: Settings,
    user: User,
    count: Cell<u32>,
}

impl Lookup for World {
    fn get(&self, resource: &'static Resource, namespace: &str, name: &str) -> Option<Value> {
        let found = self.list(resource, namespace);
        found.into_iter().find(|object| object["metadata"]["name"] == name)
    }

    fn list(&self, resource: &'static Resource, namespace: &str) -> Vec<Value> {
        let fits = |object: &&(&'static Resource, Value)| {
            object.0 == resource && (namespace.is_empty() || object.1["metadata"]["namespace"] == namespace)
        };
        self.objects.iter().filter(fits).map(|(_, object)| object.clone()).collect()
    }
}

/// The resource of an object.
pub(crate) fn resource_of(object: &Value) -> &'static Resource {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    kinds::by_kind(text("apiVersion"), text("kind")).expect("an object of a known kind")
}

/// An object named `x`, in the namespace `default` where its kind has any.
pub(crate) fn object(api_version: &str, kind: &str, fields: Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}});
    for (field, value) in fields.as_object().into_iter().flatten() {
        if field == "metadata" {
            for (field, value) in value.as_object().into_iter().flatten() {
                object["metadata"][field] = value.clone();
            }
        } else {
            object[field] = value.clone();
        }
    }
    object
}

impl World {
    /// A world with the namespace `default`, and one that is going.
    pub(crate) fn new() -> Self {
        let settings =
            Settings { service_network: (Ipv4Addr::new(10, 96, 0, 0), 24), root_ca: "PEM".to_owned() };
        let mut world =
            Self { objects: Vec::new(), settings, user: User::new("jane", &["dev"]), count: Cell::new(0) };
        world.put(object("v1", "Namespace", json!({"metadata": {"name": "default"}})));
        world.put(object(
            "v1",
            "Namespace",
            json!({"metadata": {"name": "going"}, "status": {"phase": "Terminating"}}),
        ));
        world
    }

    pub(crate) fn put(&mut self, object: Value) {
        self.objects.push((resource_of(&object), object));
    }

    fn change<T>(
        &self,
        resource: &'static Resource,
        subresource: &str,
        name: &str,
        decide: impl FnOnce(&Change<'_>) -> T,
    ) -> T {
        let random = |length: usize| "z".repeat(length);
        let uid = || {
            self.count.set(self.count.get() + 1);
            format!("uid-{}", self.count.get())
        };
        decide(&Change {
            resource,
            subresource,
            namespace: if resource.namespaced { "default" } else { "" },
            name,
            user: &self.user,
            now: "2026-02-03T04:05:06Z".parse().expect("a time"),
            lookup: self,
            random: &random,
            uid: &uid,
            settings: &self.settings,
        })
    }

    /// Creates it; gives what would be stored.
    pub(crate) fn create(&self, object: Value) -> Result<Value, ApiError> {
        self.create_in("default", object)
    }

    pub(crate) fn create_in(&self, namespace: &str, mut object: Value) -> Result<Value, ApiError> {
        let resource = resource_of(&object);
        self.change(resource, "", "", |change| {
            let namespace = if resource.namespaced { namespace } else { "" };
            create(&Change { namespace, ..*change }, &mut object)
        })?;
        Ok(object)
    }

    /// Creates it and keeps it as a stored object.
    pub(crate) fn made(&mut self, object: Value) -> Value {
        let mut object = self.create(object).expect("a good object");
        object["metadata"]["resourceVersion"] = json!("7");
        self.put(object.clone());
        object
    }

    /// Changes a stored object.
    pub(crate) fn update(
        &self,
        subresource: &str,
        old: &Value,
        edit: impl FnOnce(&mut Value),
    ) -> Result<Value, ApiError> {
        let mut new = old.clone();
        edit(&mut new);
        let name = old["metadata"]["name"].as_str().expect("a name");
        self.change(resource_of(old), subresource, name, |change| update(change, &mut new, old))?;
        Ok(new)
    }

    pub(crate) fn delete(&self, old: &Value, options: &DeleteOptions) -> Result<Deletion, ApiError> {
        let name = old["metadata"]["name"].as_str().expect("a name");
        self.change(resource_of(old), "", name, |change| delete(change, old, options))
    }
}

/// The rules that an answer says are broken: `field: message`, or the message of an error without fields.
pub(crate) fn broken(result: &Result<Value, ApiError>) -> Vec<String> {
    let Err(error) = result else { return Vec::new() };
    if error.reason != "Invalid" {
        return vec![format!("{} {}", error.code, error.message)];
    }
    let causes = error.details["causes"].as_array().expect("causes");
    causes
        .iter()
        .map(|cause| {
            format!(
                "{}: {}",
                cause["field"].as_str().unwrap_or("?"),
                cause["message"].as_str().unwrap_or("?")
            )
        })
        .collect()
}

/// What is broken begins with these texts, each with one.
#[track_caller]
pub(crate) fn expect_broken(result: &Result<Value, ApiError>, expected: &[&str]) {
    let found = broken(result);
    let fits = found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e));
    assert!(fits, "found {found:#?}, expected {expected:#?}");
}

/// The object holds everything that `part` does.
#[track_caller]
pub(crate) fn expect_part(object: &Value, part: &Value) {
    fn holds(object: &Value, part: &Value) -> bool {
        match (object, part) {
            (Value::Object(object), Value::Object(part)) => {
                part.iter().all(|(field, value)| holds(object.get(field).unwrap_or(&Value::Null), value))
            }
            _ => object == part,
        }
    }
    assert!(holds(object, part), "{part:#} is not in {object:#}");
}

/// Creating it breaks these rules.
#[track_caller]
pub(crate) fn check(api_version: &str, kind: &str, fields: Value, expected: &[&str]) {
    expect_broken(&World::new().create(object(api_version, kind, fields)), expected);
}

/// Creating it makes this.
#[track_caller]
pub(crate) fn check_made(api_version: &str, kind: &str, fields: Value, expected: Value) -> Value {
    let made = World::new().create(object(api_version, kind, fields)).expect("created");
    expect_part(&made, &expected);
    made
}

/// Changing a field of a good object breaks these rules.
#[track_caller]
pub(crate) fn check_change(made: Value, pointer: &str, value: Value, expected: &[&str]) {
    let mut world = World::new();
    let old = world.made(made);
    let path: Vec<&str> = pointer.split('/').collect();
    expect_broken(&world.update("", &old, |new| value::set(new, &path, value)), expected);
}
