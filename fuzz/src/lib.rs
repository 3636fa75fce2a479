//! Makes objects out of a fuzzer's bytes: mostly of the published types, sometimes not, so that inputs get past the
//! type checks and into the rules. Names and values come from small sets, so that parts of two objects meet.

use rubelet_apimachinery::kinds::{self, Resource};
use rubelet_apimachinery::schema::{Shape, Type};
use serde_json::{Map, Value, json};

/// How deep objects become.
const DEPTH: usize = 12;

const TEXTS: &[&str] = &[
    "",
    "a",
    "b",
    "c",
    "TCP",
    "UDP",
    "Always",
    "True",
    "x/y",
    "a.b/c",
    "~0~1",
    "1",
    "-1",
    "01",
    "é",
    "\u{0}",
    "\"",
    "\\",
    "$patch",
    "f:a",
    "k:{\"name\":\"a\"}",
    "v:1",
    ".",
    "metadata",
    "name",
    "2026-01-01T00:00:00Z",
    "Apply",
    "Update",
    "kubectl",
    "v1",
    "FieldsV1",
    "{",
    "null",
];
const QUANTITIES: &[&str] = &[
    "1",
    "0",
    "100m",
    "1Gi",
    "1024Mi",
    "-1",
    "1e3",
    "1E",
    "0.5",
    "9223372036854775807",
    "1n",
    ".5",
    "1.",
    "5e-20",
    "1e99",
    "999999999999999999999Ei",
    "1 ",
    "",
];
const TIMES: &[&str] = &[
    "2026-01-01T00:00:00Z",
    "2026-01-01T00:00:00.123456789Z",
    "2026-01-01T00:00:00+23:59",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-23:59",
    "-009999-01-02T00:00:00Z",
    "2016-12-31T23:59:60Z",
    "today",
    "",
];
const BYTES: &[&str] = &["", "MQ==", "MQ", "MR==", "!", "AAAA\n"];

/// Reads choices from bytes; when they are used up every choice is the first.
pub struct Grower<'a> {
    bytes: &'a [u8],
    /// Whether objects are strategic merge patches, with directives in them.
    pub directives: bool,
}

