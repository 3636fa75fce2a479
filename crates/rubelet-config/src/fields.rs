//! How a located value becomes a field: type checks, Go's null and zero rules, merging.
//!
//! Owns the [`Field`] trait and the `config_struct!` macro that gives every configuration struct
//! its reading, merging and printing from one declaration. A file and a drop-in are both merged
//! onto what is there (JSON merge patch: maps merge, lists replace, null removes), so there is one
//! mechanism for both. It never stops at the first error and never validates a value's meaning.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::duration::{GoDuration, LogFlushFrequency};
use crate::problem::{Origin, Origins, Problem};
use crate::suggest;
use crate::tree::{Entry, Kind, Node};

/// What happens to an explicit zero value (`0`, `""`, `false`) in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zero {
    /// The Go field is no pointer: zero cannot be told from absent, so the default applies.
    IsDefault,
    /// The Go field is a pointer: zero is a choice.
    IsKept,
}

/// One pass over a file: collects what is wrong and where each field came from.
pub(crate) struct Reader<'a> {
    file: Arc<str>,
    path: String,
    origins: &'a mut Origins,
    /// Values of the wrong type: the file cannot be used.
    pub(crate) errors: Vec<Problem>,
    /// Fields that do not exist: refused by a strict reading, skipped by a lenient one.
    pub(crate) unknown: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: Arc<str>, origins: &'a mut Origins) -> Self {
        Self { file, path: String::new(), origins, errors: Vec::new(), unknown: Vec::new() }
    }

    /// Runs `read` with the path extended by `segment`.
    fn inside<T>(&mut self, segment: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.push_str(segment);
        let result = read(self);
        self.path.truncate(length);
        result
    }

    fn in_field<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.inside(&format!("{dot}{name}"), read)
    }

    fn problem(&self, node: &Node, message: String) -> Problem {
        Problem::plain(node.origin(&self.file), &self.path, message)
    }

    /// Reports a value of the wrong type.
    pub(crate) fn wrong<T>(&mut self, node: &Node, expected: &str) -> Option<T> {
        let problem = self.problem(node, format!("expected {expected}, got {}", node.describe()));
        self.errors.push(problem);
        None
    }

    fn record(&mut self, node: &Node) {
        let origin = node.origin(&self.file);
        self.origins.set(&self.path, origin);
    }

    pub(crate) fn unknown_field(&mut self, entry: &Entry, known: &[&str]) {
        let origin = Origin::File { file: self.file.clone(), line: entry.line, column: entry.column };
        let dot = if self.path.is_empty() { "" } else { "." };
        let field = format!("{}{dot}{}", self.path, entry.key);
        let hint = suggest::hint(&entry.key, known.iter().copied());
        self.unknown.push(Problem::plain(origin, &field, format!("unknown field{hint}")));
    }
}

/// A type a configuration field can have.
pub(crate) trait Field: Default {
    /// Reads a value that is not null; reports and returns nothing when the type is wrong.
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self>;

    /// Merges a value that is not null onto this one.
    fn merge(&mut self, node: &Node, reader: &mut Reader<'_>) {
        if let Some(value) = Self::read(node, reader) {
            *self = value;
        }
    }

    /// Whether this is Go's zero value.
    fn is_zero(&self) -> bool;

    /// Whether Go's `omitempty` would leave the zero value out.
    const OMITTED_WHEN_ZERO: bool = true;

    /// The value as it prints on `/configz`.
    fn to_json(&self) -> Value;
}

/// Merges one field of a struct, with its default for null and perhaps for zero.
pub(crate) fn merge_field<T: Field>(
    slot: &mut T,
    name: &str,
    node: &Node,
    reader: &mut Reader<'_>,
    zero: Zero,
    default: impl FnOnce() -> T,
) {
    reader.in_field(name, |reader| {
        if node.kind == Kind::Null {
            *slot = default();
            let path = reader.path.clone();
            reader.origins.unset(&path);
            return;
        }
        // An empty struct, such as `memorySwap: {}`, sets nothing.
        let nothing = !T::OMITTED_WHEN_ZERO && matches!(&node.kind, Kind::Map(entries) if entries.is_empty());
        if !nothing {
            reader.record(node);
        }
        slot.merge(node, reader);
        if zero == Zero::IsDefault && slot.is_zero() {
            *slot = default();
            let path = reader.path.clone();
            reader.origins.unset(&path);
        }
    });
}

