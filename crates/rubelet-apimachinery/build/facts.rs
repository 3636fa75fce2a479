//! Reads `facts.txt`: what the published API says of types and fields that `k8s-openapi` does not carry.

use std::collections::BTreeMap;

use crate::Failure;
pub use crate::empty::Empty;

/// How server-side apply sees a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListFact {
    /// As a whole.
    Atomic,
    /// As plain values.
    Set,
    /// As objects told apart by these fields.
    Map(Vec<String>),
}

/// What is known of one type or field; all empty where nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The list type, if one is published.
    pub list: Option<ListFact>,
    /// Owned as a whole.
    pub atomic: bool,
    /// Owned field by field, whatever its type says.
    pub granular: bool,
    /// The published patch strategy, such as `merge,retainKeys`.
    pub patch: Option<String>,
    /// The published merge key.
    pub key: Option<String>,
    /// The published default, JSON.
    pub default: Option<String>,
    /// Whether it is required, where `k8s-openapi` says otherwise.
    pub required: Option<bool>,
    /// What becomes of an empty value, where it is not the rule.
    pub empty: Option<Empty>,
}

/// Facts by type (without `io.k8s.`) and field; the field is empty for the type itself.
pub type FactTable = BTreeMap<(String, String), Facts>;

/// Reads the table.
pub fn read(text: &str) -> Result<FactTable, Failure> {
    let mut table = FactTable::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("facts.txt, line {}: {what}: {line}", index + 1);
        let mut words = line.split(' ');
        let (Some(of), Some(field)) = (words.next(), words.next()) else {
            return Err(wrong("a type and a field are missing").into());
        };
        let mut facts = Facts::default();
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("list", "atomic") => facts.list = Some(ListFact::Atomic),
                ("list", "set") => facts.list = Some(ListFact::Set),
                ("list", map) => {
                    let keys = map.strip_prefix("map:").ok_or_else(|| wrong("an unknown list type"))?;
                    facts.list = Some(ListFact::Map(keys.split(',').map(str::to_owned).collect()));
                }
                ("atomic", _) => facts.atomic = true,
                ("granular", _) => facts.granular = true,
                ("patch", strategy) => facts.patch = Some(strategy.to_owned()),
                ("key", key) => facts.key = Some(key.to_owned()),
                ("default", json) => facts.default = Some(json.to_owned()),
                ("required", _) => facts.required = Some(true),
                ("optional", _) => facts.required = Some(false),
                ("kept", _) => facts.empty = Some(Empty::Kept),
                ("dropped", _) => facts.empty = Some(Empty::Dropped),
                ("written", _) => facts.empty = Some(Empty::Written),
                ("null", _) => facts.empty = Some(Empty::Null),
                _ => return Err(wrong("an unknown fact").into()),
            }
        }
        let field = if field == "-" { "" } else { field };
        if table.insert((of.to_owned(), field.to_owned()), facts).is_some() {
            return Err(wrong("a second row").into());
        }
    }
    Ok(table)
}