impl<'a> Grower<'a> {
    /// Choices from these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, directives: false }
    }

    /// One of this many choices.
    pub fn choose(&mut self, choices: usize) -> usize {
        match self.bytes.split_first() {
            Some((first, rest)) => {
                self.bytes = rest;
                usize::from(*first) % choices.max(1)
            }
            None => 0,
        }
    }

    /// True for one in this many bytes, never when there are none.
    pub fn rarely(&mut self, one_in: usize) -> bool {
        self.choose(one_in) == one_in - 1
    }

    /// What was not used.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// Whether all is used.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// A stored kind and its type.
    pub fn resource(&mut self) -> (&'static Resource, Type) {
        let known: Vec<_> = kinds::all()
            .iter()
            .filter_map(|resource| Some((resource, Type::of(&resource.api_version(), resource.kind)?)))
            .collect();
        known[self.choose(known.len())]
    }

    /// Any kind with a type.
    pub fn kind(&mut self) -> (&'static str, &'static str, Type) {
        let known: Vec<_> = Type::kinds().collect();
        known[self.choose(known.len())]
    }

    fn one(&mut self, of: &[&'static str]) -> &'static str {
        of[self.choose(of.len())]
    }

    /// Some text.
    pub fn text(&mut self) -> &'static str {
        self.one(TEXTS)
    }

    /// A whole object of this kind, as far as the bytes go.
    pub fn object(&mut self, api_version: &str, kind: &str, t: Type) -> Value {
        let mut object = self.struct_of(t, 0);
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(kind);
        object
    }

    /// A value of this type, or now and then of none.
    pub fn value(&mut self, t: Type, depth: usize) -> Value {
        if self.bytes.is_empty() || depth > DEPTH || self.rarely(24) {
            return self.any(depth);
        }
        match t.shape() {
            Shape::String => json!(self.text()),
            Shape::Integer { .. } => self.number(),
            Shape::Number => json!(f64::from(self.choose(256) as u32) / 7.0),
            Shape::Boolean => json!(self.choose(2) == 1),
            Shape::Quantity => match self.choose(4) {
                0 => self.number(),
                _ => json!(self.one(QUANTITIES)),
            },
            Shape::IntOrString => match self.choose(2) {
                0 => self.number(),
                _ => json!(self.text()),
            },
            Shape::Time | Shape::MicroTime => json!(self.one(TIMES)),
            Shape::Bytes => json!(self.one(BYTES)),
            Shape::Any => self.any(depth),
            Shape::Struct => self.struct_of(t, depth),
            Shape::List { item, .. } => {
                let count = self.choose(4);
                (0..count).map(|_| self.value(item, depth + 1)).collect()
            }
            Shape::Map { value } => {
                let count = self.choose(4);
                let entries: Map<String, Value> =
                    (0..count).map(|_| (self.text().to_owned(), self.value(value, depth + 1))).collect();
                Value::Object(entries)
            }
        }
    }

    fn struct_of(&mut self, t: Type, depth: usize) -> Value {
        let fields: Vec<_> = t.fields().collect();
        let mut object = Map::new();
        for _ in 0..self.choose(7) {
            let Some(field) = fields.get(self.choose(fields.len())) else { break };
            let value = self.value(field.of, depth + 1);
            if self.directives && self.rarely(4) {
                let (name, items) = match self.choose(3) {
                    0 => (format!("$setElementOrder/{}", field.name), true),
                    1 => (format!("$deleteFromPrimitiveList/{}", field.name), true),
                    _ => (field.name.to_owned(), false),
                };
                let list = if items { self.value(field.of, depth + 1) } else { Value::Null };
                object.insert(name, list);
            }
            object.insert(field.name.to_owned(), value);
        }
        if self.directives && self.rarely(5) {
            match self.choose(5) {
                0 => object.insert("$patch".to_owned(), json!("delete")),
                1 => object.insert("$patch".to_owned(), json!("replace")),
                2 => object.insert("$patch".to_owned(), self.any(depth)),
                3 => object.insert("$retainKeys".to_owned(), json!([self.text(), "name"])),
                _ => object.insert("$retainKeys".to_owned(), self.any(depth)),
            };
        }
        Value::Object(object)
    }

    fn number(&mut self) -> Value {
        match self.choose(8) {
            0 => json!(0),
            1 => json!(-1),
            2 => json!(i64::MAX),
            3 => json!(i64::MIN),
            4 => json!(u64::MAX),
            5 => json!(1.5),
            6 => json!(1e300),
            _ => json!(self.choose(256)),
        }
    }

    /// A value of no type.
    pub fn any(&mut self, depth: usize) -> Value {
        if depth > DEPTH {
            return Value::Null;
        }
        match self.choose(8) {
            0 => Value::Null,
            1 => json!(self.choose(2) == 1),
            2 => self.number(),
            3 => json!(self.text()),
            4 | 5 => (0..self.choose(4)).map(|_| self.any(depth + 1)).collect(),
            _ => {
                let count = self.choose(4);
                Value::Object((0..count).map(|_| (self.text().to_owned(), self.any(depth + 1))).collect())
            }
        }
    }

    /// The path of something in an object, as JSON patches write it; sometimes of nothing.
    pub fn pointer(&mut self, object: &Value) -> String {
        let (mut path, mut at) = (String::new(), object);
        while !self.rarely(4) && !self.is_empty() {
            let (part, next) = match at {
                Value::Object(fields) if !fields.is_empty() && !self.rarely(12) => {
                    let index = self.choose(fields.len());
                    let Some((key, next)) = fields.iter().nth(index) else { break };
                    (key.replace('~', "~0").replace('/', "~1"), next)
                }
                Value::Array(items) if !items.is_empty() && !self.rarely(6) => {
                    let index = self.choose(items.len());
                    (index.to_string(), &items[index])
                }
                Value::Array(_) => {
                    (["-", "-1", "99999999999999999999", "1", ""][self.choose(5)].to_owned(), &Value::Null)
                }
                _ => (self.text().to_owned(), &Value::Null),
            };
            path = format!("{path}/{part}");
            at = next;
        }
        path
    }
}

/// An object in normal form as it comes back from itself: normal forms are fixed points.
///
/// # Panics
/// When it is not.
pub fn assert_normal(t: Type, value: &Value) {
    match rubelet_apimachinery::decode::conform(t, value.clone()) {
        Ok((again, problems)) => {
            assert_eq!(problems, Vec::<String>::new(), "unknown fields in {value}");
            assert_eq!(&again, value, "not in normal form");
        }
        Err(error) => panic!("{}: {value}", error.message),
    }
}
