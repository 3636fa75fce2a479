//! The order of merged lists in a strategic merge patch: what the patch says goes before what the object had, and items
//! that only the object has keep their places as well as they can.

use std::collections::BTreeMap;

use serde_json::Value;

use super::strategic::StrategicError;

pub(super) type Items = Vec<Value>;

/// What tells an item from others: its text, or that of its key. None for an object without the key.
pub(super) fn id(item: &Value, key: Option<&str>) -> Option<String> {
    match key {
        None => Some(item.to_string()),
        Some(key) => item.get(key).map(Value::to_string),
    }
}

/// Where each item is first. Lists can be as long as a request's body, so none is searched item by item.
pub(super) fn places(items: &[Value], key: Option<&str>) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    for (at, item) in items.iter().enumerate() {
        if let Some(id) = id(item, key) {
            places.entry(id).or_insert(at);
        }
    }
    places
}

fn require_key(items: &[Value], key: Option<&'static str>) -> Result<(), StrategicError> {
    let Some(key) = key else { return Ok(()) };
    match items.iter().find(|item| item.get(key).is_none()) {
        Some(item) => Err(StrategicError::NoMergeKey { map: super::go_print(item), key }),
        None => Ok(()),
    }
}

/// Whether an order names all items of the patch, in the order in which the patch has them.
pub(super) fn check(
    patch: &[Value],
    order: &[Value],
    key: Option<&'static str>,
) -> Result<(), StrategicError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let named: Vec<&Value> = patch.iter().filter(|item| item.get("$patch").is_none()).collect();
    require_key(order, key)?;
    let mut at = 0;
    for wanted in order {
        let Some(next) = named.get(at) else { break };
        if let Some(key) = key.filter(|key| next.get(key).is_none()) {
            return Err(StrategicError::NoMergeKey { map: super::go_print(next), key });
        }
        if id(next, key) == id(wanted, key) {
            at += 1;
        }
    }
    if at < named.len() {
        return Err(StrategicError::Order {
            patch: super::go_print(&Value::Array(patch.to_vec())),
            order: super::go_print(&Value::Array(order.to_vec())),
        });
    }
    Ok(())
}

/// Puts merged items in order: those that `order` names in its order, the others in that of `live`, which also says
/// where the ones go between the others.
pub(super) fn normalize(
    merged: Items,
    order: &[Value],
    live: &[Value],
    key: Option<&'static str>,
) -> Result<Items, StrategicError> {
    require_key(&merged, key)?;
    require_key(order, key)?;
    let (mut ordered, mut others) = (Vec::new(), Vec::new());
    let (order, live) = (places(order, key), places(live, key));
    for item in merged {
        let id = id(&item, key).unwrap_or_default();
        let in_live = live.get(&id).copied();
        match order.get(&id).copied() {
            Some(at) => ordered.push((at, in_live, item)),
            None => others.push((in_live.unwrap_or(usize::MAX), in_live, item)),
        }
    }
    ordered.sort_by_key(|(at, ..)| *at);
    others.sort_by_key(|(at, ..)| *at);
    let mut result = Vec::with_capacity(ordered.len() + others.len());
    let (mut left, mut right) = (others.into_iter().peekable(), ordered.into_iter().peekable());
    loop {
        let other_first = match (left.peek(), right.peek()) {
            (None, None) => return Ok(result),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((_, other, _)), Some((_, item, _))) => {
                matches!((other, item), (Some(other), Some(item)) if other < item)
            }
        };
        let next = if other_first { left.next() } else { right.next() };
        result.extend(next.map(|(_, _, item)| item));
    }
}
