//! Says the definitions as JSON schemas, in the two dialects of OpenAPI.

use serde_json::{Map, Value, json};

use crate::facts::{Empty, ListFact};
use crate::model::{Body, Definition, Definitions, Field, Shape};

/// Version 2 or 3 of OpenAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// 2.0.
    V2,
    /// 3.0.
    V3,
}

impl Dialect {
    /// The reference to a definition.
    pub fn reference(self, name: &str) -> Value {
        match self {
            Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// The schema of a named type.
pub fn definition(of: &Definition, all: &Definitions, dialect: Dialect) -> Value {
    let mut schema = Map::new();
    match (&of.body, dialect) {
        (Body::Struct(fields), _) => {
            schema.insert("type".to_owned(), "object".into());
            let mut properties = Map::new();
            for one in fields {
                properties.insert(one.name.clone(), field(one, all, dialect));
            }
            if !properties.is_empty() {
                schema.insert("properties".to_owned(), properties.into());
            }
            let required: Vec<Value> =
                fields.iter().filter(|f| f.required).map(|f| f.name.as_str().into()).collect();
            if !required.is_empty() {
                schema.insert("required".to_owned(), required.into());
            }
        }
        (Body::Quantity, Dialect::V2) => {
            schema.insert("type".to_owned(), "string".into());
        }
        (Body::Quantity, Dialect::V3) => {
            schema.insert("oneOf".to_owned(), json!([{"type": "string"}, {"type": "number"}]));
        }
        (Body::IntOrString, _) => {
            schema.insert("format".to_owned(), "int-or-string".into());
            match dialect {
                Dialect::V2 => schema.insert("type".to_owned(), "string".into()),
                Dialect::V3 => {
                    schema.insert("oneOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]))
                }
            };
        }
        (Body::Time | Body::MicroTime, _) => {
            schema.insert("type".to_owned(), "string".into());
            schema.insert("format".to_owned(), "date-time".into());
        }
        (Body::Any, _) => {
            schema.insert("type".to_owned(), "object".into());
        }
    }
    describe(&mut schema, &of.description);
    if of.atomic {
        schema.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    if !of.kinds.is_empty() {
        let kinds: Vec<Value> = of
            .kinds
            .iter()
            .map(|(group, version, kind)| json!({"group": group, "version": version, "kind": kind}))
            .collect();
        schema.insert("x-kubernetes-group-version-kind".to_owned(), kinds.into());
    }
    schema.into()
}

fn describe(schema: &mut Map<String, Value>, description: &str) {
    if !description.is_empty() {
        schema.insert("description".to_owned(), description.into());
    }
}

fn field(of: &Field, all: &Definitions, dialect: Dialect) -> Value {
    let mut schema = shape(&of.shape, dialect);
    let default = default_of(of, all);
    if dialect == Dialect::V3
        && matches!(of.shape, Shape::Named(_))
        && !(of.description.is_empty() && default.is_none())
    {
        // Words beside a reference count for nothing in version 3.
        let reference = std::mem::take(&mut schema);
        schema.insert("allOf".to_owned(), json!([reference]));
    }
    describe(&mut schema, &of.description);
    if let (Dialect::V3, Some(default)) = (dialect, default) {
        schema.insert("default".to_owned(), default);
    }
    let mut say = |key: &str, value: Value| schema.insert(format!("x-kubernetes-{key}"), value);
    match &of.facts.list {
        None => {}
        Some(ListFact::Atomic) => {
            say("list-type", "atomic".into());
        }
        Some(ListFact::Set) => {
            say("list-type", "set".into());
        }
        Some(ListFact::Map(keys)) => {
            say("list-type", "map".into());
            say("list-map-keys", json!(keys));
        }
    }
    if of.facts.atomic || of.facts.granular {
        say("map-type", if of.facts.atomic { "atomic" } else { "granular" }.into());
    }
    if let Some(key) = &of.facts.key {
        say("patch-merge-key", key.as_str().into());
    }
    if let Some(strategy) = &of.facts.patch {
        say("patch-strategy", strategy.as_str().into());
    }
    schema.into()
}

/// The published default: what is marked as such, or the empty value of what is always written.
fn default_of(of: &Field, all: &Definitions) -> Option<Value> {
    if let Some(marked) = &of.facts.default {
        return serde_json::from_str(marked).ok();
    }
    if of.empty != Empty::Written {
        return None;
    }
    match &of.shape {
        Shape::String => Some("".into()),
        Shape::Integer { .. } | Shape::Number => Some(0.into()),
        Shape::Boolean => Some(false.into()),
        Shape::Named(name) => {
            matches!(all.get(name)?.body, Body::Struct(_)).then(|| Value::Object(Map::new()))
        }
        Shape::Bytes | Shape::List(_) | Shape::Map(_) => None,
    }
}

fn shape(of: &Shape, dialect: Dialect) -> Map<String, Value> {
    let value = match of {
        Shape::String => json!({"type": "string"}),
        Shape::Integer { wide: false } => json!({"type": "integer", "format": "int32"}),
        Shape::Integer { wide: true } => json!({"type": "integer", "format": "int64"}),
        Shape::Number => json!({"type": "number", "format": "double"}),
        Shape::Boolean => json!({"type": "boolean"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Named(name) => dialect.reference(name),
        Shape::List(item) => json!({"type": "array", "items": shape(item, dialect)}),
        Shape::Map(value) => json!({"type": "object", "additionalProperties": shape(value, dialect)}),
    };
    match value {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}
