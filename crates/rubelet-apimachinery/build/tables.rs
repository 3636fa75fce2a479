//! Writes the type tables: rows of numbers that point into one text and into each other, which cost a program neither
//! memory of its own nor relocations. `src/schema/table.rs` reads them and says what each number means.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::Failure;
use crate::facts::{Empty, ListFact};
use crate::model::{Body, Definition, Definitions, Field, Shape};

/// Rows of a struct, list or map refer to others; what makes two of them the same type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Unnamed {
    Plain(u8),
    List { item: u16, kind: Option<ListFact> },
    Map { value: u16 },
}

#[derive(Default)]
struct Tables {
    text: String,
    names: BTreeMap<String, (usize, usize)>,
    /// Full name to row.
    named: BTreeMap<String, u16>,
    unnamed: BTreeMap<Unnamed, u16>,
    rows: Vec<String>,
    fields: Vec<String>,
    keys: Vec<Vec<String>>,
    words: Vec<String>,
}

// The numbers of `Shape` in `src/schema/table.rs`.
const STRING: u8 = 0;
const INT32: u8 = 1;
const INT64: u8 = 2;
const NUMBER: u8 = 3;
const BOOLEAN: u8 = 4;
const QUANTITY: u8 = 5;
const INT_OR_STRING: u8 = 6;
const TIME: u8 = 7;
const MICRO_TIME: u8 = 8;
const BYTES: u8 = 9;
const ANY: u8 = 10;
const STRUCT: u8 = 11;
const LIST: u8 = 12;
const MAP: u8 = 13;
const ATOMIC: u8 = 0x80;

impl Tables {
    fn text(&mut self, what: &str) -> String {
        let (start, length) = match self.names.get(what) {
            Some(at) => *at,
            None => {
                let at = (self.text.len(), what.len());
                self.text.push_str(what);
                self.names.insert(what.to_owned(), at);
                at
            }
        };
        format!("{start}, {length}")
    }

    /// The number of a merge key or a default; 0 is none.
    fn word(&mut self, what: Option<&String>) -> usize {
        let Some(what) = what else { return 0 };
        match self.words.iter().position(|w| w == what) {
            Some(index) => index + 1,
            None => {
                self.words.push(what.clone());
                self.words.len()
            }
        }
    }

    fn unnamed(&mut self, of: Unnamed) -> u16 {
        if let Some(row) = self.unnamed.get(&of) {
            return *row;
        }
        let row = self.rows.len() as u16;
        let numbers = match &of {
            Unnamed::Plain(shape) => format!("{shape}, 0, 0"),
            Unnamed::Map { value } => format!("{MAP}, {value}, 0"),
            Unnamed::List { item, kind } => {
                let kind = match kind {
                    None | Some(ListFact::Atomic) => 0,
                    Some(ListFact::Set) => 1,
                    Some(ListFact::Map(keys)) => {
                        2 + self.keys.iter().position(|k| k == keys).unwrap_or_else(|| {
                            self.keys.push(keys.clone());
                            self.keys.len() - 1
                        })
                    }
                };
                format!("{LIST}, {item}, {kind}")
            }
        };
        self.rows.push(format!("t(0, 0, {numbers})"));
        self.unnamed.insert(of, row);
        row
    }

    fn shape(&mut self, shape: &Shape, kind: Option<&ListFact>) -> Result<u16, Failure> {
        let plain = match shape {
            Shape::Named(name) => {
                return self.named.get(name).copied().ok_or_else(|| format!("{name} is not defined").into());
            }
            Shape::List(item) => {
                let item = self.shape(item, None)?;
                let kind = kind.filter(|k| **k != ListFact::Atomic).cloned();
                return Ok(self.unnamed(Unnamed::List { item, kind }));
            }
            Shape::Map(value) => {
                let value = self.shape(value, None)?;
                return Ok(self.unnamed(Unnamed::Map { value }));
            }
            Shape::String => STRING,
            Shape::Integer { wide: false } => INT32,
            Shape::Integer { wide: true } => INT64,
            Shape::Number => NUMBER,
            Shape::Boolean => BOOLEAN,
            Shape::Bytes => BYTES,
        };
        Ok(self.unnamed(Unnamed::Plain(plain)))
    }

