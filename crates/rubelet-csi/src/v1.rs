//! Wire types, clients and servers of CSI 1.x, generated from `proto/csi.proto` by `build.rs`.
//! Never edited by hand; used by [`crate::CsiClient`] and by the scripted driver of the tests.

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

tonic::include_proto!("csi.v1");
