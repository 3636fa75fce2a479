//! What is wrong with a configuration, and where: the place in a file, the flag, the field.
//!
//! Owns the wording's frame (place, field, value, what is allowed). Every stage (reading,
//! decoding, validating) returns [`Problem`]s and goes on, so that a user sees all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A place in a configuration file; lines and columns count from 1.
    File {
        /// The file as it was named on the command line or found in the drop-in directory.
        file: Arc<str>,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// A command-line flag, without the leading dashes.
    Flag(String),
    /// An argument that is no flag.
    CommandLine,
    /// Set by nobody: the built-in default.
    Default,
    /// Not known, or not one place.
    Nowhere,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Flag(flag) => write!(f, "flag --{flag}"),
            Self::CommandLine => f.write_str("command line"),
            Self::Default => f.write_str("default"),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

/// One thing that is wrong, or worth a warning.
///
/// Prints as `place: field: value: message`, leaving out what is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the value was set.
    pub origin: Origin,
    /// The field in JSON names, such as `authentication.webhook.cacheTTL`, or empty.
    pub field: String,
    /// The offending value as the user wrote it, when there is one.
    pub value: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    /// A problem with a field whose origin is filled in later (see [`Origins::locate`]).
    pub(crate) fn field(
        field: impl Into<String>,
        value: impl fmt::Display,
        message: impl Into<String>,
    ) -> Self {
        Self {
            origin: Origin::Nowhere,
            field: field.into(),
            value: Some(quote(&value.to_string())),
            message: message.into(),
        }
    }

    /// A problem without a value to show.
    pub(crate) fn plain(origin: Origin, field: &str, message: impl Into<String>) -> Self {
        Self { origin, field: field.to_owned(), value: None, message: message.into() }
    }
}

/// Numbers and booleans as they are, everything else in quotes; long values are cut.
fn quote(value: &str) -> String {
    if value.parse::<f64>().is_ok() || value == "true" || value == "false" {
        return value.to_owned();
    }
    if value.chars().count() > 80 {
        let cut: String = value.chars().take(80).collect();
        return format!("{cut:?}...");
    }
    format!("{value:?}")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin)?;
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        if let Some(value) = &self.value {
            write!(f, ": {value}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Where each field that a user set came from; fields nobody set are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Records that `field` was set at `origin`; what an earlier source set inside it is kept.
    pub(crate) fn set(&mut self, field: &str, origin: Origin) {
        self.0.insert(field.to_owned(), origin);
    }

    /// Forgets `field` and everything inside it, as a later source removed it.
    pub(crate) fn unset(&mut self, field: &str) {
        self.0.retain(|key, _| !is_inside(key, field));
    }

    /// Whether a user set the field or something inside it.
    #[must_use]
    pub fn is_set(&self, field: &str) -> bool {
        self.0.keys().any(|key| is_inside(key, field))
    }

    /// The origin of the field, or of the nearest field around it, or `Nowhere`.
    #[must_use]
    pub fn of(&self, field: &str) -> Origin {
        let mut path = field;
        loop {
            if let Some(origin) = self.0.get(path) {
                return origin.clone();
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return Origin::Nowhere,
            }
        }
    }

    /// The origin of the field, or of the first thing set inside it.
    pub(crate) fn of_anything_in(&self, field: &str) -> Origin {
        let inside = self.0.iter().find(|(key, _)| is_inside(key, field));
        inside.map_or(Origin::Nowhere, |(_, origin)| origin.clone())
    }

    /// The top-level fields that were set, in order, each once.
    #[must_use]
    pub fn top_level(&self) -> Vec<&str> {
        let mut fields: Vec<&str> =
            self.0.keys().map(|key| key.split(['.', '[']).next().unwrap_or(key)).collect();
        fields.dedup();
        fields
    }

    /// Fills in the origin of problems that name only a field.
    pub(crate) fn locate(&self, mut problem: Problem) -> Problem {
        if problem.origin == Origin::Nowhere && !problem.field.is_empty() {
            problem.origin = match self.of(&problem.field) {
                Origin::Nowhere => Origin::Default,
                origin => origin,
            };
        }
        problem
    }
}

/// Whether `key` is `field` or lies inside it.
fn is_inside(key: &str, field: &str) -> bool {
    key.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize) -> Origin {
        Origin::File { file: "k.yaml".into(), line, column: 1 }
    }

    #[test]
    fn the_nearest_origin_counts() {
        let mut origins = Origins::default();
        origins.set("evictionHard", at(1));
        origins.set("evictionHard[memory.available]", at(2));
        origins.set("port", Origin::Flag("port".into()));
        assert_eq!(origins.of("evictionHard[memory.available]"), at(2));
        assert_eq!(origins.of("evictionHard[nodefs.available]"), at(1));
        assert_eq!(origins.of("ports"), Origin::Nowhere);
        assert_eq!(origins.top_level(), ["evictionHard", "port"]);
        origins.unset("evictionHard");
        assert!(!origins.is_set("evictionHard"));
        assert!(origins.is_set("port"));
    }

    #[test]
    fn prints_place_field_value_and_advice() {
        let mut problem = Problem::field("port", 70000, "must be between 1 and 65535");
        assert_eq!(problem.to_string(), "configuration: port: 70000: must be between 1 and 65535");
        problem.origin = at(7);
        assert_eq!(problem.to_string(), "k.yaml:7:1: port: 70000: must be between 1 and 65535");
    }
}
