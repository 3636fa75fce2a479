//! Objects as server-side apply sees them: what is owned as a whole, what by parts, and which part an item of a list is.
//!
//! The facts come from [`crate::schema`]; the rules are those of structured-merge-diff's `typed`. Values that do not fit
//! their type are taken as a whole, so that nothing here fails on them; [`check`] says what does not fit.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::element::{Element, Plain};
use super::set::Set;
use crate::decode::MAX_PROBLEMS;
use crate::schema::{Empty, Field, ListKind, Shape, Type};

/// What is expected somewhere.
#[derive(Debug, Clone, Copy)]
pub struct Of {
    /// Its type.
    pub t: Type,
    atomic: bool,
}

/// How a place is owned.
#[derive(Debug, Clone, Copy)]
pub enum Parts {
    /// As a whole.
    Whole,
    /// Item by item.
    Items(Items),
    /// Field by field.
    Fields,
}

/// A list that is owned item by item.
#[derive(Debug, Clone, Copy)]
pub struct Items {
    /// What the items are.
    pub item: Of,
    /// Which of their fields tell them apart; none for plain values.
    keys: &'static [&'static str],
}

impl Of {
    /// The type of an object, or of an item or a value of one.
    pub fn new(t: Type) -> Self {
        Self { t, atomic: t.is_atomic() }
    }

    fn of_field(field: Field) -> Self {
        Self { t: field.of, atomic: field.atomic }
    }

    /// How the place is owned.
    pub fn parts(self) -> Parts {
        match self.t.shape() {
            _ if self.atomic => Parts::Whole,
            Shape::Struct | Shape::Map { .. } => Parts::Fields,
            Shape::List { item, kind: ListKind::Set } => {
                Parts::Items(Items { item: Self::new(item), keys: &[] })
            }
            Shape::List { item, kind: ListKind::Map(keys) } => {
                Parts::Items(Items { item: Self::new(item), keys })
            }
            _ => Parts::Whole,
        }
    }

    /// What is below a field or key of this name, and whether the type names it. None when the type has no such field.
    pub fn field(self, name: &str) -> Option<(Self, bool)> {
        match self.t.shape() {
            Shape::Struct => self.t.field(name).map(|field| (Self::of_field(field), true)),
            Shape::Map { value } => Some((Self::new(value), false)),
            _ => None,
        }
    }

    /// What is below an element of a set of paths.
    pub fn below(self, element: &Element) -> Option<Self> {
        match (element, self.parts()) {
            (Element::Field(name), Parts::Fields) => self.field(name).map(|(of, _)| of),
            (Element::Key(_) | Element::Value(_), Parts::Items(items)) => Some(items.item),
            _ => None,
        }
    }
}

impl Items {
    /// Which element of the list an item is, or why it is none.
    pub fn element(self, item: &Value) -> Result<Element, String> {
        if self.keys.is_empty() {
            return match item {
                Value::Object(_) => {
                    Err("associative list without keys has an element that's a map type".into())
                }
                Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
                Value::Null => {
                    Err("associative list without keys has an element that's an explicit null".into())
                }
                plain => Ok(Element::Value(Plain(plain.clone()))),
            };
        }
        let fields = match item {
            Value::Object(fields) => fields,
            Value::Null => return Err("associative list with keys may not have a null element".into()),
            _ => return Err("associative list with keys may not have non-map elements".into()),
        };
        let value = |name: &str| fields.get(name).cloned().or_else(|| self.key_default(name));
        let mut keys: Vec<_> =
            self.keys.iter().filter_map(|&name| Some((name.to_owned(), Plain(value(name)?)))).collect();
        if keys.is_empty() {
            let names: Vec<String> = self.keys.iter().map(|name| format!("{name:?}")).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have \
                 default values for any key fields)",
                names.join(" ")
            ));
        }
        keys.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Element::Key(keys))
    }

    /// What an absent key field counts as: the default the schema says, or the zero value of a field that Go writes
    /// always, which is published as a default too.
    fn key_default(self, name: &str) -> Option<Value> {
        let field = self.item.t.field(name)?;
        if let Some(default) = field.default {
            return serde_json::from_str(default).ok();
        }
        (field.empty == Empty::Written).then(|| zero_of(field.of)).filter(|value| !value.is_null())
    }

    /// The elements of a list's items; items that are no element are left out.
    pub fn elements(self, list: &[Value]) -> Vec<(Element, &Value)> {
        list.iter().filter_map(|item| Some((self.element(item).ok()?, item))).collect()
    }
}

