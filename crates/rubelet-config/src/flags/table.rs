//! What a flag is: name, field, status, help and how it sets its place. The rows are in `rows`.
//!
//! Owns look-up by name and the test that each flag sets the field its row names.

use crate::configuration::KubeletConfiguration;
use crate::flags::own::KubeletFlags;
use crate::flags::rows::FLAGS;
use crate::flags::value::FlagValue;

/// What flags write to.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) config: KubeletConfiguration,
    pub(crate) flags: KubeletFlags,
}

/// Whether a flag has a future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// To stay.
    Current,
    /// Works; belongs into the configuration file.
    Deprecated,
    /// Accepted for old command lines; does nothing.
    NoEffect,
}

/// Reads a flag's text into its place; the last argument is true for the flag's first use.
pub(crate) type Setter = fn(&mut Settings, &str, bool) -> Result<(), String>;

/// One flag.
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    /// The configuration field it sets, in JSON names.
    pub(crate) field: Option<&'static str>,
    pub(crate) status: Status,
    /// What help calls the value; empty when the flag can stand alone.
    pub(crate) value_name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) set: Setter,
    /// The text that is in its place now.
    pub(crate) get: fn(&Settings) -> String,
}

impl Flag {
    /// Whether the text may hold a secret, so that no message repeats it.
    pub(crate) fn is_secret(&self) -> bool {
        matches!(self.name, "manifest-url-header" | "storage-driver-password")
    }

    /// Whether the flag without a value means `true`.
    pub(crate) fn stands_alone(&self) -> bool {
        self.value_name.is_empty() || self.name == "version"
    }

    /// Its value in force, as the command line would have it; secrets are not told.
    pub(crate) fn value(&self, settings: &Settings) -> String {
        let value = (self.get)(settings);
        match self.is_secret() && !value.is_empty() {
            true => "CLASSIFIED".to_owned(),
            // Thresholds are the one kind of pairs with another sign between them.
            false if self.value_name.starts_with("signal<") => value.replace('=', "<"),
            false => value,
        }
    }

    /// The flag with this name; underscores are dashes already.
    pub(crate) fn named(name: &str) -> Option<&'static Flag> {
        FLAGS.iter().find(|flag| flag.name == name)
    }
}

/// The name of a place's value in help.
pub(crate) const fn value_name<T: FlagValue>(_: fn(&mut Settings) -> &mut T) -> &'static str {
    T::NAME
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Field;
    use crate::flags::rows::REMOVED;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_fields_exist() {
        let names: BTreeSet<&str> = FLAGS.iter().map(|flag| flag.name).collect();
        assert_eq!(names.len(), FLAGS.len());
        for (removed, _) in REMOVED {
            assert!(!names.contains(removed), "{removed}");
        }
        for flag in FLAGS {
            assert!(!flag.name.contains('_'), "{}", flag.name);
            if let Some(field) = flag.field {
                let top = field.split('.').next().unwrap_or(field);
                assert!(KubeletConfiguration::FIELDS.contains(&top), "{field}");
            }
        }
    }

    /// Sets each configuration flag to a value that differs from the default and checks that
    /// exactly the field named in the table changes.
    #[test]
    fn each_flag_sets_the_field_it_names() {
        for flag in FLAGS {
            let Some(field) = flag.field else { continue };
            let fresh =
                || Settings { config: KubeletConfiguration::default(), flags: KubeletFlags::default() };
            let before = fresh().config.to_json();
            let texts = [
                "true",
                "false",
                "77",
                "7h",
                "7.7.7.7",
                "a=7",
                "a<7",
                "a=true",
                "a:b",
                "a=b:c",
                "0:memory=7",
                "other",
            ];
            let changed: BTreeSet<String> = texts
                .iter()
                .flat_map(|text| {
                    let mut settings = fresh();
                    let _ = (flag.set)(&mut settings, text, true);
                    difference("", &before, &settings.config.to_json())
                })
                .collect();
            assert!(!changed.is_empty(), "--{} sets nothing", flag.name);
            for path in changed {
                assert!(path.starts_with(field), "--{} sets {path}, not {field}", flag.name);
            }
        }
    }

    fn difference(path: &str, a: &serde_json::Value, b: &serde_json::Value) -> Vec<String> {
        match (a, b) {
            (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
                let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
                keys.into_iter()
                    .flat_map(|key| {
                        let dot = if path.is_empty() { "" } else { "." };
                        let null = serde_json::Value::Null;
                        difference(
                            &format!("{path}{dot}{key}"),
                            a.get(key).unwrap_or(&null),
                            b.get(key).unwrap_or(&null),
                        )
                    })
                    .collect()
            }
            _ if a == b => Vec::new(),
            _ => vec![path.to_owned()],
        }
    }
}