    fn field(&mut self, field: &Field, all: &Definitions) -> Result<String, Failure> {
        let facts = &field.facts;
        let of = self.shape(&field.shape, facts.list.as_ref())?;
        let whole = match &field.shape {
            Shape::Named(name) => all.get(name).is_some_and(|d| d.atomic),
            _ => false,
        };
        let strategy: Vec<&str> = facts.patch.as_deref().unwrap_or_default().split(',').collect();
        let flags = u8::from(field.required)
            | u8::from(facts.atomic || (whole && !facts.granular)) << 1
            | u8::from(strategy.contains(&"merge")) << 2
            | u8::from(strategy.contains(&"retainKeys")) << 3
            | u8::from(strategy.contains(&"replace")) << 4
            | match field.empty {
                Empty::Kept => 0,
                Empty::Dropped => 1 << 5,
                Empty::Written => 2 << 5,
                Empty::Null => 3 << 5,
            };
        let (key, default) = (self.word(facts.key.as_ref()), self.word(facts.default.as_ref()));
        Ok(format!("f({}, {flags}, {of}, {key}, {default})", self.text(&field.name)))
    }
}

fn plain_body(definition: &Definition) -> u8 {
    match definition.body {
        Body::Struct(_) => STRUCT,
        Body::Quantity => QUANTITY,
        Body::IntOrString => INT_OR_STRING,
        Body::Time => TIME,
        Body::MicroTime => MICRO_TIME,
        Body::Any => ANY,
    }
}

/// The tables, as Rust source.
pub fn source(all: &Definitions) -> Result<String, Failure> {
    let mut tables = Tables::default();
    for (row, name) in all.keys().enumerate() {
        tables.named.insert(name.clone(), row as u16);
        tables.rows.push(String::new());
    }
    let mut kinds = BTreeMap::new();
    for (row, (name, definition)) in all.iter().enumerate() {
        let first = tables.fields.len();
        if let Body::Struct(fields) = &definition.body {
            for field in fields {
                let source = tables.field(field, all)?;
                tables.fields.push(source);
            }
        }
        let shape = plain_body(definition) | if definition.atomic { ATOMIC } else { 0 };
        let count = tables.fields.len() - first;
        tables.rows[row] = format!("t({}, {shape}, {first}, {count})", tables.text(name));
        for (group, version, kind) in &definition.kinds {
            let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
            kinds.insert((api_version, kind.clone()), row);
        }
    }
    let mut kind_rows = Vec::new();
    for ((api_version, kind), row) in &kinds {
        kind_rows.push(format!("k({}, {}, {row})", tables.text(api_version), tables.text(kind)));
    }
    if tables.text.len() > usize::from(u16::MAX) || tables.fields.len() > usize::from(u16::MAX) {
        return Err("the tables have outgrown their 16 bit numbers".into());
    }
    let mut source = String::new();
    writeln!(source, "static TEXT: &str = {:?};", tables.text)?;
    writeln!(source, "const NAMED: usize = {};", all.len())?;
    for (name, kind, rows) in [
        ("TYPES", "TypeRow", &tables.rows),
        ("FIELDS", "FieldRow", &tables.fields),
        ("KINDS", "KindRow", &kind_rows),
    ] {
        writeln!(source, "static {name}: [{kind}; {}] = [\n{}];", rows.len(), rows.join(",\n"))?;
    }
    writeln!(source, "static WORDS: &[&str] = &{:?};", tables.words)?;
    let keys: Vec<String> = tables.keys.iter().map(|keys| format!("&{keys:?}")).collect();
    writeln!(source, "static KEYS: &[&[&str]] = &[{}];", keys.join(", "))?;
    Ok(source)
}