impl Field for bool {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        match node.kind {
            Kind::Bool { value, .. } => Some(value),
            _ => reader.wrong(node, "true or false"),
        }
    }
    fn is_zero(&self) -> bool {
        !self
    }
    fn to_json(&self) -> Value {
        Value::Bool(*self)
    }
}

/// The whole number in a node; YAML writes `10.0` and `1e3` as whole numbers too.
fn whole(node: &Node) -> Option<i128> {
    match node.kind {
        Kind::Int { value, .. } => Some(value),
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
        Kind::Float { value, .. } if value.fract() == 0.0 && value.abs() < 1e15 => Some(value as i128),
        _ => None,
    }
}

macro_rules! integer_field {
    ($type:ty) => {
        impl Field for $type {
            fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
                match whole(node).map(<$type>::try_from) {
                    Some(Ok(value)) => Some(value),
                    Some(Err(_)) => {
                        let range = format!("a whole number from {} to {}", <$type>::MIN, <$type>::MAX);
                        reader.wrong(node, &range)
                    }
                    None => reader.wrong(node, "a whole number"),
                }
            }
            fn is_zero(&self) -> bool {
                *self == 0
            }
            fn to_json(&self) -> Value {
                Value::from(*self)
            }
        }
    };
}
integer_field!(i32);
integer_field!(i64);
integer_field!(u32);

impl Field for f64 {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        match node.kind {
            #[expect(clippy::cast_precision_loss, reason = "a float field takes the nearest float")]
            Kind::Int { value, .. } => Some(value as f64),
            Kind::Float { value, .. } => Some(value),
            _ => reader.wrong(node, "a number"),
        }
    }
    fn is_zero(&self) -> bool {
        *self == 0.0
    }
    fn to_json(&self) -> Value {
        Value::from(*self)
    }
}

impl Field for String {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.kind {
            Kind::Text(text) => Some(text.clone()),
            Kind::Bool { text, .. } | Kind::Int { text, .. } | Kind::Float { text, .. } => {
                let expected = format!("text (write {text:?} in quotes)");
                reader.wrong(node, &expected)
            }
            _ => reader.wrong(node, "text"),
        }
    }
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
    fn to_json(&self) -> Value {
        Value::String(self.clone())
    }
}

impl Field for GoDuration {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let Kind::Text(text) = &node.kind else {
            return reader.wrong(node, "a duration such as \"30s\" or \"1h30m\"");
        };
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let mut problem = reader.problem(node, format!("not a duration: {error}"));
                problem.value = Some(format!("{text:?}"));
                reader.errors.push(problem);
                None
            }
        }
    }
    fn is_zero(&self) -> bool {
        GoDuration::is_zero(*self)
    }
    const OMITTED_WHEN_ZERO: bool = false;
    fn to_json(&self) -> Value {
        Value::String(self.to_string())
    }
}

impl Field for LogFlushFrequency {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        if let Kind::Int { .. } = node.kind {
            let duration = GoDuration::from_nanos(i64::read(node, reader)?);
            return Some(Self { duration, as_text: false });
        }
        GoDuration::read(node, reader).map(|duration| Self { duration, as_text: true })
    }
    fn is_zero(&self) -> bool {
        self.duration.is_zero()
    }
    const OMITTED_WHEN_ZERO: bool = false;
    fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

impl<T: Field> Field for Vec<T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let Kind::List(items) = &node.kind else {
            return reader.wrong(node, "a list");
        };
        let values = items.iter().enumerate().map(|(index, item)| {
            reader.inside(&format!("[{index}]"), |reader| {
                reader.record(item);
                if item.kind == Kind::Null { Some(T::default()) } else { T::read(item, reader) }
            })
        });
        // Collected first, so that every bad item is reported.
        let values: Vec<Option<T>> = values.collect();
        values.into_iter().collect()
    }
    fn merge(&mut self, node: &Node, reader: &mut Reader<'_>) {
        // A list replaces the earlier one, so what was known of the earlier items is void.
        let path = format!("{}[", reader.path);
        let earlier: Vec<String> = (0..self.len()).map(|i| format!("{path}{i}]")).collect();
        for item in earlier {
            reader.origins.unset(&item);
        }
        if let Some(value) = Self::read(node, reader) {
            *self = value;
        }
    }
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
    fn to_json(&self) -> Value {
        Value::Array(self.iter().map(Field::to_json).collect())
    }
}

