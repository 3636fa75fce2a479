//! What the node and its pods use: the values that were read, and every document that is made of them.
//!
//! `usage` holds what was read at one moment, whoever read it. Reading is `rubelet-linux`'s and the runtime's; putting
//! it together is the shell's; what clients get to see is computed here.

pub mod cadvisor;
pub mod exposition;
pub mod rates;
pub mod resource;
pub mod summary;
mod told;
pub mod usage;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
