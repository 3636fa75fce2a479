//! Field paths and the errors that point at them, in upstream's wording.
//!
//! Owns how an error reads (upstream `field.Error`); knows no rule.

use std::fmt;

/// A path into an object, such as `spec.containers[0].name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The path of a top-level field.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }
    /// A field below.
    pub fn child(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }
    /// An item of a list.
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
    /// An entry of a map.
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has to be there.
    Required,
    /// Its value breaks a rule.
    Invalid,
    /// Its value is none of the known ones.
    Unsupported,
    /// It must not be set here.
    Forbidden,
    /// Its value occurs twice.
    Duplicate,
    /// It names something that does not exist.
    NotFound,
    /// It has too many bytes.
    TooLong,
    /// It has too many items.
    TooMany,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Required => "Required value",
            Reason::Invalid => "Invalid value",
            Reason::Unsupported => "Unsupported value",
            Reason::Forbidden => "Forbidden",
            Reason::Duplicate => "Duplicate value",
            Reason::NotFound => "Not found",
            Reason::TooLong => "Too long",
            Reason::TooMany => "Too many",
        })
    }
}

/// One broken rule: prints as `spec.containers[0].name: Invalid value: "A": …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field's path.
    pub field: String,
    /// What is wrong.
    pub reason: Reason,
    /// The value as it is shown (texts in quotes), where showing it helps.
    pub value: Option<String>,
    /// The rule, or what to do; may be empty.
    pub detail: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)?;
        if let Some(value) = &self.value {
            write!(f, ": {value}")?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for FieldError {}

/// A value as errors show it.
pub trait Shown {
    /// The text.
    fn shown(&self) -> String;
}

impl Shown for str {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}
impl Shown for String {
    fn shown(&self) -> String {
        self.as_str().shown()
    }
}
impl Shown for i32 {
    fn shown(&self) -> String {
        self.to_string()
    }
}
impl Shown for i64 {
    fn shown(&self) -> String {
        self.to_string()
    }
}
impl Shown for usize {
    fn shown(&self) -> String {
        self.to_string()
    }
}
impl Shown for bool {
    fn shown(&self) -> String {
        self.to_string()
    }
}
/// Anything bigger is shown as JSON.
#[derive(Debug)]
pub struct Json<'a, T>(
    /// What is shown.
    pub &'a T,
);

impl<T: serde::Serialize> Shown for Json<'_, T> {
    fn shown(&self) -> String {
        serde_json::to_string(self.0).unwrap_or_default()
    }
}

/// The errors found so far, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Errors(
    /// What was found.
    pub Vec<FieldError>,
);

impl Errors {
    fn push(&mut self, path: &Path, reason: Reason, value: Option<String>, detail: impl Into<String>) {
        self.0.push(FieldError { field: path.0.clone(), reason, value, detail: detail.into() });
    }
    /// The field has to be set; `detail` says why, or is empty.
    pub fn required(&mut self, path: &Path, detail: &str) {
        self.push(path, Reason::Required, None, detail);
    }
    /// The text must not be empty.
    pub fn required_text(&mut self, path: &Path, value: &str) {
        if value.is_empty() {
            self.required(path, "");
        }
    }
    /// The value breaks the rule that `detail` words.
    pub fn invalid(&mut self, path: &Path, value: &(impl Shown + ?Sized), detail: impl Into<String>) {
        self.push(path, Reason::Invalid, Some(value.shown()), detail);
    }
    /// One error per message, all about the same value.
    pub fn invalid_each(&mut self, path: &Path, value: &(impl Shown + ?Sized), details: Vec<String>) {
        for detail in details {
            self.invalid(path, value, detail);
        }
    }
    /// The field must not be set, or not be changed; `detail` says why.
    pub fn forbidden(&mut self, path: &Path, detail: &str) {
        self.push(path, Reason::Forbidden, None, detail);
    }
    /// Another item has the same value already.
    pub fn duplicate(&mut self, path: &Path, value: &str) {
        self.push(path, Reason::Duplicate, Some(value.shown()), "");
    }
    /// Nothing has the name that the field refers to.
    pub fn not_found(&mut self, path: &Path, value: &str) {
        self.push(path, Reason::NotFound, Some(value.shown()), "");
    }
    /// The value is none of those that are known.
    pub fn unsupported(&mut self, path: &Path, value: &str, supported: &[&str]) {
        let supported: Vec<String> = supported.iter().map(|value| value.shown()).collect();
        let detail = format!("supported values: {}", supported.join(", "));
        self.push(path, Reason::Unsupported, Some(value.shown()), detail);
    }
    /// The text has more than `limit` bytes.
    pub fn too_long(&mut self, path: &Path, limit: usize) {
        self.push(path, Reason::TooLong, None, format!("may not be more than {limit} bytes"));
    }
    /// The list has `count` items, which is more than `limit`.
    pub fn too_many(&mut self, path: &Path, count: usize, limit: usize) {
        self.push(path, Reason::TooMany, Some(count.shown()), format!("must have at most {limit} items"));
    }

    /// A choice of texts: absent is an error of its own.
    pub fn one_of(&mut self, path: &Path, value: Option<&str>, supported: &[&str]) {
        match value.unwrap_or_default() {
            "" => self.required(path, ""),
            value => self.optional_one_of(path, Some(value), supported),
        }
    }
    /// A choice of texts that may be absent.
    pub fn optional_one_of(&mut self, path: &Path, value: Option<&str>, supported: &[&str]) {
        if let Some(value) = value
            && !supported.contains(&value)
        {
            self.unsupported(path, value, supported);
        }
    }
}
