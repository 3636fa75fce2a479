//! Scenarios of writes one after another, as a table of steps and what is owned after them.

mod apply;
mod paths;
mod properties;
mod track;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::element::print;
use super::{ApplyCall, UpdateCall, apply as apply_to, entries, track as note};
use crate::kinds::{self, Resource};
use crate::status::ApiError;

/// One object that is written again and again, each time a second later.
struct Object {
    resource: &'static Resource,
    value: Option<Value>,
    second: i64,
}

impl Object {
    fn new(api_version: &str, kind: &str) -> Self {
        let resource = kinds::by_kind(api_version, kind).unwrap();
        Self { resource, value: None, second: 0 }
    }

    fn config_map() -> Self {
        Self::new("v1", "ConfigMap")
    }

    fn by<'a>(&mut self, manager: &'a str, subresource: &'a str) -> UpdateCall<'a> {
        self.second += 1;
        let now = Timestamp::from_second(self.second).unwrap();
        UpdateCall { resource: self.resource, subresource, manager, now }
    }

    fn named(&self, parts: Value) -> Value {
        let mut object = json!({
            "apiVersion": self.resource.api_version(), "kind": self.resource.kind,
            "metadata": {"name": "it", "namespace": "here"},
        });
        for (name, part) in parts.as_object().unwrap() {
            match (name.as_str(), part.as_object()) {
                ("metadata", Some(more)) => {
                    object["metadata"].as_object_mut().unwrap().extend(more.clone());
                }
                _ => object[name] = part.clone(),
            }
        }
        object
    }

    fn try_apply(&mut self, manager: &str, sub: &str, parts: Value, force: bool) -> Result<(), ApiError> {
        let applied = self.named(parts);
        let by = self.by(manager, sub);
        self.value = Some(apply_to(&ApplyCall { by, force }, self.value.as_ref(), applied)?);
        Ok(())
    }

    #[track_caller]
    fn apply(&mut self, manager: &str, parts: Value) {
        self.try_apply(manager, "", parts, false).unwrap();
    }

    #[track_caller]
    fn force(&mut self, manager: &str, parts: Value) {
        self.try_apply(manager, "", parts, true).unwrap();
    }

    #[track_caller]
    fn conflict(&mut self, manager: &str, parts: Value) -> ApiError {
        let before = self.value.clone();
        let error = self.try_apply(manager, "", parts, false).unwrap_err();
        assert_eq!(self.value, before);
        error
    }

    /// Writes the object with these parts changed.
    fn write(&mut self, manager: &str, sub: &str, change: impl FnOnce(&mut Value)) {
        let mut new = self.value.clone().unwrap_or_else(|| self.named(json!({})));
        change(&mut new);
        let by = self.by(manager, sub);
        note(&by, self.value.as_ref(), &mut new);
        if self.value.is_none() {
            new["metadata"]["uid"] = json!("u");
        }
        self.value = Some(new);
    }

    fn get(&self, pointer: &str) -> Value {
        self.value.as_ref().and_then(|value| value.pointer(pointer)).cloned().unwrap_or_default()
    }

    /// One line an entry: who, how, when, what.
    fn owners(&self) -> Vec<String> {
        let entries = self.get("/metadata/managedFields");
        let entries = entries.as_array().cloned().unwrap_or_default();
        let lines = entries.iter().map(|entry| {
            let (id, owned) = entries::read(&json!([entry])).unwrap().pop_first().unwrap();
            let paths: Vec<String> = owned.set.paths().iter().map(|path| print(path)).collect();
            let sub = if id.subresource.is_empty() { String::new() } else { format!("/{}", id.subresource) };
            let at = owned.time.map_or("-".to_owned(), |time| time.as_second().to_string());
            format!("{} {:?}{sub} {at}: {}", id.manager, id.operation, paths.join(" "))
        });
        lines.collect()
    }

    #[track_caller]
    fn check(&self, owners: &[&str]) {
        assert_eq!(self.owners(), owners);
    }
}
