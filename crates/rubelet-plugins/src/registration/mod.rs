//! Registration v1: how a plugin makes itself known. [`v1`] is the protocol.

pub mod v1;
