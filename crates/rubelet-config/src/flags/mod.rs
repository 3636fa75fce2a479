//! The command line: every upstream kubelet flag, what it sets, and pflag's way of reading.
//!
//! `own` is the struct of flags that are no configuration fields, `table` maps names to fields,
//! `value` reads texts, `parse` reads the argument list, `help` prints. Called by `load` only.

mod help;
mod own;
mod parse;
mod table;
mod value;

pub(crate) use help::{deprecation_notice, help_text};
pub use own::KubeletFlags;
pub(crate) use parse::{Given, parse};
pub(crate) use table::{Settings, Status};
