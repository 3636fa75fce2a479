//! Whether a value has the type it should have, and the form in which the server stores and returns it: what Go's types
//! make of it when they read and write it.
//!
//! Where Go writes null (empty times, pointers, lists without `omitempty`), the field is left out or an empty list is
//! written: typed clients in other languages fall over nulls.

use serde_json::{Map, Value};

use super::{MAX_PROBLEMS, go, scalars};
use crate::schema::{Empty, Field, Shape, Type};
use crate::status::{ApiError, bad_request};

/// The value in the form in which the server stores it, and the fields it has that its type has not, each as
/// `unknown field "spec.foo"`; they are dropped.
///
/// # Errors
/// 400 in the words of Go's JSON decoder, when a field has the wrong type.
pub fn conform(t: Type, value: Value) -> Result<(Value, Vec<String>), ApiError> {
    walk(t, value, Form::Stored)
}

/// Likewise, but nothing is filled in or left out besides nulls and unknown fields: for objects of which only the fields
/// that are there count, such as what is applied.
///
/// # Errors
/// 400 in the words of Go's JSON decoder, when a field has the wrong type.
pub fn check(t: Type, value: Value) -> Result<(Value, Vec<String>), ApiError> {
    walk(t, value, Form::Partial)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Stored,
    Partial,
}

fn walk(t: Type, value: Value, form: Form) -> Result<(Value, Vec<String>), ApiError> {
    let mut walker =
        Walker { form, path: String::new(), go_path: Vec::new(), holder: None, unknown: Vec::new() };
    let value = walker.value(t, value).map_err(bad_request)?;
    Ok((value, walker.unknown))
}

struct Walker {
    form: Form,
    /// Where we are, as messages about fields say it: `spec.containers[0]`.
    path: String,
    /// Where we are, as Go's decoder says it: without indices and keys.
    go_path: Vec<&'static str>,
    /// The struct whose field we are in.
    holder: Option<Type>,
    unknown: Vec<String>,
}

impl Walker {
    fn value(&mut self, t: Type, value: Value) -> Result<Value, String> {
        match (t.shape(), value) {
            (Shape::Any, value) => Ok(value),
            (_, Value::Null) => self.zero(t),
            (Shape::Struct, Value::Object(fields)) => self.fields(t, fields),
            (Shape::List { item, .. }, Value::Array(items)) => self.items(item, items),
            (Shape::Map { value: of }, Value::Object(entries)) => self.entries(of, entries),
            (Shape::Struct | Shape::List { .. } | Shape::Map { .. }, value) => Err(self.wrong(&value, t)),
            (shape, value) => scalars::read(shape, value).map_err(|error| match error {
                scalars::Error::Type(value) => self.wrong(&value, t),
                scalars::Error::Number(number) => self.wrong_kind(&format!("number {number}"), t),
                scalars::Error::Text(why) => why,
            }),
        }
    }

    fn fields(&mut self, t: Type, fields: Map<String, Value>) -> Result<Value, String> {
        let mut out = Map::new();
        let (length, depth, holder) = (self.path.len(), self.go_path.len(), self.holder);
        for (name, value) in fields {
            let Some(field) = t.field(&name) else {
                self.unknown_field(&name);
                continue;
            };
            if value.is_null() {
                continue;
            }
            self.enter(&name);
            self.go_path.extend(go::embedded(t, field.name));
            self.go_path.push(field.name);
            self.holder = Some(t);
            let value = self.value(field.of, value)?;
            self.path.truncate(length);
            self.go_path.truncate(depth);
            self.holder = holder;
            if !self.is_left_out(&field, &value) {
                out.insert(name, value);
            }
        }
        if self.form == Form::Stored {
            for field in t.fields() {
                if field.empty == Empty::Written
                    && !out.contains_key(field.name)
                    && let Some(empty) = self.written(t, &field)?
                {
                    out.insert(field.name.to_owned(), empty);
                }
            }
        }
        Ok(Value::Object(out))
    }

    /// Whether Go would not write the field.
    fn is_left_out(&self, field: &Field, value: &Value) -> bool {
        if self.form == Form::Partial || value.is_null() {
            return value.is_null();
        }
        field.empty == Empty::Dropped
            && match value {
                Value::Null => true,
                Value::Bool(value) => !value,
                Value::Number(number) => number.as_f64() == Some(0.0),
                Value::String(text) => text.is_empty(),
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
            }
    }

    /// What Go would write for a field without `omitempty` that is not there.
    fn written(&mut self, t: Type, field: &Field) -> Result<Option<Value>, String> {
        if go::is_pointer_always_written(t, field.name) {
            return Ok(None);
        }
        Ok(match field.of.shape() {
            Shape::Time | Shape::MicroTime | Shape::Any | Shape::IntOrString | Shape::Bytes => None,
            Shape::List { .. } | Shape::Map { .. } if !field.required => None,
            _ => Some(self.zero(field.of)?),
        })
    }

    fn items(&mut self, item: Type, items: Vec<Value>) -> Result<Value, String> {
        let length = self.path.len();
        let mut out = Vec::with_capacity(items.len());
        for (index, value) in items.into_iter().enumerate() {
            self.path.push_str(&format!("[{index}]"));
            out.push(self.value(item, value)?);
            self.path.truncate(length);
        }
        Ok(Value::Array(out))
    }

    fn entries(&mut self, of: Type, entries: Map<String, Value>) -> Result<Value, String> {
        let length = self.path.len();
        let mut out = Map::new();
        for (key, value) in entries {
            self.enter(&key);
            let value = self.value(of, value)?;
            self.path.truncate(length);
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }

    /// The empty value of a type.
    fn zero(&mut self, t: Type) -> Result<Value, String> {
        Ok(match t.shape() {
            Shape::String | Shape::Bytes => Value::from(""),
            Shape::Integer { .. } | Shape::Number | Shape::IntOrString => Value::from(0),
            Shape::Boolean => Value::from(false),
            Shape::Quantity => Value::from("0"),
            Shape::Time | Shape::MicroTime | Shape::Any => Value::Null,
            Shape::Struct => self.fields(t, Map::new())?,
            Shape::List { .. } => Value::Array(Vec::new()),
            Shape::Map { .. } => Value::Object(Map::new()),
        })
    }

    fn enter(&mut self, name: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }

    fn unknown_field(&mut self, name: &str) {
        if self.unknown.len() >= MAX_PROBLEMS {
            return;
        }
        let length = self.path.len();
        self.enter(name);
        self.unknown.push(format!("unknown field {:?}", self.path));
        self.path.truncate(length);
    }

    fn wrong(&self, value: &Value, t: Type) -> String {
        self.wrong_kind(crate::patch::json_kind(value), t)
    }

    fn wrong_kind(&self, kind: &str, t: Type) -> String {
        let of = go::type_name(t);
        match self.holder {
            Some(holder) => format!(
                "json: cannot unmarshal {kind} into Go struct field {}.{} of type {of}",
                go::short_name(holder),
                self.go_path.join(".")
            ),
            None => format!("json: cannot unmarshal {kind} into Go value of type {of}"),
        }
    }
}
