//! Puts what is applied into what is there.
//!
//! By structured-merge-diff's `Merge`: nothing is removed, what is applied wins, and lists take the order of what is
//! applied while items that only the live object has keep their place among their neighbours.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Map, Value};

use super::element::Element;
use super::typed::{Items, Of, Parts, fields, fits, items};

/// The live value with the applied one in it. None when neither says anything.
pub fn merge(of: Of, live: Option<&Value>, applied: Option<&Value>) -> Option<Value> {
    let (live, applied) = match (live, applied) {
        (live, None) => return live.cloned(),
        (None, applied) => return applied.cloned(),
        (Some(live), Some(applied)) => (live, applied),
    };
    let parts = of.parts();
    if !fits(parts, live) || !fits(parts, applied) {
        return Some(applied.clone());
    }
    match parts {
        Parts::Items(list) if !(items(Some(live)).is_empty() && items(Some(applied)).is_empty()) => {
            let merged = merge_items(list, items(Some(live)), items(Some(applied)));
            (!merged.is_empty()).then_some(Value::Array(merged))
        }
        Parts::Fields
            if [live, applied].iter().any(|v| fields(Some(v)).is_some_and(|map| !map.is_empty())) =>
        {
            let nothing = Map::new();
            let live = fields(Some(live)).unwrap_or(&nothing);
            let applied = fields(Some(applied)).unwrap_or(&nothing);
            let mut merged = Map::new();
            for name in live.keys().chain(applied.keys().filter(|name| !live.contains_key(*name))) {
                let (mine, theirs) = (live.get(name), applied.get(name));
                let value = match of.field(name) {
                    Some((below, _)) => merge(below, mine, theirs),
                    None => theirs.or(mine).cloned(),
                };
                if let Some(value) = value {
                    merged.insert(name.clone(), value);
                }
            }
            (!merged.is_empty()).then_some(Value::Object(merged))
        }
        _ => Some(applied.clone()),
    }
}

type ByElement<'a> = BTreeMap<Element, Option<&'a Value>>;

/// Elements in order, and the item of each; none for an item that stands there more than once.
fn indexed(list: Items, values: &[Value]) -> (Vec<(Element, &Value)>, ByElement<'_>) {
    let elements = list.elements(values);
    let mut by_element = ByElement::new();
    for (element, item) in &elements {
        by_element.entry(element.clone()).and_modify(|found| *found = None).or_insert(Some(*item));
    }
    (elements, by_element)
}

fn merge_items(list: Items, live: &[Value], applied: &[Value]) -> Vec<Value> {
    let (live, live_items) = indexed(list, live);
    let (applied, applied_items) = indexed(list, applied);
    let mut shared: VecDeque<&Element> = applied
        .iter()
        .map(|(element, _)| element)
        .filter(|element| live_items.contains_key(*element))
        .collect();
    let mut next = shared.pop_front();
    let mut done: BTreeSet<&Element> = BTreeSet::new();
    let mut out = Vec::new();
    let put = |element: &Element, out: &mut Vec<Value>| {
        let mine = live_items.get(element).copied().flatten();
        let theirs = applied_items.get(element).copied().flatten();
        out.extend(merge(list.item, mine, theirs));
    };
    let (mut left, mut right) = (live.as_slice(), applied.as_slice());
    while !left.is_empty() || !right.is_empty() {
        if let ([(mine, _), more @ ..], [(theirs, _), others @ ..]) = (left, right) {
            if mine == theirs {
                put(mine, &mut out);
                done.insert(mine);
                (left, right) = (more, others);
                next = shared.pop_front();
                continue;
            }
            if applied_items.contains_key(mine) && next.is_some_and(|next| next != mine) {
                // Its turn comes when the applied list gets to it.
                left = more;
                continue;
            }
        }
        if let [(mine, item), more @ ..] = left {
            if !applied_items.contains_key(mine) {
                out.push((*item).clone());
                left = more;
                continue;
            }
            if done.contains(mine) {
                left = more;
            }
        }
        // With the applied list at its end, all that the live one shares with it is done.
        if let [(theirs, _), others @ ..] = right {
            put(theirs, &mut out);
            done.insert(theirs);
            right = others;
            if next == Some(theirs) {
                next = shared.pop_front();
            }
        }
    }
    out
}
