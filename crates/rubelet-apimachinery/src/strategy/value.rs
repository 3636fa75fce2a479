//! Reading and writing fields of objects, which may be shaped in any way: nothing here panics.
//!
//! Rules of all kinds use it. Paths are lists of field names; what is absent reads as null, empty or nothing.

use serde_json::{Map, Value};

/// What is at a path; null where nothing is.
pub(crate) fn at<'a>(object: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(object, |value, field| &value[*field])
}

/// The text at a path, empty where there is none.
pub fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).as_str().unwrap_or_default()
}

/// The items of the list at a path.
pub(crate) fn items<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path).as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The items of the list at a path, to be changed.
pub(crate) fn items_mut<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut [Value] {
    let mut value = object;
    for field in path {
        match value.get_mut(*field) {
            Some(next) => value = next,
            None => return &mut [],
        }
    }
    value.as_array_mut().map(Vec::as_mut_slice).unwrap_or_default()
}

/// The texts of the list at a path.
pub(crate) fn texts<'a>(object: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a str> {
    items(object, path).iter().filter_map(Value::as_str)
}

/// The entries of the map at a path.
pub(crate) fn entries<'a>(object: &'a Value, path: &[&str]) -> impl Iterator<Item = (&'a str, &'a Value)> {
    at(object, path).as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

/// Whether there is something at a path.
pub(crate) fn has(object: &Value, path: &[&str]) -> bool {
    !at(object, path).is_null()
}

/// Makes a value an object, an empty one if it was none.
pub(crate) fn open(value: &mut Value) {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
}

/// Puts a value at a path, making the objects on the way.
pub(crate) fn set(object: &mut Value, path: &[&str], value: impl Into<Value>) {
    let mut place = object;
    for field in path {
        open(place);
        place = &mut place[*field];
    }
    *place = value.into();
}

/// Puts a value at a path if nothing or an empty text is there.
pub(crate) fn set_default(object: &mut Value, path: &[&str], value: impl Into<Value>) {
    let there = at(object, path);
    if there.is_null() || there.as_str() == Some("") {
        set(object, path, value);
    }
}

/// Takes out what is at a path.
pub(crate) fn remove(object: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, way) = path.split_last()?;
    let mut place = object;
    for field in way {
        place = place.get_mut(*field)?;
    }
    place.as_object_mut()?.remove(*last)
}

/// Makes what is at a path of `new` what is there in `old`, absence included.
pub(crate) fn copy(new: &mut Value, old: &Value, path: &[&str]) {
    match at(old, path) {
        Value::Null => {
            remove(new, path);
        }
        value => set(new, path, value.clone()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_are_made_and_taken_back() {
        let mut object = json!({"spec": 3});
        set(&mut object, &["spec", "ports", "a"], 1);
        set_default(&mut object, &["spec", "ports", "a"], 2);
        assert_eq!(object, json!({"spec": {"ports": {"a": 1}}}));
        assert_eq!(remove(&mut object, &["spec", "ports", "a"]), Some(json!(1)));
        copy(&mut object, &json!({"metadata": {"uid": "u"}}), &["metadata", "uid"]);
        copy(&mut object, &json!({}), &["spec"]);
        assert_eq!(object, json!({"metadata": {"uid": "u"}}));
    }

    proptest! {
        #[test]
        fn any_shape_is_survived(number in 0u8..6, field in "[a-c]", other in "[a-c]") {
            let shapes = [json!(null), json!(1), json!("x"), json!([1]), json!({"a": {"b": [2]}}), json!({"a": "b"})];
            let mut object = shapes[usize::from(number)].clone();
            let path = [field.as_str(), other.as_str()];
            let _ = (text(&object, &path).len(), items(&object, &path).len(), items_mut(&mut object, &path).len());
            set(&mut object, &path, "y");
            prop_assert_eq!(text(&object, &path), "y");
        }
    }
}
