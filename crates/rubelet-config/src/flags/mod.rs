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

pub(crate) use help::{deprecation_notice, help_text};
pub use own::KubeletFlags;
pub(crate) use parse::{Given, parse};
pub(crate) use table::Settings;
pub(crate) use value::parse_bool;

/// Whether a flag of this name is accepted.
#[cfg(test)]
pub(crate) fn exists(name: &str) -> bool {
    table::Flag::named(name).is_some()
}
