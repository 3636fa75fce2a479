//! The command line: every upstream kubelet flag, what it sets, and pflag's way of reading.
//!
//! `own` is the struct of flags that are no configuration fields, `rows` maps names to fields, `table` says what a row is,
//! `value` reads texts, `parse` reads the argument list, `help` prints. Called by `load` only.

mod help;
mod own;
mod parse;
mod rows;
mod table;
mod value;

use crate::configuration::KubeletConfiguration;

pub(crate) use help::{deprecation_notice, help_text};
pub use own::KubeletFlags;
pub(crate) use parse::{Given, parse};
pub(crate) use table::Settings;
pub(crate) use value::parse_bool;

/// Every flag and the value in force, by name: of a configuration field what files and flags have made of it. Secrets
/// are not told.
#[must_use]
pub fn flags_in_force(config: &KubeletConfiguration, flags: &KubeletFlags) -> Vec<(String, String)> {
    let settings = Settings { config: config.clone(), flags: flags.clone() };
    let mut told: Vec<(String, String)> =
        rows::FLAGS.iter().map(|flag| (flag.name.to_owned(), flag.value(&settings))).collect();
    told.sort();
    told
}

/// The names of all flags that are read.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    rows::FLAGS.iter().map(|flag| flag.name)
}

/// Whether no flag has, or had, this name.
pub(crate) fn is_unknown(name: &str) -> bool {
    table::Flag::named(name).is_none() && !rows::REMOVED.iter().any(|(removed, _)| *removed == name)
}

/// Whether a flag of this name is accepted.
#[cfg(test)]
pub(crate) fn exists(name: &str) -> bool {
    table::Flag::named(name).is_some()
}