impl<T: Field> Field for BTreeMap<String, T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let mut map = Self::new();
        Field::merge(&mut map, node, reader);
        Some(map)
    }
    fn merge(&mut self, node: &Node, reader: &mut Reader<'_>) {
        let Kind::Map(entries) = &node.kind else {
            reader.wrong::<()>(node, "a mapping");
            return;
        };
        for entry in entries {
            reader.inside(&format!("[{}]", entry.key), |reader| {
                if entry.value.kind == Kind::Null {
                    self.remove(&entry.key);
                    let path = reader.path.clone();
                    reader.origins.unset(&path);
                    return;
                }
                reader.record(&entry.value);
                if let Some(value) = T::read(&entry.value, reader) {
                    self.insert(entry.key.clone(), value);
                }
            });
        }
    }
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
    fn to_json(&self) -> Value {
        Value::Object(self.iter().map(|(k, v)| (k.clone(), v.to_json())).collect())
    }
}

impl<T: Field> Field for Option<T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        T::read(node, reader).map(Some)
    }
    fn merge(&mut self, node: &Node, reader: &mut Reader<'_>) {
        self.get_or_insert_default().merge(node, reader);
    }
    fn is_zero(&self) -> bool {
        self.is_none()
    }
    fn to_json(&self) -> Value {
        self.as_ref().map_or(Value::Null, Field::to_json)
    }
}

/// Declares a configuration struct: each field with its JSON name, type, what an explicit zero
/// means (`zero_is_default` or `zero_is_kept`) and its default.
macro_rules! config_struct {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $(
                $(#[$field_meta:meta])*
                $field:ident: $type:ty = $json:literal, $zero:ident, $default:expr;
            )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $name {
            /// The JSON names of the fields.
            pub(crate) const FIELDS: &'static [&'static str] = &[$($json),*];
        }

        impl crate::fields::Field for $name {
            fn read(
                node: &crate::tree::Node,
                reader: &mut crate::fields::Reader<'_>,
            ) -> Option<Self> {
                let mut value = Self::default();
                value.merge(node, reader);
                Some(value)
            }

            fn merge(
                &mut self,
                node: &crate::tree::Node,
                reader: &mut crate::fields::Reader<'_>,
            ) {
                let crate::tree::Kind::Map(entries) = &node.kind else {
                    reader.wrong::<()>(node, "a mapping");
                    return;
                };
                for entry in entries {
                    match entry.key.as_str() {
                        $( $json => crate::fields::merge_field(
                            &mut self.$field,
                            $json,
                            &entry.value,
                            reader,
                            crate::fields::$zero,
                            || $default,
                        ), )*
                        _ => reader.unknown_field(entry, Self::FIELDS),
                    }
                }
            }

            fn is_zero(&self) -> bool {
                false
            }

            const OMITTED_WHEN_ZERO: bool = false;

            fn to_json(&self) -> serde_json::Value {
                let mut map = serde_json::Map::new();
                $( crate::fields::print_field(&mut map, $json, &self.$field, crate::fields::$zero); )*
                serde_json::Value::Object(map)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serde::Serialize::serialize(&crate::fields::Field::to_json(self), serializer)
            }
        }
    };
}
pub(crate) use config_struct;

/// Short names for the declarations.
#[expect(non_upper_case_globals, reason = "reads as a keyword in config_struct! declarations")]
pub(crate) const zero_is_default: Zero = Zero::IsDefault;
/// See [`zero_is_default`].
#[expect(non_upper_case_globals, reason = "reads as a keyword in config_struct! declarations")]
pub(crate) const zero_is_kept: Zero = Zero::IsKept;

/// Adds a field to its struct's JSON unless Go's `omitempty` would leave it out.
pub(crate) fn print_field<T: Field>(
    map: &mut serde_json::Map<String, Value>,
    name: &str,
    value: &T,
    zero: Zero,
) {
    let json = value.to_json();
    let omitted = zero == Zero::IsDefault && T::OMITTED_WHEN_ZERO && value.is_zero();
    if !omitted && json != Value::Null {
        map.insert(name.to_owned(), json);
    }
}
