//! What a pod can mount, each kind with its own file.

pub mod atomic;
