//! Typed objects to and from JSON trees, through text. serde would compile a second reader and a second writer for
//! every type of the API, which are most of what this program's code is; text is what the first ones are for.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The tree of an object.
///
/// # Errors
/// When a map of it has keys that are no text.
pub fn to_value<T: Serialize>(object: &T) -> serde_json::Result<Value> {
    serde_json::from_str(&serde_json::to_string(object)?)
}

/// The object that a tree describes.
///
/// # Errors
/// When the tree has another shape.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> serde_json::Result<T> {
    serde_json::from_str(&value.to_string())
}
