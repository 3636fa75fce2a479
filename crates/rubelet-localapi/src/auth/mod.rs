//! Who asks, and who may: client certificates and tokens, and the few rules of a node of its own.

pub mod authority;
pub mod authorize;
pub mod claims;
pub mod peer;
pub mod tokens;
