//! One step of a path into an object, as field ownership names it: a field, an item by its keys, a value of a set.
//!
//! Order, JSON form and printed form are those of structured-merge-diff's `PathElement`. Called by the sets of paths.

use std::cmp::Ordering;
use std::fmt;

use rubelet_core::downward::push_go_quoted;
use rubelet_core::hash::go_escaped_json;
use serde_json::{Map, Number, Value};

/// A `fieldsV1` that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A key that is not `f:`, `k:`, `v:` or `i:` and something.
    #[error("{0:?} is no path element")]
    Element(String),
    /// Something else than an object where there must be one.
    #[error("expected an object of path elements")]
    NotAnObject,
    /// Paths longer than any object's.
    #[error("paths are nested too deeply")]
    TooDeep,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A field of a struct, or a key of a map.
    Field(String),
    /// The item of a list whose key fields, sorted by name, have these values.
    Key(Vec<(String, Plain)>),
    /// The item of a set that is this value.
    Value(Plain),
    /// The item at this place. Read and kept, never made here: such lists are owned as a whole.
    Index(i64),
}

impl Element {
    /// The field of this name.
    pub fn field(name: impl Into<String>) -> Self {
        Self::Field(name.into())
    }

    /// Reads a key of `fieldsV1`. None for kinds of elements that later versions may invent.
    pub fn parse(text: &str) -> Result<Option<Self>, Malformed> {
        let malformed = || Malformed::Element(text.to_owned());
        let [kind, b':', ..] = text.as_bytes() else { return Err(malformed()) };
        let rest = text.get(2..).ok_or_else(malformed)?;
        Ok(Some(match kind {
            b'f' => Self::Field(rest.to_owned()),
            b'k' => {
                let keys: Map<String, Value> = serde_json::from_str(rest).map_err(|_| malformed())?;
                Self::Key(keys.into_iter().map(|(name, value)| (name, Plain(value))).collect())
            }
            b'v' => Self::Value(Plain(serde_json::from_str(rest).map_err(|_| malformed())?)),
            b'i' => Self::Index(rest.parse().map_err(|_| malformed())?),
            _ => return Ok(None),
        }))
    }

    /// The key of `fieldsV1` that [`Element::parse`] reads.
    pub fn serialize(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(keys) => {
                let keys: Map<String, Value> =
                    keys.iter().map(|(name, v)| (name.clone(), v.0.clone())).collect();
                format!("k:{}", go_escaped_json(&Value::Object(keys).to_string()))
            }
            Self::Value(value) => format!("v:{}", go_escaped_json(&value.0.to_string())),
            Self::Index(index) => format!("i:{index}"),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                f.write_str("[")?;
                for (index, (name, value)) in keys.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A path as messages print it, such as `.spec.containers[name="web"].image`.
pub fn print(path: &[Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}

/// A JSON value with structured-merge-diff's total order: numbers by what they amount to, then text, truth, lists,
/// objects, null.
#[derive(Debug, Clone)]
pub struct Plain(pub Value);

impl PartialEq for Plain {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Plain {}

impl PartialOrd for Plain {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Plain {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Value::String(text) => {
                let mut quoted = String::new();
                push_go_quoted(&mut quoted, text);
                f.write_str(&quoted)
            }
            other => write!(f, "{other}"),
        }
    }
}

/// Whether two values say the same: `1` and `1.0` do.
pub fn same(left: &Value, right: &Value) -> bool {
    compare(left, right).is_eq()
}

fn compare(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let differing = a.iter().zip(b).map(|(x, y)| compare(x, y)).find(|o| o.is_ne());
            differing.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let pairs = a.iter().zip(b);
            let differing =
                pairs.map(|((k, x), (l, y))| k.cmp(l).then_with(|| compare(x, y))).find(|o| o.is_ne());
            differing.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        _ => rank(left).cmp(&rank(right)),
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

/// By amount, exactly: a comparison through floating point would not be an order where whole numbers get large.
fn compare_numbers(left: &Number, right: &Number) -> Ordering {
    let (whole_left, part_left) = amount(left);
    let (whole_right, part_right) = amount(right);
    whole_left.cmp(&whole_right).then(part_left.total_cmp(&part_right))
}

/// The whole number at or below it, and what is above that. Beyond 128 bits all is whole, and the rest tells.
fn amount(number: &Number) -> (i128, f64) {
    if let Some(whole) = number.as_i64() {
        return (i128::from(whole), 0.0);
    }
    if let Some(whole) = number.as_u64() {
        return (i128::from(whole), 0.0);
    }
    let float = number.as_f64().unwrap_or_default();
    let whole = float.floor();
    if whole.abs() < 1e38 { (whole as i128, float - whole) } else { (whole as i128, float) }
}
