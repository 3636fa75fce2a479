//! From bytes to a JSON value: JSON, and YAML with the traps of YAML 1.1 that manifests rely on. Finds fields that occur
//! twice; of equal ones the last counts. Knows nothing of kinds.
//!
//! Depth is limited by both parsers while they read, so no value made here is too deep to walk.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Number, Value};

use super::MAX_PROBLEMS;

/// Nesting of YAML documents, whose parser needs far more of the stack than that of JSON (128): unoptimised, 24 KiB for
/// each level of a block. No object of the API comes near.
const YAML_DEPTH: usize = 40;

/// Why bytes are neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// Not JSON, in the words of Go's decoder.
    #[error("{0}")]
    Json(String),
    /// Not YAML.
    #[error("error converting YAML to JSON: yaml: {0}")]
    Yaml(String),
    /// Not protobuf as Kubernetes writes it.
    #[error("{0}")]
    Protobuf(String),
}

/// A value that was read. It can be deserialized from any format, in the way of this module.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// The value.
    pub value: Value,
    /// Paths of the fields that occur twice in one object, such as `spec.containers[0].name`; each once, and no more than
    /// [`MAX_PROBLEMS`].
    pub duplicates: Vec<String>,
}

/// Reads JSON.
///
/// # Errors
/// When it is none, or nests deeper than [`super::MAX_DEPTH`].
pub fn json(body: &[u8]) -> Result<Read, SyntaxError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let read = Read::deserialize(&mut deserializer);
    read.and_then(|read| deserializer.end().map(|()| read))
        .map_err(|error| SyntaxError::Json(go_words(&error, body)))
}

/// Reads the first document of YAML; no document is null.
///
/// # Errors
/// When it is no YAML or nests too deeply.
pub fn yaml(body: &[u8]) -> Result<Read, SyntaxError> {
    let text = std::str::from_utf8(body)
        .map_err(|_| SyntaxError::Yaml("control characters are not allowed: invalid UTF-8".to_owned()))?;
    let text = text.trim_start_matches('\u{feff}');
    // What is JSON is read as JSON, whose numbers and texts need no guessing.
    if text.trim_start().starts_with('{')
        && let Ok(read) = json(text.as_bytes())
    {
        return Ok(read);
    }
    let mut documents = yaml_documents(text).map_err(SyntaxError::Yaml)?;
    documents.truncate(1);
    Ok(documents.pop().unwrap_or(Read { value: Value::Null, duplicates: Vec::new() }))
}

/// Reads all documents of YAML that hold something, as upstream's reader understands them: `0644` is octal, `yes` and
/// `on` are truth values, keys are texts, anchors and merges are followed.
///
/// # Errors
/// The parser's words, with line and column, for what is no YAML or nests too deeply.
pub fn yaml_documents(text: &str) -> Result<Vec<Read>, String> {
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        budget: serde_saphyr::budget! { max_depth: YAML_DEPTH, flow_nesting_limit: YAML_DEPTH },
    };
    // The place is named; the lines around it would spread one message over several and put content into logs.
    serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| error.without_snippet().to_string())
}

/// What Go's JSON decoder says of an error.
fn go_words(error: &serde_json::Error, body: &[u8]) -> String {
    if error.classify() == Category::Eof {
        return "unexpected end of JSON input".to_owned();
    }
    let text = error.to_string();
    let context = [
        ("recursion limit exceeded", ""),
        ("expected value", "looking for beginning of value"),
        ("expected ident", "in literal"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("expected `:`", "after object key"),
        ("key must be a string", "looking for beginning of object key string"),
        ("trailing comma", "looking for beginning of object key string"),
        ("trailing characters", "after top-level value"),
        ("control character", "in string literal"),
        ("invalid escape", "in string escape code"),
    ]
    .into_iter()
    .find(|(start, _)| text.starts_with(start))
    .map(|(_, context)| context);
    match (context, byte_at(body, error.line(), error.column())) {
        (Some(""), _) => "exceeded max depth".to_owned(),
        (Some(context), Some(byte)) => format!("invalid character {:?} {context}", char::from(byte)),
        _ => text,
    }
}

fn byte_at(body: &[u8], line: usize, column: usize) -> Option<u8> {
    let line = body.split(|byte| *byte == b'\n').nth(line.checked_sub(1)?)?;
    line.get(column.saturating_sub(1)).copied().filter(u8::is_ascii)
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut duplicates = Vec::new();
        let value =
            Node { path: &mut String::new(), duplicates: &mut duplicates }.deserialize(deserializer)?;
        Ok(Self { value, duplicates })
    }
}

/// One value on the way down, and where that is.
struct Node<'a> {
    path: &'a mut String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("infinite numbers and NaN have no place here"))
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let length = self.path.len();
        loop {
            self.path.push_str(&format!("[{}]", list.len()));
            let item = items.next_element_seed(Node { path: self.path, duplicates: self.duplicates })?;
            self.path.truncate(length);
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let length = self.path.len();
        while let Some(Key(key)) = entries.next_key()? {
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(&key);
            if object.contains_key(&key)
                && self.duplicates.len() < MAX_PROBLEMS
                && !self.duplicates.contains(self.path)
            {
                self.duplicates.push(self.path.clone());
            }
            let value = entries.next_value_seed(Node { path: self.path, duplicates: self.duplicates })?;
            self.path.truncate(length);
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// A key, as the text that upstream makes of it: `on` becomes `true`, `1` becomes `1`.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text as a key")
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<Key, E> {
        Ok(Key(value.to_owned()))
    }
    fn visit_string<E: de::Error>(self, value: String) -> Result<Key, E> {
        Ok(Key(value))
    }
    fn visit_unit<E: de::Error>(self) -> Result<Key, E> {
        Ok(Key("null".to_owned()))
    }
}