/// The items of a list; none when it is null or absent.
pub fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The fields of an object; none when it is null or absent.
pub fn fields(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

/// Whether a value has the form that is owned by these parts, or is null. Others are taken as a whole.
pub fn fits(parts: Parts, value: &Value) -> bool {
    match parts {
        Parts::Whole => true,
        Parts::Items(_) => value.is_array() || value.is_null(),
        Parts::Fields => value.is_object() || value.is_null(),
    }
}

/// Every path that an object of this type mentions (`ToFieldSet`).
pub fn paths_of(of: Of, value: &Value) -> Set {
    let mut set = Set::default();
    mention(of, value, &mut Vec::new(), &mut set);
    set
}

fn mention(of: Of, value: &Value, path: &mut Vec<Element>, set: &mut Set) {
    let parts = of.parts();
    match parts {
        _ if !fits(parts, value) => set.insert(path),
        Parts::Whole => set.insert(path),
        Parts::Items(list) => {
            let elements = list.elements(items(Some(value)));
            let mut times: BTreeMap<&Element, usize> = BTreeMap::new();
            for (element, _) in &elements {
                *times.entry(element).or_default() += 1;
            }
            for (element, item) in &elements {
                path.push(element.clone());
                // What stands there twice is one thing, owned as a whole.
                if times.get(element) == Some(&1) {
                    mention(list.item, item, path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        Parts::Fields => {
            for (name, below) in fields(Some(value)).into_iter().flatten() {
                let Some((of, named)) = of.field(name) else { continue };
                path.push(Element::field(name));
                mention(of, below, path, set);
                if !named || below.is_null() || below.as_object().is_some_and(Map::is_empty) {
                    set.insert(path);
                }
                path.pop();
            }
        }
    }
}

/// The object that Go makes before anything is read into it: what is written even when it is empty.
pub fn zero(t: Type) -> Value {
    let written = t.fields().filter(|field| field.empty == Empty::Written);
    Value::Object(written.map(|field| (field.name.to_owned(), zero_of(field.of))).collect())
}

fn zero_of(t: Type) -> Value {
    match t.shape() {
        Shape::String | Shape::Quantity => Value::from(""),
        Shape::Integer { .. } | Shape::Number | Shape::IntOrString => Value::from(0),
        Shape::Boolean => Value::from(false),
        Shape::Struct => zero(t),
        _ => Value::Null,
    }
}

/// What of an applied object does not fit its type, each as path and problem, worded as upstream's validation. No more
/// than [`MAX_PROBLEMS`] are looked for.
pub fn check(of: Of, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check_at(of, value, &mut Vec::new(), &mut found);
    found
}

fn check_at(of: Of, value: &Value, path: &mut Vec<Element>, found: &mut Vec<String>) {
    if value.is_null() || found.len() >= MAX_PROBLEMS {
        return;
    }
    let mut wrong =
        |expected: &str| found.push(format!("{}: expected {expected}", super::element::print(path)));
    match (of.t.shape(), value) {
        (Shape::Any, _) => {}
        (Shape::String | Shape::Bytes, Value::String(_)) | (Shape::Boolean, Value::Bool(_)) => {}
        (Shape::Integer { .. } | Shape::Number, Value::Number(_)) => {}
        (Shape::Quantity | Shape::IntOrString | Shape::Time | Shape::MicroTime, value)
            if !value.is_array() && !value.is_object() => {}
        (Shape::String | Shape::Bytes, value) => {
            wrong(&format!("string, got &value.valueUnstructured{{Value:{value}}}"));
        }
        (Shape::Boolean, value) => wrong(&format!("boolean, got &{{{}}}", go_value(value))),
        (Shape::Integer { .. } | Shape::Number, value) => {
            wrong(&format!("numeric (int or float), got {}", go_type(value)));
        }
        (Shape::List { item, .. }, Value::Array(list)) => check_items(of, item, list, path, found),
        (Shape::List { .. }, value) => wrong(&format!("list, got &{{{}}}", go_value(value))),
        (Shape::Struct | Shape::Map { .. }, Value::Object(map)) => {
            for (name, below) in map {
                path.push(Element::field(name));
                match of.field(name) {
                    Some((of, _)) => check_at(of, below, path, found),
                    None => {
                        found.push(format!("{}: field not declared in schema", super::element::print(path)));
                        path.pop();
                        return;
                    }
                }
                path.pop();
            }
        }
        (Shape::Struct | Shape::Map { .. }, value) => wrong(&format!("map, got &{{{}}}", go_value(value))),
        (_, value) => wrong(&format!("any scalar, got &{{{}}}", go_value(value))),
    }
}

fn check_items(of: Of, item_type: Type, list: &[Value], path: &mut Vec<Element>, found: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (index, item) in list.iter().enumerate() {
        let element = match of.parts() {
            Parts::Items(items) => match items.element(item) {
                Ok(element) if seen.contains(&element) => {
                    let at = super::element::print(path);
                    found.push(format!("{at}: duplicate entries for key {element}"));
                    element
                }
                Ok(element) => {
                    seen.insert(element.clone());
                    element
                }
                Err(problem) => {
                    found.push(format!("{}: element {index}: {problem}", super::element::print(path)));
                    return;
                }
            },
            _ => Element::Index(i64::try_from(index).unwrap_or(i64::MAX)),
        };
        path.push(element);
        check_at(Of::new(item_type), item, path, found);
        path.pop();
    }
}

/// A value as Go's `%v` prints it.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_value).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}:{}", go_value(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        plain => plain.to_string(),
    }
}

/// The name of the Go type that a JSON value is read into.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
