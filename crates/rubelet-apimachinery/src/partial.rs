//! Parts of objects, read without building the rest: a JSON tree takes some fifteen times the memory of its text, most
//! of it for `managedFields`, which few look at.
//!
//! Pure. Called by whoever only looks: watches and lists with selectors ([`selectable`]), controllers that hear of
//! changes ([`without_managed_fields`]). What comes out is never stored or sent to a client.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// As much of a stored object as any selector looks at: see `selector`, whose tests compare the two.
///
/// # Errors
/// When the bytes are no JSON.
pub fn selectable(bytes: &[u8]) -> serde_json::Result<Value> {
    read(bytes, &SELECTABLE)
}

/// A stored object without its `managedFields`.
///
/// # Errors
/// When the bytes are no JSON.
pub fn without_managed_fields(bytes: &[u8]) -> serde_json::Result<Value> {
    read(bytes, &UNMANAGED)
}

/// What is wanted of a value.
enum Want {
    All,
    Nothing,
    /// It, unless it has parts.
    Leaf,
    /// These fields of it, and of every other what the last says; it, when it has no parts.
    Fields(&'static [(&'static str, Want)], &'static Want),
}

const SELECTABLE: Want = Want::Fields(
    &[
        ("metadata", Want::Fields(&[("labels", Want::All)], &Want::Leaf)),
        ("spec", LEAVES),
        ("status", Want::Fields(&[("podIPs", Want::All)], &Want::Leaf)),
        ("involvedObject", LEAVES),
        ("source", LEAVES),
    ],
    &Want::Leaf,
);
const LEAVES: Want = Want::Fields(&[], &Want::Leaf);
const UNMANAGED: Want =
    Want::Fields(&[("metadata", Want::Fields(&[("managedFields", Want::Nothing)], &Want::All))], &Want::All);

fn read(bytes: &[u8], want: &Want) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = want.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value.unwrap_or_default())
}

impl<'de> DeserializeSeed<'de> for &Want {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self {
            Want::All => serde::Deserialize::deserialize(deserializer).map(Some),
            Want::Nothing => deserializer.deserialize_ignored_any(IgnoredAny).map(|_| None),
            Want::Leaf | Want::Fields(..) => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for &Want {
    type Value = Option<Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Number::from_f64(value).map(Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Some(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let Want::Fields(named, rest) = self else {
            while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(None);
        };
        let mut kept = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let want = named.iter().find(|(known, _)| *known == name).map_or(*rest, |(_, want)| want);
            if let Some(value) = fields.next_value_seed(want)? {
                kept.insert(name, value);
            }
        }
        Ok(Some(Value::Object(kept)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn managed_fields_are_left_out_and_nothing_else() {
        let mut object = json!({
            "kind": "Pod", "metadata": {"name": "a", "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
            "spec": {"managedFields": [1, -2, 2.5, null, true, {"a": []}]},
        });
        let read = without_managed_fields(object.to_string().as_bytes()).unwrap();
        object["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(read, object);
    }

    #[test]
    fn selectors_look_at_little() {
        let object = json!({
            "kind": "Pod", "apiVersion": "v1", "type": "Opaque", "data": {"k": "v"}, "list": [[1], {"a": [2]}],
            "metadata": {"name": "a", "labels": {"b": "c"}, "annotations": {"d": "e"}, "managedFields": [{"f": {}}]},
            "spec": {"nodeName": "n", "unschedulable": true, "containers": [{"name": "x"}], "affinity": {"p": {}}},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready"}]},
        });
        let expected = json!({
            "kind": "Pod", "apiVersion": "v1", "type": "Opaque",
            "metadata": {"name": "a", "labels": {"b": "c"}},
            "spec": {"nodeName": "n", "unschedulable": true},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
        });
        assert_eq!(selectable(object.to_string().as_bytes()).unwrap(), expected);
        for (text, expected) in [("7", json!(7)), ("[1]", Value::Null), ("{}", json!({}))] {
            assert_eq!(selectable(text.as_bytes()).unwrap(), expected);
        }
        for broken in ["", "{", "{} x", "{\"spec\":{]}"] {
            selectable(broken.as_bytes()).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..60), text in r#"[{}\[\]",:a0 ]{0,60}"#) {
            let _ = (selectable(&bytes), without_managed_fields(&bytes));
            prop_assert_eq!(
                without_managed_fields(text.as_bytes()).is_ok(),
                serde_json::from_str::<Value>(&text).is_ok()
            );
        }
    }
}
