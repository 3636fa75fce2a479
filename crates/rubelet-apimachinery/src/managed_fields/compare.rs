//! What two objects of a type differ in, as paths, and what of one a set of paths takes away.
//!
//! Pure walks over values and types, by structured-merge-diff's `Compare`, `RemoveItems` and their helpers. Called by the
//! rules of apply and update.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::element::{Element, same};
use super::set::Set;
use super::typed::{Items, Of, Parts, fields, fits, items};

/// What changes from one object to another. No path is in two of the sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Paths that only the old object has.
    pub removed: Set,
    /// Paths that both have, with different values.
    pub modified: Set,
    /// Paths that only the new object has.
    pub added: Set,
}

impl Comparison {
    /// Compares two objects of one type.
    pub fn of(of: Of, old: &Value, new: &Value) -> Self {
        let mut walk = Walk { path: Vec::new(), found: Self::default() };
        walk.visit(of, Some(old), Some(new));
        walk.found
    }

    /// Puts all three sets through a filter.
    pub fn filtered(self, filter: impl Fn(Set) -> Set) -> Self {
        Self { removed: filter(self.removed), modified: filter(self.modified), added: filter(self.added) }
    }

    /// Paths that the new object has of its own.
    pub fn changed(&self) -> Set {
        self.modified.union(&self.added)
    }
}

struct Walk {
    path: Vec<Element>,
    found: Comparison,
}

impl Walk {
    fn visit(&mut self, of: Of, old: Option<&Value>, new: Option<&Value>) {
        let mut parts = of.parts();
        if [old, new].into_iter().flatten().any(|value| !fits(parts, value)) {
            parts = Parts::Whole;
        }
        match parts {
            Parts::Items(list) if !(items(old).is_empty() && items(new).is_empty()) => {
                self.visit_items(list, items(old), items(new));
            }
            Parts::Fields if !(no_fields(old) && no_fields(new)) => self.visit_fields(of, old, new),
            // Where both are empty it still matters which of them is there.
            _ => {
                if let (Some(old), Some(new)) = (old, new)
                    && !same(old, new)
                {
                    self.found.modified.insert(&self.path);
                }
            }
        }
        match (old, new) {
            (None, _) => self.found.added.insert(&self.path),
            (_, None) => self.found.removed.insert(&self.path),
            _ => {}
        }
    }

    fn visit_fields(&mut self, of: Of, old: Option<&Value>, new: Option<&Value>) {
        let nothing = Map::new();
        let old = fields(old).unwrap_or(&nothing);
        let new = fields(new).unwrap_or(&nothing);
        let only_new = new.keys().filter(|name| !old.contains_key(*name));
        for name in old.keys().chain(only_new) {
            let Some((below, _)) = of.field(name) else { continue };
            self.path.push(Element::field(name));
            self.visit(below, old.get(name), new.get(name));
            self.path.pop();
        }
    }

    fn visit_items(&mut self, list: Items, old: &[Value], new: &[Value]) {
        let old = grouped(list, old);
        let new = grouped(list, new);
        let only_new = new.keys().filter(|element| !old.contains_key(*element));
        for element in old.keys().chain(only_new) {
            let before = old.get(element).map(Vec::as_slice).unwrap_or_default();
            let after = new.get(element).map(Vec::as_slice).unwrap_or_default();
            self.path.push(element.clone());
            // An item that stands there more than once is one thing that is owned as a whole.
            match (before, after) {
                ([] | [_], [] | [_]) => {
                    self.visit(list.item, before.first().copied(), after.first().copied());
                }
                ([_, _, ..], [_, _, ..]) => {
                    if before != after {
                        self.found.modified.insert(&self.path);
                    }
                }
                ([_, _, ..], _) => {
                    if let Some(&item) = after.first() {
                        self.visit(list.item, None, Some(item));
                    }
                    self.found.removed.insert(&self.path);
                }
                (_, [_, _, ..]) => {
                    if let Some(&item) = before.first() {
                        self.visit(list.item, Some(item), None);
                    }
                    self.found.added.insert(&self.path);
                }
            }
            self.path.pop();
        }
    }
}

