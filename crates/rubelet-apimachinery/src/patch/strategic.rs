//! Strategic merge patch: lists that merge by a key, and the directives that delete, replace, order and retain.
//!
//! The rules are those of apimachinery's `strategicpatch`; how each list merges is in the published types. Where
//! upstream fails on types without such facts (free-form maps), values merge as in a merge patch.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::order::{self, Items};
use crate::schema::{PatchRule, Shape, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
pub(super) const SET_ORDER: &str = "$setElementOrder/";

/// Why a strategic merge patch cannot be applied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum StrategicError {
    /// A value of the wrong kind where the format wants another.
    #[error("expected a {expected}, but received a {received}")]
    Kind { expected: &'static str, received: &'static str },
    /// `$patch` with a word that means nothing there.
    #[error("unknown patch type: {word} in map: {map}")]
    Directive { word: String, map: String },
    /// `$patch: merge` for an item of a list.
    #[error("merging lists cannot yet be specified in the patch")]
    MergeItem,
    /// An item that cannot be told from others.
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey { map: String, key: &'static str },
    /// Objects in a list of plain values, or the other way round.
    #[error("list element types are not identical: {0}")]
    Mixed(String),
    /// A merged list without a key.
    #[error("cannot merge lists without merge key for {0}")]
    Keyless(String),
    /// The order does not name what the patch has, or in another order.
    #[error("The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n")]
    Order { patch: String, order: String },
    /// `$retainKeys` is no list, or lacks a field that the patch sets.
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    /// Lists in lists.
    #[error("lists of lists are not supported")]
    ListOfLists,
}

type Result<T, E = StrategicError> = std::result::Result<T, E>;
type Fields = Map<String, Value>;

/// The object after the patch. Nothing is checked against the type but how its lists merge.
pub(super) fn apply(t: Type, current: &Value, patch: &Value) -> Result<Value> {
    let wrong = |value: &Value| StrategicError::Kind {
        expected: "map[string]interface {}",
        received: go_type(value),
    };
    let current = current.as_object().ok_or_else(|| wrong(current))?;
    let patch = patch.as_object().ok_or_else(|| wrong(patch))?;
    merge_map(current.clone(), patch.clone(), Some(t)).map(Value::Object)
}

fn merge_map(mut original: Fields, mut patch: Fields, schema: Option<Type>) -> Result<Fields> {
    if let Some(word) = patch.remove(DIRECTIVE) {
        match word.as_str() {
            Some("replace") => return Ok(clean_fields(patch)),
            Some("delete") => return Ok(Fields::new()),
            Some("merge") => {}
            _ => {
                return Err(StrategicError::Directive {
                    word: super::go_print(&word),
                    map: super::go_print(&Value::Object(patch)),
                });
            }
        }
    }
    retain_keys(&mut original, &mut patch)?;
    set_orders(&mut original, &mut patch, schema)?;
    for (key, value) in patch {
        let (name, deletes) = match key.strip_prefix(DELETE_FROM) {
            Some(name) => (name, true),
            None => (key.as_str(), false),
        };
        if value.is_null() {
            original.remove(name);
            continue;
        }
        let (below, rule) = field(schema, name);
        match (original.get_mut(name), value) {
            (Some(Value::Array(items)), Value::Array(gone)) if deletes => {
                let gone = order::places(&gone, None);
                items.retain(|item| !gone.contains_key(&item.to_string()));
            }
            (_, _) if deletes => {}
            (Some(Value::Object(old)), Value::Object(new)) => {
                let old = std::mem::take(old);
                let merged = if rule.replace { clean_fields(new) } else { merge_map(old, new, below)? };
                original.insert(key, Value::Object(merged));
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let old = std::mem::take(old);
                original.insert(key, Value::Array(merge_list(old, new, below, rule)?));
            }
            (_, value) => match clean(value) {
                Some(value) => {
                    original.insert(key, value);
                }
                None => {
                    original.remove(&key);
                }
            },
        }
    }
    Ok(original)
}

/// What a field of this name holds, and how it merges.
fn field(schema: Option<Type>, name: &str) -> (Option<Type>, PatchRule) {
    let Some(schema) = schema else { return (None, PatchRule::default()) };
    match schema.shape() {
        Shape::Struct => match schema.field(name) {
            Some(field) => (Some(field.of), field.patch),
            None => (None, PatchRule::default()),
        },
        Shape::Map { value } => (Some(value), PatchRule::default()),
        _ => (None, PatchRule::default()),
    }
}

/// `$retainKeys`: what it does not name goes.
fn retain_keys(original: &mut Fields, patch: &mut Fields) -> Result<()> {
    let Some(retained) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let retained = retained.as_array().ok_or(StrategicError::RetainKeys)?;
    let retained: BTreeSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    let named = |key: &str| retained.contains(key);
    for (key, value) in &*patch {
        if !value.is_null() && !key.starts_with(DELETE_FROM) && !key.starts_with(SET_ORDER) && !named(key) {
            return Err(StrategicError::RetainKeys);
        }
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// `$setElementOrder/<list>`: merges the list and puts it in order; both are gone from the patch afterwards.
fn set_orders(original: &mut Fields, patch: &mut Fields, schema: Option<Type>) -> Result<()> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let name = &directive[SET_ORDER.len()..];
        let order = match patch.remove(&directive) {
            Some(Value::Array(order)) => order,
            other => return Err(not_list(other.as_ref())),
        };
        let old = match original.get(name) {
            Some(Value::Array(items)) => Some(items.clone()),
            Some(other) => return Err(not_list(Some(other))),
            None => None,
        };
        let new = match patch.remove(name) {
            Some(Value::Array(items)) => Some(items),
            // Null deletes the list, in whatever order.
            Some(Value::Null) => {
                original.remove(name);
                continue;
            }
            Some(other) => return Err(not_list(Some(&other))),
            None => None,
        };
        let (below, rule) = field(schema, name);
        let key = rule.merge_key;
        order::check(new.as_deref().unwrap_or_default(), &order, key)?;
        let live = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (Some(old), Some(new)) => merge_list(old, new, below, rule)?,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(clean).collect(),
            (None, None) => continue,
        };
        let merged = order::normalize(merged, &order, &live, key)?;
        original.insert(name.to_owned(), Value::Array(merged));
    }
    Ok(())
}

