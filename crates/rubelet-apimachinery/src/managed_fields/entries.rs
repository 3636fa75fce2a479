//! `metadata.managedFields`: who owns which fields, read from an object and written back into it.
//!
//! Entries are told apart as upstream's `BuildManagerIdentifier` does: one for each manager, operation and subresource,
//! and for updates one for each `apiVersion`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::element::Malformed;
use super::set::Set;

/// Entries made by updates that an object keeps (`DefaultMaxUpdateManagers`).
const MOST_UPDATE_ENTRIES: usize = 10;
/// Who the oldest entries are merged into when there are more.
const OLD_UPDATES: &str = "ancient-changes";

/// How a manager came to own fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By writing the object in another way.
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// What tells entries apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// The name clients give themselves.
    pub manager: String,
    /// How it came to own the fields.
    pub operation: Operation,
    /// The version it wrote in; empty for apply, where one entry moves along with the versions.
    pub api_version: String,
    /// The subresource it wrote through; empty for the object itself.
    pub subresource: String,
}

impl Id {
    /// The entry of a manager that writes in this way.
    pub fn new(manager: &str, operation: Operation, api_version: &str, subresource: &str) -> Self {
        let manager = if manager.is_empty() { "unknown" } else { manager };
        let api_version = if operation == Operation::Apply { "" } else { api_version };
        Self {
            manager: manager.to_owned(),
            operation,
            api_version: api_version.to_owned(),
            subresource: subresource.to_owned(),
        }
    }
}

/// What a manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The fields.
    pub set: Set,
    /// The version whose fields they are.
    pub api_version: String,
    /// When the entry last changed. Entries of an apply that found everything as it wants it have none.
    pub time: Option<Timestamp>,
}

/// All that is owned of an object.
pub type Managers = BTreeMap<Id, Entry>;

/// Entries that cannot be read; worded as upstream's `DecodeManagedFields`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The list or an entry is something else.
    #[error("managed fields must be a list of entries")]
    Shape,
    /// Neither of the two operations.
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    /// No version.
    #[error("apiVersion must not be empty")]
    ApiVersion,
    /// No kind of fields.
    #[error("missing fieldsType in managed fields entry {0}")]
    NoFieldsType(usize),
    /// An unknown kind of fields.
    #[error("invalid fieldsType {1:?} in managed fields entry {0}")]
    FieldsType(usize, String),
    /// The fields themselves.
    #[error("error decoding set: {0}")]
    Fields(#[from] Malformed),
}

/// The `managedFields` of an object; null where there are none.
pub fn entries_of(object: &Value) -> &Value {
    const NONE: &Value = &Value::Null;
    object.get("metadata").and_then(|metadata| metadata.get("managedFields")).unwrap_or(NONE)
}

/// Reads `managedFields`.
pub fn read(entries: &Value) -> Result<Managers, Unreadable> {
    let list = match entries {
        Value::Null => return Ok(Managers::new()),
        Value::Array(list) => list,
        _ => return Err(Unreadable::Shape),
    };
    let mut managers = Managers::new();
    for (index, entry) in list.iter().enumerate() {
        let entry = entry.as_object().ok_or(Unreadable::Shape)?;
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err(Unreadable::Operation),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err(Unreadable::ApiVersion);
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(Unreadable::NoFieldsType(index)),
            other => return Err(Unreadable::FieldsType(index, other.to_owned())),
        }
        let set = match entry.get("fieldsV1") {
            None | Some(Value::Null) => Set::default(),
            Some(fields) => Set::parse(fields)?,
        };
        // An entry without a name keeps none: only who writes now is named `unknown`.
        let mut id = Id::new(text("manager"), operation, api_version, text("subresource"));
        text("manager").clone_into(&mut id.manager);
        let time = text("time").parse().ok();
        managers.insert(id, Entry { set, api_version: api_version.to_owned(), time });
    }
    Ok(managers)
}

/// Takes the `managedFields` out of an object.
pub fn take(object: &mut Value) -> Value {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    metadata.and_then(|metadata| metadata.remove("managedFields")).unwrap_or_default()
}

/// Puts `managedFields` into an object without any: applied ones before updated ones, each from old to new.
pub fn write(managers: &Managers, object: &mut Value) {
    if managers.is_empty() {
        return;
    }
    let mut sorted: Vec<(&Id, &Entry)> = managers.iter().collect();
    sorted.sort_by(|(p, a), (q, b)| {
        let key = |entry: &Entry| entry.time.map_or(0, Timestamp::as_second);
        (p.operation, key(a), &p.manager, &a.api_version, &p.subresource).cmp(&(
            q.operation,
            key(b),
            &q.manager,
            &b.api_version,
            &q.subresource,
        ))
    });
    put(object, sorted.into_iter().map(|(id, entry)| written(id, entry)).collect());
}

/// Puts `managedFields` as they are into an object.
pub fn put(object: &mut Value, entries: Value) {
    if let Some(object) = object.as_object_mut()
        && let Some(metadata) = object.entry("metadata").or_insert_with(|| json!({})).as_object_mut()
    {
        metadata.insert("managedFields".to_owned(), entries);
    }
}

fn written(id: &Id, entry: &Entry) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, text: &str| {
        if !text.is_empty() {
            out.insert(name.to_owned(), Value::from(text));
        }
    };
    put("manager", &id.manager);
    put("operation", id.operation.name());
    put("apiVersion", &entry.api_version);
    put("fieldsType", "FieldsV1");
    put("subresource", &id.subresource);
    if let Some(time) = entry.time {
        put("time", &time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    out.insert("fieldsV1".to_owned(), entry.set.fields());
    Value::Object(out)
}

/// Whether somebody who sends these `managedFields` wants nothing to be owned any more: an empty list, or one entry that
/// says nothing (`isResetManagedFields`).
pub fn is_reset(entries: &Value) -> bool {
    let empty = |value: &Value| value.is_null() || value.as_str().is_some_and(str::is_empty);
    match entries.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(entry)]) => entry.values().all(empty),
        _ => false,
    }
}

/// Merges the oldest entries of updates, version by version, until no more are left than an object keeps
/// (`capManagersManager`; unlike there, the merged entry is not lost when it is the second oldest).
pub fn cap(managers: &mut Managers) {
    let mut updates: Vec<(i64, Id)> = managers
        .iter()
        .filter(|(id, _)| id.operation == Operation::Update)
        .map(|(id, entry)| (entry.time.map_or(0, Timestamp::as_second), id.clone()))
        .collect();
    updates.sort();
    let mut left = updates.len();
    let mut first_of: BTreeMap<String, Id> = BTreeMap::new();
    for (_, id) in updates {
        if left <= MOST_UPDATE_ENTRIES {
            return;
        }
        let Some(version) = managers.get(&id).map(|entry| entry.api_version.clone()) else { continue };
        let Some(first) = first_of.get(&version) else {
            first_of.insert(version, id);
            continue;
        };
        let bucket = Id::new(OLD_UPDATES, Operation::Update, &version, "");
        // The first goes with the second, whichever of all these is the bucket itself.
        let mut merged = Entry { set: Set::default(), api_version: version, time: None };
        for part in
            [managers.remove(first), managers.remove(&bucket), managers.remove(&id)].into_iter().flatten()
        {
            merged.set.absorb(&part.set);
            merged.time = merged.time.max(part.time);
        }
        managers.insert(bucket, merged);
        left -= 1;
    }
}