fn no_fields(value: Option<&Value>) -> bool {
    fields(value).is_none_or(Map::is_empty)
}

/// The items of a list by element.
fn grouped(list: Items, values: &[Value]) -> BTreeMap<Element, Vec<&Value>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (element, item) in list.elements(values) {
        groups.entry(element).or_default().push(item);
    }
    groups
}

/// The value without the items and fields that are in `set`. None when nothing is left. Containers that lose a part of
/// what is in them stay, empty if need be.
pub fn remove(of: Of, value: &Value, set: &Set) -> Option<Value> {
    match (of.parts(), value) {
        (Parts::Items(list), Value::Array(values)) => {
            let mut partly = false;
            let mut left = Vec::new();
            for item in values {
                let Ok(element) = list.element(item) else {
                    left.push(item.clone());
                    continue;
                };
                if set.members.contains(&element) {
                    continue;
                }
                left.push(remove_below(list.item, item, set.children.get(&element), &mut partly));
            }
            (partly || !left.is_empty()).then_some(Value::Array(left))
        }
        (Parts::Fields, Value::Object(map)) => {
            let mut partly = false;
            let mut left = Map::new();
            for (name, below) in map {
                let element = Element::field(name);
                if set.members.contains(&element) {
                    continue;
                }
                let inner = set.children.get(&element);
                let kept = match of.field(name) {
                    Some((of, _)) => remove_below(of, below, inner, &mut partly),
                    None => below.clone(),
                };
                left.insert(name.clone(), kept);
            }
            (partly || !left.is_empty()).then_some(Value::Object(left))
        }
        (_, Value::Array(_) | Value::Object(_)) => None,
        _ => Some(value.clone()),
    }
}

fn remove_below(of: Of, value: &Value, set: Option<&Set>, partly: &mut bool) -> Value {
    let Some(set) = set else { return value.clone() };
    *partly = true;
    remove(of, value, set).unwrap_or_else(|| match value {
        Value::Array(_) => Value::Array(Vec::new()),
        Value::Object(_) => Value::Object(Map::new()),
        _ => Value::Null,
    })
}

/// The set with all fields of structs in it that lead to its paths (`EnsureNamedFieldsAreMembers`): sets of what is
/// owned do not name them, because they come and go with what is in them.
pub fn with_structs(of: Option<Of>, set: &Set) -> Set {
    let mut out = Set { members: set.members.clone(), ..Set::default() };
    for (element, child) in &set.children {
        let mut below = None;
        if let (Some(of), Element::Field(name)) = (of, element) {
            let field = of.field(name);
            if field.is_some_and(|(_, named)| named) {
                out.members.insert(element.clone());
            }
            below = field.map(|(of, _)| of);
        } else if let (Some(of), Element::Key(_)) = (of, element) {
            below = of.below(element);
        }
        out.put(element.clone(), with_structs(below, child));
    }
    out
}

/// The set with places that are owned as a whole named as such, where an older schema had them owned by parts
/// (`ReconcileFieldSetWithSchema`).
pub fn with_wholes(of: Of, set: &Set) -> Set {
    let mut out = Set { members: set.members.clone(), ..Set::default() };
    for (element, child) in &set.children {
        match of.below(element) {
            Some(below) if matches!(below.parts(), Parts::Whole) && is_container(below) => {
                out.members.insert(element.clone());
            }
            Some(below) => out.put(element.clone(), with_wholes(below, child)),
            None => out.put(element.clone(), child.clone()),
        }
    }
    out
}

fn is_container(of: Of) -> bool {
    use crate::schema::Shape;
    matches!(of.t.shape(), Shape::Any | Shape::Struct | Shape::Map { .. } | Shape::List { .. })
}