fn not_list(value: Option<&Value>) -> StrategicError {
    StrategicError::Kind { expected: "[]interface {}", received: value.map_or("nil", go_type) }
}

fn merge_list(old: Items, new: Items, schema: Option<Type>, rule: PatchRule) -> Result<Items> {
    if !rule.merge {
        return Ok(new.into_iter().filter_map(clean).collect());
    }
    let item = schema.and_then(|t| match t.shape() {
        Shape::List { item, .. } => Some(item),
        _ => None,
    });
    let mut kinds = old.iter().chain(&new);
    if kinds.clone().any(Value::is_array) {
        return Err(StrategicError::ListOfLists);
    }
    let objects = kinds.clone().any(Value::is_object);
    if objects && !kinds.all(Value::is_object) {
        return Err(StrategicError::Mixed(super::go_print(&Value::Array(vec![old.into(), new.into()]))));
    }
    if !objects {
        let mut seen = BTreeSet::new();
        let fresh = old.iter().chain(&new).filter(|value| seen.insert(value.to_string()));
        let merged: Items = fresh.cloned().collect();
        return order::normalize(merged, &new, &old, None);
    }
    let key = rule.merge_key.ok_or_else(|| StrategicError::Keyless("slice".to_owned()))?;
    merge_keyed(old, new, item, key)
}

fn merge_keyed(mut old: Items, new: Items, item: Option<Type>, key: &'static str) -> Result<Items> {
    let no_key = |fields: &Fields| StrategicError::NoMergeKey {
        map: super::go_print(&Value::Object(fields.clone())),
        key,
    };
    let mut plain = Vec::with_capacity(new.len());
    let mut gone = BTreeSet::new();
    let mut replace = false;
    for value in new {
        let Value::Object(fields) = value else { continue };
        match fields.get(DIRECTIVE) {
            None => plain.push(fields),
            Some(word) => match word.as_str() {
                Some("delete") => {
                    gone.insert(fields.get(key).ok_or_else(|| no_key(&fields))?.to_string());
                }
                Some("replace") => replace = true,
                Some("merge") => return Err(StrategicError::MergeItem),
                _ => {
                    return Err(StrategicError::Directive {
                        word: super::go_print(word),
                        map: super::go_print(&Value::Object(fields.clone())),
                    });
                }
            },
        }
    }
    if replace {
        return Ok(plain.into_iter().map(|fields| Value::Object(clean_fields(fields))).collect());
    }
    if !gone.is_empty() {
        old.retain(|item| order::id(item, Some(key)).is_none_or(|id| !gone.contains(&id)));
    }
    let live = old.clone();
    let mut places = order::places(&old, Some(key));
    let order: Items = plain.iter().map(|fields| Value::Object(fields.clone())).collect();
    for fields in plain {
        let id = fields.get(key).ok_or_else(|| no_key(&fields))?.to_string();
        let at = places.get(&id).copied();
        match at.and_then(|at| old.get_mut(at)).and_then(Value::as_object_mut) {
            Some(found) => *found = merge_map(std::mem::take(found), fields, item)?,
            None => {
                places.insert(id, old.len());
                old.push(Value::Object(clean_fields(fields)));
            }
        }
    }
    order::normalize(old, &order, &live, Some(key))
}

/// A new value without what only means something to a patch; none for one that deletes.
fn clean(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(DIRECTIVE) => None,
        Value::Object(fields) => Some(Value::Object(clean_fields(fields))),
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(clean).collect())),
        other => Some(other),
    }
}

fn clean_fields(fields: Fields) -> Fields {
    let directive = |key: &str| {
        key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER)
    };
    fields
        .into_iter()
        .filter(|(key, value)| !directive(key) && !value.is_null())
        .filter_map(|(key, value)| Some((key, clean(value)?)))
        .collect()
}

/// The Go type that a decoded JSON value has there.
pub(super) fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
