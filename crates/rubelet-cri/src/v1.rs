//! Wire types, clients and servers of CRI v1, generated from `proto/cri.proto` by `build.rs`.
//! Never edited by hand; used by every caller of [`crate::RuntimeService`] and by the scripted runtime of the tests.

// The code is generated: names, shapes and missing documentation are the protocol's and the generator's.
#![allow(
    missing_docs,
    unreachable_pub,
    deprecated,
    rustdoc::all,
    clippy::all,
    clippy::unwrap_used,
    clippy::panic,
    rust_2018_idioms
)]

tonic::include_proto!("runtime.v1");
